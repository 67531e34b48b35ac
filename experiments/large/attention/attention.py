"""Interactive attention over what a person has rated, and a temperature that each person adapts.

DIN and AutoInt read a person's ratings anew for each candidate. So does an attention with a
temperature, which says how sharply it looks at the nearest ratings, and a gate between it and the
mean: here both are adapted to the person, by gradient steps that predict each of the person's
ratings from the others; or the temperature is searched on a grid, each weighed by how well it
predicts them. The same is done for an attention whose weights are solved in closed form, which is a
Gaussian process. Controls: one temperature for all, another person's, and one adapted on shuffled
ratings. With `--dataset world` the tasks are users whose true sharpness is known.

References: Zhou et al., "Deep interest network", KDD 2018; Song et al., "AutoInt", CIKM 2019;
Plotz, Roth, "Neural nearest neighbors networks", NeurIPS 2018 (temperature); Rasmussen, Williams,
"Gaussian processes for machine learning", 2006 (leaving one out in closed form).
Run: python -m experiments attention                      (ml-1m)
     python -m experiments attention --dataset world      (sharp and flat users)
     python -m experiments attention --from-records prints the stored table.
Published: none under this protocol; DIN and AutoInt are published for click logs.
Deviates: DIN and AutoInt see ratings of vectors that were estimated on training people (ALS factors
and what content says), not embeddings of their own; DIN's activation is silu instead of Dice.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, losses
from metajax.benchmark import baselines, belief
from metajax.benchmark.harness import data_of
from metajax.benchmark.problem import Problem, problem_of
from metajax.data import episodes, split
from metajax.data.sources import named
from metajax.data.worlds.interest import SharpOrFlat
from metajax.evaluation import evaluate, ordinal
from metajax.results import ledger, records
from metajax.settings import Positive, Presets, config_hash, replace
from metajax.training import journal, loop
from metajax.training.devices import on_devices
from metajax.types import MetaLearner, Params, PyTree

from .. import report as large_report
from . import arms as parts
from .arms import ADAPTED, CONTROLS, DIN, GLOBAL, SEARCHED, SOLVED, SOLVED_GLOBAL

WORLD = "world"
SHOTS = (0, 5, 10, 20, 40)
NUM_QUERY = 20
SCENARIO = "new people"
PAIRS = [
    (ADAPTED, GLOBAL),
    *((ADAPTED, control) for control in CONTROLS[ADAPTED]),
    (SEARCHED, GLOBAL),
    (SOLVED, SOLVED_GLOBAL),
    *((SOLVED, control) for control in CONTROLS[SOLVED]),
    (SOLVED, DIN),
    (SOLVED, baselines.A7),
]
"""What is compared with what, as far as the record has it."""
MEANING = {
    "truth": "rank correlation with the true temperature",
    "truth, shuffled": "the same, adapted on shuffled ratings",
    "two halves": "rank correlation between two halves of a person's ratings",
}


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the experiment."""

    training: benchmark.Training = benchmark.Training(
        seeds=3, num_steps=600, num_tasks=16, num_support=40
    )
    width: Positive = 16
    """Width of embeddings, queries and keys."""
    inner_steps: Positive = 3
    """Inner steps on temperature and gate."""
    inner_rate: float = 0.5
    """Initial inner rate; one is learned for the temperature and one for the gate."""
    outer_rate: float = 5e-3
    """Adam's rate across tasks, decayed to 0 along a cosine."""
    people: Positive = 1000
    """Test people, at most; in the world, as many users."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "seeds": 1, "num_steps": 200, "people": 200},
        "gpu": {"num_steps": 5_000, "num_tasks": 64, "seeds": 5},
    }


class Ready(NamedTuple):
    """Tasks, and how a learner is trained on them.

    Attributes:
      tasks: of the test.
      fetch: one of them -> its episode.
      seen: what models see.
      truth: (T,) true temperatures, None where nobody knows them.
      opened: the openings of the test.
      data: what the record says of the data.
      links: of the arms and controls, fitted on meta-validation; none in the world.
      scale: what the record says of the ratings.
    """

    tasks: Any
    fetch: evaluate.Fetch
    seen: parts.Seen
    truth: jax.Array | None
    opened: list[records.Opening]
    data: records.Data | None
    links: Mapping[str, ordinal.Link] = {}
    scale: Mapping[str, Any] = {}


def optimizer(config: Config) -> optax.GradientTransformation:
    """The outer optimizer of every arm."""
    rate = optax.cosine_decay_schedule(config.outer_rate, config.training.num_steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def load(config: Config) -> Problem:
    """People in three groups, without overlap, and item columns estimated on the first."""
    table = named.chosen(config.data)
    most = SHOTS[-1] + NUM_QUERY
    divided = split.user_disjoint(
        table, config.split.split_seed, shares=(0.1, 0.2), min_rows=most, max_rows=None,
        num_query=NUM_QUERY,
    )  # fmt: skip

    def cut(tasks: split.Tasks) -> split.Tasks:
        some = slice(config.people)
        length = np.minimum(tasks.length, most).astype(np.int32)
        return tasks._replace(owner=tasks.owner[some], start=tasks.start[some], length=length[some])

    valid, test = ({k: cut(t) for k, t in of.items()} for of in (divided.valid, divided.test))
    divided = dataclasses.replace(divided, valid=valid, test=test)
    return problem_of(table, divided, config.training.num_support, losses.squared_error)


def seen_of(problem: Problem) -> parts.Seen:
    """Items by estimated factors, what their content says, and how often they were rated."""

    def vectors(inputs: PyTree) -> jax.Array:
        factor, content = inputs["factor"], inputs["content_factor"]
        scale = factor.shape[-1] ** 0.5
        told = jnp.stack([inputs["bias"], inputs["count"] / 5.0 - 1.0], axis=-1)
        return jnp.concatenate([scale * factor, scale * content, told], axis=1)

    width = vectors(problem.example.support.inputs).shape[1]
    return parts.Seen(width, vectors, lambda inputs: problem.mean + inputs["bias"])


def of_world(config: Config) -> tuple[Ready, dict[str, baselines.Trained]]:
    """Users of known sharpness, and the arms trained on others like them."""
    world = SharpOrFlat(num_support=SHOTS[-1], num_query=NUM_QUERY)
    zero = lambda inputs: jnp.zeros(inputs.shape[0])
    seen = parts.Seen(world.dim, lambda inputs: inputs, zero)
    tx, training = optimizer(config), config.training
    sample = loop.world_sampler(_random_shots(world), training.num_tasks)
    seeds = jax.random.split(jax.random.key(1), training.seeds)
    trained = {}
    for name, learner in _learners(config, seen, cosine=True).items():
        began = time.perf_counter()
        recipe = on_devices(training.devices, loop.recipe(learner, tx))
        kept = config.output.folder(name_of(config)) / config_hash(config) / journal.slug(name)
        steps = training.num_steps
        fitted = loop.fit(recipe, sample, (), seeds, steps, title=name, checkpoint=kept)
        settings = {"steps": training.num_steps}
        took = time.perf_counter() - began
        trained[name] = baselines.Trained(learner, fitted.params, settings, fitted.history, took)
    keys = jax.random.split(jax.random.key(77), config.people)
    choices = {name: arm.settings for name, arm in trained.items()}
    opened = records.open_tests(config, choices, "attention", ledger.checksum(WORLD, config.people))
    truth = jax.vmap(world.temperature)(keys)
    return Ready(keys, world.sample, seen, truth, [opened], None), trained


@dataclasses.dataclass(frozen=True)
class _random_shots:
    """The world whose tasks have any number of support rows, up to all."""

    world: SharpOrFlat

    def sample(self, key: jax.Array):
        """One task."""
        episode = self.world.sample(key)
        support = episode.support
        shots = jax.random.randint(jax.random.fold_in(key, 9), (), 2, len(support.mask) + 1)
        mask = (jnp.arange(len(support.mask)) < shots) * 1.0
        return episode._replace(support=support._replace(mask=mask))


def _learners(config: Config, seen: parts.Seen, cosine: bool) -> dict[str, MetaLearner]:
    sizes = (SHOTS[-1], config.width, config.inner_steps, config.inner_rate)
    return parts.learners(seen, *sizes, cosine)


def of_ratings(config: Config) -> tuple[Ready, dict[str, baselines.Trained]]:
    """People of a data set, the closed-form arms and the attentions trained on other people."""
    problem = load(config)
    seen, tx = seen_of(problem), optimizer(config)
    trained = baselines.closed_form_arms(problem)
    for name, learner in _learners(config, seen, cosine=False).items():
        trained[name] = baselines.trained_arm(
            name, learner, tx, problem, config.training, config.output.out
        )
    chosen = {name: arm.settings for name, arm in trained.items()}
    (known, valid), levels = problem.valid, belief.levels_of(problem)
    arms, links = {name: (arm.learner, arm.params) for name, arm in trained.items()}, {}
    if levels is not None:
        links = parts.links_of(arms, valid, episodes.fetch_from(known), levels)
    source, opened = problem.open_test(benchmark.freeze(config, chosen), "attention")
    tasks, fetch = opened["user_cold"], episodes.fetch_from(source)
    told = (problem.opened, data_of(problem), links, belief.scale_of(problem))
    return Ready(tasks, fetch, seen, None, *told), trained


def facts_of(ready: Ready, learner: MetaLearner, params: Params) -> dict[str, list[float]]:
    """What the adapted temperatures of each seed are, and whether they are the person's own."""
    found: dict[str, list[float]] = {}
    focus = jax.jit(
        lambda p, tasks, alter: parts.focus_of(learner, p, tasks, ready.fetch, alter),
        static_argnums=2,
    )
    for seed in range(len(jax.tree.leaves(params)[0])):
        one = jax.tree.map(lambda x, s=seed: x[s], params)
        whole = focus(one, ready.tasks, evaluate.unaltered)
        halves = [focus(one, ready.tasks, parts.every_second(first)) for first in (0, 1)]
        low, mid, high = np.quantile(np.asarray(whole.temperature), [0.1, 0.5, 0.9])
        told = {"temperature 10 %": low, "temperature 50 %": mid, "temperature 90 %": high}
        told["two halves"] = parts.rank_correlation(*(half.temperature for half in halves))
        if ready.truth is not None:
            mixed = focus(one, ready.tasks, evaluate.shuffled_labels)
            told["truth"] = parts.rank_correlation(whole.temperature, ready.truth)
            told["truth, shuffled"] = parts.rank_correlation(mixed.temperature, ready.truth)
        for name, value in told.items():
            found.setdefault(name, []).append(round(float(value), 4))
    return found


