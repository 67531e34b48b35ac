"""A short meta-training on all devices there are; a program that `test_shard` starts.

It saves the state after every step and goes on from the newest that is whole; a line tells of each
step, and the last one the parameters as JSON. Arguments: number of steps, folder of checkpoints or
``-``, then, for one process of several, the address, the number of processes and the own number.
"""

import json
import pathlib
import sys
from contextlib import ExitStack

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.optim import touched_rows
from metajax.profiling import collectives
from metajax.training import checkpoint, devices, loop, updates
from metajax.types import Episode, Examples

NUM_TASKS, NUM_ITEMS = 16, 64
LEARNER = gradient(vector_mlp((8,)), optax.sgd(0.1), 2)
TX = optax.adam(0.01)


def draw(data, key: jax.Array) -> Episode:
    """Sixteen tasks of 4 + 4 rows."""
    del data
    x = jax.random.normal(key, (NUM_TASKS, 8, 3))
    y = jnp.sin(x.sum(axis=-1))
    part = lambda a, b: Examples(x[:, a:b], y[:, a:b], jnp.ones((NUM_TASKS, b - a)))
    return Episode((), part(0, 4), part(4, 8))


def first_state() -> loop.TrainState:
    return loop.init(loop.recipe(LEARNER, TX), jax.random.key(1), draw((), jax.random.key(0)))


def table_step(mesh, table: jax.Array) -> jax.Array:
    """One step on a table whose rows are dealt over the mesh."""
    index = jnp.asarray([[3, 40, 63, 3], [0, 17, 40, 9]])
    loss = lambda rows, place, *_: (jnp.sum(jnp.sin(rows["all"][place["all"]]) ** 2), {})
    gradient_fn = touched_rows.row_gradient(loss, lambda index: {"all": index})
    update = updates.touched_rows(optax.identity(), lambda count: 0.1)

    @jax.jit
    def step(params):
        grads, _ = gradient_fn(params, index, jax.random.key(0))
        return update.apply(params, update.init(params), grads)[0].tables["all"]

    return step(touched_rows.Tabled({"all": devices.place(mesh, table, devices.ROWS)}, ()))


def numbers(tree) -> list:
    return [np.asarray(x, float).ravel().tolist() for x in jax.tree.leaves(devices.fetch(tree))]


def main(num_steps: str, folder: str, *place: str) -> None:
    if place:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(place[0], int(place[1]), int(place[2]))
    mesh = devices.mesh(num_rows=2 if jax.device_count() > 1 else 1)
    gradient_fn = devices.dealt(mesh, loop.outer_gradient(LEARNER, 2))
    one = lambda s: loop.step(loop.recipe(LEARNER, TX, gradient_fn), draw, s, ())
    run = jax.jit(chex.assert_max_traces(one, n=1))
    state, done = first_state(), 0
    if folder != "-":
        with checkpoint.opened(pathlib.Path(folder), "sharded") as store:
            saved = store.latest(jax.device_get(state._replace(key=jax.random.key_data(state.key))))
            if saved is not None:
                key = jax.random.wrap_key_data(jnp.asarray(saved.tree.key))
                state, done = saved.tree._replace(key=key), saved.step
    state = devices.place(mesh, jax.tree.map(jnp.asarray, state))
    with ExitStack() as stack:
        store = None
        if folder != "-":
            store = stack.enter_context(checkpoint.opened(pathlib.Path(folder), "sharded"))
        for step in range(done, int(num_steps)):
            state, _ = run(state)
            plain = state._replace(key=jax.random.key_data(state.key))
            if store is not None:
                store.save(step + 1, devices.fetch(plain), {}, 0.0)  # every process calls
            print(f"step {step + 1}", flush=True)
    rows = jax.random.normal(jax.random.key(5), (NUM_ITEMS, 4))
    table = table_step(mesh, rows)
    sent = {}
    if jax.process_count() == 1:
        sent = collectives.collective_bytes(jax.jit(one).lower(state).compile().as_text())
    told = {"collectives": sent, "params": numbers(state.params), "table": numbers(table)}
    print(json.dumps(told | {"devices": jax.device_count(), "steps": int(num_steps) - done}))


if __name__ == "__main__":
    main(*sys.argv[1:])
