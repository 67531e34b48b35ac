"""Memory of an outer step: flat in the tasks, and the backbone is never there once per task."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments.large import adapt_large_memory as memory
from metajax import tree
from metajax.adapters.lora import lora
from metajax.learners.gradient.maml import gradient
from metajax.results import records
from metajax.settings import Output
from metajax.types import Episode, Examples, MetaLearner, Model

WIDTH = 128


def in_backbones(learner: MetaLearner, one: Episode, backbone: int, *size: int) -> float:
    """Planned bytes of an outer step over those of the backbone."""
    options = {"xla_backend_optimization_level": 0}
    return memory.planned(memory.compiled(learner, one, *size, **options)) / backbone


def stack() -> Model:
    """Three square layers, and the mean of what comes out."""

    def init(key, profile, inputs):
        keys = jax.random.split(key, 3)
        draw = lambda key: {"kernel": jax.random.normal(key, (WIDTH, WIDTH)) / WIDTH**0.5}
        return {f"layer_{i}": draw(key) for i, key in enumerate(keys)}

    def apply(params, profile, inputs):
        for layer in params.values():
            inputs = jnp.tanh(inputs @ layer["kernel"])
        return jnp.mean(inputs, axis=1)

    return Model(init, apply)


def assert_flat(adapting: MetaLearner, whole: MetaLearner, one: Episode, backbone: int) -> None:
    """Tasks in chunks cost nothing, and a chunk no backbone a task; the control must show both."""
    few, many = (in_backbones(adapting, one, backbone, n, 4) for n in (8, 64))
    assert many < 1.05 * few, (few, many)
    assert many < 2.5, "the gradient itself is one backbone"
    control = in_backbones(whole, one, backbone, 8, 4)
    assert control > 8.0, control


def test_memory_does_not_grow_with_tasks_times_backbone():
    rows = Examples(jnp.zeros((2, WIDTH)), jnp.zeros(2), jnp.ones(2))
    make = functools.partial(gradient, inner=optax.sgd(0.1), num_steps=1)
    adapting = make(lora(stack(), 2), adapts=tree.under("adapter"))
    assert_flat(adapting, make(stack()), Episode((), rows, rows), 4 * 3 * WIDTH**2)


@pytest.mark.slow
def test_memory_of_a_recommender_does_not_grow_with_tasks_times_backbone():
    config = memory.Config(num_layers=2, width=WIDTH, num_items=20, rows=1)
    made, backbone = memory.learners(config), memory.sizes(config)["backbone"]
    assert_flat(made[memory.LORA], made[memory.WHOLE], memory.episode(config), backbone)


def test_what_is_stored_of_a_person_by_pencil():
    config = memory.Config()
    # Rank 2 on two kernels of 512 x 512 in 12 layers; four vectors of 512; 32 numbers.
    sizes = memory.sizes(config)
    assert sizes[memory.LORA] == 4 * 12 * 2 * 2 * (512 + 512)
    assert sizes[memory.PROMPT] == 4 * 4 * 512 and sizes[memory.CONTEXT] == 4 * 32
    # Attention 4 x 512^2, MLP 3 x 512 x 2048, two norms a layer; the last norm, the start, items.
    assert sizes["backbone"] == 4 * (12 * (16 * 512**2 + 2 * 512) + 2 * 512 + 1000 * 512)
    assert sizes[memory.CONTEXT] < sizes[memory.PROMPT] < 10_000


@pytest.mark.slow
def test_the_whole_table_at_a_small_size(tmp_path, capsys):
    config = memory.Config(
        num_layers=1,
        width=16,
        num_items=20,
        few=4,
        many=8,
        chunk=2,
        rows=1,
        output=Output(tmp_path),
    )
    memory.main(config)
    shown = capsys.readouterr().out
    memory.show(records.stored("adapt_large_memory", tmp_path))
    table = lambda text: text[text.index("One outer step") :]
    assert table(capsys.readouterr().out) == table(shown)
    assert jax.tree.leaves(memory.batch(memory.episode(config), 3))[0].shape == (3, 1, 8)
