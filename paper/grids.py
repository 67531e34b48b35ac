"""The tables of the paper: functions of the records."""

from collections.abc import Sequence

import numpy as np

from metajax.results import intervals, records, tables
from paper.blocks import shown
from paper.claims import sinusoid_scores
from paper.edition import ALPHA, BASELINES, PRIMARY, Results
from paper.field import EMPTY, MEASURES


def _arms(r: Results) -> list[tuple[records.Record, str]]:
    """The baselines of the base, then every method, each with its record."""
    shown = [(r.base, arm) for arm in BASELINES if arm in r.base.names()]
    return shown + [(r.ratings[m.record], m.arm) for m in r.methods()]


def _cell(record: records.Record, scenario: str, arm: str, metric: str) -> str:
    """A mean with its interval; "diverged", or empty where the record has no such scores."""
    if records.Key(scenario, arm, records.ALL, metric) not in record.scores:
        return ""
    if tables.diverged(record, scenario, arm, metric=PRIMARY):
        return "diverged"
    return shown(records.interval(record.of(scenario, arm, records.ALL, metric), metric))


def _best(cells: Sequence[str]) -> int:
    """The place of the lowest mean; what diverged has none."""
    means = [float(cell.split()[0]) if "[" in cell else np.inf for cell in cells]
    return int(np.argmin(means))


def quality(r: Results) -> tables.Grid:
    """Errors of every arm in every scenario."""
    arms = _arms(r)
    rows = [[arm, *(_cell(record, s, arm, PRIMARY) for s in r.scenarios)] for record, arm in arms]
    counts = r.base.tasks
    heads = [f"{s.replace('_', '-')} ({counts[s]:,})" for s in r.scenarios]
    note = (
        "Root mean squared error with the 95 % bootstrap interval over test tasks, after averaging "
        "each over the seeds; number of tasks in parentheses. A3 and A4 share the network of "
        f"{r.edition.base.upper()}. Bold: the lowest error for new users."
    )
    first = sum(arm in BASELINES for _, arm in arms)
    bold = [_best([row[1] for row in rows])]
    return tables.Grid("RMSE of all arms", ["arm", *heads], rows, 1, [note], [0, first], bold)


def measures(r: Results) -> tables.Grid:
    """All measures of every arm, for new users."""
    arms, shown_here = _arms(r), [m for m in MEASURES if m != PRIMARY]
    rows = [
        [arm, *(_cell(record, "user_cold", arm, m) for m in shown_here)] for record, arm in arms
    ]
    first = sum(arm in BASELINES for _, arm in arms)
    heads = ["arm", *(MEASURES[m] for m in shown_here)]
    note = f"New users, beside the RMSE of the table before. 95 % intervals over users. {EMPTY}"
    return tables.Grid("All arms by other measures", heads, rows, 1, [note], [0, first])


def differences(r: Results) -> tables.Grid:
    """Paired differences of each method for new users, what N1 costs, and what it adapts to."""
    methods = [m for m in r.methods() if not r.diverged(m)]
    against = {"A2 fold-in": "A2", "A7 hier. Bayes": "A7", "A8 boosting": "A8"}
    against |= {"A4 fine-tuned": "own A4"}
    columns, heads = [], ["method"]
    for baseline, name in against.items():
        has = [m for m in methods if baseline in r.ratings[m.record].names()]
        if not has:
            continue
        gaps = [r.gap(m, baseline) for m in has]
        p = intervals.holm(np.array([gap.p for gap in gaps]))
        found = {m: _marked(gap, v) for m, gap, v in zip(has, gaps, p, strict=True)}
        columns.append([found.get(m, "") for m in methods])
        heads.append(f"minus {name}")
    columns.append([f"{r.adaptation(m):+.3f}" for m in methods])
    columns.append([r.adapts(m) for m in methods])
    rows = [[m.name, *(column[i] for column in columns)] for i, m in enumerate(methods)]
    note = (
        "New users: squared error of each method minus that of a baseline of the same record, "
        "paired by user, with 95 % intervals. A star: the method is better; a dagger: the baseline "
        "is; p is below .05 after Holm over the methods. N1: squared error with shuffled labels "
        "minus that without. Last column: what the method adapts to by the controls."
    )
    heads += ["N1", "adapts"]
    return tables.Grid("Paired differences", heads, rows, 1, [note])


def _marked(gap: intervals.Interval, p: float) -> str:
    """A difference in squared error with its interval, and who is better after Holm."""
    side = "*" if gap.high < 0 else "†" if gap.low > 0 else ""
    return f"{gap:+.3f}" + (side if p < ALPHA else "")


def sinusoids(r: Results) -> tables.Grid:
    """Mean squared errors on the sinusoid."""
    scores = {name: sinusoid_scores(record) for name, record in r.sinusoid.items()}
    arms = list(dict.fromkeys(arm for found in scores.values() for arm in found))
    rows = []
    for arm in arms:
        cells = []
        for found in scores.values():
            i = intervals.mean_interval(intervals.mean_of_seeds(found[arm]))
            cells.append(f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]")
        rows.append([arm, *cells])
    heads = ["arm", *(record.scenario for record in r.sinusoid.values())]
    note = (
        "Squared error after ten gradient steps, or in closed form; 95 % intervals over 600 tasks."
    )
    return tables.Grid("Sinusoid regression", heads, rows, 1, [note])


def provenance(r: Results) -> tables.Grid:
    """What each record was made with."""
    rows = []
    for name, record in r.everything().items():
        e = record.environment
        commit = e.commit[:8] + ("+" if e.uncommitted_changes else "")
        rows.append(
            [
                *(name, commit, record.config_hash, e.device, str(record.config.get("seeds", 1))),
                *(f"{record.total_seconds / 60:.1f}", e.packages["jax"]),
            ]
        )
    heads = ["record", "commit", "configuration", "device", "seeds", "minutes", "jax"]
    return tables.Grid("Records", heads, rows, 2, ["A plus sign marks uncommitted changes."])
