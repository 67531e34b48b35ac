"""The clusters, learners and measures of clusters."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses
from metajax.benchmark.baselines import trained_arm
from metajax.benchmark.problem import Problem, with_columns
from metajax.data import diversity, episodes, split
from metajax.data.episodes import Source
from metajax.evaluation import evaluate
from metajax.learners.closed_form import ridge
from metajax.models.towers import column, stored_mean
from metajax.settings import Training
from metajax.transforms import clustered as starts
from metajax.types import Episode, MetaLearner, Params, UserError

from . import clusters_report as report
from .label_arms import carried, names_of
from .multi_label import GENRES
from .rates import best_of

MORE = 5
"""k-means is run with at least that many seeds, to see how stable it is."""
RAREST = 0.01
"""A genre with a smaller share of the ratings above the mean is left out."""
PENALTY = 3.0
"""Of the fold-in vectors by which users are clustered."""


def k_means(code_TxD: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster (T,) of each user, and the centers (C, D).

    Raises:
      UserError: scikit-learn is not installed, or there are fewer users than clusters.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as missing:
        raise UserError("clusters needs scikit-learn: pip install metajax[boosting]") from missing
    if len(code_TxD) < clusters:
        raise UserError(
            f"{len(code_TxD)} training users make no {clusters} clusters; ask for fewer"
        )
    found = KMeans(clusters, n_init="auto", random_state=seed).fit(code_TxD)
    return np.asarray(found.predict(code_TxD)), np.asarray(found.cluster_centers_, np.float32)


def agreement(partitions: list[np.ndarray]) -> float:
    """The mean adjusted Rand index over pairs of partitions (T,): 1 the same, 0 as by chance."""
    from sklearn.metrics import adjusted_rand_score

    pairs = itertools.combinations(partitions, 2)
    return float(np.mean([adjusted_rand_score(a, b) for a, b in pairs]))


def lift(cluster_T: np.ndarray, tasks: split.Tasks, has_IxG: np.ndarray) -> np.ndarray:
    """How much more a cluster likes each genre than everybody does, (C, G); 1 is as much.

    The share of the genre among ratings above the mean that the cluster gave, over the share among
    those of all. A genre with less than `RAREST` of these is NaN.
    """
    liked = tasks.label > tasks.label.mean()
    ends = zip(tasks.start, tasks.length, strict=True)
    row = np.concatenate([np.arange(s, s + n) for s, n in ends])
    of_row = np.zeros(len(tasks.other), int)
    of_row[row] = np.repeat(cluster_T, tasks.length)
    genres, cluster = has_IxG[tasks.other[liked]], of_row[liked]
    every = genres.mean(axis=0)
    every = np.where(every >= RAREST, every, np.nan)
    count = cluster_T.max() + 1
    return np.stack([genres[cluster == c].mean(axis=0) / every for c in range(count)])


def unevenness(found: np.ndarray) -> float:
    """The mean size of log2 of lifts: 0 if all are 1."""
    return float(np.nanmean(np.abs(np.log2(np.maximum(found, 1e-3)))))


def tastes(problem: Problem, cluster: np.ndarray, clusters: int) -> dict[str, Any]:
    """What clusters of training users like, and the control: clusters of permuted interactions.

    There each rating is of the item of a random other row, so that its clusters know no taste.
    """
    table, tasks = problem.table, problem.split.train
    if "genre" not in table.item_features.sizes:
        return {}
    has = carried(table, "genre")
    found = lift(cluster, tasks, has)
    item = np.random.default_rng([0, 30]).permutation(np.asarray(problem.train.tasks.other))
    mixed = problem.train._replace(tasks=problem.train.tasks._replace(other=jnp.asarray(item)))
    dealt, _ = k_means(diversity.fold_in(mixed, problem.mean, PENALTY)[0], clusters, 0)
    return {
        "genres": names_of(table, "genre", GENRES),
        "lift": np.nan_to_num(found).round(3).tolist(),
        "unevenness": [unevenness(found), unevenness(lift(dealt, tasks, has))],
    }


def grouped(problem: Problem, clusters: int, seeds: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The centers (C, D) of training users' fold-in vectors by the first seed, and facts."""
    code, _ = diversity.fold_in(problem.train, problem.mean, PENALTY)
    found = [k_means(code, clusters, seed) for seed in range(max(seeds, MORE))]
    from sklearn.metrics import silhouette_score

    some = np.random.default_rng(0).permutation(len(code))[:2000]
    labels = [label for label, _ in found]
    told = {
        "sizes": np.bincount(labels[0], minlength=clusters).tolist(),
        "stability": {"k-means, training users": agreement(labels)},
        "silhouette": float(silhouette_score(code[some], labels[0][some])),
    }
    return found[0][1], told | tastes(problem, labels[0], clusters)


