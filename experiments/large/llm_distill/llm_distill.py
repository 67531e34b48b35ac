"""A pretrained language model's knowledge of titles in a student of a megabyte: quality, latency.

The best use of the model in `llm_uses` is as content of new items: its title vectors beside genres.
A student learns to write these vectors from the letters of a title, on items that are not hidden,
and takes the model's place. Rows: genres alone, with the teacher, with the student, with MiniLM;
controls: a student of a teacher whose vectors are dealt to other titles, and the same letters
without a teacher. Each with the processor time of a request, the title and the person, and the
bytes that a service holds. The folder ``served`` is the model with the student, for `metajax
recommend` and `metajax serve`.

References: Hinton et al., 2015; Gantner et al., ICDM 2010.
Run: python -m experiments llm_distill --dataset ml-100k        (the extra `llm`)
     python -m experiments llm_distill --checkpoint FOLDER_OR_GGUF
     python -m experiments llm_distill --add "Heat 2"  puts a title into the served model
     python -m experiments llm_distill --dataset ml-100k --from-records prints the stored table.
Published: none under this protocol.
Deviates: a teacher's first principal components are taught, as many as `--dim` says.
"""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from metajax import benchmark
from metajax.benchmark import belief
from metajax.benchmark.harness import data_of
from metajax.data.sources import named
from metajax.data.split import Split
from metajax.data.table import Interactions
from metajax.models.language import bert, pretrained, vectors
from metajax.results import plots, records
from metajax.settings import Data, Output, Positive, Presets, Share, replace
from metajax.training import progress
from metajax.types import UserError

from .. import report as large_report
from ..llm_uses import content, llm_uses
from ..titles import names_of
from . import served
from .student import PLACES, Taught, hashed, taught

TAUGHT, LETTERS = "student", "letters without a teacher"
OTHERS = f"{TAUGHT} of a permuted teacher"
SCENARIO, METRIC = "new items, new people", "ndcg@5"


