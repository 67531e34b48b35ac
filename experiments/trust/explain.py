"""Explanations of adapted scores by a person's own ratings, and how well they can be trusted.

For each person, the highest score of a test item is explained by how much each of the person's own
ratings moved it, in several ways, for a learner in closed form, one by gradients and one with
attention. Leaving a rating out and adapting again is the truth; random order is the floor. Judged
by how fast the score falls as the ratings that raised it most are deleted (and rises as they are
inserted), by the agreement of ranks with leaving one out, and, in a world where only ratings of the
same interest can be a cause, by the share of planted causes found. Attributions of a randomized
model must differ.

References: Koh and Liang, ICML 2017; Sundararajan et al., ICML 2017; Lundberg and Lee, NeurIPS
2017; Ribeiro et al., KDD 2016; Jain and Wallace, NAACL 2019; Adebayo et al., NeurIPS 2018.
Run: python -m experiments explain --dataset ml-100k
     python -m experiments explain --dataset ml-100k --user 7  tells one person why, with a picture.
Published: none under this protocol.
Deviates: SHAP and LIME explain the item's features, by their packages, for a few people.
"""

import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.benchmark import harness
from metajax.data import episodes
from metajax.data.sources import named
from metajax.data.worlds.causes import Interests
from metajax.explain import features, judged, support
from metajax.results import records
from metajax.settings import Data, Output, Positive, Presets, SplitOptions, Training
from metajax.training import progress
from metajax.types import Episode

from . import explain_arms as arms
from . import explain_person, explain_report
from .explain_report import (
    ATTENTION,
    CLOSED,
    HALFWAY,
    INFLUENCE,
    LEFT_OUT,
    RANDOM,
    SURPRISE,
    WORLD,
)

WORLD_TASKS = Interests()


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    dataset: str = "ml-100k"
    """synthetic, ml-100k, ml-1m, another named data set of ratings, or the path of your own log."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""
    split: SplitOptions = SplitOptions()
    training: Training = Training(seeds=1, num_steps=600)
    people: Positive = 150
    """Test users whose scores are explained."""
    world_steps: Positive = 3_000
    """Outer steps in the world with planted causes."""
    world_people: Positive = 200
    """Users drawn from the world with planted causes."""
    feature_people: int = 150
    """Number of test users whose item's features are explained too, with SHAP and LIME."""
    user: str = ""
    """Tell this user of the data set why, with a picture, instead of running the experiment."""
    learner: Literal["ridge", "MAML", "attention"] = "MAML"
    """Whose recommendation to that user is explained."""

    PRESETS: ClassVar[Presets] = {
        "quick": {
            **{"dataset": "synthetic", "num_steps": 100, "world_steps": 100},
            **{"people": 30, "world_people": 30, "feature_people": 2},
        },
    }

    @property
    def data(self) -> Data:
        """The data set; ``--user`` names a person here, and not a column of a file."""
        return Data(self.dataset, self.data_dir)


def told(arm: arms.Explained, random: Any, episode: Episode, other: Episode, key: jax.Array):
    """What each way says of one person's best item: name -> (N,), the score, the item.

    Args:
      random: parameters of a randomized model; other: the episode that it sees.
    """
    key_adapt, key_random = jax.random.split(key)
    score = support.adapted(arm.learner, arm.params, episode, key_adapt)
    _, label, mask = episode.support
    real = episode.query.mask > 0
    item = jnp.argmax(jnp.where(real, score(mask, label), -jnp.inf))
    at = lambda values_NxQ: values_NxQ[:, item]
    expected = support.expected_labels(arm.learner, arm.params, episode)
    only = lambda w, y: score(w, y)[item][None]
    found = {
        LEFT_OUT: at(support.leave_one_out(score, episode)),
        INFLUENCE: support.influence(only, episode)[:, 0],
        HALFWAY: support.halfway_influence(only, episode)[:, 0],
        SURPRISE: support.surprise(only, episode, expected)[:, 0],
        RANDOM: jax.random.normal(key_random, mask.shape) * mask,
    }
    if arm.closed:
        exact = support.closed_form_leave_one_out(arm.learner, arm.params, episode, key_adapt)
        found[CLOSED] = at(exact)
    if arm.weights is not None:
        found[ATTENTION] = at(arm.weights(arm.params, episode))
    blind = support.adapted(arm.learner, random, other, key_adapt)
    sane = at(support.leave_one_out(blind, other))
    return found, sane, score, item


