"""The prior that other users teach: hierarchical Bayes for a linear model of the reward, by EM."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.types import UserError


class Prior(NamedTuple):
    """Weights w ~ N(mean, covariance) of a user, and the variance of a reward's noise.

    Attributes:
      mean: (D,). covariance: (D, D). noise: ().
    """

    mean: jax.Array
    covariance: jax.Array
    noise: jax.Array

    @property
    @precision.highest
    def root(self) -> jax.Array:
        """(D, D), ``root root'`` is the covariance in units of the noise: of `gaussian`."""
        return jnp.linalg.cholesky(self.covariance / self.noise)


@precision.highest
def learned_prior(
    x_UxNxD: jax.Array, reward_UxN: jax.Array, mask_UxN: jax.Array, sweeps: int = 30
) -> Prior:
    """The prior of greatest likelihood, given what other users were shown and how they answered.

    Each reward is ``x' w_u + noise``; a sweep takes the posterior of every w_u, then the moments.

    Args:
      x_UxNxD: features of what each of U users was shown; mask: 1 for a real row.

    References: Kveton et al., "Meta-Thompson sampling", ICML 2021; Dempster, Laird, Rubin, 1977.

    Raises:
      UserError: shapes that do not fit.
    """
    if x_UxNxD.shape[:2] != reward_UxN.shape or mask_UxN.shape != reward_UxN.shape:
        shapes = f"{x_UxNxD.shape}, {reward_UxN.shape}, {mask_UxN.shape}"
        raise UserError(f"features, rewards and mask of other users are {shapes}: lay rows alike")
    x = x_UxNxD * mask_UxN[..., None]
    y = reward_UxN * mask_UxN
    gram = jnp.einsum("und,une->ude", x, x)
    moment = jnp.einsum("und,un->ud", x, y)
    dim, rows = x.shape[-1], mask_UxN.sum()
    start = Prior(jnp.zeros(dim), jnp.eye(dim), jnp.sum(y**2) / rows)

    def sweep(prior: Prior, _: None):
        inverse = jnp.linalg.inv(prior.covariance)
        spread = jnp.linalg.inv(inverse[None] + gram / prior.noise)
        w = jnp.einsum("uij,uj->ui", spread, (inverse @ prior.mean)[None] + moment / prior.noise)
        second = spread + w[:, :, None] * w[:, None, :]
        mean = w.mean(axis=0)
        covariance = second.mean(axis=0) - jnp.outer(mean, mean)
        left = jnp.sum(y**2) - 2 * jnp.sum(w * moment) + jnp.sum(second * gram)
        safe = covariance + 1e-6 * jnp.trace(covariance) / dim * jnp.eye(dim)
        return Prior(mean, safe, left / rows), None

    return jax.lax.scan(sweep, start, None, sweeps)[0]
