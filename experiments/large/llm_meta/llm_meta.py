"""Does meta-learning pay for a pretrained language model that adapts to a person?

A person is a task: K rated titles, and twenty others to order. The model reads each title; a soft
prompt or low-rank factors (LoRA) of the person change how, and a last layer of the person turns
what it reads into a rating beside the item's mean. All of these start from shared values, which
are trained without adaptation (and then fine-tuned per person), by Reptile, or through the
adaptation with gradients of first and of second order. Beside them: the last layer alone, the same
with the titles of other items, the model asked in words with the ratings in its prompt, and the
arms of the project without a language model.

References: arXiv 2507.16672, 2025 (meta-learned soft prompts for cold-start people); Finn et al.,
ICML 2017; Nichol et al., 2018; Hu et al., ICLR 2022 (LoRA); Lester et al., EMNLP 2021.
Run: python -m experiments llm_meta                  (ml-100k; the extra `llm`)
     python -m experiments llm_meta --dataset ml-1m --draw 22 --apart-from 20 21 --asked 200
     python -m experiments llm_meta --preset gpu --checkpoint FOLDER_OR_GGUF
     python -m experiments llm_meta --from-records prints the stored table.
Published: none under this protocol.
Deviates: adapters act on the last word alone, in four layers below two thirds of the depth, so that
a catalogue is read once for all people; `--layers` and `--top` change it.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.benchmark import baselines, belief
from metajax.benchmark.harness import data_of
from metajax.benchmark.problem import Problem, laid_out
from metajax.data import episodes
from metajax.data.sources import named
from metajax.evaluation import evaluate, judge, ordinal
from metajax.models.language import pretrained, vectors
from metajax.models.transformer import Shape
from metajax.results import records
from metajax.results.partial import Partial
from metajax.settings import Data, Hardware, Output, Positive, Presets, config_hash, replace
from metajax.types import Episode, UserError

from .. import report as large_report
from ..llm_uses import llm_uses
from ..llm_uses.prompts import RATING, Asker
from ..llm_uses.report import permuted
from ..titles import names_of
from . import report, ways
from .frozen import Frozen, frozen


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data(dataset="ml-100k")
    hardware: Hardware = Hardware()
    checkpoint: pathlib.Path = pathlib.Path(pretrained.NAME)
    """smollm2, a GGUF file or a folder in the Hugging Face layout."""
    layers: Positive = 4
    """Layers in which adapters act."""
    top: int = 0
    """The last of these layers, whose output is used; 0 is two thirds up the model's layers."""
    rank: Positive = 4
    """Rank of LoRA, on queries and outputs of attention."""
    prompt: str = "The taste of this person:"
    """Words that the soft prompt starts from; their number is its length."""
    num_steps: Positive = 240
    """Outer steps of each arm."""
    num_tasks: Positive = 6
    """People per outer step."""
    num_support: Positive = 12
    """Ratings that a person of an outer step adapts to, at most."""
    inner_steps: Positive = 2
    """Gradient steps on a person, for the arms that are trained through them."""
    inner_rate: float = 0.1
    """Their rate at first; where trained through, it is learned for each number."""
    outer_rate: float = 5e-3
    """Adam's rate across people, decayed to 0 along a cosine."""
    valid_people: Positive = 24
    """Validation people on whom fine-tuning is tuned, and all ordinal links are fitted."""
    shots: tuple[int, ...] = (0, 1, 5, 10, 20)
    """Ratings that are known of a person."""
    people: Positive = 200
    """People who are judged, at most."""
    asked: Positive = 30
    """Number of the judged people about whom the model is also asked in words."""
    draw: int = 20
    """Seed of the draw of people, who are those of `llm_uses`."""
    apart_from: tuple[int, ...] = ()
    """Earlier draws: their test people, who may have been looked at, are left out."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"num_steps": 8, "num_tasks": 2, "people": 16, "asked": 2, "valid_people": 4},
        "gpu": {
            "dataset": "ml-1m",
            "layers": 20,
            "num_steps": 2_000,
            "num_tasks": 32,
            "num_support": 20,
            "valid_people": 200,
            "people": 1_000,
            "asked": 200,
        },
    }


HOWS = (ways.TUNED, ways.REPTILE, ways.FIRST, ways.SECOND)
ARMS = (
    (ways.LAST, ways.TUNED),
    (ways.LAST, ways.SECOND),
    *((ways.PROMPT, how) for how in HOWS),
    *((ways.LORA, how) for how in HOWS),
)
"""What adapts, and how its start is trained; those of second order also with others' titles."""


def trained(config: Config, problem: Problem, shape: Shape, shared: Frozen) -> dict[str, ways.Way]:
    """The arms that are trained, by name."""
    dealt = np.random.default_rng(config.draw).permutation(problem.table.num_items)
    others = shared._replace(order=jnp.asarray(dealt))
    found = {}
    for kind, how in ARMS:
        name = report.arm(kind, how)
        found[name] = ways.built(config, kind, how, shape, problem, shared, name)
        if kind != ways.LAST and how == ways.SECOND:
            name = permuted(name)
            found[name] = ways.built(config, kind, how, shape, problem, others, name)
    return found


