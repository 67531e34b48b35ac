"""Trainings on one device and on two of a processor; a program that `test_shard` starts.

Each is fitted twice in one process that has two devices. The last line is JSON: for each training,
the numbers of both outcomes.
"""

import json
import pathlib
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.data.worlds.latent import LatentUsers
from metajax.learners import in_context
from metajax.learners.gradient.maml import gradient
from metajax.models import sequence
from metajax.models.towers import vector_mlp
from metajax.optim.touched_rows import Tabled, row_gradient
from metajax.training import arguments, devices, loop
from metajax.training.outer_gradient import outer_gradient
from metajax.training.updates import touched_rows
from metajax.types import Episode, Examples, UserError


def keys(num_seeds: int) -> jax.Array:
    """One key per seed."""
    return jax.random.split(jax.random.key(0), num_seeds)


def meta_learning(count: int, folder: pathlib.Path | None = None, steps: int = 7, tasks: int = 8):
    """MAML of two seeds with chunks, validation, checkpoints and a last block that is shorter."""
    learner = gradient(vector_mlp((4,)), optax.sgd(0.1), 1)
    world = LatentUsers(dim=3, num_support=4, num_query=4)
    held_out = jax.vmap(world.sample)(jax.random.split(jax.random.key(9), 4))

    def validate(params):
        run = jax.vmap(learner.loss, (None, 0, 0))
        return jnp.mean(run(params, held_out, jax.random.split(jax.random.key(8), 4))[0])

    recipe = loop.recipe(learner, optax.adam(0.01), outer_gradient(learner, 2))
    return loop.fit(
        devices.on_devices(count, recipe),
        loop.world_sampler(world, tasks),
        (),
        keys(2),
        steps,
        block=3,
        validate=validate,
        checkpoint=folder,
    )


def sequences(count: int):
    """A sequence recommender, whose loss is one mean over all items of a batch of people."""
    settings = sequence.Settings(20, sequence.small(8, 1, 1), dropout=0.1)
    learner = in_context.in_batches(in_context.sequence_learner(settings, 6), settings)

    def sample(data, key):
        items = jax.random.randint(key, (1, 4, 8), 0, 20)
        mask = (jnp.arange(8)[None] < jnp.array([8, 5, 6, 7])[:, None])[None] * 1.0
        part = lambda a, b: Examples(items[..., a:b], mask[..., a:b], mask[..., a:b])
        return Episode((), part(0, 6), part(6, 8))

    recipe = loop.recipe(learner, optax.adam(0.01))
    recipe = devices.on_devices(count, recipe, devices.split_second_axis)
    return loop.fit(recipe, sample, (), keys(1), 5)


def tables(count: int):
    """A table of which each step touches a few rows, beside a weight."""

    def loss(rows, place, weight, batch, key):
        x, y = rows["item"][place["item"]], batch[1]
        return jnp.mean((x @ weight + x[..., 0] - y) ** 2), {}

    def sample(data, key):
        index = jax.random.randint(key, (4, 3), 0, 50)
        return index, jnp.sin(index * 1.0)

    init = lambda key, batch: Tabled({"item": jnp.ones((50, 2))}, jnp.ones(2))
    gradient_fn = row_gradient(loss, lambda batch: {"item": batch[0]})
    update = touched_rows(optax.scale_by_adam(), lambda count, rate: rate, 0.05)
    recipe = loop.Recipe(init, gradient_fn, update)
    recipe = devices.on_devices(count, recipe, devices.split_by_compiler)
    return loop.fit(recipe, sample, (), keys(2), 5, block=2)


def carried(count: int):
    """MAML of two seeds whose outer rate is an argument of the program, as in a search."""
    learner = gradient(vector_mlp((4,)), optax.sgd(0.1), 1)
    make = lambda given: devices.on_devices(count, loop.recipe(learner, optax.adam(given["rate"])))
    sample = loop.world_sampler(LatentUsers(dim=3, num_support=4, num_query=4), 8)
    data = {"rate": jnp.float32(0.01)}, ()
    return loop.fit(arguments.recipe(make), arguments.sampler(sample), data, keys(2), 5, block=2)


def refusal(work: Callable[[], object]) -> str:
    """What the user is told."""
    try:
        work()
    except UserError as error:
        return str(error)
    return ""


def numbers(fitted: loop.Fitted) -> list:
    """Everything that a training ends with, as lists."""
    ends = (fitted.params, fitted.history, fitted.best_step, fitted.state.params)
    return [np.asarray(x, float).ravel().tolist() for x in jax.tree.leaves(ends)]


def main(folder: str) -> None:
    devices.make_available(2)
    each = meta_learning, sequences, tables, carried
    made = {f.__name__: (numbers(f(1)), numbers(f(2))) for f in each}
    meta_learning(2, pathlib.Path(folder), 4)
    resumed = meta_learning(2, pathlib.Path(folder))
    made["resumed"] = (made["meta_learning"][1], numbers(resumed))
    lies_on = {len(x.devices()) for x in jax.tree.leaves(resumed.params)}
    said = {
        "refused": refusal(lambda: meta_learning(3)),
        "uneven": refusal(lambda: meta_learning(2, tasks=5)),
    }
    print(json.dumps(made | said | {"lies_on": list(lies_on)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
