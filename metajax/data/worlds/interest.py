"""Users of sharp and of flat interest: how far from a rated item its rating still tells something.

Items are points on a sphere, a user has interests there with a liking for each, and rates an item
by the likings of the interests near it. How near is the user's own: sharp users follow the nearest
interest alone, flat users average over many.
"""

import dataclasses

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.types import Episode, Examples


@dataclasses.dataclass(frozen=True)
class SharpOrFlat:
    """``y = sum_k softmax_k(x p_k / tau_u) z_k / s_u + sigma eps`` with tau_u log-uniform.

    Interests p_k are uniform on the sphere, likings z_k ~ N(0, 1), and s_u makes the standard
    deviation of a user's noiseless ratings 1, so that it tells nothing of tau_u.

    Attributes:
      dim: of the items' vectors.
      num_interests: K.
      sharpest, flattest: the range of tau_u.
      sigma: standard deviation of the noise.
      num_support, num_query: ratings of a task.
    """

    dim: int = 3
    num_interests: int = 24
    sharpest: float = 0.03
    flattest: float = 1.0
    sigma: float = 0.2
    num_support: int = 40
    num_query: int = 20

    def temperature(self, key: jax.Array) -> jax.Array:
        """tau_u () of the task that `sample` makes of the same key."""
        low, high = jnp.log(self.sharpest), jnp.log(self.flattest)
        return jnp.exp(jax.random.uniform(jax.random.fold_in(key, 0), minval=low, maxval=high))

    @precision.highest
    def sample(self, key: jax.Array) -> Episode:
        """One task; its inputs are (N, dim) of length 1."""
        tau = self.temperature(key)
        keys = jax.random.split(jax.random.fold_in(key, 1), 4)
        n = self.num_support + self.num_query
        x = _on_sphere(keys[0], (n, self.dim))
        interest = _on_sphere(keys[1], (self.num_interests, self.dim))
        liking = jax.random.normal(keys[2], (self.num_interests,))
        clean = jax.nn.softmax(x @ interest.T / tau, axis=1) @ liking
        clean = (clean - clean.mean()) / (clean.std() + 1e-6)
        label = clean + self.sigma * jax.random.normal(keys[3], (n,))
        rows = Examples(x, label, jnp.ones(n))
        part = lambda rows, at: jax.tree.map(lambda leaf: leaf[at], rows)
        k = self.num_support
        return Episode((), part(rows, slice(k)), part(rows, slice(k, None)))


def _on_sphere(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    x = jax.random.normal(key, shape)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
