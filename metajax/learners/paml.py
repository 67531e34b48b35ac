"""Adaptation by the preferences of a user and of friends: gates on all decision weights (PAML)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metajax import losses, optim, tree
from metajax.learners import gradient
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree

Friends = Callable[[PyTree], tuple[jax.Array, jax.Array]]


class State(NamedTuple):
    """What a task remembers: its gated and adapted weights, and what its gates are made of.

    Attributes:
      shared: the meta-parameters, the same for all tasks.
      inner: the state of the gradient steps; its fast weights are the task's decision weights.
      total: (C,) sum of the codes of the task's own examples.
      weight: () number of examples.
    """

    shared: PyTree
    inner: gradient.State
    total: jax.Array
    weight: jax.Array


def attended(own: jax.Array, codes_FxC: jax.Array, known: jax.Array, matrix: jax.Array):
    """The friends' codes (C,) weighted by ``softmax(own' M code / sqrt(C))``; zeros without any.

    Args:
      own: (C,) the task's own code.
      codes_FxC: one per friend.
      known: (F,) 1 for a friend, 0 for an empty place.
      matrix: (C, C) M.
    """
    logit = codes_FxC @ (own @ matrix) / own.shape[0] ** 0.5
    weight = jax.nn.softmax(jnp.where(known > 0, logit, -1e9)) * known
    return weight @ codes_FxC


def paml(
    model: Model,
    embed: Callable[[PyTree, PyTree, PyTree], jax.Array],
    encode: Model,
    friends: Friends,
    inner: optim.Inner | optax.GradientTransformation,
    num_steps: int,
    *,
    adapts: tree.Filter = tree.everything,
    num_code: int = 16,
    second_order: bool = False,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """PAML: gates from the support and from friends on the decision weights, then gradient steps.

    With c the mean code of the task's examples and f the friends' codes under `attended`, all
    decision weights start from ``theta * sigmoid(K [c, f] + b)``; then ``num_steps`` steps are
    taken on the support loss. Friends are read off the profile, so they count before any example.
    When more examples arrive, the weights move by the change of the gated start, and on from there.

    Deviates from the published code: friends are told of by stored statistics of training rows, not
    by their whole histories, so that no rating of a task to be judged can enter; no implicit
    friends; one attention instead of a coarse and a fine one; labels enter the codes.

    Args:
      model: the model; ``{"model", "rates", "encode", "friend", "attention", "gate"}`` are the
        parameters.
      embed: (model's parameters, profile, inputs) -> features (N, E) that ``encode`` reads.
      encode: a model of the inputs ``(features, label)`` whose codes are (N, ``num_code``).
      friends: profile -> what is told of each friend (F, S), and which of them are there (F,).
      inner: the inner optimizer.
      num_steps: its steps in one call of ``adapt``.
      adapts: a filter over the paths of the model's parameters: the decision weights.
      num_code: C.
      second_order: whether the outer gradient sees the derivative of the inner gradient.
      loss: (scores, label, mask) -> scalar.

    References: Wang et al., "Preference-adaptive meta-learning for cold-start recommendation",
    IJCAI 2021.
    """
    base = gradient.gradient(
        model, inner, num_steps, adapts=adapts, second_order=second_order, loss=loss
    )

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_base, key_encode, key_friend, key_attention, key_gate = jax.random.split(key, 5)
        params = base.init(key_base, episode)
        profile, (inputs, label, _) = episode.profile, episode.support
        x_NxE = embed(params["model"], profile, inputs)
        told_FxS, _ = friends(profile)
        fast, _ = tree.partition(params["model"], adapts)
        normal = lambda key, a, b: jax.random.normal(key, (a, b)) / a**0.5
        return {
            **params,
            "encode": encode.init(key_encode, profile, (x_NxE, label)),
            "friend": {
                "kernel": normal(key_friend, told_FxS.shape[1], num_code),
                "bias": jnp.zeros(num_code),
            },
            "attention": normal(key_attention, num_code, num_code),
            "gate": {
                "kernel": normal(key_gate, 2 * num_code, tree.size(fast)),
                "bias": jnp.zeros(tree.size(fast)),
            },
        }

    def gated(params: PyTree, profile: PyTree, own: jax.Array) -> PyTree:
        """The decision weights under the gates of a task whose own code is (C,)."""
        told_FxS, known = friends(profile)
        layer, gate = params["friend"], params["gate"]
        codes_FxC = jnp.tanh(told_FxS @ layer["kernel"] + layer["bias"][None, :])
        code = jnp.concatenate([own, attended(own, codes_FxC, known, params["attention"])])
        weights, unravel = ravel_pytree(tree.partition(params["model"], adapts)[0])
        return unravel(weights * jax.nn.sigmoid(code @ gate["kernel"] + gate["bias"]))

    def own_code(state: State) -> jax.Array:
        return state.total / jnp.maximum(state.weight, 1.0)

    def start(params: PyTree, profile: PyTree) -> State:
        nothing = jnp.zeros(num_code)
        fast = gated(params, profile, nothing)
        inner_state = base.start({k: params[k] for k in ("model", "rates")}, profile)
        return State(params, inner_state._replace(fast=fast), nothing, jnp.zeros(()))

    def adapt(state: State, examples: Examples, key: jax.Array) -> State:
        params, before = state.shared, state.inner
        x_NxE = embed(params["model"], before.profile, examples.inputs)
        code_NxC = encode.apply(params["encode"], before.profile, (x_NxE, examples.label))
        code_NxC = jnp.where(examples.mask[:, None] > 0, code_NxC, 0.0)
        more = state._replace(
            total=state.total + jnp.sum(code_NxC, axis=0),
            weight=state.weight + jnp.sum(examples.mask > 0),
        )
        old = gated(params, before.profile, own_code(state))
        new = gated(params, before.profile, own_code(more))
        fast = jax.tree.map(lambda w, a, b: w + (b - a), before.fast, old, new)
        return more._replace(inner=base.adapt(before._replace(fast=fast), examples, key))

    def predict(state: State, inputs: PyTree) -> jax.Array:
        return base.predict(state.inner, inputs)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        state = adapt(start(params, episode.profile), episode.support, key)
        scores = predict(state, episode.query.inputs)
        value = loss(scores, episode.query.label, episode.query.mask)
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, outer_loss)
