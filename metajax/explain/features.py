"""What each input feature did to a score: integrated gradients; SHAP and LIME by their packages.

All three ask a function of a vector, and nothing else of a learner: the adapted score as a function
of an item's features, or of which interactions count, `support.adapted`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import PyTree, UserError


def integrated_gradients(
    function: Callable[[PyTree], jax.Array], x: PyTree, baseline: PyTree, num_points: int = 64
) -> PyTree:
    """The share of each number of ``x`` in ``function(x) - function(baseline)``.

    ``(x - baseline)`` times the mean gradient on the line between them, at the middles of
    ``num_points`` parts. The shares sum to the difference (completeness) up to an error that falls
    with the square of ``num_points`` where the function is smooth.

    Args:
      function: a pytree -> a scalar.
      x, baseline: pytrees of floats, alike.

    References: Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017.
    """
    away = jax.tree.map(lambda a, b: a - b, x, baseline)
    at = lambda t: jax.grad(function)(jax.tree.map(lambda b, d: b + t * d, baseline, away))
    slope = jax.lax.map(at, (jnp.arange(num_points) + 0.5) / num_points)
    return jax.tree.map(lambda g, d: jnp.mean(g, axis=0) * d, slope, away)


def kernel_shap(
    function: Callable[[np.ndarray], Any],
    x: np.ndarray,
    background: np.ndarray,
    num_samples: int | str = "auto",
) -> np.ndarray:
    """The Shapley values (D,) of the entries of x (D,), by Kernel SHAP of the package ``shap``.

    Their sum is ``function(x)`` less its mean over the background. They are exact if all 2^D sets
    of entries are asked, which ``num_samples`` says (up to D = 12 or so), else estimated.

    Args:
      function: rows (B, D) -> values (B,).
      background: (M, D) what stands in for entries that are left out.

    Raises:
      UserError: the package is not installed.

    References: Lundberg and Lee, "A unified approach to interpreting model predictions", NeurIPS
    2017.
    """
    try:
        import shap
    except ImportError as error:
        raise UserError("SHAP needs its package: pip install 'metajax[explain]'") from error
    asked = lambda rows: np.asarray(function(np.asarray(rows)), np.float64)
    explainer = shap.KernelExplainer(asked, np.atleast_2d(background))
    return np.asarray(explainer.shap_values(x, nsamples=num_samples, silent=True, l1_reg=0.0))


def lime(
    function: Callable[[np.ndarray], Any],
    x: np.ndarray,
    background: np.ndarray,
    num_samples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """The slopes (D,) of a linear model around x, by the package ``lime``, and its R^2.

    Features are taken as they are, in units of their standard deviation in the background.

    Args:
      function: rows (B, D) -> values (B,).
      background: (M, D) rows that the features' means and deviations are of, M > 1.

    Raises:
      UserError: the package is not installed.

    References: Ribeiro, Singh, Guestrin, "Why should I trust you?", KDD 2016.
    """
    try:
        from lime.lime_tabular import LimeTabularExplainer
    except ImportError as error:
        raise UserError("LIME needs its package: pip install 'metajax[explain]'") from error
    explainer = LimeTabularExplainer(
        np.asarray(background), mode="regression", discretize_continuous=False, random_state=seed
    )
    asked = lambda rows: np.asarray(function(np.asarray(rows)), np.float64)
    told = explainer.explain_instance(
        np.asarray(x), asked, num_features=len(x), num_samples=num_samples
    )
    slopes = np.zeros(len(x))
    for place, slope in told.as_map()[1]:  # of a regression; under 0 are the same with minus signs
        slopes[place] = slope
    return slopes, float(told.score)
