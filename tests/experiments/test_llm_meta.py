"""The meta-learned language model: what is read once is exact, adapters act where they should."""

import dataclasses
import functools
import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from proper import assert_proper

from experiments.large.llm_meta import frozen, llm_meta, report, ways
from experiments.large.llm_uses import prompts
from metajax.adapters.lora import adapted, lora
from metajax.evaluation import evaluate
from metajax.models import transformer
from metajax.models.language import decoder, pretrained
from metajax.models.language.decoder import Decoder
from metajax.models.language.pretrained import Pretrained
from metajax.models.transformer import Shape
from metajax.results import records
from metajax.settings import Data, Output
from metajax.types import Episode, Examples, UserError

TEXTS = ["Heat", "Jaws", "x"]
WORDS = "me:"


class Letters:
    """A tokenizer of single letters, of yes and of no."""

    def encode(self, text: str, add_special_tokens: bool = False) -> types.SimpleNamespace:
        text = text.replace(": yes", ": \x01").replace(": no", ": \x02")
        return types.SimpleNamespace(ids=[ord(letter) % 128 for letter in text])


@functools.cache
def tiny() -> Pretrained:
    made = Decoder(Shape(3, 8, 2, 1, 12), 128)
    drawn = lambda key: jax.tree.map(lambda x: 6 * x, decoder.init(key, made))
    params = jax.jit(drawn)(jax.random.key(0))
    return Pretrained("tiny", made, params, 4_000, Letters())


@pytest.fixture(scope="module")
def shared():
    """The upper two of three layers, and what they share."""
    return frozen.frozen(tiny(), TEXTS, WORDS, 2, 3)


def normed(shape: Shape, shared: frozen.Frozen, x: jax.Array) -> np.ndarray:
    ones = {"scale": np.ones(shape.width, np.float32)}
    norm = jax.jit(transformer.rms_norm, static_argnums=2)(ones, x, shape.norm_eps)
    return (np.asarray(norm) - np.asarray(shared.center)) / np.asarray(shared.spread)


