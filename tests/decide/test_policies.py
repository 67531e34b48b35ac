"""Policies and beliefs against closed forms, other packages and pencil arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from metajax.data.worlds import latent
from metajax.decide import beliefs as believing
from metajax.decide import choices, policies, priors, replay
from metajax.decide.click_users import ClickUsers
from metajax.decide.environment import Decision, Observation, play
from metajax.learners.closed_form import ridge
from metajax.models.towers import identity, vector_linear
from metajax.types import Episode, Examples, UserError


def seen_of(x_AxD):
    return Observation((), np.asarray(x_AxD), np.ones(len(x_AxD)))


def told(x_D, reward):
    return Decision(seen_of(x_D[None]), np.array(0), np.array(1.0), reward)


def test_a_term_of_rank_one_is_the_direct_inverse():
    """Sherman-Morrison's formula, in its square-root form, after forty rewards in float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(40, 5)), rng.normal(size=40)
        start, root = rng.normal(size=5), np.tril(rng.normal(size=(5, 5))) + 2 * np.eye(5)
        linear = believing.gaussian(lambda s: s.inputs, jnp.asarray(start), jnp.asarray(root))
        state, update = linear.init(jax.random.key(0), seen_of(x[:1])), jax.jit(linear.update)
        for row, label in zip(x, y, strict=True):
            state = update(state, told(row, label), jax.random.key(0))
        mean, root_after = map(np.asarray, state)
        normal = np.linalg.inv(root @ root.T) + x.T @ x
        right = np.linalg.inv(root @ root.T) @ start + x.T @ y
        np.testing.assert_allclose(mean, np.linalg.solve(normal, right), atol=1e-8)
        np.testing.assert_allclose(root_after @ root_after.T, np.linalg.inv(normal), atol=1e-8)


def test_the_posterior_is_the_one_that_the_ridge_learner_predicts_with():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=6)
    learner = compiled(ridge(identity(), vector_linear(), 3))
    examples = Examples(x, y, np.ones(6))
    params = learner.init(jax.random.key(0), Episode((), examples, examples))
    params |= {
        "mean": np.array([0.5, -1.0, 2.0]),
        "log_precision": np.array([0.3, -0.7, 1.1]),
        "offset": {"head": {"kernel": np.array([1.0, 0.0, -0.5])}},
    }
    state = learner.adapt(params, learner.start(params, ()), examples, jax.random.key(0))
    new = rng.normal(size=(4, 3))
    linear = believing.of_ridge(identity(), vector_linear(), params)
    other = believing.of_learner(learner, params)
    expected = learner.predict(params, state, new)
    for beliefs in (linear, other):
        own, update = beliefs.init(jax.random.key(0), seen_of(new)), jax.jit(beliefs.update)
        for row, label in zip(x, y, strict=True):
            own = update(own, told(row, label), jax.random.key(0))
        found = jax.jit(beliefs.believe)(own, seen_of(new))
        np.testing.assert_allclose(found.mean, expected, atol=1e-5)


def test_the_scores_of_linucb_are_those_of_mabwiser():
    mabwiser = pytest.importorskip("mabwiser.mab")
    rng = np.random.default_rng(2)
    contexts, arms = rng.normal(size=(30, 3)), rng.integers(4, size=30)
    rewards = rng.integers(2, size=30)
    theirs = mabwiser.MAB([0, 1, 2, 3], mabwiser.LearningPolicy.LinUCB(alpha=0.7, l2_lambda=2.0))
    theirs.fit(arms, rewards, contexts)
    # an arm's own weights are a block of the shared ones
    features = lambda seen: jax.vmap(jnp.kron, (0, None))(jnp.eye(4), seen.profile)
    with jax.enable_x64(True):
        linear = believing.flat(features, 12, 2.0)
        see = lambda context: Observation(jnp.asarray(context), jnp.zeros(4), jnp.ones(4))
        state = linear.init(jax.random.key(0), see(contexts[0]))
        for context, arm, reward in zip(contexts, arms, rewards, strict=True):
            one = Decision(see(context), jnp.asarray(arm), jnp.ones(()), jnp.asarray(1.0 * reward))
            state = linear.update(state, one, jax.random.key(0))
        new = rng.normal(size=3)
        mean, root = linear.believe(state, see(new))
        own = np.asarray(mean + 0.7 * jnp.linalg.norm(root, axis=1))
    expected = theirs.predict_expectations(new[None])
    np.testing.assert_allclose(own, [expected[arm] for arm in range(4)], atol=1e-8)


