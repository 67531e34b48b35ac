"""How the trained arms of this room are tuned: every rate, all seeds, the best is kept."""

from collections.abc import Callable
from typing import Any

from metajax.types import Params


def best_of(
    rates: tuple[float, ...], fit: Callable[[float], tuple[float, dict[str, Any], Params]]
) -> tuple[dict[str, Any], Params]:
    """What is told of the best rate, and its parameters (S, ...).

    Args:
      rates: each is a trial with all seeds; as many for every arm of an experiment.
      fit: rate -> (the mean validation error of its seeds, what is told of it, parameters).
    """
    tried = {rate: fit(rate) for rate in rates}
    rate = min(tried, key=lambda r: tried[r][0])
    valid, told, params = tried[rate]
    errors = {f"{r:g}": round(found[0], 6) for r, found in tried.items()}
    return {**told, "rate": rate, "trials": len(tried), "valid": valid, "tried": errors}, params
