"""A new task with few labels: do features that other tasks have shaped help it?

A network is trained on some labels of a table of rows (income and college; view and cart), and then
a task is met that it was never trained on (never married; purchase), with 10, 30 or 100 labels,
half of them a yes. It is met by ``adapt``: a ridge head on the shared features, in closed form.
Beside it: the same head on the raw inputs (from scratch), the whole network fine-tuned by gradient
steps, a head meta-trained on episodes of the trained tasks, and the score of the last trained task
as it is. Every arm has as many trials, judged on episodes of the trained tasks; no label of the new
task is looked at before the test. Below each table: the same by group of rows.
Controls: permuted labels (N1), features at random (N3, of the fine-tuned arm a network from
scratch), and features of a network whose last task had its labels dealt at random.

References: Caruana, "Multitask learning", 1997; Bertinetto et al., ICLR 2019; Raghu et al., ICLR
2020.
Run: python -m experiments new_task
     python -m experiments new_task --dataset retailrocket-multibehavior
     python -m experiments new_task --dataset amazon-four-domains: a new market
     python -m experiments new_task --from-records prints the stored tables.
Published: nothing on this protocol.
Deviates: intervals are over test tasks, whose supports may share training rows; queries share none.
"""

import dataclasses
import pathlib
from typing import ClassVar

from metajax import benchmark
from metajax.results import records
from metajax.settings import Hardware, Output, Positive, Presets

NAME = "new_task"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    dataset: str = "census-income"
    """census-income, retailrocket-multibehavior, amazon-four-domains (the new task is a market), or
    an .npz file; the last task is the new one."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""
    hardware: Hardware = Hardware()
    shots: tuple[Positive, ...] = (10, 30, 100)
    """Numbers of labels of the new task."""
    num_tasks: Positive = 60
    """Test tasks: draws of a support and of query rows."""
    seeds: Positive = 4
    """Trials of the shared network, of which the better half on validation is used."""
    num_steps: Positive = 400
    """Steps of Adam for the shared network and for the meta-trained head."""
    batch: Positive = 128
    """Rows of a step."""
    most: Positive = 20_000
    """Training rows at most, drawn at random."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"num_tasks": 20, "seeds": 2, "num_steps": 100, "most": 5_000},
        "gpu": {"num_tasks": 200, "seeds": 16, "num_steps": 5_000, "most": 100_000},
    }


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its picture."""
    from metajax.data.sources import named

    from . import new_task_report

    name = f"{NAME}-{named.short_name(config.dataset)}"
    if config.output.from_records:
        record = records.stored(name)
    else:
        from . import new_task_arms

        record = new_task_arms.measured(config)
    new_task_report.report(record, config.output.folder(name))
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
