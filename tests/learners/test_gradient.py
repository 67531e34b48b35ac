"""Meta-gradients against pencil and paper, and against finite differences, in double precision.

The scalar task is ``L_S = p/2 (theta - c)^2`` on the support and ``L_Q = q/2 (theta - e)^2`` on the
query. One inner step of rate a gives ``phi = theta - a p (theta - c)``, and the meta-gradient is
``q (phi - e) (1 - a p)``; k steps give the factor ``(1 - a p)^k``; first order drops the factor.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax import optim, tree
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree

P, Q, C, E, THETA = 1.7, 0.6, -0.4, 2.3, 0.9
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def scalar_model() -> Model:
    """The score of every row is theta itself."""
    return Model(
        init=lambda key, profile, inputs: {"theta": jnp.asarray(THETA)},
        apply=lambda params, profile, inputs: params["theta"] + 0.0 * inputs,
    )


def curved(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """``curvature / 2 (score - target)^2`` of the one row, whose mask carries the curvature."""
    return jnp.sum(0.5 * mask * (score - label) ** 2)


def scalar_episode() -> Episode:
    row = lambda curvature, target: Examples(np.zeros(1), np.array([target]), np.array([curvature]))
    return Episode((), row(P, C), row(Q, E))


def scalar_gradient(inner, num_steps: int, *, second_order: bool = True) -> PyTree:
    learner = gradient(scalar_model(), inner, num_steps, second_order=second_order, loss=curved)
    episode = scalar_episode()
    both = jax.jit(jax.grad(learner.loss, has_aux=True))
    return jax.device_get(both(learner.init(KEY, episode), episode, KEY)[0])


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 5, 8])
def test_the_scalar_quadratic_has_its_exact_meta_gradient(rate, num_steps):
    factor = (1 - rate * P) ** num_steps
    phi = C + factor * (THETA - C)
    actual = scalar_gradient(optax.sgd(rate), num_steps)["model"]["theta"]
    np.testing.assert_allclose(actual, Q * (phi - E) * factor, rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_first_order_is_second_order_without_the_factor(num_steps):
    rate = 0.3
    first = scalar_gradient(optax.sgd(rate), num_steps, second_order=False)["model"]["theta"]
    second = scalar_gradient(optax.sgd(rate), num_steps)["model"]["theta"]
    np.testing.assert_allclose(second, first * (1 - rate * P) ** num_steps, rtol=1e-12)
    assert abs(second - first) > 0.1


def test_learned_rates_have_their_exact_gradient():
    """With rate a = exp(r): dL/dr = q (phi - e) * (-p (theta - c)) * a."""
    rate = 0.3
    phi = THETA - rate * P * (THETA - C)
    expected = -Q * (phi - E) * P * (THETA - C) * rate
    per_parameter = scalar_gradient(optim.learned_rates(rate), 1)["rates"]["theta"]
    np.testing.assert_allclose(per_parameter, expected, rtol=1e-10)
    # Two steps: the second rate sees the gradient at the point that the first step reached.
    per_step = scalar_gradient(optim.learned_step_rates(rate, 2), 2)["rates"]["theta"]
    phi_2 = C + (1 - rate * P) ** 2 * (THETA - C)
    last = -Q * (phi_2 - E) * P * (phi - C) * rate
    first = -Q * (phi_2 - E) * (1 - rate * P) * P * (THETA - C) * rate
    np.testing.assert_allclose(per_step, [first, last], rtol=1e-10)


@pytest.mark.parametrize(("eps_root", "is_finite"), [(0.0, False), (1e-8, True)])
def test_inner_adam_needs_an_error_below_the_root(eps_root, is_finite):
    """A feature absent from the support has inner gradient 0, where Adam's root has no slope."""
    model = Model(
        init=lambda key, profile, inputs: {"present": jnp.ones(()), "absent": jnp.ones(())},
        apply=lambda params, profile, inputs: params["present"] + params["absent"] * inputs,
    )
    learner = gradient(model, optax.adam(0.1, eps_root=eps_root), 2, loss=curved)
    episode = scalar_episode()
    grads, _ = jax.jit(jax.grad(learner.loss, has_aux=True))(
        learner.init(KEY, episode), episode, KEY
    )
    assert bool(jnp.isfinite(tree.squared_norm(grads))) == is_finite


