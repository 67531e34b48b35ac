"""How much privacy was spent: epsilon at a delta, of rounds and single releases together.

Neighbors are data sets of which one has a person more. The accountant is that of Renyi differential
privacy (Mironov, 2017), by dp-accounting: 1,000 rounds at a sampling rate of .01 and a noise
multiplier of 1 are epsilon 2.10 at delta 1e-5.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

from metajax.federated.private import INSTALL
from metajax.types import UserError

ORDERS = (*(1 + i / 4 for i in range(1, 40)), *range(11, 65), 80, 128, 256, 512)
"""Renyi orders that are tried; the best of them gives epsilon."""


def epsilon(
    rounds: int,
    rate: float,
    noise: float,
    delta: float = 1e-5,
    *,
    once: Sequence[float] = (),
    fixed: int = 0,
) -> float:
    """The epsilon of rounds of Poisson-sampled, clipped and noised sums.

    Args:
      rounds: how many; 0 for the single releases alone.
      rate: the probability that a client is in a round.
      noise: the noise multiplier of the rounds; 0 gives an infinite epsilon.
      delta: the probability of a failure; below 1 over the number of people.
      once: noise multipliers of sums over all people that were released once.
      fixed: the number of people, if cohorts are of a fixed size instead: neighbors then have
        another person in somebody's place, and a sum changes by twice the clip.

    Raises:
      UserError: dp-accounting is not installed, or a number makes no sense.
    """
    _check(rounds, rate, delta)
    if (rounds and noise <= 0) or any(sigma <= 0 for sigma in once):
        return math.inf
    accountant, events = _accountant(bool(fixed)), _events()
    for sigma in once:
        accountant.compose(events.GaussianDpEvent(sigma / 2 if fixed else sigma))
    if rounds:
        one = events.GaussianDpEvent(noise / 2 if fixed else noise)
        if fixed:
            drawn = events.SampledWithoutReplacementDpEvent(fixed, round(rate * fixed), one)
        else:
            drawn = events.PoissonSampledDpEvent(rate, one)
        accountant.compose(events.SelfComposedDpEvent(drawn, rounds))
    return float(accountant.get_epsilon(delta))


def noise_for(
    target: float,
    rounds: int,
    rate: float,
    delta: float = 1e-5,
    *,
    once: Sequence[float] = (),
) -> float:
    """The smallest noise multiplier of the rounds that keeps epsilon at the target or below.

    0 for an infinite target. Arguments are those of `epsilon`.

    Raises:
      UserError: epsilon is not above 0, or the single releases alone spend it.
    """
    require_epsilon(target)
    if math.isinf(target):
        return 0.0
    if once and epsilon(0, rate, 1.0, delta, once=once) >= target:
        raise UserError(f"the single releases alone spend epsilon {target:g}; give them more noise")
    return _bisected(lambda noise: epsilon(rounds, rate, noise, delta, once=once), target)


def noise_once(target: float, delta: float = 1e-5) -> float:
    """The noise multiplier of one sum over all people, released alone; 0 for an infinite target.

    Raises:
      UserError: epsilon is not above 0.
    """
    require_epsilon(target)
    if math.isinf(target):
        return 0.0
    return _bisected(lambda noise: epsilon(0, 1.0, 1.0, delta, once=(noise,)), target)


def require_epsilon(target: float) -> None:
    """Refuses an epsilon that nobody can learn under.

    Raises:
      UserError: it is not above 0.
    """
    if not target > 0:
        raise UserError(
            f"epsilon {target:g}: with 0 or less nothing can be learned; give a number above 0, or "
            "inf for no privacy"
        )


def _bisected(spent: Any, target: float) -> float:
    """The noise in [0.05, 10,000] at which no more than the target is spent, to 1e-3 of it."""
    low, high = 0.05, 0.1
    while spent(high) > target:
        low, high = high, 2 * high
        if high > 1e4:
            raise UserError(f"no noise up to 10,000 keeps epsilon at {target:g}; give a larger one")
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > target else (low, middle)
    return high


def _check(rounds: int, rate: float, delta: float) -> None:
    if rounds < 0 or not 0 < rate <= 1 or not 0 < delta < 1:
        raise UserError(
            f"{rounds} rounds at rate {rate:g} and delta {delta:g}: give 0 rounds or more, a rate "
            "above 0 and up to 1, and a delta between 0 and 1"
        )


def _events() -> Any:
    try:
        from dp_accounting import dp_event
    except ImportError as error:
        raise UserError(INSTALL) from error
    return dp_event


def _accountant(fixed: bool) -> Any:
    try:
        from dp_accounting import privacy_accountant, rdp
    except ImportError as error:
        raise UserError(INSTALL) from error
    # where a fractional order does not converge, it says so and leaves the order out: a bound still
    logging.getLogger("absl").addFilter(_without_orders)
    relation = privacy_accountant.NeighboringRelation
    return rdp.RdpAccountant(
        orders=ORDERS,
        neighboring_relation=relation.REPLACE_ONE if fixed else relation.ADD_OR_REMOVE_ONE,
    )


def _without_orders(line: logging.LogRecord) -> bool:
    return "failed to converge" not in str(line.msg)
