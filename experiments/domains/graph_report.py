"""Tables and the picture of knowledge_graph, read from records alone."""

import pathlib
from collections.abc import Iterable
from typing import Any

from metajax.data.sources import named
from metajax.results import groups, records, tables

from . import shots

SCENARIO = "item_cold"
NOTHING, GENRES, TRANSE, NEAR = "nothing", "genres", "TransE", "neighbors"
PATHS, BOTH = "neighbors by path", "genres + neighbors"
TRANSE_DEALT, NEAR_DEALT = "TransE, graph shuffled", "neighbors, graph shuffled"
PATHS_DEALT = "paths, graph shuffled"
DEALT = {TRANSE: TRANSE_DEALT, NEAR: NEAR_DEALT, PATHS: PATHS_DEALT}


def name_of(config: Any) -> str:
    """The name of a run's record."""
    return f"knowledge_graph-{named.short_name(config.data.dataset)}"


def roles(names: Iterable[str]) -> dict[str, str]:
    """The role of each arm."""
    found = dict.fromkeys(names, records.METHOD)
    found |= dict.fromkeys((NOTHING, GENRES), records.BASELINE)
    return found | dict.fromkeys(DEALT.values(), records.CONTROL)


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables and saves the picture."""
    arms, heads = record.names(), shots.columns(record, "20")
    metric = shots.leading(record)
    items = record.of(SCENARIO, NOTHING, records.ALL, metric).shape[1]
    title = f"{record.dataset}, {items} new items"
    pairs = [(arm, NOTHING) for arm in (GENRES, TRANSE, NEAR, PATHS)] + [(BOTH, GENRES)]
    pairs += [(arm, dealt) for arm, dealt in DEALT.items()]
    pairs += [(dealt, NOTHING) for dealt in DEALT.values()]
    shots.ratings(title, record, SCENARIO, arms, heads, pairs)
    shown = f"{title}: {tables.of_differences(metric)} at K = 0"
    groups.show(record, SCENARIO, (NEAR, GENRES), metric, title=shown, condition="k=0")
    told = record.extra
    print(
        f"{told['triples']:,} triples; {told['linked']} of {told['items']} items are linked; "
        f"dropped as mirrors: {', '.join(told['mirrors']) or 'none'}; paths over: "
        f"{', '.join(told['paths'])}."
    )
    print(shots.OF_ITEMS)
    axis = f"ratings of the new item ({record.dataset})"
    lead = shots.of_ratings(record, SCENARIO, metric)
    shots.curves(lead, arms, heads, folder / "error.png", axis)
    print(f"plot   {folder}/error.png")
