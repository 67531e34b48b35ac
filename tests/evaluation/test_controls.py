"""Controls, curves, streams, groups and full rankings, on learners whose answers are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data import episodes, split
from metajax.data.episodes import Source
from metajax.evaluation import catalogue as ranking
from metajax.evaluation import evaluate, metrics
from metajax.learners.closed_form import ridge
from metajax.learners.pooled import pooled
from metajax.models import towers
from metajax.types import Episode, Examples, MetaLearner, Model

DIM, NUM_ITEMS, NUM_USERS, SUPPORT, QUERY = 4, 60, 80, 12, 8


@functools.cache
def world() -> tuple[Source, Episode]:
    """Users with latent tastes over 60 items: 12 support and 8 query rows each, different items."""
    rng = np.random.default_rng(0)
    vector = rng.normal(size=(NUM_ITEMS, DIM)) / np.sqrt(DIM)
    taste = rng.normal(size=(NUM_USERS, DIM)) * 2
    item = np.stack([rng.permutation(NUM_ITEMS)[: SUPPORT + QUERY] for _ in range(NUM_USERS)])
    label = 3 + np.einsum("tnd,td->tn", vector[item], taste) + 0.2 * rng.normal(size=item.shape)
    n = np.full(NUM_USERS, SUPPORT + QUERY, np.int32)
    owner = np.arange(NUM_USERS, dtype=np.int32)
    tasks = split.Tasks(
        owner, (owner * n).astype(np.int32), n, item.ravel().astype(np.int32), label.ravel()
    )
    source = Source(tasks, {}, {"factor": jnp.asarray(vector, jnp.float32)})
    return source, jax.tree.map(jnp.asarray, episodes.fixed(tasks, QUERY))


def three() -> Model:
    """The score 3 for everything."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, x: 3.0 + 0.0 * x["item"])


def fold_in() -> MetaLearner:
    """Ridge over the true item vectors: it learns the user's taste from the support."""
    return ridge(towers.column("factor"), three(), DIM, precision=0.05)


def params_of(learner: MetaLearner):
    source, tasks = world()
    first = episodes.fetch(jax.tree.map(lambda x: x[0], tasks), source)
    return learner.init(jax.random.key(0), first)


@functools.cache
def controlled(build) -> dict[str, jax.Array]:
    """The controls of a learner, in one program."""
    learner, (source, tasks) = build(), world()
    run = jax.jit(lambda p, key: evaluate.controls(learner, p, source, tasks, key))
    return jax.tree.map(np.asarray, run(params_of(learner), jax.random.key(1)))


def test_controls_tell_a_learner_that_adapts():
    gaps = evaluate.control_gaps(controlled(fold_in))
    assert gaps.keys() == {evaluate.N0, evaluate.N1, evaluate.N2, evaluate.N3}
    for name in (evaluate.N0, evaluate.N1, evaluate.N2):
        assert gaps[name].low > 0.2, name
    # its prior is all it has, and the prior is not random
    assert gaps[evaluate.N3].mean == pytest.approx(0.0, abs=1e-6)


def test_controls_find_no_adaptation_in_a_learner_without():
    learner = lambda: pooled(three())
    gaps = evaluate.control_gaps(controlled(learner))
    for name, gap in gaps.items():
        assert gap.mean == 0.0 == gap.low == gap.high, name


def test_zero_steps_are_the_cold_start():
    _, tasks = world()
    expected = np.abs(np.asarray(tasks.query.label) - 3.0).mean(axis=1)
    np.testing.assert_allclose(controlled(fold_in)[evaluate.N0], expected, rtol=1e-5)


