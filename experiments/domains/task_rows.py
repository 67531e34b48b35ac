"""The arms of multi_task on a table of rows: read, tuned, trained and judged."""

import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.sources import behaviors, labeled, named
from metajax.evaluation.pooled_auc import auc_parts, in_blocks
from metajax.results import groups, ledger, records
from metajax.results.records import Key
from metajax.training import journal, progress
from metajax.transforms.task_weights import weights
from metajax.types import UserError

from . import task_arms as arms
from .task_report import GROUPED

BLOCKS = 100
"""The test rows are stored as means of so many blocks of people."""
FEWEST = 20
"""A group has an AUC from so many rows with a yes, and as many with a no."""
AUC, LOSS, ERROR = "auc", "log_loss", "unexplained"


def loaded(config: Any) -> labeled.Labeled:
    """The rows that the options name, at most so many.

    Raises:
      UserError: an unknown name, a missing file, or rows that cannot be learned from.
    """
    if config.dataset.endswith(".npz"):
        path = pathlib.Path(config.dataset)
        if not path.is_file():
            raise UserError(f"no file {path}; give the path of an .npz file with x and label")
        rows = labeled.read(path)
    elif config.dataset in READERS:
        rows = READERS[config.dataset](named.data_folder(config.data_dir))
    else:
        known = ", ".join(["synthetic", *READERS])
        raise UserError(
            f"{config.dataset} has no rows with several labels; give {known}, or an .npz file"
        )
    most = {labeled.TRAIN: config.most, labeled.VALID: max(1, config.most // 4)}
    return labeled.checked(labeled.sampled(rows, most))


READERS = {
    "amazon-four-domains": behaviors.markets,
    "census-income": labeled.census_income,
    "ml-1m": behaviors.clicks_and_ratings,
    "retailrocket-multibehavior": behaviors.retailrocket,
}


def judged(rows: labeled.Labeled, arm: str, scores: np.ndarray) -> dict[Key, np.ndarray]:
    """The scores of an arm on the test rows: (S, blocks) whose mean is the score of all rows.

    Args:
      scores: (S, N, T) of the test rows.
    """
    test = rows.part == labeled.TEST
    label, known, unit = rows.label[test], rows.known[test] > 0, rows.unit[test]
    found: dict[Key, np.ndarray] = {}

    def keep(scenario: str, metric: str, parts: Any, mine: np.ndarray) -> None:
        place = np.unique(unit[mine], return_inverse=True)[1]
        blocks = [in_blocks(parts(s), place, BLOCKS) for s in scores[:, mine]]
        found[Key(scenario, arm, records.ALL, metric)] = np.stack(blocks)

    for t, task in enumerate(rows.tasks):
        mine = known[:, t]
        y = label[mine, t]
        if rows.numbers[t]:
            off = lambda s, t=t, y=y: (s[:, t] - y) ** 2 / y.var()
            keep(task, ERROR, off, mine)
            continue
        keep(task, AUC, lambda s, t=t, y=y: auc_parts(s[:, t], y), mine)
        loss = lambda s, t=t, y=y: np.logaddexp(0, s[:, t]) - y * s[:, t]
        keep(task, LOSS, loss, mine)
        if rows.chain and t:
            before = mine & (label[:, t - 1] > 0)
            y = label[before, t]
            ratio = lambda s, t=t: -np.logaddexp(0, -s[:, t]) + np.logaddexp(0, -s[:, t - 1])
            name = f"{task} after {rows.tasks[t - 1]}"
            keep(name, AUC, lambda s, y=y, r=ratio: auc_parts(r(s), y), before)
    return found


def kinds_of(rows: labeled.Labeled, place: np.ndarray) -> groups.Kinds:
    """The groups of some rows (n,): thirds of what is a whole number, else what is one word."""
    made = {}
    for kind, values in rows.about.items():
        number = np.issubdtype(values.dtype, np.integer)
        mine = values[place]
        made[kind] = groups.terciles(mine) if number else groups.numbered(mine.tolist())
    return {kind: told for kind, told in made.items() if told}


def by_group(
    rows: labeled.Labeled, arm: str, scores: np.ndarray
) -> tuple[dict[Key, np.ndarray], dict[str, groups.Kinds]]:
    """The scores of an arm in each group of test rows by itself, and the groups of each task.

    They are AUCs, or squared errors in units of the variance of all test rows; of blocks, as
    `judged` has them, and means of seeds.

    Args:
      scores: (S, N, T) of the test rows.
    """
    test, found, told = np.flatnonzero(rows.part == labeled.TEST), {}, {}
    for t, (task, number) in enumerate(zip(rows.tasks, rows.numbers, strict=True)):
        known = rows.known[test, t] > 0
        score, place = scores[:, known, t], test[known]
        label, unit = rows.label[place, t], rows.unit[place]
        measure = functools.partial(_of_group, score, label, unit, number)
        values, told[task] = groups.apart(kinds_of(rows, place), measure)
        found[Key(task, arm, groups.APART, ERROR if number else AUC)] = values
    return found, told


def _of_group(
    score: np.ndarray, label: np.ndarray, unit: np.ndarray, number: bool, mine: np.ndarray
) -> np.ndarray | None:
    """The score (blocks,) of some of n rows, the mean of the seeds of ``score`` (S, n)."""
    y, ones = label[mine], int((label[mine] > 0.5).sum())
    if not number and min(ones, len(y) - ones) < FEWEST:
        return None
    parts = lambda x: (x - y) ** 2 / label.var() if number else auc_parts(x, y)
    place = np.unique(unit[mine], return_inverse=True)[1]
    return np.mean([in_blocks(parts(x), place, BLOCKS) for x in score[:, mine]], axis=0)


def scored(arm: arms.Arm, params: Any, x: np.ndarray) -> np.ndarray:
    """The scores (S, N, T) of rows, a part after the other."""
    run = jax.jit(lambda part: jax.lax.map(lambda p: arms.logits(arm, p, part), params))
    size = min(len(x), 8_192)
    whole = np.concatenate([x, x[: -len(x) % size]])
    found = [np.asarray(run(jnp.asarray(p))) for p in np.split(whole, len(whole) // size)]
    return np.concatenate(found, axis=1)[:, : len(x)]


def measured(config: Any) -> records.Record:
    """Tunes and trains every arm, judges it and writes the record."""
    began, rows = time.perf_counter(), loaded(config)
    tuner = arms.Tuner(rows, config.num_steps, config.batch, config.seeds, config.hardware.devices)
    made, choices, ready = arms.made(len(rows.tasks), rows.chain), {}, {}
    with progress.bar("multi_task", len(made)) as update:
        for name, arm in made.items():
            choices[name], ready[name] = tuner.tuned(arm)
            if arm.way == "learned":
                log_weight = ready[name]["own"]["theta"]["model"]["log_weight"]
                choices[name]["weights"] = np.asarray(jax.vmap(weights)(log_weight)).tolist()
            update(len(ready), {"valid": choices[name]["valid"]})
            progress.say(f"{name}: {choices[name]['valid']:.4f} on validation")
    test = rows.part == labeled.TEST
    opened = records.open_tests(
        config, choices, f"{arms.NAME}-{rows.name}", ledger.checksum(rows.name, rows.label[test])
    )
    scores: dict[Key, np.ndarray] = {}
    told: dict[str, groups.Kinds] = {}
    for name, arm in made.items():
        found = scored(arm, ready[name], rows.x[test])
        scores |= judged(rows, name, found)
        if name in GROUPED:
            apart, told = by_group(rows, name, found)
            scores |= apart
        if name == arms.PRODUCT:  # the same network, without the product
            of_viewed = scored(arm._replace(stepwise=False), ready[name], rows.x[test])
            alone = judged(rows, arms.CLICKED, of_viewed)
            scores |= {k: v for k, v in alone.items() if k.scenario in rows.tasks[1:]}
            choices[arms.CLICKED] = choices[name]
    return written(config, rows, choices, scores, told, opened, time.perf_counter() - began)


def written(
    config: Any,
    rows: labeled.Labeled,
    choices: dict[str, Any],
    scores: dict[Key, np.ndarray],
    told: dict[str, groups.Kinds],
    opened: records.Opening,
    seconds: float,
) -> records.Record:
    """Writes the record."""
    roles = dict.fromkeys(choices, records.ABLATION)
    roles |= {arms.SINGLE: records.BASELINE, arms.BOTTOM: records.BASELINE}
    roles |= {arms.ONE: records.BASELINE, arms.MANY: records.METHOD, arms.PLE: records.METHOD}
    roles |= {arms.FROZEN: records.CONTROL, arms.RANDOM: records.CONTROL}
    name, count = f"{arms.NAME}-{rows.name}", np.bincount(rows.part, minlength=3)
    names = dict.fromkeys(key.arm for key in scores)
    share = [float(rows.label[rows.known[:, t] > 0, t].mean()) for t in range(len(rows.tasks))]
    record = records.made(
        arms.NAME, config, records.arms_of(names, roles=roles, settings=choices), scores,
        scenario=rows.tasks[0], opened=(opened,), data=data_of(rows), seconds={"total": seconds},
        peak_memory=journal.peak_memory(),
        extra={
            "rows": count.tolist(), "tasks": list(rows.tasks), "share": share, groups.GROUPS: told,
        },
    )  # fmt: skip
    records.write(config.output.folder(name), name, record, config.output.publish)
    return record


def data_of(rows: labeled.Labeled) -> records.Data:
    """What the record says of the data."""
    units, digest = int(rows.unit.max()) + 1, ledger.checksum(rows.x, rows.label)
    return records.Data(rows.name, digest, units, 0, len(rows.x))