@dataclasses.dataclass(frozen=True)
class Config:
    """What the experiment can be told."""

    output: Output = Output()
    data: Data = Data()
    checkpoint: pathlib.Path = pathlib.Path(pretrained.NAME)
    """The teacher: smollm2, a GGUF file or a folder in the Hugging Face layout."""
    dim: Positive = 64
    """Principal components of the teacher's vectors that are taught."""
    shots: tuple[int, ...] = (0, 5, 20)
    """Ratings that are known of a person."""
    draw: int = 20
    """Seed of the draw of people, who are those of `llm_uses`."""
    apart_from: tuple[int, ...] = ()
    """Earlier draws: their test people, who may have been looked at, are left out."""
    seeds: Positive = 3
    """Draws of the hidden items."""
    hidden_share: Share = 0.2
    """Share of the items that are hidden."""
    factors: Positive = 16
    """Factors of the collaborative model of new items."""
    timed: Positive = 128
    """Titles whose reading is timed."""
    add: tuple[str, ...] = ()
    """Train nothing; put these titles into the model that the last run left, by its student."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "seeds": 1, "timed": 32},
        "gpu": {"seeds": 20, "dim": 256},
    }


def arm(name: str) -> str:
    """The name of the row of genres with these vectors."""
    return f"{content.GENRES} + {name}"


def per_title(read: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> float:
    """Milliseconds of processor time to read a title, after a first pass that compiles."""
    read(texts)
    began = time.process_time()
    read(texts)
    return 1e3 * (time.process_time() - began) / len(texts)


def students(
    config: Config, names: Sequence[str], teacher: np.ndarray, made: dict[str, list[Taught]]
) -> dict[str, content.Vectors]:
    """What depends on which items are hidden; every student is also put into ``made``."""
    rng = np.random.default_rng(config.draw)
    dealt = teacher[rng.permutation(len(teacher))]
    drawn = hashed(names) @ rng.normal(size=(PLACES, config.dim)) / config.dim**0.5

    def learned(arm: str, vectors: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        def of(hidden: np.ndarray) -> np.ndarray:
            found = taught(names, vectors, ~hidden, config.dim)
            made.setdefault(arm, []).append(found)
            return unit(found.told)

        return of

    return {TAUGHT: learned(TAUGHT, teacher), OTHERS: learned(OTHERS, dealt), LETTERS: unit(drawn)}


def scale_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) of vectors (N, D), and the root mean square length () around it."""
    center = x.mean(axis=0)
    return center, np.sqrt(np.mean(np.sum((x - center) ** 2, axis=1)))


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors (N, D) of mean 0 and mean square length 1, as title vectors nearly are."""
    center, size = scale_of(x)
    return (x - center) / size


def reader_of(draw: content.Draw, pupil: Taught) -> served.Reader:
    """What the served model reads a new title with: the student and the regression on it."""
    fit = draw.fits[arm(TAUGHT)]
    kernel = fit.kernel[len(fit.kernel) - pupil.told.shape[1] :]  # the rows before are genres
    return served.Reader(
        pupil.student, *scale_of(pupil.told), fit.mean, kernel, np.asarray(draw.size)
    )


def of_titles(
    config: Config, names: list[str], out: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, float], int]:
    """Vectors by the teacher and MiniLM, milliseconds of each per title, bytes of the teacher."""
    model = pretrained.load(config.checkpoint)
    texts = [vectors.TEMPLATE.format(name) for name in names]
    read = vectors.last_token_reader(model)
    kept = vectors.cached(names, config.checkpoint, out / "titles-llm.npz")
    found = {content.LARGE: kept}
    took = {content.LARGE: per_title(read, texts[: config.timed])}
    size = sum(p.stat().st_size for p in pretrained.folder_of(config.checkpoint).iterdir())
    try:
        small = bert.reader()
    except UserError as error:
        progress.say(f"the arm with {content.SMALL} is left out: {error}")
        return found, took, size
    found[content.SMALL] = small(names)
    took[content.SMALL] = per_title(small, names[: config.timed])
    return found, took, size


def run(config: Config) -> records.Record:
    """Reads, teaches, times and judges; writes the record."""
    name = name_of(config)
    config, began = replace(config, out=config.output.folder(name)), time.perf_counter()
    table, problem = llm_uses.load(config)
    if "genre" not in table.item_features.columns:
        raise UserError(f"{table.name} has no genres; name a table of the items with --items")
    names = names_of(table)
    read, took, size = of_titles(config, names, config.output.folder(name))
    made: dict[str, list[Taught]] = {}
    told = {k: unit(v) for k, v in read.items()} | students(
        config, names, read[content.LARGE], made
    )
    settings = {"penalty": "chosen by five folds of the items that are not hidden"}
    given = (table, problem.split)
    sizes = config.hidden_share, config.factors
    draws = [content.draw(*given, told, seed, *sizes) for seed in range(config.seeds)]
    links = content.links_of(*given, draws, max(config.shots))
    opened = records.open_tests(config, settings, "llm_distill", problem.split.checksum())
    found = content.judged(*given, draws, config.shots, links)
    every = [content.CONSTANT, content.GENRES, *map(arm, told), arm(content.PERMUTED)]
    scores = {
        records.Key(SCENARIO, name, f"k={k}", metric): values
        for (name, k, metric), values in found.items()
        if name in every
    }
    pupil = made[TAUGHT][0].student
    pupil.save(config.output.folder(name) / "student.npz")
    took[TAUGHT] = per_title(pupil, names[: config.timed])
    about: dict[str, Any] = {"model": pretrained.name_of(config.checkpoint), "milliseconds": took}
    about |= {"answer": answers(*given, draws[0], took, max(config.shots))}
    reader = reader_of(draws[0], made[TAUGHT][0])
    log = {"name": table.name, "checksum": table.checksum()}
    told_of = {"log": log, "validation": curve_of(found, config.shots)}
    served.save(folder_of(config), *given, draws[0], arm(TAUGHT), reader, told_of)
    about |= {"bytes": {content.LARGE: size, TAUGHT: pupil.size}}
    about |= {"explained": {k: [one.explained for one in v] for k, v in made.items()}}
    about |= {"people": next(iter(scores.values())).shape[1], **belief.scale_of(problem)}
    return large_report.written(
        name, "llm_distill", SCENARIO, [n for n in every if any(k.arm == n for k in scores)],
        config, scores, {"total": time.perf_counter() - began}, opened=[opened],
        data=data_of(problem), settings=settings, extra=about,
    )  # fmt: skip


def answers(
    table: Interactions, parts: Split, draw: content.Draw, took: Mapping[str, float], shots: int
) -> dict[str, float]:
    """Arm -> milliseconds to adapt to a person and to rank all items, each item read before."""
    every = [content.CONSTANT, content.GENRES, *map(arm, took)]
    return {one: served.milliseconds(table, parts, draw, one, shots) for one in every}


def curve_of(
    found: Mapping[tuple[str, int, str], np.ndarray], shots: Sequence[int]
) -> dict[str, Any]:
    """What the page of `metajax serve` shows: the error of new items, after K ratings."""
    of = lambda name: [float(np.nanmean(found[name, k, "mse"])) ** 0.5 for k in shots]
    users = int(np.isfinite(found[content.GENRES, shots[0], "mse"]).any(axis=0).sum())
    arms = {name: of(name) for name in (content.GENRES, arm(TAUGHT))}
    told = {"metric": "root mean squared error on new items", "events": list(shots), "users": users}
    return told | {"arms": arms, "notes": []}


def requests(record: records.Record) -> dict[str, float]:
    """Arm -> milliseconds of a request: to read one new title, to adapt to a person, to rank."""
    title = {arm(name): ms for name, ms in record.extra["milliseconds"].items()}
    answer = record.extra.get("answer", {})  # none in a record of before
    return {name: ms + title.get(name, 0.0) for name, ms in answer.items()}


def show(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the table, what each encoder costs, and the differences; saves the plot."""
    shots = sorted({int(key.condition.removeprefix("k=")) for key in record.scores})
    facts = record.extra
    title = f"{SCENARIO}, {record.dataset}, {facts['model']}: hidden items"
    large_report.rated(record, [f"k={k}" for k in shots], title, quoted=False)
    for name, took in facts["milliseconds"].items():
        size = facts["bytes"].get(name)
        told = "" if size is None else f", {size:,} bytes"
        print(f"a new title by {name}: {took:.3f} ms of processor time{told}")
    k = shots[-1]
    for name, ms in requests(record).items():
        score = records.interval(record.of(SCENARIO, name, f"k={k}", METRIC), METRIC)
        print(
            f"{name}: {ms:.3f} ms for one new title and one person ({facts['answer'][name]:.3f} ms "
            f"without the title), {METRIC} at K={k} {score.mean:.4f}"
        )
    for name, share in facts["explained"].items():
        print(f"{name}: explains {np.mean(share):.3f} of the variance on titles it has not seen")
    pairs = [(TAUGHT, content.LARGE), (TAUGHT, OTHERS), (TAUGHT, LETTERS), (TAUGHT, content.SMALL)]
    named_so = [(arm(a), arm(b)) for a, b in pairs]
    named_so += [(arm(x), content.GENRES) for x in (TAUGHT, content.LARGE, content.SMALL)]
    for metric, k in itertools.product(("mse", METRIC), shots):
        large_report.differences(record, f"{metric}, K={k}", (f"k={k}", metric), named_so)
    draw(record, folder)