def mlp_episode() -> Episode:
    """Six support rows, one of them padding, and five query rows of a smooth task."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(11, 2))
    examples = Examples(x, np.sin(x[:, 0]) + x[:, 1], (np.arange(11) != 5).astype(float))
    cut = lambda a, b: jax.tree.map(lambda leaf: leaf[a:b], examples)
    return Episode((), cut(0, 6), cut(6, 11))


def in_double(params: PyTree) -> PyTree:
    """The parameters in double precision: Flax makes them single in any case."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def slopes(learner: MetaLearner) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (5,) of the outer loss along random directions: by its gradient, by differences."""
    episode = mlp_episode()
    params = in_double(jax.jit(learner.init)(jax.random.key(2), episode))
    both = jax.jit(
        jax.value_and_grad(lambda params: learner.loss(params, episode, KEY)[0]),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    grads = jax.device_get(both(params)[1])
    step, by_gradient, by_differences = 1e-6, [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        way = jax.tree.map(lambda x: rng.normal(size=x.shape), params)  # noqa: B023
        at = lambda s: both(jax.tree.map(lambda x, d: x + s * d, params, way))[0]  # noqa: B023
        by_differences.append(float(at(step) - at(-step)) / (2 * step))
        products = jax.tree.map(lambda g, d: np.sum(g * d), grads, way)
        by_gradient.append(sum(jax.tree.leaves(products)))
    return np.array(by_gradient), np.array(by_differences)


MLP = compiled(vector_mlp((5, 4)))
HEAD = tree.under("head")


@pytest.mark.parametrize(
    "learner",
    [
        gradient(MLP, optax.sgd(0.1), 1),
        gradient(MLP, optax.sgd(0.1), 3),
        gradient(MLP, optax.sgd(0.05), 7),
        gradient(MLP, optax.sgd(0.1), 2, adapts=HEAD),
        gradient(MLP, optax.sgd(0.1), 2, adapts=tree.negate(HEAD)),
        gradient(MLP, optim.learned_rates(0.1), 2),
        gradient(MLP, optim.learned_step_rates(0.1, 2), 3),
        gradient(MLP, optax.adam(0.05, eps_root=1e-8), 3),
        gradient(MLP, optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1)), 2),
    ],
    ids=["one", "three", "scanned", "anil", "boil", "rates", "step_rates", "adam", "clipped"],
)
def test_meta_gradients_match_finite_differences(learner):
    by_gradient, by_differences = slopes(learner)
    np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-6, atol=1e-7)


def _detached() -> MetaLearner:
    """MAML whose adapted parameters are cut off the graph, as if they had been copied."""
    learner = gradient(MLP, optax.sgd(0.1), 2, adapts=HEAD)

    def adapt(params, state, examples, key):
        after = learner.adapt(params, state, examples, key)
        return after._replace(fast=jax.lax.stop_gradient(after.fast))

    def loss(params, episode, key):
        state = adapt(params, learner.start(params, episode.profile), episode.support, key)
        scores = learner.predict(params, state, episode.query.inputs)
        return jnp.mean((scores - episode.query.label) ** 2), {}

    return learner._replace(adapt=adapt, loss=loss)


@pytest.mark.parametrize(
    "learner",
    [_detached(), gradient(MLP, optax.sgd(0.1), 2, second_order=False)],
    ids=["copied", "inner_gradient_detached"],
)
def test_a_detached_inner_gradient_fails_the_finite_differences(learner):
    assert not np.allclose(*slopes(learner), rtol=1e-6, atol=1e-7)


def test_only_what_adapts_is_in_the_fast_state_and_moves():
    learner = compiled(gradient(MLP, optax.sgd(0.1), 2, adapts=HEAD))
    episode = mlp_episode()
    params = learner.init(KEY, episode)
    state = learner.start(params, ())
    after = learner.adapt(params, state, episode.support, KEY)
    assert {tree.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.fast)} == {
        "head/bias",
        "head/kernel",
    }
    assert not np.allclose(after.fast["head"]["kernel"], state.fast["head"]["kernel"])


def test_adapting_goes_on_from_where_the_state_stands():
    """Two calls of two steps are one call of four, the optimizer's moments included."""
    episode = mlp_episode()
    twice = gradient(MLP, optax.adam(0.05, eps_root=1e-8), 2)
    once = gradient(MLP, optax.adam(0.05, eps_root=1e-8), 4)
    params = in_double(twice.init(KEY, episode))
    state = twice.start(params, ())
    adapt = jax.jit(twice.adapt)
    for _ in range(2):
        state = adapt(params, state, episode.support, KEY)
    expected = jax.jit(once.adapt)(params, once.start(params, ()), episode.support, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), state, expected)


def test_a_warm_up_beyond_the_learned_steps_keeps_the_last_rate():
    rates = optim.learned_step_rates(0.3, 2)
    learner = compiled(gradient(scalar_model(), rates, 3, loss=curved))
    episode = scalar_episode()
    params = learner.init(KEY, episode)
    params["rates"]["theta"] = np.log([0.3, 0.1])
    state = learner.adapt(params, learner.start(params, ()), episode.support, KEY)
    phi = C + (1 - 0.3 * P) * (1 - 0.1 * P) ** 2 * (THETA - C)
    np.testing.assert_allclose(state.fast["theta"], phi, rtol=1e-12)
