"""Tables and pictures of decisions, read from records alone."""

import pathlib

import numpy as np

from metajax.results import plots, records, tables

from . import arms


def bandit(record: records.Record, folder: pathlib.Path) -> None:
    """Prints rewards and differences in each world, and saves regret over rounds."""
    first = record.extra["first"]
    for world, told in record.extra["worlds"].items():
        get = lambda arm, n, w=world: record.of(w, arm, f"first {n}", "reward")
        people, seeds = get(arms.META, 5).shape[1], record.config["seeds"]
        title = (
            f"{world}: mean reward of a round in {told['unit']}, {people} new users, "
            f"{seeds} seeds; below, {arms.META} minus the arm, paired by user"
        )
        rows = [[a, *(f"{get(a, n).mean():.3f}" for n in first)] for a in record.names()]
        for arm in record.names()[1:]:
            gaps = [records.difference(get(arms.META, n), get(arm, n)) for n in first]
            rows.append([f"minus {arm}", *(f"{gap:+.3f}" for gap in gaps)])
        heads = ["arm", *(f"first {n}" for n in first)]
        told = [verdict(record, world, own) for own in (arms.META, arms.META_UCB)]
        tables.terminal(tables.Grid(title, heads, rows, 1, told, [len(record.arms)]))
        regret(record, world, folder / f"{world}.png")


def rivals(record: records.Record) -> list[str]:
    """The policies without meta-learning that act on what they know."""
    return [n for n in record.names(records.BASELINE) if n not in (arms.ORACLE, arms.RANDOM)]


def verdict(record: records.Record, world: str, own: str) -> str:
    """Whether a policy with the meta-learned prior meets the target, in a sentence."""
    get = lambda arm, n: record.of(world, arm, f"first {n}", "reward")
    told = []
    for n in (5, 10):
        gaps = {a: records.difference(get(own, n), get(a, n)) for a in rivals(record)}
        short = [a for a, gap in gaps.items() if gap.low <= 0]
        ahead = "ahead of every policy without meta-learning"
        behind = f"not clearly ahead of {', '.join(short)}"
        told.append(f"first {n} rounds {behind if short else ahead}")
    top = max(rivals(record), key=lambda a: get(a, 50).mean())
    share = get(own, 50).mean() / get(top, 50).mean() - 1
    return (
        f"{own}: {'; '.join(told)}; first 50: {100 * share:+.2f} % beside {top}, the best of these"
    )


def regret(record: records.Record, world: str, path: pathlib.Path) -> None:
    """Saves the regret summed over rounds, a line for each arm that is no control."""
    curves = record.extra["worlds"][world]["curves"]
    best = np.asarray(curves[arms.ORACLE])
    names = [arm.name for arm in record.arms if arm.role != records.CONTROL]
    names = [n for n in names if n not in (arms.ORACLE, arms.RANDOM)]  # far off the scale
    with plots.page(path, 3.3) as axes:
        for i, name in enumerate(names):
            total = np.cumsum(best - np.asarray(curves[name]))
            rounds = np.arange(1, len(total) + 1)
            axes.plot(rounds, total, label=name, markevery=7, **plots.look(i))
        unit = record.extra["worlds"][world]["unit"].split(",")[0]
        plots.finish(axes, "round", f"regret so far, {unit}", len(names))
