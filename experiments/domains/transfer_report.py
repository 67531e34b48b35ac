"""Tables and pictures of negative_transfer, read from records alone."""

import pathlib

import numpy as np

from metajax.results import groups, intervals, plots, records, tables

from . import shots

SCRATCH, TRANSFER = "scratch", "plain transfer"
GATED, UNGATED, RANDOM_GATE = "gated distillation", "without the gate", "random gate"
REWEIGHTED, EXPERTS, PCGRAD = "source reweighted", "decorrelated experts", "PCGrad"
JOINT = "joint prior"
TRANSFER_WRONG, GATED_WRONG = "plain, random second task", "gated, random second task"

TUNED = (SCRATCH, TRANSFER, UNGATED, GATED, REWEIGHTED, EXPERTS, PCGRAD, JOINT)
"""Arms with settings of their own, scratch first."""
GATES = (GATED, GATED_WRONG)
"""Arms that validation may close."""
WRONG = (TRANSFER_WRONG, GATED_WRONG)
"""Arms whose source behaviour is somebody else's."""
SHOWN = (*TUNED, RANDOM_GATE, *WRONG)
SAME = {
    RANDOM_GATE: (RANDOM_GATE, GATED),
    TRANSFER_WRONG: (TRANSFER, TRANSFER),
    GATED_WRONG: (GATED, GATED_WRONG),
}
"""Control -> the form that it takes, and the arm whose settings it takes."""
CURES = (TRANSFER, GATED, REWEIGHTED, EXPERTS, PCGRAD, JOINT)
CONTROLS = (UNGATED, RANDOM_GATE, TRANSFER_WRONG, GATED_WRONG)
ROLES = dict.fromkeys((SCRATCH, TRANSFER), records.BASELINE) | {GATED: records.METHOD}
ROLES |= dict.fromkeys((RANDOM_GATE, *WRONG), records.CONTROL) | {UNGATED: records.ABLATION}
ROLES |= dict.fromkeys((REWEIGHTED, EXPERTS, PCGRAD, JOINT), records.BASELINE)
EPS = 0.01
"""The loss that the gated cure may cost at most, as a share of the loss of scratch."""


def gain(record: records.Record, scenario: str, arm: str, condition: str) -> intervals.Interval:
    """G = L(scratch) - L(arm), paired by person; below 0, transfer hurts."""
    get = lambda name: record.of(scenario, name, condition, "mse")
    return records.difference(get(SCRATCH), get(arm))


def loss(record: records.Record, scenario: str, condition: str) -> float:
    """The mean squared error of scratch."""
    return float(np.mean(record.of(scenario, SCRATCH, condition, "mse")))


def safe(record: records.Record, scenario: str, condition: str, arm: str = GATED) -> str:
    """Whether the arm's gain is above -eps: "yes" if the whole interval is, "no" if none of it."""
    found, eps = gain(record, scenario, arm, condition), EPS * loss(record, scenario, condition)
    if found.low >= -eps:
        return "yes"
    return "no" if found.high < -eps else "unclear"


def opened(record: records.Record, scenario: str, condition: str, arm: str = GATED) -> bool:
    """Whether validation opened the gate."""
    told = next(a for a in record.arms if a.name == arm).settings
    return bool(told[f"{scenario}, {condition}"]["open"])


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the gains and what they say, and saves a picture."""
    for condition in record.extra["conditions"]:
        tables.terminal(gains(record, condition))
        tables.terminal(controls(record, condition))
    last = record.extra["conditions"][-1]
    worst = min(record.extra["scenarios"], key=lambda s: gain(record, s, TRANSFER, last).mean)
    title = f"{record.dataset}, {worst}, where plain transfer does worst: MSE at {told(last)}"
    groups.show(
        record, worst, (GATED, SCRATCH, TRANSFER), "mse", title=title, condition=last,
        pair=(TRANSFER, SCRATCH),
    )  # fmt: skip
    for condition in record.extra["conditions"]:
        print(summary(record, condition))
    if record.extra["rhos"]:
        over_rho(record, folder / "gain.png")
    else:
        over_pairs(record, folder / "gain.png")
    print(f"plot   {folder}/gain.png")


def gains(record: records.Record, condition: str) -> tables.Grid:
    """The gain of each cure in each pair of domains."""
    rows = []
    for scenario in record.extra["scenarios"]:
        people = record.of(scenario, SCRATCH, condition, "mse").shape[1]
        cells = [shots.signed(gain(record, scenario, arm, condition)) for arm in CURES]
        gate = "open" if opened(record, scenario, condition) else "closed"
        first = f"{loss(record, scenario, condition):.3f}"
        rows.append([scenario, str(people), first, *cells, gate, safe(record, scenario, condition)])
    heads = ["domains", "people", f"L({SCRATCH})", *CURES, "gate", "gated >= -eps"]
    title = f"{record.dataset or 'TwoDomains'}, {told(condition)}: transfer gain in MSE"
    note = f"eps is {EPS:.0%} of L({SCRATCH}). A star marks an interval that excludes 0."
    return tables.Grid(title, heads, rows, notes=[note])


def controls(record: records.Record, condition: str) -> tables.Grid:
    """The gain of what has no gate, or the wrong one, or the wrong source."""
    rows = [
        [s, *(shots.signed(gain(record, s, arm, condition)) for arm in CONTROLS)]
        for s in record.extra["scenarios"]
    ]
    return tables.Grid(f"{told(condition)}: the same of controls", ["domains", *CONTROLS], rows)


def told(condition: str) -> str:
    """A condition in words."""
    return f"K = {condition.removeprefix('k=')}"


def summary(record: records.Record, condition: str) -> str:
    """In how many pairs of domains transfer hurts, and whether the gated cure is safe."""
    places = record.extra["scenarios"]
    found = {s: gain(record, s, TRANSFER, condition) for s in places}
    hurt = [s for s, g in found.items() if g.high < 0]
    helped = [s for s, g in found.items() if g.low > 0]
    cured = [safe(record, s, condition) for s in places]
    yes, no, unclear = (cured.count(k) for k in ("yes", "no", "unclear"))
    wrong = sum(opened(record, s, condition, GATED_WRONG) for s in places)
    worst = min(places, key=lambda s: found[s].mean)
    return (
        f"{told(condition)}: plain transfer hurts in {len(hurt)} of {len(places)} "
        f"({'; '.join(hurt) or 'none'}) and helps in {len(helped)}; the worst is {worst}. "
        f"The gated cure is above -eps in {yes}, below in {no}, unclear in {unclear}. "
        f"With a random second task the gate opened in {wrong}."
    )


def over_rho(record: records.Record, path: pathlib.Path) -> None:
    """Saves the gain over rho after the first number of ratings."""
    condition, rhos = record.extra["conditions"][0], record.extra["rhos"]
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(CURES):
            found = [gain(record, s, arm, condition) for s in record.extra["scenarios"]]
            plots.banded(axes, i, rhos, found, arm)
        axes.axhline(0.0, color="#666666", linewidth=0.7, linestyle="--")
        plots.finish(
            axes,
            "rho, the correlation of the two tastes",
            f"transfer gain in MSE, {told(condition)}",
            len(CURES),
        )


def over_pairs(record: records.Record, path: pathlib.Path) -> None:
    """Saves the gain of plain transfer and of the gated cure in each pair of domains."""
    condition = record.extra["conditions"][-1]
    rows = [
        (f"{scenario}: {arm}", gain(record, scenario, arm, condition))
        for scenario in record.extra["scenarios"]
        for arm in (TRANSFER, GATED)
    ]
    plots.forest(rows, path, f"transfer gain in MSE, {told(condition)}")
