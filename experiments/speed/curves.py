"""What an outer step costs as it grows: inner steps, tasks of a batch, support length.

Run: python -m experiments.speed.curves
     python -m experiments.speed.curves --from-records draws docs/gallery/speed-curves.svg.
Sines with a perceptron 1-40-40-1, second order, outer Adam left out; medians of processor time on
one core, temporary memory as the compiler plans it. The number of items is the step of
`experiments.speed.tables` by touched rows, on rows of 16, outer Adam included.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses, places
from metajax.benchmark import command
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.results import records
from metajax.settings import Positive, Stored
from metajax.training import outer_gradient, progress
from metajax.types import Episode, Examples, MetaLearner

from . import tables

NAME = "speed-curves"
PICTURE = places.documents() / "gallery" / "speed-curves.svg"
CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the curves."""

    inner_steps: tuple[Positive, ...] = (1, 5, 10, 20, 50)
    """Inner steps, at 25 tasks."""
    tasks: tuple[Positive, ...] = (1, 8, 64, 512, 8192)
    """Tasks of a batch, at one inner step, in chunks of 256."""
    shots: tuple[Positive, ...] = (1, 10, 100, 1000)
    """Rows of a support, at one inner step and 25 tasks."""
    items: tuple[Positive, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    """Rows of a table of which a batch touches 640."""
    output: Stored = Stored()


def batch(num_tasks: int, shots: int) -> Episode:
    """Sine tasks with 10 queries."""
    rng = np.random.default_rng(0)

    def part(n: int) -> Examples:
        x = rng.uniform(-5, 5, (num_tasks, n, 1)).astype(np.float32)
        return Examples(*map(jnp.asarray, (x, np.sin(x[..., 0]), np.ones_like(x[..., 0]))))

    return Episode((), part(shots), part(10))


def kept(num_steps: int) -> MetaLearner:
    """MAML whose inner loop remembers all of its intermediate results."""
    base = gradient(vector_mlp(), optax.sgd(0.01), 1)

    def loss(params: Any, episode: Episode, key: jax.Array):
        score = lambda p, e: losses.squared_error(
            vector_mlp().apply(p, (), e.inputs), e.label, e.mask
        )

        def step(p: Any, _: None):
            grads = jax.grad(score)(p, episode.support)
            return jax.tree.map(lambda a, g: a - 0.01 * g, p, grads), None

        fast, _ = jax.lax.scan(step, params["model"], length=num_steps)
        return score(fast, episode.query), {}

    return base._replace(loss=loss)


def measured(learner: MetaLearner, episodes: Episode, chunk: int | None = None) -> dict[str, float]:
    """Milliseconds of an outer gradient, and megabytes of temporary memory."""
    params = learner.init(jax.random.key(0), jax.tree.map(lambda x: x[0], episodes))
    run = lambda p, e: outer_gradient.outer_gradient(learner, chunk)(p, e, jax.random.key(1))[0]
    compiled = jax.jit(run).lower(params, episodes).compile()
    jax.block_until_ready(compiled(params, episodes))
    seconds = []
    for _ in range(7):
        began = time.process_time()
        jax.block_until_ready(compiled(params, episodes))
        seconds.append(time.process_time() - began)
    planned = compiled.memory_analysis()
    memory = 0.0 if planned is None else planned.temp_size_in_bytes / 1e6
    return {"milliseconds": 1e3 * statistics.median(seconds), "megabytes": memory}


def curve(label: str, axis: str, points: tuple[int, ...], at: Callable[[int], dict]) -> dict:
    """One line of the figure."""
    found = [at(n) for n in points]
    for n, values in zip(points, found, strict=True):
        told = ", ".join(f"{v:.2f} {name}" for name, v in values.items())
        progress.say(f"{axis} {n:>6}, {label}: {told}")
    columns = {name: [values[name] for values in found] for name in found[0]}
    return {"label": label, "axis": axis, "points": list(points), **columns}


def curves(config: Config) -> list[dict]:
    """All lines of the figure."""
    maml = lambda k: gradient(vector_mlp(), optax.sgd(0.01), k)
    few = batch(25, 5)
    chunk = lambda n: None if n <= CHUNK else CHUNK
    return [
        curve("kept", "inner steps", config.inner_steps, lambda k: measured(kept(k), few)),
        curve("computed anew", "inner steps", config.inner_steps, lambda k: measured(maml(k), few)),
        curve("", "tasks", config.tasks, lambda n: measured(maml(1), batch(n, 5), chunk(n))),
        curve("", "support rows", config.shots, lambda n: measured(maml(1), batch(25, n))),
        curve("", "items", config.items, on_table),
    ]


def on_table(num_items: int) -> dict[str, float]:
    """Milliseconds and megabytes, beside the table itself, of a step on touched rows."""
    step = tables.touched(num_items, 16)
    rng, seconds = np.random.default_rng(0), []
    for _ in range(12):
        drawn = tables.draw(rng, num_items)
        began = time.process_time()
        step(*drawn)
        seconds.append(time.process_time() - began)
    return {"milliseconds": 1e3 * statistics.median(seconds[2:]), "megabytes": step.megabytes}


def draw(lines: list[dict]) -> None:
    """Writes the figure: time above, memory below, a column for each axis."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(line["axis"] for line in lines))
    figure = Figure(figsize=(9, 4.6))
    panels = figure.subplots(2, len(axes), sharex="col", squeeze=False)
    for line in lines:
        column = axes.index(line["axis"])
        for panel, name in zip(panels[:, column], ("milliseconds", "megabytes"), strict=True):
            panel.loglog(line["points"], line[name], marker="o", label=line["label"] or None)
            panel.set_ylabel(name if column == 0 else "")
        panels[1, column].set_xlabel(line["axis"])
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


def main(config: Config) -> None:
    """Measures and stores the curves, or draws the stored ones."""
    if config.output.from_records:
        draw(records.stored(NAME).extra["curves"])
        print(f"wrote {PICTURE}")
        return
    extra = {"curves": curves(config)}
    record = records.made("speed", config, scenario="cost curves", extra=extra)
    records.write(config.output.folder("speed"), NAME, record, config.output.publish)


if __name__ == "__main__":
    command.cli(main, Config, stopped=command.FROM_START)
