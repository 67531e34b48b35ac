"""Which use of a pretrained language model pays? Prompts, and title vectors of new items.

Known items: people who are new rate K films; the model reads them in a prompt and orders twenty
others, by the likelihood of the title with and without its prior, by yes or no, or by the rating
it would write next. New items: a fifth of the items is hidden, and content predicts them: genres,
a sentence encoder, the language model's vectors, and these beside each other. Control of each: the
titles of other items. The arms of the project stand beside them, on the same people and ratings.

References: Sanner et al., RecSys 2023 (prompts against item ratings); Gantner et al., ICDM 2010.
Run: python -m experiments llm_uses             (ml-1m, 200 people; the extra `llm`)
     python -m experiments llm_uses --dataset ml-100k --people 24
     python -m experiments llm_uses --checkpoint FOLDER_OR_GGUF
     python -m experiments llm_uses --from-records prints the stored table.
Published: none under this protocol.
Deviates: one wording of each prompt, fixed before these people were looked at; nothing is tuned.
Ordinal links, for distributions over ratings, are fitted on validation people, a quarter as many as
are judged; the model is asked about them after all shots alone.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark, losses
from metajax.benchmark import baselines, belief
from metajax.benchmark.harness import data_of
from metajax.benchmark.problem import Problem, laid_out, problem_of
from metajax.data import episodes, split
from metajax.data.sources import named
from metajax.data.table import Interactions
from metajax.evaluation import evaluate, judge, ordinal
from metajax.models.language import pretrained
from metajax.results import records
from metajax.results.partial import Partial
from metajax.settings import Data, Output, Positive, Presets, Share, config_hash, replace
from metajax.training import progress
from metajax.types import Episode, Params, UserError

from .. import report as large_report
from ..titles import names_of
from . import content, report
from .prompts import LIKELIHOOD, RATING, STARS, YES_NO, Asker, Rated

NUM_QUERY = 20
PRIOR, RANDOM = f"{LIKELIHOOD} minus prior", "random"
OTHERS = report.permuted(RATING)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data()
    checkpoint: pathlib.Path = pathlib.Path(pretrained.NAME)
    """smollm2, a GGUF file or a folder in the Hugging Face layout."""
    shots: tuple[int, ...] = (0, 1, 5, 10, 20)
    """Ratings that are known of a person."""
    people: Positive = 200
    """People whom the language model is asked about, at most."""
    draw: int = 20
    """Seed of the draw of people."""
    apart_from: tuple[int, ...] = ()
    """Earlier draws: their test people, who may have been looked at, are left out."""
    seeds: Positive = 3
    """Draws of the hidden items."""
    hidden_share: Share = 0.2
    """Share of the items that are hidden."""
    dim: Positive = 16
    """Factors of the collaborative model of new items."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "people": 4, "seeds": 1, "shots": (0, 5)},
        "gpu": {"people": 1_000, "seeds": 10},
    }


def people_of(config: Any, table: Interactions) -> split.Split:
    """A split whose test people were in no earlier test of `adapt_large`, which the pilot used.

    It reads ``shots``, ``draw`` and ``apart_from`` of the configuration. Of each person, the first
    rows are the support and the last twenty the query, in random order.
    """
    most = max(config.shots) + NUM_QUERY
    asked: dict[str, Any] = {"max_rows": None, "num_query": NUM_QUERY}
    of_draw = lambda seed: split.user_disjoint(
        table, seed, shares=(0.1, 0.3), min_rows=most, **asked
    )
    parts = of_draw(config.draw)
    met = [of_draw(seed).test["user_cold"].owner for seed in config.apart_from]
    try:
        before = split.user_disjoint(table, 0, shares=(0.1, 0.15), min_rows=70, **asked)
        met.append(before.test["user_cold"].owner)
    except UserError:  # too few people have so many rows: the pilot cannot have looked at them
        pass
    short = lambda t: t._replace(length=np.minimum(t.length, most).astype(np.int32))
    test = short(parts.test["user_cold"])
    fresh = ~np.isin(test.owner, np.concatenate([*met, np.zeros(0, int)]))
    test = test._replace(
        owner=test.owner[fresh], start=test.start[fresh], length=test.length[fresh]
    )
    if not fresh.any():
        raise UserError(f"{table.name}: nobody is left who was not looked at; give another --draw")
    valid = {name: short(tasks) for name, tasks in parts.valid.items()}
    return dataclasses.replace(parts, valid=valid, test={"user_cold": test})


def load(config: Any) -> tuple[Interactions, Problem]:
    """The log, and the problem of new people; refuses what the prompts cannot say."""
    table = named.chosen(config.data)
    names_of(table)
    if table.scale != (STARS[0], STARS[-1]):
        low, high = table.scale
        raise UserError(f"{table.name} has ratings {low:g}..{high:g}; the prompts speak of 1 to 5")
    return table, problem_of(table, people_of(config, table), error=losses.absolute_error)


def rated(tasks: Episode, person: int, names: Sequence[str]) -> Rated:
    """What is known and asked of one person."""
    part = lambda x: np.asarray(x)[person]
    titles = lambda examples: [names[i] for i in part(examples.inputs)]
    return Rated(titles(tasks.support), part(tasks.support.label).tolist(), titles(tasks.query))


