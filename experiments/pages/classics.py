"""The few-shot classics in one page: what the stored records say, beside what was published.

Run: python -m experiments classics --project (writes docs/classics.md and the README's block)
     python -m experiments classics --from-records prints the README's block, in a second.
Every number is computed from the per-task scores of a record, or quoted from
third_party/published.toml; the GPU's are a projection with its arithmetic.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from metajax import benchmark
from metajax.benchmark.command import Preset
from metajax.data import images
from metajax.results import records as report
from metajax.types import UserError

from ..classics import few_shot, projection
from ..classics.omniglot import omniglot
from ..classics.sinusoid import report as sinusoid_report

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = tuple(f"{ways}-way {shots}-shot" for ways in (5, 20) for shots in (1, 5))


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the page."""

    preset: Preset = "paper"
    """Has no effect here: nothing is run."""
    page: pathlib.Path = ROOT / "docs" / "classics.md"
    """The file that is written, beside the block of the README."""
    project: bool = False
    """Count the projection's operations and kernels anew (minutes); else the page keeps its own."""
    from_records: bool = False
    """Print the README's block, and write nothing."""


def omniglot_table() -> str:
    """A row per method, a column per setting: ours with its interval, then what was published."""
    records = report.all_stored("omniglot-*w*s-*").values()
    found = {(r.scenario, r.method): r for r in records}
    names = [label for label, _ in omniglot.ARMS.values()]
    ranked = sorted({arm for scenario, arm in found if scenario in SETTINGS}, key=_rank(names))
    quoted = few_shot.published("omniglot")
    lines = ["| method | " + " | ".join(SETTINGS) + " |", "| --- " * (len(SETTINGS) + 1) + "|"]
    for arm in ranked:
        cells = [_cell(found.get((s, arm)), quoted.get(f"{s}|{arm}", "")) for s in SETTINGS]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    return "\n".join(lines)


def _rank(names: list[str]) -> Callable[[str], tuple[int, str]]:
    """Methods as they are listed, each followed by its variants."""
    return lambda arm: (names.index(arm.split(",")[0]), arm)


def _cell(record: report.Record | None, published: str) -> str:
    theirs = f" ({published})" if published else ""
    if record is None:
        return f"—{theirs}" if published else ""
    scores = next(iter(record.scores.values()))
    r = report.interval(scores, "accuracy")
    fewer = "" if scores.shape[1] == omniglot.Config.test_tasks else f" on {scores.shape[1]} tasks"
    return f"{100 * r.mean:.2f} [{100 * r.low:.2f}, {100 * r.high:.2f}]{fewer}{theirs}"


def unlabeled_table() -> str:
    """Tasks made without labels: accuracy of each arm, then what was published."""
    scenario = f"{SETTINGS[0]}, no labels"
    quoted = few_shot.published("omniglot")
    lines = [f"| arm | {scenario} |", "| --- | --- |"]
    for record in report.all_stored("omniglot-unsupervised-*").values():
        arm = record.method
        lines.append(f"| {arm} | {_cell(record, quoted.get(f'{scenario}|{arm}', ''))} |")
    return "\n".join(lines)


def sinusoid_table(stems: Sequence[str], steps: int) -> str:
    """A row per learner, a column per record: mean squared error after so many steps."""
    paths = [report.path_of(f"sinusoid-{stem}") for stem in stems]
    records = [report.read(path) for path in paths if path.is_file()]
    if not records:
        return "No record is stored yet."
    scenarios = [r.scenario for r in records]
    quoted = few_shot.published("sinusoid")
    lines = ["| learner | " + " | ".join(scenarios) + " |", "| --- " * (len(records) + 1) + "|"]
    for arm in records[0].names():
        cells = []
        for record, scenario in zip(records, scenarios, strict=True):
            scores = record.of(scenario, arm, f"steps={steps}", sinusoid_report.METRIC)
            r = report.interval(scores, sinusoid_report.METRIC)
            published = quoted.get(f"{scenario}|{arm}", "")
            theirs = f" ({published})" if published else ""
            ours = f"{r:.3f}"
            cells.append(("a task diverged" if np.isinf(r.mean) else ours) + theirs)
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """The tables of the page, by their place in it."""
    points = ("k5", "k10", "k20")
    given = ("memorization-k5", "memorization-k10")
    return {
        "omniglot": omniglot_table(),
        "spent": spent(),
        "unlabeled": unlabeled_table(),
        "one": sinusoid_table(points, 1),
        "ten": sinusoid_table(points, 10),
        "given": sinusoid_table(given, 100),
        "hardest": hardest(),
    }


