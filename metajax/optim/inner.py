"""Inner optimizers with meta-parameters of their own.

Inside a task any optax transformation may run. Its *rates* are what the outer loop learns about it:
learning rates per parameter or per step, a tree of floating-point arrays beside the model's
parameters. The optimizer's own state (moments, step counter) is apart and starts anew in each task.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.types import PyTree


class Inner(NamedTuple):
    """An inner optimizer whose rates are meta-parameters.

    Attributes:
      init: (the parameters that adapt) -> rates, a tree of floating-point arrays; ``()`` if none.
      make: (rates) -> the optax transformation to run in the task.
    """

    init: Callable[[PyTree], PyTree]
    make: Callable[[PyTree], optax.GradientTransformation]


def fixed(tx: optax.GradientTransformation) -> Inner:
    """An inner optimizer with nothing to learn.

    Give ``optax.adam`` an ``eps_root`` above 0: without it the meta-gradient through a parameter
    whose inner gradient is exactly zero is NaN.
    """
    return Inner(init=lambda fast: (), make=lambda rates: tx)


def learned_rates(rate: float) -> Inner:
    """Gradient descent with one learned rate per parameter, as in Meta-SGD.

    Rates are kept as logarithms, so that they stay positive.

    References: Li et al., "Meta-SGD: learning to learn quickly for few-shot learning", 2017.
    """

    def make(log_rates: PyTree) -> optax.GradientTransformation:
        def update(grads, state, params=None):
            del params
            return jax.tree.map(lambda r, g: -jnp.exp(r) * g, log_rates, grads), state

        return optax.GradientTransformation(lambda params: (), update)

    init = lambda fast: jax.tree.map(lambda x: jnp.full_like(x, jnp.log(rate)), fast)
    return Inner(init, make)


def learned_step_rates(rate: float, num_steps: int) -> Inner:
    """Gradient descent with one learned rate per leaf and inner step, as in MAML++.

    A warm-up that goes beyond ``num_steps`` keeps the last rate.

    References: Antoniou et al., "How to train your MAML", ICLR 2019.
    """

    def make(log_rates: PyTree) -> optax.GradientTransformation:
        def update(grads, step, params=None):
            del params
            at = jnp.minimum(step, num_steps - 1)
            return jax.tree.map(lambda r, g: -jnp.exp(r[at]) * g, log_rates, grads), step + 1

        return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)

    init = lambda fast: jax.tree.map(lambda x: jnp.full((num_steps,), jnp.log(rate), x.dtype), fast)
    return Inner(init, make)