def answers(
    config: Any,
    asker: Asker,
    tasks: Episode,
    names: list[str],
    kept: Partial,
    kinds: Sequence[str] = (RATING, YES_NO, LIKELIHOOD),
) -> dict[str, np.ndarray]:
    """Arm -> scores (people, K, Q); each person is kept as they come.

    Args:
      config: its ``people``, ``draw`` and ``shots``.
      kinds: of the prompts; each is also asked with the titles of other items.
    """
    count = min(config.people, tasks.query.label.shape[0])
    dealt = np.random.default_rng(config.draw).permutation(len(names))
    others = [names[i] for i in dealt]
    asked = {kind: (kind, names) for kind in kinds}
    asked |= {report.permuted(kind): (kind, others) for kind in kinds}
    seconds: list[float] = []
    with progress.bar("people", count) as update:
        for i in range(count):
            if str(i) not in kept:
                began, used = time.perf_counter(), time.process_time()
                told: dict[str, Any] = {
                    arm: np.round(asker(kind, rated(tasks, i, known), config.shots), 5)
                    for arm, (kind, known) in asked.items()
                }
                cost = time.perf_counter() - began, time.process_time() - used
                kept.add(str(i), told | {"cost": cost})
                seconds.append(cost[0])
                if len(seconds) == 2:  # the first one compiles
                    rest = (count - i - 1) * cost[0] / 60
                    progress.say(
                        f"a person takes {cost[0]:.1f} s, {cost[1]:.1f} s of processor time; the "
                        f"others {rest:.0f} minutes more"
                    )
            update(i + 1, {})
    found = {arm: np.array([kept[str(i)][arm] for i in range(count)]) for arm in asked}
    for kind in [k for k in (LIKELIHOOD, report.permuted(LIKELIHOOD)) if k in found]:
        found[kind.replace(LIKELIHOOD, PRIOR)] = found[kind] - found[kind][:, :1]
    return found


class Known(NamedTuple):
    """The arms without a language model.

    Attributes:
      arms: by name, tuned on validation people.
      settings: what was chosen.
    """

    arms: dict[str, baselines.Trained]
    settings: dict[str, Any]


def known_arms(problem: Problem) -> Known:
    """Item mean, bias, fold-in and hierarchical Bayes."""
    arms = baselines.closed_form_arms(problem)
    return Known(arms, {name: arm.settings for name, arm in arms.items()})


def links_of(
    config: Any,
    problem: Problem,
    arms: Mapping[str, baselines.Trained],
    asker: Asker,
    names: list[str],
    people: int,
) -> dict[str, ordinal.Link]:
    """Arm that predicts ratings -> its ordinal link, leaves (1, ...); of prompts `RATING` alone.

    Args:
      config: its ``draw`` and ``shots``; links are of the largest number of shots.
      people: number of the validation people whom all links are fitted on, at most.
    """
    (source, tasks), levels = problem.valid, belief.levels_of(problem)
    if levels is None:
        return {}
    tasks = jax.tree.map(lambda x: x[:people], tasks)
    given = {name: (arm.learner, _first(arm.params)) for name, arm in arms.items()}
    found = judge.links_of(given, tasks, levels, fetch=episodes.fetch, source=source)
    dealt = np.random.default_rng(config.draw).permutation(len(names))
    query, shots = tasks.query, (max(config.shots),)
    for arm, known in ((RATING, names), (OTHERS, [names[i] for i in dealt])):
        asked = range(query.label.shape[0])
        scores = [asker(RATING, rated(tasks, i, known), shots)[0] for i in asked]
        score, ratings = jnp.asarray(np.stack(scores), jnp.float32), jnp.asarray(levels)
        link = jax.jit(ordinal.fit)(score, query.label, query.mask, ratings)
        found[arm] = jax.tree.map(lambda x: x[None], link)
    return found


def _first(params: Params) -> Params:
    """The parameters of the first seed alone, leaves (1, ...)."""
    return jax.tree.map(lambda x: x[:1], params)


def believed(
    problem: Problem,
    arms: Mapping[str, baselines.Trained],
    told: Mapping[str, np.ndarray],
    tasks: Episode,
    links: Mapping[str, ordinal.Link],
    where: tuple[str, str],
) -> dict[records.Key, np.ndarray]:
    """The `ordinal.PROPER` metrics (1, people) of closed-form arms and of prompts, after all shots.

    Args:
      told: prompt -> its answers (people, Q).
      links: of `links_of`.
      where: scenario and condition.
    """
    given = {name: (arm.learner, _first(arm.params)) for name, arm in arms.items()}
    own = {name: links[name] for name in given if name in links}
    found = large_report.believed(given, own, problem.valid[0], tasks, where)
    for name in (name for name in told if name in links):
        scores = jnp.asarray(told[name], jnp.float32)[None]
        for metric, values in judge.believed(links[name], scores, tasks, jax.random.key(4)).items():
            found[records.Key(where[0], name, where[1], metric)] = np.asarray(values)
    return found


