"""A world of people who drift, and learners for the events of one: in order, or as a set.

A user's taste is ``w_t = w + r (w_{t-1} - w) + ...``. The world is linear and Gaussian, so that the
filter of Kalman, told all its numbers, is the best that can be expected.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses, precision
from metajax.learners.parts import query_loss
from metajax.models import transformer
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree


@dataclasses.dataclass(frozen=True)
class World:
    """Drifting users; ``sample(keep, key)`` is one of them.

    Tastes are stationary: at all times N(w, tau^2 I), with correlation ``keep`` from one event to
    the next. The support is in the order of its events, the query is what comes after.

    Attributes:
      seed: another seed is another mean taste, and other people of every `group`.
    """

    seed: int = 0
    dim: int = 8
    tau: float = 1.0
    sigma: float = 0.5
    num_support: int = 50
    num_query: int = 10

    @property
    def mean(self) -> jax.Array:
        """The mean taste (dim,)."""
        return jax.random.normal(self.group(0), (self.dim,))

    def group(self, number: int) -> jax.Array:
        """The key that draws a group of people; group 0 is the mean taste itself."""
        return jax.random.fold_in(jax.random.key(self.seed), number)

    def sample(self, keep: jax.Array | float, key: jax.Array) -> Episode:
        """One user whose tastes keep the share ``keep`` of what they are from event to event."""
        key_first, key_steps, key_item, key_noise = jax.random.split(key, 4)
        n = self.num_support + self.num_query
        normal = lambda key, *shape: jax.random.normal(key, (*shape, self.dim))

        def move(w: jax.Array, step: jax.Array):
            return keep * w + self.tau * jnp.sqrt(1 - keep**2) * step, w

        _, taste = jax.lax.scan(move, self.tau * normal(key_first), normal(key_steps, n))
        x = normal(key_item, n) / self.dim**0.5
        noise = self.sigma * jax.random.normal(key_noise, (n,))
        label = jnp.sum(x * (self.mean[None] + taste), axis=1) + noise
        part = lambda s: Examples(x[s], label[s], jnp.ones(label[s].shape))
        return Episode((), part(slice(0, self.num_support)), part(slice(self.num_support, n)))

    @precision.highest
    def kalman(self, keep: jax.Array | float, episode: Episode) -> jax.Array:
        """The Bayes-optimal scores (Q,) of the query, the world's numbers known."""
        eye = jnp.eye(self.dim)

        def event(belief, row):
            mean, spread = belief
            x, label = row
            gain = spread @ x / (x @ spread @ x + self.sigma**2)
            mean = mean + gain * (label - x @ (self.mean + mean))
            spread = spread - jnp.outer(gain, x @ spread)
            return (keep * mean, keep**2 * spread + self.tau**2 * (1 - keep**2) * eye), None

        start = (jnp.zeros(self.dim), self.tau**2 * eye)
        support = episode.support
        (mean, _), _ = jax.lax.scan(event, start, (support.inputs, support.label))
        ahead = keep ** jnp.arange(self.num_query)[:, None]
        return jnp.sum(episode.query.inputs * (self.mean[None] + ahead * mean[None]), axis=1)


class Weighted(NamedTuple):
    """Ridge regression whose evidence fades.

    Attributes:
      precision, moment: of the data alone, each event's share fading with every later one.
    """

    precision: jax.Array
    moment: jax.Array


def forgetting(dim: int) -> MetaLearner:
    """Recursive least squares with forgetting: fading, prior mean and precision are meta-learned.

    References: Haykin, "Adaptive filter theory", chapter on recursive least squares.
    """

    def init(key: jax.Array, episode: Episode) -> Params:
        del key, episode
        return {"mean": jnp.zeros(dim), "log_precision": jnp.zeros(()), "log_fade": jnp.array(-3.0)}

    def start(params: Params, profile: PyTree) -> Weighted:
        del params, profile
        return Weighted(jnp.zeros((dim, dim)), jnp.zeros(dim))

    @precision.highest
    def adapt(params: Params, state: Weighted, examples: Examples, key: jax.Array) -> Weighted:
        del key
        real = examples.mask > 0
        age = jnp.sum(real) - jnp.cumsum(real)
        fade = jnp.exp(params["log_fade"])
        weight = jnp.where(real, jnp.exp(-fade * age), 0.0)
        x, old = examples.inputs, jnp.exp(-fade * jnp.sum(real))
        residual = examples.label - x @ params["mean"]
        return Weighted(
            precision=old * state.precision + (x * weight[:, None]).T @ x,
            moment=old * state.moment + x.T @ (weight * residual),
        )

    @precision.highest
    def predict(params: Params, state: Weighted, inputs: jax.Array) -> jax.Array:
        prior = jnp.exp(params["log_precision"]) * jnp.eye(dim)
        weights = jnp.linalg.solve(state.precision + prior, state.moment)
        return inputs @ (params["mean"] + weights)

    outer_loss = query_loss(start, adapt, predict, losses.squared_error)
    return MetaLearner(init, start, adapt, predict, outer_loss)


def one_by_one(learner: MetaLearner) -> MetaLearner:
    """The learner that adapts to each event of a support by itself, in their order."""

    def adapt(params: Params, state: Any, examples: Examples, key: jax.Array) -> Any:
        rows = jax.tree.map(lambda x: x[:, None], examples)
        step = lambda state, row: (learner.adapt(params, state, row, key), None)
        return jax.lax.scan(step, state, rows)[0]

    outer_loss = query_loss(learner.start, adapt, learner.predict, losses.squared_error)
    return learner._replace(adapt=adapt, loss=outer_loss)


class Read(NamedTuple):
    """The events read so far."""

    seen: Examples


def reader(world: World, shape: transformer.Shape) -> MetaLearner:
    """In context: a causal Transformer reads events with labels, then items without, in order."""

    def init(key: jax.Array, episode: Episode) -> Params:
        del episode
        keys = jax.random.split(key, 3)
        draw = lambda key, *size: jax.random.normal(key, size) / size[0] ** 0.5
        stack = transformer.init(keys[0], shape, scale=0.1)
        write, read = draw(keys[1], world.dim + 2, shape.width), draw(keys[2], shape.width)
        return {**stack, "write": write, "read": 0.1 * read}

    def start(params: Params, profile: PyTree) -> Read:
        del params, profile
        n = world.num_support
        return Read(Examples(jnp.zeros((n, world.dim)), jnp.zeros(n), jnp.zeros(n)))

    def adapt(params: Params, state: Read, examples: Examples, key: jax.Array) -> Read:
        del params, state, key
        return Read(examples)

    def predict(params: Params, state: Read, inputs: jax.Array) -> jax.Array:
        x, label, mask = state.seen
        columns = [x, label[:, None], jnp.ones((len(label), 1))]
        told = jnp.concatenate(columns, axis=1) * mask[:, None]
        asked = jnp.pad(inputs, ((0, 0), (0, 2)))
        rows = jnp.concatenate([told, asked]) @ params["write"]
        return transformer.forward(shape, params, rows)[len(label) :] @ params["read"]

    outer_loss = query_loss(start, adapt, predict, losses.squared_error)
    return MetaLearner(init, start, adapt, predict, outer_loss)
