"""What the image classics share: training that survives a kill, and their test."""

import dataclasses
import functools
import json
import os
import pathlib
import time
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from metajax import progress, report, train
from metajax.data import images
from metajax.types import MetaLearner, Params, UserError

PUBLISHED = pathlib.Path(__file__).resolve().parent.parent / "third_party" / "published.toml"


class Method(NamedTuple):
    """A way to learn few-shot classes.

    Attributes:
      learner: the learner that is meta-trained.
      tested: the learner at test; it differs in the number of inner steps.
      tx: the outer optimizer.
      num_steps: outer steps.
      num_tasks: tasks per outer step.
      ways, shots, queries: the training tasks.
      chunk_size: tasks per chunk of the outer gradient.
      notes: deviations from the paper.
    """

    learner: MetaLearner
    tested: MetaLearner
    tx: optax.GradientTransformation
    num_steps: int
    num_tasks: int
    ways: int
    shots: int
    queries: int
    chunk_size: int | None = 4
    notes: str = ""


class Trained(NamedTuple):
    """The outcome of `meta_train`.

    Attributes:
      params: the parameters after the last step.
      history: name -> one number per block of steps: the mean outer ``loss``, the validation score
        ``valid`` if one was watched, and the ``seconds`` of training until then.
    """

    params: Params
    history: dict[str, list[float]]


def sampler(method: Method) -> train.Sampler:
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
    file: pathlib.Path,
    *,
    block: int = 100,
    watch: Callable[[Params], jax.Array] | None = None,
) -> Trained:
    """Meta-trains in blocks; the state after each is in ``file``, and a new call goes on there.

    A run that was killed and goes on gives the same parameters, bit for bit, as one that was not.

    Args:
      file: where the state is kept; it carries ``title``, so that another method's is refused.
      watch: params -> a validation score to show beside the loss after each block.

    Raises:
      UserError: a loss is not finite, or the file is another run's.
    """
    images.check(data, method.ways, method.shots + method.queries)
    sample = sampler(method)

    @functools.partial(jax.jit, donate_argnums=0)
    def run_block(state: train.TrainState, data: images.ClassImages):
        body = lambda s, _: train.step(
            method.learner, method.tx, sample, data, s, method.chunk_size
        )
        return jax.lax.scan(body, state, length=block)

    example = jax.tree.map(lambda x: x[0], sample(data, jax.random.key(0)))
    state = train.init(method.learner, method.tx, jax.random.key(seed), example)
    state, history = _restore(file, title, state)
    watch = watch and jax.jit(watch)
    with progress.bar(title, method.num_steps) as update:
        for done in range(int(state.step), method.num_steps, block):
            began = time.perf_counter()
            state, info = run_block(state, data)
            loss = float(jnp.mean(info["loss"]))
            if not np.isfinite(loss):
                raise UserError(f"{title}: the loss is not finite after {done + block} outer steps")
            before = history["seconds"][-1] if done else 0.0
            metrics = {"loss": loss, "seconds": before + time.perf_counter() - began}
            if watch is not None:
                metrics["valid"] = float(watch(state.params))
            for name, value in metrics.items():
                history.setdefault(name, []).append(value)
            _save(file, title, state, history)
            update(done + block, metrics)
    return Trained(state.params, history)


def _save(
    file: pathlib.Path, title: str, state: train.TrainState, history: dict[str, list[float]]
) -> None:
    """Writes the state beside its place and moves it there, so that what is read is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    arrays: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    arrays |= {"title": title, "history": json.dumps(history)}
    temporary = file.with_suffix(".part")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    os.replace(temporary, file)


def _restore(
    file: pathlib.Path, title: str, fresh: train.TrainState
) -> tuple[train.TrainState, dict[str, list[float]]]:
    """The saved state, or the fresh one where nothing was saved."""
    if not file.is_file():
        return fresh, {}
    with np.load(file) as saved:
        if str(saved["title"]) != title:
            raise UserError(f"{file} holds the run {saved['title']}; remove it or choose another")
        template = fresh._replace(key=jax.random.key_data(fresh.key))
        leaves = [jnp.asarray(saved[f"leaf{i}"]) for i in range(len(jax.tree.leaves(template)))]
        state: Any = jax.tree.unflatten(jax.tree.structure(template), leaves)
        state = state._replace(key=jax.random.wrap_key_data(state.key))
        return state, json.loads(str(saved["history"]))


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

    def one(key: jax.Array) -> jax.Array:
        key_draw, key_adapt = jax.random.split(key)
        episode = images.draw(
            data, key_draw, ways=ways, shots=shots, queries=queries, rotates=rotates
        )
        state = learner.adapt(learner.start(params, episode.profile), episode.support, key_adapt)
        scores = learner.predict(state, episode.query.inputs)
        return jnp.mean(jnp.argmax(scores, axis=1) == episode.query.label)

    return jax.lax.map(one, jax.random.split(key, num_tasks))


def facts(
    experiment: str, scenario: str, arm: str, config: Any, method: Method, trained: Trained
) -> dict[str, Any]:
    """What the record of an arm says beside its scores."""
    schedule = {k: getattr(method, k) for k in Method._fields[3:]}
    return {
        "experiment": experiment,
        "scenario": scenario,
        "arm": arm,
        "config": dataclasses.asdict(config),
        "config_hash": report.config_hash(config),
        "environment": report.environment(),
        "schedule": schedule,
        "history": trained.history,
        "seconds": {"train": trained.history["seconds"][-1]},
    }


def show(title: str, records: Sequence[report.Record]) -> None:
    """Prints one line per arm and setting: test accuracy, published number, steps, time, device."""
    quoted = published(records[0].facts["experiment"])
    table = Table(title=title, header_style="bold")
    headings = ("setting", "arm", "here", "published", "outer steps", "minutes", "device")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right", no_wrap=True)
    for record in records:
        f = record.facts
        scenario, arm = f["scenario"], f["arm"]
        r = report.interval(record.of(scenario, arm, "test", "accuracy"), "accuracy")
        table.add_row(
            scenario,
            arm,
            f"{100 * r.mean:.2f} [{100 * r.low:.2f}, {100 * r.high:.2f}]",
            quoted.get(f"{scenario}|{arm}", ""),
            f"{f['schedule']['num_steps']:,}",
            f"{f['seconds']['train'] / 60:.1f}",
            f["environment"]["device"],
        )
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)
    console.print(table)
    tasks = {len(next(iter(r.scores.values()))[0]) for r in records}
    console.print(f"Test tasks per arm: {sorted(tasks)}; each test set was opened once per record.")


def published(experiment: str) -> dict[str, str]:
    """ "scenario|arm" -> the quoted number, from third_party/published.toml where it is."""
    if not PUBLISHED.is_file():
        return {}
    rows = tomllib.loads(PUBLISHED.read_text()).get(experiment, [])
    return {f"{row['scenario']}|{row['arm']}": row["value"] for row in rows}
