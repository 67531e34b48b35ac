"""The tables of the paper: functions of the records."""

import numpy as np

from metajax.results import intervals, records, tables
from paper.claims import sinusoid_scores
from paper.edition import BASELINES, PRIMARY, Results
from paper.field import field_tables, omniglot, unlabeled

__all__ = [
    "differences",
    "field_tables",
    "omniglot",
    "provenance",
    "quality",
    "sinusoids",
    "unlabeled",
]


def quality(r: Results) -> tables.Grid:
    """Errors of every arm in every scenario."""
    rows, bold = [], []
    shown = [(r.base, arm) for arm in BASELINES if arm in r.base.names()]
    shown += [(r.ratings[m.record], m.arm) for m in r.methods()]
    for record, arm in shown:
        cells = []
        for scenario in r.scenarios:
            i = records.interval(record.of(scenario, arm, "all", PRIMARY), PRIMARY)
            cells.append(f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]")
        i = records.interval(record.of("user_cold", arm, "all", "ndcg@5"), "ndcg@5")
        cells.append(f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]")
        rows.append([arm, *cells])
    means = np.array([[float(c.split()[0]) for c in row[1:]] for row in rows])
    bold = [int(np.argmin(means[:, 0]))]
    counts = r.base.tasks
    heads = [f"{s.replace('_', '-')} ({counts[s]:,})" for s in r.scenarios]
    heads.append("nDCG@5, user-cold")
    note = (
        "Root mean squared error of the test tasks, and nDCG@5 of new users, with the 95 % "
        "bootstrap interval over tasks after averaging each over the seeds; number of tasks in "
        "parentheses. A3 and A4 share the "
        f"network of {r.edition.base.upper()}. Bold: the lowest error for new users."
    )
    first = sum(arm in BASELINES for _, arm in shown)
    return tables.Grid("Errors of all arms", ["arm", *heads], rows, 1, [note], [0, first], bold)


def differences(r: Results) -> tables.Grid:
    """Paired differences of each method for new users, with adjusted p-values."""
    methods = r.methods()
    columns = {}
    for baseline in ("A2 fold-in", "A7 hier. Bayes", "A4 fine-tuned"):
        gaps = [r.gap(m, baseline) for m in methods]
        p = intervals.holm(np.array([gap.p for gap in gaps]))
        columns[baseline] = [
            f"{gap.mean:+.4f} ({_p(value)})" for gap, value in zip(gaps, p, strict=True)
        ]
    columns["N1 gap"] = [f"{r.adaptation(m).mean:+.3f}" for m in methods]
    rows = [[m.name, *(column[i] for column in columns.values())] for i, m in enumerate(methods)]
    heads = ["method", "- A2", "- A7", "- own A4", "N1"]
    note = (
        "New users: squared error of each method minus that of a baseline of the same record, "
        "paired by user, with the p-value after Holm. N1: squared error with shuffled support "
        "labels minus that without."
    )
    return tables.Grid("Paired differences", heads, rows, 1, [note])


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


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