def with_random_clusters(problem: Problem, sizes: list[int]) -> Problem:
    """The problem whose profiles have a random cluster (C,), as often as ``sizes`` are large."""
    rng, share = np.random.default_rng([0, 13]), np.asarray(sizes) / np.sum(sizes)
    number = problem.table.num_users
    cuts = np.searchsorted(np.cumsum(share), (np.arange(number) + 0.5) / number)
    dealt = jnp.asarray(np.eye(len(sizes), dtype=np.float32)[rng.permutation(cuts)])

    def change(source: Source) -> Source:
        return source._replace(profile={**source.profile, "random": dealt})

    return with_columns(problem, change)


def fold_in(problem: Problem) -> tuple[MetaLearner, starts.Features]:
    """Fold-in with a learned prior, and what its users' codes are made of."""
    dim = problem.table.item_features.columns["factor"].shape[1]
    embed = column("factor", constant=True)
    learner = ridge(embed, stored_mean(problem.mean), dim + 1, precision=(3.0, *[8.0] * dim))
    base = lambda inputs: problem.mean + inputs["bias"]
    return learner, starts.Features(dim, lambda inputs: inputs["factor"], base, PENALTY)


def made(problem: Problem, centers: np.ndarray) -> dict[str, MetaLearner]:
    """The arms, by name."""
    learner, features = fold_in(problem)
    many, (count, dim) = jnp.asarray(centers), centers.shape
    of = lambda assign: starts.clustered(learner, count, features, assign)
    return {
        report.ONE: learner,
        report.HARD: of(starts.nearest(many)),
        report.SOFT: of(starts.soft(many)),
        report.GATE: of(starts.gate(count, dim)),
        report.RANDOM: of(starts.given("random")),
    }


def tuned(
    name: str,
    learner: MetaLearner,
    problem: Problem,
    training: Training,
    rates: tuple[float, ...],
) -> tuple[dict[str, Any], Params]:
    """What was chosen on validation, and the parameters (S, ...) of an arm.

    The choice is by the squared error after 0, 1, 3, 5, 10 and 20 ratings, for starts matter most
    there.
    """
    few = dataclasses.replace(problem, shots=evaluate.SHOTS, error=losses.squared_error)

    def fit(rate: float) -> tuple[float, dict[str, Any], Params]:
        found = trained_arm(name, learner, optax.adam(rate), few, training)
        return found.settings["valid"], found.settings, found.params

    return best_of(rates, fit)


def groups_of(ready: Mapping[str, Any], source: Source, tasks: Episode) -> dict[str, Any]:
    """The cluster of each test user, and how alike an arm's clusters are from seed to seed.

    A test user's cluster is that of k-means by all of their support; it groups the errors alone.
    """
    key, fetch = jax.random.key(0), episodes.fetch_from(source)
    largest = lambda state, episode: jnp.argmax(state.shares)

    def clusters(name: str, seed: int) -> np.ndarray:
        learner, params = ready[name]
        own = jax.tree.map(lambda x: x[seed], params)
        run = jax.jit(
            lambda p: evaluate.after_adapting(learner, p, tasks, key, largest, fetch=fetch)
        )
        return np.asarray(run(own))

    seeds = len(jax.tree.leaves(ready[report.GATE][1])[0])
    stable = {
        f"{name}, test users": agreement([clusters(name, i) for i in range(seeds)])
        for name in (report.SOFT, report.GATE)
        if seeds > 1
    }
    return {"groups": clusters(report.HARD, 0).tolist(), report.STABILITY: stable}
