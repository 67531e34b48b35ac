"""A learner whose state is what a person has rated, which a model of `models.attention` reads.

Beside keeping it, a task can adapt a few parameters, such as the temperature of the attention, on
its own history: each rating is predicted from the others. It takes gradient steps, or weighs a few
candidates by how well they predict.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses, optim, tree
from metajax.learners.gradient.curvature import inner_gradient
from metajax.learners.gradient.maml import after_steps
from metajax.learners.parts import query_loss
from metajax.models.attention import History
from metajax.types import Adapted, Episode, Examples, MetaLearner, Model, Params, PyTree


class State(NamedTuple):
    """What a task has of its own.

    Attributes:
      history: the newest ``window`` ratings.
      fast: the parameters that adapt; ``None`` in the place of one that does not.
    """

    history: History
    fast: PyTree


def _plain(inputs: PyTree) -> jax.Array:
    return inputs


FAST = Adapted(lambda state: state.fast, lambda state, fast: state._replace(fast=fast))


def _zero(inputs: PyTree) -> jax.Array:
    return jnp.zeros(len(jax.tree.leaves(inputs)[0]))


def reader(
    model: Model,
    window: int,
    width: int,
    *,
    vectors: Callable[[PyTree], jax.Array] = _plain,
    offset: Callable[[PyTree], jax.Array] = _zero,
    adapts: tree.Filter = tree.nothing,
    inner: optim.Inner | None = None,
    num_steps: int = 0,
    candidates: Callable[[PyTree], PyTree] | None = None,
    left_out: Callable[[Params, History], jax.Array] | None = None,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """A learner that keeps the ratings of a task and scores by a model that reads them.

    ``adapt`` appends the examples, then takes ``num_steps`` gradient steps on the parameters that
    adapt; their loss is that of each rating in the history, predicted from the others. The outer
    gradient runs through these steps. With ``candidates`` it takes no step: the parameters become
    the mean of the candidates, each weighed by ``exp(-n loss precision / 2)`` for n ratings, with a
    meta-learned precision. This finds a good one far from the start, where few steps would not.

    Args:
      model: its profile is a `History`, its inputs are vectors.
      window, width: the ratings that a state holds, and E, of their vectors.
      vectors: inputs -> (N, E), what the model sees of each item.
      offset: inputs -> (N,), added to the scores; the history has labels minus it.
      adapts: a filter over the paths of the model's parameters.
      inner: the inner optimizer; needed where gradient steps adapt.
      candidates: what adapts -> G candidates for it, leaves (G, ...).
      left_out: (parameters, history) -> (S,) each rating predicted from the others, where a model
        has that in closed form; else the model is applied once for each rating.
    """
    own_loss = _own_loss(left_out or _left_out(model, window), loss)
    adapted = _adapted(own_loss, inner, num_steps, candidates)

    def init(key: jax.Array, episode: Episode) -> Params:
        theta = model.init(key, _empty(window, width), vectors(episode.support.inputs))
        fast, _ = tree.partition(theta, adapts)
        return {"model": theta, "rates": _rates(fast, inner, candidates)}

    def start(params: Params, profile: PyTree) -> State:
        del profile
        fast, _ = tree.partition(params["model"], adapts)
        return State(_empty(window, width), fast)

    def adapt(params: Params, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        x = vectors(examples.inputs)
        row = History(x, examples.label - offset(examples.inputs), examples.mask)
        state = state._replace(history=_appended(state.history, row))
        return state._replace(fast=adapted(params, state))

    def predict(params: Params, state: State, inputs: PyTree) -> jax.Array:
        merged = tree.merge(state.fast, params["model"])
        return offset(inputs) + model.apply(merged, state.history, vectors(inputs))

    outer = query_loss(start, adapt, predict, loss)
    where = FAST if num_steps > 0 else None
    return MetaLearner(init, start, adapt, predict, outer, num_steps, where)


def _rates(fast: PyTree, inner: optim.Inner | None, candidates: Callable | None) -> PyTree:
    """What is meta-learned of the way to adapt: rates, or the precision that weighs candidates."""
    if candidates is not None:
        return {"log_precision": jnp.zeros(())}
    return inner.init(fast) if inner is not None else ()


def _adapted(
    own_loss: Callable,
    inner: optim.Inner | None,
    num_steps: int,
    candidates: Callable[[PyTree], PyTree] | None,
) -> Callable[[Params, State], PyTree]:
    """(parameters, state with the newest ratings) -> what adapts, adapted."""
    assert num_steps == 0 or inner is not None, "inner steps need an inner optimizer"
    assert num_steps == 0 or candidates is None, "gradient steps or candidates, not both"
    if candidates is not None:
        return lambda params, state: _weighed(candidates(state.fast), own_loss, params, state)
    if num_steps > 0 and inner is not None:
        return lambda params, state: _descended(
            own_loss, inner.make(params["rates"]), params, state, num_steps
        )
    return lambda params, state: state.fast


def _weighed(options: PyTree, own_loss: Callable, params: Params, state: State) -> PyTree:
    """The mean of candidates, leaves (G, ...), each weighed by how well it explains the history."""
    given = params["model"], state.history
    value_G = jax.vmap(lambda fast: own_loss(fast, given))(options)
    size = jnp.exp(params["rates"]["log_precision"]) * jnp.sum(state.history.mask)
    weight_G = jax.nn.softmax(-0.5 * size * value_G)
    best = jax.tree.map(lambda x: jnp.tensordot(weight_G, x, 1, precision="highest"), options)
    keep = lambda new, old: jnp.where(jnp.any(state.history.mask > 0), new, old)
    return jax.tree.map(keep, best, state.fast)


def _descended(own_loss: Callable, tx: Any, params: Params, state: State, num_steps: int) -> PyTree:
    """What adapts, after gradient steps on the history."""
    given = params["model"], state.history
    descent = lambda fast: inner_gradient(own_loss, fast, given)
    before = state.fast, tx.init(state.fast)
    some = jnp.any(state.history.mask > 0)
    return after_steps(descent, tx, before, some, num_steps)[0]


def _own_loss(left_out: Callable, loss: losses.Loss) -> Callable:
    """(what adapts, (parameters, history)) -> the loss of each rating predicted from the others."""

    def own_loss(fast: PyTree, given: tuple[Params, History]) -> jax.Array:
        theta, history = given
        return loss(left_out(tree.merge(fast, theta), history), history.label, history.mask)

    return own_loss


def _left_out(model: Model, window: int) -> Callable[[Params, History], jax.Array]:
    """(parameters, history) -> (S,) each rating predicted from the others."""

    def scores(params: Params, history: History) -> jax.Array:
        def without(place: jax.Array) -> jax.Array:
            others = history._replace(mask=history.mask.at[place].set(0.0))
            return model.apply(params, others, history.vector[place][None])[0]

        return jax.vmap(without)(jnp.arange(window))

    return scores


def _empty(window: int, width: int) -> History:
    return History(jnp.zeros((window, width)), jnp.zeros(window), jnp.zeros(window))


def _appended(old: History, new: History) -> History:
    """The newest rows of both, real ones first, in as many places as the old one has."""
    window = old.mask.shape[0]
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), old, new)
    place = jnp.argsort(both.mask <= 0, stable=True)
    ready = jax.tree.map(lambda x: x[place], both)
    first = jnp.maximum(jnp.sum(both.mask > 0) - window, 0)
    kept = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, window), ready)
    real = kept.mask > 0
    return History(
        jnp.where(real[:, None], kept.vector, 0.0), jnp.where(real, kept.label, 0.0), kept.mask
    )
