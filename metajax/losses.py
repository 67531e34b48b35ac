"""Losses of one task: ``(scores (N,), label (N,), mask (N,)) -> scalar``, masked means throughout.

Pointwise losses are means over the real rows; pairwise ones over the ordered pairs of real rows
with different labels; the listwise one weights each real row by its share of the sum of the labels.
A task without real rows (or without such pairs) has loss 0 and gradient 0. Where the label is a
class, scores have one column per class (N, C), here and in ``MetaLearner.predict``.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of ``values`` (N,) over the rows where ``mask`` (N,) is 1; 0 if there are none.

    A mask between 0 and 1 weighs the rows; the derivative by it is the influence of a row.
    """
    return jnp.sum(jnp.where(mask > 0, mask * values, 0.0)) / jnp.maximum(jnp.sum(mask), 1.0)


def squared_error(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error of scores (N,), in squared units of the label (such as stars squared)."""
    return masked_mean((score - label) ** 2, mask)


def absolute_error(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean absolute error of scores (N,), in units of the label (such as stars)."""
    return masked_mean(jnp.abs(score - label), mask)


def huber(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean Huber loss of scores (N,): quadratic up to an error of 1 label unit, then linear."""
    return masked_mean(optax.losses.huber_loss(score, label), mask)


def log_loss(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean binary cross-entropy, in nats, of logits (N,) against labels (N,) in {0, 1}."""
    return masked_mean(optax.losses.sigmoid_binary_cross_entropy(score, label), mask)


def class_cross_entropy(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy, in nats, of class scores (N, C) against class indices (N,)."""
    log_p_NxC = jax.nn.log_softmax(score, axis=-1)
    chosen = jnp.take_along_axis(log_p_NxC, label.astype(jnp.int32)[:, None], axis=-1)[:, 0]
    return masked_mean(-chosen, mask)


def ordinal(levels: Sequence[float], width: float = 1.0) -> Loss:
    """Minus the log-likelihood, in nats, of ordered levels under a logistic distribution.

    The distribution lies around the score; the probability of a level is that between the middles
    to its neighbours, so that the outer levels have the tails.

    Args:
      levels: two or more, ascending, such as the ratings 1 to 5; a label counts as the nearest.
      width: the scale of the distribution in units of the label; its standard deviation is 1.81 of
        it.

    References: McCullagh, "Regression models for ordinal data", JRSS B 1980.
    """
    middle = [(low + high) / 2 for low, high in itertools.pairwise(levels)]

    def ordinal(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
        cuts = jnp.asarray([-jnp.inf, *middle, jnp.inf], score.dtype)
        level = jnp.searchsorted(cuts[1:-1], label)
        low, high = cuts[level], cuts[level + 1]
        inside = jnp.log1p(-jnp.exp((low - high) / width))  # sigmoid(b) - sigmoid(a) as a product
        below = jax.nn.log_sigmoid((high - score) / width)
        return -masked_mean(inside + below + jax.nn.log_sigmoid((score - low) / width), mask)

    return ordinal


def negative_mean(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Minus the mean score: the loss where scores are log-likelihoods (N,); labels are not used."""
    del label
    return -masked_mean(score, mask)


def _pairs(score, label, mask) -> tuple[jax.Array, jax.Array]:
    margin_NxN = score[:, None] - score[None, :]
    preferred_NxN = (label[:, None] > label[None, :]) * mask[:, None] * mask[None, :]
    return margin_NxN, preferred_NxN


def bpr(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Bayesian personalized ranking (BPR) of scores (N,): the mean of -log sigmoid of the margin.

    The margin is the score of the row with the higher label minus that of the other.

    References: Rendle et al., UAI 2009.
    """
    margin_NxN, preferred_NxN = _pairs(score, label, mask)
    return masked_mean(-jax.nn.log_sigmoid(margin_NxN), preferred_NxN)


def misordered(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """The share of discordant pairs of scores (..., N): unlike labels, wrong order; a tie is 1/2.

    It has no gradient and does not depend on the scale of the scores: use it to choose between
    trained rankers. Leading axes are tasks, whose pairs are pooled.
    """
    margin = score[..., :, None] - score[..., None, :]
    preferred = (label[..., :, None] > label[..., None, :]) * 1.0
    preferred = preferred * mask[..., :, None] * mask[..., None, :]
    return masked_mean(0.5 - 0.5 * jnp.sign(margin), preferred)


def softmax(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Listwise cross-entropy (ListNet) of the softmax over scores (N,) against labels scaled to 1.

    Labels (N,) must not be negative; they are divided by their sum.

    References: Cao et al., "Learning to rank: from pairwise approach to listwise approach", 2007.
    """
    log_p = jax.nn.log_softmax(jnp.where(mask > 0, score, -1e9))
    weight = jnp.where(mask > 0, label, 0.0)
    return -jnp.sum(weight * log_p) / jnp.maximum(jnp.sum(weight), 1e-12)
