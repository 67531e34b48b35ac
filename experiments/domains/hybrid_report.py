"""Tables and pictures of hybrid, read from records alone."""

import pathlib
from typing import Any

from metajax.data.sources import named
from metajax.results import groups, plots, records, tables

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
    densities, metric = record.extra["densities"], shots.leading(record)
    for density in densities:
        items = record.of(scenario(density), WHOLE, records.ALL, metric).shape[1]
        title = f"{record.dataset}, {scenario(density)}, {items} new items"
        shots.ratings(title, record, scenario(density), ARMS, heads, PAIRS)
        groups.show(
            record, scenario(density), (DROPPED, CLOSED), metric,
            title=f"{title}: {tables.of_differences(metric)} at K = 0", condition=COLD,
        )  # fmt: skip
    print(shots.OF_ITEMS)
    measure = shots.of_ratings(record, scenario(max(densities)), metric)
    axis = f"ratings of the new item ({record.dataset})"
    shots.curves(measure, ARMS, heads, folder / "error.png", axis)
    by_density(record, folder / "density.png")
    print(f"plots  {folder}/error.png, density.png")


def by_density(record: records.Record, path: pathlib.Path) -> None:
    """Saves the error at K = 20 over the density, one line per arm."""
    densities, metric = record.extra["densities"], shots.leading(record)
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(ARMS):
            measures = [shots.of_ratings(record, scenario(d), metric) for d in densities]
            found = [measure.of(arm, records.ALL) for measure in measures]
            axes.plot(densities, [x.mean for x in found], label=arm, **plots.look(i))
        axes.set_xscale("log")
        axes.set_xticks(densities, [f"{d:.0%}" for d in densities])
        error = f"{tables.heading(metric)} at K = 20"
        plots.finish(axes, f"training ratings kept ({record.dataset})", error, len(ARMS))
