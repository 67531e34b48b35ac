"""One outer step on tables of 10,000 and 1,000,000 items: touched rows, dense, and PyTorch.

Run: python -m experiments.speed.tables
32 tasks of 10 + 10 items; the table does not adapt in a task, a perceptron 64-64-1 does, once,
second order. Figures are medians of processor seconds; touched rows and PyTorch take turns.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.benchmark import command
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.optim import touched_rows
from metajax.results import records
from metajax.settings import Positive, Stored
from metajax.training import loop, outer_gradient, progress, updates
from metajax.types import Episode, Examples, MetaLearner, Params

NAME = "speed-tables"
WIDTH, TASKS, SHOTS = 64, 32, 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    items: tuple[Positive, ...] = (10_000, 100_000, 1_000_000)
    """Rows of the table."""
    rounds: Positive = 15
    """Steps of each way."""
    dense_up_to: Positive = 1_000_000
    """Largest table for the dense ways."""
    output: Stored = Stored()


@functools.cache
def _learner() -> MetaLearner:
    return gradient(vector_mlp((64,)), optax.sgd(0.01), 1)


def outer_loss(rows_TxNxD: jax.Array, params: Params, label_TxN: jax.Array):
    """MAML's mean outer loss over tasks on looked-up rows, and nothing beside."""
    part = lambda x, y: Examples(x, y, jnp.ones(y.shape))

    def one(x, y):
        task = Episode((), part(x[:SHOTS], y[:SHOTS]), part(x[SHOTS:], y[SHOTS:]))
        return _learner().loss(params, task, jax.random.key(0))[0]

    return jnp.mean(jax.vmap(one)(rows_TxNxD, label_TxN)), {}


def _first(num_items: int, width: int = WIDTH) -> touched_rows.Tabled:
    """The parameters before the first step: the table and the perceptron."""
    part = Examples(jnp.zeros((2, width)), jnp.zeros(2), jnp.ones(2))
    net = _learner().init(jax.random.key(0), Episode((), part, part))
    return touched_rows.Tabled({"items": jnp.zeros((num_items, width)) + 0.01}, net)


def _touched(num_items: int, width: int) -> loop.Recipe:
    """An outer step by touched rows."""
    loss = lambda rows, place, net, batch, key: outer_loss(
        rows["items"][place["items"]], net, batch[1]
    )
    gradient_fn = touched_rows.row_gradient(loss, lambda batch: {"items": batch[0]})
    update = updates.touched_rows(optax.scale_by_adam(), lambda count: 1e-3)
    return loop.Recipe(lambda key, batch: _first(num_items, width), gradient_fn, update)


def _dense(num_items: int) -> loop.Recipe:
    """An outer step with the gradient of the whole table and the usual Adam."""
    loss = lambda both, batch, key: outer_loss(both.tables["items"][batch[0]], both.rest, batch[1])
    update = updates.optimizer(optax.adam(1e-3))
    return loop.Recipe(
        lambda key, batch: _first(num_items), outer_gradient.loss_gradient(loss), update
    )


class Step:
    """An outer step on a batch, with donated parameters, compiled.

    Attributes:
      megabytes: the compiler's temporary memory, the table not counted.
    """

    def __init__(self, recipe: loop.Recipe):
        shape, given = (TASKS, 2 * SHOTS), lambda batch, key: batch
        drawn = (jnp.zeros(shape, jnp.int32), jnp.zeros(shape))
        self.state = loop.init(recipe, jax.random.key(0), drawn)
        run = jax.jit(lambda s, batch: loop.step(recipe, given, s, batch)[0], donate_argnums=0)
        self.compiled = run.lower(self.state, drawn).compile()
        planned = self.compiled.memory_analysis()
        self.megabytes = planned.temp_size_in_bytes / 1e6 if planned else 0.0

    def __call__(self, index: np.ndarray, label: np.ndarray) -> None:
        self.state = jax.block_until_ready(self.compiled(self.state, (index, label)))


def touched(num_items: int, width: int = WIDTH) -> Step:
    """A step by touched rows."""
    return Step(_touched(num_items, width))


