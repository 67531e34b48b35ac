"""Several tasks on the same rows: shared bottom, one gate, a gate per task (MMoE), PLE, ESMM.

With --dataset synthetic there are two regression tasks whose weights have the cosine rho, the
generator of the MMoE paper. The less alike they are, the more it should help that each task has a
gate of its own; where they are the same there should be no difference. In a further world the
labels of the second task are dealt at random: who is hurt by a useless task?
On data the tasks are income and marital status (census-income, MMoE's own data), click and rating
(ml-1m), or view, cart and purchase (retailrocket-multibehavior), where ESMM, which learns the rate
of purchases over all that was shown, stands beside rates learned of viewed rows alone. The baseline
is a network per task; all arms have about as many parameters and as many trials. Losses of MMoE are
balanced by fixed weights, learned uncertainty, PCGrad, or weights learned on held-out rows through
an inner step. Controls: uniform gates, and a last task whose labels are dealt at random. Below each
table of data: the same by group of rows, such as women, or people with few events.

References: Ma et al. (MMoE), KDD 2018; Ma et al. (ESMM), SIGIR 2018; Tang et al., RecSys 2020;
Kendall et al., CVPR 2018; Yu et al., NeurIPS 2020; Ren et al., ICML 2018.
Run: python -m experiments multi_task
     python -m experiments multi_task --plateau --num-steps 3000 --rate 0.01
     python -m experiments multi_task --dataset census-income --seeds 6 --num-steps 400
     python -m experiments multi_task --dataset census-income --from-records prints stored tables.
Published: figures without numbers for the world; other splits for Census-Income.
Deviates: 32 inputs in the world, where every arm runs at the same rate and nothing is tuned, and
intervals are over seeds; on data they are over blocks of people.
"""

import dataclasses
import pathlib
from typing import ClassVar

from metajax import benchmark
from metajax.results import records
from metajax.settings import Hardware, Output, Positive, Presets

NAME = "multi_task"
DATASETS = ("census-income", "ml-1m", "retailrocket-multibehavior")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    dataset: str = "synthetic"
    """synthetic, census-income, ml-1m, retailrocket-multibehavior, amazon-four-domains, or the path
    of an .npz file."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""
    hardware: Hardware = Hardware()
    seeds: Positive = 10
    """Training seeds; on data the trials of each arm, of which the better half is judged."""
    num_steps: Positive = 1_000
    """Steps of Adam."""
    batch: Positive = 128
    """Rows of a step."""
    most: Positive = 30_000
    """Training rows of a data set at most, drawn at random; validation has a quarter of that."""
    test_rows: Positive = 4_000
    """Rows of the world that all arms are judged on; a data set's test rows are all used."""
    rate: float = 0.005
    """Adam's rate in the world, for all arms; on data it is tuned."""
    plateau: bool = False
    """In the world: the rate falls to 0 by a cosine; only the models, at rho 0.5 and 1."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"seeds": 3, "num_steps": 200, "test_rows": 1_000},
        "gpu": {"seeds": 100, "num_steps": 10_000},
    }


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its picture."""
    from metajax.data.sources import named

    world = config.dataset == "synthetic"
    name = NAME if world else f"{NAME}-{named.short_name(config.dataset)}"
    name = f"{NAME}-plateau" if world and config.plateau else name
    folder = config.output.folder(name)
    if config.output.from_records:
        record = records.stored(name)
    elif world:
        from . import task_world

        record = task_world.measured(config)
    else:
        from . import task_rows

        record = task_rows.measured(config)
    if world:
        from . import task_world

        task_world.report(record, folder)
    else:
        from . import task_report

        task_report.report(record, folder)
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
