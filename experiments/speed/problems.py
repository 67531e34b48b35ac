"""The four workloads as numbers alone: weights and a batch of tasks as arrays, for any library.

Every library gets the same arrays and must report the same loss.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Weights = dict[str, Any]

TABLES = {
    "gender": 2,
    "age": 7,
    "job": 21,
    "zip": 3402,
    "rate": 6,
    "genre": 25,
    "director": 2186,
    "actor": 8030,
}
"""Values of the four user and four item features of MeLU on MovieLens-1M."""

NUM_ITEMS, WIDTH, LENGTH, LAYERS, HEADS, RANK = 10_000, 128, 50, 4, 4, 8


class Part(NamedTuple):
    """Support or query of all tasks: inputs (T, N, ...), label (T, N), mask (T, N)."""

    inputs: np.ndarray
    label: np.ndarray
    mask: np.ndarray


class Problem(NamedTuple):
    """One workload.

    Attributes:
      title: what it is, in a line.
      rate: inner rate.
      adapts: whether the path of a weight is adapted in a task.
      learned: whether the outer loop learns the weight.
      weights: nested dicts of float32 arrays.
      support, query: the tasks.
    """

    title: str
    rate: float
    adapts: Callable[[str], bool]
    learned: Callable[[str], bool]
    weights: Weights
    support: Part
    query: Part


def _everything(path: str) -> bool:
    del path
    return True


def _dense(rng: np.random.Generator, a: int, b: int, scale: float | None = None) -> np.ndarray:
    return (rng.standard_normal((a, b)) * (scale or a**-0.5)).astype(np.float32)


def _perceptron(rng: np.random.Generator, widths: tuple[int, ...]) -> Weights:
    pairs = itertools.pairwise(widths)
    layer = lambda a, b: {"kernel": _dense(rng, a, b), "bias": np.zeros(b, np.float32)}
    layers = [layer(a, b) for a, b in pairs]
    return {"body": {str(i): x for i, x in enumerate(layers[:-1])}, "head": layers[-1]}


def sine(num_tasks: int = 25) -> Problem:
    """W1: sine waves, a perceptron 1-40-40-1, 5 shots, 25 tasks."""
    rng = np.random.default_rng(0)

    def part(n: int) -> Part:
        x = rng.uniform(-5, 5, (num_tasks, n, 1)).astype(np.float32)
        return Part(
            x,
            (amplitude * np.sin(x[..., 0] - phase)).astype(np.float32),
            np.ones((num_tasks, n), np.float32),
        )

    amplitude = rng.uniform(0.1, 5, (num_tasks, 1))
    phase = rng.uniform(0, np.pi, (num_tasks, 1))
    weights = _perceptron(rng, (1, 40, 40, 1))
    return Problem(
        f"sines, 1-40-40-1, 5 shots, {num_tasks} tasks",
        0.01,
        _everything,
        _everything,
        weights,
        part(5),
        part(10),
    )


def characters(queries: int = 1, num_tasks: int = 32) -> Problem:
    """W2: 28 x 28 drawings, four convolutions of 64, 5-way 1-shot, 32 tasks."""
    rng = np.random.default_rng(0)

    def part(n: int) -> Part:
        ink = (rng.random((num_tasks, 5 * n, 28, 28, 1)) < 0.12).astype(np.float32)
        label = np.tile(np.repeat(np.arange(5), n), (num_tasks, 1))
        return Part(ink, label, np.ones((num_tasks, 5 * n), np.float32))

    def layer(channels: int) -> Weights:
        kernel = _dense(rng, 9 * channels, 64).reshape(3, 3, channels, 64)
        return {"kernel": kernel, "offset": np.zeros(64, np.float32)}

    body = {str(i): layer(1 if i == 0 else 64) for i in range(4)}
    head = {"kernel": _dense(rng, 64, 5), "bias": np.zeros(5, np.float32)}
    title = (
        f"characters, 4 convolutions of 64, 5-way 1-shot, {queries} queries a class, "
        f"{num_tasks} tasks"
    )
    adapts = lambda path: "offset" not in path
    weights = {"body": body, "head": head}
    return Problem(title, 0.1, adapts, _everything, weights, part(1), part(queries))


def users(num_tasks: int = 32) -> Problem:
    """W3: eight looked-up features of 32, a head 256-64-64-1 that adapts, 3 to 90 ratings."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(3), np.log(91), num_tasks)).astype(int)

    def part(width: int, count: np.ndarray) -> Part:
        index = np.stack([rng.integers(0, n, (num_tasks, width)) for n in TABLES.values()], axis=-1)
        label = rng.integers(1, 6, (num_tasks, width)).astype(np.float32)
        mask = np.arange(width)[None, :] < count[:, None]
        return Part(index.astype(np.int32), label, mask.astype(np.float32))

    weights = _perceptron(rng, (256, 64, 64, 1))
    weights["tables"] = {name: _dense(rng, n, 32, 0.3) for name, n in TABLES.items()}
    adapts = lambda path: not path.startswith("tables")
    title = (
        f"users, features 256, head 64-64-1 adapts, supports of 3-90, 10 queries, {num_tasks} tasks"
    )
    support, query = part(90, sizes), part(10, np.full(num_tasks, 10))
    return Problem(title, 0.02, adapts, _everything, weights, support, query)


