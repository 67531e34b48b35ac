"""Off-policy estimates: obp's numbers, exact expectations, intervals, and logs that are refused."""

import csv
import json
import pathlib
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.decide import confidence, logged, off_policy, reward_model
from metajax.decide.logged import Logged
from metajax.decide.logged_world import LoggedWorld
from metajax.types import UserError

HERE = pathlib.Path(__file__).resolve().parent
WORLD = LoggedWorld(num_contexts=6, num_actions=4, dim=3)


def by_obp(log: Logged, target: np.ndarray, model: np.ndarray) -> dict[str, float]:
    """What obp 0.4.1 makes of a log."""
    with warnings.catch_warnings():  # of what it imports
        warnings.simplefilter("ignore")
        ope = pytest.importorskip("obp.ope", reason="the oracle is obp: pip install metajax[peers]")
    rounds = dict(reward=log.reward, action=log.action, pscore=log.propensity)
    rounds |= dict(action_dist=target[:, :, None], position=np.zeros(len(target), int))
    told = {"estimated_rewards_by_reg_model": model[:, :, None]}
    return {
        "ips": ope.InverseProbabilityWeighting().estimate_policy_value(**rounds),
        "self-normalized": ope.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(
            **rounds
        ),
        "direct": ope.DirectMethod().estimate_policy_value(**rounds, **told),
        "doubly robust": ope.DoublyRobust().estimate_policy_value(**rounds, **told),
        "switch": ope.SwitchDoublyRobust(tau=1.5).estimate_policy_value(**rounds, **told),
    }


@jax.jit
def ours(log: Logged, target: jax.Array, model: jax.Array) -> dict[str, jax.Array]:
    terms = {
        "ips": off_policy.ips(log, target),
        "self-normalized": off_policy.self_normalized(log, target),
        "direct": off_policy.direct(target, model),
        "doubly robust": off_policy.doubly_robust(log, target, model),
        "switch": off_policy.switch(log, target, model, 1.5),
    }
    return {name: off_policy.value(each) for name, each in terms.items()}


def obp_log() -> tuple[Logged, np.ndarray, np.ndarray, dict[str, float]]:
    """40 rounds of obp's generator, a target, a reward model, and what obp made of them.

    ``SyntheticBanditDataset(n_actions=4, dim_context=3, reward_type="binary", reward_function=
    logistic_reward_function, behavior_policy_function=linear_behavior_policy, random_state=12345)``
    of obp 0.4.1 in an environment of its own, which needs PyTorch; probabilities rounded to six
    digits before obp's estimators saw them; the target is the softmax of four times the expected
    rewards, the model these with noise of .1.
    """
    told = json.loads((HERE / "obp_log.json").read_text())
    action, propensity, reward = (np.asarray(told[x]) for x in ("action", "propensity", "reward"))
    log = Logged(np.zeros((len(action), 1)), action, propensity, reward.astype(float))
    return log, np.asarray(told["target"]), np.asarray(told["model"]), told["found"]


def test_the_estimators_are_those_of_obp_on_its_generator():
    log, target, model, found = obp_log()
    got = ours(log, target, model)
    assert got.keys() == found.keys()
    for name, want in found.items():
        assert abs(got[name] - want) < 1e-6, name


def test_the_stored_numbers_are_what_an_installed_obp_gives():
    log, target, model, found = obp_log()
    for name, want in by_obp(log, target, model).items():
        assert abs(found[name] - want) < 1e-12, name


