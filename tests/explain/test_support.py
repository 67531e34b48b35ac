"""What an interaction did to a score: laws that hold for learners of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax.data.worlds.causes import Interests
from metajax.explain import judged, support
from metajax.explain.sentence import because
from metajax.learners.amortized import neural_process
from metajax.learners.closed_form import ridge
from metajax.learners.gradient.implicit import implicit
from metajax.learners.gradient.maml import gradient
from metajax.models.features import conditioned_mlp, labeled_features
from metajax.models.towers import identity, vector_linear, vector_mlp
from metajax.types import Episode, Examples, MetaLearner, UserError

WORLD = Interests(num_interests=2, dim=2, num_support=10, num_query=4)
KEY = jax.random.key(0)
TASKS = jax.device_get(jax.jit(jax.vmap(WORLD.sample))(jax.random.split(jax.random.key(1), 8)))
LEARNERS: dict[str, MetaLearner] = {
    "ridge": compiled(ridge(identity(), vector_linear(), 4, precision=0.5)),
    "maml": compiled(gradient(vector_mlp((8,)), optax.sgd(0.1), 3)),
    "implicit": implicit(vector_linear(), optax.sgd(0.4), 60, num_solver_steps=8),
    "process": compiled(neural_process(labeled_features((8,)), conditioned_mlp((8,)), 8)),
}


def task(i: int = 0) -> Episode:
    return jax.tree.map(lambda x: x[i], TASKS)


def both(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Leave-one-out and influence (T, N, Q) of an untrained learner, whose support has padding."""
    learner = LEARNERS[name]
    params = learner.init(KEY, task())
    mask = TASKS.support.mask * (np.arange(10) < 8)
    tasks = TASKS._replace(support=TASKS.support._replace(mask=mask))

    def one(episode: Episode):
        score = support.adapted(learner, params, episode, KEY)
        return support.leave_one_out(score, episode), support.influence(score, episode)

    return jax.device_get(jax.jit(jax.vmap(one))(tasks))


def test_halfway_influence_is_leaving_out_where_the_score_is_quadratic():
    rng = np.random.default_rng(0)
    a, b = jax.device_put((rng.normal(size=(4, 4)), rng.normal(size=4)))
    score = lambda w, y: (w @ a @ w + b @ w)[None]
    rows = Examples(np.zeros((4, 1)), np.zeros(4), np.array([1.0, 1.0, 1.0, 0.0]))
    episode = Episode((), rows, rows)
    ways = (support.leave_one_out, support.halfway_influence, support.influence)
    found = jax.jit(lambda e: [way(score, e) for way in ways])(episode)
    truth, halfway, first = jax.device_get(found)
    np.testing.assert_allclose(halfway, truth, atol=1e-5)
    assert float(np.abs(first - truth).max()) > 0.1


@pytest.mark.slow
def test_halfway_influence_is_nearer_to_leaving_out_of_a_learner_with_inner_steps():
    learner, episode = LEARNERS["maml"], task()
    params = learner.init(KEY, episode)
    score = support.adapted(learner, params, episode, KEY)
    ways = (support.leave_one_out, support.halfway_influence, support.influence)
    truth, *told = jax.jit(lambda e: [way(score, e) for way in ways])(episode)
    halfway, first = (float(jnp.abs(found - truth).max()) for found in told)
    assert halfway < 0.5 * first


@pytest.mark.parametrize("name", ["maml", "implicit", "process"])
def test_influence_ranks_a_support_as_leaving_one_out_does(name):
    truth, told = both(name)
    mask = (np.arange(10) < 8).astype(float)
    agree = jax.jit(jax.vmap(judged.rank_agreement, (0, 0, None)))(
        truth[..., 0], told[..., 0], mask
    )
    assert np.nanmean(agree) > 0.9
    assert not truth[:, -2:].any() and not told[:, -2:].any()  # padding did nothing


