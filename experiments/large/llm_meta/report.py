"""Table, differences and plot of `llm_meta`, read from the record alone."""

import pathlib

import numpy as np

from metajax.benchmark import baselines
from metajax.results import plots, readings, records
from metajax.results.schema import N1

from .. import report as large_report
from ..llm_uses.prompts import RATING
from ..llm_uses.report import permuted
from .ways import FIRST, LAST, LORA, PROMPT, REPTILE, SECOND, TUNED

SCENARIO = "known items, new people"
METRICS = ("mse", "ndcg@5")


def arm(kind: str, how: str) -> str:
    """The name of an arm."""
    return f"{kind}, {how}"


def shuffled(shots: int) -> str:
    """The condition in which labels are shuffled among so many ratings."""
    return f"k={shots}, {N1}"


def shots_of(record: records.Record) -> list[int]:
    """The numbers of ratings, in order."""
    found = {key.condition.removeprefix("k=") for key in record.scores}
    return sorted(int(k) for k in found if k.isdigit())


def pairs(record: records.Record) -> list[tuple[str, str]]:
    """What is compared with what, as far as the record has it."""
    asked = []
    for kind in (PROMPT, LORA):
        best = arm(kind, SECOND)
        asked += [(best, arm(kind, how)) for how in (FIRST, REPTILE, TUNED)]
        asked += [(best, arm(LAST, SECOND)), (best, permuted(best)), (best, RATING)]
        asked += [(best, baselines.A1), (best, baselines.A2), (best, baselines.A7)]
    asked += [(arm(LAST, SECOND), arm(LAST, TUNED)), (arm(LAST, SECOND), baselines.A1)]
    there = {key.arm for key in record.scores}
    return [(a, b) for a, b in asked if a in there and b in there]


def diverged(record: records.Record) -> set[str]:
    """The arms whose error after all ratings is far off that of the item mean."""
    last = f"k={shots_of(record)[-1]}"
    far = lambda name: readings.diverged(record, record.scenario, name, last, "mse")
    return {name for name in record.names() if far(name)}


def show(record: records.Record, folder: pathlib.Path) -> None:
    """Prints a table of each metric, and the differences it is about; saves the plots."""
    shots, facts = shots_of(record), record.extra
    title = f"{facts['people']} new people, {record.dataset}, {facts['model']}: after K ratings"
    large_report.rated(record, [f"k={k}" for k in shots], title, quoted=False)
    last, lost = shots[-1], diverged(record)
    for metric in METRICS:
        column = (f"k={last}", metric)
        kept = [pair for pair in pairs(record) if not lost.intersection(pair)]
        large_report.differences(record, f"{metric}, K={last}", column, kept)
    get = lambda name, condition, metric: record.of(record.scenario, name, condition, metric)
    for name in record.names():
        if records.Key(record.scenario, name, shuffled(last), "mse") in record.scores:
            gap = records.difference(
                get(name, f"k={last}", "mse"), get(name, shuffled(last), "mse")
            )
            print(f"mse, K={last}: {name} - the same with shuffled labels: {gap:+.4f}")
    for name in sorted(lost):
        print(
            f"{name}: diverged. After {last} ratings its squared error is more than "
            f"{readings.FAR_OFF:g} times that of the item mean, and it is compared with nothing"
        )
    print(
        f"in words: {facts['asked']} of these people; the soft prompt has {facts['prompt']} vectors"
    )
    draw(record, folder)


def draw(record: records.Record, folder: pathlib.Path) -> None:
    """Saves the root mean squared error over the number of ratings, a plot for each adapter."""
    shots, others = shots_of(record), (arm(LAST, SECOND), baselines.A1, baselines.A7)
    for kind in (PROMPT, LORA):
        path = folder / f"curves-{kind.replace(' ', '-')}.png"
        own = [name for name in record.names() if name.startswith(f"{kind}, ")]
        shown = [*own, *(name for name in others if name in record.names())]
        with plots.page(path, 3.2) as axes:
            for i, name in enumerate(shown):
                keys = [records.Key(record.scenario, name, f"k={k}", "mse") for k in shots]
                means = [records.interval(record.scores[key], "mse").mean for key in keys]
                label = name.removeprefix(f"{kind}, ")
                axes.plot(np.arange(len(shots)), means, label=label, **plots.look(i))
            axes.set_xticks(np.arange(len(shots)), [str(k) for k in shots])
            plots.finish(axes, "ratings known of the person", f"RMSE in stars, {kind}", len(shown))
        print(f"plot   {path}")
