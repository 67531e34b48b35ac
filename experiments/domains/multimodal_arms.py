"""The modalities of new items, the learner that reads them, and dropout of whole modalities."""

import dataclasses
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg

from metajax.benchmark.problem import Problem, with_columns
from metajax.data.features.factors import Sparse
from metajax.data.features.represent import content_matrix
from metajax.data.sources import graph as graphs
from metajax.data.sources.files import arrays, dataset_folder, required
from metajax.data.table import Features, Interactions
from metajax.learners.closed_form import ridge
from metajax.learners.parts import linear, linear_layer
from metajax.models.towers import column
from metajax.types import Episode, MetaLearner, Model, Params, PyTree, UserError

from . import graph_arms

TITLES, PLOT, GENRES, CAST = "titles", "plot", "genres", "cast"
PLOT_FOLDER = "ml-1m-plot-words"
PEOPLE = ("star", "actor", "director", "directed_by", "writer", "written_by")
"""Last words of the relations between a film and a person."""
HIDDEN = 32
BUCKETS = 4_096

Blocks = dict[str, np.ndarray]


class Side(NamedTuple):
    """What is known of the items of a table besides their ratings.

    Attributes:
      titles: (I, BUCKETS) counts of hashed words; plot: (I, W) counts of words; genres: (I, C).
      cast: links from films to the people who made them, alone.
    """

    titles: Sparse
    plot: Sparse
    genres: Sparse
    cast: graphs.Graph


def side_of(table: Interactions, folder: Path) -> Side:
    """The titles, plot words, genres and cast of a table's items.

    Args:
      folder: of the data sets.

    Raises:
      UserError: the table comes without one of them; a missing or damaged file.
    """
    genre = table.item_features.columns.get("genre")
    if table.name not in graphs.FILES or table.item_titles is None or genre is None:
        known = " and ".join(graphs.FILES)
        raise UserError(
            f"{table.name} comes without plot words and cast; {known} have titles, plot words, "
            "genres and cast: name one of them with --dataset"
        )
    file = required(dataset_folder(folder, PLOT_FOLDER), "plot_words.npz", PLOT_FOLDER)
    graph, _ = graphs.without_mirrors(graphs.of_table(table, folder))
    is_person = np.array([str(name).split(".")[-1] in PEOPLE for name in graph.names])
    rows = is_person[graph.relation]
    cast = graph._replace(
        head=graph.head[rows], relation=graph.relation[rows], tail=graph.tail[rows]
    )
    own = Features({"genre": genre}, {"genre": table.item_features.sizes["genre"]})
    genres = content_matrix(own, table.num_items)
    return Side(hashed([str(t) for t in table.item_titles]), plot_words(table, file), genres, cast)


def hashed(titles: Sequence[str]) -> Sparse:
    """Counts (I, BUCKETS) of the words of each title, each word in the bucket of its hash."""
    words = [re.findall(r"\w+", title.lower()) for title in titles]
    row = np.repeat(np.arange(len(words)), [len(w) for w in words])
    bucket = [zlib.crc32(word.encode()) % BUCKETS for some in words for word in some]
    shape = (len(titles), BUCKETS)
    return scipy.sparse.csr_matrix((np.ones(len(row)), (row, bucket)), shape=shape)


def plot_words(table: Interactions, path: Path) -> Sparse:
    """Counts (I, W) of the words of each film's plot; films of ML-100K by the same title and year.

    Raises:
      UserError: a damaged file.
    """
    names = ("movie_id", "n_words", "word", "count", "ml100k_item", "ml100k_to_ml1m")
    found = {name: values.astype(np.int64) for name, values in _chosen(path, names).items()}
    start = np.concatenate([[0], np.cumsum(found["n_words"])])
    if start[-1] != len(found["word"]) or len(found["word"]) != len(found["count"]):
        raise UserError(f"{path}: the words do not add up; get a complete copy")
    place = {int(movie): i for i, movie in enumerate(found["movie_id"])}
    same = dict(zip(found["ml100k_item"].tolist(), found["ml100k_to_ml1m"].tolist(), strict=True))
    movie_of = (lambda i: same.get(i, -1)) if table.name == "ml-100k" else (lambda i: i)
    where = [place.get(movie_of(int(i)), -1) for i in table.item_ids]
    length = np.array([found["n_words"][p] if p >= 0 else 0 for p in where])
    at = [np.arange(start[p], start[p + 1]) for p in where if p >= 0]
    cells = np.concatenate([*at, np.zeros(0, np.int64)])
    row = np.repeat(np.arange(len(where)), length)
    shape = (len(where), int(found["word"].max()) + 1)
    values = found["count"][cells].astype(float)
    return scipy.sparse.csr_matrix((values, (row, found["word"][cells])), shape=shape)


