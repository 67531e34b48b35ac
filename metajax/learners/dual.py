"""MAML of a perceptron without the weight gradient of its first layer, which is most of the work.

After inner steps of rate a, the first kernel is ``W - X' C`` with the support's inputs X (K, D) and
a times the sum C (K, F) of the gradients to its outputs. So the outputs on the support are
``X W - (X X') C``: a step costs K K F operations and not K D F, and the kernel is made once, at the
end. Exact for gradient descent, and faster where inputs are wide and supports short.
"""

import jax
import jax.numpy as jnp
import optax

from metajax import losses
from metajax.curvature import inner_gradient
from metajax.learners.gradient import State, gradient
from metajax.types import Examples, MetaLearner, Model, PyTree


def dual(
    model: Model,
    rate: float,
    num_steps: int,
    *,
    second_order: bool = True,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """The learner ``gradient(model, optax.sgd(rate), num_steps)``, with the same parameters.

    Args:
      model: a perceptron with ReLU on vectors (N, D), whose parameters are those of
        `towers.vector_mlp`.
    """
    plain = gradient(model, optax.sgd(rate), num_steps, second_order=second_order, loss=loss)

    def adapt(state: State, examples: Examples, key: jax.Array) -> State:
        del key
        x_KxD, fast = examples.inputs, state.fast
        name = min(fast["body"])
        kernel = fast["body"][name]["kernel"]
        others = _with_first(fast, name, None)
        gram_KxK = x_KxD @ x_KxD.T
        given = (x_KxD @ kernel, examples.label, examples.mask)

        def value(moving: PyTree, given: tuple) -> jax.Array:
            outputs_KxF, label, mask = given
            return loss(_scores(moving["others"], outputs_KxF + moving["shift"]), label, mask)

        def step(carry: tuple, _):
            sum_KxF, others = carry
            still = (given[0] - gram_KxK @ sum_KxF, *given[1:])
            moving = {"shift": jnp.zeros_like(sum_KxF), "others": others}
            if second_order:
                grads = inner_gradient(value, moving, still)
            else:
                grads = jax.lax.stop_gradient(jax.grad(value)(moving, still))
            others = jax.tree.map(lambda p, g: p - rate * g, others, grads["others"])
            return (sum_KxF + rate * grads["shift"], others), None

        carry = (jnp.zeros_like(given[0]), others)
        short = num_steps <= 5
        (sum_KxF, others), _ = jax.lax.scan(
            step if short else jax.checkpoint(step),
            carry,
            length=num_steps,
            unroll=max(num_steps, 1) if short else 1,
        )
        return state._replace(fast=_with_first(others, name, kernel - x_KxD.T @ sum_KxF))

    def outer_loss(params: PyTree, episode, key: jax.Array):
        state = adapt(plain.start(params, episode.profile), episode.support, key)
        scores = plain.predict(state, episode.query.inputs)
        value = loss(scores, episode.query.label, episode.query.mask)
        return value, {"query_loss": value}

    return plain._replace(adapt=adapt, loss=outer_loss)


def _with_first(fast: PyTree, name: int | str, kernel: jax.Array | None) -> PyTree:
    """The parameters with another first kernel."""
    first = {**fast["body"][name], "kernel": kernel}
    return {**fast, "body": {**fast["body"], name: first}}


def _scores(params: PyTree, outputs_NxF: jax.Array) -> jax.Array:
    """The scores (N,) from what the first kernel gives; that kernel itself is ``None``."""
    names = sorted(params["body"])
    x = jax.nn.relu(outputs_NxF + params["body"][names[0]]["bias"].reshape(1, -1))
    for name in names[1:]:
        layer = params["body"][name]
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"].reshape(1, -1))
    head = params["head"]
    return (x @ head["kernel"] + head["bias"].reshape(1, -1))[:, 0]
