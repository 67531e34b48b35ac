"""Which tasks go into a batch: at random, alike, spread out, or hard. Samplers for the outer loop.

A sampler is made of two parts: a *pick* chooses the numbers of a batch's tasks, and a *draw* makes
an episode of each. `batches` puts them together into what `training.loop.fit` takes. What a pick
may know of a task (a code and how hard it is) is computed once, from training rows alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import precision
from metajax.data.episodes import Source
from metajax.types import Episode, UserError


class Pool(NamedTuple):
    """Tasks to draw from, and what is known of each beforehand.

    Attributes:
      source: what ``draw`` makes episodes of.
      code: (T, D) where each task lies; only differences and angles between codes matter.
      hardness: (T,) how hard each task is, in any unit.
    """

    source: Any
    code: jax.Array
    hardness: jax.Array


Pick = Callable[[Pool, jax.Array], jax.Array]
"""(pool, key) -> the numbers (B,) of the tasks of a batch."""
Draw = Callable[[Any, jax.Array, jax.Array], Episode]
"""(source, key, number of a task) -> an episode of it."""


def uniform(num_tasks: int) -> Pick:
    """Every task is as likely, with replacement: what the outer loop does by itself."""
    return lambda pool, key: jax.random.randint(key, (num_tasks,), 0, len(pool.code))


def alike(num_tasks: int, candidates: int) -> Pick:
    """Low diversity: of random candidates, those whose codes are nearest to the first one's."""
    _enough(num_tasks, candidates)

    def pick(pool: Pool, key: jax.Array) -> jax.Array:
        some = uniform(candidates)(pool, key)
        code = pool.code[some]
        far = jnp.sum((code - code[:1]) ** 2, axis=1)
        return some[jnp.argsort(far)[:num_tasks]]

    return pick


def spread_out(num_tasks: int, candidates: int, strength: float = 10.0) -> Pick:
    """High diversity: of random candidates, the greedy mode of a determinantal point process.

    The kernel is ``I + strength Z Z'`` over the candidates' codes Z, brought to mean squared length
    1; with strength 0 all batches are as likely.

    References: Kulesza, Taskar, "Determinantal point processes for machine learning", 2012.
    """
    _enough(num_tasks, candidates)

    @precision.highest
    def pick(pool: Pool, key: jax.Array) -> jax.Array:
        some = uniform(candidates)(pool, key)
        z = pool.code[some]
        z = z / jnp.sqrt(jnp.mean(jnp.sum(z**2, axis=1)) + 1e-12)
        return some[greedy_mode(jnp.eye(candidates) + strength * z @ z.T, num_tasks)]

    return pick


def hard(num_tasks: int, sharpness: float = 1.0) -> Pick:
    """Hard tasks more often: by ``exp(sharpness * hardness)``, hardness in standard deviations."""

    def pick(pool: Pool, key: jax.Array) -> jax.Array:
        h = pool.hardness
        logit = sharpness * (h - h.mean()) / (h.std() + 1e-12)
        return jax.random.categorical(key, logit, shape=(num_tasks,))

    return pick


@precision.highest
def greedy_mode(kernel_CxC: jax.Array, size: int) -> jax.Array:
    """The numbers (size,) of items whose determinant is greedily the largest, first one first.

    Each step adds the item that raises ``log det`` of the chosen part of the kernel most.

    Args:
      kernel_CxC: positive definite, C at least ``size``.

    References: Chen, Zhang, Zhou, "Fast greedy MAP inference for determinantal point process",
    NeurIPS 2018: O(size^2 C) by updating a Cholesky factor.
    """

    def step(carry: tuple[jax.Array, jax.Array], i: jax.Array):
        factor_CxB, left = carry
        best = jnp.argmax(left)
        row = kernel_CxC[best] - factor_CxB @ factor_CxB[best]
        new = row / jnp.sqrt(jnp.maximum(left[best], 1e-12))
        left = jnp.where(left == -jnp.inf, left, left - new**2).at[best].set(-jnp.inf)
        return (factor_CxB.at[:, i].set(new), left), best

    first = jnp.zeros((len(kernel_CxC), size)), jnp.diag(kernel_CxC)
    return jax.lax.scan(step, first, jnp.arange(size))[1]


def batches(pick: Pick, draw: Draw) -> Callable[[Pool, jax.Array], Episode]:
    """(pool, key) -> a batch of episodes (B, ...): the sampler of a training."""

    def sample(pool: Pool, key: jax.Array) -> Episode:
        key_pick, key_draw = jax.random.split(key)
        tasks = pick(pool, key_pick)
        return jax.vmap(draw, (None, 0, 0))(
            pool.source, jax.random.split(key_draw, len(tasks)), tasks
        )

    return sample


def fold_in(source: Source, mean: float, penalty: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Each task's fold-in vector (T, D) from all of its rows, and the mean square (T,) it leaves.

    A ridge regression of a task's labels, minus ``mean`` and the items' biases, on the items'
    factors. Items' columns are those the source gives to the task, which its labels are not in.

    Args:
      source: tasks with the input columns ``factor`` and ``bias``.
      mean: the mean label.
      penalty: of the regression.
    """
    tasks = jax.tree.map(np.asarray, source.tasks)
    factor, bias = np.asarray(source.inputs["factor"]), np.asarray(source.inputs["bias"])
    code, left = np.zeros((tasks.num_tasks, factor.shape[1])), np.zeros(tasks.num_tasks)
    for t, (start, length) in enumerate(zip(tasks.start, tasks.length, strict=True)):
        item = tasks.other[start : start + length]
        x, y = factor[item], tasks.label[start : start + length] - mean - bias[item]
        code[t] = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
        left[t] = np.mean((y - x @ code[t]) ** 2)
    return code.astype(np.float32), left.astype(np.float32)


def _enough(num_tasks: int, candidates: int) -> None:
    if candidates < num_tasks:
        raise UserError(
            f"{num_tasks} tasks cannot be picked of {candidates} candidates; give as many or more"
        )
