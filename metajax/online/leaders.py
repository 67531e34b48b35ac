"""Online meta-learning in constant memory: a few vectors in place of a buffer of all tasks.

`regularized_leader` is FORM's idea, `balanced` MOML's, and `la_maml` learns the rates it steps
with. Each keeps as much as the parameters, whatever the length of the stream.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import optim
from metajax.online.updaters import Updater, if_any, slope
from metajax.types import Episode, MetaLearner, Params


class Linear(NamedTuple):
    """FTRL's memory of all meta-gradients: their corrected sum, and the sum of their squares."""

    total: Params
    squares: Params


def regularized_leader(
    learner: MetaLearner, rate: float | jax.Array, *, beta: float = 1.0, l2: float = 0.0
) -> Updater:
    """Follows the regularized leader over meta-gradients: FTRL-proximal on the outer loss.

    The loss of each past task is replaced by its linear bound at the parameters it was met with,
    and proximal terms hold the leader near where it has been; the memory is two vectors. This is
    the update that FORM builds on; FORM's weights per user and its own regularizer of the inner
    step are not here.

    Args:
      learner: whose outer loss is minimized.
      rate, beta: step size and its offset in FTRL-proximal, see `metajax.online.rows.ftrl`.
      l2: strength of the pull towards the initial parameters.

    References: Sun et al., "FORM: follow the online regularized meta-leader for cold-start
    recommendation", SIGIR 2021; McMahan et al., KDD 2013.
    """
    gradient = slope(learner)

    def init(params: Params, task: Episode) -> tuple[Linear, Params]:
        del task
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Linear(zeros, zeros), params

    def update(state: Any, params: Params, tasks: Episode, mask: jax.Array, key: jax.Array):
        (total, squares), origin = state
        grads = gradient(params, tasks, mask, key)
        new = jax.tree.map(lambda n, g: n + g * g, squares, grads)
        sigma = jax.tree.map(lambda a, b: (jnp.sqrt(b) - jnp.sqrt(a)) / rate, squares, new)
        total = jax.tree.map(
            lambda z, g, s, p, o: z + g - s * (p - o), total, grads, sigma, params, origin
        )
        solved = lambda o, z, n: o - z / ((beta + jnp.sqrt(n)) / rate + l2)
        solution = jax.tree.map(solved, origin, total, new)
        memory, params = if_any(mask, (Linear(total, new), solution), (state[0], params))
        return (memory, origin), params

    return Updater(init, update)


class Balanced(NamedTuple):
    """MOML's memory: the linear correction, and the average that the next task is met with."""

    correction: Params
    average: Params


def balanced(
    learner: MetaLearner, weight: float, rate: float | jax.Array, num_steps: int = 5
) -> Updater:
    """Balances the new task against a linear memory of the old ones, in constant memory.

    On the tasks f of a round, ``theta`` minimizes ``f(theta) - <c, theta> + weight / 2 ||theta -
    w||^2`` by gradient steps; then ``c <- c - weight (theta - w)``, which at the minimum is the
    gradient of f there, and ``w <- (w + theta) / 2 - c / (2 weight)``. Where nothing changes any
    more, c is 0, and so is the mean gradient: a stationary point of what the stream repeats.

    The equations are those of dynamic regularization with a single device, from which MOML's are
    derived; constants of the paper may differ.

    Args:
      learner: whose outer loss is minimized.
      weight: of the proximal term.
      rate: of the gradient steps; num_steps: how many are taken in each round.

    References: Acar, Zhu, Saligrama, "Memory efficient online meta learning" (MOML), ICML 2021;
    Acar et al., "Federated learning based on dynamic regularization", ICLR 2021.
    """
    gradient = slope(learner)

    def init(params: Params, task: Episode) -> Balanced:
        del task
        return Balanced(jax.tree.map(jnp.zeros_like, params), params)

    def update(state: Balanced, params: Params, tasks: Episode, mask: jax.Array, key: jax.Array):
        correction, average = state
        del params

        def step(theta: Params, key: jax.Array):
            grads = gradient(theta, tasks, mask, key)
            move = lambda p, g, c, w: p - rate * (g - c + weight * (p - w))
            return jax.tree.map(move, theta, grads, correction, average), None

        theta, _ = jax.lax.scan(step, average, jax.random.split(key, num_steps))
        correct = lambda c, p, w: c - weight * (p - w)
        correction = jax.tree.map(correct, correction, theta, average)
        merge = lambda w, p, c: (w + p) / 2 - c / (2 * weight)
        average = jax.tree.map(merge, average, theta, correction)
        new = if_any(mask, Balanced(correction, average), state)
        return new, new.average

    return Updater(init, update)


def clipped_rates(rate: float) -> optim.Inner:
    """Gradient descent with a learned rate per parameter; a rate below 0 counts as 0.

    Args:
      rate: the initial rate of every parameter.
    """

    def make(rates: Params):
        def update(updates: Params, state: Any, params: Any = None):
            del params
            return jax.tree.map(lambda r, g: -jnp.maximum(r, 0.0) * g, rates, updates), state

        return optax.GradientTransformation(lambda params: (), update)

    return optim.Inner(lambda fast: jax.tree.map(lambda x: jnp.full_like(x, rate), fast), make)


def la_maml(learner: MetaLearner, rate_of_rates: float | jax.Array) -> Updater:
    """La-MAML: steps with the inner rates themselves, which are learned first, and never negative.

    ``a <- a - rate_of_rates grad_a``, then ``w <- w - max(a, 0) grad_w``, both gradients of the
    outer loss of the round.

    Args:
      learner: `metajax.learners.gradient.maml.gradient` with `clipped_rates`, first order in the
        paper; parameters that do not adapt have no rate, and stay.

    References: Gupta, Yadav, Paull, "Look-ahead meta learning for continual learning", NeurIPS
    2020, algorithm 1; the replay of old examples is left to a buffer before it.
    """
    gradient = slope(learner)

    def update(state: tuple, params: Params, tasks: Episode, mask: jax.Array, key: jax.Array):
        grads = gradient(params, tasks, mask, key)
        descend = lambda a, g: a - rate_of_rates * g
        rates = jax.tree.map(descend, params["rates"], grads["rates"])
        move = lambda r, p, g: p if r is None else p - jnp.maximum(r, 0.0) * g
        is_none = lambda x: x is None
        model = jax.tree.map(move, rates, params["model"], grads["model"], is_leaf=is_none)
        return state, if_any(mask, {**params, "rates": rates, "model": model}, params)

    return Updater(lambda params, task: (), update)