def judged(
    config: Config,
    problem: Problem,
    found: dict[str, ways.Way],
    arms: Any,
    tasks: Episode,
    links: Mapping[str, ordinal.Link],
) -> dict[records.Key, np.ndarray]:
    """Scores (1, people) of all arms but the prompt at each K, and with shuffled labels.

    What the links tell stands under the largest K.
    """
    source, scores = problem.valid[0], {}
    last, where = config.shots.index(max(config.shots)), (report.SCENARIO, f"k={max(config.shots)}")
    conditions = [*(f"k={k}" for k in config.shots), report.shuffled(max(config.shots))]
    for name, way in found.items():
        values = ways.judged(way, source, tasks, config.shots)
        own = jnp.asarray(values.pop("scores")[last])[None]
        proper = judge.believed(links[name], own, tasks, jax.random.key(4)) if links else {}
        for metric, rows in proper.items():
            scores[records.Key(where[0], name, where[1], metric)] = np.asarray(rows)
        for metric, rows in values.items():
            for condition, values in zip(conditions, rows, strict=True):
                scores[records.Key(report.SCENARIO, name, condition, metric)] = values[None]
    fetch = episodes.fetch_from(source)
    for name, arm in arms.items():
        params = jax.tree.map(lambda x: x[0], arm.params)
        values = evaluate.k_shot(
            arm.learner, params, tasks, jax.random.key(3), config.shots, fetch=fetch
        )
        for metric, rows in values.items():
            for i, k in enumerate(config.shots):
                key = records.Key(report.SCENARIO, name, f"k={k}", metric)
                scores[key] = np.asarray(rows)[i][None]
    return scores | llm_uses.believed(problem, arms, {}, tasks, links, where)


def in_words(
    config: Config,
    asker: Asker,
    tasks: Episode,
    names: list[str],
    kept: Partial,
    links: Mapping[str, ordinal.Link],
) -> dict[records.Key, np.ndarray]:
    """Scores (1, people) of the model asked in words; NaN for those about whom it is not asked."""
    told = llm_uses.answers(
        replace(config, people=config.asked), asker, tasks, names, kept, [RATING]
    )
    count, scores = len(told[RATING]), {}
    some = jax.tree.map(lambda x: x[:count], tasks)
    metrics_of, most = jax.jit(evaluate.rating_metrics), max(config.shots)
    for name, answers in told.items():
        for i, k in enumerate(config.shots):
            given = jnp.asarray(answers[:, i], jnp.float32), some, jax.random.key(i)
            values = metrics_of(*given)
            if k == most and name in links:
                proper = judge.believed(links[name], given[0][None], *given[1:])
                values |= {metric: rows[0] for metric, rows in proper.items()}
            for metric, rows in values.items():
                row = np.full((1, tasks.query.label.shape[0]), np.nan)
                row[0, :count] = np.asarray(rows)
                scores[records.Key(report.SCENARIO, name, f"k={k}", metric)] = row
    return scores


def run(config: Config) -> records.Record:
    """Trains, asks and judges; writes the record."""
    name = name_of(config)
    out = config.output.folder(name)
    config, began = replace(config, out=out), time.perf_counter()
    if min(config.shots) < 0 or max(config.shots) < 1:
        raise UserError("--shots are numbers of ratings: give 0 and larger ones")
    problem = llm_uses.load(config)[1]
    names = names_of(problem.table)
    arms = baselines.closed_form_arms(problem)
    model = pretrained.load(config.checkpoint)
    asker = Asker(model)  # refuses some tokenizers, before anything is trained
    texts = [vectors.TEMPLATE.format(name) for name in names]
    shape, shared = frozen(model, texts, config.prompt, config.layers, config.top)
    seconds = {"the catalogue": time.perf_counter() - began}
    found = trained(config, problem, shape, shared)
    settings = {name: arm.settings for name, arm in {**arms, **found}.items()}
    links = llm_uses.links_of(config, problem, arms, asker, names, config.valid_people)
    links |= ways.links_of(found, problem, config.valid_people)
    tests = problem.split.checksum()
    kept = Partial(out / "people.jsonl", {"config": config_hash(config), "asked": tests})
    opened = kept.opening(config, lambda: records.open_tests(config, settings, "llm_meta", tests))
    stored = laid_out(problem.split.test["user_cold"], llm_uses.NUM_QUERY)
    stored = jax.tree.map(lambda x: x[: config.people], stored)
    scores = judged(config, problem, found, arms, stored, links)
    scores |= in_words(config, asker, stored, names, kept, links)
    size = {arm: ways.size_of(way, problem.example.profile) for arm, way in found.items()}
    seconds |= {arm: way.seconds for arm, way in found.items()}
    seconds["total"] = time.perf_counter() - began
    about = {"model": model.name, "people": stored.query.label.shape[0], "asked": config.asked}
    about |= {"prompt": shared.prompt.shape[0], "training people": len(problem.split.train.owner)}
    about |= belief.scale_of(problem)
    every = list(dict.fromkeys(key.arm for key in scores))
    return large_report.written(
        name, "llm_meta", report.SCENARIO, every, config, scores, seconds, opened=[opened],
        data=data_of(problem), settings=settings, size=size, extra=about,
    )  # fmt: skip


def name_of(config: Config) -> str:
    """The name of the record: of the model and the data."""
    model = pretrained.name_of(config.checkpoint)
    return f"llm_meta-{model}-{named.short_name(config.data.dataset)}"


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and its plot."""
    return benchmark.shown(name_of(config), config, run, report.show)