def run(config: Config) -> records.Record:
    """Trains and tests every arm; writes the record."""
    name = name_of(config)
    config = replace(config, out=config.output.folder(name))
    began = time.perf_counter()
    ready, trained = (of_world if config.data.dataset == WORLD else of_ratings)(config)
    arms = {name: (arm.learner, arm.params) for name, arm in trained.items()}
    found = parts.judged(arms, ready.tasks, ready.fetch, SHOTS)
    kept = ("mse",) if ready.truth is not None else ("mse", "ndcg@5", "mae")
    scores = {
        records.Key(SCENARIO, arm, condition, metric): values
        for (arm, condition, metric), values in found.items()
        if metric in kept
    }
    if ready.links:
        last = parts.believed(arms, ready.links, ready.tasks, ready.fetch)
        key = lambda arm, metric: records.Key(SCENARIO, arm, f"k={SHOTS[-1]}", metric)
        scores |= {key(*which): values for which, values in last.items()}
    names = list(dict.fromkeys(arm for arm, _, _ in found))
    seconds = {name: arm.seconds for name, arm in trained.items()}
    seconds["total"] = time.perf_counter() - began
    return large_report.written(
        name, "attention", SCENARIO, names, config, scores, seconds,
        opened=ready.opened, data=ready.data,
        settings={name: arm.settings for name, arm in trained.items()},
        extra={
            "focus": {name: facts_of(ready, *arms[name]) for name in (ADAPTED, SEARCHED, SOLVED)},
            **ready.scale,
        },
    )  # fmt: skip


def name_of(config: Config) -> str:
    """The name of the record: of the data."""
    return f"attention-{named.short_name(config.data.dataset)}"


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, and its tables."""
    name = name_of(config)
    record = records.stored(name) if config.output.from_records else run(config)
    shown = [
        metric for metric in ("mse", "ndcg@5") if any(metric == k.metric for k in record.scores)
    ]
    conditions = [f"k={k}" for k in SHOTS]
    large_report.rated(record, conditions, f"New people, {name[10:]}: after K ratings")
    for metric in shown:
        column = (f"k={SHOTS[-1]}", metric)
        large_report.differences(record, f"{metric} after {SHOTS[-1]}", column, PAIRS)
    for arm, facts in record.extra.get("focus", {}).items():
        for fact, values in facts.items():
            print(f"{arm}: {MEANING.get(fact, fact)}: {', '.join(f'{v:.3f}' for v in values)}")
    if not config.output.from_records:
        large_report.finished(record, name, config, (f"k={SHOTS[-1]}", shown[0]))
    return record