@jax.jit
def biases() -> dict[tuple[str, bool, bool], jax.Array]:
    """(estimator, propensities right, model right) -> the exact bias of one round's term.

    Each context comes with each action once, with its expected reward, which a term is linear in.
    """
    x, a = (jnp.ravel(each) for each in jnp.indices(WORLD.chance.shape))
    likely = WORLD.logging[x, a] / WORLD.num_contexts
    target, found = WORLD.target[x], {}
    mean = lambda terms: (likely * terms.part).sum() - WORLD.value(WORLD.target)
    for known in (True, False):
        uniform = jnp.full_like(WORLD.logging, 1.0 / WORLD.num_actions)
        log = Logged((), a, (WORLD.logging if known else uniform)[x, a], WORLD.chance[x, a])
        for right in (True, False):
            model = (WORLD.chance if right else 1.0 - WORLD.chance)[x]
            found["ips", known, right] = mean(off_policy.ips(log, target))
            found["direct", known, right] = mean(off_policy.direct(target, model))
            both = off_policy.doubly_robust(log, target, model)
            found["doubly robust", known, right] = mean(both)
    return found


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("right", [True, False])
def test_doubly_robust_is_unbiased_when_either_part_is_right(known, right):
    found = biases()
    assert (abs(found["ips", known, right]) < 1e-6) == known
    assert (abs(found["direct", known, right]) < 1e-6) == right
    assert (abs(found["doubly robust", known, right]) < 1e-6) == (known or right)


def test_doubly_robust_with_both_parts_wrong_is_far_off():
    assert abs(biases()["doubly robust", False, False]) > 0.02


def test_clipping_lowers_and_a_threshold_leaves_the_rest_to_the_model():
    log = Logged(np.zeros((2, 1)), np.array([0, 1]), np.array([0.1, 0.8]), np.array([1.0, 1.0]))
    target, model = np.full((2, 2), 0.5), np.array([[0.2, 0.6], [0.2, 0.6]])

    @jax.jit
    def told(log, target, model):
        clipped = off_policy.ips(log, target, clip=2.0)
        robust = off_policy.doubly_robust(log, target, model, clip=2.0)
        switched = off_policy.switch(log, target, model, 1.0)
        return off_policy.weights(log, target), clipped.part, robust.part, switched.part

    weights, clipped, robust, switched = told(log, target, model)
    np.testing.assert_allclose(weights, [5.0, 0.625])
    np.testing.assert_allclose(clipped, [2.0, 0.625])
    np.testing.assert_allclose(robust, [0.4 + 2.0 * 0.8, 0.4 + 0.625 * 0.4], rtol=1e-6)
    np.testing.assert_allclose(switched, [0.4, 0.4 + 0.625 * 0.4], rtol=1e-6)


def test_the_effective_sample_size_is_kishs():
    size = jax.jit(off_policy.effective_sample_size)
    assert float(size(np.full(7, 3.0))) == 7.0
    np.testing.assert_allclose(size(np.array([1.0, 3.0])), 16 / 10)
    assert float(size(np.zeros(4))) == 0.0


def test_what_the_log_never_shows_is_counted_within_its_group():
    log = Logged(np.zeros((3, 1)), np.array([0, 1, 1]), np.full(3, 0.5), np.ones(3))
    target = np.array([[0.5, 0.2, 0.3]] * 3)
    unsupported = jax.jit(off_policy.unsupported, static_argnums=3)
    np.testing.assert_allclose(unsupported(log, target), 0.3, rtol=1e-6)
    group = np.array([0, 0, 1])  # round 3 stands alone: of its group action 1 alone is shown
    want = (0.3 + 0.3 + 0.8) / 3
    np.testing.assert_allclose(unsupported(log, target, group, 2), want, rtol=1e-6)


def test_bernsteins_interval_is_that_of_maurer_and_pontil():
    reward = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    log = Logged(np.zeros((5, 1)), np.zeros(5, int), np.ones(5), reward)
    interval = jax.jit(lambda log: confidence.empirical_bernstein(off_policy.on_policy(log)))
    low, high = interval(log)
    told = np.log(80.0)
    want = np.sqrt(2 * 0.3 * told / 5) + 7 * told / 12
    np.testing.assert_allclose([low, high], [0.6 - want, 0.6 + want], rtol=1e-5)