FORWARD = jax.jit(transformer.forward, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def of_items(shape: Shape, shared: frozen.Frozen, params, items) -> jax.Array:
    return frozen.tail(shape, shared).apply(params, (), {"item": items})


def lower(text: str) -> jax.Array:
    """The states (S, D) of a text as they enter the second layer."""
    made, low = tiny(), frozen.parts_of(tiny().decoder.shape, 2, 3)[0]
    tokens = np.asarray(made.encode(text))
    below = {"blocks": jax.tree.map(lambda x: x[:1], made.params["blocks"])}
    return FORWARD(low, below, np.asarray(made.params["tokens"])[tokens])


def test_two_parts_of_a_network_are_the_whole():
    made = tiny()
    shape, high = made.decoder.shape, frozen.parts_of(made.decoder.shape, 2, 3)[1]
    above = {**made.params, "blocks": jax.tree.map(lambda x: x[1:], made.params["blocks"])}
    x = np.asarray(made.params["tokens"])[np.asarray(made.encode("Heat"))]
    whole = FORWARD(shape, made.params, x)
    np.testing.assert_allclose(FORWARD(high, above, lower("Heat")), whole, rtol=1e-4, atol=1e-5)


def test_features_are_those_of_reading_the_whole_text(shared):
    shape, told = shared
    found = of_items(shape, told, {"blocks": told.blocks}, np.array([1, 2, 0]))
    for row, i in zip(found, [1, 2, 0], strict=True):
        whole = FORWARD(shape, {"blocks": told.blocks}, lower(TEXTS[i]))
        np.testing.assert_allclose(row, normed(shape, told, whole[-1]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(told.plain, found[np.array([2, 0, 1])], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(told.plain.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(jnp.mean(jnp.sum(told.plain**2, axis=1)), 1, rtol=1e-4)


def test_the_control_reads_the_titles_of_others(shared):
    shape, told = shared
    others = told._replace(order=jnp.asarray([2, 0, 1]))
    found = of_items(shape, others, {"blocks": told.blocks}, np.array([1, 2, 0]))
    np.testing.assert_allclose(found, told.plain[np.array([0, 1, 2])], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("layers", "item"), [(1, 0), (2, 2)])
def test_a_prompt_is_read_before_the_title(layers, item):
    """In one layer the title cannot tell what stands before it; a text of one word has no title."""
    shape, told = frozen.frozen(tiny(), TEXTS, WORDS, layers, 3)
    delta = jax.random.normal(jax.random.key(2), told.prompt.shape)
    (found,) = of_items(shape, told, {"blocks": told.blocks, "prompt": delta}, np.array([item]))
    states = told.prompt + jnp.sqrt(jnp.mean(told.prompt**2)) * delta
    made, low = tiny(), frozen.parts_of(tiny().decoder.shape, layers, 3)[0]
    below = frozen.cut(made.params, low, shape)[0]
    x = np.asarray(made.params["tokens"])[np.asarray(made.encode(TEXTS[item]))]
    x = jnp.concatenate([states, FORWARD(low, below, x)])
    whole = FORWARD(shape, {"blocks": told.blocks}, x)
    np.testing.assert_allclose(found, normed(shape, told, whole[-1]), rtol=1e-3, atol=1e-4)
    assert np.abs(found - np.asarray(told.plain[item])).max() > 1e-2


def test_low_rank_factors_act_on_the_last_word_alone(shared):
    shape, told = shared
    wrapped = lora(frozen.tail(shape, told), 2, ways.KERNELS)
    params = jax.jit(wrapped.init)(jax.random.key(0), (), {"item": jnp.zeros(1, int)})
    assert set(params["adapter"]) == {
        f"blocks/attention/{name}/kernel" for name in ("query", "output")
    }
    moved = jax.tree.map(lambda x: x + 0.3, params["adapter"])
    blocks = adapted({"blocks": told.blocks}, moved)
    (found,) = of_items(
        shape, told, blocks, np.array([2])
    )  # of one word: the whole text is adapted
    whole = FORWARD(shape, blocks, lower(TEXTS[2]))
    np.testing.assert_allclose(found, normed(shape, told, whole[-1]), rtol=1e-3, atol=1e-4)
    assert np.abs(found - np.asarray(told.plain[2])).max() > 1e-2


def test_what_all_share_is_no_parameter(shared):
    shape, told = shared
    inputs = {"item": jnp.arange(3), "bias": jnp.array([0.5, 0.0, -1.0])}
    numbers = {ways.LAST: 0, ways.PROMPT: 3 * 8, ways.LORA: 2 * 2 * (16 + 16)}
    for kind, own in numbers.items():
        model = ways.of_person(kind, 2, shape, 3.5, told)
        params = jax.eval_shape(lambda m=model: m.init(jax.random.key(0), (), inputs))
        assert sum(x.size for x in jax.tree.leaves(params)) == own + 8 + 1
    model = ways.of_person(ways.LAST, 2, shape, 3.5, told)
    head = {"kernel": jnp.zeros(8), "bias": jnp.ones(())}
    found = model.apply({"features": {}, "head": head}, (), inputs)
    np.testing.assert_allclose(found, [5.0, 4.5, 3.5], rtol=1e-6)


def test_a_planted_taste_is_found_by_its_own_titles_and_not_by_those_of_others(shared):
    shape, told = shared
    plain = jax.random.normal(jax.random.key(5), (60, 8)) / 8**0.5
    taste = jax.random.normal(jax.random.key(6), (40, 8))

    def task(weights: jax.Array, key: jax.Array) -> Episode:
        item = jax.random.permutation(key, 60)[:30]
        label = 3.0 + plain[item] @ weights
        inputs = {"item": item, "bias": jnp.zeros(30)}
        both = Examples(inputs, label, jnp.ones(30))
        part = lambda a, b: jax.tree.map(lambda x: x[a:b], both)
        return Episode((), part(0, 20), part(20, 30))

    tasks = jax.jit(jax.vmap(task))(taste, jax.random.split(jax.random.key(7), 40))
    config = llm_meta.Config(inner_rate=0.5, inner_steps=20)
    make = ways.learner_of(config, ways.LAST, ways.TUNED, shape, 3.0)

    @jax.jit
    def error(order: jax.Array) -> jax.Array:
        learner = make(told._replace(plain=plain, order=order))
        one = lambda x: jax.tree.map(lambda leaf: leaf[0], x)
        params = learner.init(jax.random.key(0), one(tasks))
        scores = evaluate.predictions(learner, params, tasks, jax.random.key(0))
        return jnp.mean((scores - tasks.query.label) ** 2)

    spread = float(jnp.mean((tasks.query.label - 3.0) ** 2))
    assert float(error(jnp.arange(60))) < 0.4 * spread
    assert float(error(jax.random.permutation(jax.random.key(8), 60))) > 0.9 * spread


def test_more_layers_than_there_are_is_one_line():
    with pytest.raises(UserError, match="the model has 3; give a smaller --layers or --top"):
        frozen.parts_of(tiny().decoder.shape, 3, 0)
    low, high = frozen.parts_of(tiny().decoder.shape, 1, 0)
    assert (low.num_layers, high.num_layers) == (1, 1)


@pytest.mark.slow
def test_all_ways_stand_in_one_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pretrained, "load", lambda checkpoint: tiny())
    few = ((ways.LAST, ways.TUNED), (ways.PROMPT, ways.REPTILE), (ways.LORA, ways.SECOND))
    monkeypatch.setattr(llm_meta, "ARMS", few)
    sizes: Any = {"layers": 1, "rank": 1, "num_steps": 4, "num_tasks": 2, "num_support": 4}
    config = llm_meta.Config(
        output=Output(tmp_path / "out"), data=Data("synthetic"), checkpoint=pathlib.Path("tiny"),
        shots=(0, 3), people=6, asked=2, valid_people=2, **sizes,
    )  # fmt: skip
    record = llm_meta.main(config)
    said = capsys.readouterr().out
    for kind, how in few:
        assert report.arm(kind, how) in said
        own = record.of(report.SCENARIO, report.arm(kind, how), "k=3", "mse")
        assert np.isfinite(own).all() and own.shape == (1, 6)
    assert_proper(record, "k=3")
    assert np.isfinite(record.of(report.SCENARIO, prompts.RATING, "k=3", "crps")).sum() == 2
    asked = record.of(report.SCENARIO, prompts.RATING, "k=3", "ndcg@5")
    assert np.isnan(asked).sum() == 4
    assert "shuffled labels" in said and (tmp_path / "out" / "curves-LoRA.png").is_file()
    again = records.read(next((tmp_path / "out").glob("*.record")))
    assert again.extra["prompt"] == record.extra["prompt"]
    lora = report.arm(ways.LORA, ways.SECOND)
    far = lambda key: 9.0 * (key.arm == lora and key.metric == "mse")
    broken = dataclasses.replace(record, scores={k: v + far(k) for k, v in record.scores.items()})
    report.show(record, tmp_path)
    assert f"{lora} - " in (fine := capsys.readouterr().out) and f"{lora}: diverged" not in fine
    report.show(broken, tmp_path)
    told = capsys.readouterr().out
    assert f"{lora}: diverged" in told and f"{lora} - A" not in told
