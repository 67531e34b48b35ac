"""What the image classics share: training that survives a kill, and their test."""

import functools
import pathlib
import time
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.data import images
from metajax.evaluation import evaluate
from metajax.platforms import way
from metajax.results import ledger, plots
from metajax.results import records as report
from metajax.results.intervals import Interval
from metajax.results.tables import Grid, terminal
from metajax.training import journal, loop, outer_gradient
from metajax.training.devices import on_devices
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree, UserError

from .. import HERE

PUBLISHED = next(
    place
    for place in (
        HERE.parent / "third_party" / "published.toml",  # in a checkout
        HERE / "published.toml",  # in an installed package
    )
    if place.is_file()
)

PIECE = 20
"""Outer steps after which a training can save itself: seconds, even of the published schedule on a
processor."""


class Method(NamedTuple):
    """A way to learn few-shot classes.

    Attributes:
      learner: the learner that is meta-trained.
      tested: the learner at test; it differs in the number of inner steps.
      tx: the outer optimizer.
      num_steps: outer steps.
      num_tasks: tasks per outer step.
      ways, shots, queries: the training tasks.
      trains_wide: whether training tasks have other classes to tell apart than those of the test.
      num_looks: how often a training looks at the validation classes.
    """

    learner: MetaLearner
    tested: MetaLearner
    tx: optax.GradientTransformation
    num_steps: int
    num_tasks: int
    ways: int
    shots: int
    queries: int
    trains_wide: bool = False
    num_looks: int = 25


def sampler(method: Method) -> loop.Sampler:
    """Batches of a method's training tasks."""
    one = functools.partial(
        images.draw, ways=method.ways, shots=method.shots, queries=method.queries
    )
    return lambda data, key: jax.vmap(one, (None, 0))(data, jax.random.split(key, method.num_tasks))


def meta_train(
    title: str,
    method: Method,
    data: images.ClassImages,
    seed: int,
    folder: pathlib.Path,
    judge: Callable[[Params], jax.Array],
    block: int = 100,
    save_every: float = 10.0,
    seeds: int = 1,
    devices: int = 1,
) -> loop.Fitted:
    """Meta-trains with checkpoints in ``folder``; a new call goes on from the last one.

    Metrics are kept beside the folder, line by line.

    Args:
      judge: params -> accuracy on meta-validation, by which the parameters are chosen.
      block: outer steps between two looks at it.
      save_every: seconds between checkpoints, at least; at most, so many and those of `PIECE`.
      seeds: trainings side by side; the first is that of ``seed`` alone.
      devices: that the tasks of a step are dealt to.

    Raises:
      UserError: a loss is not finite, or the checkpoints are another run's.
    """
    images.check(data, method.ways, method.shots + method.queries)
    gradient_fn = outer_gradient.arranged(method.learner, way("images"))
    recipe = on_devices(devices, loop.recipe(method.learner, method.tx, gradient_fn))
    with journal.opened(folder.parent, title) as keep:
        return loop.fit(
            recipe,
            sampler(method),
            data,
            jax.random.split(jax.random.key(seed), seeds),
            method.num_steps,
            title=title,
            block=block,
            piece=PIECE,
            validate=lambda params: 1.0 - judge(params),
            report=keep,
            checkpoint=folder,
            save_every=save_every,
        )


