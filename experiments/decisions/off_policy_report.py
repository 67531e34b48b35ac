"""Tables and pictures of ``off_policy``, from its record."""

import pathlib
from typing import Any

import numpy as np

from metajax.results import plots, records, tables

from . import estimates

NAME = "off_policy"
WORLD, BANDIT, OWN = "synthetic world", "open_bandit", "own_log"
CALLED = {"bts": "Thompson sampling", "random": "random"}


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables of a record, and saves its pictures."""
    if OWN in record.extra:
        of_own_log(record.extra[OWN], folder / "log.png")
    if record.scores:
        of_world(record, folder / "world.png")
    if BANDIT in record.extra:
        of_clicks(record.extra[BANDIT], folder / "open-bandit.png")


def of_world(record: records.Record, path: pathlib.Path) -> None:
    """Bias, spread and coverage of each estimator, condition by condition."""
    conditions = record.conditions()
    count = record.of(WORLD, estimates.IPS, conditions[0], "error").size
    rounds = record.config["rounds"]
    title = f"{count} logs of {rounds:,} rounds in the synthetic world: estimate minus truth"
    heads = ("condition", "estimator", "bias", "spread", "root MSE",
             "bootstrap covers", "width", "Bernstein covers", "width")  # fmt: skip
    rows = []
    for condition in conditions:
        for i, arm in enumerate(estimates.ARMS):
            get = lambda metric, a=arm, c=condition: record.of(WORLD, a, c, metric)[0]
            error = get("error")
            bias = records.interval(error[None], "error")
            rows.append([
                condition if i == 0 else "", arm,
                f"{bias:+.4f}", f"{error.std(ddof=1):.4f}",
                f"{np.sqrt((error**2).mean()):.4f}",
                f"{get('bootstrap covers').mean():.1%}", f"{get('bootstrap width').mean():.3f}",
                f"{get('bernstein covers').mean():.1%}", f"{get('bernstein width').mean():.3f}",
            ])  # fmt: skip
    sections = range(0, len(rows), len(estimates.ARMS))
    tables.terminal(tables.Grid(title, heads, rows, sections=sections))
    world_picture(record, conditions, path)


def world_picture(record: records.Record, conditions: list[str], path: pathlib.Path) -> None:
    """Saves the mean error of each estimator with one standard deviation, by condition."""
    places = np.arange(len(estimates.ARMS))[::-1].astype(float)
    with plots.page(path, 3.4) as axes:
        for i, condition in enumerate(conditions):
            told = [record.of(WORLD, arm, condition, "error")[0] for arm in estimates.ARMS]
            style = plots.look(i) | {"linestyle": "none"}
            axes.errorbar([x.mean() for x in told], places + 0.27 - 0.18 * i,
                          xerr=[x.std() for x in told], label=condition, **style)  # fmt: skip
        axes.axvline(0.0, color="#666666", linewidth=0.7, linestyle="--")
        axes.set_yticks(places, estimates.ARMS)
        axes.set_xlabel("estimate minus truth, with one standard deviation")
        axes.grid(axis="x", alpha=0.25, linewidth=0.4)
        plots.legend(axes, len(conditions))


def _with_ends(told: list[float], digits: int = 4) -> str:
    return f"{told[0]:.{digits}f} [{told[1]:.{digits}f}, {told[2]:.{digits}f}]"


def of_clicks(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """The value of a policy from the other's log, beside what it earned itself."""
    for row in rows:
        log, target = CALLED[row["log"]], CALLED[row["target"]]
        title = (
            f"Open Bandit, {row['campaign']}: clicks per recommendation of {target} from the log "
            f"of {log}"
        )
        of_log(row, title)
        truth = row["on_policy"]
        print(f"it earned itself {_with_ends(truth)} per recommendation, in a log of its own\n")
    clicks_picture(rows, path)


def of_log(row: dict[str, Any], title: str) -> None:
    """The table of one log: each estimator's value with its two intervals, and what it rests on."""
    heads, rows = ("estimator", "value", "bootstrap 95 %", "Bernstein 95 %"), []
    for arm, told in row["arms"].items():
        name = f"{arm} (who wrote it)" if arm == estimates.MEAN else arm
        pair = lambda low, high: f"[{low:.4f}, {high:.4f}]"
        rows.append([name, f"{told[0]:.4f}", pair(*told[1:3]), pair(*told[3:5])])
    tables.terminal(tables.Grid(title, heads, rows))
    clicks = f" with {row['clicks']} clicks" if "clicks" in row else ""
    print(
        f"{row['rounds']:,} rounds{clicks}; effective sample size {row['effective']:,.0f}; largest "
        f"weight {row['largest_weight']:,.1f}, mean {row['mean_weight']:.3f} (1 is expected)"
    )
    if row["unsupported"] > 0:
        print(
            f"{row['unsupported']:.2%} of the decisions of the policy in question are never shown "
            "in the log: what they earn is not known, and IPS counts it as 0"
        )


