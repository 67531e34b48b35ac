"""Knowledge graphs: mirrors, the control of equal degrees, neighbors by pencil, ids that differ."""

import numpy as np
import pytest

from metajax.data.sources import graph as graphs
from metajax.data.worlds.latent import rating_log
from metajax.types import UserError

TABLE = rating_log(num_users=12, num_items=6)
# Films 0, 1, 2 are entities 0, 1, 2; 3 and 4 are actors, 5 a director.
TRIPLES = np.array([[0, 0, 3], [1, 0, 3], [1, 0, 4], [2, 0, 4], [0, 1, 5], [2, 1, 5]])
BACK = np.array([[t, 2, h] for h, r, t in TRIPLES if r == 0])


def saved(tmp_path, ids=(0, 1, 2), triples=None):
    path = tmp_path / "graph.npz"
    head, relation, tail = np.concatenate([TRIPLES, BACK]).T if triples is None else triples
    np.savez(
        path, head=head, relation=relation, tail=tail, item_id=np.array(ids),
        relation_names=np.array(["actor", "director", "acts in"]), item_entity=np.array([0, 1, 2]),
    )  # fmt: skip
    return path


def test_a_relation_read_backwards_is_dropped_and_the_first_one_kept(tmp_path):
    graph, dropped = graphs.without_mirrors(graphs.read(saved(tmp_path), TABLE))
    assert dropped == ["acts in"] and len(graph.head) == len(TRIPLES)
    assert graph.entity.tolist() == [0, 1, 2, -1, -1, -1]


def test_the_control_keeps_every_degree_in_every_relation(tmp_path):
    graph = graphs.read(saved(tmp_path), TABLE)
    dealt = graphs.shuffled(graph, 3)
    count = lambda g, side: np.unique(
        np.stack([getattr(g, side), g.relation]), axis=1, return_counts=True
    )
    for side in ("head", "tail"):
        for a, b in zip(count(graph, side), count(dealt, side), strict=True):
            np.testing.assert_array_equal(a, b)


def test_neighbors_share_an_entity_and_popular_ones_count_less(tmp_path):
    graph, _ = graphs.without_mirrors(graphs.read(saved(tmp_path), TABLE))
    by_actor = graphs.neighbors(graph, 0).toarray()[:3, :3]
    np.testing.assert_allclose(by_actor, [[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    everything = graphs.neighbors(graph).toarray()[:3, :3]
    np.testing.assert_allclose(everything[0], [0, 0.5, 0.5])
    vectors = np.array([[1.0], [2.0], [4.0], [9.0], [9.0], [9.0]])
    known = np.array([True, False, True, True, True, True])
    found = graphs.average(graphs.neighbors(graph), vectors, known)
    np.testing.assert_allclose(found[:4, 0], [4.0, 2.5, 1.0, 0.0])


def test_a_graph_of_other_items_a_cut_one_and_none_get_one_line(tmp_path):
    with pytest.raises(UserError, match="none of its 3 item ids, such as 77, is an item of synth"):
        graphs.read(saved(tmp_path, ids=(77, 78, 79)), TABLE)
    cut = (np.zeros(3), np.zeros(3), np.zeros(2))
    with pytest.raises(UserError, match="must be as long; get a complete copy"):
        graphs.read(saved(tmp_path, triples=cut), TABLE)
    with pytest.raises(UserError, match="synthetic comes without a graph"):
        graphs.of_table(TABLE, tmp_path)
