"""The pull of parameters towards a baseline, as an optax transformation, in its two readings.

The founding rule ``theta <- theta - alpha (theta - theta_0)`` is a gradient step on
``alpha / 2 ||theta - theta_0||^2``: a decay towards an anchor, decoupled from the learning rate
(`decay_to`). Read the other way, it is an exponential average of the parameters with the baseline
(`average_with`). Alone, both obey ``theta_t - theta_0 = (1 - alpha)^t (theta_start - theta_0)``;
behind another optimizer the average also shrinks the step that was just made.

References: Li, Grandvalet, Davoine, "Explicit inductive bias for transfer learning" (L2-SP), ICML
2018; Li et al., "Ditto", ICML 2021; Loshchilov, Hutter, "Decoupled weight decay", ICLR 2019.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.types import Params


def decay_to(anchor: Params, alpha: float | jax.Array) -> optax.GradientTransformationExtraArgs:
    """Adds ``-alpha (theta - anchor)`` to the updates; chain it behind the optimizer.

    >>> pull = decay_to(jnp.zeros(1), 0.5)
    >>> updates, _ = pull.update(jnp.array([1.0]), pull.init(jnp.ones(1)), jnp.array([4.0]))
    >>> updates
    Array([-1.], dtype=float32)

    Args:
      anchor: theta_0, of the structure of the parameters.
      alpha: 0 is no pull; 1 puts the parameters back before each step.
    """

    def update(updates: Params, state: Any, params: Params | None = None, **extra: Any):
        del extra
        pull = lambda u, p, a: u - alpha * (p - a)
        return jax.tree.map(pull, updates, _needed(params), anchor), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def average_with(
    baseline: Params, alpha: float | jax.Array
) -> optax.GradientTransformationExtraArgs:
    """Makes the next parameters ``(1 - alpha) (theta + update) + alpha baseline``; chain it last.

    Args:
      baseline: of the structure of the parameters.
      alpha: 0 is no pull; 1 sets the parameters to the baseline.
    """

    def update(updates: Params, state: Any, params: Params | None = None, **extra: Any):
        del extra
        pull = lambda u, p, a: u - alpha * (p + u - a)
        return jax.tree.map(pull, updates, _needed(params), baseline), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def random_anchor(key: jax.Array, anchor: Params) -> Params:
    """Random parameters of the anchor's shapes and total L2 norm.

    A control: a pull towards the baseline is worth something only if it beats a pull towards this.
    """
    flat, form = jax.tree.flatten(anchor)
    keys = jax.random.split(key, len(flat))
    drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, flat, strict=True)]
    ratio = optax.tree.norm(anchor) / jnp.maximum(optax.tree.norm(drawn), 1e-12)
    return jax.tree.unflatten(form, [ratio * x for x in drawn])


def _needed(params: Params | None) -> Params:
    if params is None:
        raise ValueError("an anchor needs the parameters: call update(updates, state, params)")
    return params
