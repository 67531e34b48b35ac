"""Top-k retrieval: exact for a small catalogue, approximate by clusters for a large one.

A score is the inner product of a user's weights with an item's vector, plus a constant of the item.
A large catalogue is clustered once (k-means), and each cluster is divided into layers by the
constants, which decide for a person of whom little is known. A request looks into the pieces whose
best rows are expected to score highest, until its budget of rows is spent. `python -m experiments
load` measures its recall.
"""

import numpy as np

from metajax.serving import linear
from metajax.types import UserError

SMALL = 4_000_000  # numbers of a catalogue that are all looked at: 16 MB
CLUSTERS = 2048
BUDGET = 12_000  # rows that a request looks at, at most
HOPE = 0.5  # of the way from a piece's mean to its expected best, by which pieces are ordered
LAYERS = (0.02, 0.1, 0.3)  # where a cluster, sorted by the constants, is cut
BLOCK = 1024


def exact(scores: np.ndarray, top: int, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices (k,) of the highest scores (N,) and these scores (k,), best first.

    The highest lie in the blocks with the highest maxima: those alone are searched.

    Args:
      scores: (N,); of equal ones the lower index comes first.
      top: how many; fewer come back if there are fewer.
      hidden: (m,) indices that are left out.
    """
    scores = scores.copy()
    scores[hidden] = -np.inf
    top = min(top, len(scores) - len(np.unique(hidden)))
    if top <= 0:
        return np.zeros(0, np.int64), np.zeros(0, scores.dtype)
    if len(scores) <= 2 * top * BLOCK:
        chosen = highest(scores, top)
        return chosen, scores[chosen]
    whole = len(scores) // BLOCK * BLOCK
    maxima = scores[:whole].reshape(-1, BLOCK).max(axis=1)
    blocks = np.sort(highest(maxima, top))
    places = np.concatenate(
        [*(np.arange(b * BLOCK, (b + 1) * BLOCK) for b in blocks), np.arange(whole, len(scores))]
    )
    chosen = places[highest(scores[places], top)]
    return chosen, scores[chosen]


def highest(scores: np.ndarray, top: int) -> np.ndarray:
    """The indices (top,) of the highest scores (N,), best first; ties by index."""
    if top >= len(scores):
        return np.argsort(-scores, kind="stable")
    limit = np.partition(scores, len(scores) - top)[len(scores) - top]
    above = np.flatnonzero(scores > limit)
    level = np.flatnonzero(scores == limit)[: top - len(above)]
    chosen = np.sort(np.concatenate([above, level]))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


class Index:
    """An index of a catalogue, which finds the best items for the state of a user.

    Args:
      form: the arrays of all items.
      small: a catalogue of at most so many numbers (items times dimensions) is searched whole.
      clusters: number of clusters of a larger one.
      budget: the most rows that a request looks at.
      seed: of the clustering.
    """

    def __init__(
        self,
        form: linear.Form,
        small: int = SMALL,
        clusters: int = CLUSTERS,
        budget: int = BUDGET,
        seed: int = 0,
    ):
        self.budget = budget
        self.num_items = len(form.offset)
        self.whole = self.num_items * max(form.x.shape[1], 1) <= small
        if self.whole:
            return
        clusters = min(clusters, self.num_items // 8)
        constants = [form.offset] if form.level is None else [form.offset, form.pooled]
        vectors = np.column_stack([form.x, *constants]).astype(np.float32)
        owner = _clusters(form.x, clusters, np.random.default_rng(seed))
        in_cluster = np.lexsort((-vectors[:, form.x.shape[1] :].sum(axis=1), owner))
        size = np.bincount(owner, minlength=clusters)
        above = np.arange(self.num_items) - np.repeat(np.cumsum(size) - size, size)
        layer = np.searchsorted(LAYERS, above / np.repeat(size, size), side="right")
        by_layer = np.argsort(layer, kind="stable")
        order, piece = in_cluster[by_layer], (layer * clusters + owner[in_cluster])[by_layer]
        self.place, self.vectors = order, np.ascontiguousarray(vectors[order])
        firsts = np.flatnonzero(np.diff(piece, prepend=-1))
        self.firsts, self.size = firsts, np.diff(np.append(firsts, self.num_items))
        mean = lambda rows: np.add.reduceat(rows, firsts) / self.size[:, None]
        self.centers = mean(self.vectors).astype(np.float32)
        spread = np.maximum(mean(self.vectors**2) - self.centers**2, 0)
        # The highest of n normal numbers stands about sqrt(2 log n) deviations above their mean.
        height = HOPE**2 * 2 * np.log(np.maximum(self.size, 2))
        self.reach = (spread * height[:, None]).astype(np.float32)

    def best(
        self, form: linear.Form, state: linear.State, top: int, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best items (k,) and their scores (k,) in the unit of the labels, best first.

        Args:
          form: as the index was made of.
          state: of the user.
          top: k, how many.
          hidden: (m,) items that are left out.

        Raises:
          UserError: a score is not finite.
        """
        if self.whole:
            return exact(linear.predict(form, state), top, hidden)
        pooled, ridge = linear.shares(form, state.weight)
        weights = ridge * linear.solved(form, state)
        constants = [ridge] if form.level is None else [ridge, pooled]
        query = np.concatenate([weights, constants]).astype(np.float32)
        chosen, scores = self.search(query, top, hidden)
        if not np.isfinite(scores).all():
            raise UserError("a score is not finite: the user's state or the model is damaged")
        return chosen, form.scale * scores

    def search(
        self, query: np.ndarray, top: int, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items (k,) of highest inner product with a query (D + constants,), and these (k,)."""
        expected = self.centers @ query + np.sqrt(self.reach @ query**2)
        order = np.argsort(-expected)
        rows = np.cumsum(self.size[order])
        wanted = min(top + len(hidden), self.num_items)
        end = int(np.searchsorted(rows, max(self.budget, 2 * wanted))) + 1
        scores = np.empty(rows[min(end, len(rows)) - 1], np.float32)
        firsts, size = self.firsts[order[:end]].tolist(), self.size[order[:end]].tolist()
        for first, count, last in zip(firsts, size, rows[:end].tolist(), strict=True):
            rated = self.vectors[first : first + count]
            np.dot(rated, query, out=scores[last - count : last])
        found = highest(scores, min(wanted, len(scores)))
        part = np.searchsorted(rows, found, side="right")
        piece = order[part]
        places = self.place[self.firsts[piece] + found - (rows[part] - self.size[piece])]
        shown = np.flatnonzero(~np.isin(places, hidden))[:top]
        return places[shown], scores[found[shown]]


def _clusters(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The cluster (N,) of every vector: a few rounds of k-means on a sample, then the nearest."""
    sample = x[rng.choice(len(x), min(len(x), 40 * count), replace=False)]
    centers = sample[rng.choice(len(sample), count, replace=False)].copy()
    for _ in range(6):
        owner = _nearest(sample, centers)
        sums = np.zeros_like(centers)
        np.add.at(sums, owner, sample)
        size = np.bincount(owner, minlength=count)
        centers = np.where(size[:, None] > 0, sums / np.maximum(size, 1)[:, None], centers)
    return _nearest(x, centers)


def _nearest(x: np.ndarray, centers: np.ndarray, block: int = 1024) -> np.ndarray:
    """The nearest center (N,) of every vector, in blocks whose scores stay in the cache."""
    half = 0.5 * (centers**2).sum(axis=1)
    owner = np.empty(len(x), np.int64)
    scores = np.empty((block, len(centers)), x.dtype)
    for i in range(0, len(x), block):
        part = x[i : i + block]
        found = np.matmul(part, centers.T, out=scores[: len(part)])
        owner[i : i + block] = np.subtract(found, half, out=found).argmax(axis=1)
    return owner
