"""Language models from a folder: logits of another implementation, caches, refused folders."""

import json
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import tree
from metajax.adapters.conditions import soft_prompt
from metajax.adapters.lora import lora
from metajax.models.language import checkpoints, decoder
from metajax.types import UserError

FOLDER = pathlib.Path(__file__).with_name("checkpoints")
FAMILIES = ("llama3", "qwen2", "qwen3")


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request):
    made, params = decoder.load(FOLDER / request.param)
    with np.load(FOLDER / request.param / "expected.npz") as expected:
        return made, params, dict(expected)


def test_logits_are_those_of_transformers(loaded):
    made, params, expected = loaded
    tokens = expected["tokens"]
    found = jax.jit(jax.vmap(lambda row: decoder.logits(made, params, row)))(tokens)
    assert np.abs(expected["logits"]).max() > 1.0
    np.testing.assert_allclose(found, expected["logits"], atol=1e-4)


def test_greedy_text_is_that_of_transformers(loaded):
    made, params, expected = loaded
    padded = np.concatenate([expected["tokens"][0], np.full(3, 7)])
    found = jax.jit(lambda row: decoder.greedy(made, params, row, 30, 12))(padded)
    np.testing.assert_array_equal(found, expected["greedy"])


def test_a_cache_filled_in_pieces_gives_the_logits_of_the_whole(loaded):
    made, params, expected = loaded
    tokens = expected["tokens"][0]
    piece = jax.jit(lambda row, cache: decoder.read(made, params, row, cache))
    cache, rows = decoder.start_cache(made, params, 30), []
    for start in range(0, 30, 10):
        out, cache = piece(tokens[start : start + 10], cache)
        rows.append(out)
    np.testing.assert_allclose(np.concatenate(rows), expected["logits"][0], atol=1e-4)


def test_an_older_configuration_says_the_same(tmp_path):
    config = checkpoints.read_config(FOLDER / "llama3")
    rope = config.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    older = {**config, "rope_theta": theta, "rope_scaling": rope}
    assert decoder.from_config(older) == decoder.from_config(
        checkpoints.read_config(FOLDER / "llama3")
    )


@pytest.fixture(scope="module")
def adapted():
    made, params = decoder.load(FOLDER / "qwen2")
    inputs = (np.array([[3, 4, 5, 0], [6, 7, 0, 0]]), np.array([3, 2]))
    return made, params, inputs


@pytest.mark.slow
def test_lora_on_a_language_model_starts_as_it_and_moves_with_b(adapted):
    made, base, inputs = adapted
    model = decoder.next_token(made)
    wrapped = lora(model, 2, tree.matching("attention/(query|value)/kernel"))
    params = {**wrapped.init(jax.random.key(0), (), inputs), "base": base}
    plain = model.apply(base, (), inputs)
    chex.assert_trees_all_close(wrapped.apply(params, (), inputs), plain, atol=1e-6)
    loss = lambda p: wrapped.apply(p, (), inputs)[0, 1]
    grads = jax.jit(jax.grad(loss))(params)
    assert all(jnp.any(g["b"] != 0) for g in grads["adapter"].values())
    assert not any(jnp.any(g != 0) for g in jax.tree.leaves(grads["base"]))


def test_a_cache_begins_with_the_soft_prompt(adapted):
    made, base, (rows, _) = adapted
    wrapped = soft_prompt(decoder.next_token(made), made.shape, 2)
    prompt = 0.5 * np.random.default_rng(1).normal(size=(2, made.shape.width))
    prompt = jax.device_put(prompt.astype(np.float32))
    params = {"base": base, "adapter": {"prompt": prompt}}
    expected = jax.jit(wrapped.apply)(params, (), (rows[:1], np.array([3])))

    @jax.jit
    def read(params, row):
        return decoder.read(made, params, row, decoder.start_cache(made, params, 3))[0]

    found = read({**base, "prompt": prompt}, rows[0, :3])
    np.testing.assert_allclose(np.asarray(found)[-1], np.asarray(expected)[0], atol=2e-5)


def _edited(tmp_path: pathlib.Path, **changes) -> pathlib.Path:
    folder = tmp_path / "model"
    shutil.copytree(FOLDER / "qwen3", folder)
    config = checkpoints.read_config(folder) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
        ({"use_sliding_window": True, "sliding_window": 8}, "sliding-window attention"),
        ({"hidden_act": "relu"}, "activation relu"),
        ({"mlp_bias": True}, "MLP with biases"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn' are not supported"),
        ({"hidden_size": 32}, "has shape .* config.json says"),
        ({"num_hidden_layers": 1}, "is not understood"),
        ({"num_hidden_layers": 3}, "has no tensor model.layers.2"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        decoder.load(_edited(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_partial_or_damaged_folder_gets_one_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoint folder"):
        decoder.load(tmp_path / "none")
    folder = _edited(tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-4])
    with pytest.raises(UserError, match="is cut or no safetensors file"):
        decoder.load(folder)
    shard.write_bytes(b"not a tensor file")
    with pytest.raises(UserError, match="is cut or no safetensors file"):
        decoder.load(folder)
    shard.unlink()
    with pytest.raises(UserError, match=f"has no {shard.name}"):
        decoder.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        decoder.load(folder)