def test_influence_is_the_derivative_by_the_weight():
    """Against a difference quotient, of the learner whose inner steps are unrolled."""
    learner, episode = LEARNERS["maml"], task()
    params = learner.init(KEY, episode)
    score = support.adapted(learner, params, episode, KEY)
    _, label, mask = episode.support
    step = 1e-2 * (np.arange(10) == 3)
    quotient = lambda: (score(mask + step, label) - score(mask - step, label)) / 2e-2
    told, expected = jax.jit(lambda: (support.influence(score, episode)[3], quotient()))()
    np.testing.assert_allclose(told, expected, atol=2e-3)


def test_ridge_leaves_one_out_in_closed_form():
    """Exactly, so that the ranks are the same; and the first order alone ranks almost so."""
    learner = LEARNERS["ridge"]
    params = learner.init(KEY, task())

    def one(episode: Episode):
        score = support.adapted(learner, params, episode, KEY)
        exact = support.closed_form_leave_one_out(learner, params, episode, KEY)
        return support.leave_one_out(score, episode), exact, support.influence(score, episode)

    truth, exact, first = jax.device_get(jax.jit(jax.vmap(one))(TASKS))
    np.testing.assert_allclose(exact, truth, atol=1e-5)
    assert float(np.abs(first - truth).max()) > 0.01  # what the leverage puts right
    mask = np.ones(10)
    agree = jax.jit(jax.vmap(judged.rank_agreement, (0, 0, None)))
    np.testing.assert_allclose(agree(truth[..., 0], exact[..., 0], mask), 1.0, atol=1e-6)


def test_one_rating_by_pencil():
    """One feature x = 1, precision 1, label 2: the score is 2 / (1 + 1) = 1, and 0 without it."""
    one = Examples(np.ones((1, 1)), np.array([2.0]), np.ones(1))
    episode = Episode((), one, one)
    learner = compiled(ridge(identity(), vector_linear(), 1))
    params = learner.init(KEY, episode)
    score = support.adapted(learner, params, episode, KEY)
    ways = (support.leave_one_out, support.influence)
    without, slope = jax.jit(lambda e: [way(score, e)[0, 0] for way in ways])(episode)
    assert float(without) == pytest.approx(1.0)
    assert float(slope) == pytest.approx(0.5)  # 2 w / (1 + w)


@pytest.mark.parametrize(("name", "points"), [("ridge", 1), ("maml", 32), ("process", 32)])
def test_surprises_add_up_to_the_score_less_the_expected(name, points):
    learner, episode = LEARNERS[name], task(1)
    params = learner.init(KEY, episode)
    score = support.adapted(learner, params, episode, KEY)
    expected = jax.jit(lambda e: support.expected_labels(learner, params, e))(episode)
    mask, label = episode.support.mask, episode.support.label

    @jax.jit
    def told(episode: Episode):
        parts = support.surprise(score, episode, expected, points)
        return parts, score(mask, label) - score(mask, expected)

    parts, whole = jax.device_get(told(episode))
    np.testing.assert_allclose(parts.sum(0), whole, atol=1e-3)
    if name == "ridge":  # a person who says what is expected stays as they were
        cold = learner.predict(params, learner.start(params, ()), episode.query.inputs)
        np.testing.assert_allclose(score(mask, expected), cold, atol=1e-5)


def test_planted_causes_are_found_and_random_ones_are_not():
    learner = LEARNERS["ridge"]
    params = learner.init(KEY, task())
    tell = lambda e: support.leave_one_out(support.adapted(learner, params, e, KEY), e)[:, 0]
    told = jax.jit(jax.vmap(tell))(TASKS)
    cause = np.asarray(jax.jit(jax.vmap(WORLD.causes))(TASKS))[..., 0]
    recall = jax.jit(jax.vmap(judged.cause_recall))(told, cause, TASKS.support.mask)
    blind = np.random.default_rng(0).normal(size=told.shape)
    chance = jax.jit(jax.vmap(judged.cause_recall))(blind, cause, TASKS.support.mask)
    assert np.nanmean(recall) == 1.0 and np.nanmean(chance) < 0.8


