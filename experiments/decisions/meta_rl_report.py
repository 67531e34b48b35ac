"""Tables and pictures of ``meta_rl``, from its record."""

import pathlib
from typing import Any

import numpy as np

from metajax.results import plots, records, tables

from .rl_arms import ORACLE, STEP

NAME, SCENARIO, ASK = "meta_rl", "ClickUsers", "ask_bandit"
SHOTS = (0, 1, 3, 10)
"""Episodes of 20 recommendations that are known of a user."""


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables of a record, and saves its pictures."""
    of_users(record)
    over_episodes(record, folder / "episodes.png")
    if ASK in record.extra:
        of_asking(record.extra[ASK], folder / "asking.png")


def get(record: records.Record, arm: str, condition: str) -> np.ndarray | None:
    """The chances of a click (S, U); None where the arm was not judged so."""
    return record.scores.get(records.Key(SCENARIO, arm, condition, "chance"))


def of_users(record: records.Record) -> None:
    """Chance of a click by episodes known, the gap that is closed, and shuffled rewards."""
    most = f"k={max(SHOTS)}"
    oracle = get(record, ORACLE, "k=0")
    told = f"{record.config['test_users']} new users, {record.config['seeds']} seeds"
    heads = ["arm", *(f"after {k}" for k in SHOTS[:-1]), f"after {SHOTS[-1]} episodes"]
    heads += [f"minus {STEP}", "adapted - start", "of the gap", "shuffled - start"]
    rows = []
    for arm in record.names():
        first, last = get(record, arm, "k=0"), get(record, arm, most)
        mean = [get(record, arm, f"k={k}") for k in SHOTS[:-1]]
        row = ["" if x is None else f"{x.mean():.4f}" for x in mean]
        if first is None or oracle is None:
            continue
        if last is None:
            rows.append([arm, *row, "", "", "", "", ""])
            continue
        mixed, other = get(record, arm, records.N1), get(record, STEP, most)
        gain = records.difference(last, first)
        gap = (last.mean() - first.mean()) / (oracle.mean() - first.mean())
        rows.append([
            arm, *row, f"{records.interval(last, 'chance'):.4f}",
            "" if arm == STEP or other is None else f"{records.difference(last, other):+.4f}",
            f"{gain:+.4f}", f"{gap:.0%}",
            "" if mixed is None else f"{records.difference(mixed, first):+.4f}",
        ])  # fmt: skip
    tables.terminal(tables.Grid(f"ClickUsers: chance of a click, {told}", heads, rows))


def over_episodes(record: records.Record, path: pathlib.Path) -> None:
    """Saves the chance of a click over the episodes known, a line for each arm."""
    with plots.page(path, 2.9) as axes:
        places = np.arange(len(SHOTS))
        for i, arm in enumerate(record.names()):
            told = [get(record, arm, f"k={k}") for k in SHOTS]
            told = [told[0] if x is None else x for x in told]
            if told[0] is None:
                continue
            axes.plot(places, [x.mean() for x in told if x is not None], label=arm, **plots.look(i))
        axes.set_xticks(places, [str(k) for k in SHOTS])
        plots.finish(
            axes, "episodes known of the new user", "chance of a click", len(record.names())
        )


def of_asking(told: dict[str, Any], path: pathlib.Path) -> None:
    """The bandit with an arm that costs and tells all: who learns to ask."""
    title = "one of ten arms earns 1; asking costs .2 and tells which: summed exactly"
    heads = ("learner", "asks at first", "asks", "earns after its step")
    tables.terminal(tables.Grid(title, heads, asking(told)))
    with plots.page(path, 2.4) as axes:
        for i, (arm, each) in enumerate(told.items()):
            x = each["every"] * np.arange(len(each["asks"]))
            axes.plot(x, each["asks"], label=f"{arm} asks", markevery=8, **plots.look(2 * i))
            axes.plot(x, each["earns"], label=f"{arm} earns", markevery=8, **plots.look(2 * i + 1))
        plots.finish(axes, "outer steps", "chance of asking, and return", 4)


def asking(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each learner: how often it asks, before and after training, and what it earns."""
    return [
        (arm, f"{x['asks'][0]:.1%}", f"{x['asks at the end']:.1%}", f"{x['earns at the end']:.3f}")
        for arm, x in told.items()
    ]


def markdown(record: records.Record) -> str:
    """The chances of a click, and the bandit in which asking costs."""
    rows, oracle = [], record.of(SCENARIO, ORACLE, "k=0", "chance")
    for arm in record.names():
        told = [get(record, arm, f"k={k}") for k in SHOTS]
        first, last, mixed = told[0], told[-1], get(record, arm, records.N1)
        gap, dealt = "", ""
        if first is not None and last is not None:
            gap = f"{(last.mean() - first.mean()) / (oracle.mean() - first.mean()):.0%}"
        if first is not None and mixed is not None:
            dealt = f"{records.difference(mixed, first):+.4f}"
        rows.append((arm, *("" if x is None else f"{x.mean():.3f}" for x in told), gap, dealt))
    after = (f"{k} episode" if k == 1 else f"{k} episodes" for k in SHOTS)
    heads = ("policy", *after, "share of the gap to the oracle closed",
             "control: rewards shuffled, minus 0 episodes")  # fmt: skip
    config = record.config
    head = f"{config['test_users']} new users, {config['seeds']} seeds.\n\n"
    second = ("learner", "asks before meta-training", "asks after it", "return after its step")
    both = (
        tables.Grid("Mean chance of a click after K episodes", heads, rows),
        tables.Grid(
            "A bandit in which asking costs .2 and reveals all rewards",
            second,
            asking(record.extra[ASK]),
        ),
    )
    return head + "\n".join(map(tables.markdown, both))
