"""Item warm-up as a table: AUC after every phase, and differences paired by item."""

import numpy as np
from rich.console import Console
from rich.table import Table

from metajax import report

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


def ahead(record: report.Record, arm: str, shots: int = 0) -> str:
    """How far Meta-Embedding's AUC is above an arm's, with the interval of a paired bootstrap."""
    of = lambda who, metric: record.of(SCENARIO, who, f"k={shots}", metric).mean(axis=0)
    mean = float((of(METHOD, "auc") - of(arm, "auc"))[0])
    low, high = np.quantile(of(METHOD, "auc_draws") - of(arm, "auc_draws"), [0.025, 0.975])
    star = "*" if low > 0 or high < 0 else " "
    return f"{mean:+.4f}{star}[{low:+.4f}, {high:+.4f}]"


def show(record: report.Record) -> None:
    """Prints AUC after every phase, its standard deviation over seeds, and the last log-loss."""
    shots = record.facts["shots"]
    table = Table(title="AUC over all test rows", header_style="bold")
    table.add_column("arm")
    for k in shots:
        table.add_column(f"{k} clicks", justify="right")
    table.add_column("log-loss, cold", justify="right")
    table.add_column(f"{METHOD} - arm, cold AUC", justify="right")
    for arm in record.facts["arms"]:
        auc = [record.of(SCENARIO, arm, f"k={k}", "auc") for k in shots]
        cells = [f"{v.mean():.4f} ± {v.std():.4f}" for v in auc]
        cold = record.of(SCENARIO, arm, "k=0", "log_loss").mean()
        table.add_row(arm, *cells, f"{cold:.4f}", "" if arm == METHOD else ahead(record, arm))
    console = Console()
    console.width = max(console.width, 150)
    console.print(table)