def test_random_initialization_costs_a_learner_that_knows_something():
    def prior_of_three() -> MetaLearner:
        """A learner whose parameter is the score itself: 3 once trained, anything at first."""
        guess = Model(
            lambda key, profile, inputs: {"score": 10.0 * jax.random.normal(key)},
            lambda params, profile, x: params["score"] + 0.0 * x["item"],
        )
        return pooled(guess)

    learner, (source, tasks) = prior_of_three(), world()
    trained = jax.tree.map(lambda x: jnp.full_like(x, 3.0), params_of(learner))
    scores = evaluate.controls(learner, trained, source, tasks, jax.random.key(3))
    gaps = evaluate.control_gaps(scores)
    assert gaps[evaluate.N3].low > 0
    assert gaps[evaluate.N1].mean == gaps[evaluate.N2].mean == 0.0


def test_nobody_keeps_their_own_support():
    _, tasks = world()
    for seed in range(5):
        donated = evaluate.others_support(jax.random.key(seed), tasks)
        own = np.asarray(tasks.support.inputs)
        given = np.asarray(donated.support.inputs)
        assert not (own == given).all(axis=1).any()
        np.testing.assert_array_equal(np.sort(own, axis=0), np.sort(given, axis=0))
        np.testing.assert_array_equal(tasks.query.label, donated.query.label)


def test_seeds_are_averaged_before_users_are_paired():
    own = np.array([[1.0, 2.0], [3.0, 2.0]])
    gaps = evaluate.control_gaps({"own": own, evaluate.N1: own + np.array([[0.0], [1.0]])})
    assert gaps[evaluate.N1].mean == pytest.approx(0.5)
    assert gaps[evaluate.N1].num_units == 2


def test_the_curve_is_judging_with_the_support_cut():
    learner, (source, tasks) = fold_in(), world()
    params = params_of(learner)
    curve = evaluate.k_shot(learner, params, source, tasks, jax.random.key(0), (0, 5, 12))
    for k, found in zip((0, 5, 12), curve["mae"], strict=True):
        mask = jnp.where(jnp.arange(SUPPORT) < k, 1.0, 0.0)
        cut = tasks.support._replace(mask=tasks.support.mask * mask[None, :])
        scores = evaluate.predictions(
            learner, params, source, tasks._replace(support=cut), jax.random.key(9)
        )
        expected = jnp.abs(scores - tasks.query.label).mean(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert curve["mae"][2].mean() < curve["mae"][1].mean() < curve["mae"][0].mean()


def running_mean() -> MetaLearner:
    """A learner that scores the mean of all labels seen, 0 before any."""

    def adapt(params, state, examples: Examples, key):
        return state + jnp.stack([jnp.sum(examples.label * examples.mask), jnp.sum(examples.mask)])

    return MetaLearner(
        init=lambda key, episode: {},
        start=lambda params, profile: jnp.zeros(2),
        adapt=adapt,
        predict=lambda params, state, inputs: jnp.full(
            inputs["item"].shape, state[0] / jnp.maximum(state[1], 1)
        ),
        loss=lambda params, episode, key: (jnp.zeros(()), {}),
    )


def test_a_stream_is_predicted_before_it_is_learned_from():
    tasks = Episode(
        jnp.arange(2),
        Examples(jnp.zeros((2, 1), int), jnp.array([[6.0], [0.0]]), jnp.array([[1.0], [0.0]])),
        Examples(
            jnp.zeros((2, 3), int),
            jnp.array([[2.0, 4.0, 8.0], [1.0, 3.0, 99.0]]),
            jnp.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
        ),
    )
    source = Source(split.Tasks(*[np.zeros(1)] * 5), {}, {})
    scores = evaluate.prequential(running_mean(), {}, source, tasks, jax.random.key(0))
    # task 0: 6, then (6+2)/2, then (6+2+4)/3; task 1 has no support: 0, then 1, then (1+3)/2
    np.testing.assert_allclose(scores, [[6.0, 4.0, 4.0], [0.0, 1.0, 2.0]])


def test_groups_and_activity():
    values = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0])
    found = evaluate.by_group(values, np.array([0, 0, 1, 1, 2, 1]), ["f", "m", "?"])
    assert found.keys() == {"f", "m"}  # of the third group nothing is known
    assert found["f"].mean == 1.5 and found["m"].mean == pytest.approx(13 / 3)
    activity = np.array([13, 13, 13, 20, 50, 99])
    found = evaluate.by_activity(np.arange(6.0), activity, 2)
    assert list(found) == ["13-13", "20-99"]
    assert found["13-13"].mean == 1.0 and found["20-99"].num_units == 3