def test_the_bootstrap_is_the_normal_interval_of_many_rounds_and_alike_alone_or_together():
    reward = (np.arange(2_000) % 10 < 3).astype(np.float32)
    terms = off_policy.Terms(reward, np.ones(2_000, np.float32), np.ones((), np.float32))
    resampled = jax.jit(partial(confidence.bootstrap, draws=500))
    low, high = resampled(terms, jax.random.key(1))
    error = 1.96 * float(reward.std()) / 2_000**0.5
    np.testing.assert_allclose(
        [low, high], [reward.mean() - error, reward.mean() + error], atol=4e-3
    )
    both = jax.tree.map(lambda *x: np.stack(x), terms, terms._replace(part=2.0 * terms.part))
    together = resampled(both, jax.random.key(1))
    np.testing.assert_allclose(together.low, [low, 2 * low], rtol=1e-5)


@pytest.mark.slow
def test_the_studentized_interval_holds_the_mean_of_skewed_terms_more_often():
    """Lognormal terms, forty of them: both are too narrow, and the percentile one more so."""
    part = np.exp(np.random.default_rng(0).normal(size=(300, 40))).astype(np.float32)
    terms = off_policy.Terms(part, np.ones_like(part), np.ones(300, np.float32))
    for_all = partial(confidence.bootstrap, terms, jax.random.key(0), 500)
    holds = lambda ends: float(((ends.low <= np.exp(0.5)) & (ends.high >= np.exp(0.5))).mean())
    percentile, studentized = holds(for_all(studentized=False)), holds(for_all())
    assert percentile + 0.02 < studentized <= 0.97


def test_the_reward_model_solves_the_normal_equations_and_leaves_its_own_fold_out():
    log, _ = jax.device_get(jax.jit(WORLD.sample, static_argnums=1)(jax.random.key(0), 60))
    found = np.asarray(reward_model.ridge(log, np.ones(60), log.context, 4, 2.0))
    for a in range(4):
        mine = log.action == a
        x = np.c_[np.ones(mine.sum()), log.context[mine]]
        y = log.reward[mine] - log.reward.mean()
        w = np.linalg.solve(x.T @ x + 2.0 * np.eye(4), x.T @ y)
        want = log.reward.mean() + np.c_[np.ones(60), log.context] @ w
        np.testing.assert_allclose(found[:, a], want, atol=1e-5)
    own = log._replace(reward=np.concatenate([1.0 - log.reward[:1], log.reward[1:]]))
    before, after = (np.asarray(reward_model.cross_fitted(each, 4)) for each in (log, own))
    moved = (before != after).any(axis=1)
    assert not moved[::2].any() and moved[1::2].any()  # its fold does not see it, the other does


GOOD = Logged(np.zeros((3, 1)), np.array([0, 1, 1]), np.array([0.5, 0.5, 1.0]), np.ones(3))
BAD = {
    "round 2 of the log has a propensity of 0 or less": {"propensity": [0.5, 0.0, 1.0]},
    "round 1 of the log has a propensity above 1 .*as 1 others do": {"propensity": [2, 0.5, 3]},
    "round 3 of the log has no propensity": {"propensity": [0.5, 0.5, np.nan]},
    "round 2 of the log has an action outside of the 2": {"action": [0, 2, 1]},
    "round 1 of the log has no reward": {"reward": [np.nan, 1, 1]},
    "for each round, and": {"reward": [1.0, 1.0]},
}


@pytest.mark.parametrize("said", BAD)
def test_a_log_that_cannot_be_used_gets_one_line(said):
    assert logged.check(GOOD, 2) is GOOD
    with pytest.raises(UserError, match=said) as error:
        logged.check(GOOD._replace(**{k: np.asarray(v) for k, v in BAD[said].items()}), 2)
    assert "\n" not in str(error.value)