def test_thompsons_chances_between_two_arms_are_the_normal_distribution_function():
    root = jnp.array([[0.6, 0.0], [0.0, 0.8]])  # the difference has standard deviation 1
    fixed = believing.Beliefs(
        lambda k, s: (), lambda s, o: believing.Belief(jnp.array([0.5, 0.0]), root), None
    )
    chances = jax.jit(policies.thompson(fixed, 1.0, 20_000).chances)
    chance = np.asarray(chances((), seen_of(np.eye(2)), jax.random.key(0)))
    assert abs(chance[0] - 0.6914625) < 0.012


def test_chances_by_pencil():
    scores = believing.fixed(lambda seen: jnp.array([1.0, 3.0, 3.0, 9.0]))
    seen = Observation((), np.zeros(4), np.array([1.0, 1.0, 1.0, 0.0]))
    chance = jax.jit(policies.epsilon_greedy(scores, 0.3).chances)((), seen, jax.random.key(0))
    np.testing.assert_allclose(chance, [0.1, 0.45, 0.45, 0.0], atol=1e-6)
    np.testing.assert_allclose(jax.jit(policies.any_of)(np.zeros(4)), 0.25)


def test_beliefs_without_a_posterior_are_one_line():
    scores = believing.fixed(lambda seen: jnp.zeros(2))
    for policy in (policies.ucb(scores, 1.0), policies.thompson(scores, 1.0)):
        with pytest.raises(UserError, match="no posterior: use greedy"):
            policy.chances((), seen_of(np.eye(2)), jax.random.key(0))
    with pytest.raises(UserError, match="0 draws"):
        policies.thompson(scores, 1.0, 0)


def test_the_learned_prior_is_that_of_the_world():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3000, 12, 2))
    root = np.array([[1.0, 0.0], [0.8, 0.6]])
    w = np.array([1.0, -2.0]) + rng.normal(size=(3000, 2)) @ root.T
    y = np.einsum("und,ud->un", x, w) + 0.5 * rng.normal(size=(3000, 12))
    prior = jax.jit(priors.learned_prior)(x, y, np.ones_like(y))
    prior = jax.device_get(prior)
    np.testing.assert_allclose(prior.mean, [1.0, -2.0], atol=0.06)
    np.testing.assert_allclose(prior.covariance, root @ root.T, atol=0.1)
    np.testing.assert_allclose(prior.noise, 0.25, atol=0.01)
    np.testing.assert_allclose(prior.root @ prior.root.T, prior.covariance / prior.noise, atol=1e-2)
    with pytest.raises(UserError, match="lay rows alike"):
        priors.learned_prior(x, y[:, :3], np.ones((3000, 12)))


PERSON = replay.Person(jnp.array([3.0, -1.0, 8.0, 0.0]), jnp.array([1.0, 1.0, 1.0, 0.0]))


def test_replay_gives_a_persons_ratings_each_item_once():
    world = replay.replay({"item": jnp.arange(4)}, 10)
    best = policies.greedy(believing.fixed(lambda seen: PERSON.rating + 100 * (seen.mask < 1)))
    played = jax.jit(play, static_argnums=(0, 1, 4))
    log = jax.device_get(played(world, best, PERSON, jax.random.key(0), 4))
    assert log.action[:3].tolist() == [2, 0, 1]
    assert log.reward.tolist() == [8.0, 3.0, -1.0, 0.0]
    assert log.mask.tolist() == [1.0, 1.0, 1.0, 0.0]
    always = replay.replay({"item": jnp.arange(4)}, 10, again=True)
    best = policies.greedy(believing.fixed(lambda seen: PERSON.rating))
    assert played(always, best, PERSON, jax.random.key(0), 4).reward.tolist() == [8.0] * 4


def test_a_person_chooses_the_best_of_a_slate_on_the_menu():
    world = replay.slates({"item": jnp.arange(4)}, 2, 3, 5)
    step = jax.jit(world.step)
    seen, state = jax.jit(world.reset)(jax.random.key(0), PERSON)
    assert seen.mask.tolist() == [1, 1, 1, 0] and seen.profile["chosen"] == -1
    seen, state, reward, done, info = step(jax.random.key(1), state, np.array([1, 0]), PERSON)
    assert (reward, seen.profile["chosen"], info["best"], done) == (3.0, 0, 8.0, False)
    nothing = step(jax.random.key(1), state, np.array([3, 3]), PERSON)
    assert nothing[2] == 0.0 and nothing[0].profile["chosen"] == -1
    with pytest.raises(UserError, match="slate of 5"):
        replay.slates({"item": jnp.arange(4)}, 5, 4, 5)


