"""Links between users and between items, as columns: whom a user trusts, what a path leads to.

What is told of a friend is estimated from the rows given, which must be meta-training rows: then
no rating of a user whom a learner will be judged on is in anyone's column, and a user's own ratings
are never in their own. Paths between items are made of item features alone.
"""

import numpy as np
import scipy

from metajax.data.features.factors import Sparse
from metajax.data.table import Interactions


def between(pairs: np.ndarray, table: Interactions) -> np.ndarray:
    """Links (L, 2) of user indices, from pairs of user ids: those of two different known users."""
    order = np.argsort(table.user_ids, kind="stable")
    ids = table.user_ids[order]
    place = np.minimum(np.searchsorted(ids, pairs), len(ids) - 1)
    known = (ids[place] == pairs).all(axis=1)
    links = order[place[known]].astype(np.int32).reshape(-1, 2)
    return np.unique(links[links[:, 0] != links[:, 1]], axis=0)


def friends(links: np.ndarray, activity: np.ndarray, num_friends: int = 5) -> np.ndarray:
    """Whom each user trusts: (U, num_friends) int32 user index + 1, the most active first, 0 none.

    Args:
      links: (L, 2) user indices, who trusts and who is trusted.
      activity: (U,) number of rows from which something is known of a user; those with none are
        left out.
    """
    links = links[activity[links[:, 1]] > 0]
    links = links[np.lexsort((links[:, 1], -activity[links[:, 1]], links[:, 0]))]
    first = np.searchsorted(links[:, 0], links[:, 0], side="left")
    place = np.arange(len(links)) - first
    chosen = place < num_friends
    found = np.zeros((len(activity), num_friends), np.int32)
    found[links[chosen, 0], place[chosen]] = links[chosen, 1] + 1
    return found


def shuffled(friends_UxF: np.ndarray, seed: int) -> np.ndarray:
    """Friends dealt anew among the users: everyone has as many, everyone is as often a friend.

    The negative control of whatever reads them.
    """
    dealt = friends_UxF.copy()
    dealt[dealt > 0] = np.random.default_rng([seed, 11]).permutation(dealt[dealt > 0])
    return dealt


def taste(table: Interactions, rows: np.ndarray, category: str, damping: float = 5.0) -> np.ndarray:
    """What the given rows tell of each user: (U, 2 + categories) float32, 0 where nothing.

    The logarithm of 1 + their number; the mean of label minus overall mean, damped by so many rows
    of 0; the same over the rows of each category of the item column, which may have several each.
    """
    user, item = table.user[rows], table.item[rows]
    residual = table.label[rows].astype(np.float64) - table.label[rows].mean()
    num_users, size = table.num_users, table.item_features.sizes[category]
    values = table.item_features.columns[category][item]
    row, _ = np.nonzero(values)
    where = (user[row], values[values > 0])
    shape = (num_users, size)
    number = scipy.sparse.csr_matrix((np.ones(len(row)), where), shape=shape).toarray()
    total = scipy.sparse.csr_matrix((residual[row], where), shape=shape).toarray()
    count = np.bincount(user, minlength=num_users)
    mean = np.bincount(user, residual, minlength=num_users) / (count + damping)
    by_category = (total / (number + damping))[:, 1:]
    return np.column_stack([np.log1p(count), mean, by_category]).astype(np.float32)


def described(friends_UxF: np.ndarray, told_UxS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is told of each friend (U, F, S), zeros where there is none, and who is there (U, F)."""
    known = (friends_UxF > 0).astype(np.float32)
    return told_UxS[np.maximum(friends_UxF - 1, 0)] * known[..., None], known


def sharing(values_IxW: np.ndarray, size: int) -> Sparse:
    """Which items share a value, as a 0/1 matrix (I, I) without its diagonal.

    Args:
      values_IxW: a categorical item column, 0 where absent.
      size: number of its indices.
    """
    row, _ = np.nonzero(values_IxW)
    where = (row, values_IxW[values_IxW > 0])
    has = scipy.sparse.csr_matrix(
        (np.ones(len(row), np.float32), where), shape=(len(values_IxW), size)
    )
    shared = scipy.sparse.csr_matrix(has @ has.T)
    shared.setdiag(0)
    shared.eliminate_zeros()
    shared.data[:] = 1.0
    return shared


def reached(paths: list[Sparse], vectors: np.ndarray) -> np.ndarray:
    """Where each path leads from an item: (B, I, P, D + 1), the sum of vectors and their number.

    The mean over a user's items of such sums, divided by the mean number, is the mean over the
    neighbors that the user's paths lead to, each as often as a path leads there.

    Args:
      paths: P matrices (I, I) of neighbors.
      vectors: (B, I, D) blocks of item vectors; a block sees its own vectors only.
    """
    number = [np.asarray(path.sum(axis=1)).reshape(-1, 1) for path in paths]
    blocks = []
    for vectors_IxD in vectors:
        sums = [path @ vectors_IxD for path in paths]
        both = [np.concatenate(pair, axis=1) for pair in zip(sums, number, strict=True)]
        blocks.append(np.stack(both, axis=1))
    return np.stack(blocks).astype(np.float32)