def known_items(
    config: Config,
    problem: Problem,
    tasks: Episode,
    arms: Known,
    told: Mapping[str, np.ndarray],
    links: Mapping[str, ordinal.Link],
) -> dict[records.Key, np.ndarray]:
    """Scores (1, people) of every arm at each K, on the same people and ratings."""
    count = next(iter(told.values())).shape[0]
    tasks = jax.tree.map(lambda x: x[:count], tasks)
    fetch, found = episodes.fetch_from(problem.valid[0]), {}
    metrics_of = jax.jit(evaluate.rating_metrics)
    for name, arm in arms.arms.items():
        params = jax.tree.map(lambda x: x[0], arm.params)
        values = evaluate.k_shot(
            arm.learner, params, tasks, jax.random.key(3), config.shots, fetch=fetch
        )
        for metric, rows in values.items():
            for i, k in enumerate(config.shots):
                found[records.Key(report.KNOWN, name, f"k={k}", metric)] = np.asarray(rows)[i][None]
    lottery = np.random.default_rng(config.draw).random(next(iter(told.values())).shape)
    for name, scores in {RANDOM: lottery, **told}.items():
        for i, k in enumerate(config.shots):
            if name.startswith(PRIOR) and k == 0:
                continue  # nothing is left of it
            values = metrics_of(jnp.asarray(scores[:, i], jnp.float32), tasks, jax.random.key(i))
            kept = ("ndcg@5", "mse", "mae") if name in (RATING, OTHERS) else ("ndcg@5",)
            for metric in kept:
                key = records.Key(report.KNOWN, name, f"k={k}", metric)
                found[key] = np.asarray(values[metric])[None]
    most = max(config.shots)
    last = {name: told[name][:, config.shots.index(most)] for name in (RATING, OTHERS)}
    where = (report.KNOWN, f"k={most}")
    return found | believed(problem, arms.arms, last, tasks, links, where)


def title_vectors(config: Config, table: Interactions, out: pathlib.Path) -> dict[str, np.ndarray]:
    """The vectors of all titles by the language model, and by MiniLM if it is installed."""
    from metajax.models.language import bert, vectors

    texts = names_of(table)
    found = {content.LARGE: vectors.cached(texts, config.checkpoint, out / "titles-llm.npz")}
    try:
        bert.packaged_folder()
        found[content.SMALL] = vectors.cached(texts, None, out / "titles-minilm.npz")
    except UserError as error:
        progress.say(f"the arms with {content.SMALL} are left out: {error}")
    return found


def run(config: Config) -> records.Record:
    """Asks, adapts and judges; writes the record."""
    name = name_of(config)
    out = config.output.folder(name)
    config = replace(config, out=out)
    began = time.perf_counter()
    table, problem = load(config)
    names = names_of(table)
    of_titles = title_vectors(config, table, out)
    arms = known_arms(problem)
    asker = Asker(pretrained.load(config.checkpoint))
    few = max(1, config.people // 4)
    links = links_of(config, problem, arms.arms, asker, names, few)
    given = (table, problem.split, of_titles)
    draws = [content.draw(*given, s, config.hidden_share, config.dim) for s in range(config.seeds)]
    of_new = content.links_of(table, problem.split, draws, max(config.shots))
    people = problem.split.checksum()
    of_any_size = config_hash(replace(config, people=1))  # with more people it goes on
    kept = Partial(out / "people.jsonl", {"config": of_any_size, "asked": people})
    opened = kept.opening(
        config, lambda: records.open_tests(config, arms.settings, "llm_uses", people)
    )
    stored = laid_out(problem.split.test["user_cold"], NUM_QUERY)
    told = answers(config, asker, stored, names, kept)
    scores = known_items(config, problem, stored, arms, told, links)
    new = content.judged(table, problem.split, draws, config.shots, of_new)
    scores |= {
        records.Key(report.NEW, arm, f"k={k}", metric): values
        for (arm, k, metric), values in new.items()
    }
    cost = np.array([kept[str(i)]["cost"] for i in range(len(told[RATING]))])
    every = list(dict.fromkeys(key.arm for key in scores))
    about = {"people": len(told[RATING]), "fresh people": stored.query.label.shape[0]}
    about |= {"cost": {"seconds": cost[:, 0], "processor": cost[:, 1]}, "model": asker.model.name}
    about |= belief.scale_of(problem)
    return large_report.written(
        name, "llm_uses", report.KNOWN, every, config, scores,
        {"total": time.perf_counter() - began}, opened=[opened],
        data=data_of(problem), settings=arms.settings, extra=about,
    )  # fmt: skip


def name_of(config: Config) -> str:
    """The name of the record: of the model and the data."""
    model = pretrained.name_of(config.checkpoint)
    return f"llm_uses-{model}-{named.short_name(config.data.dataset)}"


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its plots."""
    name = name_of(config)
    meta = name.replace("llm_uses", "llm_meta")
    try:  # published, or of a run beside this one
        adapted = records.stored(meta, otherwise=Output().folder(meta))
    except UserError:
        adapted = None
    shown = functools.partial(report.show, adapted=adapted)
    return benchmark.shown(name, config, run, shown)
