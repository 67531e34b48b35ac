"""Columns from graphs: trusted users (a social network), and items that meta-paths lead to.

Statistics of a friend are estimated from the rows given, which must be meta-training rows: then no
rating of a test user is in anyone's columns, and no user's own ratings are in their own. Paths
between items use item features alone.
"""

import numpy as np
import scipy

from metajax.data.features.factors import Sparse
from metajax.data.table import Interactions


def known_links(pairs: np.ndarray, table: Interactions) -> np.ndarray:
    """Links (L, 2) of known, different users as indices, from pairs (P, 2) of user ids."""
    order = np.argsort(table.user_ids, kind="stable")
    ids = table.user_ids[order]
    place = np.minimum(np.searchsorted(ids, pairs), len(ids) - 1)
    known = (ids[place] == pairs).all(axis=1)
    links = order[place[known]].astype(np.int32).reshape(-1, 2)
    return np.unique(links[links[:, 0] != links[:, 1]], axis=0)


def friends(links: np.ndarray, activity: np.ndarray, num_friends: int = 5) -> np.ndarray:
    """The users whom each user trusts: (U, num_friends) int32 index + 1, 0 for none.

    The most active come first.

    Args:
      links: (L, 2) user indices (who trusts, who is trusted).
      activity: (U,) number of training rows of each user; users without any are left out.
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
    """The friends (U, F) permuted among the users: the negative control of learners that read them.

    Every user keeps their number of friends, and is a friend of as many.
    """
    dealt = friends_UxF.copy()
    dealt[dealt > 0] = np.random.default_rng([seed, 11]).permutation(dealt[dealt > 0])
    return dealt


def user_statistics(
    table: Interactions, rows: np.ndarray, category: str, damping: float = 5.0
) -> np.ndarray:
    """Statistics of each user over the given rows: (U, 2 + categories) float32, 0 without rows.

    They are log(1 + number of rows); the mean residual (label minus overall mean), shrunk as by
    ``damping`` rows of 0; and that mean for each category of the item column ``category``.
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


def friend_features(friends_UxF: np.ndarray, told_UxS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The statistics (U, F, S) of each user's friends, 0 where none, and their mask (U, F)."""
    known = (friends_UxF > 0).astype(np.float32)
    return told_UxS[np.maximum(friends_UxF - 1, 0)] * known[..., None], known


def same_value(values_IxW: np.ndarray, size: int) -> Sparse:
    """A sparse matrix (I, I): 1 where two items share a value of a column, 0 on the diagonal.

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


def path_sums(paths: list[Sparse], vectors: np.ndarray) -> np.ndarray:
    """For each item and path, the sum of its neighbors' vectors and their number: (B, I, P, D + 1).

    Means of such sums over a user's items, divided by the means of the numbers, are the mean vector
    of the neighbors of these items, each weighted by the number of paths that lead to it.

    Args:
      paths: P matrices (I, I) of neighbors.
      vectors: (B, I, D) item vectors in B versions, such as one per fold.
    """
    number = [np.asarray(path.sum(axis=1)).reshape(-1, 1) for path in paths]
    blocks = []
    for vectors_IxD in vectors:
        sums = [path @ vectors_IxD for path in paths]
        both = [np.concatenate(pair, axis=1) for pair in zip(sums, number, strict=True)]
        blocks.append(np.stack(both, axis=1))
    return np.stack(blocks).astype(np.float32)
