"""A smaller recommender from a large one: distilled, pruned or in eight bits, and then adapted.

The Transformer of `sasrec` is the teacher of a student with a fifth of its bytes, by its full
softmax or by the items that it ranks first. It is also pruned by magnitude along the cubic schedule
during further training, and its weights and activations are rounded to eight bits. Each model is
judged as it is, and after adapting scales and shifts to a person's own newest items. Controls: a
teacher of shuffled histories, an untrained teacher, labels smoothed to the teacher's entropy,
random masks, and two bits.

References: Hinton et al., 2015; Tang, Wang, KDD 2018; Zhu, Gupta, 2017; Jacob et al., CVPR 2018.
Run: python -m experiments distill              (trains the teacher if it is not there: an hour)
     python -m experiments distill --from-records prints the stored table.
Published: none under this protocol.
Deviates: the ranking is learned through a softmax; in a pruned model, each kept weight counts four
bytes and a bit.
"""

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np

from metajax import benchmark
from metajax.adapters import quantize
from metajax.data.sources import named
from metajax.evaluation import next_item
from metajax.results import ledger, plots, records
from metajax.settings import Data, Hardware, Output, Positive, Presets, Share, Stored, replace
from metajax.training import progress

from .. import report as large_report
from ..sasrec import sasrec
from .judge import Judge
from .parts import STUDENT, TEACHER, Workshop

COLUMNS = ("as it is", "same people, as it is", "adapted")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    data: Data = Data()
    epochs: Positive = 16
    """Passes of the teacher over the histories, as in experiments.large.sasrec."""
    teacher_out: pathlib.Path | None = None
    """Folder of a run of `sasrec`, whose recommender is the teacher; by default out/sasrec-DATASET.
    If there is none, the teacher is trained and stored there."""
    window: Positive = 32
    """Number of newest items that a model reads of a person, for all rows of the table."""
    student_width: Positive = 16
    """Width of the student."""
    student_layers: Positive = 1
    """Number of blocks of the student."""
    num_steps: Positive = 900
    """Training steps of each student."""
    rate: float = 1e-2
    """Adam's highest rate for the students."""
    batch: Positive = 16
    """Windows per step."""
    prune_steps: int = 100
    """Training steps during the pruning of the teacher; the last fifth is at the full share."""
    shares: tuple[Share, ...] = (0.5, 0.8, 0.9, 0.95)
    """Shares of the kernels' weights that are pruned."""
    weight: Share = 0.5
    """Weight of the teacher in the student's loss."""
    temperature: float = 1.0
    """Temperature of both softmaxes."""
    people: Positive = 1000
    """People judged, at most."""
    passed_over: int = 1000
    """Number of people skipped before those judged, because settings were chosen on them."""
    adapted: int = 100
    """Number of the judged people on whom models also adapt, at most."""
    seeds: Positive = 1
    """Training seeds, each with a teacher of its own."""

    PRESETS: ClassVar[Presets] = {
        "quick": {
            "dataset": "ml-100k",
            "epochs": 2,
            "num_steps": 100,
            "people": 100,
            "passed_over": 100,
            "shares": (0.5, 0.9),
        },
        "gpu": {"epochs": 200, "num_steps": 20_000, "prune_steps": 2_000, "seeds": 5},
    }

    def teacher(self) -> sasrec.Config:
        """The teacher's own configuration."""
        return sasrec.Config(data=self.data, epochs=self.epochs)

    def teacher_folder(self) -> pathlib.Path:
        """Where the teacher stands, or will."""
        name = f"sasrec-{named.short_name(self.data.dataset)}"
        return Stored(self.teacher_out).folder(name)


def run(config: Config) -> records.Record:
    """Trains, compresses, adapts and tests; writes the record."""
    quantize.library()
    name = f"distill-{named.short_name(config.data.dataset)}"
    config = replace(config, out=config.output.folder(name))
    data = sasrec.load(config.teacher())
    shop = Workshop(config, data)
    big = sasrec.build(config.teacher(), data.num_items)
    judges = {settings: Judge(config, data, settings) for settings in (big, shop.little)}
    of_seeds = [shop.recommenders(seed) for seed in range(config.seeds)]
    settings = {
        f"{arm}, seed {seed}": judges[made.settings].chosen(made.params)
        for seed, recommenders in enumerate(of_seeds)
        for arm, made in recommenders.items()
    }
    tests = ledger.checksum("leave-one-out", data.digest(), config.people, config.passed_over)
    opened = records.open_tests(config, settings, "distill", tests)
    ranks: dict[tuple[str, str], list[np.ndarray]] = {}
    seconds, size, milliseconds = {}, {}, {}
    for seed, recommenders in enumerate(of_seeds):
        for arm, made in recommenders.items():
            rate = settings[f"{arm}, seed {seed}"]["rate"]
            places, took = judges[made.settings](made.params, rate)
            for condition, rank in places.items():
                ranks.setdefault((arm, condition), []).append(rank)
            seconds[arm], size[arm], milliseconds[arm] = made.seconds, made.size, took
            told = {k: next_item.rank_metrics(v)["ndcg@10"].mean() for k, v in places.items()}
            progress.say(f"{arm} {told}")
    scores = {
        records.Key("leave-one-out", arm, condition, metric): values
        for (arm, condition), rows in ranks.items()
        for metric, values in next_item.rank_metrics(np.stack(rows)).items()
        if metric in ("hit@10", "ndcg@10")
    }
    about = records.Data(data.name, data.digest(), items=data.num_items)
    return large_report.written(
        name, "distill", "leave-one-out", list(size), config, scores, seconds,
        opened=[opened], data=about, settings=settings,
        extra={"stored": size, "milliseconds": milliseconds},
    )  # fmt: skip


def show(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the table, what each row costs, and what the claims rest on; saves the picture."""
    title = f"Smaller recommenders, {record.dataset}: next item, all items ranked"
    columns = [(condition, "ndcg@10") for condition in COLUMNS]
    large_report.show(record, columns, title)
    facts = record.extra
    for arm in record.names():
        took, size = facts["milliseconds"][arm], facts["stored"][arm]
        print(f"{arm:40} {size:>10,} bytes  {took:6.2f} ms of one processor per person")
    get = lambda arm, condition: record.of("leave-one-out", arm, condition, "ndcg@10")
    for arm in record.names():
        gain = records.difference(get(arm, "adapted"), get(arm, "same people, as it is"))
        told = f"{arm}: adapting {gain:+.4f}"
        above = TEACHER if arm.startswith(TEACHER) else STUDENT
        gap = records.difference(get(arm, "as it is"), get(above, "as it is"))
        print(f"{told}; less {above} {gap:+.4f}")
    picture(record, folder / "bytes.png")


def picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves quality against bytes, one mark per row of the table."""
    with plots.page(path, 3.4) as axes:
        for i, arm in enumerate(record.names()):
            values = record.of("leave-one-out", arm, "as it is", "ndcg@10")
            r = records.interval(values, "ndcg@10")
            bars = [[r.mean - r.low], [r.high - r.mean]]
            look = {**plots.look(i), "linestyle": "none"}
            axes.errorbar(record.extra["stored"][arm] / 1e3, r.mean, yerr=bars, label=arm, **look)
        axes.set_xscale("log")
        plots.finish(
            axes, "kilobytes", f"nDCG@10, all items ({record.dataset})", len(record.names())
        )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and its picture."""
    name = f"distill-{named.short_name(config.data.dataset)}"
    return benchmark.shown(name, config, run, show)
