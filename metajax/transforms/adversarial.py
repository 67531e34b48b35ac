"""Adversarial training of any learner, and the perturbations that it defends against.

A learner is attacked in three places: its meta-parameters (the embeddings that all tasks share),
the inputs of a task, and what its support says. `against_embeddings` trains on the first (APR),
`against_support` and `against_query` on perturbed inputs of the inner and of the outer loop, and
`domain_adversarial` on a classifier that tries to tell domains apart. The size of a perturbation
may be `Fixed` or held by a `Controller`, for all tasks or for each.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses, tree
from metajax.learners.parts import linear_layer, of_part
from metajax.types import Episode, MetaLearner, Params, PyTree

Direction = Callable[[PyTree, jax.Array], PyTree]
"""(gradient, key) -> the direction of a perturbation, rows of length 1."""


def row_norms(x: jax.Array) -> jax.Array:
    """The lengths (..., 1) of the last axis of x (..., D); of a scalar its size."""
    if x.ndim == 0:
        return jnp.abs(x)
    return jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))


def uphill(gradient: PyTree, key: jax.Array | None = None) -> PyTree:
    """The gradient with every row brought to length 1, rows of 0 kept: the step of APR and FGM."""
    del key
    return jax.tree.map(lambda g: g / jnp.maximum(row_norms(g), 1e-12), gradient)


def signs(gradient: PyTree, key: jax.Array | None = None) -> PyTree:
    """The signs of the gradient, its rows brought to length 1: the step of FGSM, of equal norm."""
    return uphill(jax.tree.map(jnp.sign, gradient), key)


def anywhere(gradient: PyTree, key: jax.Array) -> PyTree:
    """Random directions, rows of length 1 where the gradient has one: the control of equal norm."""
    leaves, shape = jax.tree.flatten(gradient)
    keys = jax.tree.unflatten(shape, list(jax.random.split(key, max(len(leaves), 1))))
    noise = jax.tree.map(lambda g, k: jax.random.normal(k, g.shape, g.dtype), gradient, keys)
    hit = lambda n, g: n / jnp.maximum(row_norms(n), 1e-12) * (row_norms(g) > 0)
    return jax.tree.map(hit, noise, gradient)


def perturbed(
    loss: Callable[[PyTree], jax.Array],
    x: PyTree,
    size: jax.Array | float,
    key: jax.Array,
    *,
    direction: Direction = uphill,
    num_steps: int = 1,
) -> PyTree:
    """x with each of its rows moved by at most ``size`` so that the loss rises; a constant.

    One step is FGSM (by `signs`) or APR's (`uphill`); several are projected gradient ascent (PGD),
    each of ``2 size / num_steps``, with rows brought back to the ball after each.

    Args:
      loss: x -> scalar.
      x: floating-point leaves (..., D), whose last axis is a row.
      key: for random directions.

    References: Goodfellow et al., ICLR 2015; Madry et al., ICLR 2018; He et al., "Adversarial
    personalized ranking for recommendation", SIGIR 2018.
    """
    rate = size if num_steps == 1 else 2.0 * size / num_steps

    def step(delta: PyTree, key: jax.Array) -> tuple[PyTree, None]:
        gradient = jax.grad(loss)(jax.tree.map(jnp.add, x, delta))
        moved = jax.tree.map(lambda d, u: d + rate * u, delta, direction(gradient, key))
        inside = lambda d: d * jnp.minimum(1.0, size / jnp.maximum(row_norms(d), 1e-12))
        return jax.tree.map(inside, moved), None

    delta, _ = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, x), jax.random.split(key, num_steps))
    return jax.lax.stop_gradient(jax.tree.map(jnp.add, x, delta))


class Fixed(NamedTuple):
    """Perturbations of one size.

    Attributes:
      size: length of a row's perturbation.
    """

    size: float


class Controller(NamedTuple):
    """A size that makes the attacked loss a given multiple of the clean one.

    It is a meta-parameter, ``log_size``, whose outer gradient is the overshoot: a step of plain
    gradient descent of rate k is ``size <- size exp(k (target - drop))``, where drop is the
    attacked loss less the clean one, as a share of the clean one. With ``per_task`` each task then
    goes on from there by as many such steps of its own, so that users who are easily misled get
    smaller perturbations.

    Attributes:
      target: the drop wanted; start: the size at first; gain: k of a task's own steps.
      per_task: steps of each task.
    """

    target: float
    start: float = 0.1
    gain: float = 1.0
    per_task: int = 0


Strength = Fixed | Controller


class _Held(NamedTuple):
    """The params of a learner that is trained against an attack."""

    learner: Params
    log_size: jax.Array


def against_embeddings(
    learner: MetaLearner,
    which: tree.Filter,
    strength: Strength,
    weight: float = 1.0,
    *,
    direction: Direction = uphill,
) -> MetaLearner:
    """APR for any learner: the outer loss plus that with some meta-parameters perturbed.

    Args:
      which: a filter over the paths of the learner's meta-parameters, such as its embeddings.
      weight: lambda, of the attacked loss; the sum is divided by 1 + lambda.
      direction: `anywhere` is the control.

    References: He et al., "Adversarial personalized ranking for recommendation", SIGIR 2018.
    """

    def attacked(params: Params, episode: Episode, key: jax.Array, size: jax.Array) -> jax.Array:
        some, rest = tree.partition(params, which)
        worse = lambda x: learner.loss(tree.merge(x, rest), episode, key)[0]
        moved = perturbed(worse, some, size, key, direction=direction)
        delta = jax.tree.map(lambda a, b: jax.lax.stop_gradient(a - b), moved, some)
        return worse(jax.tree.map(jnp.add, some, delta))

    return _trained(learner, attacked, strength, weight)


def against_support(
    learner: MetaLearner,
    parts: Callable[[PyTree], PyTree],
    put: Callable[[PyTree, PyTree], PyTree],
    strength: Strength,
    weight: float = 1.0,
    *,
    direction: Direction = uphill,
) -> MetaLearner:
    """An adversarial inner loop: adapting on support inputs that were perturbed to mislead it.

    Args:
      parts: inputs -> the floats of them that are perturbed, leaves (N, D).
      put: (inputs, these floats) -> the inputs with them in their place.
    """
    return _on_rows(learner, "support", parts, put, strength, weight, direction)


def against_query(
    learner: MetaLearner,
    parts: Callable[[PyTree], PyTree],
    put: Callable[[PyTree, PyTree], PyTree],
    strength: Strength,
    weight: float = 1.0,
    *,
    direction: Direction = uphill,
) -> MetaLearner:
    """An adversarial outer loop: judged on query inputs that were perturbed after adapting.

    Arguments are those of `against_support`.
    """
    return _on_rows(learner, "query", parts, put, strength, weight, direction)


def _on_rows(learner, side, parts, put, strength, weight, direction) -> MetaLearner:
    """The learner trained on one side of its tasks perturbed."""

    def attacked(params: Params, episode: Episode, key: jax.Array, size: jax.Array) -> jax.Array:
        rows = getattr(episode, side)
        given = lambda x: episode._replace(**{side: rows._replace(inputs=put(rows.inputs, x))})
        worse = lambda x: learner.loss(params, given(x), key)[0]
        moved = perturbed(worse, parts(rows.inputs), size, key, direction=direction)
        return worse(moved)

    return _trained(learner, attacked, strength, weight)


def _trained(
    learner: MetaLearner,
    attacked: Callable[[Params, Episode, jax.Array, jax.Array], jax.Array],
    strength: Strength,
    weight: float,
) -> MetaLearner:
    """The learner whose outer loss is its own and, by ``weight``, that under an attack."""
    first = strength.start if isinstance(strength, Controller) else strength.size

    def init(key: jax.Array, episode: Episode) -> PyTree:
        return _Held(learner.init(key, episode), jnp.log(jnp.asarray(first)))

    def loss(params: _Held, episode: Episode, key: jax.Array):
        clean, info = learner.loss(params.learner, episode, key)
        log_size = jax.lax.stop_gradient(params.log_size)
        share = lambda worse: jax.lax.stop_gradient(worse / jnp.maximum(clean, 1e-6) - 1.0)
        under = lambda log_size: attacked(params.learner, episode, key, jnp.exp(log_size))
        if isinstance(strength, Controller):
            for _ in range(strength.per_task):
                over = strength.target - share(under(log_size))
                log_size = log_size + strength.gain * jnp.clip(over, -1.0, 1.0)
        worse = under(log_size)
        total = (clean + weight * worse) / (1.0 + weight)
        info = {**info, "drop": share(worse), "size": jnp.exp(log_size)}
        if isinstance(strength, Controller):
            pull = jnp.clip(info["drop"] - strength.target, -1.0, 1.0)
            total = total + pull * (params.log_size - jax.lax.stop_gradient(params.log_size))
        return total, info

    return of_part(learner, lambda params: params.learner)._replace(init=init, loss=loss)


def reverse(x: jax.Array, strength: jax.Array | float) -> jax.Array:
    """x, whose gradient goes back times ``-strength``: gradient reversal.

    References: Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016.
    """
    return jax.lax.stop_gradient((1.0 + strength) * x) - strength * x


def domain_adversarial(
    learner: MetaLearner,
    features: Callable[[Params, PyTree, PyTree], jax.Array],
    num_features: int,
    strength: float,
    hidden: int = 16,
) -> MetaLearner:
    """DANN for a learner whose support is of one domain and whose query is of another.

    A classifier learns to tell from an interaction's features on which side it is, and the features
    learn, by gradient reversal, that it cannot. The learner itself is trained as before.

    Args:
      features: (the learner's params, profile, inputs) -> (N, ``num_features``).
      strength: of the reversed gradient; below 0 the features help the classifier, the control.
      hidden: width of the classifier's hidden layer.

    References: Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_own, key_in, key_out = jax.random.split(key, 3)
        judge = {
            "body": linear_layer(key_in, num_features, hidden),
            "head": linear_layer(key_out, hidden, 1),
        }
        return {"learner": learner.init(key_own, episode), "judge": judge}

    def loss(params: PyTree, episode: Episode, key: jax.Array):
        value, info = learner.loss(params["learner"], episode, key)
        told, right = [], []
        for side, rows in ((0.0, episode.support), (1.0, episode.query)):
            x_NxD = features(params["learner"], episode.profile, rows.inputs)
            logit = side_logits(params["judge"], reverse(x_NxD, strength))
            told.append(losses.log_loss(logit, jnp.full_like(rows.label, side), rows.mask))
            right.append(losses.masked_mean((logit > 0) == (side > 0), rows.mask))
        fooled = 0.5 * (told[0] + told[1])
        return value + fooled, {**info, "domain_accuracy": 0.5 * (right[0] + right[1])}

    return of_part(learner, lambda params: params["learner"])._replace(init=init, loss=loss)


def side_logits(judge: PyTree, x_NxD: jax.Array) -> jax.Array:
    """The classifier's logits (N,) that an interaction is of the query's domain."""
    body, head = judge["body"], judge["head"]
    hidden = jax.nn.relu(x_NxD @ body["kernel"] + body["bias"][None, :])
    return (hidden @ head["kernel"] + head["bias"][None, :])[:, 0]
