"""Collective matrix factorization (CMF) of two domains: an arm of cross_domain, a column of ours.

References: Singh, Gordon, "Relational learning via collective matrix factorization", KDD 2008.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from metajax.data.features.behavior import sums
from metajax.data.features.factors import als, solve_side
from metajax.data.shared_users import Pair
from metajax.data.table import Features, Interactions
from metajax.learners.cold_start import cross_domain as crossing
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

PENALTIES = (1.0, 3.0, 6.0, 12.0, 25.0, 50.0)
"""Ridge penalties of the factorization that are tried."""
DIM = 12
FOLDS = 4
DAMPING = 5.0


def stacked(pair: Pair) -> Interactions:
    """Both domains as one log: the target's items after the source's, shared users once."""
    source, target = pair.source, pair.target
    later = source.num_users - pair.shared
    user = target.user + np.where(target.user >= pair.shared, later, 0)
    both = lambda name: np.concatenate([getattr(source, name), getattr(target, name)])
    ids = np.concatenate([source.user_ids, target.user_ids[pair.shared :]])
    return Interactions(
        name=f"{source.name} and {target.name}",
        user=np.concatenate([source.user, user]).astype(np.int32),
        item=np.concatenate([source.item, target.item + source.num_items]).astype(np.int32),
        label=both("label"),
        time=None,
        user_ids=ids,
        item_ids=np.arange(source.num_items + target.num_items),
        user_features=Features(),
        item_features=Features(),
        scale=target.scale,
    )


class Collective(NamedTuple):
    """One vector per user for both domains, and per item of either.

    Attributes:
      x: (I, 1 + D) a constant and the vectors of the source's items, then of the target's.
      held_out: (F, I, 1 + D), without the users of a fold; fold: (U,).
      mean: (I,) damped mean labels; unit: what labels minus these are divided by, per domain.
      penalty: of the ridge.
    """

    x: np.ndarray
    held_out: np.ndarray
    fold: np.ndarray
    mean: np.ndarray
    unit: tuple[float, float]
    penalty: float


def collective(pair: Pair, known: np.ndarray, penalty: float = 12.0) -> Collective:
    """CMF by alternating least squares on all source rows and the ``known`` rows of the target."""
    table, first = stacked(pair), len(pair.source)
    rows = np.concatenate([np.arange(first), first + known])
    user, item, y = table.user[rows], table.item[rows], table.label[rows].astype(float)
    mean, unit = np.zeros(table.num_items), []
    of_target = item >= pair.source.num_items
    for kept in (~of_target, of_target):
        level, count = y[kept].mean(), np.bincount(item[kept], minlength=table.num_items)
        away = np.bincount(item[kept], y[kept] - level, minlength=table.num_items)
        side = (np.arange(table.num_items) >= pair.source.num_items) == kept[-1]
        mean[side] = (level + away / (count + DAMPING))[side]
        left = y[kept] - mean[item[kept]]
        unit.append(float(left.std()))
        y[kept] = left / unit[-1]
    shape = (table.num_users, table.num_items)
    found = als(user, item, y, shape, dim=DIM, penalty=penalty)
    fold = np.random.default_rng(0).integers(FOLDS, size=table.num_users)

    def without(k: int) -> np.ndarray:
        kept = fold[user] != k
        place = item[kept], user[kept]
        left = scipy.sparse.csr_matrix((y[kept] - found.user[user[kept], 0], place), shape[::-1])
        present = scipy.sparse.csr_matrix((np.ones(kept.sum()), place), shape[::-1])
        return solve_side(left, present, found.user[:, 1:].astype(float), penalty)

    with_one = lambda q: np.concatenate([np.ones((*q.shape[:-1], 1)), q], axis=-1)
    held_out = with_one(np.stack([without(k) for k in range(FOLDS)]))
    return Collective(with_one(found.item), held_out, fold, mean, (unit[0], unit[1]), penalty)


def vectors(found: Collective, pair: Pair) -> np.ndarray:
    """Each shared user's vector (shared, 1 + D) from source rows alone, in the target's units.

    Source rows are seen as by a factorization without the fold of their user.
    """
    source = pair.source
    x = found.held_out[found.fold[source.user], source.item]
    y = (source.label - found.mean[source.item]) / found.unit[0]
    gram, moment, _ = sums(source.user, x, y, pair.shared)
    normal = gram + found.penalty * np.eye(x.shape[1])
    return np.linalg.solve(normal, moment[..., None])[..., 0] * found.unit[1]


def item_vectors(found: Collective, pair: Pair, item: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The vectors (shared, R, 1 + D) of target items that users rated.

    Args:
      item: (shared, R) of the target; seen: (shared,) whose target rows the vectors were fitted to:
        these get vectors of a factorization without the fold of their user.
    """
    place = pair.source.num_items + item
    own = found.x[place]
    own[seen] = found.held_out[found.fold[: len(seen)][seen][:, None], place[seen]]
    return own


def column(name: str) -> Model:
    """An input column as it is."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, inputs: inputs[name])


def learner(penalty: float) -> MetaLearner:
    """The fold-in of CMF: source ratings before, target ratings as they come.

    Tasks have the columns of `with_columns`.
    """

    def prior(params: Params, profile: PyTree, inputs: PyTree) -> crossing.Belief:
        own = profile["cmf"]
        return crossing.Belief(penalty * jnp.eye(DIM + 1) + own["gram"], own["moment"])

    nothing = crossing.Prior(lambda key, profile, inputs: {}, prior)
    return crossing.profile_ridge(column("cmf"), column("cmf_mean"), nothing)


def with_columns(found: Collective, pair: Pair, tasks: Episode, users: np.ndarray) -> Episode:
    """The tasks of these users with the columns and the profile that `learner` reads."""
    source, first = pair.source, pair.source.num_items
    y = (source.label - found.mean[source.item]) / found.unit[0]
    gram, moment, _ = sums(source.user, found.x[source.item], y, pair.shared)
    own = {"gram": gram[users], "moment": moment[users] * found.unit[1]}

    def columns(rows: Examples) -> Examples:
        place = first + np.asarray(rows.inputs["item"])
        new = {"cmf": jnp.float32(found.x[place]), "cmf_mean": jnp.float32(found.mean[place])}
        return rows._replace(inputs=rows.inputs | new)

    profile = tasks.profile | {"cmf": jax.tree.map(jnp.float32, own)}
    return Episode(profile, columns(tasks.support), columns(tasks.query))
