"""Synthetic users whose mean taste drifts in time, and the optimal predictor for them.

No learner can be better, on average, than the Bayesian `tracker`, which knows the world's numbers.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.online.meta import AskedTasks, ToldTasks, asked_of
from metajax.online.prequential import Online, Round
from metajax.types import Episode, Examples


class Stream(NamedTuple):
    """A sampled stream of T tasks.

    Attributes:
      rounds: T rounds of one task.
      mean: (T, D) the mean taste at each task; jumped: (T,) whether it was drawn anew before it.
    """

    rounds: Round
    mean: jax.Array
    jumped: jax.Array


@dataclasses.dataclass(frozen=True)
class DriftStream:
    """Users whose tastes scatter around a mean that walks, jumps, does both, or neither.

    Task t has ``y = v . w_t + sigma eps`` with ``w_t = mean_t + tau eps``, items ``v ~ N(0, I) /
    sqrt(dim)``. The mean begins as N(0, I). Before each task after the ``calm`` first ones it is
    drawn anew with probability ``jump``, and otherwise moves by N(0, walk^2 I).

    Attributes:
      walk: standard deviation of a step, in each direction.
      jump: probability of a jump before a task.
      calm: tasks at the beginning in which nothing drifts: the time of the baseline.
    """

    dim: int = 8
    tau: float = 0.5
    sigma: float = 0.5
    walk: float = 0.0
    jump: float = 0.0
    calm: int = 0
    num_support: int = 5
    num_query: int = 10

    def stream(self, key: jax.Array, num_tasks: int) -> Stream:
        """A stream of tasks."""
        key_first, key_rest = jax.random.split(key)
        first = jax.random.normal(key_first, (self.dim,))

        def step(carry: tuple, key: jax.Array):
            mean, number = carry
            keys = jax.random.split(key, 4)
            moves = number >= max(self.calm, 1)
            jumps = moves & (jax.random.uniform(keys[0]) < self.jump)
            walked = mean + self.walk * moves * jax.random.normal(keys[1], (self.dim,))
            mean = jnp.where(jumps, jax.random.normal(keys[2], (self.dim,)), walked)
            return (mean, number + 1), (self._task(mean, keys[3]), mean, jumps)

        begin = (first, jnp.zeros((), jnp.int32))
        keys = jax.random.split(key_rest, num_tasks)
        _, (tasks, mean, jumped) = jax.lax.scan(step, begin, keys)
        tasks = jax.tree.map(lambda x: x[:, None], tasks)
        told = ToldTasks(tasks, jnp.ones((num_tasks, 1)))
        query = tasks.query
        return Stream(Round(asked_of(tasks), query.label, query.mask, told), mean, jumped)

    @precision.highest
    def _task(self, mean: jax.Array, key: jax.Array) -> Episode:
        key_user, key_item, key_noise = jax.random.split(key, 3)
        n = self.num_support + self.num_query
        w = mean + self.tau * jax.random.normal(key_user, (self.dim,))
        v_NxD = jax.random.normal(key_item, (n, self.dim)) / self.dim**0.5
        label = v_NxD @ w + self.sigma * jax.random.normal(key_noise, (n,))
        whole = Examples(v_NxD, label, jnp.ones(n))
        part = lambda s: jax.tree.map(lambda x: x[s], whole)
        k = self.num_support
        return Episode((), part(slice(0, k)), part(slice(k, n)))


class Belief(NamedTuple):
    """The tracker's posterior: a Gaussian of the mean taste for each possible time of the last
    jump, H in all.

    Attributes:
      mean: (H, D); spread: (H, D, D).
      weight: (H,) logarithms of their probabilities, -inf for what is not in use.
      count: tasks met.
    """

    mean: jax.Array
    spread: jax.Array
    weight: jax.Array
    count: jax.Array


def _foreseen(world: DriftStream, belief: Belief) -> Belief:
    """The belief about the mean taste of the next task."""
    eye = jnp.eye(world.dim)
    moves = (belief.count >= max(world.calm, 1)) * 1.0
    spread = belief.spread + moves * world.walk**2 * eye[None]
    hazard = moves * world.jump
    weight = belief.weight + jnp.log1p(-hazard)
    place = jnp.argmin(weight)
    born = jnp.where(hazard > 0, jnp.log(hazard), weight[place])
    return belief._replace(
        mean=belief.mean.at[place].set(jnp.where(hazard > 0, 0.0, belief.mean[place])),
        spread=spread.at[place].set(jnp.where(hazard > 0, eye, spread[place])),
        weight=weight.at[place].set(born),
    )


@precision.highest
def _gained(world: DriftStream, mean: jax.Array, spread: jax.Array, data: Examples):
    """Of a mean taste: design (N, D), solved design (N, D) and residual (N,), log-likelihood."""
    x_NxD = data.inputs * data.mask[:, None]
    residual = (data.label - data.inputs @ mean) * data.mask
    own = spread + world.tau**2 * jnp.eye(world.dim)
    cover = x_NxD @ own @ x_NxD.T + world.sigma**2 * jnp.eye(len(residual))
    solved = jnp.linalg.solve(cover, jnp.concatenate([x_NxD, residual[:, None]], axis=1))
    _, logdet = jnp.linalg.slogdet(cover)
    fit = -0.5 * (residual @ solved[:, -1] + logdet)
    return x_NxD, solved[:, :-1], solved[:, -1], fit


def tracker(world: DriftStream, hypotheses: int = 64) -> Online:
    """The Bayesian predictor that knows the world's parameters: the posterior mean of each answer.

    Given the time of the last jump, the mean taste is Gaussian and Kalman's filter is exact; the
    times are weighed by how well they foretold the tasks. It is exact while there are no more
    times than ``hypotheses``; then the least likely one is dropped for each new one. Without jumps
    one hypothesis is exact for ever.

    References: Adams, MacKay, "Bayesian online changepoint detection", 2007; Kalman, 1960.
    """
    dim = world.dim
    eye = jnp.eye(dim)

    def init(key: jax.Array) -> Belief:
        del key
        weight = jnp.full(hypotheses, -jnp.inf).at[0].set(0.0)
        mean, spread = jnp.zeros((hypotheses, dim)), jnp.tile(eye, (hypotheses, 1, 1))
        return Belief(mean, spread, weight, jnp.zeros((), jnp.int32))

    @precision.highest
    def answer(mean: jax.Array, spread: jax.Array, asked: AskedTasks):
        x_NxD, _, residual, fit = _gained(world, mean, spread, asked.support)
        user = mean + (spread + world.tau**2 * eye) @ x_NxD.T @ residual
        return asked.inputs @ user, fit

    def predict(belief: Belief, asked: AskedTasks) -> jax.Array:
        ahead = _foreseen(world, belief)

        def one(asked: AskedTasks) -> jax.Array:
            scores, fit = jax.vmap(answer, (0, 0, None))(ahead.mean, ahead.spread, asked)
            share = jax.nn.softmax(ahead.weight + fit)
            return jnp.matmul(share, scores, precision="highest")

        return jax.vmap(one)(asked)

    @precision.highest
    def updated(mean: jax.Array, spread: jax.Array, data: Examples):
        x_NxD, design, residual, fit = _gained(world, mean, spread, data)
        mean = mean + spread @ x_NxD.T @ residual
        return mean, spread - spread @ x_NxD.T @ design @ spread, fit

    def learn(belief: Belief, told: ToldTasks) -> Belief:
        def one(belief: Belief, task: tuple[Episode, jax.Array]):
            episode, mask = task
            join = lambda s, q: jnp.concatenate([s, q])
            data = jax.tree.map(join, episode.support, episode.query)
            ahead = _foreseen(world, belief)
            mean, spread, fit = jax.vmap(updated, (0, 0, None))(ahead.mean, ahead.spread, data)
            weight = jax.nn.log_softmax(ahead.weight + fit)
            new = Belief(mean, spread, weight, belief.count + 1)
            return jax.tree.map(lambda a, b: jnp.where(mask > 0, a, b), new, belief), None

        return jax.lax.scan(one, belief, told)[0]

    return Online(init, predict, learn)
