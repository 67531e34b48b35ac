"""Adaptation along meta-paths: what a user's items are linked to, path by path (MetaHIN)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metajax import losses, tree
from metajax.curvature import inner_gradient
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class State(NamedTuple):
    """What a task remembers of each of P paths.

    Attributes:
      shared: the meta-parameters, the same for all tasks.
      total: (P, D + 1) sum of the neighbors that the task's items lead to, and their number.
      aggregate: the aggregator adapted along each path, leaves (P, ...).
      moved: what the gradient steps have added to the decision weights, leaves (P, ...).
      loss: (P,) support loss after adapting, times the number of examples.
      weight: () number of examples.
      profile: the task's profile.
    """

    shared: PyTree
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
    offset: Model,
    *,
    num_paths: int,
    num_code: int = 32,
    path_rate: float = 0.005,
    task_rate: float = 0.005,
    clip: float = 10.0,
    second_order: bool = True,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """MetaHIN: per path, a step on the aggregator, then one on gated decision weights; then fused.

    Along path p the support's items lead to neighbors of mean m_p, and the user is
    ``x_p = leaky_relu(W m_p + b)``. First (W, b) takes a gradient step on the support loss under
    the decision weights omega; then ``omega_p = omega * sigmoid(K x_p + k)`` takes one. The user
    and the weights that predict are ``sum_p a_p x_p`` and ``sum_p a_p omega_p``, where a is the
    softmax of the negative support losses after both steps, 1/P for a user without examples.

    Published faults left out: a was made of the *query* loss, at test time too; neighbors of query
    items entered the user. Here neither labels nor items of the query reach the state.

    Args:
      embed: a model whose ``apply`` gives features (N, E).
      reach: a model whose ``apply`` gives, per item and path, the sum of its neighbors' vectors and
        their number (N, P, D + 1), see `data.links.reached`.
      decide: a model of features (N, E), called with the profile ``(profile, x)``, for instance
        `models.features.conditioned_mlp`.
      offset: a model of scores (N,) that does not adapt.
      num_paths: P.
      num_code: length of x.
      path_rate, task_rate: of the two gradient steps.
      clip: bound on each entry of their gradients.
      second_order: whether the outer gradient sees the derivative of the inner gradients.
      loss: (scores, label, mask) -> scalar.

    References: Lu, Fang, Shi, "Meta-learning on heterogeneous information networks for cold-start
    recommendation", KDD 2020, equations 4 to 12.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_embed, key_reach, key_decide, key_offset, key_a, key_g = jax.random.split(key, 6)
        profile, inputs = episode.profile, episode.support.inputs
        embedding = embed.init(key_embed, profile, inputs)
        way = reach.init(key_reach, profile, inputs)
        x_NxE = embed.apply(embedding, profile, inputs)
        decision = decide.init(key_decide, (profile, jnp.zeros(num_code)), x_NxE)
        dim = reach.apply(way, profile, inputs).shape[2] - 1
        size = tree.size(decision)
        normal = lambda key, a, b: jax.random.normal(key, (a, b)) / a**0.5
        return {
            "embed": embedding,
            "reach": way,
            "decide": decision,
            "offset": offset.init(key_offset, profile, inputs),
            "aggregate": {"kernel": normal(key_a, dim, num_code), "bias": jnp.zeros(num_code)},
            "gate": {"kernel": normal(key_g, num_code, size), "bias": jnp.zeros(size)},
        }

    def start(params: PyTree, profile: PyTree) -> State:
        spread = lambda x: jnp.broadcast_to(x, (num_paths, *x.shape))
        moved = jax.tree.map(lambda x: jnp.zeros((num_paths, *x.shape)), params["decide"])
        dim = params["aggregate"]["kernel"].shape[0]
        total, none = jnp.zeros((num_paths, dim + 1)), jnp.zeros(num_paths)
        aggregate = jax.tree.map(spread, params["aggregate"])
        return State(params, total, aggregate, moved, none, jnp.zeros(()), profile)

    def code(aggregate: PyTree, mean: jax.Array) -> jax.Array:
        """The user (H,) as seen by an aggregator along a path."""
        return jax.nn.leaky_relu(mean @ aggregate["kernel"] + aggregate["bias"])

    def gated(params: PyTree, x: jax.Array) -> PyTree:
        """The decision weights under the gates of a user (H,)."""
        weights, unravel = ravel_pytree(params["decide"])
        gate = params["gate"]
        return unravel(weights * jax.nn.sigmoid(x @ gate["kernel"] + gate["bias"]))

    def descended(value, fast: PyTree, given: PyTree, rate: float) -> PyTree:
        """One clipped gradient step of ``value(fast, given)``."""
        if second_order:
            grads = inner_gradient(value, fast, given)
        else:
            grads = jax.lax.stop_gradient(jax.grad(value)(fast, given))
        return jax.tree.map(lambda w, g: w - rate * jnp.clip(g, -clip, clip), fast, grads)

    def means(state: State) -> jax.Array:
        return state.total[:, :-1] / jnp.maximum(state.total[:, -1:], 1.0)

    def adapt(state: State, examples: Examples, key: jax.Array) -> State:
        del key
        shared, profile = state.shared, state.profile
        inputs, label, mask = examples
        near_NxPxD = reach.apply(shared["reach"], profile, inputs)
        near_NxPxD = jnp.where(mask[:, None, None] > 0, near_NxPxD, 0.0)
        state = state._replace(total=state.total + jnp.sum(near_NxPxD, axis=0))
        x_NxE = embed.apply(shared["embed"], profile, inputs)
        base = offset.apply(shared["offset"], profile, inputs)
        rows = (profile, x_NxE, base, label, mask)

        def fit(decision: PyTree, user: jax.Array, rows: tuple) -> jax.Array:
            profile, x_NxE, base, label, mask = rows
            return loss(base + decide.apply(decision, (profile, user), x_NxE), label, mask)

        def along(aggregate: PyTree, moved: PyTree, mean: jax.Array):
            of_path = lambda a, given: fit(given[0], code(a, given[1]), given[2])
            given = (shared["decide"], mean, rows)
            aggregate = descended(of_path, aggregate, given, path_rate)
            user = code(aggregate, mean)
            before = gated(shared, user)
            decision = jax.tree.map(jnp.add, before, moved)
            after = descended(lambda w, given: fit(w, *given), decision, (user, rows), task_rate)
            return aggregate, jax.tree.map(jnp.subtract, after, before), fit(after, user, rows)

        aggregate, moved, value = jax.vmap(along)(state.aggregate, state.moved, means(state))
        number = jnp.sum(mask > 0)
        return state._replace(
            aggregate=aggregate,
            moved=moved,
            loss=state.loss + value * number,
            weight=state.weight + number,
        )

    def fused(state: State) -> tuple[jax.Array, PyTree]:
        """The user (H,) and the decision weights over all paths."""
        attention = jax.nn.softmax(-state.loss / jnp.maximum(state.weight, 1.0))
        x_PxH = jax.vmap(code)(state.aggregate, means(state))
        weights = jax.vmap(gated, (None, 0))(state.shared, x_PxH)
        weights = jax.tree.map(jnp.add, weights, state.moved)
        return attention @ x_PxH, jax.tree.map(lambda w: jnp.tensordot(attention, w, 1), weights)

    def predict(state: State, inputs: PyTree) -> jax.Array:
        shared, profile = state.shared, state.profile
        user, decision = fused(state)
        x_NxE = embed.apply(shared["embed"], profile, inputs)
        base = offset.apply(shared["offset"], profile, inputs)
        return base + decide.apply(decision, (profile, user), x_NxE)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        state = adapt(start(params, episode.profile), episode.support, key)
        scores = predict(state, episode.query.inputs)
        value = loss(scores, episode.query.label, episode.query.mask)
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, outer_loss)
