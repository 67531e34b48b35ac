"""Tables of records for the terminal."""

from rich.console import Console
from rich.table import Table

from metajax import report, stats

BASELINES = ("A2 fold-in", "A4 fine-tuned")


def verdict(record: report.Record, scenario: str, arm: str) -> stats.Interval:
    """How much shuffled support labels cost the arm, in MAE (control N1), with its interval."""
    shuffled = record.of(scenario, arm, "shuffled", "mae")
    return report.difference(shuffled, record.of(scenario, arm, "all", "mae"))


def adapts(gap: stats.Interval) -> bool:
    """Whether the N1 gap is above zero with its whole interval."""
    return gap.low > 0


def show(record: report.Record, console: Console | None = None) -> None:
    """Prints one table per record: scenarios by arms, with intervals, differences and control."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 180)
    facts = record.facts
    title = (
        f"{facts['experiment']} on {facts['data']['name']}, protocol {facts['split']['protocol']}, "
        f"split {facts['split']['checksum']}, {facts['config']['run']['seeds']} seeds"
    )
    table = Table(title=title, header_style="bold")
    for heading in ("scenario", "arm"):
        table.add_column(heading, no_wrap=True)
    for heading in ("MAE [95 %]", "RMSE", "nDCG@5"):
        table.add_column(heading, justify="right", no_wrap=True)
    for baseline in BASELINES:
        table.add_column(f"MAE - {baseline[:2]}", justify="right", no_wrap=True)
    table.add_column("N1 gap", justify="right", no_wrap=True)
    for scenario, count in facts["split"]["tasks"].items():
        table.add_section()
        for i, arm in enumerate(facts["arms"]):
            name = f"{scenario.replace('_', '-')} ({count})" if i == 0 else ""
            style = "bold" if arm == facts["method"] else None
            table.add_row(name, *_row(record, scenario, arm), style=style)
    console.print(table)
    console.print(
        "MAE, RMSE: lower is better; nDCG@5: higher. Differences are paired by user; * marks an "
        "interval that excludes 0.\nN1 gap: MAE with shuffled support labels minus MAE. "
        f"Test tasks opened once, on {facts['environment']['date']}."
    )
    for scenario in facts["split"]["tasks"]:
        if not adapts(verdict(record, scenario, facts["method"])):
            console.print(
                f"NO ADAPTATION: {facts['method']} on {scenario}: N1 gap touches 0", style="bold"
            )


def _row(record: report.Record, scenario: str, arm: str) -> list[str]:
    cells = [arm]
    for metric in ("mae", "mse", "ndcg@5"):
        r = report.interval(record.of(scenario, arm, "all", metric), metric)
        cells.append(
            f"{r.mean:.4f} [{r.low:.3f}, {r.high:.3f}]" if metric == "mae" else f"{r.mean:.4f}"
        )
    mine = record.of(scenario, arm, "all", "mae")
    for baseline in BASELINES:
        if arm == baseline or baseline not in record.facts["arms"]:
            cells.append("")
            continue
        cells.append(signed(report.difference(mine, record.of(scenario, baseline, "all", "mae"))))
    cells.append(signed(verdict(record, scenario, arm)))
    return cells


def signed(d: stats.Interval) -> str:
    """A difference with its interval, starred where that excludes 0."""
    star = "*" if d.low > 0 or d.high < 0 else " "
    return f"{d.mean:+.4f}{star}[{d.low:+.3f}, {d.high:+.3f}]"
