"""L2F, DropGrad and losses along the way, against MAML and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax import optim
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_linear, vector_mlp
from metajax.transforms.attenuate import attenuate, kept_shares
from metajax.transforms.committee import committee
from metajax.transforms.dropgrad import Noise, dropgrad, gaussian_noise
from metajax.transforms.multistep import multistep
from metajax.types import Episode, Examples, Model, UserError

WORLD = LatentUsers(dim=3, num_support=5, num_query=4)
KEY = jax.random.key(3)
sample = jax.jit(WORLD.sample)


def constant() -> Model:
    """The score theta, whatever the input."""
    return Model(
        init=lambda key, profile, inputs: {"theta": jnp.asarray(1.0)},
        apply=lambda params, profile, inputs: params["theta"] * jnp.ones(inputs.shape[0]),
    )


def one_row(label: float, target: float) -> Episode:
    """A support row labeled ``label`` and a query row labeled ``target``."""
    ones = np.ones(1)
    return Episode((), Examples(ones, label * ones, ones), Examples(ones, target * ones, ones))


def test_losses_along_the_way_by_hand():
    """phi_1 = 1 + 2 a (3 - 1) = 1.4, phi_2 = 1.4 + 2 a 1.6 = 1.72; (phi_j - 2)^2 weighted."""
    learner = compiled(multistep(gradient(constant(), optax.sgd(0.1), 1), (0.25, 0.75)))
    params = {"model": {"theta": np.array(1.0)}, "rates": ()}
    value, info = learner.loss(params, one_row(3.0, 2.0), KEY)
    assert float(value) == pytest.approx(0.25 * 0.6**2 + 0.75 * 0.28**2, rel=1e-5)
    assert float(info["query_loss"]) == pytest.approx(0.28**2, rel=1e-5)


def test_all_weight_on_the_last_step_is_maml():
    episode = sample(KEY)
    inner = optim.learned_step_rates(0.3, 3)
    maml = gradient(vector_linear(), inner, 3)
    along = multistep(gradient(vector_linear(), inner, 1), (0.0, 0.0, 1.0))
    params = jax.jit(maml.init)(KEY, episode)
    params["rates"]["head"]["kernel"] = np.log([0.1, 0.3, 0.5])
    slope = lambda learner: jax.jit(jax.grad(learner.loss, has_aux=True))(params, episode, KEY)[0]
    found, plain = slope(along)["rates"]["head"], slope(maml)["rates"]["head"]
    np.testing.assert_allclose(found["kernel"], plain["kernel"], rtol=1e-4)


def test_noise_has_mean_one_and_the_variance_of_dropout():
    tx = gaussian_noise(0.2)
    update, grads = jax.jit(tx.update), {"w": np.full(200_000, 2.0, np.float32)}
    noisy, _ = update(grads, Noise(np.uint32(7), np.int32(0), np.float32(1)))
    factor = np.asarray(noisy["w"]) / 2.0
    assert factor.mean() == pytest.approx(1.0, abs=4 * 0.5 / 200_000**0.5)
    assert factor.var() == pytest.approx(0.2 / 0.8, rel=0.02)
    quiet, state = update(grads, tx.init(grads))
    np.testing.assert_array_equal(quiet["w"], grads["w"])
    again, _ = update(grads, state._replace(on=np.float32(1)))
    assert np.max(np.abs(np.asarray(again["w"]) - np.asarray(noisy["w"]))) > 0.1, (
        "every step has its own noise"
    )


def test_dropgrad_trains_with_noise_and_serves_without():
    episode = sample(KEY)
    maml = compiled(gradient(vector_linear(), optax.sgd(0.3), 2))
    inner = lambda share: optax.chain(gaussian_noise(share), optax.sgd(0.3))
    noised = lambda share: compiled(dropgrad(gradient(vector_linear(), inner(share), 2)))
    quiet, noisy = noised(0.0), noised(0.3)
    params = maml.init(KEY, episode)
    value, _ = maml.loss(params, episode, KEY)
    assert float(quiet.loss(params, episode, KEY)[0]) == pytest.approx(float(value), rel=1e-5)
    assert abs(float(noisy.loss(params, episode, KEY)[0] - value)) > 1e-4
    served = noisy.adapt(params, noisy.start(params, ()), episode.support, KEY)
    plain = maml.adapt(params, maml.start(params, ()), episode.support, KEY)
    np.testing.assert_array_equal(served.fast["head"]["kernel"], plain.fast["head"]["kernel"])


def test_dropgrad_without_noise_in_the_optimizer_is_refused():
    episode = sample(KEY)
    learner = dropgrad(gradient(vector_linear(), optax.sgd(0.3), 2))
    with pytest.raises(UserError, match="gaussian_noise"):
        learner.init(KEY, episode)


def test_l2f_is_maml_when_everything_is_kept():
    episode = sample(KEY)
    maml = gradient(vector_mlp((6,)), optax.sgd(0.1), 2)
    learner = attenuate(maml, kept=1.0 - 1e-7)
    params = jax.jit(learner.init)(KEY, episode)
    params["attenuator"][-1]["kernel"] *= 0.0
    value, _ = jax.jit(maml.loss)(params["learner"], episode, KEY)
    found, _ = jax.jit(learner.loss)(params, episode, KEY)
    assert float(found) == pytest.approx(float(value), rel=1e-4)


def test_l2f_by_hand_and_once_in_a_task():
    """gamma = 1/2 on theta = 1: from .5, a step of 2 a (3 - .5) = .5 to 1; then 2 a 2 = .4."""
    learner = compiled(attenuate(gradient(constant(), optax.sgd(0.1), 1)))
    episode = one_row(3.0, 2.0)
    params = learner.init(KEY, episode)
    params["attenuator"][-1] = {"kernel": np.zeros((1, 1)), "bias": np.zeros(1)}
    empty = episode.support._replace(mask=np.zeros(1))
    state = learner.adapt(params, learner.start(params, ()), empty, KEY)
    assert float(state.inner.fast["theta"]) == 1.0
    state = learner.adapt(params, state, episode.support, KEY)
    assert float(state.inner.fast["theta"]) == pytest.approx(1.0, rel=1e-5)
    state = learner.adapt(params, state, episode.support, KEY)
    assert float(state.inner.fast["theta"]) == pytest.approx(1.4, rel=1e-5)


def test_shares_are_read_off_the_mean_gradient_of_each_leaf():
    """One layer's worth of identity maps: gamma = sigmoid(mean gradient)."""
    eye = {"kernel": np.eye(2), "bias": np.zeros(2)}
    grads = {"a": np.array([1.0, 3.0]), "b": np.array([[0.5]])}
    gamma = jax.jit(kept_shares)([eye, eye, eye], grads)
    assert float(gamma["a"]) == pytest.approx(1 / (1 + np.exp(-2.0)), rel=1e-6)
    assert float(gamma["b"]) == pytest.approx(1 / (1 + np.exp(-0.5)), rel=1e-6)


