"""Distillation: a small learner is taught by a large one that adapts to the same support.

References: Hinton, Vinyals, Dean, 2015; Tang and Wang, "Ranking distillation", KDD 2018.
"""

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.types import Episode, MetaLearner, Params


def soft_cross_entropy(
    teacher: jax.Array, student: jax.Array, mask: jax.Array, temperature: float
) -> jax.Array:
    """``T^2 KL(softmax(t / T) || softmax(s / T))`` over the real of N scores."""
    real = mask > 0
    log_p = jax.nn.log_softmax(jnp.where(real, teacher / temperature, -1e9))
    log_q = jax.nn.log_softmax(jnp.where(real, student / temperature, -1e9))
    return temperature**2 * jnp.sum(jnp.where(real, jnp.exp(log_p) * (log_p - log_q), 0.0))


def rank_cross_entropy(
    teacher: jax.Array, student: jax.Array, mask: jax.Array, top: int, decay: float
) -> jax.Array:
    """``-sum_k w_k log softmax(s)[k-th of the teacher]`` over the teacher's ``top`` real scores.

    The weights of the places fall as ``exp(-k / decay)`` and sum to 1: the student learns whom the
    teacher puts first, and nothing of by how much. The softmax stands where the paper has a sigmoid
    of each score, since our students are trained by a softmax.

    Args:
      teacher, student: scores (N,), of which at least ``top`` are real.
      mask: (N,) 1 where a score is real.
    """
    real = mask > 0
    _, best = jax.lax.top_k(jnp.where(real, teacher, -jnp.inf), top)
    log_q = jax.nn.log_softmax(jnp.where(real, student, -1e9))[best]
    return -jnp.sum(jax.nn.softmax(-jnp.arange(top) / decay) * log_q)


def distilled(
    student: MetaLearner,
    teacher: MetaLearner,
    teacher_params: Params,
    weight: float,
    temperature: float | None = None,
) -> MetaLearner:
    """The student whose outer loss is ``(1 - weight)`` its own and ``weight`` the teacher's pull.

    Both adapt on the support; the student's query scores are pulled to the teacher's, by their
    squared distance or, with a temperature, by the divergence of the two softmaxes over the query.

    Args:
      teacher_params: of the teacher, which does not learn.
    """

    def outer_loss(params: Params, episode: Episode, key: jax.Array):
        own, info = student.loss(params, episode, key)
        query = episode.query

        def scores(learner: MetaLearner, params: Params) -> jax.Array:
            state = learner.start(params, episode.profile)
            state = learner.adapt(params, state, episode.support, key)
            return learner.predict(params, state, query.inputs)

        told = jax.lax.stop_gradient(scores(teacher, teacher_params))
        said = scores(student, params)
        if temperature is None:
            pull = losses.squared_error(said, told, query.mask)
        else:
            pull = soft_cross_entropy(told, said, query.mask, temperature)
        return (1.0 - weight) * own + weight * pull, {**info, "pull": pull}

    return student._replace(loss=outer_loss)
