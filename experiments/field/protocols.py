"""Closed-form rows of two published protocols, computed here and by an independent program.

What a scorer without any learning gets, under RecBole-MetaRec's protocol (ratings, clicks;
MovieLens 100K and 1M) and under MeLU's (MovieLens 1M). Beside each number stands the one of an
independent NumPy program, written before this code, and their distance in standard errors over
random splits (of MeLU: over random query rows). Before that stand the errors of the same rows as
predictions of ratings; under MetaRec's protocol, whose splits have validation users, also the
proper scores of an ordinal link that is fitted on these. (MetaRec's nDCG counts the five
highest-rated items as relevant; of MeLU's rows nDCG@5 has the gain 2^rating - 1.)

Reference: Lee et al., "MeLU", KDD 2019; RecBole-MetaRec, github.com/nuster1128/RecBole-MetaRec.
Run: python -m experiments protocols
Deviates: the independent program drew MeLU's query rows three times, the same for all its rows, so
that their distances from ours come together; differences between rows agree better than the rows.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.benchmark import belief
from metajax.data import episodes, split
from metajax.data.features import represent
from metajax.data.sources import named
from metajax.data.table import Features, Interactions
from metajax.evaluation import evaluate, ordinal, protocols
from metajax.results import ledger, records, tables
from metajax.settings import Output, Positive, Presets
from metajax.types import Episode

METRICS = ("precision@5", "recall@5", "hit@5", "ndcg@5", "mrr@5")
RATED = ("mse", "mae", *ordinal.PROPER)
OLDER = "This record is older than the squared errors that a new run stores and leads with."
DRAW = "mae drawing variance"
CONTENT_COLUMNS = ("rated", "genre_imdb", "director", "actor", "decade")


class Expected(NamedTuple):
    """A row of the independent program.

    Attributes:
      values: of the metrics of its table.
      num_splits: the random splits that it is the mean of.
    """

    values: tuple[float, ...]
    num_splits: int


RANDOM, CONSTANT, ITEM_MEAN = "random", "constant, ties by row", "item mean"
INVERTED = "item mean, labels inverted"
# scenario -> arm -> P@5, R@5, HR@5, nDCG@5, MRR@5
METAREC = {
    "ml-100k rating": {
        RANDOM: Expected((0.501, 0.501, 0.996, 0.500, 0.701), 20),
        CONSTANT: Expected((0.611, 0.611, 0.999, 0.627, 0.820), 20),
        ITEM_MEAN: Expected((0.592, 0.592, 1.000, 0.614, 0.823), 20),
    },
    "ml-1m rating": {
        RANDOM: Expected((0.498, 0.498, 0.995, 0.499, 0.703), 5),
        CONSTANT: Expected((0.617, 0.617, 0.999, 0.635, 0.829), 5),
        ITEM_MEAN: Expected((0.613, 0.613, 0.999, 0.633, 0.831), 5),
    },
    "ml-100k click": {
        RANDOM: Expected((0.595, 0.498, 0.965, 0.623, 0.750), 20),
        ITEM_MEAN: Expected((0.686, 0.594, 0.985, 0.748, 0.864), 20),
    },
    "ml-1m click": {
        RANDOM: Expected((0.658, 0.498, 0.982, 0.675, 0.796), 5),
        ITEM_MEAN: Expected((0.761, 0.592, 0.987, 0.803, 0.902), 5),
        INVERTED: Expected((0.446, 0.643, 0.899, 0.623, 0.721), 5),
    },
}
GLOBAL, SUPPORT, BIAS = "global mean", "support mean", "bias, warm supports only"
CONTENT, ALL_WARM = "bias + content prior", "the same, b_i from all warm rows"
# arm -> MAE of warm, user-cold, item-cold, both-cold
MELU = {
    GLOBAL: Expected((0.866, 0.848, 0.931, 0.913), 3),
    SUPPORT: Expected((0.819, 0.810, 0.899, 0.891), 3),
    BIAS: Expected((0.743, 0.740, 0.888, 0.877), 3),
    CONTENT: Expected((0.743, 0.740, 0.882, 0.873), 3),
    ALL_WARM: Expected((0.732, 0.731, 0.883, 0.876), 3),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    num_splits: Positive = 20
    """Random user splits of MetaRec's protocol."""
    num_draws: Positive = 12
    """Random query rows of MeLU's protocol."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"num_splits": 2, "num_draws": 2},
    }


def damped_item_mean(table: Interactions, rows: np.ndarray, damping: float = 5.0):
    """The damped mean residual (num_items,) of every item over the given rows, and their mean."""
    label = table.label[rows].astype(np.float64)
    mean = label.mean()
    count = np.bincount(table.item[rows], minlength=table.num_items)
    total = np.bincount(table.item[rows], label - mean, minlength=table.num_items)
    return total / (count + damping), mean


def metarec(table: Interactions, num_splits: int) -> dict[str, np.ndarray]:
    """Per-task scores (splits, T) of every row of `METAREC` for one data set."""
    rating, click = protocols.metarec_rating(), protocols.metarec_click()
    by_row = protocols.metarec_rating(legacy=True)
    inverted = protocols.metarec_click(legacy=True)
    arms = [
        ("rating", rating, {RANDOM: _noise, ITEM_MEAN: _item_mean}),
        ("rating", by_row, {CONSTANT: _constant}),
        ("click", click, {RANDOM: _noise, ITEM_MEAN: _item_mean}),
    ]
    if f"{table.name} click" in METAREC and INVERTED in METAREC[f"{table.name} click"]:
        arms.append(("click", inverted._replace(judge=click.judge), {INVERTED: _item_mean}))
    found = {}
    for mode, protocol, scorers in arms:
        prepared = protocol.prepare(table)
        parts = [protocol.split(prepared, seed) for seed in range(num_splits)]
        for arm, scorer in scorers.items():
            values = [_judged(protocol, prepared, part, scorer) for part in parts]
            if mode == "rating":
                rated = [_rated(prepared, part, scorer, arm != RANDOM) for part in parts]
                values = [v | told for v, told in zip(values, rated, strict=True)]
            for metric in (m for m in (*METRICS, *RATED) if m in values[0]):
                name = records.Key(f"{table.name} {mode}", arm, "all", metric)
                found[name] = np.stack([v[metric] for v in values])
    return found


Scorer = Callable[[Interactions, split.Split, np.ndarray], np.ndarray]


def _noise(table: Interactions, part: split.Split, item: np.ndarray) -> np.ndarray:
    return np.random.default_rng([part.seed, 99]).random(item.shape)


def _constant(table: Interactions, part: split.Split, item: np.ndarray) -> np.ndarray:
    return np.zeros(item.shape)


def _item_mean(table: Interactions, part: split.Split, item: np.ndarray) -> np.ndarray:
    return damped_item_mean(table, part.train_rows)[0][item]


def _judged(protocol: protocols.Protocol, table: Interactions, part: split.Split, scorer: Scorer):
    """Metrics (T,) of a scorer on the test tasks of a split; a user without a click counts 0."""
    tasks = jax.tree.map(jnp.asarray, episodes.fixed(part.test["user_cold"], part.num_query))
    scores = jnp.asarray(scorer(table, part, np.asarray(tasks.query.inputs)), jnp.float32)
    found = _judge(protocol.judge)(scores, tasks.query, jax.random.key(part.seed))
    return {metric: np.nan_to_num(np.asarray(values)) for metric, values in found.items()}


def _rated(
    table: Interactions, part: split.Split, scorer: Scorer, errors: bool
) -> dict[str, np.ndarray]:
    """The `RATED` metrics (T,) of a scorer on the test tasks; its link is fitted on validation.

    Args:
      errors: whether scores are ratings, minus the mean rating; else they are for ordering alone.
    """
    labels = table.label[part.train_rows]
    levels, key = jnp.asarray(ordinal.levels_of(labels, table.scale)), jax.random.key(part.seed)

    def scored(tasks: split.Tasks) -> tuple[jax.Array, Episode]:
        fixed = jax.tree.map(jnp.asarray, episodes.fixed(tasks, part.num_query))
        score = scorer(table, part, np.asarray(fixed.query.inputs)) + labels.mean()
        return jnp.asarray(score, jnp.float32), fixed

    score, tasks = scored(part.valid["user_cold"])
    link = _fit(score, tasks.query.label, tasks.query.mask, levels)
    score, tasks = scored(part.test["user_cold"])
    found = _proper(link, score, tasks, key)
    if errors:
        found |= {m: v for m, v in _errors(score, tasks, key).items() if m in ("mse", "mae")}
    return {metric: np.asarray(values) for metric, values in found.items()}


_fit, _proper, _errors = map(jax.jit, (ordinal.fit, ordinal.proper, evaluate.rating_metrics))


@functools.cache
def _judge(judge: protocols.Judge) -> protocols.Judge:
    return jax.jit(judge)


def melu(table: Interactions, num_draws: int) -> dict[str, np.ndarray]:
    """Errors and nDCG@5 (draws, T) per task, of every row of `MELU` in every state."""
    draws = [_melu_draw(table, seed) for seed in range(num_draws)]
    return {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}


def _melu_draw(table: Interactions, seed: int) -> dict[str, np.ndarray]:
    part = split.melu(table, seed, valid_users=0.0)
    tasks = {k: episodes.fixed(t, part.num_query) for k, t in part.test.items()}
    warm = tasks["warm"].support
    few = warm.mask > 0
    item, label = warm.inputs[few], np.asarray(warm.label)[few]
    supports = dataclasses.replace(table, item=item, label=label, user=item)
    b_few, g_few = damped_item_mean(supports, np.arange(len(item)), 8.0)
    b_all, g_all = damped_item_mean(table, part.train_rows, 8.0)
    seen = np.bincount(item, minlength=table.num_items)
    everything = np.bincount(table.item[part.train_rows], minlength=table.num_items)
    biases = {
        BIAS: (g_few, b_few),
        CONTENT: (g_few, with_content(table, b_few, seen)),
        ALL_WARM: (g_all, with_content(table, b_all, everything)),
    }
    found = {}
    for state, task in tasks.items():
        mask, count = task.support.mask, task.support.mask.sum(axis=1)
        scores = {
            GLOBAL: np.full(task.query.label.shape, g_few),
            SUPPORT: ((task.support.label * mask).sum(axis=1) / count)[:, None],
        }
        for arm, (mean, bias) in biases.items():
            residual = (task.support.label - mean - bias[task.support.inputs]) * mask
            user = residual.sum(axis=1) / (count + 4.0)
            scores[arm] = mean + bias[task.query.inputs] + user[:, None]
        for arm, score in scores.items():
            error = np.abs(score - task.query.label)
            drawn = part.num_query / part.test[state].length
            name = lambda metric, s=state, a=arm: records.Key(f"melu {s}", a, "all", metric)
            found[name("mae")] = error.mean(axis=1)
            found[name(DRAW)] = error.var(axis=1, ddof=1) / part.num_query * (1 - drawn)
            wide = jnp.asarray(np.broadcast_to(score, error.shape), jnp.float32)
            more = _errors(wide, task, jax.random.key(seed))
            found |= {name(metric): np.asarray(more[metric]) for metric in ("mse", "ndcg@5")}
    return found


def with_content(table: Interactions, bias: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The biases, those of items without ratings predicted by a ridge regression on content.

    Content is MeLU's, where the table has it: rating, genres, directors, four actors, decade.
    """
    features = table.item_features
    chosen = {k: v for k, v in features.columns.items() if k in CONTENT_COLUMNS}
    few = Features(chosen, {k: features.sizes[k] for k in chosen})
    x = represent.content_matrix(few, table.num_items)
    raw = (bias * (count + 8.0) / np.maximum(count, 1))[:, None]
    predicted, _ = represent.content_prediction(x, raw, count / (count + 8.0))
    return np.where(count > 0, bias, predicted[:, 0])


