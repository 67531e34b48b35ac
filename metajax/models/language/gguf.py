"""Conversion of GGUF files of the Llama architecture to the folder that `decoder.load` reads.

llama.cpp keeps a model in one file: weights, mostly in four to eight bits, its configuration and
its tokenizer. `convert` writes them as config.json, safetensors in shards and tokenizer.json. What
it does not understand, it refuses: wrong rotary positions still write fluent English.

Run: python -m metajax.models.language.gguf FILE FOLDER

References: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (the format); llama.cpp, the
function ``permute`` of convert_hf_to_gguf.py (the order of query and key rows).
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np
import tyro

from metajax.models.language.checkpoints import INSTALL
from metajax.types import UserError

DType = Literal["float32", "float16", "bfloat16"]
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SHARD = 256 * 2**20  # bytes: what is kept in memory before it is written
PLACES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)  # token types of the format


def convert(
    file: pathlib.Path | str, folder: pathlib.Path | str, dtype: DType = "float32"
) -> pathlib.Path:
    """The folder that was written, whole or not at all.

    Args:
      file: GGUF, of the Llama architecture with a byte-level BPE tokenizer.
      folder: a new one.
      dtype: of the weights on disk; float32 keeps each exactly as it was dequantized.

    Raises:
      UserError: no such file, not GGUF or cut; an architecture, rotary positions, a tokenizer or a
        quantization that is not understood; the folder is there already; the disk is too small.
    """
    file, folder = pathlib.Path(file), pathlib.Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists; give a new folder, or remove it first")
    reader = _opened(file)
    config = _config(file, reader)
    names = {_renamed(file, tensor.name): tensor for tensor in reader.tensors}
    tokenizer = _tokenizer(file, reader)
    size = sum(int(t.n_elements) for t in reader.tensors) * np.dtype(DTYPES[dtype]).itemsize
    folder.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder.parent).free < size + 2**27:
        raise UserError(f"{folder.parent} has less than the {size / 1e9:.1f} GB needed; make room")
    made = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        _write_tensors(made, _tensors(file, names, config, DTYPES[dtype]))
        config["torch_dtype"] = dtype
        (made / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        tokenizer.save(str(made / "tokenizer.json"))
        made.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():  # else another process was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _opened(file: pathlib.Path) -> Any:
    """The reader of a file, its tensors mapped into memory."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(f"GGUF files need the package gguf: {INSTALL}") from error
    if not file.is_file():
        raise UserError(f"no file {file}; give a GGUF file")
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise UserError(f"{file} is no GGUF file; get a complete copy")
    try:
        return gguf.GGUFReader(file)  # pyright: ignore[reportAttributeAccessIssue]
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        told = " ".join(str(error).split())
        if "is not a valid GGMLQuantizationType" in told:
            raise UserError(f"{file} has a quantization that gguf cannot read ({told})") from error
        raise UserError(f"{file} is cut or damaged ({told}); get a complete copy") from error


def _field(reader: Any, name: str, other: Any = None) -> Any:
    found = reader.get_field(name)
    return other if found is None else found.contents()


