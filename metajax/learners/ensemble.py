"""Ensembles of learners: their average, stacking, a gate that depends on the task, or a blend.

The learners are the *bases*. Except in `blended`, they are meta-trained before: put their
parameters under ``bases``, in place of those that ``init`` gives; they get no gradient. Train
stacking weights and gates on other tasks than those that the bases were trained on, where a base
that overfits looks better than it is.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses, precision
from metajax.types import Episode, Examples, MetaLearner, PyTree

Evidence = Callable[[PyTree, jax.Array, jax.Array], jax.Array]
"""(profile, mean error of each base (M,), number of examples ()) -> inputs of a gate (Z,)."""

GAIN = 10.0
"""Factor on the logits of a blend, which would learn too slowly at the outer rate of weights."""


class State(NamedTuple):
    """What a task has of its own.

    Attributes:
      bases: the state of each base.
      error: (M,) sum of each base's errors on examples it had not adapted on.
      weight: () number of those examples.
      profile: the task's profile.
    """

    bases: tuple[PyTree, ...]
    error: jax.Array
    weight: jax.Array
    profile: PyTree


def out_of_fold_errors(
    learners: Sequence[MetaLearner],
    params: Sequence[PyTree],
    states: Sequence[PyTree],
    examples: Examples,
    key: jax.Array,
    num_folds: int = 2,
) -> jax.Array:
    """The sum (M,) of each learner's absolute errors on examples it has not adapted on.

    Row i is in fold ``i % num_folds`` and is predicted by the learner adapted on the other folds.
    With one fold the errors are *in*-sample: each row is predicted after adapting on all rows,
    which favors learners that overfit.

    Args:
      params, states: of each of M learners.
      examples: rows that the states have not adapted on.
      key: for ``adapt``.
    """
    fold = jnp.arange(examples.mask.shape[0]) % num_folds

    def of_fold(learner: MetaLearner, own: PyTree, state: PyTree, k: jax.Array) -> jax.Array:
        held = (fold == k).astype(examples.mask.dtype)
        others = examples.mask * (1.0 - held) if num_folds > 1 else examples.mask
        adapted = learner.adapt(own, state, examples._replace(mask=others), key)
        error = jnp.abs(learner.predict(own, adapted, examples.inputs) - examples.label)
        return jnp.sum(jnp.where(examples.mask * held > 0, error, 0.0))

    folds = jnp.arange(num_folds)
    over_folds = lambda x, p, s: jnp.sum(jax.vmap(lambda k: of_fold(x, p, s, k))(folds))
    bases = zip(learners, params, states, strict=True)
    return jnp.stack([over_folds(x, p, s) for x, p, s in bases])


def error_and_support_size(profile: PyTree, error: jax.Array, weight: jax.Array) -> jax.Array:
    """The default inputs of a gate (M + 1,): mean errors (M,) of the bases, log(1 + examples)."""
    del profile
    return jnp.append(error, jnp.log1p(weight))


def averaged(
    learners: Sequence[MetaLearner], *, loss: losses.Loss = losses.squared_error
) -> MetaLearner:
    """The average of the learners' scores, with equal shares and nothing to learn."""
    share = jnp.full(len(learners), 1.0 / len(learners), float)
    return _ensemble(learners, lambda key, profile: (), lambda weigher, state: share, 0, loss)


def stacked(
    learners: Sequence[MetaLearner], *, loss: losses.Loss = losses.squared_error
) -> MetaLearner:
    """Stacking: a learned linear combination of the scores, the same for all tasks.

    It starts as the average. The outer loss is on the query, on which no base has adapted.
    `stacking_weights` is its solution in closed form.

    References: Wolpert, "Stacked generalization", Neural Networks 1992.
    """
    begin = lambda key, profile: {"share": jnp.full(len(learners), 1.0 / len(learners), float)}
    return _ensemble(learners, begin, lambda weigher, state: weigher["share"], 0, loss)


