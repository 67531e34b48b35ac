"""New items with links, and hybrids: their starts, their laws, what they refuse, their records."""

import dataclasses

import jax
import numpy as np
import pytest
from compiled import compiled

from experiments.domains import graph_arms as arms
from experiments.domains import (
    graph_report,
    hybrid,
    hybrid_arms,
    hybrid_report,
    knowledge_graph,
    rates,
)
from metajax import losses
from metajax.benchmark import belief
from metajax.data.sources.graph import Graph
from metajax.data.worlds.latent import rating_log
from metajax.models.translations import margin_loss, transe
from metajax.results import records, tables
from metajax.settings import Data, Output
from metajax.types import UserError

TABLE = rating_log(num_users=60, num_items=40)


def test_transe_scores_a_triple_by_how_far_the_step_misses():
    model = compiled(transe(3, 1, 2))
    points = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]], np.float32)
    params = {"entity": points, "relation": np.array([[-1.0, 1.0]], np.float32)}
    one = {"head": np.array([0, 0]), "relation": np.zeros(2, int), "tail": np.array([1, 2])}
    found = np.asarray(
        model.apply(params, (), one)
    )  # (1, 0) + (-1, 1) is (0, 1): right, and sqrt 2 off
    np.testing.assert_allclose(found, [0.0, -(2**0.5)], atol=1e-3)
    loss = jax.jit(margin_loss)
    assert float(loss(found[:1], found[1:])) == 0.0
    assert float(loss(found[1:], found[:1])) == pytest.approx(1 + 2**0.5, rel=1e-3)


def test_an_item_without_neighbors_or_links_starts_from_nothing():
    """Items 0 and 1 share an entity; only 1 is known, with weights 7."""
    graph = Graph(*np.array([[0, 1, 2], [0, 0, 0], [3, 3, 4]]), np.array(["r"]), np.arange(3), 5)
    weights, known = np.array([[1.0], [7.0], [5.0]]), np.array([False, True, False])
    np.testing.assert_allclose(arms.near(graph, weights, known), [[7, 1], [0, 0], [0, 0]])
    lonely = graph._replace(entity=np.array([0, -1, 2]))
    linked = arms.of_linked(lonely, np.ones((5, 2)))
    np.testing.assert_allclose(linked, [[1, 1, 1], [0, 0, 0], [1, 1, 1]])


@pytest.fixture(scope="module")
def problem():
    return arms.with_content(arms.of_items(TABLE, 0), arms.genres(TABLE))


def test_no_test_item_is_known_and_supports_are_twenty(problem):
    known = set(problem.split.train.owner)
    for tasks in (*problem.split.valid.values(), *problem.split.test.values()):
        assert not known & set(tasks.owner) and (tasks.shots == arms.SUPPORT).all()
    _, is_known = arms.weights_of_known(problem)
    assert set(np.flatnonzero(is_known)) == known


def test_a_thinned_log_has_fewer_training_rows_and_the_same_tests():
    whole, thin = (hybrid_arms.thinned(TABLE, 0, density) for density in (1.0, 0.3))
    assert thin.error is losses.squared_error
    share = len(thin.split.train_rows) / len(whole.split.train_rows)
    assert 0.2 < share < 0.4
    np.testing.assert_array_equal(
        whole.split.test["user_cold"].other, thin.split.test["user_cold"].other
    )


def test_without_ratings_the_hybrid_reads_content_alone_and_dropping_leaves_adapting(problem):
    learner, one = compiled(hybrid_arms.beside(problem)), jax.tree.map(np.asarray, problem.example)
    params = learner.init(jax.random.key(0), one)
    start = learner.start(params, one.profile)
    empty = one.support._replace(mask=0 * one.support.mask)
    cold = learner.adapt(params, start, empty, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, cold, start)
    other = start._replace(profile={"content": one.profile["content"] + np.float32(1.0)})
    score = lambda state: learner.predict(params, state, one.query.inputs)
    assert np.abs(np.subtract(score(start), score(other))).max() > 1e-4
    dropped = hybrid_arms.made(hybrid_report.DROPPED, problem, 1.0)
    without = one._replace(support=empty)
    of = lambda made, episode: float(made.loss(params, episode, jax.random.key(2))[0])
    assert of(compiled(dropped), one) == pytest.approx(of(learner, without))


def test_arms_are_judged_by_every_measure_of_ratings_and_chosen_by_squared_error(problem):
    """An arm that says the mean rating throughout: its errors follow from the labels."""
    assert problem.error is losses.squared_error
    tasks = problem.valid[1]
    mean = lambda source, tasks, key: np.full((1, *tasks.query.label.shape), problem.mean)
    found = rates.rated({"mean": mean}, problem, {"any": tasks}, "new items")
    real, gap = np.asarray(tasks.query.mask), np.asarray(tasks.query.label) - problem.mean
    of = lambda metric, at=records.ALL: found[records.Key("new items", "mean", at, metric)][0]
    each = lambda off: (off * real).sum(axis=1) / real.sum(axis=1)
    np.testing.assert_allclose(of("mse"), each(gap**2), rtol=1e-4)
    np.testing.assert_allclose(of("mae", "k=0"), each(np.abs(gap)), rtol=1e-4)
    judged = {key.metric for key in found if key.condition == records.ALL}
    assert judged == set(tables.MEASURES)
    assert belief.scale_of(problem)["ordinal"]["levels"] == 5


def test_events_and_a_set_without_a_graph_get_one_line(tmp_path):
    with pytest.raises(UserError, match="synthetic has events"):
        arms.rated(dataclasses.replace(TABLE, label=1.0 + 0 * TABLE.label, scale=(0.0, 1.0)))
    own = knowledge_graph.Config(data=Data(dataset="synthetic", data_dir=tmp_path))
    with pytest.raises(UserError, match="synthetic comes without a graph"):
        knowledge_graph.measured(own)


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(
    ("experiment", "report", "picture"),
    [(knowledge_graph, graph_report, "error.png"), (hybrid, hybrid_report, "density.png")],
)
def test_the_stored_records_print_their_tables_and_draw(experiment, report, picture, tmp_path):
    config = experiment.Config(output=Output(from_records=True, out=tmp_path))
    if not records.path_of(report.name_of(config)).is_file():
        pytest.skip("no record is stored")
    experiment.main(config)
    assert (tmp_path / picture).is_file()