def test_a_ranking_is_ratings_from_1_for_the_best_to_0(tmp_path):
    np.savez(tmp_path / "sushi10.npz", order=np.tile(np.array([[2, 0, 1]], np.uint8), (4, 1)))
    found = replay.sushi(tmp_path)
    np.testing.assert_allclose(found.rating, np.tile([0.5, 0.0, 1.0], (4, 1)))
    assert found.known.shape == (4, 3) and (found.known == 1).all()
    with pytest.raises(UserError, match=r"sushi10.npz is missing"):
        replay.sushi(tmp_path / "..")


def test_a_log_is_laid_out_by_person_and_item_unless_it_is_too_large(monkeypatch):
    table = latent.rating_log(num_users=5, num_items=60)
    found = replay.people(table)
    user, item, label = table.user[7], table.item[7], table.label[7]
    assert found.rating[user, item] == label and found.known.sum() == len(table.user)
    monkeypatch.setattr(replay, "MOST_CELLS", 299)
    with pytest.raises(UserError, match="5 people x 60 items are too many"):
        replay.people(table)


def test_learning_beats_chance_on_clicks():
    world = ClickUsers(horizon=30)
    users = jax.jit(jax.vmap(world.sample))(jax.random.split(jax.random.key(0), 200))
    features = lambda seen: jnp.concatenate([jnp.ones((20, 1)), seen.inputs["vector"]], axis=1)
    linear = policies.linear_thompson(features, 9, 0.5)

    def regret(policy):
        run = lambda w, k: play(world.environment(), policy, w, k, 30)
        log = jax.jit(jax.vmap(run))(users, jax.random.split(jax.random.key(1), 200))
        return np.mean(np.asarray(log.info["best"]) - np.asarray(log.info["expected"]))

    assert regret(linear) < 0.7 * regret(policies.at_random())


def test_a_choice_moves_a_belief_as_the_integral_says():
    mean, root = np.array([0.2, 0.7, 0.0]), np.array([[1.0, 0, 0], [0.5, 0.8, 0], [0, 0, 0.3]])
    x, (first, second, _) = np.array([1.0, -1.0, 0.0]), np.eye(3)
    preferred = jax.jit(choices.preferred)
    after = jax.device_get(preferred(believing.Weights(mean, root), first, second, 0.4))
    rng = np.random.default_rng(0)
    w = mean + rng.normal(size=(400_000, 3)) @ root.T
    kept = w[w @ x + 0.4 * rng.normal(size=len(w)) > 0]
    np.testing.assert_allclose(after.mean, kept.mean(axis=0), atol=6e-3)
    np.testing.assert_allclose(after.root @ after.root.T, np.cov(kept.T), atol=8e-3)


def test_a_slate_is_the_best_of_the_menu_and_choices_are_learned_once():
    believed = believing.gaussian(lambda seen: jnp.eye(4), jnp.zeros(4), jnp.eye(4))
    learn = choices.learned_choice(lambda seen: jnp.eye(4), 0.1)
    policy = choices.slate(believed, 2, learn=learn)
    seen = Observation(
        {"slate": np.array([3, 1]), "chosen": np.array(3)}, {}, np.array([1.0, 1, 0, 1])
    )
    state = policy.init(jax.random.key(0), seen)
    slate, chance = jax.jit(policy.act)(state, seen, jax.random.key(0))
    assert (slate.tolist(), float(chance)) == ([3, 0], 1.0)
    told = Decision(seen, slate, chance, np.array(1.0))
    state = jax.device_get(jax.jit(policy.update)(state, told, jax.random.key(0)))
    assert state.mean[3] == -state.mean[1] > 0.3 and state.mean[0] == 0
    first = seen._replace(profile={"slate": np.array([-1, -1]), "chosen": np.array(-1)})
    np.testing.assert_array_equal(jax.jit(learn)(state, first).mean, state.mean)
    with pytest.raises(UserError, match="slate of 0"):
        choices.slate(believed, 0)
