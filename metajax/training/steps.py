"""One outer step: draw a batch, take its gradient, update the parameters.

A `Recipe` holds the functions for it. `recipe` makes one from a learner and an optax optimizer; for
another gradient (`training.outer_gradient`, `optim.touched_rows`), another update
(`training.updates`) or more devices (`training.devices`) replace the function in question.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.optim.touched_rows import RowGradient, gather
from metajax.training.outer_gradient import GradientFn, Info, outer_gradient
from metajax.training.updates import Update, optimizer
from metajax.types import MetaLearner, Params, PyTree

Sampler = Callable[[PyTree, jax.Array], Any]
"""(data, key) -> a batch; for meta-learners an `Episode` of tasks, leaves (T, ...)."""
FINE, LOSS, GRADIENT, PARAMETERS, SCORE = range(5)
"""What is not finite after an outer step, or `FINE`; `SCORE` is the validation score."""


_TOLD = {
    LOSS: "the loss{} is not finite at outer step {}; lower the inner or outer rate",
    GRADIENT: "the gradient{} is not finite at outer step {}, and the loss is; lower the inner "
    "rate, or look for an inner gradient of exactly 0, as of an empty support: Adam without "
    "eps_root and clipping by norm have no derivative there",
    PARAMETERS: "the parameters{} are not finite after outer step {}, and loss and gradient are; "
    "lower the outer rate",
    SCORE: "the validation score{} is not finite after outer step {}, and the parameters are; "
    "lower the inner rate, or look at the validation tasks",
}


class Diverged(NamedTuple):
    """A diverged seed: its number from 0, the outer step, and what was not finite then.

    ``str`` of it is a message with advice. ``what`` is `LOSS`, `GRADIENT`, `PARAMETERS` or `SCORE`.
    """

    seed: int
    step: int
    what: int

    def __str__(self) -> str:
        return _TOLD[self.what].format(f" of seed {self.seed}", self.step)


class Recipe(NamedTuple):
    """How parameters are trained.

    Attributes:
      init: (key, a batch, used for its shapes) -> the initial parameters.
      gradient_fn: (params, batch, key) -> (gradient, info with ``loss``).
      update_fn: the optimizer, see `Update`.
    """

    init: Callable[[jax.Array, Any], Params]
    gradient_fn: GradientFn
    update_fn: Update


class TrainState(NamedTuple):
    """The state between two outer steps.

    Attributes:
      params: the parameters.
      opt_state: the state of the outer optimizer.
      key: () for the next steps.
      step: () int32, the number of steps done.
    """

    params: Params
    opt_state: Any
    key: jax.Array
    step: jax.Array


def recipe(
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    gradient_fn: GradientFn | None = None,
) -> Recipe:
    """Meta-training of a learner by an optax optimizer.

    Args:
      learner: the learner; a batch is an `Episode` of T tasks, leaves (T, ...).
      tx: the outer optimizer.
      gradient_fn: in place of `outer_gradient` of the learner.
    """
    one_task = lambda batch: jax.tree.map(lambda x: x[0], batch)
    return Recipe(
        lambda key, batch: learner.init(key, one_task(batch)),
        outer_gradient(learner) if gradient_fn is None else gradient_fn,
        optimizer(tx),
    )


def init(recipe: Recipe, key: jax.Array, batch: Any) -> TrainState:
    """The state before the first outer step; ``batch`` is any batch, used for its shapes."""
    key_init, key_train = jax.random.split(key)
    params = recipe.init(key_init, batch)
    return TrainState(params, recipe.update_fn.init(params), key_train, jnp.zeros((), jnp.int32))


def step(
    recipe: Recipe, sample: Sampler, state: TrainState, data: PyTree
) -> tuple[TrainState, Info]:
    """The state after one more outer step, and its metrics.

    Args:
      sample: draws the batch.
      data: what it draws from.

    Returns:
      The state, and the info of the gradient, with ``trouble`` (): `FINE`, or what is not finite:
      `LOSS`, `GRADIENT` or `PARAMETERS`.
    """
    key, key_sample, key_loss = jax.random.split(state.key, 3)
    batch = sample(data, key_sample)
    grads, info = recipe.gradient_fn(state.params, batch, key_loss)
    params, opt_state = recipe.update_fn.apply(state.params, state.opt_state, grads)
    trouble = _trouble(info["loss"], grads, params)
    return TrainState(params, opt_state, key, state.step + 1), {**info, "trouble": trouble}


def steps(recipe: Recipe, sample: Sampler, num_steps: int) -> Callable:
    """A function (state, data) -> (state, info (num_steps,)) of that many outer steps, to jit."""

    def run(state: TrainState, data: PyTree) -> tuple[TrainState, Info]:
        return jax.lax.scan(lambda s, _: step(recipe, sample, s, data), state, length=num_steps)

    return run


def _trouble(loss: jax.Array, grads: PyTree, params: Params) -> jax.Array:
    """The first of loss, gradient and new parameters that is not finite; of tables, their rows."""

    def touched(of_leaf: Any, leaf: jax.Array) -> jax.Array:
        return gather(leaf, of_leaf.rows) if isinstance(of_leaf, RowGradient) else leaf

    is_row = lambda x: isinstance(x, RowGradient)
    moved = params  # what an update is given need not be shaped as they are
    if any(map(is_row, jax.tree.leaves(grads, is_leaf=is_row))):
        moved = jax.tree.map(touched, grads, params, is_leaf=is_row)
    found = (_finite(loss), _finite(grads), _finite(moved))
    codes = [jnp.uint8(x) for x in (LOSS, GRADIENT, PARAMETERS)]
    return jnp.select([~ok for ok in found], codes, jnp.uint8(FINE))


def _finite(values: PyTree) -> jax.Array:
    """Whether all floating-point numbers of a tree are finite, a scalar."""
    floats = [x for x in jax.tree.leaves(values) if jnp.issubdtype(x.dtype, jnp.inexact)]
    each = [jnp.all(jnp.isfinite(x)) for x in floats]
    return jnp.all(jnp.stack(each)) if each else jnp.bool_(True)


def sampler(draw: Callable[[jax.Array, Any], Any], num_tasks: int) -> Sampler:
    """A sampler of batches of tasks, each ``draw(key, data)``, such as `data.episodes.draw`."""
    return lambda data, key: jax.vmap(draw, (0, None))(jax.random.split(key, num_tasks), data)


def world_sampler(world: Any, num_tasks: int) -> Sampler:
    """A sampler of batches from a synthetic world; it needs no data."""
    return lambda data, key: jax.vmap(world.sample)(jax.random.split(key, num_tasks))