def clicks_picture(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Saves estimates with bootstrap intervals beside what the policy earned itself."""
    shown = [estimates.IPS, estimates.SELF, estimates.DIRECT, estimates.DOUBLE, estimates.SWITCH]
    lines = [(row, arm) for row in rows for arm in (*shown, "earned itself")]
    with plots.page(path, 5.2) as axes:
        names = []
        for y, (row, arm) in enumerate(lines):
            told = row["on_policy"] if arm == "earned itself" else row["arms"][arm]
            mark = "s" if arm == "earned itself" else "o"
            color = "#b2182b" if arm == "earned itself" else "black"
            axes.plot(told[1:3], [-y, -y], color=color, linewidth=0.9)
            axes.plot([told[0]], [-y], mark, color=color, markersize=3)
            first = arm == shown[0]
            names.append(f"{row['campaign']}, {row['target']} from {row['log']}:  {arm}" if first
                         else arm)  # fmt: skip
            if first and y:
                axes.axhline(0.5 - y, color="#999999", linewidth=0.5)
        axes.set_yticks(-np.arange(len(lines)), names, fontsize=4.5)
        axes.set_ylim(0.7 - len(lines), 0.7)
        axes.set_xlim(left=0.0)
        axes.set_xlabel("clicks per recommendation, bootstrap 95 %")
        axes.grid(axis="x", alpha=0.25, linewidth=0.4)


def of_own_log(row: dict[str, Any], path: pathlib.Path) -> None:
    """The table and the picture of a log of one's own."""
    of_log(row, f"{row['file']}: reward per decision of the policy in question")
    arms = list(row["arms"])
    with plots.page(path, 2.2) as axes:
        for y, arm in enumerate(arms):
            told = row["arms"][arm]
            axes.plot(told[1:3], [-y, -y], color="black", linewidth=0.9)
            axes.plot([told[0]], [-y], "o", color="black", markersize=3)
        axes.set_yticks(-np.arange(len(arms)), arms)
        axes.set_xlabel("reward per decision, bootstrap 95 %")
        axes.grid(axis="x", alpha=0.25, linewidth=0.4)


def world_markdown(record: records.Record) -> str:
    """Bias of each estimator under each condition, spread and coverage as logged."""
    conditions, rows = record.conditions(), []
    for arm in estimates.ARMS:
        get = lambda condition, metric, a=arm: record.of(WORLD, a, condition, metric)[0]
        bias = [records.interval(get(c, "error")[None], "error") for c in conditions]
        shown = [f"{b:+.3f}" for b in bias]
        covers = [
            get(conditions[0], f"{kind} covers").mean() for kind in ("bootstrap", "bernstein")
        ]
        spread = get(conditions[0], "error").std(ddof=1)
        rows.append((arm, *shown, f"{spread:.3f}", *(f"{share:.1%}" for share in covers)))
    told = ("spread", "truth in bootstrap interval", "truth in Bernstein interval")
    heads = ("estimate minus truth", *conditions, *told)
    count, rounds = record.config["logs"], record.config["rounds"]
    head = f"{count} logs of {rounds:,} rounds; mean error with its 95 % interval over logs; "
    head += "the last three columns are of the logs as they are.\n\n"
    return head + tables.markdown(tables.Grid("Estimators beside the truth", heads, rows))


def clicks_markdown(record: records.Record) -> str:
    """Values on Open Bandit with bootstrap intervals, and what they rest on."""
    shown = (estimates.IPS, estimates.SELF, estimates.DOUBLE, estimates.SWITCH)
    heads = ("campaign", "policy valued", "clicks in the log", "effective sample size",
             "largest weight", "mean weight", "never shown", *shown, "its own log")  # fmt: skip
    rows = [
        (row["campaign"], CALLED[row["target"]], f"{row['clicks']}", f"{row['effective']:,.0f}",
         f"{row['largest_weight']:,.1f}", f"{row['mean_weight']:.2f}",
         f"{row['unsupported']:.2%}", *(_with_ends(row["arms"][arm]) for arm in shown),
         _with_ends(row["on_policy"]))
        for row in record.extra[BANDIT]
    ]  # fmt: skip
    return tables.markdown(tables.Grid("Open Bandit: clicks per recommendation", heads, rows))


def markdown(record: records.Record) -> str:
    """Both tables of the record."""
    return f"{world_markdown(record)}\n{clicks_markdown(record)}"