def compare(
    record: records.Record, name: tuple[str, str, str], expected: float, num_splits: int
) -> tuple[float, float]:
    """The mean of a row's scores (splits, T), and how many standard errors ``expected`` is away.

    Both are means over random splits, the expected one over ``num_splits`` and rounded to three
    digits. The variance of one split is the largest of three: the one seen between our splits, for
    a hit rate that of a proportion (a spread of 0 says little where nearly all users are hit), for
    an absolute error that of drawing ten query rows from those of each user.
    """
    scenario, arm, metric = name
    scores = record.of(scenario, arm, "all", metric)
    by_split = scores.mean(axis=1)
    mean, num_tasks = float(by_split.mean()), scores.shape[1]
    variance = float(by_split.var(ddof=1))
    if metric == "hit@5":
        p = (mean + expected) / 2
        variance = max(variance, p * (1 - p) / num_tasks)
    if metric == "mae":
        drawing = record.of(scenario, arm, "all", DRAW)
        variance = max(variance, float(drawing.mean()) / num_tasks)
    error = np.sqrt(variance * (1 / len(by_split) + 1 / num_splits) + 0.001**2 / 12)
    return mean, (mean - expected) / error


def show(record: records.Record) -> int:
    """Prints the errors, and every row beside the expected one.

    Returns how many lie outside two standard errors.
    """
    outside = 0
    _errors_of(record)
    for scenario, arms in METAREC.items():
        rows = {(scenario, arm): expected for arm, expected in arms.items()}
        columns = [(metric, lambda key, m=metric: (*key, m)) for metric in METRICS]
        outside += _table(record, f"MetaRec, {scenario}", rows, columns)
    rows = {("melu", arm): expected for arm, expected in MELU.items()}
    columns = [(s, lambda key, s=s: (f"melu {s}", key[1], "mae")) for s in split.SCENARIOS]
    outside += _table(record, "MeLU, ml-1m, MAE", rows, columns)
    total = sum(5 * len(arms) for arms in METAREC.values()) + 4 * len(MELU)
    print(
        "here / independent (distance in standard errors), * beyond two of them.\n"
        f"{total - outside} of {total} numbers agree within two standard errors; of {total} right "
        f"ones about {total * 0.0455:.0f} would lie beyond them by chance."
    )
    return outside