def test_other_parameters_give_other_attributions():
    """The sanity check of Adebayo et al., NeurIPS 2018: random models have other reasons."""
    learner = LEARNERS["process"]

    def told(seed: int):
        params = learner.init(jax.random.key(seed), task())
        tell = lambda e: support.influence(support.adapted(learner, params, e, KEY), e)[:, 0]
        return jax.jit(jax.vmap(tell))(TASKS)

    agree = jax.jit(jax.vmap(judged.rank_agreement))(told(0), told(1), TASKS.support.mask)
    assert np.nanmean(np.abs(agree)) < 0.9


def test_a_counterfactual_is_checked_and_smallest():
    learner = LEARNERS["ridge"]
    params = learner.init(KEY, task())
    found = 0
    for i in range(4):
        episode = task(i)
        score = jax.jit(support.adapted(learner, params, episode, KEY))
        told = support.counterfactual(score, episode)
        if told is None:
            continue
        mask, label = episode.support.mask, episode.support.label
        without = np.where(np.isin(np.arange(10), told.rows), 0.0, mask)
        assert np.argmax(score(mask, label)) == told.before
        assert np.argmax(score(without, label)) == told.after != told.before
        greedy = support.counterfactual(score, episode, exhaustive=0)
        assert greedy is not None and len(greedy.rows) >= len(told.rows)
        found += 1
    assert found
    with pytest.raises(UserError, match="two items"):
        alone = task()._replace(query=jax.tree.map(lambda x: x[:1], task().query))
        support.counterfactual(support.adapted(learner, params, alone, KEY), alone)


def test_deleting_what_raised_a_score_lowers_it_more_than_chance():
    learner = LEARNERS["ridge"]
    params = learner.init(KEY, task())

    def one(episode: Episode, key: jax.Array):
        score = support.adapted(learner, params, episode, KEY)
        told = support.leave_one_out(score, episode)[:, 0]
        ours = judged.curves(score, episode, told, 0)
        chance = judged.curves(score, episode, jax.random.normal(key, told.shape), 0)
        return ours, chance, score(episode.support.mask, episode.support.label)[0]

    found = jax.jit(jax.vmap(one))(TASKS, jax.random.split(KEY, 8))
    ours, chance, whole = jax.device_get(found)
    np.testing.assert_allclose(ours.deletion[:, 0], whole, atol=1e-5)
    np.testing.assert_allclose(ours.deletion[:, -1], ours.insertion[:, 0], atol=1e-5)
    np.testing.assert_allclose(ours.insertion[:, -1], whole, atol=1e-5)
    assert ours.fall.mean() > chance.fall.mean() + 0.05
    assert ours.rise.mean() > chance.rise.mean() + 0.05


def test_rank_agreement_is_spearmans():
    stats = pytest.importorskip("scipy.stats")
    a, b = np.array([1.0, 2.0, 2.0, 5.0, 9.0, 7.0]), np.array([3.0, 1.0, 2.0, 4.0, 4.0, 0.0])
    mask = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    known = stats.spearmanr(a[:5], b[:5]).statistic
    agree = jax.jit(judged.rank_agreement)
    assert float(agree(a, b, mask)) == pytest.approx(known)
    assert np.isnan(agree(a, np.ones(6), mask))


def test_a_sentence_for_a_person():
    assert because(["A", "B"], [5, 1], [0.2, 0.3]) == "because you rated B 1 and A 5"
    told = because(["A", "B"], [5, 1], [-0.2, 0.3], against=1)
    assert told == "because you rated B 1, although you rated A 5"
    assert because(["A", "B"], [5, 1], [-0.2, 0.3]) == "because you rated B 1"
    assert because(["A"], [5], [0.0]) == "because of nothing that you said"
