"""Tasks whose scores have known causes, to judge explanations by."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.types import Episode, Examples


@dataclasses.dataclass(frozen=True)
class Interests:
    """Users with separate interests: a score is caused by what was said of the same interest only.

    An item belongs to one of G interests; its vector (G dim,) is ``N(0, I) / sqrt(dim)`` in the
    entries of that interest and 0 elsewhere. The label is ``v . w_u + sigma eps`` with
    ``w_u = w_bar + tau eps``, whose entries are independent: for the Bayes predictor, ratings of
    other interests have no part in a score.

    Attributes:
      num_interests: G.
      dim: of an interest.
      tau: standard deviation of a user's weights; sigma: of the noise of a label.
      num_support, num_query: examples of a task.
      seed: of ``w_bar``.
    """

    num_interests: int = 4
    dim: int = 3
    tau: float = 1.0
    sigma: float = 0.3
    num_support: int = 16
    num_query: int = 8
    seed: int = 0

    @property
    def mean_weights(self) -> jax.Array:
        """``w_bar`` (G dim,)."""
        return jax.random.normal(jax.random.key(self.seed), (self.num_interests * self.dim,))

    @precision.highest
    def sample(self, key: jax.Array) -> Episode:
        """One user."""
        key_user, key_interest, key_item, key_noise = jax.random.split(key, 4)
        n, width = self.num_support + self.num_query, self.num_interests * self.dim
        w = self.mean_weights + self.tau * jax.random.normal(key_user, (width,))
        interest = jax.random.randint(key_interest, (n,), 0, self.num_interests)
        own = jnp.arange(width)[None, :] // self.dim == interest[:, None]
        v = own * jax.random.normal(key_item, (n, width)) / jnp.sqrt(self.dim)
        label = v @ w + self.sigma * jax.random.normal(key_noise, (n,))
        examples = Examples(v, label, jnp.ones(n))
        first = self.num_support
        parts = (
            jax.tree.map(lambda x, p=p: x[p], examples) for p in (slice(first), slice(first, n))
        )
        return Episode((), *parts)

    @precision.highest
    def causes(self, episode: Episode) -> jax.Array:
        """Whether each support row is a cause of each query row's score (N, Q): 1 or 0."""
        support, query = (
            (x.reshape(len(x), self.num_interests, self.dim) != 0).any(2) * 1.0
            for x in (episode.support.inputs, episode.query.inputs)
        )
        return (support @ query.T) * episode.support.mask[:, None]

    @precision.highest
    def bayes(self, episode: Episode) -> jax.Array:
        """The Bayes-optimal query scores (Q,) given the support set, by the normal equations."""
        x, label, mask = episode.support
        x = x * mask[:, None]
        normal = x.T @ x + (self.sigma / self.tau) ** 2 * jnp.eye(x.shape[1])
        residual = (label - x @ self.mean_weights) * mask
        return episode.query.inputs @ (self.mean_weights + jnp.linalg.solve(normal, x.T @ residual))
