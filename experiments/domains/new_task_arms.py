"""The arms of new_task, their tasks, and how each is tuned and judged."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses
from metajax.data.sources import labeled, named
from metajax.evaluation import evaluate, judge
from metajax.evaluation import metrics as measures
from metajax.learners.closed_form import ridge
from metajax.learners.gradient.maml import gradient
from metajax.models import experts
from metajax.results import groups, ledger, records
from metajax.training import journal, loop, progress
from metajax.training.devices import check_even, on_devices
from metajax.types import Episode, Examples, MetaLearner, Model, Params, UserError

from . import task_arms as arms
from . import task_rows
from .new_task_report import CART, FINE, GROUPED, META, RANDOM, RAW, SHARED

NAME = "new_task"
WIDTH = 64
"""Of the shared layer, whose outputs are the features."""
PRECISIONS = (10.0, 100.0, 1_000.0)
"""Penalties of a head that are tried."""
RATES, META_RATES = (0.1, 0.3, 1.0), (0.01, 0.03, 0.1)
"""Rates of fine-tuning, and of Adam for the meta-trained head, that are tried."""
STEPS = 20
"""Gradient steps of fine-tuning."""
META_TASKS = 8
"""Tasks of an outer step of the meta-trained head."""
MOST = 50
"""Query rows of each kind at most."""


def loaded(config: Any) -> labeled.Labeled:
    """The rows, the new task last.

    Raises:
      UserError: fewer than two tasks, a task that is a number, or as `task_rows.loaded`.
    """
    if not config.shots:
        raise UserError("no number of labels is told; give one or more --shots")
    if config.dataset == "census-income":
        tasks = ("income", "college", "never married")
        rows = labeled.census_income(named.data_folder(config.data_dir), tasks)
        rows = labeled.sampled(rows, {labeled.TRAIN: config.most, labeled.VALID: config.most // 4})
    else:
        rows = task_rows.loaded(config)
    if len(rows.tasks) < 2 or any(rows.numbers):
        raise UserError(
            f"{rows.name}: a new task needs two label columns or more, all of 0 and 1; give such "
            "data, or drop the columns that are numbers"
        )
    return rows


def drawn(
    rows: labeled.Labeled, task: int, part: int, shots: int, count: int, seed: int
) -> Episode:
    """Stored tasks (``count``, ...): row numbers, half of each support a yes.

    Supports are of the training rows, queries of ``part``; no two queries share a row.

    Raises:
      UserError: too few rows with a yes or a no.
    """
    rng, known = np.random.default_rng(seed), rows.known[:, task] > 0
    support, query = [], []
    for yes in (True, False):
        mine = known & ((rows.label[:, task] > 0.5) == yes)
        pool = np.flatnonzero(mine & (rows.part == labeled.TRAIN))
        asked = rng.permutation(np.flatnonzero(mine & (rows.part == part)))
        width, half = min(MOST, len(asked) // count), shots // 2 if yes else shots - shots // 2
        if width < 2 or len(pool) < half:
            raise UserError(
                f"{rows.name}: too few rows of {rows.tasks[task]} for {count} tasks of {shots} "
                "labels; lower --num-tasks or --shots"
            )
        support.append(np.stack([rng.choice(pool, half, replace=False) for _ in range(count)]))
        query.append(asked[: width * count].reshape(count, width))

    def examples(parts: Sequence[np.ndarray]) -> Examples:
        row = np.concatenate(parts, axis=1)
        label = rows.label[row, task]
        return Examples({"row": jnp.asarray(row)}, jnp.asarray(label), jnp.ones(row.shape))

    return Episode((), examples(support), examples(query))


def fetch(task: Episode, source: jax.Array) -> Episode:
    """The task with the inputs (N, D) of its rows."""
    look = lambda examples: examples._replace(inputs=source[examples.inputs["row"]])
    return Episode((), look(task.support), look(task.query))


HALF = Model(lambda key, profile, x: {}, lambda params, profile, x: jnp.full(len(x), 0.5))
"""Half of each support is a yes."""


def with_one(x: jax.Array) -> jax.Array:
    """The features with a constant one."""
    return jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1)


def raw_head(width: int) -> MetaLearner:
    """The ridge head on inputs as they are."""
    same = Model(lambda key, profile, x: {}, lambda params, profile, x: with_one(x))
    return ridge(same, HALF, width + 1)


def shared_head() -> MetaLearner:
    """The ridge head on the features of a shared layer."""

    def init(key: jax.Array, profile: Any, x: jax.Array) -> Params:
        return experts.dense(key, x.shape[-1], WIDTH)

    def apply(params: Params, profile: Any, x: jax.Array) -> jax.Array:
        return with_one(jax.nn.relu(x @ params["kernel"] + params["bias"][None]))

    return ridge(Model(init, apply), HALF, WIDTH + 1)


def head_params(features: Params, width: int, precision: float, seeds: int) -> Params:
    """Parameters (S, ...) of a head whose features are given."""
    full = lambda value: jnp.full((seeds, width), value)
    rest = {"mean": full(0.0), "log_precision": full(jnp.log(precision))}
    return {"embed": features, "offset": {}, **rest}


def fine_tuned(rate: float) -> MetaLearner:
    """The network with one tower, every weight of which adapts by gradient steps."""
    net = experts.shared_bottom(1, WIDTH, arms.TOWER)

    def init(key: jax.Array, profile: Any, x: jax.Array) -> Params:
        found = net.init(key, profile, x)  # a new task scores 0 before it has a label
        found["towers"]["out"] = jax.tree.map(jnp.zeros_like, found["towers"]["out"])
        return found

    one = Model(init, lambda params, profile, x: net.apply(params, profile, x)[:, 0])
    return gradient(one, optax.sgd(rate), STEPS, second_order=False, loss=losses.log_loss)


def auc(learner: MetaLearner, params: Params, tasks: dict[Any, Episode], x: jax.Array) -> float:
    """The mean AUC over seeds and validation tasks."""
    key, rate = jax.random.key(7), evaluate.event_metrics(0.5)
    found = []
    for each in tasks.values():
        score = judge.scored((learner, params), each, key, fetch=fetch, source=x)
        found.append(jax.vmap(lambda s, e=each: rate(s, e, key)["auc"])(score).mean())
    return float(jnp.stack(found).mean())


def meta_trained(config: Any, rows: labeled.Labeled, x: jax.Array, rate: float) -> Params:
    """Parameters (S, ...) of the shared head, trained on episodes of the trained tasks."""
    tasks = [
        drawn(rows, t, labeled.TRAIN, 30, 200, seed=40 + t) for t in range(len(rows.tasks) - 1)
    ]
    stored = judge.together(tasks)

    def sample(data: Any, key: jax.Array) -> Episode:
        take = jax.random.randint(key, (META_TASKS,), 0, len(data["tasks"].query.label))
        some = jax.tree.map(lambda v: v[take], data["tasks"])
        return jax.vmap(lambda task: fetch(task, data["x"]))(some)

    recipe = on_devices(config.hardware.devices, loop.recipe(shared_head(), optax.adam(rate)))
    keys = jax.random.split(jax.random.key(2), max(1, config.seeds // 2))
    data = {"tasks": stored, "x": x}
    return loop.fit(recipe, sample, data, keys, config.num_steps).params


def made(
    config: Any, rows: labeled.Labeled, x: jax.Array
) -> tuple[dict[str, judge.Judged], dict[str, Any]]:
    """The arms with their parameters, and what was chosen on episodes of the trained tasks."""
    trained = labeled.chosen(rows, rows.tasks[:-1])
    count = min(10, config.num_tasks)
    shown = lambda t, k: drawn(rows, t, labeled.VALID, k, count, seed=20 + t)
    valid = {(t, k): shown(t, k) for t in range(len(trained.tasks)) for k in config.shots}
    devices = config.hardware.devices
    check_even(devices, META_TASKS)
    tuner = arms.Tuner(trained, config.num_steps, config.batch, config.seeds, devices)
    bottom = arms.Arm(experts.shared_bottom(len(trained.tasks), WIDTH, arms.TOWER))
    choices: dict[str, Any] = {}
    choices["network"], net = tuner.tuned(bottom)
    _, dealt = tuner.tuned(bottom._replace(dealt=True))
    layer = lambda params: params["own"]["theta"]["model"]["net"]["bottom"]
    seeds, width = len(net["settings"]), x.shape[1]
    ready: dict[str, judge.Judged] = {}

    def best(name: str, tried: dict[float, tuple[MetaLearner, Params]]) -> None:
        score = {value: auc(*one, valid, x) for value, one in tried.items()}
        value = max(score, key=lambda v: score[v])
        choices[name] = {"chosen": value, "valid_auc": score[value], "trials": len(tried)}
        ready[name] = tried[value]
        progress.say(f"{name}: AUC {score[value]:.3f} on episodes of the trained tasks")

    def heads(features: Params) -> dict[float, tuple[MetaLearner, Params]]:
        of = lambda p: head_params(features, WIDTH + 1, p, seeds)
        return {p: (shared_head(), of(p)) for p in PRECISIONS}

    best(SHARED, heads(layer(net)))
    best(RANDOM, heads(layer(dealt)))
    best(RAW, {p: (raw_head(width), head_params({}, width + 1, p, 1)) for p in PRECISIONS})
    start = jax.vmap(fine_tuned(0.1).init, (0, None))
    example = jax.tree.map(lambda v: v[0], next(iter(valid.values())))
    fresh = start(jax.random.split(jax.random.key(8), seeds), fetch(example, x))
    fresh["model"]["bottom"] = layer(net)
    best(FINE, {rate: (fine_tuned(rate), fresh) for rate in RATES})
    metas = {rate: (shared_head(), meta_trained(config, rows, x, rate)) for rate in META_RATES}
    best(META, metas)
    ready[CART] = trained_score(bottom, net)
    choices[CART] = {"trials": 0}
    return ready, choices


def trained_score(arm: arms.Arm, params: Params) -> judge.Scorer:
    """The score of the last trained task, for any task."""

    def scores(source: jax.Array, tasks: Episode, key: jax.Array) -> jax.Array:
        row = tasks.query.inputs["row"]
        flat = source[row.reshape(-1)]
        found = jax.lax.map(lambda p: arms.logits(arm, p, flat)[:, -1], params)
        return found.reshape(-1, *row.shape)

    return scores


def by_group(
    rows: labeled.Labeled, x: jax.Array, ready: dict[str, judge.Judged], tasks: dict[str, Episode]
) -> tuple[dict[records.Key, np.ndarray], dict[str, groups.Kinds]]:
    """The AUC of some arms among the query rows of each group by itself, and the groups.

    Each is a mean of seeds, of every test task with a yes and a no in the group.

    Args:
      x: (N, D) inputs of all rows; ready: arms; tasks: scenario -> tasks, as many in each.
    """
    key, found, told = jax.random.key(7), {}, {}
    together, count = judge.together([*tasks.values()]), len(next(iter(tasks.values())).query.label)
    for name in GROUPED:
        score = judge.scored(ready[name], together, key, fetch=fetch, source=x)
        for i, (scenario, each) in enumerate(tasks.items()):
            kinds = task_rows.kinds_of(rows, np.asarray(each.query.inputs["row"]).ravel())
            part = score[:, i * count : (i + 1) * count]
            measure = functools.partial(_of_group, part, each.query.label)
            values, told[scenario] = groups.apart(kinds, measure)
            found[records.Key(scenario, name, groups.APART, "auc")] = values
    return found, told


def _of_group(score: jax.Array, label: jax.Array, mine: np.ndarray) -> np.ndarray | None:
    """The AUC of each task with a yes and a no among some of its rows; ``score`` (S, T, Q)."""
    value = np.asarray(_areas(score, label, mine.reshape(label.shape) * 1.0)).mean(axis=0)
    value = value[np.isfinite(value)]
    return value if len(value) >= groups.FEWEST else None


_areas = jax.jit(jax.vmap(jax.vmap(measures.auc), (0, None, None)))


def measured(config: Any) -> records.Record:
    """Tunes and trains the arms, judges them on the new task and writes the record."""
    began, rows = time.perf_counter(), loaded(config)
    x, new = jnp.asarray(rows.x), len(rows.tasks) - 1
    with progress.bar(NAME, 1) as update:
        ready, choices = made(config, rows, x)
        update(1, {})
    name = f"{NAME}-{rows.name}"
    told = ledger.checksum(rows.name, rows.tasks[new], config.num_tasks, config.shots)
    opened = records.open_tests(config, choices, name, told)
    scenarios = {
        f"K={k}": drawn(rows, new, labeled.TEST, k, config.num_tasks, seed=k) for k in config.shots
    }
    metrics = evaluate.event_metrics(0.5)
    scores = judge.judge(ready, scenarios, fetch=fetch, source=x, metrics=metrics, main="auc")
    scores = {k: v for k, v in scores.items() if k.metric == "auc"}
    apart, told = by_group(rows, x, ready, scenarios)
    scores |= apart
    roles = dict.fromkeys(ready, records.BASELINE)
    roles |= {SHARED: records.METHOD, META: records.METHOD, RANDOM: records.CONTROL}
    record = records.made(
        NAME, config, records.arms_of(ready, roles=roles, settings=choices), scores,
        scenario=f"K={config.shots[0]}", opened=(opened,), data=task_rows.data_of(rows),
        seconds={"total": time.perf_counter() - began}, peak_memory=journal.peak_memory(),
        extra={"new": rows.tasks[new], "trained": list(rows.tasks[:-1]), groups.GROUPS: told},
    )  # fmt: skip
    records.write(config.output.folder(name), name, record, config.output.publish)
    return record
