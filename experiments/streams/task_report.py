"""Tables and pictures of ``online_meta``."""

import pathlib

import numpy as np

from metajax.online import scores
from metajax.results import plots, records, tables
from metajax.results.readings import OLDER

from . import show, task_arms, task_logs, worlds

LINES = [
    task_arms.PLAIN_FROZEN, task_arms.PLAIN, task_arms.PLAIN_ALL, task_arms.FROZEN,
    task_arms.STEP, task_arms.WINDOW, task_arms.FTML, task_arms.MOML,
]  # fmt: skip


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables of a record, and saves its pictures."""
    if "worlds" in record.extra:
        of_worlds(record, folder)
    else:
        of_log(record, folder)


def of_worlds(record: records.Record, folder: pathlib.Path) -> None:
    """Each world: loss, regret to the tracker, fitness, excess after jumps; a plot over time."""
    for world in record.extra["worlds"]:
        get = lambda arm, part=records.ALL, w=world: record.of(w, arm, part, "mse")
        title = f"{world}: mean squared error of {get(task_arms.BEST).size} streams"
        heads = ("all tasks", "regret to the tracker", f"minus {task_arms.PLAIN}", "first 50")
        heads = ("arm", *heads, "last 100", "after a jump", "F to no meta", "gradients", "KB")
        found = [(arm.name, _world_row(record, world, arm)) for arm in record.arms]
        tables.terminal(tables.Grid(title, heads, [[name, *row] for name, row in found if row]))
        if world == "still":
            late = records.difference(
                get(task_arms.FTML, worlds.LAST), get(worlds.OFFLINE, worlds.LAST)
            )
            print(f"independent tasks, last 100: FTML minus {worlds.OFFLINE}: {late:+.4f}")
        place = folder / f"over-time-{world.replace(' ', '-')}.png"
        _curves(record.extra["curves"][world], place, "regret to the Bayes tracker", "tasks")
    for world in ("jumps", "walk and jumps"):
        place = folder / f"recovery-{world.replace(' ', '-')}.png"
        _curves(
            record.extra["recovery"][world], place, "excess over the tracker", "since a jump", 1
        )


def _world_row(record: records.Record, world: str, arm: records.Arm) -> list[str]:
    """The cells of an arm in the table of a world; empty if it was not played there."""
    key = lambda part, name=arm.name: records.Key(world, name, part, "mse")
    if key(worlds.LAST) not in record.scores:
        return []
    mean = lambda part: f"{np.mean(record.scores[key(part)]):.3f}"
    if key(records.ALL) not in record.scores:
        return ["", "", "", "", mean(worlds.LAST), "", "", "", ""]
    own, best = record.scores[key(records.ALL)], record.scores[key(records.ALL, task_arms.BEST)]
    plain = record.scores[key(records.ALL, task_arms.PLAIN)]
    jump = record.scores[key(worlds.JUMP)]
    after = f"{np.nanmean(jump):.3f}" if np.isfinite(jump).any() else ""
    fit = scores.fitness(own[0], record.scores[key(records.ALL, task_arms.PLAIN_FROZEN)][0])
    return [
        f"{own.mean():.3f}", f"{records.difference(own, best):+.3f}",
        f"{records.difference(own, plain):+.3f}", mean(worlds.EARLY), mean(worlds.LAST), after,
        f"{fit.geometric:.3f}", f"{arm.settings['gradients']:.1f}",
        f"{(arm.bytes_per_task or 0) / 1e3:.1f}",
    ]  # fmt: skip


def _curves(
    curves: dict[str, list], path: pathlib.Path, label: str, unit: str, each: int = 10
) -> None:
    """Saves curves of arms, the tracker's taken off where it has one."""
    base = np.asarray(curves.get(task_arms.BEST, 0.0)) if each > 1 else 0.0
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(LINES):
            values = np.asarray(curves[arm]) - base
            x = each * np.arange(1, len(values) + 1)
            axes.plot(x, values, label=arm, markevery=max(1, len(values) // 6), **plots.look(i))
        axes.set_ylim(bottom=0)
        plots.finish(axes, f"tasks {unit}" if each == 1 else "tasks met", label, len(LINES))


def users(record: records.Record, arm: str, metric: str, group: str) -> scores.UserLosses:
    """Losses of a group's tasks by user, seeds averaged, users without any left out."""
    mean = record.of(record.scenario, arm, group, metric).mean(axis=0)
    count = np.asarray(record.extra[show.EVENTS_OF][group], float)
    real = count > 0
    return scores.UserLosses(mean[real] * count[real], count[real])


def minus(a: scores.UserLosses, b: scores.UserLosses) -> scores.EventMean:
    """The mean loss of a task less that of another arm, paired by user."""
    return scores.mean_of_events(scores.UserLosses(a.total - b.total, a.count))


def of_log(record: records.Record, folder: pathlib.Path) -> None:
    """The tables of all tasks, new and returning users, and costs; a plot over time."""
    for metric in show.measures(record):
        tables.terminal(_log_table(record, metric))
    everyone = lambda arm, metric: users(record, arm, metric, records.ALL)
    show.distributions(record, everyone, "a task")
    lead = show.measures(record)[0]
    if lead == "brier":
        print("The log has no ratings: clicks among drawn items have a Brier score, and no RMSE.")
    elif lead == "mae":
        print(OLDER)
    _told_after(record)
    lines = [arm for arm in LINES if arm != task_arms.PLAIN_FROZEN]
    name = tables.of_differences(lead)
    show.over_time(
        record, folder / "over-time.png", lines, f"{name} minus no meta, frozen",
        task_arms.PLAIN_FROZEN,
    )  # fmt: skip


def _log_table(record: records.Record, metric: str) -> tables.Grid:
    """A measure of the tasks of a log: its mean by group, differences, and, if it leads, costs."""
    warm, test, new = record.extra["tasks"]
    name, gap = tables.heading(metric), tables.of_differences(metric)
    title = f"{record.scenario}: {name} of {test:,} tasks ({new:,} new users) after {warm:,}"
    heads = [f"{name} [95 %]", f"{gap} minus {task_arms.PLAIN}", "new users", "returning"]
    heads = ["arm", *heads, f"backward transfer, {gap}"]
    leads = metric == show.measures(record)[0]
    if leads:
        heads += ["F to means", "share F<1", "gradients", "ms a task", "KB"]
    rows = []
    for arm in record.arms:
        get = lambda group, name=arm.name: users(record, name, metric, group)
        own, plain = get(records.ALL), users(record, task_arms.PLAIN, metric, records.ALL)
        first, again, told = get(task_logs.NEW), get(task_logs.BACK), arm.settings
        gain = minus(first, again) if tables.lower_is_better(metric) else minus(again, first)
        cells = [
            show.interval(show.mean(own, metric)),
            "" if arm.name == task_arms.PLAIN else show.interval(minus(own, plain), sign=True),
            *(f"{show.mean(x, metric, draws=1).mean:.4f}" for x in (first, get(task_logs.OLD))),
            f"{gain.mean:+.4f}",
        ]
        if leads:
            base = users(record, task_arms.BASE, metric, records.ALL)
            fit = scores.fitness(own.total / own.count, base.total / base.count)
            cells += [
                f"{fit.geometric:.3f}", f"{fit.below:.2f}", f"{told.get('gradients', 0):.1f}",
                f"{told.get('ms_per_task', 0):.2f}", f"{(arm.bytes_per_task or 0) / 1e3:.0f}",
            ]  # fmt: skip
        rows.append([arm.name, *cells])
    notes = ["nDCG@5 ranks what a task asks about."] if metric == "ndcg@5" else []
    return tables.Grid(title, heads, rows, notes=notes)


def _told_after(record: records.Record) -> None:
    """Prints after how many tasks FTML's summed loss stays below that of learning without meta."""
    curves, test = record.extra["curves"], record.extra["tasks"][1]
    ahead = np.cumsum(np.asarray(curves[task_arms.PLAIN]) - np.asarray(curves[task_arms.FTML]))
    behind = np.flatnonzero(ahead <= 0)
    if len(behind) == len(ahead) or (len(behind) and behind[-1] == len(ahead) - 1):
        print(f"{task_arms.FTML} is not ahead of {task_arms.PLAIN} at the end, in summed loss")
        return
    first = 0 if not len(behind) else (behind[-1] + 1) * test // len(ahead)
    print(f"{task_arms.FTML} is ahead of {task_arms.PLAIN} in summed loss from task {first:,} on")
