"""One line for a person: which of their own interactions a recommendation comes from."""

from collections.abc import Sequence

import numpy as np


def because(
    titles: Sequence[str],
    values: Sequence[float] | None,
    raised: Sequence[float] | np.ndarray,
    *,
    least: float = 0.0,
    most: int = 2,
    own: str = "nothing you said",
) -> str:
    """The reasons of a recommendation, the strongest first.

    Args:
      titles: (N,) of the items that the person met.
      values: (N,) what they said of each; None where having met an item is all that is known.
      raised: (N,) how much each interaction raised the score.
      least: interactions that raised the score by less than this are not told.
      most: interactions that are told.
      own: told where there is none.

    >>> because(["Alien", "Heat", "Up"], [5, 1, 3], [0.4, 0.2, -0.1])
    'because you rated Alien 5 and Heat 1'
    >>> because(["Alien"], None, [0.4])
    'because you chose Alien'
    """
    order = np.argsort(-np.asarray(raised, float), kind="stable")[:most]
    told = [int(i) for i in order if raised[i] > least]
    if not told:
        return f"because of {own}"
    if values is None:
        return f"because you chose {_listed([titles[i] for i in told])}"
    return f"because you rated {_listed([f'{titles[i]} {values[i]:g}' for i in told])}"


def _listed(parts: list[str]) -> str:
    """Parts as one speaks: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