def _chosen(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of those names."""
    found = arrays(path, names)
    return {name: found[name] for name in names}


def topics(counts: Sparse, dim: int) -> np.ndarray:
    """Latent semantic analysis (I, at most dim) of counts (I, W), by tf-idf; 0 without words.

    Words of a single item are left out: they link it to no other.
    """
    counts = scipy.sparse.csc_matrix(counts, dtype=float)
    seen = counts.getnnz(axis=0)
    kept = counts[:, seen > 1]
    kept.data = np.log1p(kept.data)
    weighted = kept @ scipy.sparse.diags(np.log(counts.shape[0] / seen[seen > 1]))
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    x = scipy.sparse.csr_matrix(scipy.sparse.diags(1 / np.where(length > 0, length, 1)) @ weighted)
    smallest = min(counts.shape[0], int((seen > 1).sum()))
    left, size, _ = scipy.sparse.linalg.svds(x, min(dim, smallest - 1), v0=np.ones(smallest))
    return left * size


def alike(x: np.ndarray) -> np.ndarray:
    """Rows (I, D) centered, with mean squared length 1; a row of zeros is unknown and stays 0."""
    known = (x != 0).any(axis=1)
    if not known.any():
        return x
    centered = np.where(known[:, None], x - x[known].mean(axis=0), 0.0)
    return centered / max(np.sqrt((centered[known] ** 2).sum(axis=1).mean()), 1e-9)


def blocks_of(problem: Problem, side: Side, dim: int) -> Blocks:
    """Modality -> (I, D). The cast is the mean weights of training films that share a person."""
    weights, known = graph_arms.weights_of_known(problem)
    found = {
        TITLES: topics(side.titles, dim),
        PLOT: topics(side.plot, dim),
        GENRES: side.genres.toarray(),
        CAST: graph_arms.near(side.cast, weights, known)[:, :-1],
    }
    return {name: alike(x) for name, x in found.items()}


def changed(blocks: Blocks, out: Collection[str] = (), permuted: Collection[str] = ()) -> Blocks:
    """The modalities, those of ``out`` unknown, each of ``permuted`` that of other items."""
    found = {name: 0 * x if name in out else x for name, x in blocks.items()}
    for i, name in enumerate(blocks):
        if name in permuted:
            order = np.random.default_rng([i, 17]).permutation(len(found[name]))
            found[name] = found[name][order]
    return found


def with_blocks(problem: Problem, blocks: Blocks) -> Problem:
    """The problem in which an item's profile is its modalities, each (D,)."""
    profile = {name: jnp.asarray(x, jnp.float32) for name, x in blocks.items()}
    return with_columns(problem, lambda source: source._replace(profile=profile))


def learner_of(problem: Problem, dropped: float = 0.0) -> MetaLearner:
    """Fold-in of an item's ratings around a start that a network reads from its modalities.

    The network sees the modalities side by side, and which of them are known; without any, the
    start is the same for all items.

    Args:
      dropped: probability that a modality is dropped from a training task.
    """
    dim = problem.table.item_features.columns["factor"].shape[1] + 1
    features = column("factor", constant=True)

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        width = _told(profile).shape[-1]
        body, head = jax.random.split(key)
        last = linear_layer(head, HIDDEN, dim)
        return {
            "body": linear_layer(body, width, HIDDEN),
            "head": last | {"kernel": 0.1 * last["kernel"]},
            "straight": jnp.zeros((width, dim)),
            "mu": jnp.asarray(problem.mean),
        }

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        told = _told(profile)
        hidden = jax.nn.relu(linear(params["body"], told))
        start = told @ params["straight"] + linear(params["head"], hidden)
        return params["mu"] + inputs["bias"] + features.apply({}, profile, inputs) @ start

    precision = (3.0, *[10.0] * (dim - 1))
    learner = ridge(features, Model(init, apply), dim, precision=precision)
    return drop_modalities(learner, dropped) if dropped else learner


def _told(profile: Mapping[str, jax.Array]) -> jax.Array:
    """All modalities side by side, then which of them are known."""
    known = jnp.stack([(x != 0).any() * 1.0 for x in profile.values()])
    return jnp.concatenate([*profile.values(), known])


def drop_modalities(learner: MetaLearner, share: float) -> MetaLearner:
    """The learner, meta-trained with each modality of a task unknown with some probability.

    Adaptation and prediction are unchanged.

    References: Neverova et al., "ModDrop: adaptive multi-modal gesture recognition", TPAMI 2016.
    """

    def loss(params: PyTree, episode: Episode, key: jax.Array):
        key_drop, key_loss = jax.random.split(key)
        keys = jax.random.split(key_drop, len(episode.profile))
        kept = {
            name: x * (jax.random.uniform(k) >= share)
            for k, (name, x) in zip(keys, episode.profile.items(), strict=True)
        }
        return learner.loss(params, episode._replace(profile=kept), key_loss)

    return learner._replace(loss=loss)


def of_some(table: Interactions, users: int | None, seed: int) -> Interactions:
    """The table with the ratings of some users alone, drawn at random; None for all."""
    if users is None or users >= table.num_users:
        return table
    chosen = np.random.default_rng([seed, 18]).permutation(table.num_users)[:users]
    rows = np.isin(table.user, chosen)
    cut = lambda x: None if x is None else x[rows]
    given = {name: cut(getattr(table, name)) for name in ("time", "state", "count")}
    given |= {name: getattr(table, name)[rows] for name in ("user", "item", "label")}
    return dataclasses.replace(table, **given)
