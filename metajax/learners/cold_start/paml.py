"""PAML: gates on all decision weights, computed from the preferences of a user and of friends.

With c the mean code of the task's examples and f the friends' codes, weighted by `attended`, all
decision weights start from ``theta * sigmoid(K [c, f] + b)``; then gradient steps are taken on the
support loss. Friends are part of the profile, so they are used before any example. When more
examples arrive, the weights move by the change of the gated start and then by further steps.

Deviates from the published code: friends are described by stored statistics of training rows, not
by their whole histories, so that no rating of a test task can enter; no implicit friends; one
attention instead of a coarse and a fine one; labels enter the codes.

References: Wang et al., "Preference-adaptive meta-learning for cold-start recommendation", IJCAI
2021.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import losses, optim, tree
from metajax.learners.gradient import maml
from metajax.learners.parts import gated_weights, linear_layer, query_loss, real_sum
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

Friends = Callable[[PyTree], tuple[jax.Array, jax.Array]]
"""profile -> the statistics of each friend (F, S), and their mask (F,)."""

Embed = Callable[[Params, PyTree, PyTree], jax.Array]
"""(the model's parameters, profile, inputs) -> features (N, E)."""


class State(NamedTuple):
    """What a task has of its own: its adapted weights, and the inputs of its gates.

    Attributes:
      inner: the state of the gradient steps; its fast weights are the task's decision weights.
      total: (C,) sum of the codes of the task's own examples.
      weight: () number of examples.
    """

    inner: maml.State
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
    embed: Embed,
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
    """PAML: decision weights gated by the support and by friends, then gradient steps.

    Args:
      model: the model; ``{"model", "rates", "encode", "friend", "attention", "gate"}`` are the
        parameters.
      embed: what ``encode`` reads.
      encode: a model of the inputs ``(features, label)`` whose codes are (N, ``num_code``).
      friends: profile -> the statistics of friends, see `Friends`.
      inner: the inner optimizer.
      num_steps: its steps in one call of ``adapt``.
      adapts: a filter over the paths of the model's parameters: the decision weights.
      num_code: C.
      second_order: whether the outer gradient sees the derivative of the inner gradient.
      loss: (scores, label, mask) -> scalar.
    """
    base = maml.gradient(
        model, inner, num_steps, adapts=adapts, second_order=second_order, loss=loss
    )

    def gated(params: Params, profile: PyTree, total: jax.Array, weight: jax.Array) -> PyTree:
        """The gated decision weights of a task, given the sum (C,) and number () of its codes."""
        code = _code(params, *friends(profile), total / jnp.maximum(weight, 1.0))
        return gated_weights(tree.partition(params["model"], adapts)[0], params["gate"], code)

    def start(params: Params, profile: PyTree) -> State:
        inner_state = base.start(params, profile)
        nothing = jnp.zeros(num_code), jnp.zeros(())
        fast = gated(params, profile, *nothing)
        return State(inner_state._replace(fast=fast), *nothing)

    def adapt(params: Params, state: State, examples: Examples, key: jax.Array) -> State:
        before = state.inner
        x_NxE = embed(params["model"], before.profile, examples.inputs)
        code_NxC = encode.apply(params["encode"], before.profile, (x_NxE, examples.label))
        total, number = real_sum(code_NxC, examples.mask)
        more = state._replace(total=state.total + total, weight=state.weight + number)
        old = gated(params, before.profile, state.total, state.weight)
        new = gated(params, before.profile, more.total, more.weight)
        fast = jax.tree.map(lambda w, a, b: w + (b - a), before.fast, old, new)
        return more._replace(inner=base.adapt(params, before._replace(fast=fast), examples, key))

    def predict(params: Params, state: State, inputs: PyTree) -> jax.Array:
        return base.predict(params, state.inner, inputs)

    init = _initializer(base, embed, encode, friends, adapts, num_code)
    outer_loss = query_loss(start, adapt, predict, loss)
    return MetaLearner(init, start, adapt, predict, outer_loss, num_steps)


def _initializer(
    base: MetaLearner,
    embed: Embed,
    encode: Model,
    friends: Friends,
    adapts: tree.Filter,
    num_code: int,
) -> Callable[[jax.Array, Episode], Params]:
    """`MetaLearner.init` of PAML."""

    def init(key: jax.Array, episode: Episode) -> Params:
        key_base, key_encode, key_friend, key_attention, key_gate = jax.random.split(key, 5)
        params = base.init(key_base, episode)
        profile, (inputs, label, _) = episode.profile, episode.support
        x_NxE = embed(params["model"], profile, inputs)
        told_FxS, _ = friends(profile)
        fast, _ = tree.partition(params["model"], adapts)
        return {
            **params,
            "encode": encode.init(key_encode, profile, (x_NxE, label)),
            "friend": linear_layer(key_friend, told_FxS.shape[1], num_code),
            "attention": linear_layer(key_attention, num_code, num_code)["kernel"],
            "gate": linear_layer(key_gate, 2 * num_code, tree.size(fast)),
        }

    return init


def _code(params: Params, told_FxS: jax.Array, known: jax.Array, own: jax.Array) -> jax.Array:
    """What the gates are made of (2 C,): the task's own code (C,), and that of its friends."""
    layer = params["friend"]
    codes_FxC = jnp.tanh(told_FxS @ layer["kernel"] + layer["bias"][None, :])
    return jnp.concatenate([own, attended(own, codes_FxC, known, params["attention"])])