def _config(file: pathlib.Path, reader: Any) -> dict[str, Any]:
    """What ``config.json`` says; refuses what `decoder` would compute wrongly."""
    family = _field(reader, "general.architecture")
    if family != "llama":
        raise UserError(f"{file} holds the architecture {family!r}; only 'llama' is understood")
    scaled = [
        name
        for name in reader.fields
        if name.startswith("llama.rope.scal") and _field(reader, name) not in ("none", 1.0)
    ]
    if scaled or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        told = scaled[0] if scaled else "rope_freqs.weight"
        raise UserError(f"{file} scales its rotary positions ({told}), which is not understood")

    def get(name: str, other: Any = None) -> Any:
        value = _field(reader, f"llama.{name}", other)
        if value is None:
            raise UserError(f"{file} does not say llama.{name}; get a complete copy")
        return value

    width, heads = get("embedding_length"), get("attention.head_count")
    turned = get("rope.dimension_count", width // heads)
    dim = get("attention.key_length", turned)
    if turned != dim:
        raise UserError(f"{file} turns {turned} of {dim} numbers of a head, which is not supported")
    shape_of = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    if "token_embd.weight" not in shape_of:
        raise UserError(f"{file} has no tensor token_embd.weight; get a complete copy")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": int(shape_of["token_embd.weight"][1]),
        "hidden_size": width,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": dim,
        "rms_norm_eps": _shortest(get("attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(get("rope.freq_base", 10_000.0)),
        "max_position_embeddings": get("context_length"),
        "tie_word_embeddings": "output.weight" not in shape_of,
    }


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: GGUF stores 1e-5 as 9.9999997e-06."""
    return float(str(np.float32(value)))


def _renamed(file: pathlib.Path, name: str) -> str:
    stem, _, end = name.rpartition(".")
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if end == "weight" and stem in PLACES:
        return f"{PLACES[stem]}.weight"
    if end == "weight" and layer and layer[2] in OF_LAYER:
        return f"model.layers.{layer[1]}.{OF_LAYER[layer[2]]}.weight"
    raise UserError(f"{file}: tensor {name} is not understood; another kind of model?")


def unpermuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Query or key rows (heads * dim, D) as halves of a head, from llama.cpp's order, as pairs."""
    half = weight.shape[0] // num_heads // 2
    return weight.reshape(num_heads, half, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _tensors(
    file: pathlib.Path, names: Mapping[str, Any], config: Mapping[str, Any], dtype: Any
) -> Iterator[tuple[str, np.ndarray]]:
    """Name in the folder and weights, one tensor at a time."""
    from gguf import quants  # pyright: ignore[reportAttributeAccessIssue]

    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }
    for name, tensor in names.items():
        try:
            weight = quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise UserError(
                f"{file} has the quantization {kind}, which gguf cannot read"
            ) from error
        weight = np.asarray(weight, np.float32).reshape(tensor.shape.tolist()[::-1])
        of = heads.get(name.split(".")[-2])
        yield name, (weight if of is None else unpermuted(weight, of)).astype(dtype)


def _write_tensors(folder: pathlib.Path, tensors: Iterator[tuple[str, np.ndarray]]) -> None:
    """Writes shards and their index."""
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise UserError(f"checkpoints need the package safetensors: {INSTALL}") from error
    places: dict[str, str] = {}
    held: dict[str, np.ndarray] = {}
    total, shards = 0, 0

    def flush() -> None:
        nonlocal shards
        shards += 1
        shard = f"model-{shards:05d}.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in held.items()}, folder / shard)
        places.update(dict.fromkeys(held, shard))
        held.clear()

    for name, weight in tensors:
        held[name] = weight
        total += weight.nbytes
        if sum(w.nbytes for w in held.values()) > SHARD:
            flush()
    if held:
        flush()
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def _tokenizer(file: pathlib.Path, reader: Any) -> Any:
    """The tokenizer: byte-level BPE, which splits texts first as the model's pre-tokenizer does."""
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise UserError(f"a tokenizer needs the package tokenizers: {INSTALL}") from error
    kind, before = (_field(reader, f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind is None:
        raise UserError(f"{file} holds no tokenizer; get a GGUF file that does")
    digits = pre_tokenizers.Digits(individual_digits=True)
    by_words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known = {"smollm": pre_tokenizers.Sequence([digits, by_words]), "gpt-2": by_words}
    if kind != "gpt2" or before not in known:
        raise UserError(
            f"{file} has the tokenizer {kind!r} with the pre-tokenizer {before!r}; understood are "
            f"'gpt2' with {', '.join(known)}: convert from a Hugging Face folder instead"
        )
    tokens, kinds = (_field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    merges = [tuple(m.split(" ", 1)) for m in _field(reader, "tokenizer.ggml.merges", [])]
    if len(set(tokens)) < len(tokens):
        raise UserError(f"{file} names two tokens alike; get another copy")
    found = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    found.pre_tokenizer, found.decoder = known[before], decoders.ByteLevel()
    kinds = kinds or [NORMAL] * len(tokens)
    of_kind = lambda wanted: [t for t, k in zip(tokens, kinds, strict=True) if k == wanted]
    found.add_special_tokens([AddedToken(t, special=True) for t in of_kind(CONTROL)])
    found.add_tokens([AddedToken(t, normalized=False) for t in of_kind(USER)])
    return found


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the command."""

    file: tyro.conf.Positional[pathlib.Path]
    """GGUF file, of the Llama architecture."""
    folder: tyro.conf.Positional[pathlib.Path]
    """New folder: config.json, safetensors, tokenizer.json."""
    dtype: DType = "float32"
    """Of the weights on disk: float32 is exact, the others take half the room."""


def main() -> None:
    """Converts, and says how large the result is; what the user can mend is one line."""
    config = tyro.cli(Config, description=(__doc__ or "").split("\n")[0])
    began = time.perf_counter()
    try:
        folder = convert(config.file, config.folder, config.dtype)
    except UserError as error:
        sys.exit(f"error: {error}")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.0f} MB, {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
