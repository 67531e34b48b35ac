"""Item warm-up as a table: AUC after every phase, and differences paired by item."""

import pathlib

import numpy as np

from metajax.results import plots, records, tables

SCENARIO, METHOD = "item_cold", "Meta-Embedding"


def weighted_auc(score: np.ndarray, label: np.ndarray, weight_DxR: np.ndarray) -> np.ndarray:
    """The AUC (D,) of scores (R,) for binary labels (R,), under each of D weights of the rows."""
    order = np.argsort(score, kind="stable")
    start = np.flatnonzero(np.diff(score[order], prepend=-np.inf))  # equal scores are one place
    sums = lambda weight: np.add.reduceat(weight[:, order], start, axis=1)
    clicked, not_clicked = sums(weight_DxR * label), sums(weight_DxR * (1 - label))
    below = np.cumsum(not_clicked, axis=1) - not_clicked
    pairs = clicked.sum(axis=1) * not_clicked.sum(axis=1)
    return (clicked * (below + 0.5 * not_clicked)).sum(axis=1) / pairs


def ahead(record: records.Record, arm: str, shots: int = 0) -> str:
    """How far the method's AUC is above an arm's, with the interval of a paired bootstrap."""
    method = record.method or METHOD
    of = lambda who, metric: record.of(SCENARIO, who, f"k={shots}", metric).mean(axis=0)
    mean = float((of(method, "auc") - of(arm, "auc"))[0])
    low, high = np.quantile(of(method, "auc_draws") - of(arm, "auc_draws"), [0.025, 0.975])
    star = "*" if low > 0 or high < 0 else " "
    return f"{mean:+.4f}{star}[{low:+.4f}, {high:+.4f}]"


def show(record: records.Record) -> None:
    """Prints AUC after every phase, its standard deviation over seeds, and the last log-loss."""
    shots, method = record.shots, record.method or METHOD
    order = "" if record.extra.get("in_time", True) else ", in random order: the log has no times"
    items = record.extra["test_items"]
    ends = (shots[0], shots[-1])
    heads = ["arm", *(f"{k} clicks" for k in shots), "log-loss, cold", f"after {shots[-1]}"]
    heads += [f"{method} - arm, AUC after {k}" for k in ends]
    rows = []
    for arm in record.names():
        auc = [record.of(SCENARIO, arm, f"k={k}", "auc") for k in shots]
        cells = [f"{v.mean():.4f} ± {v.std():.4f}" for v in auc]
        loss = [record.of(SCENARIO, arm, f"k={k}", "log_loss").mean() for k in (0, shots[-1])]
        gaps = [ahead(record, arm, k) if arm != method else "" for k in ends]
        rows.append([arm, *cells, *(f"{v:.4f}" for v in loss), *gaps])
    title, notes = f"AUC over all test rows of {items} items{order}", record.extra.get("notes", ())
    tables.terminal(tables.Grid(title, heads, rows, notes=list(notes)))


def plot(record: records.Record, path: pathlib.Path) -> None:
    """Saves the AUC over the clicks an item has had, one line per arm, the method with its band."""
    shots, shown = record.shots, record.names()
    method = record.method or METHOD
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(shown):
            of = lambda metric, k, arm=arm: record.of(SCENARIO, arm, f"k={k}", metric).mean(axis=0)
            means = [float(of("auc", k)[0]) for k in shots]
            width = 1.8 if arm == method else 1.0
            axes.plot(shots, means, label=arm, linewidth=width, **plots.look(i))
            if arm == method:
                low, high = np.transpose(
                    [np.quantile(of("auc_draws", k), [0.025, 0.975]) for k in shots]
                )
                color = plots.look(i)["color"]
                axes.fill_between(shots, low, high, color=color, alpha=0.1, linewidth=0)
        axes.set_xticks(shots)
        plots.finish(
            axes,
            "labeled rows of the new item (clicked or not)",
            "AUC over all test rows",
            len(shown),
        )
