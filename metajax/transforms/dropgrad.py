"""DropGrad: noise on the inner gradients, as a regularizer of meta-training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.learners.parts import plain_loss
from metajax.types import Episode, MetaLearner, PyTree, UserError


class Noise(NamedTuple):
    """The state of `gaussian_noise`.

    Attributes:
      seed: () uint32, of the noise of this task.
      step: () int32, the number of updates so far.
      on: () 1 if gradients are noisy, 0 if they pass unchanged.
    """

    seed: jax.Array
    step: jax.Array
    on: jax.Array


def gaussian_noise(share: float) -> optax.GradientTransformation:
    """Multiplies every entry of the gradient by ``n ~ N(1, share / (1 - share))`` once switched on.

    Mean and variance are those of inverted dropout with the rate ``share``. It starts switched off,
    as the identity; `dropgrad` switches it on. Put it before the inner optimizer with
    ``optax.chain``.
    """
    deviation = (share / (1.0 - share)) ** 0.5

    def init(params: PyTree) -> Noise:
        del params
        return Noise(jnp.zeros((), jnp.uint32), jnp.zeros((), jnp.int32), jnp.zeros(()))

    def update(grads: PyTree, state: Noise, params: PyTree | None = None):
        del params
        leaves, structure = jax.tree.flatten(grads)
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        keys = jax.random.split(key, max(len(leaves), 1))
        factor = lambda g, k: 1.0 + state.on * deviation * jax.random.normal(k, g.shape, g.dtype)
        noisy = [g * factor(g, k) for g, k in zip(leaves, keys, strict=False)]
        return jax.tree.unflatten(structure, noisy), state._replace(step=state.step + 1)

    return optax.GradientTransformation(init, update)


def dropgrad(learner: MetaLearner) -> MetaLearner:
    """The learner with noisy inner gradients in meta-training alone.

    Args:
      learner: one that adapts by gradients, with `gaussian_noise` in its inner optimizer, and whose
        outer loss is the plain loss on the query.

    Raises:
      UserError: the learner takes no gradients or has another outer loss; or, at the first call of
        ``init`` or ``loss``, there is no `gaussian_noise` in its state.

    References: Tseng et al., "Regularizing meta-learning via gradient dropout", ACCV 2020.
    """
    loss = plain_loss(learner, "dropgrad")
    if learner.num_gradients == 0:
        raise UserError("dropgrad needs a learner that adapts by gradients; this one does not")
    is_noise = lambda x: isinstance(x, Noise)

    def started(params: PyTree, profile: PyTree) -> PyTree:
        state = learner.start(params, profile)
        if not any(map(is_noise, jax.tree.leaves(state, is_leaf=is_noise))):
            raise UserError("dropgrad: put dropgrad.gaussian_noise(share) into the inner optimizer")
        return state

    def init(key: jax.Array, episode: Episode) -> PyTree:
        params = learner.init(key, episode)
        jax.eval_shape(started, params, episode.profile)
        return params

    def switched_on(state: PyTree, key: jax.Array) -> PyTree:
        seed = jax.random.bits(key, (), jnp.uint32)
        turn = lambda x: x._replace(seed=seed, on=jnp.ones_like(x.on)) if is_noise(x) else x
        return jax.tree.map(turn, state, is_leaf=is_noise)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        key_noise, key_adapt = jax.random.split(key)
        state = switched_on(started(params, episode.profile), key_noise)
        state = learner.adapt(params, state, episode.support, key_adapt)
        scores = learner.predict(params, state, episode.query.inputs)
        value = loss(scores, episode.query.label, episode.query.mask)
        return value, {"query_loss": value}

    return learner._replace(init=init, loss=outer_loss)