def draw(record: records.Record, folder: pathlib.Path) -> None:
    """Saves quality over the processor time of a request."""
    path = folder / "quality-latency.png"
    last = max(int(key.condition.removeprefix("k=")) for key in record.scores)
    found = requests(record)
    if not found:
        return
    with plots.page(path, 2.8) as axes:
        for i, (name, ms) in enumerate(found.items()):
            scores = record.of(record.scenario, name, f"k={last}", METRIC)
            at = records.interval(scores, METRIC)
            error = [[at.mean - at.low], [at.high - at.mean]]
            axes.errorbar([ms], [at.mean], yerr=error, fmt="o", label=name, **colored(i))
        axes.set_xscale("log")
        axes.set_xlabel("processor time (ms): read a title, adapt, rank")
        axes.set_ylabel(f"{METRIC} of new items, K={last}")
        axes.grid(alpha=0.25, linewidth=0.4)
        plots.legend(axes, len(found))
    print(f"plot   {path}")


def colored(i: int) -> dict[str, Any]:
    """The color of the i-th line of a plot."""
    return {name: value for name, value in plots.look(i).items() if name == "color"}


def name_of(config: Config) -> str:
    """The name of the record: of the teacher and the data."""
    model = pretrained.name_of(config.checkpoint)
    return f"llm_distill-{model}-{named.short_name(config.data.dataset)}"


def folder_of(config: Config) -> pathlib.Path:
    """The model folder that a run leaves."""
    return config.output.folder(name_of(config)) / "served"


def main(config: Config) -> records.Record | None:
    """The record of the experiment, run or read, its table and its plot."""
    if config.add:
        served.added(folder_of(config), config.add)
        print(f"added {len(config.add)} titles to {folder_of(config)}")
        return None
    return benchmark.shown(name_of(config), config, run, show)
