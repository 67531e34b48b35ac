"""Distillation: what pulls the scores of a small learner to those of a large one.

References: Hinton, Vinyals, Dean, 2015; Tang and Wang, "Ranking distillation", KDD 2018.
"""

import jax
import jax.numpy as jnp


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
