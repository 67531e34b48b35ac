"""Two regression tasks on the same inputs, as alike as one wishes: the generator of MMoE."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax import precision


@dataclasses.dataclass(frozen=True)
class CorrelatedTasks:
    """Two tasks whose weights have the cosine ``rho``; at 1 they are the same task.

    With orthonormal u1, u2: ``w1 = scale u1`` and ``w2 = scale (rho u1 + sqrt(1 - rho^2) u2)``. A
    label is ``w.x + sum_i sin(alpha_i w.x + beta_i) + noise``, so that the labels of the two tasks
    correlate the more the larger rho is; x ~ N(0, I).

    Attributes:
      rho: in [-1, 1]; dim: of x; waves: number of sines; scale: length of the weights.
      noise: standard deviation; seed: of u1, u2, alpha and beta.

    References: Ma et al., KDD 2018, section 3.2.
    """

    rho: float = 0.5
    dim: int = 32
    waves: int = 4
    scale: float = 1.0
    noise: float = 0.1
    seed: int = 0

    @property
    @precision.highest
    def weights(self) -> jax.Array:
        """The weights (2, dim) of the two tasks."""
        draw = jax.random.normal(jax.random.key(self.seed), (self.dim, 2))
        u, _ = jnp.linalg.qr(draw)
        second = self.rho * u[:, 0] + jnp.sqrt(1.0 - self.rho**2) * u[:, 1]
        return self.scale * jnp.stack([u[:, 0], second])

    def sample(self, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        """Inputs (count, dim) and labels (count, 2)."""
        return labeled(self.weights, key, count, waves=self.waves, noise=self.noise, seed=self.seed)


@precision.highest
def labeled(
    weights_Txd: jax.Array, key: jax.Array, count: int, *, waves: int, noise: float, seed: int
) -> tuple[jax.Array, jax.Array]:
    """Inputs (count, dim) and labels (count, T) of tasks with these weights."""
    key_x, key_noise = jax.random.split(key)
    key_alpha, key_beta = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    alpha = 1.0 + 2.0 * jax.random.uniform(key_alpha, (waves,))
    beta = 2.0 * jnp.pi * jax.random.uniform(key_beta, (waves,))
    x = jax.random.normal(key_x, (count, weights_Txd.shape[1]))
    line = x @ weights_Txd.T
    label = line + jnp.sin(line[..., None] * alpha[None, None] + beta[None, None]).sum(axis=-1)
    return x, label + noise * jax.random.normal(key_noise, label.shape)