def _table(record: records.Record, title: str, rows, columns) -> int:
    outside, lines = 0, []
    for key, expected in rows.items():
        lines.append([key[1]])
        for (_, name), value in zip(columns, expected.values, strict=True):
            mean, z = compare(record, name(key), value, expected.num_splits)
            outside += abs(z) > 2
            star = "*" if abs(z) > 2 else " "
            lines[-1].append(f"{mean:.4f} / {value:.3f} ({z:+.1f}){star}")
    tables.terminal(tables.Grid(title, ("row", *(heading for heading, _ in columns)), lines))
    return int(outside)


def _errors_of(record: records.Record) -> None:
    """Prints RMSE, nDCG@5, MAE and what else is told of ratings, with differences to one row."""
    if not any(key.metric == "mse" for key in record.scores):
        print(OLDER)
        return
    notes = ("Differences are paired by user; * marks an interval that excludes 0.",)
    metarec = [name for name in METAREC if name.endswith(" rating")]
    told = [*tables.of_the_link(record), "Random scores order alone, and have no error."]
    _rated_table(record, "MetaRec", metarec, ITEM_MEAN, (*notes, *told))
    _rated_table(record, "MeLU, ml-1m", [f"melu {s}" for s in split.SCENARIOS], CONTENT, notes)


