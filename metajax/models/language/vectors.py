"""Vectors of texts, such as titles: by a sentence encoder, or by a language model of any size.

A language model's vector is the hidden one of the last token of "TITLE is a movie about", two
thirds of the way up: there it has read the title and is about to say what it knows of it.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models import transformer
from metajax.models.language import bert, checkpoints, constrained, pretrained
from metajax.models.language.constrained import Packed
from metajax.models.language.pretrained import Pretrained
from metajax.types import Params

TEMPLATE = "{} is a movie about"
AT_ONCE = 32
SIZE = 256  # texts in one row are padded to multiples of it: few programs are compiled


def embed(texts: Sequence[str], model: pathlib.Path | str | None = None) -> np.ndarray:
    """The vectors (N, D) float32 of N texts, each of norm 1.

    Args:
      model: None for the packaged MiniLM; a folder of a BERT encoder; or a language model, as
        `pretrained.load` takes it.

    Raises:
      UserError: a package, a file or a tensor is missing, or the model is of another kind.
    """
    folder = None if model is None else pathlib.Path(model)
    if folder is None or (folder.is_dir() and _is_encoder(folder)):
        return bert.embed(texts, folder)
    return last_token(pretrained.load(folder), [TEMPLATE.format(text) for text in texts])


def _is_encoder(folder: pathlib.Path) -> bool:
    return checkpoints.read_config(folder).get("model_type") == "bert"


def last_token(model: Pretrained, texts: Sequence[str], layers: int | None = None) -> np.ndarray:
    """The hidden vector (N, D) of the last token of each text, in float32, of norm 1.

    Args:
      layers: how many are run, without the norm behind them; None for two thirds.
    """
    return last_token_reader(model, layers)(texts)


def last_token_reader(
    model: Pretrained, layers: int | None = None
) -> Callable[[Sequence[str]], np.ndarray]:
    """`last_token` of a model as a function of texts, which is compiled once for all its calls."""
    whole = model.decoder.shape
    used = layers or max(1, 2 * whole.num_layers // 3)
    shape = dataclasses.replace(whole, num_layers=used)

    @jax.jit
    def run(params: Params, rows: Packed) -> jax.Array:
        blocks = jax.tree.map(lambda x: x[:used], params["blocks"])
        part = {"blocks": blocks, "norm": {"scale": jnp.ones(shape.width)}}
        x = params["tokens"][rows.tokens]
        nothing = transformer.empty_cache(shape, 1, x.dtype)
        hidden = transformer.continue_in_one_row(shape, part, x, rows.place, rows.row, nothing)
        return hidden[rows.last].astype(jnp.float32)

    def read(texts: Sequence[str]) -> np.ndarray:
        ids = [model.encode(text) for text in texts]
        order = np.argsort([len(row) for row in ids], kind="stable")
        out = np.zeros((len(ids), shape.width), np.float32)
        for at in range(0, len(ids), AT_ONCE):
            chosen = order[at : at + AT_ONCE]
            rows = [ids[i] for i in chosen] + [[0]] * (AT_ONCE - len(chosen))
            packed = constrained.packed(rows, SIZE)
            out[chosen] = np.asarray(run(model.params, packed))[: len(chosen)]
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)

    return read


def cached(
    texts: Sequence[str], model: pathlib.Path | str | None, path: pathlib.Path
) -> np.ndarray:
    """The vectors (N, D) of `embed`, kept in a file; recomputed for another text or model."""
    told = "\n".join([str(model), *texts])
    digest = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
    if path.is_file():
        with np.load(path) as stored:
            if str(stored["digest"]) == digest:
                return stored["vectors"]
    found = embed(texts, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, vectors=found, digest=digest)
    return found
