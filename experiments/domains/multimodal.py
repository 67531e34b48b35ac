"""Titles, plots, genres and cast of new items: what is each worth, and does dropping them help?

Tasks are new items. An item's weights on its raters' factors solve a ridge regression on its K
ratings around a start, and a small network reads the start from four modalities: hashed words of
the title and words of the plot (latent semantic analysis of both), genres, and cast (the mean
weights of known films that share an actor, director or writer). With modality dropout each modality
is unknown in a share of the training tasks. Rows: all four with and without dropout; each one left
out of training and test; each one missing at the test alone; each one of other items (the control);
each one alone; and none. All rows have the same network, rates, steps and items.

References: Neverova et al., TPAMI 2016 (ModDrop); Volkovs, Yu, Poutanen, NeurIPS 2017 (DropoutNet).
Run: python -m experiments multimodal
     python -m experiments multimodal --from-records prints the stored tables.
Published: none under this protocol.
Deviates: titles and plots are counted words, not vectors of a language model (see text_cold).
"""

import dataclasses
import pathlib
import time
from typing import Any, ClassVar, NamedTuple

from metajax import benchmark
from metajax.data.sources import named
from metajax.results import plots, records
from metajax.settings import Data, Hardware, Output, Positive, Presets, Share
from metajax.training import progress

from . import graph_report, shots

NAME = "multimodal"
MODALITIES = ("titles", "plot", "genres", "cast")
SHOTS = (0, 1, 5)
"""Ratings of a new item that the table shows, besides all 20."""
CONDITIONS = (*(f"k={k}" for k in SHOTS), records.ALL)
COLD = CONDITIONS[0]
NOTHING, ALL, PLAIN = "nothing", "all, dropout", "all, no dropout"


class Row(NamedTuple):
    """A trained row of the table.

    Attributes:
      role: of `records.ROLES`.
      dropout: whether modalities are dropped in training.
      out: modalities that are unknown in training and test; permuted: those of other items.
    """

    role: str
    dropout: bool = True
    out: tuple[str, ...] = ()
    permuted: tuple[str, ...] = ()


def without(modality: str) -> str:
    """The row that is trained without a modality."""
    return f"without {modality}"


def permuted(modality: str) -> str:
    """The row with the modality of other items."""
    return f"{modality} permuted"


def alone(modality: str) -> str:
    """The row of one modality; it has no other to lean on, and nothing is dropped."""
    return f"{modality} alone"


def missing(modality: str, trained: str) -> str:
    """The trained row, tested where the modality is unknown."""
    return f"{trained}, {modality} missing"


def trained_rows() -> dict[str, Row]:
    """The rows that are trained, by name."""
    others = lambda m: tuple(x for x in MODALITIES if x != m)
    found = {
        NOTHING: Row(records.BASELINE, False, MODALITIES),
        ALL: Row(records.METHOD),
        PLAIN: Row(records.ABLATION, False),
    }
    found |= {without(m): Row(records.ABLATION, out=(m,)) for m in MODALITIES}
    found |= {permuted(m): Row(records.CONTROL, permuted=(m,)) for m in MODALITIES}
    return found | {alone(m): Row(records.BASELINE, False, others(m)) for m in MODALITIES}


