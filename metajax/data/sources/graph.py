"""Knowledge graphs of items: triples (head, relation, tail), and which entity each item is.

A file is an .npz with ``head``, ``relation``, ``tail`` (triples of numbers), ``relation_names``,
``item_id`` and ``item_entity`` (the items that are linked, and the entity of each).

References: Zhao et al., "KB4Rec", Data Intelligence 2019; Wang et al., "MKR", WWW 2019.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy

from metajax.data.features.factors import Sparse
from metajax.data.sources.files import arrays, dataset_folder
from metajax.data.table import Interactions
from metajax.types import UserError

FILES = {"ml-100k": "ml100k_freebase.npz", "ml-1m": "ml1m_satori.npz"}


class Graph(NamedTuple):
    """A graph of E triples between entities, and the items of a table in it.

    Attributes:
      head, relation, tail: (E,) numbers of entities, relations and entities.
      names: (R,) of the relations.
      entity: (I,) the entity of each item, -1 for an item that the graph does not know.
      num_entities: of the graph.
    """

    head: np.ndarray
    relation: np.ndarray
    tail: np.ndarray
    names: np.ndarray
    entity: np.ndarray
    num_entities: int


def of_table(table: Interactions, folder: Path | str) -> Graph:
    """The graph that belongs to a named data set.

    Raises:
      UserError: there is none, or as `read`.
    """
    if table.name not in FILES:
        known = " and ".join(FILES)
        raise UserError(f"{table.name} comes without a graph; {known} have one, or give --graph")
    return read(dataset_folder(folder, "movielens-kg") / FILES[table.name], table)


def read(path: Path, table: Interactions) -> Graph:
    """The graph of a file, its items matched by id.

    Raises:
      UserError: a missing or damaged file; ids that are not those of the table's items.
    """
    names = ("head", "relation", "tail", "relation_names", "item_id", "item_entity")
    if not path.is_file():
        raise UserError(f"no file {path}; give the path of an .npz file of triples")
    found = arrays(path, names)
    head, relation, tail = (found[name].astype(np.int64) for name in names[:3])
    if not head.shape == relation.shape == tail.shape or head.ndim != 1 or not len(head):
        raise UserError(f"{path}: head, relation and tail must be as long; get a complete copy")
    if relation.max() >= len(found["relation_names"]):
        raise UserError(f"{path}: a triple has a relation without a name; get a complete copy")
    place = {str(x): i for i, x in enumerate(table.item_ids.tolist())}
    where = np.array([place.get(str(x), -1) for x in found["item_id"].tolist()])
    if not (where >= 0).any():
        raise UserError(
            f"{path}: none of its {len(where)} item ids, such as {found['item_id'][0]}, is an item "
            f"of {table.name}; give the graph of this data set"
        )
    entity = np.full(table.num_items, -1)
    entity[where[where >= 0]] = found["item_entity"][where >= 0]
    size = int(max(head.max(), tail.max(), entity.max())) + 1
    return Graph(head, relation, tail, found["relation_names"], entity, size)


def without_mirrors(graph: Graph) -> tuple[Graph, list[str]]:
    """The graph without relations that are another one read backwards, and their names.

    Of such a pair the first is kept: with both, whoever hides a triple leaves its mirror in sight.
    """
    key = lambda a, b: np.sort(a * graph.num_entities + b)
    of = lambda r: graph.relation == r
    forth = [key(graph.head[of(r)], graph.tail[of(r)]) for r in range(len(graph.names))]
    back = [key(graph.tail[of(r)], graph.head[of(r)]) for r in range(len(graph.names))]
    mirrors = [
        r
        for r in range(len(graph.names))
        if any(len(back[r]) and np.array_equal(back[r], forth[other]) for other in range(r))
    ]
    keep = ~np.isin(graph.relation, mirrors)
    kept = graph._replace(
        head=graph.head[keep], relation=graph.relation[keep], tail=graph.tail[keep]
    )
    return kept, [str(graph.names[r]) for r in mirrors]


def shuffled(graph: Graph, seed: int = 0) -> Graph:
    """The graph with tails dealt anew among the triples of each relation: the negative control.

    Every entity keeps its number of triples as a head and as a tail, in each relation.
    """
    rng, tail = np.random.default_rng([seed, 14]), graph.tail.copy()
    for r in range(len(graph.names)):
        rows = np.flatnonzero(graph.relation == r)
        tail[rows] = tail[rng.permutation(rows)]
    return graph._replace(tail=tail)


def neighbors(graph: Graph, relation: int | None = None) -> Sparse:
    """How items are linked by an entity they share, (I, I), each linked row summing to 1.

    An entity that many items share counts less: a path over it is worth one over its items.

    Args:
      relation: paths over this relation alone; None over all.
    """
    rows = slice(None) if relation is None else graph.relation == relation
    head, tail, known = graph.head[rows], graph.tail[rows], graph.entity >= 0
    item_of = np.full(graph.num_entities, -1)
    item_of[graph.entity[known]] = np.flatnonzero(known)
    ends = [(item_of[head], tail), (item_of[tail], head)]
    item = np.concatenate([i[i >= 0] for i, _ in ends])
    other = np.concatenate([e[i >= 0] for i, e in ends])
    shape = (len(graph.entity), graph.num_entities)
    has = scipy.sparse.csr_matrix((np.ones(len(item)), (item, other)), shape=shape)
    has.data[:] = 1.0  # a triple that stands twice is one
    count = np.maximum(np.asarray(has.sum(axis=0)).ravel(), 1)
    shared = scipy.sparse.csr_matrix(has @ scipy.sparse.diags(1 / count) @ has.T)
    shared.setdiag(0)
    shared.eliminate_zeros()
    total = np.asarray(shared.sum(axis=1)).ravel()
    scale = scipy.sparse.diags(1 / np.where(total > 0, total, 1))
    return scipy.sparse.csr_matrix(scale @ shared)


def average(links: Sparse, vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The weighted mean (I, D) of the known neighbors' vectors; 0 where none is known.

    Args:
      links: of `neighbors`; vectors: (I, D); known: (I,) bool, the items whose vectors count.
    """
    some = scipy.sparse.csr_matrix(links @ scipy.sparse.diags(known * 1.0))
    weight = np.asarray(some.sum(axis=1)).ravel()
    return (some @ vectors) / np.where(weight > 0, weight, 1)[:, None]
