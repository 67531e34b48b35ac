"""Tasks in time: does online meta-learning beat online learning without meta, and what is kept?

Users arrive in order of time and come back; each visit is a task with the few events known so far.
All arms start from a warm-up with the same number of outer steps; then each predicts the queries of
a round, and learns from the tasks that have ended. A task's loss is compared on logs with that of a
closed form, on drifting worlds with that of the Bayes tracker. Of ratings there is also what an
ordinal link makes of each arm's answers; it is fitted, for each seed, on the last third of the
warm-up, on which rates are chosen.

References: Finn et al., ICML 2019 (FTML); Acar et al., ICML 2021 (MOML); Sun et al., SIGIR 2021
(FORM); Gupta et al., NeurIPS 2020 (La-MAML); Lopez-Paz, Ranzato, NeurIPS 2017 (backward transfer).
Run: python -m experiments online_meta --dataset drift       (four worlds)
     python -m experiments online_meta --dataset ml-100k
     python -m experiments online_meta --dataset drift --from-records prints the stored table.
Published: none under this protocol.
Deviates: FORM is its update alone; MOML's constants may differ (see metajax.online.leaders).
"""

import dataclasses
import time
from typing import Any, ClassVar

from metajax import benchmark
from metajax.data.sources import named
from metajax.results import records
from metajax.settings import Data, Hardware, Output, Positive, Presets, Share

from . import task_logs, task_report, worlds
from .task_arms import Sizes

WORLDS = "drift"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data(WORLDS)
    hardware: Hardware = Hardware()
    warm_up: Share = 0.3
    """Share of a log's tasks before the test; their last third chooses rates."""
    num_support: Positive = 10
    """Events that a task of a log adapts on, at most."""
    num_query: Positive = 10
    """Events that a task of a log is judged on."""
    first: Positive = 5
    """Events known of a user when they are first asked about."""
    tasks_of_user: Positive = 6
    """Tasks of a user, at most."""
    most_events: int = 0
    """Events of the log that are played, from the first on; 0 is all."""
    hidden: Positive = 32
    """Width of the network's hidden layer."""
    train_steps: Positive = 400
    """Outer steps of the warm-up."""
    seeds: Positive = 1
    """Training seeds on a log."""
    streams: Positive = 12
    """Streams drawn of each world."""
    world_tasks: Positive = 500
    """Tasks of a stream after its calm beginning."""
    calm: Positive = 150
    """Tasks of the calm beginning, in which nothing drifts: the warm-up."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"streams": 3, "world_tasks": 100, "calm": 60, "train_steps": 100},
        "gpu": {"streams": 200, "seeds": 5},
    }


def measured(config: Config) -> records.Record:
    """Runs all arms on the worlds, or on a log, and writes the record."""
    began = time.perf_counter()
    on_worlds = config.data.dataset == WORLDS
    sizes = Sizes(batch=1, buffer=1_024, window=50, window_steps=200) if on_worlds else Sizes()
    run = worlds.run if on_worlds else task_logs.run
    parts: dict[str, Any] = run(config, sizes)
    return benchmark.kept(
        name_of(config), "online_meta", config, parts.pop("arms"), parts.pop("scores"),
        began=began, opened=(parts.pop("opened"),), **parts,
    )  # fmt: skip


def name_of(config: Config) -> str:
    """The name of the record."""
    return f"online_meta-{named.short_name(config.data.dataset)}"


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(name_of(config), config, measured, task_report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
