"""Tables and pictures of the large case: arms by known events, registered differences, control."""

import pathlib

import numpy as np
from rich.console import Console

from metajax.results import intervals, plots, records
from metajax.results.records import Record
from metajax.results.tables import Grid, terminal

from . import case
from .judge import SHOTS

METRICS = ("accuracy", "precision", "recall", "f1", "recall@100")
AT = 10
"""Known events at which the hypotheses are judged."""
MARGIN = 0.005
"""Accuracy that counts as an effect in the control."""
CLAIM = 0.04
"""Accuracy that H3 claims."""
NOTHING = "no effect, as it must be"
FAILED = (
    "The control found leads where there is nothing to adapt to: what stands above is not the "
    "effect of adaptation alone. The table of what the events add leaves such leads out."
)
OPPONENTS = {
    case.JOINT: "H1",
    case.TUNED: "H2",
    case.HISTORY: "H3",
    case.TOWERS: "H3",
}


def of(record: Record, shop: str, arm: str, shots: int, metric: str) -> np.ndarray:
    """Scores (S, T)."""
    return record.of(shop, arm, f"K={shots}", metric)


def registered(record: Record, shop: str) -> list[tuple[str, str, intervals.Interval, float]]:
    """The registered comparisons: hypothesis, opponent, difference, p adjusted by Holm."""
    ours = of(record, shop, case.RIDGE, AT, "accuracy")
    found = [
        (name, arm, records.difference(ours, of(record, shop, arm, AT, "accuracy")))
        for arm, name in OPPONENTS.items()
    ]
    adjusted = intervals.holm(np.array([gap.p for _, _, gap in found]))
    return [(*row, float(p)) for row, p in zip(found, adjusted, strict=True)]


def verdicts(record: Record, shop: str) -> dict[str, bool]:
    """Which hypotheses hold, by the registered rules."""
    rows = registered(record, shop)
    above = {arm: gap.low > 0 and p < 0.05 for _, arm, gap, p in rows}
    enough = [gap.low >= CLAIM and p < 0.05 for name, _, gap, p in rows if name == "H3"]
    return {"H1": above[case.JOINT], "H2": above[case.TUNED], "H3": all(enough)}


def gained(record: Record, shop: str) -> list[tuple[str, intervals.Interval]]:
    """What the events add to the lead over each opponent: that at K = 10 minus that at K = 0.

    Not registered: it leaves out what is ahead before any event is known.
    """
    found = []
    for other in OPPONENTS:
        lead = {
            k: of(record, shop, case.RIDGE, k, "accuracy") - of(record, shop, other, k, "accuracy")
            for k in (SHOTS[0], AT)
        }
        found.append((other, records.difference(lead[AT], lead[SHOTS[0]])))
    return found


def control(record: Record, shop: str) -> list[str]:
    """What the control found that it may not find; empty if it is clean."""
    found = [
        f"{case.RIDGE} minus {arm}: {gap.mean:+.4f}"
        for _, arm, gap, p in registered(record, shop)
        if p < 0.05 and abs(gap.mean) > MARGIN
    ]
    for arm in record.names():
        first, last = (of(record, shop, arm, k, "accuracy") for k in (SHOTS[0], SHOTS[-1]))
        gain = records.difference(last, first)
        if gain.low > 0 and gain.mean > MARGIN:
            found.append(f"{arm} gains {gain.mean:+.4f} from K = 0 to K = 20")
    return found


def show(record: Record) -> None:
    """Prints every table of the record."""
    console = Console()
    if not console.is_terminal:
        console.width = 190
    for shop, facts in record.extra["data"].items():
        said = (
            f"{facts['users']:,} users, {facts['items']:,} items, {facts['events']:,} events; "
            f"{facts['test_users']:,} test users, positive rate {facts['positive_rate']:.3f}"
        )
        console.print(f"\n{shop}: {said}")
        for metric in METRICS:
            terminal(_means(record, shop, metric), console)
        for metric in ("accuracy", "f1", "recall@100"):
            terminal(_differences(record, shop, metric), console)
        terminal(_registered(record, shop), console)
        terminal(_gained(record, shop), console)
        if shop == "tau=0":
            console.print("control: " + ("; ".join(control(record, shop)) or NOTHING))
        else:
            told = verdicts(record, shop)
            console.print(", ".join(f"{n} {'holds' if v else 'fails'}" for n, v in told.items()))
    if "tau=0" in record.extra["data"] and control(record, "tau=0"):
        console.print(FAILED)
    took = record.total_seconds / 60
    memory = record.peak_memory["host_mb"] / 1e3
    console.print(f"{took:.1f} minutes, {memory:.1f} GB at the most")


def _means(record: Record, shop: str, metric: str) -> Grid:
    """Means of every arm at every number of known events."""
    rows = []
    for arm in record.names():
        made = [np.nanmean(of(record, shop, arm, k, metric)) for k in SHOTS]
        rows.append([arm, *(f"{value:.4f}" for value in made)])
    return Grid(f"{shop}, {metric}", ["arm", *(f"K = {k}" for k in SHOTS)], rows)


def _differences(record: Record, shop: str, metric: str) -> Grid:
    """The ridge head minus every other arm, paired by user, with 95 % intervals."""
    rows = []
    for arm in record.names():
        if arm == case.RIDGE:
            continue
        cells = []
        for k in SHOTS:
            ours, theirs = (of(record, shop, a, k, metric) for a in (case.RIDGE, arm))
            gap = records.difference(ours, theirs)
            cells.append(f"{gap:+.3f}")
        rows.append([arm, *cells])
    heads = ["arm", *(f"K = {k}" for k in SHOTS)]
    return Grid(f"{shop}, {metric}: {case.RIDGE} minus", heads, rows)


def _registered(record: Record, shop: str) -> Grid:
    heads = ("arm", "hypothesis", "accuracy, difference at K = 10", "p, Holm")
    found = registered(record, shop)
    rows = [(arm, name, f"{gap:+.4f}", f"{p:.4f}") for name, arm, gap, p in found]
    return Grid(f"{shop}, registered: {case.RIDGE} minus", heads, rows)


def _gained(record: Record, shop: str) -> Grid:
    rows = [(arm, f"{gap:+.4f}") for arm, gap in gained(record, shop)]
    title = f"{shop}, not registered: lead of the {case.RIDGE}"
    return Grid(title, ("arm", "K = 10 minus K = 0"), rows)


def pictures(record: Record, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws accuracy and recall against known events, a file for each shop and metric."""
    made = []
    for shop in record.extra["data"]:
        for metric in ("accuracy", "recall@100"):
            path = folder / f"{shop.replace('=', '-')}-{metric.replace('@', '-')}.png"
            with plots.page(path) as axes:
                for i, arm in enumerate(record.names()):
                    values = [np.nanmean(of(record, shop, arm, k, metric)) for k in SHOTS]
                    axes.plot(range(len(SHOTS)), values, label=arm, **plots.look(i))
                axes.set_xticks(range(len(SHOTS)), [str(k) for k in SHOTS])
                axes.set_xlabel("known events")
                axes.set_ylabel(metric)
                plots.legend(axes, len(record.names()))
            made.append(path)
    return made
