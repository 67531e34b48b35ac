"""New items with links: what is a knowledge graph worth as a start, before and after K ratings?

Tasks are new items. An item's weights on its raters' factors solve a ridge regression on its K
ratings around a start, and the start is a meta-learned linear map of what is known of the item:
nothing, its genres, its TransE embedding, the mean weights of known items that share an entity with
it (neighbors), or these means apart for each relation, which are MetaHIN's paths (film - actor -
film, film - director - film ...). Relations that mirror another are dropped first. The control is
the same on a graph whose tails are dealt anew within each relation, so that every degree stays.

References: Bordes et al., NIPS 2013 (TransE); Lu et al., KDD 2020 (MetaHIN); Zhao et al., 2019.
Run: python -m experiments knowledge_graph
     python -m experiments knowledge_graph --from-records prints the stored tables.
Published: none under this protocol.
Deviates: TransE is trained beforehand on the graph alone; paths of two steps only.
"""

import dataclasses
import pathlib
import time
from typing import Any, ClassVar

from metajax import benchmark
from metajax.results import records
from metajax.results.groups import GROUPS
from metajax.settings import Data, Hardware, Output, Positive, Presets
from metajax.training import progress

from . import graph_report as report

NAME = "knowledge_graph"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data(dataset="ml-100k")
    hardware: Hardware = Hardware()
    graph: pathlib.Path | None = None
    """An .npz file of triples for the items of the data set; by default the one that belongs to it:
    arrays head, relation, tail, relation_names, item_id, item_entity."""
    split_seed: int = 0
    """Seed of the split of items."""
    seeds: Positive = 3
    """Training seeds of every arm."""
    num_steps: Positive = 300
    """Outer steps of a training at most; validation says how many are kept."""
    num_tasks: Positive = 32
    """Items per outer step."""
    rates: tuple[float, ...] = (0.003, 0.01)
    """Rates of Adam that every arm tries."""
    graph_steps: Positive = 2_000
    """Steps of TransE, each on 512 triples."""
    dim: Positive = 16
    """Width of TransE's embeddings."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "seeds": 1, "num_steps": 50, "graph_steps": 200},
        "gpu": {"seeds": 10, "num_steps": 5_000, "graph_steps": 50_000, "dim": 64},
    }


def measured(config: Config) -> records.Record:
    """Tunes and trains all arms, judges them and writes the record."""
    from metajax.benchmark import belief
    from metajax.data.sources import graph as graphs
    from metajax.data.sources import named
    from metajax.evaluation import evaluate
    from metajax.training.devices import check_even

    from . import graph_arms as arms
    from . import rates

    began = time.perf_counter()
    table = arms.rated(named.chosen(config.data))
    folder = named.data_folder(config.data.data_dir) if config.graph is None else None
    known = graphs.of_table(table, folder) if folder else graphs.read(config.graph, table)  # pyright: ignore[reportArgumentType]
    graph, mirrors = graphs.without_mirrors(known)
    problem = arms.of_items(table, config.split_seed)
    devices = config.hardware.devices
    check_even(devices, config.num_tasks)
    given = (problem, table, graph, config.dim, config.graph_steps, devices)
    starts, told = arms.starts(*given)
    training = rates.training_of(config)
    choices: dict[str, Any] = {}
    ready: dict[str, Any] = {}
    with progress.bar(NAME.replace("_", " "), len(starts)) as update:
        for name, content in starts.items():
            own = arms.with_content(problem, content)
            choices[name], ready[name] = arms.tuned(name, own, training, config.rates)
            update(len(ready), {"valid": choices[name]["valid"]})
            progress.say(f"{name}: squared error {choices[name]['valid']:.4f} on validation")
    _, tests = problem.open_test(benchmark.freeze(config, choices), NAME)
    scores: dict[records.Key, Any] = {}
    for name, content in starts.items():
        own = arms.with_content(problem, content)
        scores |= rates.rated({name: ready[name]}, own, tests, report.SCENARIO)
    return benchmark.kept(
        report.name_of(config),
        NAME,
        config,
        records.arms_of(starts, roles=report.roles(starts), settings=choices),
        scores,
        method=report.NEAR,
        scenario=report.SCENARIO,
        opened=tuple(problem.opened),
        shots=tuple(k for k in evaluate.SHOTS if k < arms.SUPPORT),
        data=records.data_of(table),
        began=began,
        extra={
            **told,
            **belief.scale_of(problem),
            "mirrors": mirrors,
            "triples": len(graph.head),
            GROUPS: arms.groups_of(problem, report.SCENARIO),
        },
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its picture."""
    return benchmark.shown(report.name_of(config), config, measured, report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