def _rated_table(
    record: records.Record, title: str, scenarios: Sequence[str], bar: str, notes: Sequence[str]
) -> None:
    """Prints the measures of ratings of every row, and ``bar`` minus each in the compared ones."""
    known = {key.metric for key in record.scores if key.scenario in scenarios}
    shown = [metric for metric in tables.MEASURES if metric in known]
    rows, sections = [], []
    for scenario in scenarios:
        of = {(k.arm, k.metric): v for k, v in record.scores.items() if k.scenario == scenario}
        sections.append(len(rows))
        rows.append([scenario, *[""] * (len(shown) + len(tables.COMPARED))])
        for arm in dict.fromkeys(arm for arm, _ in of):
            mean = lambda m, of=of, arm=arm: records.interval(of[arm, m], m)
            whole = lambda m, mean=mean: tables.with_interval(mean(m))
            told = [
                "" if (arm, m) not in of else whole(m) if m in tables.COMPARED
                else f"{mean(m).mean:.4f}" for m in shown
            ]  # fmt: skip
            gaps = [
                "" if arm == bar or (arm, m) not in of
                else tables.signed(records.difference(of[bar, m], of[arm, m]))
                for m in tables.COMPARED
            ]  # fmt: skip
            rows.append([f"  {arm}", *told, *gaps])
    heads = [f"{tables.MEASURES[m]} [95 %]" if m in tables.COMPARED else tables.MEASURES[m]
             for m in shown]  # fmt: skip
    gaps = [f"{tables.of_differences(m)}: {bar} - row" for m in tables.COMPARED]
    heads = ["row", *heads, *gaps]
    tables.terminal(tables.Grid(f"{title}: ratings", heads, rows, 1, notes, sections))


def main(config: Config) -> None:
    """Computes all rows, writes the record and prints the tables."""
    if config.output.from_records:
        show(records.stored("protocols"))
        return
    began = time.perf_counter()
    scores, checksums, opened, told = {}, {}, [], {}
    for name in ("ml-100k", "ml-1m"):
        table = named.load(name, config.data_dir)
        checksums[name] = table.checksum()
        tests = ledger.checksum(checksums[name], config.num_splits, config.num_draws)
        opened.append(records.open_tests(config, {}, "protocols", tests))
        scores |= metarec(table, config.num_splits)
        levels = ordinal.levels_of(table.label, table.scale)  # of both logs: 1 to 5 stars
        told = belief.facts(levels, table.label, 1.0)
    scores |= melu(table, config.num_draws)
    arms = records.arms_of(dict.fromkeys(key.arm for key in scores), roles=records.BASELINE)
    record = benchmark.kept(
        "protocols", "protocols", config, arms, scores, began=began,
        opened=tuple(opened), extra={"data": checksums, **told},
    )  # fmt: skip
    show(record)
    path = records.path_of("protocols", config.output.folder("protocols"))
    print(f"record {path}, {record.total_seconds:.0f} s")


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
