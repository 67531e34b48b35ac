"""Meta-regularization: its price by an independent library, its draws by their moments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax import tree
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.transforms.regularize import gaussian_divergence, noisy
from metajax.types import Episode, Examples

BODY = tree.under("model/body")


def episode() -> Episode:
    x = np.random.default_rng(0).normal(size=(6, 2))
    examples = Examples(x, x[:, 0], np.ones(6))
    return Episode((), examples, examples)


def learner(strength: float, scale: float = 0.1):
    base = gradient(vector_mlp((5,)), optax.sgd(0.1), 1, adapts=tree.under("head"))
    return compiled(base), compiled(noisy(base, strength, BODY, initial_scale=scale))


def test_divergence_equals_torch():
    torch = pytest.importorskip("torch", reason="the oracle is torch.distributions")
    rng = np.random.default_rng(0)
    mean, log_scale = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    normal = torch.distributions.Normal
    p = normal(torch.tensor(mean), torch.tensor(np.exp(log_scale)))
    expected = torch.distributions.kl_divergence(p, normal(0.0, 1.0)).sum().item()
    ours = gaussian_divergence({"a": jnp.asarray(mean)}, {"a": jnp.asarray(log_scale)})
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_without_price_and_noise_it_is_the_learner():
    base, wrapped = learner(0.0, scale=1e-12)
    params = wrapped.init(jax.random.key(1), episode())
    key = jax.random.key(2)
    plain = base.loss(params["mean"], episode(), key)[0]
    assert float(wrapped.loss(params, episode(), key)[0]) == pytest.approx(float(plain), rel=1e-5)


def test_only_the_filtered_parameters_are_noisy():
    _, wrapped = learner(0.5)
    params = wrapped.init(jax.random.key(1), episode())
    paths = [tree.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params["log_scale"])]
    assert paths and all(BODY(path) for path in paths)
    values = [wrapped.loss(params, episode(), jax.random.key(i))[0] for i in range(3)]
    assert len({float(v) for v in values}) == 3


def test_the_price_enters_the_loss_with_its_strength():
    _, cheap = learner(0.0)
    _, dear = learner(0.25)
    params = cheap.init(jax.random.key(1), episode())
    key = jax.random.key(3)
    gap = dear.loss(params, episode(), key)[0] - cheap.loss(params, episode(), key)[0]
    body = params["mean"]["model"]["body"]
    by_hand = sum(
        np.sum(0.5 * (0.1**2 + np.asarray(m) ** 2 - 1 - 2 * np.log(0.1)))
        for m in jax.tree.leaves(body)
    )
    assert float(gap) == pytest.approx(0.25 * float(by_hand), rel=1e-4)


def test_draws_have_the_mean_and_scale_of_the_parameters():
    """A linear loss of one parameter reads the draw off: over many keys, N(mean, scale^2)."""
    base, _ = learner(0.0)
    reading = base._replace(
        init=lambda key, e: {"w": jnp.asarray(0.7)},
        loss=lambda params, e, key: (params["w"], {}),
    )
    wrapped = noisy(reading, 0.0, tree.everything, initial_scale=0.2)
    params = wrapped.init(jax.random.key(0), episode())
    keys = jax.random.split(jax.random.key(1), 20_000)
    drawn = jax.jit(jax.vmap(lambda k: wrapped.loss(params, episode(), k)[0]))(keys)
    error = 0.2 / np.sqrt(20_000)
    assert abs(float(drawn.mean()) - 0.7) < 4 * error
    assert abs(float(drawn.std()) - 0.2) < 4 * error
