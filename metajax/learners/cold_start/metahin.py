"""MetaHIN: adaptation along meta-paths, which link a user's items to other items.

Along path p the support's items lead to neighbors of mean m_p, and the user is
``x_p = leaky_relu(W m_p + b)``. First (W, b) takes a gradient step on the support loss under the
decision weights omega; then ``omega_p = omega * sigmoid(K x_p + k)`` takes one. The user and the
weights that predict are ``sum_p a_p x_p`` and ``sum_p a_p omega_p``, where a is the softmax of the
negative support losses after both steps, 1/P for a user without examples.

Deviates from the published code, where a depends on the *query* loss, also at test time, and
neighbors of query items enter x_p. Here neither labels nor items of the query reach the state.

References: Lu, Fang, Shi, "Meta-learning on heterogeneous information networks for cold-start
recommendation", KDD 2020, equations 4 to 12.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses, tree
from metajax.learners.gradient.curvature import inner_gradient
from metajax.learners.parts import (
    constant_gradient,
    gated_weights,
    linear,
    linear_layer,
    query_loss,
    real_sum,
)
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

Step = Callable[[Callable[[PyTree, PyTree], jax.Array], PyTree, PyTree], PyTree]
"""(value, fast, given) -> fast, moved against the gradient of ``value(fast, given)``."""


class Networks(NamedTuple):
    """The models ``embed``, ``reach`` and ``decide``, as `metahin` takes them."""

    embed: Model
    reach: Model
    decide: Model


class State(NamedTuple):
    """What a task has of its own along each of P paths.

    Attributes:
      total: (P, D + 1) sum of the vectors of the neighbors of the task's items, and their number.
      aggregate: the aggregator adapted along each path, leaves (P, ...).
      moved: the sum of the gradient steps on the decision weights, leaves (P, ...).
      loss: (P,) support loss after adapting, times the number of examples.
      weight: () number of examples.
      profile: the task's profile.
    """

    total: jax.Array
    aggregate: PyTree
    moved: PyTree
    loss: jax.Array
    weight: jax.Array
    profile: PyTree


def metahin(
    embed: Model,
    reach: Model,
    decide: Model,
    *,
    num_paths: int,
    num_code: int = 32,
    path_rate: float = 0.005,
    task_rate: float = 0.005,
    clip: float = 10.0,
    second_order: bool = True,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """MetaHIN: per path a step on the aggregator and one on gated decision weights; then their sum.

    Args:
      embed: a model whose ``apply`` gives features (N, E).
      reach: a model whose ``apply`` gives, per item and path, the sum of its neighbors' vectors and
        their number (N, P, D + 1), see `data.features.links.path_sums`.
      decide: a model of features (N, E), called with the profile ``(profile, x)``, for instance
        `models.features.conditioned_mlp`.
      num_paths: P.
      num_code: H, length of x_p.
      path_rate, task_rate: of the two gradient steps.
      clip: bound on each entry of their gradients.
      second_order: whether the outer gradient sees the derivative of the inner gradients.
      loss: (scores, label, mask) -> scalar.
    """
    nets = Networks(embed, reach, decide)
    slope = inner_gradient if second_order else constant_gradient

    def step_of(rate: float) -> Step:
        down = lambda w, g: w - rate * jnp.clip(g, -clip, clip)
        return lambda value, fast, given: jax.tree.map(down, fast, slope(value, fast, given))

    def start(params: Params, profile: PyTree) -> State:
        spread = lambda x: jnp.broadcast_to(x, (num_paths, *x.shape))
        moved = jax.tree.map(lambda x: jnp.zeros((num_paths, *x.shape)), params["decide"])
        dim = params["aggregate"]["kernel"].shape[0]
        total, none = jnp.zeros((num_paths, dim + 1)), jnp.zeros(num_paths)
        aggregate = jax.tree.map(spread, params["aggregate"])
        return State(total, aggregate, moved, none, jnp.zeros(()), profile)

    def predict(params: Params, state: State, inputs: PyTree) -> jax.Array:
        user, decision = fused(params, state)
        x_NxE = embed.apply(params["embed"], state.profile, inputs)
        return decide.apply(decision, (state.profile, user), x_NxE)

    init = _initializer(nets, num_code)
    adapt = _adaptation(nets, loss, step_of(path_rate), step_of(task_rate))
    outer_loss = query_loss(start, adapt, predict, loss)
    return MetaLearner(init, start, adapt, predict, outer_loss, 2 * num_paths)


def _initializer(nets: Networks, num_code: int) -> Callable[[jax.Array, Episode], Params]:
    """`MetaLearner.init` of MetaHIN."""

    def init(key: jax.Array, episode: Episode) -> Params:
        key_embed, key_reach, key_decide, key_a, key_g = jax.random.split(key, 5)
        profile, inputs = episode.profile, episode.support.inputs
        embedding = nets.embed.init(key_embed, profile, inputs)
        way = nets.reach.init(key_reach, profile, inputs)
        x_NxE = nets.embed.apply(embedding, profile, inputs)
        decision = nets.decide.init(key_decide, (profile, jnp.zeros(num_code)), x_NxE)
        dim = nets.reach.apply(way, profile, inputs).shape[2] - 1
        return {
            "embed": embedding,
            "reach": way,
            "decide": decision,
            "aggregate": linear_layer(key_a, dim, num_code),
            "gate": linear_layer(key_g, num_code, tree.size(decision)),
        }

    return init


def _adaptation(
    nets: Networks, loss: losses.Loss, path_step: Step, task_step: Step
) -> Callable[[Params, State, Examples, jax.Array], State]:
    """`MetaLearner.adapt` of MetaHIN, given the steps on aggregator and decision weights."""

    def fit(decision: PyTree, user: jax.Array, rows: tuple) -> jax.Array:
        profile, x_NxE, label, mask = rows
        return loss(nets.decide.apply(decision, (profile, user), x_NxE), label, mask)

    def adapt(params: Params, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        inputs, label, mask = examples
        total, _ = real_sum(nets.reach.apply(params["reach"], state.profile, inputs), mask)
        state = state._replace(total=state.total + total)
        x_NxE = nets.embed.apply(params["embed"], state.profile, inputs)
        rows = (state.profile, x_NxE, label, mask)

        def along(aggregate: PyTree, moved: PyTree, mean: jax.Array):
            of_path = lambda a, given: fit(given[0], code(a, given[1]), given[2])
            aggregate = path_step(of_path, aggregate, (params["decide"], mean, rows))
            user = code(aggregate, mean)
            before = gated_weights(params["decide"], params["gate"], user)
            decision = jax.tree.map(jnp.add, before, moved)
            after = task_step(lambda w, given: fit(w, *given), decision, (user, rows))
            return aggregate, jax.tree.map(jnp.subtract, after, before), fit(after, user, rows)

        aggregate, moved, value = jax.vmap(along)(state.aggregate, state.moved, means(state))
        number = jnp.sum(mask > 0)
        return state._replace(
            aggregate=aggregate,
            moved=moved,
            loss=state.loss + value * number,
            weight=state.weight + number,
        )

    return adapt


def means(state: State) -> jax.Array:
    """The mean vector (P, D) of the neighbors along each path, 0 without any."""
    return state.total[:, :-1] / jnp.maximum(state.total[:, -1:], 1.0)


def code(aggregate: PyTree, mean: jax.Array) -> jax.Array:
    """The user's vector x_p (H,) along a path, from the mean (D,) of its neighbors."""
    return jax.nn.leaky_relu(linear(aggregate, mean))


def fused(params: Params, state: State) -> tuple[jax.Array, PyTree]:
    """The user's vector (H,) and the decision weights, each summed over paths with weights a."""
    attention = jax.nn.softmax(-state.loss / jnp.maximum(state.weight, 1.0))
    x_PxH = jax.vmap(code)(state.aggregate, means(state))
    of_path = lambda x: gated_weights(params["decide"], params["gate"], x)
    weights = jax.tree.map(jnp.add, jax.vmap(of_path)(x_PxH), state.moved)
    return attention @ x_PxH, jax.tree.map(lambda w: jnp.tensordot(attention, w, 1), weights)