def missing_rows() -> dict[str, tuple[str, str]]:
    """Name -> (trained row, modality missing at the test alone)."""
    return {missing(m, row): (row, m) for m in MODALITIES for row in (ALL, PLAIN)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data(dataset="ml-1m")
    hardware: Hardware = Hardware()
    people: Positive | None = 1_000
    """People whose ratings are read, drawn at random; None reads those of all."""
    dropped: Share = 0.3
    """Probability that a modality is dropped from a training task."""
    dim: Positive = 32
    """Width of the vectors of titles and of plots."""
    split_seed: int = 0
    """Seed of the split of items."""
    seeds: Positive = 2
    """Training seeds of every row."""
    num_steps: Positive = 300
    """Outer steps of a training at most; validation says how many are kept."""
    num_tasks: Positive = 32
    """Items per outer step."""
    rates: tuple[float, ...] = (0.003, 0.01)
    """Rates of Adam that every row tries."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-1m", "people": 500, "seeds": 1, "num_steps": 50},
        "gpu": {"people": None, "seeds": 10, "num_steps": 5_000, "dim": 64},
    }


def name_of(config: Config) -> str:
    """The name of a run's record."""
    return f"{NAME}-{named.short_name(config.data.dataset)}"


def measured(config: Config) -> records.Record:
    """Tunes and trains all rows, judges them and writes the record."""

    from metajax.benchmark import belief

    from . import graph_arms, rates
    from . import multimodal_arms as arms

    began = time.perf_counter()
    whole = named.chosen(config.data)
    side = arms.side_of(whole, named.data_folder(config.data.data_dir))
    table = arms.of_some(graph_arms.rated(whole), config.people, config.split_seed)
    problem = graph_arms.of_items(table, config.split_seed)
    blocks = arms.blocks_of(problem, side, config.dim)
    known = {name: int((x != 0).any(axis=1).sum()) for name, x in blocks.items()}
    training = rates.training_of(config)
    rows = trained_rows()
    choices: dict[str, Any] = {}
    ready: dict[str, Any] = {}
    with progress.bar(NAME, len(rows)) as update:
        for name, row in rows.items():
            own = arms.with_blocks(problem, arms.changed(blocks, row.out, row.permuted))
            learner = arms.learner_of(own, config.dropped if row.dropout else 0.0)
            choices[name], ready[name] = graph_arms.tuned(
                name, own, training, config.rates, learner
            )
            update(len(ready), {"valid": choices[name]["valid"]})
            progress.say(f"{name}: squared error {choices[name]['valid']:.4f} on validation")
    _, tests = problem.open_test(benchmark.freeze(config, choices), NAME)
    judged = {name: (name, row.out, row.permuted) for name, row in rows.items()}
    judged |= {name: (row, (m,), ()) for name, (row, m) in missing_rows().items()}
    scores: dict[records.Key, Any] = {}
    for name, (trained, out, others) in judged.items():
        row = rows[trained]  # whose columns its scores were calibrated on, whatever the test lacks
        own = arms.with_blocks(problem, arms.changed(blocks, row.out, row.permuted))
        source = arms.with_blocks(problem, arms.changed(blocks, out, others)).valid[0]
        found = rates.rated({name: ready[trained]}, own, tests, graph_report.SCENARIO, source)
        scores |= {k: v for k, v in found.items() if k.condition in CONDITIONS}
    roles = {name: row.role for name, row in rows.items()}
    roles |= dict.fromkeys(missing_rows(), records.ABLATION)
    return benchmark.kept(
        name_of(config),
        NAME,
        config,
        records.arms_of(roles, roles=roles, settings=choices),
        scores,
        method=ALL,
        scenario=graph_report.SCENARIO,
        opened=tuple(problem.opened),
        shots=SHOTS,
        data=records.data_of(table),
        began=began,
        extra={"known": known, "items": table.num_items, **belief.scale_of(problem)},
    )


def pairs() -> dict[str, tuple[str, str]]:
    """What is compared: a short name -> (row, other row)."""
    found = {"all - nothing": (ALL, NOTHING), "all, no dropout - nothing": (PLAIN, NOTHING)}
    found |= {"all: dropout - none": (ALL, PLAIN)}
    found |= {f"all - {without(m)}": (ALL, without(m)) for m in MODALITIES}
    found |= {f"all - {permuted(m)}": (ALL, permuted(m)) for m in MODALITIES}
    found |= {f"{alone(m)} - nothing": (alone(m), NOTHING) for m in MODALITIES}
    missed = lambda m: (missing(m, ALL), missing(m, PLAIN))
    return found | {f"{m} missing: dropout - none": missed(m) for m in MODALITIES}


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables and saves the pictures."""
    heads = shots.columns(record, "20")
    scenario, metric = graph_report.SCENARIO, shots.leading(record)
    items = record.of(scenario, NOTHING, records.ALL, metric).shape[1]
    title = f"{record.dataset}, {items} new items"
    told = pairs()
    shots.ratings(title, record, scenario, record.names(), heads, list(told.values()))
    known = ", ".join(f"{name} {count}" for name, count in record.extra["known"].items())
    print(f"Known of {record.extra['items']} items: {known}.")
    print(shots.OF_ITEMS)
    print("Of a difference: below 0 the first row has the lower error, above 0 the higher nDCG@5.")
    lines = (NOTHING, ALL, PLAIN, *map(alone, MODALITIES))
    axis = f"ratings of the new item ({record.dataset})"
    measure = shots.of_ratings(record, scenario, metric)
    shots.curves(measure, lines, heads, folder / "error.png", axis)
    gaps = [(short, measure.gap(a, b, COLD)) for short, (a, b) in told.items()]
    plots.forest(gaps, folder / "differences.png", f"{measure.compared} at K = 0")
    print(f"plots  {folder}/error.png, differences.png")


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(name_of(config), config, measured, report)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