def scores_of(table: np.ndarray) -> MetaLearner:
    """A learner whose score of an item is stored: it learns nothing."""
    fixed = jnp.asarray(table, jnp.float32)
    return MetaLearner(
        init=lambda key, episode: {},
        start=lambda params, profile: (),
        adapt=lambda params, state, examples, key: state,
        predict=lambda params, state, inputs: fixed[inputs["item"]],
        loss=lambda params, episode, key: (jnp.zeros(()), {}),
    )


def one_task(support, query, label) -> Episode:
    row = lambda x, kind: jnp.asarray([x], kind)
    ones = lambda x: jnp.ones((1, len(x)))
    return Episode(
        jnp.zeros(1, int),
        Examples(row(support, int), jnp.zeros((1, len(support))), ones(support)),
        Examples(row(query, int), row(label, float), ones(query)),
    )


def rank(table, task: Episode, candidates, **options):
    source = Source(split.Tasks(*[np.zeros(1)] * 5), {}, {})
    learner = scores_of(table)
    return ranking.full(learner, {}, source, task, jax.random.key(0), candidates, **options)


def test_the_full_catalogue_without_the_support():
    # scores fall with the item number; item 0 is in the support; 2 and 4 are relevant, 1 is not
    table = np.arange(6)[::-1]
    task = one_task([0], [2, 4, 1], [1.0, 1.0, 0.0])
    found = rank(table, task, np.arange(6), k=2)
    # the list is 1, 2: one hit at position 2 of 2 relevant
    assert found["recall@2"][0] == 0.5 and found["mrr@2"][0] == 0.5 and found["hit@2"][0] == 1
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg@2"][0] == pytest.approx(1 / np.log2(3) / ideal)
    back = rank(table, task, np.arange(6), k=2, repeats=True)
    assert back["hit@2"][0] == 0.0  # the list is 0, 1


def test_cold_items_are_ranked_among_themselves():
    table = np.arange(6)[::-1]
    task = one_task([0], [4, 2], [1.0, 1.0])
    found = rank(table, task, np.array([5, 3, 4]), k=1)
    assert found["hit@1"][0] == 0.0  # 3 stands first; 2 is no candidate
    assert rank(table, task, np.array([5, 3, 4]), k=2)["recall@2"][0] == 1.0
    nothing = rank(table, one_task([0], [2], [1.0]), np.array([5, 3, 4]), k=2)
    assert np.isnan(nothing["recall@2"][0])


def test_a_constant_scorer_gets_chance_in_the_full_catalogue():
    num, catalogue, k = 400, 50, 10
    rng = np.random.default_rng(0)
    item = np.stack([rng.permutation(catalogue)[:6] for _ in range(num)])
    ones = lambda n: jnp.ones((num, n))
    tasks = Episode(
        jnp.zeros(num, int),
        Examples(jnp.asarray(item[:, :4]), ones(4), ones(4)),
        Examples(jnp.asarray(item[:, 4:]), ones(2), ones(2)),
    )
    found = rank(np.zeros(catalogue), tasks, np.arange(catalogue), k=k)
    chance = k / (catalogue - 4)
    assert abs(float(found["recall@10"].mean()) - chance) < 4 * np.sqrt(chance / (2 * num))


def test_metrics_other_than_mae_can_be_controlled():
    learner, (source, tasks) = fold_in(), world()
    scores = evaluate.controls(
        learner, params_of(learner), source, tasks, jax.random.key(0), metrics.rmse
    )
    assert (np.asarray(scores["own"]) >= controlled(fold_in)["own"] - 1e-5).all()
