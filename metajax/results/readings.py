"""What can be read off a record: its metrics, the effect of controls, divergence, openings."""

import numpy as np

from metajax.results import intervals, records

MEASURES = {
    "mse": "RMSE",
    "ndcg@5": "nDCG@5",
    "mae": "MAE",
    "mae_calibrated": "MAE cal.",
    "mse_calibrated": "RMSE cal.",
    "log_loss": "log-loss",
    "crps": "CRPS",
}
"""What a table of ratings shows, in this order, where the record has it: how it is headed."""
OLDER = (
    "This record is older than the squared errors and nDCG@5 that a new run stores and leads with; "
    "it has absolute errors alone."
)
FAR_OFF = 2.0
"""An arm with so many times the squared error of the item mean is taken for diverged."""


def heading(metric: str) -> str:
    """A metric as a heading; mse is shown as its root.

    >>> heading("mse"), heading("mae"), heading("ndcg@5")
    ('RMSE', 'MAE', 'nDCG@5')
    """
    short = MEASURES | {"rmse": "RMSE", "auc": "AUC"}
    return short.get(metric, metric.replace("ndcg", "nDCG"))


def of_differences(metric: str) -> str:
    """What differences of a metric are headed with: those of mse are of squared errors."""
    return heading(metric).replace("RMSE", "MSE")


LOWER = (
    *("mae", "mse", "rmse", "loss", "log_loss", "nll", "brier", "ece", "crps"),
    *("mae_calibrated", "mse_calibrated"),
)


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of the metric is the better one."""
    return metric in LOWER or metric.endswith(" error")


def rated(record: records.Record) -> bool:
    """Whether a record has squared errors of ratings, with which its table then begins."""
    return metrics_of(record)[:1] == ["mse"]


def metrics_of(record: records.Record, scenario: str = "") -> list[str]:
    """The metrics of a record, or of one scenario; the first is the one that compares arms."""
    mine = [k for k in record.scores if scenario in ("", k.scenario)]
    known = dict.fromkeys(key.metric for key in mine if key.condition == records.ALL)
    return [*(m for m in MEASURES if m in known), *(m for m in known if m not in MEASURES)]


def gap(
    record: records.Record,
    scenario: str,
    arm: str,
    control: str = records.N1,
    metric: str = "",
) -> intervals.Interval:
    """A metric of an arm under a control minus without it, paired by task.

    Args:
      control: a condition of the support, such as `records.N1`.
      metric: the record's first by default.

    Raises:
      UserError: the record has no such scores.
    """
    metric = metric or metrics_of(record)[0]
    changed = record.of(scenario, arm, control, metric)
    return records.difference(changed, record.of(scenario, arm, records.ALL, metric))


def adapts(found: intervals.Interval, metric: str = "mae") -> bool:
    """Whether the arm is worse under a control than without it: the interval of the gap excludes 0.

    Args:
      found: of `gap`.
      metric: which decides the direction that is worse.
    """
    return found.low > 0 if lower_is_better(metric) else found.high < 0


TASTE, LEVEL, NOTHING = "to taste", "to the level only", "not at all"
UNTASTED = "not to taste"
"""Where no control says whether it adapts to the level."""


def adaptation(record: records.Record, scenario: str, arm: str, metric: str = "") -> str:
    """What an arm adapts to, by its controls in a metric, the record's first by default.

    `TASTE`: it is worse with shuffled labels (N1). `LEVEL`, of a user's ratings only: it is not,
    but is worse with another task's support (N2), or without support where N2 was not tried (N0,
    or K = 0 of a curve). `NOTHING`: it is worse with neither. `UNTASTED`: it is not worse under
    N1, and no other control was tried.
    """
    metric = metric or metrics_of(record)[0]
    worse = lambda control: adapts(gap(record, scenario, arm, control, metric), metric)
    if worse(records.N1):
        return TASTE
    known = lambda control: records.Key(scenario, arm, control, metric) in record.scores
    without = next((c for c in (records.N2, records.N0, "k=0") if known(c)), None)
    if without is None:
        return UNTASTED
    return LEVEL if worse(without) else NOTHING


def diverged(
    record: records.Record,
    scenario: str,
    arm: str,
    condition: str = records.ALL,
    metric: str = "",
) -> bool:
    """Whether an arm has diverged, and is left out of all comparisons.

    It has if a seed of its training diverged, a score is infinite, or its error is more than
    `FAR_OFF` times that of the item mean. In a metric of the order, such as nDCG@5, errors do not
    count: scores that are only there to be ordered may lie anywhere.

    Args:
      condition, metric: which scores are looked at; the metric is the record's first by default.
    """
    metric = metric or metrics_of(record)[0]
    if record.arm(arm).settings.get("diverged"):
        return True
    mean = lambda name: record.of(scenario, name, condition, metric).astype(np.float64)
    if np.isinf(mean(arm)).any():
        return True
    item_mean = next((name for name in record.names() if name.startswith("A0 ")), None)
    if item_mean is None or not lower_is_better(metric):
        return False
    return bool(np.nanmean(mean(arm)) > FAR_OFF * np.nanmean(mean(item_mean)))


def named(record: records.Record, scenario: str, arm: str, *where: str) -> str:
    """The name of an arm as a table shows it: "A6 MAML", or "A6 MAML (diverged)".

    Args:
      where: condition and metric, as `diverged` takes them.
    """
    return f"{arm} (diverged)" if diverged(record, scenario, arm, *where) else arm


def opened(record: records.Record) -> str:
    """How often the test tasks of a record were opened, in a sentence."""
    times = max([line.times_opened or 1 for line in record.opened], default=1)
    others = max([line.times_by_others for line in record.opened], default=0)
    unnamed = max([line.times_unnamed for line in record.opened], default=0)
    often = lambda n: "once" if n == 1 else f"{n} times"
    also = f" Other experiments opened them {often(others)} before." * (others > 0)
    told = f" Earlier records of it opened test tasks {often(unnamed)} that they do not name."
    also += told * (unnamed > 0)
    if times == 1:
        return f"Test tasks opened once, on {record.environment.date}.{also}"
    configurations = max(line.configurations or 1 for line in record.opened)
    under = "one configuration" if configurations == 1 else f"{configurations} configurations"
    return (
        f"Test tasks opened {times} times by this experiment, under {under}; for this record on "
        f"{record.environment.date}.{also}"
    )