def judge(
    arm: arms.Explained,
    tasks: Any,
    fetch: Callable[[Any], Episode],
    fetch_random: Callable[[Any], Episode],
    causes: Callable[[Episode], jax.Array] | None = None,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Metric -> way -> value of each person (T,), and way -> mean curves.

    Args:
      tasks: leaves (T, ...); fetch: one task -> its episode.
      fetch_random: one task -> the episode as the randomized model sees it.
      causes: an episode -> its planted causes (N, Q).
    """

    def one(given: tuple[Any, jax.Array]):
        episode, other = fetch(given[0]), fetch_random(given[0])
        found, sane, score, item = told(arm, arm.random, episode, other, given[1])
        mask, truth = episode.support.mask, found[LEFT_OUT]
        all_ways = jax.vmap(lambda x: judged.curves(score, episode, x, item))
        drawn = all_ways(jnp.stack(list(found.values())))  # one program for all
        drawn = {w: jax.tree.map(lambda x, i=i: x[i], drawn) for i, w in enumerate(found)}
        values = {
            "fall": {way: c.fall for way, c in drawn.items()},
            "rise": {way: c.rise for way, c in drawn.items()},
            "agreement": {w: judged.rank_agreement(x, truth, mask) for w, x in found.items()},
            "sanity": {LEFT_OUT: judged.rank_agreement(sane, truth, mask)},
        }
        if causes is not None:
            cause = causes(episode)[:, item]
            values["recall"] = {w: judged.cause_recall(x, cause, mask) for w, x in found.items()}
        return values, {way: (c.deletion, c.insertion) for way, c in drawn.items()}

    count = len(jax.tree.leaves(tasks)[0])
    keys = jax.random.split(jax.random.key(7), count)
    run = jax.jit(lambda tasks, keys: jax.lax.map(one, (tasks, keys), batch_size=min(count, 16)))
    values, drawn = jax.tree.map(np.asarray, run(tasks, keys))
    mean = lambda x: (x - x[:, :1] if x[0, 0] == x[0, 0] else x).mean(axis=0).tolist()
    return values, {
        way: {"deletion": mean(d), "insertion": mean(i)} for way, (d, i) in drawn.items()
    }


def dealt(source: episodes.Source) -> episodes.Source:
    """The source with the columns of items dealt to other items, at random."""
    count = len(next(iter(source.inputs.values())))
    order = jax.random.permutation(jax.random.key(5), count)
    return source._replace(inputs={k: v[order] for k, v in source.inputs.items()})


def of_features(
    arm: arms.Explained, tasks: Any, fetch: Callable[[Any], Episode]
) -> dict[str, list]:
    """How three attributions to the features of a person's best item agree, a number each person.

    The features are the item's stored factors and its bias; what stands in for a feature is its
    mean over the person's test items.
    """
    key, count = jax.random.key(0), len(jax.tree.leaves(tasks)[0])

    @jax.jit
    def adapted(episode: Episode) -> jax.Array:
        return support.adapted(arm.learner, arm.params, episode, key)(*episode.support[2:0:-1])

    @jax.jit
    def of_rows(episode: Episode, item: jax.Array, x_BxD: jax.Array) -> jax.Array:
        """The scores (B,) of an item whose factors and bias are replaced by these rows."""
        like = lambda v: jnp.repeat(v[item][None], len(x_BxD), 0)
        inputs = {k: like(v) for k, v in episode.query.inputs.items()}
        inputs |= {"factor": x_BxD[:, :-1], "bias": x_BxD[:, -1]}
        return adapted(episode._replace(query=episode.query._replace(inputs=inputs)))

    @jax.jit
    def ours(episode: Episode, item: jax.Array, x: jax.Array, base: jax.Array):
        value = lambda x: of_rows(episode, item, x[None])[0]
        points = 1024  # networks of rectifiers have kinks: with 64 the sum misses by up to .008
        return features.integrated_gradients(value, x, base, points), value(x) - value(base)

    out: dict[str, list] = {"gap": [], "SHAP": [], "LIME": [], "R2": []}
    with progress.bar("features", count) as update:
        for i in range(count):
            episode = fetch(jax.tree.map(lambda x, i=i: x[i], tasks))
            real = np.asarray(episode.query.mask) > 0
            item = int(np.argmax(np.where(real, np.asarray(adapted(episode)), -np.inf)))
            asked = functools.partial(padded, functools.partial(of_rows, episode, item))
            attribute = functools.partial(ours, episode, item)
            for name, value in _of_item(attribute, asked, episode, item).items():
                out[name].append(value)
            update(i + 1, {})
    return out


def padded(function: Callable[[jax.Array], jax.Array], x: np.ndarray) -> np.ndarray:
    """The function of rows (B, D), which sees 2 or 512 rows at a time: two programs, not many."""
    size = 2 if len(x) <= 2 else 512
    full = np.zeros((-(-len(x) // size) * size, x.shape[1]), np.float32)
    full[: len(x)] = x
    parts = [np.asarray(function(jnp.asarray(part))) for part in np.split(full, len(full) // size)]
    return np.concatenate(parts)[: len(x)]


def _of_item(
    attribute: Callable, asked: Callable[[np.ndarray], np.ndarray], episode: Episode, item: int
) -> dict[str, float]:
    """The error of completeness, and the rank agreements, of one person's best item.

    Args:
      attribute: (x (D,), base (D,)) -> integrated gradients (D,) and the difference of scores.
      asked: rows (B, D) -> scores (B,).
    """
    inputs, real = episode.query.inputs, np.asarray(episode.query.mask) > 0
    every = np.column_stack([np.asarray(inputs["factor"]), np.asarray(inputs["bias"])])
    x, rows = every[item], every[real]
    base = rows.mean(axis=0)
    shares, difference = attribute(jnp.asarray(x), jnp.asarray(base))
    shap = features.kernel_shap(asked, x, base[None], 512)
    slopes, fit = features.lime(asked, x, rows, 512)
    agree = lambda other: float(
        judged.rank_agreement(shares, jnp.asarray(other, jnp.float32), jnp.ones(len(x)))
    )
    away = (x - base) / (rows.std(axis=0) + 1e-9)
    gap = float(jnp.abs(shares.sum() - difference))
    return {"gap": gap, "SHAP": agree(shap), "LIME": agree(slopes * away), "R2": fit}


def measured(config: Config) -> records.Record:
    """Trains the learners, explains them and writes the record."""
    began, name = time.perf_counter(), named.short_name(config.data.dataset)
    problem = benchmark.load(config.data, config.split, config.training.num_support)
    folder = config.output.folder(f"explain-{name}")
    if config.training.fresh:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    learners = arms.of_log(problem, config, folder)
    in_world = arms.of_world(WORLD_TASKS, config.world_steps, config.training.devices)
    choices = {arm: one.settings for arm, one in learners.items()}
    source, opened = problem.open_test(benchmark.freeze(config, choices), "explain")
    scenario = "user_cold" if "user_cold" in opened else next(iter(opened))
    people = jax.tree.map(lambda x: x[: config.people], opened[scenario])
    fetch, fetch_random = (episodes.fetch_from(s) for s in (source, dealt(source)))
    keys = jax.random.split(jax.random.key(2), config.world_people)
    drawn = jax.jit(jax.vmap(WORLD_TASKS.sample))(keys)
    own = lambda episode: episode
    other = lambda e: jnp.roll(e.inputs, WORLD_TASKS.dim, axis=1)  # of another interest
    shuffled = lambda e: e._replace(support=e.support._replace(inputs=other(e.support)))
    scores, curves, by_feature = {}, {}, {}
    for learner, arm in learners.items():
        values, curves[f"{name}, {learner}"] = judge(arm, people, fetch, fetch_random)
        scores |= keyed(f"{name}, {learner}", values)
        few = jax.tree.map(lambda x: x[: config.feature_people], people)
        by_feature[learner] = of_features(arm, few, fetch) if config.feature_people else {}
        progress.say(f"{name}, {learner}: explained")
    for learner, arm in in_world.items():
        values, curves[f"{WORLD}, {learner}"] = judge(arm, drawn, own, shuffled, WORLD_TASKS.causes)
        scores |= keyed(f"{WORLD}, {learner}", values)
    ways = [way for way in explain_report.WAYS if any(key.arm == way for key in scores)]
    roles = {
        RANDOM: records.CONTROL,
        LEFT_OUT: records.BASELINE,
        ATTENTION: records.BASELINE,
        CLOSED: records.BASELINE,
    }
    return benchmark.kept(
        f"explain-{name}", "explain", config, records.arms_of(ways, roles=roles), scores,
        scenario=f"{name}, {arms.MAML}", data=harness.data_of(problem),
        split=harness.split_of(problem), opened=(problem.opened[-1],), began=began,
        extra={"curves": curves, "features": by_feature, "choices": choices},
    )  # fmt: skip


def keyed(
    scenario: str, values: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[records.Key, np.ndarray]:
    """The values of people as a record keeps them."""
    return {
        records.Key(scenario, way, records.ALL, metric): x[None]
        for metric, by_way in values.items()
        for way, x in by_way.items()
    }


def main(config: Config) -> records.Record | None:
    """The record of the experiment, run or read, its tables and pictures; or one person's why."""
    if config.user:
        return explain_person.main(config)
    name = f"explain-{named.short_name(config.data.dataset)}"
    return benchmark.shown(name, config, measured, explain_report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config)
