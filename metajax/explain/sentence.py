"""One line for a person: which of their own interactions a recommendation comes from."""

from collections.abc import Sequence

import numpy as np


def because(
    titles: Sequence[str],
    values: Sequence[float] | None,
    moved: Sequence[float] | np.ndarray,
    *,
    least: float = 0.0,
    most: int = 2,
    digits: int | None = None,
    otherwise: str = "because of nothing that you said",
) -> str:
    """The reasons of a recommendation, the strongest first, and what spoke against it.

    Args:
      titles: (N,) of the items that the person met.
      values: (N,) what they said of each; None where having met an item is all that is known.
      moved: (N,) how much each interaction raised the score.
      least: interactions that moved the score by less than this are not told.
      most: interactions that are told, for and against together.
      digits: of the moves, told in parentheses; None leaves them out.
      otherwise: told where there is none.

    >>> because(["Alien", "Heat", "Up"], [5, 1, 3], [0.4, 0.2, -0.1], most=3, digits=1)
    'because you rated Alien 5 (+0.4) and Heat 1 (+0.2), although you rated Up 3 (-0.1)'
    >>> because(["Alien"], None, [0.4])
    'because of Alien'
    """
    strength = np.abs(np.asarray(moved, float))
    told = [int(i) for i in np.argsort(-strength, kind="stable")[:most] if strength[i] > least]

    def named(i: int) -> str:
        value = "" if values is None else f" {values[i]:g}"
        return f"{titles[i]}{value}" + ("" if digits is None else f" ({moved[i]:+.{digits}f})")

    rated = "of" if values is None else "you rated"
    up, down = ([named(i) for i in told if (moved[i] > 0) == sign] for sign in (True, False))
    against = "in spite of" if values is None else "although you rated"
    parts = [f"because {rated} {_listed(up)}"] * bool(up) + [f"{against} {_listed(down)}"] * bool(
        down
    )
    return ", ".join(parts) or otherwise


def _listed(parts: list[str]) -> str:
    """Parts as one speaks: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
