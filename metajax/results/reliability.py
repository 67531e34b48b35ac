"""Statistics of whole runs: reliability over seeds, and cost against quality.

Reliability is that of Agarwal et al. ("Deep reinforcement learning at the edge of the statistical
precipice", NeurIPS 2021): interquartile means with intervals over seeds, probability of
improvement, performance profiles. Cost is counted in gradient evaluations and in seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metajax.results import intervals, rounding, tables
from metajax.results import records as report

DRAWS = 2000
QUARTERS = (0.25, 0.5, 0.75)
STARTS_FROM = {"A4 fine-tuned": "A3 joint"}
"""An arm whose training is that of another, which it pays for too."""
COSTS = {
    "gradients of training": "training",
    "gradients per new user": "per_user",
    "seconds of training": "seconds",
}
"""What a cost is called -> its field in `Cost`."""


class Entry(NamedTuple):
    """One arm of one run in one scenario.

    Attributes:
      run: name of the record.
      arm, scenario: as in its keys.
      scores: (S, T) per task.
      tasks: identifies the test tasks; entries can be paired only if it is the same.
    """

    run: str
    arm: str
    scenario: str
    scores: np.ndarray
    tasks: str


class Cost(NamedTuple):
    """Cost and quality of an arm of a run.

    Attributes:
      run, arm: their names.
      training: task gradients of its training, per seed.
      per_user: task gradients of the adaptation to one new user.
      seconds: wall time to train it and to choose its settings, all seeds together.
      quality: the mean of the metric over tasks.
      curve: the mean of the k-shot curve, NaN where there is none.
    """

    run: str
    arm: str
    training: float
    per_user: float
    seconds: float
    quality: float
    curve: float


def shown(metric: str) -> str:
    """A metric as a heading; mse is shown as its root."""
    return "RMSE" if metric == "mse" else metric.upper() if metric in ("mae", "rmse") else metric


def pairs(e: Entry, base: Entry) -> bool:
    """Whether two entries are of the same tasks."""
    return e.tasks == base.tasks and e.scores.shape[1] == base.scores.shape[1]


def oriented(scores: np.ndarray, metric: str) -> np.ndarray:
    """Scores of which more is better: negated if less of the metric is better."""
    return -scores if tables.lower_is_better(metric) else scores


def common(group: Sequence[Entry]) -> list[np.ndarray]:
    """The scores (S, T) of entries on the tasks where each of them is defined."""
    defined = np.logical_and.reduce([~np.isnan(e.scores).any(axis=0) for e in group])
    return [np.asarray(e.scores, np.float64)[:, defined] for e in group]


def reliability(found: Sequence[Entry], reference: str, metric: str) -> tables.Grid:
    """The table of interquartile means, probabilities of improvement and profiles at quartiles.

    An arm is left out where its tasks are not those of the reference, or where it has diverged.
    """
    rows: list[list[str]] = []
    sections: list[int] = []
    for scenario in dict.fromkeys(e.scenario for e in found):
        group = [e for e in found if e.scenario == scenario]
        base = next((e for e in group if e.arm == reference), None)
        if base is None or not np.isfinite(np.nan_to_num(base.scores)).all():
            continue
        kept = [e for e in group if e is base or pairs(e, base)]
        kept = [e for e in kept if not np.isinf(e.scores).any()]
        scores = dict(zip(map(id, kept), common(kept), strict=True))
        sections.append(len(rows))
        for e in kept:
            cells = _row(scores[id(e)], scores[id(base)], metric, e is base)
            rows.append([scenario if len(rows) == sections[-1] else "", e.run, e.arm, *cells])
    heads = ("scenario", "run", "arm", "seeds", f"IQM of {shown(metric)} [95 % over seeds]")
    quarters = tuple(f"> {100 * q:.0f} %" for q in QUARTERS)
    notes = [
        "IQM: mean of the middle half of all seeds x tasks; its interval resamples the seeds of "
        "each task. P(improvement): chance that a seed is better than one of the reference.",
        "> q %: share of seeds x tasks that are better than q % of the reference's (a performance "
        "profile at the reference's quartiles).",
    ]
    headings = (*heads, "P(improvement)", *quarters)
    return tables.Grid("Reliability", headings, rows, 3, notes, sections)


def _row(mine: np.ndarray, base: np.ndarray, metric: str, is_base: bool) -> list[str]:
    i = intervals.stratified_bootstrap(mine, draws=DRAWS)
    interval = "" if np.isnan(i.low) else f" [{i.low:.3f}, {i.high:.3f}]"
    good, base = oriented(mine, metric), oriented(base, metric)
    chance = "reference" if is_base else f"{intervals.probability_of_improvement(good, base):.2f}"
    profile = intervals.performance_profile(good, np.quantile(base, QUARTERS))
    shares = [f"{share:.2f}" for share in profile]
    return [str(len(mine)), f"{i.mean:.4f}{interval}", chance, *shares]


def costs(
    records: Mapping[str, report.Record], scenario: str = "user_cold", metric: str = "mae"
) -> list[Cost]:
    """The cost of every arm of the records that tell it; an arm that two share stands once."""
    found: list[Cost] = []
    seen: dict[str, list[np.ndarray]] = {}
    for name, record in records.items():
        for arm, gradients in sorted((a.name, a.gradients) for a in record.arms if a.gradients):
            key = report.Key(scenario, arm, "all", metric)
            before = seen.setdefault(arm, [])
            if key not in record.scores or any(
                rounding.alike(record.scores[key], other) for other in before
            ):
                continue
            before.append(record.scores[key])
            mean = lambda condition, record=record, arm=arm: (
                report.interval(record.of(scenario, arm, condition, metric), metric).mean
            )
            curve = (
                float(np.mean([mean(f"k={k}") for k in record.shots])) if record.shots else np.nan
            )
            also = STARTS_FROM.get(arm, arm)
            paid = [a for a in record.arms if a.gradients and a.name in (arm, also)]
            training = sum(a.gradients.training for a in paid if a.gradients)
            seconds = sum(np.nan if a.seconds is None else a.seconds for a in paid)
            per_user = np.nan if gradients.per_task is None else gradients.per_task
            told = (float(training), float(per_user), float(seconds))
            found.append(Cost(name, arm, *told, mean("all"), curve))
    return found


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (cost, error) is undominated: no other is as good in one and better in other."""
    dominated = lambda p: any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)
    return [not dominated(p) for p in points]


def cost_table(found: Sequence[Cost], metric: str) -> tables.Grid:
    """The table of costs; a cost is starred where no other arm is as cheap and as good."""
    error: Callable[[Cost], float] = lambda c: (
        c.quality if tables.lower_is_better(metric) else -c.quality
    )
    on_front = [front([(getattr(c, field), error(c)) for c in found]) for field in COSTS.values()]
    rows = []
    for i, c in enumerate(found):
        cells = [
            ("" if np.isnan(value) else f"{value:,.0f}{'*' if stars[i] else ' '}")
            for value, stars in zip((c.training, c.per_user, c.seconds), on_front, strict=True)
        ]
        curve = "" if np.isnan(c.curve) else f"{c.curve:.4f}"
        rows.append([c.run, c.arm, f"{c.quality:.4f}", curve, *cells])
    notes = [
        "A star marks a cost at which no other arm is as cheap and as good. Training: task "
        "gradients per seed, and wall time of all seeds with the choice of settings.",
    ]
    headings = ("run", "arm", shown(metric), "mean of the k-shot curve", *COSTS)
    return tables.Grid("Cost against quality for new users", headings, rows, 2, notes)