def judge(method: Method, valid: images.ClassImages) -> Callable[[Params], jax.Array]:
    """params -> accuracy on about 2,000 query images of validation classes, the same each time.

    A method is judged at the shots it trains on, and one that trains on more classes than it is
    tested on at those, so that one training serves tests of any number of shots or of classes.
    """
    shots = method.shots
    images.check(valid, method.ways, 2 * shots)
    learner = method.learner if method.trains_wide else method.tested
    num_tasks = max(1, 2000 // (method.ways * shots))
    size = {"ways": method.ways, "shots": shots, "queries": shots, "num_tasks": num_tasks}
    key = jax.random.key(1)
    return lambda params: accuracies(learner, params, valid, key, **size).mean()


def accuracies(
    learner: MetaLearner,
    params: Params,
    data: images.ClassImages,
    key: jax.Array,
    *,
    ways: int,
    shots: int,
    queries: int,
    num_tasks: int,
    rotates: bool = True,
) -> jax.Array:
    """The share (num_tasks,) of query images put into their class, in each of so many tasks."""

    def drawn(key: jax.Array) -> Episode:
        key_draw, _ = jax.random.split(key)
        return images.draw(data, key_draw, ways=ways, shots=shots, queries=queries, rotates=rotates)

    def right(state: PyTree, episode: Episode) -> jax.Array:
        scores = learner.predict(params, state, episode.query.inputs)
        return jnp.mean(jnp.argmax(scores, axis=1) == episode.query.label)

    return evaluate.after_adapting(
        learner,
        params,
        jax.random.split(key, num_tasks),
        key,
        right,
        fetch=drawn,
        batch_size=way("images").judged,
    )


def in_batches(learner: MetaLearner, size: int, num_batches: int) -> MetaLearner:
    """The learner that adapts on ``num_batches`` batches of ``size`` examples, one after the other.

    The examples of a call are drawn without replacement; those left over are not seen this time.
    """

    def adapt(params: Params, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        key_order, key_adapt = jax.random.split(key)
        order = jax.random.permutation(key_order, len(examples.label))[: num_batches * size]
        batches = jax.tree.map(lambda x: x[order].reshape(num_batches, -1, *x.shape[1:]), examples)
        step = lambda state, at: (learner.adapt(params, state, *at), None)
        return jax.lax.scan(step, state, (batches, jax.random.split(key_adapt, num_batches)))[0]

    return learner._replace(adapt=adapt, num_gradients=num_batches * learner.num_gradients)


def opened_for(
    config: Any, name: str, choices: Any, test: images.ClassImages, *sizes: Any
) -> report.Opening:
    """The line of the ledger for the test tasks that are drawn from the test classes.

    Args:
      name: of the record that opens them.
      choices: what was chosen on validation classes.
      sizes: ways, shots and number of the tasks.
    """
    return report.open_tests(config, {name: choices}, name, ledger.checksum(test, *sizes))


def record_of(
    scenario: str,
    arm: report.Arm,
    config: Any,
    seconds: float,
    scores: np.ndarray,
    opened: report.Opening,
    **fields: Any,
) -> report.Record:
    """The record of one arm on Omniglot.

    Args:
      seconds: of its training.
      scores: accuracies (S, T) on the test tasks.
      opened: the line of the ledger, of `opened_for`.
      fields: others of `report.Record`; ``extra`` holds the ``schedule``.
    """
    return report.made(
        "omniglot",
        config,
        [arm],
        {report.Key(scenario, arm.name, "test", "accuracy"): scores},
        method=arm.name,
        scenario=scenario,
        opened=(opened,),
        seconds={"train": seconds, "cpu": time.process_time()},
        peak_memory=journal.peak_memory(),
        **fields,
    )


def schedule(method: Method) -> dict[str, Any]:
    """The numbers of a method: steps, tasks, ways, shots, queries, chunks."""
    inner = (method.learner.num_gradients, method.tested.num_gradients)
    told = {name: getattr(method, name) for name in Method._fields[3:]}
    return told | {"chunk_size": way("images").chunk_size, "inner_steps": inner}


def gradients(method: Method) -> report.Gradients:
    """How many task gradients a training takes, per seed, and how many adapt to one test task."""
    tasks = method.num_steps * method.num_tasks
    training = tasks * (1 + method.learner.num_gradients)
    return report.Gradients(training, method.tested.num_gradients)


def stored(command: str, pattern: str) -> dict[str, report.Record]:
    """Name -> stored record, of all whose names match the pattern.

    Raises:
      UserError: there are none; it names the command that makes them.
    """
    found = report.all_stored(pattern)
    if not found:
        raise UserError(
            f"no records in {report.RESULTS}; run python -m experiments {command} --publish"
        )
    return found


def accuracy(record: report.Record) -> Interval:
    """The test accuracy of a record of one arm, with its 95 % interval over tasks."""
    return report.interval(
        record.of(record.scenario, record.method, "test", "accuracy"), "accuracy"
    )


def plot(records: Sequence[report.Record], path: pathlib.Path) -> None:
    """Saves the test accuracy of each record with its interval over tasks, the first on top."""
    settings = {r.scenario for r in records}
    name = lambda r: r.method if len(settings) == 1 else f"{r.scenario}: {r.method}"
    label = "accuracy" + "".join(f", {setting}" for setting in settings if len(settings) == 1)
    plots.arms([(name(r), accuracy(r)) for r in records], path, label)
    print(f"plot   {path}")


def show(title: str, records: Sequence[report.Record]) -> None:
    """Prints one line per arm and setting: test accuracy, published number, steps, time, device."""
    quoted = published(records[0].experiment)
    heads = ("setting", "arm", "here", "published", "outer steps", "gradients", "minutes", "device")
    rows = []
    for record in records:
        scenario, arm = record.scenario, record.method
        took = record.arm(arm).gradients
        r = accuracy(record)
        rows.append([
            scenario, arm, f"{100 * r.mean:.2f} [{100 * r.low:.2f}, {100 * r.high:.2f}]",
            quoted.get(f"{scenario}|{arm}", ""), f"{record.extra['schedule']['num_steps']:,}",
            f"{took.training:,}" if took else "", f"{record.seconds['train'] / 60:.1f}",
            record.environment.device,
        ])  # fmt: skip
    tasks = {len(next(iter(r.scores.values()))[0]) for r in records}
    note = f"Test tasks per arm: {sorted(tasks)}; each test set was opened once per record."
    terminal(Grid(title, heads, rows, 2, [note]))


def published(experiment: str) -> dict[str, str]:
    """ "scenario|arm" -> the quoted number, from third_party/published.toml where it is."""
    rows = tomllib.loads(PUBLISHED.read_text()).get(experiment, [])
    return {f"{row['scenario']}|{row['arm']}": row["value"] for row in rows}