def test_a_target_must_be_a_distribution():
    with pytest.raises(UserError, match=r"round 2 .* do not sum to 1"):
        logged.check(GOOD, 2, np.array([[1.0, 0.0], [0.4, 0.4], [1.0, 0.0]]))
    with pytest.raises(UserError, match=r"a column for each of the 2 actions"):
        logged.check(GOOD, 2, np.ones((3, 3)) / 3)


HEAD = ["action", "propensity", "reward", "target:a", "target:b", "age", "place"]
ROWS = [["a", ".5", "1", ".9", ".1", "30", "x"], ["b", ".5", "0", ".2", ".8", "40", "y"]]


def write(path: pathlib.Path, head: list[str], rows: list[list[str]]) -> pathlib.Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def test_a_file_of_your_own_is_read(tmp_path):
    found = logged.read(write(tmp_path / "log.csv", HEAD, ROWS))
    assert found.actions == ("a", "b") and found.context == ("age", "place=x", "place=y")
    np.testing.assert_array_equal(found.logged.context, [[30, 1, 0], [40, 0, 1]])
    np.testing.assert_array_equal(found.logged.action, [0, 1])
    np.testing.assert_allclose(found.target, [[0.9, 0.1], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ([*HEAD[:1], "p", *HEAD[2:]], ROWS[0], "no column propensity; no value can be estimated"),
        ([*HEAD[:3], "a", "b", *HEAD[5:]], ROWS[0], "no columns target:NAME"),
        (HEAD, ["c", *ROWS[0][1:]], "line 3: the action 'c' is not among"),
        (HEAD, ["a", "high", *ROWS[0][2:]], "line 3: propensity is 'high'; write a number"),
        (HEAD, ["a", "", *ROWS[0][2:]], "round 2 of the log has no propensity"),
        (HEAD, ROWS[0][:5], "line 3: 5 cells under 7 names"),
    ],
)
def test_a_file_that_cannot_be_used_gets_one_line(head, row, said, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        logged.read(write(tmp_path / "log.csv", head, [ROWS[0], row]))
    assert "\n" not in str(error.value)


def test_no_file_gets_one_line(tmp_path):
    with pytest.raises(UserError, match="give the CSV file of a log of decisions"):
        logged.read(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match=r"obd\.npz is missing"):
        logged.open_bandit(tmp_path, "random", "men")


def test_open_bandit_has_the_counts_of_its_manifest(data_dir):
    clicks = {"all": (38, 42), "men": (46, 69), "women": (46, 46)}
    for campaign, items in zip(logged.CAMPAIGNS, (80, 34, 46), strict=True):
        for policy, count in zip(logged.POLICIES, clicks[campaign], strict=True):
            found = logged.open_bandit(data_dir, policy, campaign)
            assert found.num_actions == items and found.logged.context.shape == (10_000, 30)
            assert int(found.logged.reward.sum()) == count
    with pytest.raises(UserError, match="give one of"):
        logged.open_bandit(data_dir, "random", "children")


def test_the_worlds_policies_are_distributions_and_its_log_follows_them():
    logging, target = jax.device_get(jax.jit(lambda: (WORLD.logging, WORLD.target))())
    value = jax.jit(WORLD.value)
    np.testing.assert_allclose(logging.sum(axis=1), 1.0, rtol=1e-5)
    assert float(logging.min()) >= 0.01
    assert float(value(target)) > float(value(logging))
    log, index = jax.jit(partial(WORLD.sample, rounds=20_000))(jax.random.key(0))
    log, index = jax.device_get((log, index))
    shown = np.zeros(logging.shape)
    np.add.at(shown, (index, log.action), 1.0 / 20_000)
    np.testing.assert_allclose(shown, logging / WORLD.num_contexts, atol=6e-3)
    told = jax.jit(lambda log, shown: off_policy.value(off_policy.ips(log, shown)))
    assert abs(float(told(log, target[index])) - float(value(target))) < 0.03
