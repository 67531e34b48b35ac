"""Users of several kinds, some of them rare: what a training sees often and what it hardly sees."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.types import Episode, Examples


@dataclasses.dataclass(frozen=True)
class UserModes:
    """Users whose tastes lie around one of several centers: ``w_u = m_k + tau eps``.

    Centers are drawn ``N(0, spread^2 I)``, a user's kind k with the probabilities ``shares``; items
    are vectors ``N(0, I) / sqrt(dim)`` and labels ``v . w_u + sigma eps``.

    Attributes:
      dim: of the items' vectors; shares: of the kinds, summing to 1.
      spread, tau, sigma: see above.
      num_support, num_query: examples of a task.
      seed: of the centers.
    """

    dim: int = 8
    shares: tuple[float, ...] = (0.85, 0.05, 0.05, 0.05)
    spread: float = 2.0
    tau: float = 0.3
    sigma: float = 0.5
    num_support: int = 5
    num_query: int = 10
    seed: int = 0

    @property
    def centers(self) -> jax.Array:
        """(kinds, dim)."""
        shape = (len(self.shares), self.dim)
        return self.spread * jax.random.normal(jax.random.key(self.seed), shape)

    def kind(self, key: jax.Array) -> jax.Array:
        """The kind () of a random user."""
        return jax.random.categorical(key, jnp.log(jnp.asarray(self.shares)))

    @precision.highest
    def of_kind(self, key: jax.Array, kind: jax.Array | int) -> Episode:
        """One user of a kind."""
        key_user, key_item, key_noise = jax.random.split(key, 3)
        w = self.centers[kind] + self.tau * jax.random.normal(key_user, (self.dim,))
        n = self.num_support + self.num_query
        v = jax.random.normal(key_item, (n, self.dim)) / jnp.sqrt(self.dim)
        label = v @ w + self.sigma * jax.random.normal(key_noise, (n,))
        rows = Examples(v, label, jnp.ones(n))
        part = lambda a, b: jax.tree.map(lambda x: x[a:b], rows)
        return Episode((), part(0, self.num_support), part(self.num_support, n))

    def sample(self, key: jax.Array) -> Episode:
        """One user of a random kind."""
        key_kind, key_user = jax.random.split(key)
        return self.of_kind(key_user, self.kind(key_kind))

    @precision.highest
    def bayes(self, episode: Episode) -> jax.Array:
        """The query scores (Q,) that no learner can beat: the posterior mean over kinds."""
        x, y, mask = episode.support
        x, y = x * mask[:, None], y * mask
        gram = x.T @ x / self.sigma**2 + jnp.eye(self.dim) / self.tau**2

        def of(center: jax.Array, share: jax.Array) -> tuple[jax.Array, jax.Array]:
            away = jnp.linalg.solve(gram, x.T @ (y - x @ center) / self.sigma**2)
            left = y - x @ center
            fit = jnp.sum(left**2) / self.sigma**2 - away @ (gram @ away)
            return center + away, jnp.log(share) - 0.5 * fit

        w, logit = jax.vmap(of)(self.centers, jnp.asarray(self.shares))
        return episode.query.inputs @ (jax.nn.softmax(logit) @ w)