def sequences(head_only: bool = False, num_tasks: int = 16) -> Problem:
    """W4: a causal Transformer on item sequences; low-rank updates (or the head) adapt."""
    rng = np.random.default_rng(0)
    square = lambda a=WIDTH, b=WIDTH: _dense(rng, a, b)
    norm = lambda: {"scale": np.ones(WIDTH, np.float32), "shift": np.zeros(WIDTH, np.float32)}

    def layer() -> Weights:
        frozen = {name: square() for name in ("query", "key", "value", "out")}
        frozen |= {"up": square(WIDTH, 4 * WIDTH), "down": square(4 * WIDTH, WIDTH)}
        frozen |= {"before": norm(), "between": norm()}
        low = lambda: {"a": square(WIDTH, RANK), "b": _dense(rng, RANK, WIDTH, 0.02)}
        return frozen | {"lora": {"query": low(), "value": low()}}

    def part() -> Part:
        items = rng.integers(0, NUM_ITEMS, (num_tasks, 4, LENGTH + 1)).astype(np.int32)
        return Part(items[..., :-1], items[..., -1], np.ones((num_tasks, 4), np.float32))

    weights: Weights = {"layers": {str(i): layer() for i in range(LAYERS)}, "after": norm()}
    weights |= {
        "items": _dense(rng, NUM_ITEMS, WIDTH, 0.05),
        "places": _dense(rng, LENGTH, WIDTH, 0.05),
    }
    weights["head"] = {"kernel": square(), "bias": np.zeros(WIDTH, np.float32)}
    adapts = lambda path: path.startswith("head") if head_only else "lora" in path
    what = "head" if head_only else "LoRA"
    title = f"sequences of 50, 4 layers of 128, 10,000 items, {what} adapts, {num_tasks} tasks"
    return Problem(title, 0.05, adapts, adapts, weights, part(), part())


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "W1": sine,
    "W2": characters,
    "W2q15": functools.partial(characters, 15),
    "W3": users,
    "W4": sequences,
    "W4h": functools.partial(sequences, True),
}
"""Name -> the workload, of as many tasks as ``num_tasks`` says."""


def make(name: str, num_tasks: int | None = None) -> Problem:
    """The workload of a name, of its own number of tasks or of another; not to be written to."""
    return PROBLEMS[name]() if num_tasks is None else _of_size(name, num_tasks)


@functools.lru_cache(maxsize=4)
def _of_size(name: str, num_tasks: int) -> Problem:
    return PROBLEMS[name](num_tasks=num_tasks)