def test_a_committee_averages_members_that_learn_alone():
    """Three members of one step each: scores and outer gradients one by one, as if alone."""
    learner = gradient(vector_mlp((4,)), optax.sgd(0.3), 1)
    many, episode = committee(learner, 3), sample(KEY)
    params = jax.device_get(jax.jit(many.init)(KEY, episode))
    member = lambda i: jax.tree.map(lambda x: x[i], params)
    kernels = np.asarray(params["model"]["head"]["kernel"])
    assert not np.allclose(kernels[0], kernels[1]) and not np.allclose(kernels[1], kernels[2])
    answered = lambda one: jax.jit(
        lambda p: one.predict(
            p, one.adapt(p, one.start(p, ()), episode.support, KEY), episode.query.inputs
        )
    )
    scores = answered(many)(params)
    one_by_one = list(map(answered(learner), map(member, range(3))))
    np.testing.assert_allclose(scores, np.mean(one_by_one, axis=0), rtol=1e-5)
    assert np.ptp(one_by_one, axis=0).max() > 0.1, "members that agree need no committee"
    slope = lambda one: jax.jit(jax.grad(lambda p: one.loss(p, episode, KEY)[0]))
    own, found = list(map(slope(learner), map(member, range(3)))), slope(many)(params)
    expected = jax.tree.map(lambda *g: np.stack(g) / 3, *own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