def dense(num_items: int) -> Step:
    """A step with the gradient of the whole table and the usual Adam."""
    return Step(_dense(num_items))


def torch_sparse(num_items: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """The same step with PyTorch's sparse embedding and its SparseAdam."""
    import torch

    torch.set_num_threads(1)
    table = torch.nn.Embedding(num_items, WIDTH, sparse=True)
    net = [torch.randn(WIDTH, 64) / 8, torch.zeros(64), torch.randn(64, 1) / 8, torch.zeros(1)]
    for weight in net:
        weight.requires_grad_()
    rows, rest = torch.optim.SparseAdam(table.parameters(), 1e-3), torch.optim.Adam(net, 1e-3)

    def score(p: list, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (((torch.relu(x @ p[0] + p[1]) @ p[2] + p[3])[:, 0] - y) ** 2).mean()

    def task(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        grads = torch.func.grad(score)(net, x[:SHOTS], y[:SHOTS])
        fast = [p - 0.01 * g for p, g in zip(net, grads, strict=True)]
        return score(fast, x[SHOTS:], y[SHOTS:])

    def run(index: np.ndarray, label: np.ndarray) -> None:
        rows.zero_grad()
        rest.zero_grad()
        looked_up = table(torch.from_numpy(index).long())
        torch.func.vmap(task)(looked_up, torch.from_numpy(label)).mean().backward()
        rows.step()
        rest.step()

    return run


WAYS = {"touched rows": touched, "dense": dense, "torch SparseAdam": torch_sparse}


def measured(config: Config, num_items: int) -> dict[str, list[float]]:
    """Processor seconds of each way's steps; the dense way, which empties the cache, comes last."""
    seconds = _in_turns(config, num_items, ("touched rows", "torch SparseAdam"))
    if num_items <= config.dense_up_to:
        seconds |= _in_turns(config, num_items, ("dense",))
    return seconds


def draw(rng: np.random.Generator, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """The items (T, 2 N) of a batch of tasks and their labels."""
    shape = (TASKS, 2 * SHOTS)
    index = rng.integers(0, num_items, shape).astype(np.int32)
    return index, rng.normal(size=shape).astype(np.float32)


def _in_turns(config: Config, num_items: int, ways: tuple[str, ...]) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    runs = {name: WAYS[name](num_items) for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(config.rounds + 2):
        drawn = draw(rng, num_items)
        for name, run in runs.items():
            began = time.process_time()
            run(*drawn)
            if i >= 2:
                seconds[name].append(time.process_time() - began)
    return seconds


def run(config: Config) -> records.Record:
    """Measures every size in turn, and writes the record."""
    scores, middle = {}, {}
    for num_items in config.items:
        for name, values in measured(config, num_items).items():
            scenario = f"{num_items} items"
            scores[records.Key(scenario, name, "step", "cpu_seconds")] = np.array([values])
            middle[name, num_items] = 1e3 * statistics.median(values)
            progress.say(f"{scenario}, {name}: {middle[name, num_items]:.2f} ms")
    first, last = config.items[0], config.items[-1]
    extra = {
        "milliseconds": {f"{name}, {n}": v for (name, n), v in middle.items()},
        "growth": middle["touched rows", last] / middle["touched rows", first],
        "ahead_of_torch": middle["torch SparseAdam", last] / middle["touched rows", last],
    }
    arms = records.arms_of(dict.fromkeys(key.arm for key in scores))
    record = records.made("speed", config, arms, scores, scenario="large tables", extra=extra)
    records.write(config.output.folder("speed"), NAME, record, config.output.publish)
    return record


def main(config: Config) -> None:
    """Prints milliseconds by size, and the ratio of the largest table to the smallest."""
    record = records.stored(NAME) if config.output.from_records else run(config)
    facts, (first, *_, last) = record.extra, record.config["items"]
    for name, milliseconds in facts["milliseconds"].items():
        print(f"{name:<28} {milliseconds:9.2f} ms")
    print(f"touched rows: {last:,} items take {facts['growth']:.2f}x the time of {first:,}")
    print(f"touched rows: {facts['ahead_of_torch']:.2f}x torch SparseAdam at {last:,} items")


if __name__ == "__main__":
    command.cli(main, Config)