def hardest() -> str:
    """What 20-way 1-shot has come to, beside what was published."""
    theirs = few_shot.published("omniglot")["20-way 1-shot|MAML"]
    path = report.path_of("omniglot-20w1s-maml")
    if not path.is_file():
        return f"For 20-way 1-shot the paper reports {theirs}; no record is stored here yet."
    record = report.read(path)
    steps = record.extra["schedule"]["num_steps"]
    return (
        f"For 20-way 1-shot the paper reports {theirs}. The record stored here has "
        f"{_cell(record, '')} after {steps:,} steps."
    )


def readme_block() -> str:
    """What the README says of the classics."""
    return (
        "Omniglot: accuracy in per cent on 600 test tasks with its 95 % interval in brackets, and "
        "the published number in parentheses. A cell is empty where nothing was run here and "
        "nothing is published.\n\n" + omniglot_table()
    )


def spent() -> str:
    """Steps, inner steps where they were chosen here, and minutes of each Omniglot record."""
    names = "setting", "method", "outer steps", "tasks per step", "inner steps", "minutes"
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    for record in report.all_stored("omniglot-*w*s-*").values():
        if record.scenario in SETTINGS:
            s = record.extra["schedule"]
            row = [record.scenario, record.method, f"{s['num_steps']:,}", str(s["num_tasks"])]
            where, _, card = record.environment.device.partition(":")
            on = f" on one {card}" if where == "gpu" else ""
            row += [_inner(record.extra), f"{record.total_seconds / 60:.1f}{on}"]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _inner(facts: Mapping[str, Any]) -> str:
    """Inner steps in training and at test, and their rate; empty if the record has none."""
    if "inner" not in facts:
        return ""
    inner = omniglot.Inner(**facts["inner"])
    tested = "" if inner.tested == inner.trained else f" ({inner.tested} at test)"
    return f"{inner.trained} at rate {inner.rate:g}{tested}"


def published_method(ways: int, shots: int) -> few_shot.Method:
    """MAML with the published schedule."""
    return omniglot.maml(omniglot.Config(ways=ways, shots=shots, published=True))


def blank() -> images.ClassImages:
    """Images of the right shape, for programs that are counted and not run."""
    return images.by_class(np.zeros((1000, 28, 28), np.uint8), np.repeat(np.arange(50), 20))


def projected() -> str:
    """The published schedule of MAML on a GPU, by arithmetic."""
    device, lines = projection.H100, []
    for ways, shots in ((5, 1), (20, 1)):
        method = published_method(ways, shots)
        found = projection.cost(method, blank())
        said = projection.sentence(found, method.num_steps)
        lines.append(f"- {ways}-way {shots}-shot: {said}.")
    return (
        "The table above names the GPU of each run on one. The times below were not measured: "
        f"they are computed for one {device.name}. They assume that batched matrix products of "
        f"this size reach {100 * device.share:.0f} % of that rate, that each kernel takes "
        f"{1e6 * device.launch:.0f} microseconds to start, and that nothing overlaps. Kernels are "
        "counted in the program compiled for a CPU, with all tasks of a step at once.\n\n"
        + "\n".join(lines)
    )


