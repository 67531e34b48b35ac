"""Distillation losses, which pull the scores of a student to those of a teacher.

References: Hinton, Vinyals, Dean, 2015; Tang and Wang, "Ranking distillation", KDD 2018.
"""

import jax
import jax.numpy as jnp


def soft_cross_entropy(
    teacher: jax.Array, student: jax.Array, mask: jax.Array, temperature: float
) -> jax.Array:
    """``T^2 KL(softmax(t / T) || softmax(s / T))`` (), in nats, over the real scores (N,).

    Args:
      teacher, student: scores (N,), t and s; mask: (N,) 1 where a score is real.
      temperature: T.
    """
    real = mask > 0
    log_p = jax.nn.log_softmax(jnp.where(real, teacher / temperature, -1e9))
    log_q = jax.nn.log_softmax(jnp.where(real, student / temperature, -1e9))
    return temperature**2 * jnp.sum(jnp.where(real, jnp.exp(log_p) * (log_p - log_q), 0.0))


def rank_cross_entropy(
    teacher: jax.Array, student: jax.Array, mask: jax.Array, top: int, decay: float
) -> jax.Array:
    """``-sum_k w_k log softmax(s)[item k of the teacher]`` over the teacher's ``top`` items.

    The weights w_k of the ranks fall as ``exp(-k / decay)`` and sum to 1: the student learns the
    teacher's order, not its score differences. Where the paper has a sigmoid of each score this has
    a softmax, which is also the students' training loss here.

    Args:
      teacher, student: scores (N,), of which at least ``top`` are real.
      mask: (N,) 1 where a score is real.
    """
    real = mask > 0
    _, best = jax.lax.top_k(jnp.where(real, teacher, -jnp.inf), top)
    log_q = jax.nn.log_softmax(jnp.where(real, student, -1e9))[best]
    return -jnp.sum(jax.nn.softmax(-jnp.arange(top) / decay) * log_q)