def gated(
    learners: Sequence[MetaLearner],
    *,
    evidence: Evidence = error_and_support_size,
    num_folds: int = 2,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """A mixture of the learners with shares ``softmax(W z + b)`` that depend on the task.

    They start uniform. z is ``evidence`` of the profile, the number of examples and each base's
    mean error on examples that it had not adapted on.

    Args:
      learners: the bases; their ``predict`` gives scores (N,).
      evidence: see `Evidence`.
      num_folds: of the errors, see `out_of_fold_errors`; 1 is the control.
      loss: the outer loss on the query set.

    References: Sill et al., "Feature-weighted linear stacking", 2009, where shares are linear in z.
    """
    num_bases = len(learners)
    seen = lambda state: evidence(
        state.profile, state.error / jnp.maximum(state.weight, 1.0), state.weight
    )

    def begin(key: jax.Array, profile: PyTree) -> PyTree:
        del key
        z = evidence(profile, jnp.zeros(num_bases), jnp.zeros(()))
        return {"kernel": jnp.zeros((z.shape[0], num_bases)), "bias": jnp.zeros(num_bases)}

    @precision.highest
    def share(weigher: PyTree, state: State) -> jax.Array:
        return jax.nn.softmax(seen(state) @ weigher["kernel"] + weigher["bias"])

    return _ensemble(learners, begin, share, num_folds, loss)


def blended(
    learners: Sequence[MetaLearner], *, loss: losses.Loss = losses.squared_error
) -> MetaLearner:
    """A mixture with shares that depend on the number of examples n, trained with its bases.

    The shares are ``softmax(10 (a + b log(1 + n)))`` and start uniform, so that different bases can
    serve users without and with many ratings. Each base is also trained by its own loss, so that
    none relies on the others.

    Args:
      learners: the bases, whose parameters are trained from what ``init`` gives.
      loss: of the mixture on the query set; the outer loss is its mean with the bases' own.
    """
    num_bases = len(learners)

    def begin(key: jax.Array, profile: PyTree) -> PyTree:
        del key, profile
        return {"level": jnp.zeros(num_bases), "slope": jnp.zeros(num_bases)}

    def share(weigher: PyTree, state: State) -> jax.Array:
        level, slope = weigher["level"], weigher["slope"]
        return jax.nn.softmax(GAIN * (level + slope * jnp.log1p(state.weight)))

    mixture = _ensemble(learners, begin, share, 0, loss, trained=True)

    def together(params: PyTree, episode: Episode, key: jax.Array):
        value, info = mixture.loss(params, episode, key)
        pairs = zip(learners, params["bases"], strict=True)
        own = [learner.loss(p, episode, key)[0] for learner, p in pairs]
        return (value + sum(own)) / (1 + num_bases), info

    return mixture._replace(loss=together)


def _ensemble(
    learners: Sequence[MetaLearner],
    begin: Callable[[jax.Array, PyTree], PyTree],
    share: Callable[[PyTree, State], jax.Array],
    num_folds: int,
    loss: losses.Loss,
    trained: bool = False,
) -> MetaLearner:
    """The learner whose scores are those of its bases, summed by their shares.

    Args:
      begin: (key, profile) -> weigher, what the shares are learned with.
      share: (weigher, state) -> (M,).
      num_folds: of the bases' errors; 0 keeps none.
      trained: whether the bases get a gradient.
    """

    def own(params: PyTree) -> Sequence[PyTree]:
        """The parameters of each base."""
        return params["bases"] if trained else jax.lax.stop_gradient(params["bases"])

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_own, *keys = jax.random.split(key, len(learners) + 1)
        bases = [x.init(k, episode) for x, k in zip(learners, keys, strict=True)]
        return {"bases": bases, "weigher": begin(key_own, episode.profile)}

    def start(params: PyTree, profile: PyTree) -> State:
        pairs = zip(learners, own(params), strict=True)
        bases = tuple(x.start(p, profile) for x, p in pairs)
        return State(bases, jnp.zeros(len(learners)), jnp.zeros(()), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        state = state._replace(weight=state.weight + jnp.sum(examples.mask > 0))
        if num_folds:
            error = out_of_fold_errors(learners, own(params), state.bases, examples, key, num_folds)
            state = state._replace(error=state.error + error)
        bases = zip(learners, own(params), state.bases, strict=True)
        return state._replace(bases=tuple(x.adapt(p, s, examples, key) for x, p, s in bases))

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        bases = zip(learners, own(params), state.bases, strict=True)
        scores_MxN = jnp.stack([x.predict(p, s, inputs) for x, p, s in bases])
        return precision.highest(jnp.matmul)(share(params["weigher"], state), scores_MxN)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        state = adapt(params, start(params, episode.profile), episode.support, key)
        scores = predict(params, state, episode.query.inputs)
        value = loss(scores, episode.query.label, episode.query.mask)
        shares = {f"share_{i}": s for i, s in enumerate(share(params["weigher"], state))}
        return value, {"query_loss": value, **shares}

    num_gradients = (1 + num_folds) * sum(x.num_gradients for x in learners)
    return MetaLearner(init, start, adapt, predict, outer_loss, num_gradients)


@precision.highest
def stacking_weights(
    scores_NxM: jax.Array, label: jax.Array, mask: jax.Array, penalty: float = 1.0
) -> jax.Array:
    """The weights (M,) of a stack by ridge regression toward the uniform average.

    Args:
      scores_NxM: out-of-fold scores of the bases.
      label, mask: (N,) of the rows.
      penalty: on the squared distance from 1 / M.
    """
    num_bases = scores_NxM.shape[1]
    x_NxM = jnp.where(mask[:, None] > 0, scores_NxM, 0.0)
    y = jnp.where(mask > 0, label, 0.0)
    normal = x_NxM.T @ x_NxM + penalty * jnp.eye(num_bases)
    return jnp.linalg.solve(normal, x_NxM.T @ y + penalty / num_bases * jnp.ones(num_bases))