PAGE = """# Few-shot classics

Written by `python -m experiments classics` from the records in `paper/results/`.

## Omniglot

Accuracy in per cent on 600 test tasks with its 95 % interval over tasks in brackets, and the
number that the paper reports in parentheses. As published, batch normalization uses the statistics
of the query batch (transductive); the variant with layer norm classifies each image on its own.
`python -m experiments omniglot --help` lists how our runs differ from the papers.

{omniglot}

Training schedules and times follow. The runs took minutes, on one core of a shared two-core
machine unless a GPU is named, which up to six other runs shared at the time; MAML's published
schedules are 60,000 steps of 16 or 32 tasks. Inner
rates and numbers of inner steps are those of the papers, or were chosen on validation classes where
one long inner step learns more in a few minutes than five short ones (`INNER` in
`experiments/classics/omniglot/omniglot.py`; `experiments/LOG.md` says what was tried). The cell is
empty where the method has no inner steps or the record does not store them.

{spent}

Unsupervised meta-learning (`python -m experiments unsupervised`): tasks are made from clusters of
images, without labels (CACTUs). Beside it stand the same learner trained with labels, trained on
random clusters (random partition), and two baselines without meta-training:

{unlabeled}

## Sinusoid regression

Mean squared error of K-shot regression after one gradient step (or after adapting once, for
learners without gradient steps); three seeds, 600 test tasks, 95 % intervals in brackets.
`python -m experiments sinusoid --from-records` prints it after every number of steps and draws the
curves. *oracle* knows that tasks are sinusoids and solves for amplitude and phase; *oracle network*
is told both; *pretrained* is trained on all tasks jointly and then fine-tuned.

{one}

After ten steps:

{ten}

Memorization (`python -m experiments memorization`): in training, an input reveals the amplitude of
each task, so that the network can memorize the tasks; at test that input is random. Mean squared
error after 100 gradient steps, published numbers in parentheses:

{given}

The arms called *program* follow the authors' notebook, which creates a new Adam optimizer at every
outer step and starts from noise that is too small to have an effect. What prevents memorization
there is this optimizer together with a small squared penalty, as the two controls in the rows below
it show (`experiments/classics/memorization.py` explains why). *MR-MAML*, in the rows above, is the
method of the paper with an optimizer that keeps its moments.

## The published schedules

On a machine with a GPU (`make install EXTRA=cuda13`, or `cuda12`, by its driver), `--preset gpu`
trains MAML as published:

```
python -m experiments omniglot --arms maml --preset gpu --ways 5 --shots 1 --publish
python -m experiments omniglot --arms maml --preset gpu --ways 5 --shots 5 --publish
python -m experiments omniglot --arms maml --preset gpu --ways 20 --shots 1 --publish
python -m experiments omniglot --arms maml --preset gpu --ways 20 --shots 5 --publish
```

{hardest}

A run saves itself about every ten seconds; where it was killed, the same command goes on and ends
with the same numbers. It shows the time that is left: on a terminal in a bar, elsewhere in a line
each minute. `--seeds 3` trains three networks side by side, `--compute bfloat16` computes with
shorter activations, and `--devices 2` deals the tasks of a step to two cards.

`make device` runs every check of the project on a card in less than ten minutes. It measures the
milliseconds of a 20-way step and goes on with that training as long as its time allows. The next
call goes on from what it leaves in `out/device/omniglot.tar.gz`.

## On a GPU

"""


START, END = "<!-- classics: written by experiments.pages.classics -->", "<!-- end of classics -->"


def put_block(text: str) -> str:
    """The README's text with the block between its two marks.

    Raises:
      UserError: the marks are missing.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise UserError(f"the README has no lines {START} and {END}; put them where the table goes")
    return f"{before}{START}\n{readme_block()}\n{END}{after}"


def main(config: Config) -> None:
    """Writes page and block, or prints the block."""
    if not report.files(report.RESULTS, "omniglot-*w*s-*"):
        raise UserError(
            f"no records in {report.RESULTS}; run python -m experiments omniglot --publish"
        )
    if config.from_records:
        print(readme_block())
        return
    head = PAGE.format(**tables())
    if config.project or not config.page.is_file():
        last = projected() + "\n"
    else:
        last = config.page.read_text().rpartition("## On a GPU\n\n")[2]
    config.page.write_text(head + last)
    readme = ROOT / "README.md"
    readme.write_text(put_block(readme.read_text()))
    print(f"wrote {config.page} and the block of {readme}")


if __name__ == "__main__":
    benchmark.cli(main, Config)
