"""The implicit learner: its gradient is that of the minimum, not of the way there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import losses, tree
from metajax.learners.gradient.implicit import implicit
from metajax.learners.gradient.maml import gradient
from metajax.types import Episode, Examples, Model

P, Q, C, E, LAM = 1.7, 0.9, 0.6, -0.4, 2.0


def scalar() -> Model:
    """The parameter itself, as the score of every row."""
    return Model(
        init=lambda key, profile, inputs: {"theta": jnp.zeros(())},
        apply=lambda params, profile, inputs: params["theta"] * jnp.ones_like(inputs),
    )


def half_weighted_square(score, label, mask):
    """``0.5 w (score - c)^2`` of the first row, where the label holds w and c."""
    weight, center = label[0], label[1]
    return 0.5 * weight * (score[0] - center) ** 2


def quadratic_episode() -> Episode:
    make = lambda w, c: Examples(jnp.ones(2), jnp.array([w, c]), jnp.ones(2))
    return Episode((), make(P, C), make(Q, E))


def test_scalar_quadratic_in_float64():
    """phi = (p c + lam theta) / (p + lam), so d L_Q / d theta = q (phi - e) lam / (p + lam)."""
    with jax.enable_x64(True):
        learner = implicit(scalar(), optax.sgd(0.3), 200, strength=LAM, loss=half_weighted_square)
        theta = 0.8
        params = {"model": {"theta": jnp.asarray(theta)}}
        grads, _ = jax.jit(jax.grad(learner.loss, has_aux=True))(
            params, quadratic_episode(), jax.random.key(0)
        )
        phi = (P * C + LAM * theta) / (P + LAM)
        expected = Q * (phi - E) * LAM / (P + LAM)
        assert float(grads["model"]["theta"]) == pytest.approx(expected, rel=1e-10)


def vector_quadratic(key, dim=6, rows=9):
    """Linear regression: support and query losses are quadratics of the weights."""
    key_s, key_q, key_y = jax.random.split(key, 3)
    make = lambda k, key_label: Examples(
        jax.random.normal(k, (rows, dim)), jax.random.normal(key_label, (rows,)), jnp.ones(rows)
    )
    return Episode((), make(key_s, key_y), make(key_q, key_s))


def linear(dim=6) -> Model:
    return Model(
        init=lambda key, profile, inputs: {"head": jax.random.normal(key, (dim,))},
        apply=lambda params, profile, inputs: inputs @ params["head"],
    )


def test_equals_an_unrolled_descent_to_the_minimum():
    """500 proximal steps, unrolled, give the same meta-gradient; so do the normal equations.

    A step of rate .05 brings the minimum of a curvature of at least 2 nearer by a factor of .9.
    """
    with jax.enable_x64(True):
        episode = vector_quadratic(jax.random.key(1))
        learner = implicit(linear(), optax.sgd(0.05), 500, strength=LAM, num_solver_steps=6)
        params = learner.init(jax.random.key(2), episode)
        key = jax.random.key(0)
        grads, _ = jax.jit(jax.grad(learner.loss, has_aux=True))(params, episode, key)

        anchor = params["model"]["head"]

        def unrolled(theta):
            support = episode.support

            def step(phi, _):
                value = lambda w: (
                    losses.squared_error(support.inputs @ w, support.label, support.mask)
                    + 0.5 * LAM * jnp.sum((w - theta) ** 2)
                )
                return phi - 0.05 * jax.grad(value)(phi), None

            phi, _ = jax.lax.scan(step, theta, length=500)
            return jnp.mean((episode.query.inputs @ phi - episode.query.label) ** 2)

        np.testing.assert_allclose(
            grads["model"]["head"], jax.jit(jax.grad(unrolled))(anchor), rtol=1e-8, atol=1e-10
        )

        x, y = np.asarray(episode.support.inputs), np.asarray(episode.support.label)
        hessian = 2 * x.T @ x / len(y)
        phi = np.linalg.solve(
            hessian + LAM * np.eye(6), 2 * x.T @ y / len(y) + LAM * np.asarray(anchor)
        )
        xq, yq = np.asarray(episode.query.inputs), np.asarray(episode.query.label)
        outer = 2 * xq.T @ (xq @ phi - yq) / len(yq)
        by_hand = LAM * np.linalg.solve(hessian + LAM * np.eye(6), outer)
        np.testing.assert_allclose(grads["model"]["head"], by_hand, rtol=1e-8, atol=1e-10)


def test_shared_parameters_get_their_gradient_by_finite_differences():
    """A shared scale inside the network, a head that adapts: both meta-gradients are right."""
    model = Model(
        init=lambda key, profile, inputs: {
            "body": 0.5 + jax.random.normal(key, (6,)) ** 2,
            "head": jax.random.normal(key, (6,)),
        },
        apply=lambda params, profile, inputs: (
            jnp.tanh(inputs * params["body"][None, :]) @ params["head"]
        ),
    )
    with jax.enable_x64(True):
        episode = vector_quadratic(jax.random.key(3))
        learner = implicit(
            model,
            optax.sgd(0.1),
            2000,
            strength=1.0,
            num_solver_steps=6,
            adapts=tree.under("head"),
        )
        params = learner.init(jax.random.key(4), episode)
        value = lambda p: learner.loss(p, episode, jax.random.key(0))[0]
        grads = jax.jit(jax.grad(value))(params)
        way = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)), params)
        moved = lambda t: value(jax.tree.map(lambda x, d: x + t * d, params, way))
        numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5
        exact = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), grads, way)))
        assert float(exact) == pytest.approx(float(numeric), rel=1e-6)
        head_only = float(jnp.sum(grads["model"]["head"] * way["model"]["head"]))
        assert abs(head_only - float(numeric)) > 1e-3 * abs(float(numeric))


def test_gradient_does_not_depend_on_the_inner_optimizer():
    """Momentum reaches the same minimum another way; MAML's gradient would differ."""
    with jax.enable_x64(True):
        episode = vector_quadratic(jax.random.key(5))
        grads = []
        for inner in (optax.sgd(0.05), optax.sgd(0.02, momentum=0.9)):
            learner = implicit(linear(), inner, 2000, strength=LAM, num_solver_steps=6)
            params = learner.init(jax.random.key(2), episode)
            grads.append(
                jax.jit(jax.grad(learner.loss, has_aux=True))(params, episode, jax.random.key(0))
            )
        first, second = (g[0]["model"]["head"] for g in grads)
        np.testing.assert_allclose(first, second, rtol=1e-9)
        short = gradient(linear(), optax.sgd(0.05), 3)
        maml, _ = jax.jit(jax.grad(short.loss, has_aux=True))(
            {**params, "rates": ()}, episode, jax.random.key(0)
        )
        assert np.max(np.abs(maml["model"]["head"] - first)) > 1e-2
