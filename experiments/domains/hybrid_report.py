"""Tables and pictures of hybrid, read from records alone."""

import pathlib
from typing import Any

from metajax.data.sources import named
from metajax.results import groups, plots, records

from . import shots

IDENTITY, CONTENT, WHOLE = "identity", "content", "hybrid, nothing dropped"
DROPPED, CLOSED = "hybrid, DropoutNet", "closed form from content"
PERMUTED = "DropoutNet, content permuted"
ARMS = (IDENTITY, CONTENT, WHOLE, DROPPED, CLOSED, PERMUTED)
ROLES = {IDENTITY: records.BASELINE, CONTENT: records.BASELINE, WHOLE: records.ABLATION}
ROLES |= {DROPPED: records.METHOD, CLOSED: records.METHOD, PERMUTED: records.CONTROL}
PAIRS = (
    *((DROPPED, WHOLE), (DROPPED, IDENTITY), (DROPPED, CONTENT), (CLOSED, DROPPED)),
    *((DROPPED, PERMUTED), (PERMUTED, IDENTITY)),
)
COLD = "k=0"


def name_of(config: Any) -> str:
    """The name of a run's record."""
    return f"hybrid-{named.short_name(config.data.dataset)}"


def scenario(density: float) -> str:
    """The scenario of a density."""
    return f"{density:.0%} of ratings"


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables of every density and saves the pictures."""
    heads = shots.columns(record, "20")
    densities = record.extra["densities"]
    for density in densities:
        measure = shots.per_task(record, scenario(density), "mae", "MAE")
        items = record.of(scenario(density), WHOLE, records.ALL, "mae").shape[1]
        title = f"{record.dataset}, {scenario(density)}, {items} new items"
        shots.table(title, measure, ARMS, heads, 4)
        shots.differences(title, measure, PAIRS, heads, 4)
        groups.show(
            record, scenario(density), (DROPPED, CLOSED), "mae",
            title=f"{title}: MAE at K = 0", condition=COLD,
        )  # fmt: skip
    print("Intervals are over items, seeds averaged first.")
    measure = shots.per_task(record, scenario(max(densities)), "mae", "MAE")
    axis = f"ratings of the new item ({record.dataset})"
    shots.curves(measure, ARMS, heads, folder / "mae.png", axis)
    by_density(record, folder / "density.png")
    print(f"plots  {folder}/mae.png, density.png")


def by_density(record: records.Record, path: pathlib.Path) -> None:
    """Saves the error at K = 20 over the density, one line per arm."""
    densities = record.extra["densities"]
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(ARMS):
            found = [
                shots.per_task(record, scenario(d), "mae", "MAE").of(arm, records.ALL)
                for d in densities
            ]
            axes.plot(densities, [x.mean for x in found], label=arm, **plots.look(i))
        axes.set_xscale("log")
        axes.set_xticks(densities, [f"{d:.0%}" for d in densities])
        plots.finish(axes, f"training ratings kept ({record.dataset})", "MAE at K = 20", len(ARMS))
