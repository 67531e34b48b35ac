"""The field's tables T1 to T5 and Omniglot in the paper: grids and verdicts from their records."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from metajax.results import intervals, records, tables
from metajax.results.tables import lower_is_better
from paper.edition import ALPHA, HERE, PRIMARY, SCENARIOS, Results

PUBLISHED = HERE.parent / "third_party" / "published.toml"
METRICS = {"T1": "ndcg@5", "T2": PRIMARY, "T3": PRIMARY, "T5": PRIMARY}
TITLES = {
    "T1": "T1: ranking of a new user's ratings and clicks, nDCG@5",
    "T2": "T2: four scenarios, RMSE",
    "T3": "T3: new users by the number of their ratings, RMSE",
    "T4": "T4: new items of MovieLens 100K and 1M warming up, AUC after so many clicks",
    "T5": "T5: the same learners on other data, RMSE of new users",
}


class Column(NamedTuple):
    """A column of a table: a record, and where in it the scores are."""

    heading: str
    record: records.Record
    scenario: str
    condition: str
    metric: str


def columns(r: Results, table: str) -> list[Column]:
    """The columns of a table; none where it has no record."""
    found: list[Column] = []
    for name, record in r.tables.items():
        _, kept, rest = name.split("-", 2)
        if table == "T4" == kept:
            shots = [(f"k={k}", str(k)) for k in record.shots]
            where = rest.removesuffix("-ctr").removeprefix("ml-").upper()
            found += [
                Column(f"{where}, {said}", record, "item_cold", had, "auc") for had, said in shots
            ]
        elif table == "T3" and kept == "T2":
            shots = [(f"k={k}", str(k)) for k in record.shots] + [("all", "all")]
            found += [Column(said, record, "user_cold", had, PRIMARY) for had, said in shots]
        elif table == "T2" == kept:
            places = [s for s in SCENARIOS if s in record.tasks]
            found += [Column(s.replace("_", "-"), record, s, "all", PRIMARY) for s in places]
        elif table == kept and table in ("T1", "T5"):
            where = rest.removesuffix("-users").removesuffix("-melu")
            found.append(Column(where, record, "user_cold", "all", METRICS[table]))
    return found


def gaps(column: Column) -> dict[str, tuple[intervals.Interval, float]]:
    """Other arm -> (method minus arm, p after Holm within the column)."""
    record = column.record
    method = record.method
    if not method:
        return {}
    at = lambda arm: record.of(column.scenario, arm, column.condition, column.metric)
    others = [arm for arm in record.names() if arm != method]
    found = [records.difference(at(method), at(arm)) for arm in others]
    p = intervals.holm(np.array([g.p for g in found]))
    return {arm: (g, float(v)) for arm, g, v in zip(others, found, p, strict=True)}


def ahead(gap: intervals.Interval, p: float, metric: str) -> bool:
    """Whether the method is better than the arm, after Holm."""
    return bool(p < ALPHA and (gap.high < 0 if lower_is_better(metric) else gap.low > 0))


def field_tables(r: Results) -> dict[str, tables.Grid]:
    """ "T1" -> its table, for those that have records."""
    found = {}
    for table in TITLES:
        cols = columns(r, table)
        if cols:
            found[table] = _grid(table, cols)
    return found


def _grid(table: str, cols: Sequence[Column]) -> tables.Grid:
    arms = list(dict.fromkeys(a for c in cols for a in c.record.names()))
    behind = [gaps(c) for c in cols]
    rows = []
    for arm in arms:
        cells = [arm]
        for c, others in zip(cols, behind, strict=True):
            key = records.Key(c.scenario, arm, c.condition, c.metric)
            if key not in c.record.scores:
                cells.append("")
                continue
            values = intervals.mean_of_seeds(c.record.scores[key])
            mean = float(np.nanmean(values)) ** (0.5 if c.metric == "mse" else 1.0)
            star = arm in others and ahead(*others[arm], c.metric)
            shown = f"{mean:.3f}" if abs(mean) < 100 else "diverged"
            cells.append(shown + ("*" if star else ""))
        rows.append(cells)
    methods = [c.record.method for c in cols]
    bold = [i for i, arm in enumerate(arms) if arm in methods]
    note = "A star: the arm in bold is better, paired by task, after Holm within the column."
    if table == "T4":
        note = "Over all test rows, mean of the seeds."
    plain = {name for c in cols for name in c.record.names(records.BASELINE)}
    first = sum(arm in plain for arm in arms)
    heads = ["arm", *(c.heading for c in cols)]
    return tables.Grid(TITLES[table], heads, rows, 1, [note], [0, first], bold)


def verdicts(r: Results) -> Iterator[str]:
    """A sentence per table: where its method is ahead of every arm that is not meta-learned."""
    for table in ("T1", "T2", "T3", "T5"):
        cols = columns(r, table)
        if not cols:
            continue
        won, lost = [], []
        for c in cols:
            plain = {a: g for a, g in gaps(c).items() if a in c.record.names(records.BASELINE)}
            well = all(ahead(*g, c.metric) for g in plain.values())
            (won if well else lost).append(c.heading)
        name = records.label(cols[0].record.method)
        if not lost:
            yield f"in {table} the {name} is ahead of every arm that is not meta-learned"
        elif not won:
            yield f"in {table} the {name} is nowhere ahead of all arms that are not meta-learned"
        else:
            yield (
                f"in {table} the {name} is ahead of every arm that is not meta-learned at "
                f"{', '.join(won)}, and not at {', '.join(lost)}"
            )


def published() -> dict[str, str]:
    """ "setting|arm" -> the number of the literature for Omniglot."""
    rows = tomllib.loads(PUBLISHED.read_text()).get("omniglot", [])
    return {f"{row['scenario']}|{row['arm']}": row["value"] for row in rows}


def accuracy(record: records.Record) -> intervals.Interval:
    """The accuracy of a record of Omniglot, in per cent."""
    scores = record.of(record.scenario, record.method, "test", "accuracy")
    i = records.interval(scores, "accuracy")
    return i._replace(mean=100 * i.mean, low=100 * i.low, high=100 * i.high)


def omniglot(r: Results) -> tables.Grid:
    """Accuracies beside the published ones, and what they took."""
    quoted = published()
    order = lambda record: [int(n) for n in re.findall(r"\d+", record.scenario)]
    rows = []
    for record in sorted(r.omniglot.values(), key=order):
        i, scenario, arm = accuracy(record), record.scenario, record.method
        rows.append(
            [
                *(scenario, arm, f"{i.mean:.1f} [{i.low:.1f}, {i.high:.1f}]"),
                quoted.get(f"{scenario}|{arm}", ""),
                f"{record.extra['schedule']['num_steps']:,}",
                f"{record.total_seconds / 60:.0f}",
            ]
        )
    sections = [i for i, row in enumerate(rows) if i == 0 or row[0] != rows[i - 1][0]]
    note = (
        "Accuracy in per cent with its 95 % interval over test tasks, beside the published number; "
        "outer steps and minutes of training on the device of the record."
    )
    heads = ["setting", "arm", "here", "published", "steps", "min."]
    return tables.Grid("Omniglot", heads, rows, 2, [note], sections)


def unlabeled(r: Results) -> tables.Grid:
    """Accuracies of learners that were trained without labels, and the bounds around them."""
    found = sorted(r.unlabeled.values(), key=lambda record: -accuracy(record).mean)
    rows = []
    for record in found:
        i = accuracy(record)
        rows.append([record.method, f"{i.mean:.1f} [{i.low:.1f}, {i.high:.1f}]"])
    title = f"Omniglot, {found[0].scenario}"
    return tables.Grid(title, ["arm", "accuracy"], rows, 1, ["95 % intervals over test tasks."])
