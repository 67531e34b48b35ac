"""Parts that several learners share: their outer loss, masked sums, linear layers."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metajax import losses
from metajax.types import Adapted, Episode, Examples, MetaLearner, Params, PyTree, UserError

OuterLoss = Callable[[Params, Episode, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class QueryLoss:
    """The plain outer loss, which most learners have: on the query, after ``adapt`` on the support.

    It is called like any outer loss. A transform that replaces the outer loss checks for this class
    (`plain_loss`), so that it does not drop another loss silently.

    Attributes:
      loss: (scores, label, mask) -> scalar, the loss on the query.
      outer: (params, episode, key) -> (scalar, info), which computes it.
    """

    loss: losses.Loss
    outer: OuterLoss

    def __call__(self, params: Params, episode: Episode, key: jax.Array):
        return self.outer(params, episode, key)


def query_loss(
    start: Callable[[Params, PyTree], PyTree],
    adapt: Callable[[Params, PyTree, Examples, jax.Array], PyTree],
    predict: Callable[[Params, PyTree, PyTree], jax.Array],
    loss: losses.Loss,
) -> QueryLoss:
    """The plain outer loss: ``loss`` on the query after one ``adapt`` on the support.

    Args:
      start, adapt, predict: the learner's own.
      loss: (scores, label, mask) -> scalar.
    """

    def outer_loss(params: Params, episode: Episode, key: jax.Array):
        state = adapt(params, start(params, episode.profile), episode.support, key)
        scores = predict(params, state, episode.query.inputs)
        value = loss(scores, episode.query.label, episode.query.mask)
        return value, {"query_loss": value}

    return QueryLoss(loss, outer_loss)


def of_part(learner: MetaLearner, part: Callable[[Params], Params]) -> MetaLearner:
    """The learner for larger parameters, of which ``part`` gives its own.

    A transform that adds parameters replaces ``init``, and ``loss`` where that uses them.
    """
    return learner._replace(
        start=lambda params, profile: learner.start(part(params), profile),
        adapt=lambda params, *given: learner.adapt(part(params), *given),
        predict=lambda params, *given: learner.predict(part(params), *given),
        loss=lambda params, *given: learner.loss(part(params), *given),
    )


def plain_loss(learner: MetaLearner, transform: str) -> losses.Loss:
    """The loss on the query of a learner whose outer loss is a plain `QueryLoss`.

    Args:
      transform: name of the calling transform, for the error message.

    Raises:
      UserError: the learner has another outer loss, which the transform would silently replace.
    """
    if not isinstance(learner.loss, QueryLoss):
        raise UserError(
            f"{transform} replaces the outer loss, and this learner has one of its own that would "
            f"be lost: apply {transform} before the transform that set it, or build the loss with "
            "metajax.learners.parts.query_loss"
        )
    return learner.loss.loss


def moved_by_gradients(learner: MetaLearner, transform: str) -> Adapted:
    """Where a learner's state holds the parameters that its gradient steps move.

    Args:
      transform: name of the calling transform, for the error message.

    Raises:
      UserError: there are none that start as meta-parameters and are moved by gradients.
    """
    if learner.adapted is None or learner.num_gradients == 0:
        raise UserError(
            f"{transform} needs a learner that moves its meta-parameters by gradient steps in each "
            "task, such as metajax.gradient; this one does not"
        )
    return learner.adapted


def inside(adapted: Adapted | None) -> Adapted | None:
    """The `Adapted` of a state whose field ``inner`` is the state of a wrapped learner."""
    if adapted is None:
        return None
    return Adapted(
        lambda state: adapted.get(state.inner),
        lambda state, fast: state._replace(inner=adapted.put(state.inner, fast)),
    )


def real_sum(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum (...) over the real rows of an array (N, ...), and their number ().

    The values of masked rows do not matter, even if they are NaN. A mask between 0 and 1 weighs the
    rows, see `metajax.explain`.
    """
    rows = mask.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.sum(jnp.where(rows > 0, rows * x, 0.0), axis=0), jnp.sum(mask)


def constant_gradient(
    value: Callable[[PyTree, PyTree], jax.Array], fast: PyTree, given: PyTree
) -> PyTree:
    """As `curvature.inner_gradient`, but a constant for the outer gradient: first-order MAML."""
    return jax.lax.stop_gradient(jax.grad(value)(fast, given))


def linear_layer(key: jax.Array, num_inputs: int, num_outputs: int) -> dict[str, jax.Array]:
    """A kernel (num_inputs, num_outputs) of variance 1 / num_inputs, and a bias of 0."""
    kernel = jax.random.normal(key, (num_inputs, num_outputs)) / num_inputs**0.5
    return {"kernel": kernel, "bias": jnp.zeros(num_outputs)}


def linear(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """The output (num_outputs,) of a `linear_layer` for a vector (num_inputs,)."""
    return x @ layer["kernel"] + layer["bias"]


def gated_weights(weights: PyTree, layer: Mapping[str, jax.Array], code: jax.Array) -> PyTree:
    """The weights times gates in (0, 1), the sigmoids of a layer's outputs for a code (C,).

    There is one output per entry of the weights.
    """
    flat, unravel = ravel_pytree(weights)
    return unravel(flat * jax.nn.sigmoid(linear(layer, code)))
