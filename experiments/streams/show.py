"""Tables and pictures of streams, read from records alone."""

import datetime
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from metajax.online import scores as found
from metajax.results import plots, records, tables

EVENTS_OF = "events_of"
"""Where ``extra`` holds how many events each user of the test has."""


SHUFFLED = ", times shuffled"
"""What the scenario of the control is called, behind the name of the data set."""


def users(record: records.Record, arm: str, metric: str, scenario: str = "") -> found.UserLosses:
    """The losses of an arm by user, seeds averaged."""
    scenario = scenario or record.scenario
    mean = record.of(scenario, arm, records.ALL, metric).mean(axis=0)
    mixed = SHUFFLED if scenario.endswith(SHUFFLED) else ""
    count = np.asarray(record.extra[f"{EVENTS_OF}{mixed}"], float)
    return found.UserLosses(mean * count, count)


def difference(
    record: records.Record, arm: str, other: str, metric: str, scenario: str = ""
) -> found.EventMean:
    """The mean loss of an event less that of another arm, paired by user."""
    a, b = (users(record, name, metric, scenario) for name in (arm, other))
    return found.mean_of_events(found.UserLosses(a.total - b.total, a.count))


def interval(value: found.EventMean, sign: bool = False) -> str:
    """A mean with its interval, as tables have it."""
    plus = "+" if sign else ""
    return f"{value.mean:{plus}.4f} [{value.low:{plus}.4f}, {value.high:{plus}.4f}]"


def mean(losses: found.UserLosses, metric: str, **how: int) -> found.EventMean:
    """The mean over events with its interval over users; that of squared errors as its root."""
    mean, squared = found.mean_of_events(losses, **how), metric in ("mse", "mse_calibrated")
    return found.EventMean(*np.sqrt(mean).tolist()) if squared else mean


def measures(record: records.Record) -> list[str]:
    """The measures of a stream that tables show, the first of which leads.

    Those of distributions over ratings are `believed_in`.
    """
    known = {key.metric for key in record.scores} - set(believed_in(record))
    return [m for m in ("mse", "ndcg@5", "mae", "log_loss", "brier") if m in known]


def believed_in(record: records.Record) -> list[str]:
    """The measures of distributions over ratings that a record has; none if it has no ratings."""
    known = {key.metric for key in record.scores}
    return [m for m in tables.CALIBRATED if m in known] if "crps" in known else []


def distributions(
    record: records.Record,
    losses: Callable[[str, str], found.UserLosses] | None = None,
    unit: str = "an event",
) -> None:
    """Prints what an ordinal link makes of each arm's scores, where the record has it.

    Args:
      losses: (arm, metric) -> losses by user; those of `users` by default.
      unit: what means are over.
    """
    shown = believed_in(record)
    if not shown:
        return
    of = losses or (lambda arm, metric: users(record, arm, metric))
    cell = lambda arm, m: interval(mean(of(arm, m), m))
    title = f"{record.scenario}: distributions over ratings, means of {unit}"
    heads = ("arm", *(f"{tables.heading(m)} [95 %]" for m in shown))
    rows = [[arm, *(cell(arm, m) for m in shown)] for arm in record.names()]
    tables.terminal(tables.Grid(title, heads, rows, notes=tables.of_the_link(record)))


def table(record: records.Record, metric: str, reference: str, baseline: str) -> None:
    """Prints each arm: loss, difference to the reference, fitness, what it cost."""
    title = f"{record.scenario}: {len(record.extra[EVENTS_OF]):,} users of the test"
    gap = f"{tables.of_differences(metric)} minus {reference}"
    heads = ("arm", f"{tables.heading(metric)} of an event", gap, f"F to {baseline}", "share F<1")
    rows = []
    for arm in record.arms:
        own, base = users(record, arm.name, metric), users(record, baseline, metric)
        fit = found.fitness(own.total / own.count, base.total / base.count)
        cost = arm.settings
        gap = "" if arm.name == reference else interval(
            difference(record, arm.name, reference, metric), sign=True
        )  # fmt: skip
        rows.append([
            arm.name, interval(mean(own, metric)), gap,
            f"{fit.geometric:.3f}", f"{fit.below:.2f}",
            f"{cost.get('gradients_per_event', 0.0):.2f}", f"{cost.get('us_per_event', 0.0):.2f}",
        ])  # fmt: skip
    heads = (*heads, "gradients an event", "us an event")
    tables.terminal(tables.Grid(title, heads, rows))


def over_time(
    record: records.Record, path: pathlib.Path, arms: list[str], label: str, minus: str = ""
) -> None:
    """Saves the loss of arms over time, in windows of equally many events.

    Args:
      minus: an arm whose curve is taken off the others.
    """
    curves: dict[str, Any] = record.extra["curves"]
    times = record.extra.get("times")
    base = np.asarray(curves[minus]) if minus else 0.0
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(arms):
            values = np.asarray(curves[arm]) - base
            x = np.arange(len(values)) if times is None else _dates(times)
            axes.plot(x, values, label=arm, markevery=max(1, len(values) // 6), **plots.look(i))
        if minus:
            axes.axhline(0.0, color="#666666", linewidth=0.7)
        axes.tick_params(axis="x", rotation=30)
        plots.finish(axes, "time" if times else "stretch of the stream", label, len(arms))


def _dates(times: list[int]) -> list[datetime.datetime]:
    zone = datetime.UTC
    return [datetime.datetime.fromtimestamp(t, zone).replace(tzinfo=None) for t in times]


def pareto(record: records.Record, path: pathlib.Path, metric: str) -> None:
    """Saves quality against time for each event, the undominated arms joined."""
    cost = {arm.name: arm.settings.get("us_per_event", np.nan) for arm in record.arms}
    points = {
        name: (float(us), mean(users(record, name, metric), metric, draws=1).mean)
        for name, us in cost.items()
    }
    plots.pareto(points, path, "processor time, us an event", tables.heading(metric))
