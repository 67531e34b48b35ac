"""Users met in two domains, to learn what carries over from one to the other."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.types import Episode, Examples


@dataclasses.dataclass(frozen=True)
class TwoDomains:
    """Users who rated in a source domain and are judged in a target domain.

    ``w_source = w_bar + tau eps`` and ``w_target = w_bar + tau (rho eps + sqrt(1 - rho^2) eps')``:
    ``rho`` in [-1, 1] is how much of a taste carries over. Supports are of the source, queries of
    the target. An input is an item's vector (dim,), ``N(0, I) / sqrt(dim)`` in both domains, and
    then ``marks`` numbers that no label depends on, ``N(-shift / 2, 1)`` in the source and
    ``N(shift / 2, 1)`` in the target: they tell the domains apart.

    Attributes:
      dim: of items' vectors; marks: numbers that tell the domain.
      rho, tau: see above; sigma: standard deviation of the noise of a label.
      shift: distance of the two means of a mark.
      num_support, num_query: examples of a task.
      seed: of ``w_bar``.
    """

    rho: float = 0.8
    dim: int = 6
    marks: int = 4
    tau: float = 1.0
    sigma: float = 0.5
    shift: float = 2.0
    num_support: int = 10
    num_query: int = 10
    seed: int = 0

    @property
    def mean_weights(self) -> jax.Array:
        """``w_bar`` (dim,)."""
        return jax.random.normal(jax.random.key(self.seed), (self.dim,))

    def sample(self, key: jax.Array) -> Episode:
        """One user, with a source support and a target query."""
        key_own, key_other, key_source, key_target = jax.random.split(key, 4)
        own, other = (jax.random.normal(k, (self.dim,)) for k in (key_own, key_other))
        there = self.rho * own + jnp.sqrt(1.0 - self.rho**2) * other
        return Episode(
            (),
            self._rows(key_source, self.mean_weights + self.tau * own, -1.0, self.num_support),
            self._rows(key_target, self.mean_weights + self.tau * there, 1.0, self.num_query),
        )

    @precision.highest
    def _rows(self, key: jax.Array, w: jax.Array, side: float, count: int) -> Examples:
        key_item, key_mark, key_noise = jax.random.split(key, 3)
        v = jax.random.normal(key_item, (count, self.dim)) / jnp.sqrt(self.dim)
        marks = side * self.shift / 2 + jax.random.normal(key_mark, (count, self.marks))
        label = v @ w + self.sigma * jax.random.normal(key_noise, (count,))
        return Examples(jnp.concatenate([v, marks], axis=1), label, jnp.ones(count))

    @precision.highest
    def bayes(self, episode: Episode) -> jax.Array:
        """The Bayes-optimal query scores (Q,): the source's posterior mean, ``rho`` of it."""
        x, label, mask = episode.support
        x = x[:, : self.dim] * mask[:, None]
        normal = x.T @ x + (self.sigma / self.tau) ** 2 * jnp.eye(self.dim)
        away = jnp.linalg.solve(normal, x.T @ ((label - x @ self.mean_weights) * mask))
        return episode.query.inputs[:, : self.dim] @ (self.mean_weights + self.rho * away)
