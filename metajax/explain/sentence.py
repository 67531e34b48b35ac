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
    against: int = 0,
    digits: int | None = None,
    otherwise: str = "because of nothing that you said",
) -> str:
    """The reasons of a recommendation, the strongest first, and what spoke against it.

    Args:
      titles: (N,) of the items that the person met.
      values: (N,) what they said of each; None where having met an item is all that is known.
      moved: (N,) how much each interaction raised the score.
      least: interactions that moved the score by less than this are not told.
      most: interactions for it that are told; against: those against it.
      digits: of the moves, told in parentheses; None leaves them out.
      otherwise: told where there is none.

    >>> because(["Alien", "Heat", "Up"], [5, 1, 3], [0.4, 0.2, -0.1], against=1, digits=1)
    'because you rated Alien 5 (+0.4) and Heat 1 (+0.2), although you rated Up 3 (-0.1)'
    >>> because(["Alien"], None, [0.4])
    'because of Alien'
    """
    move = np.asarray(moved, float)
    for_it, not_for_it = (
        [int(i) for i in np.argsort(-sign * move, kind="stable")[:n] if sign * move[i] > least]
        for sign, n in ((1.0, most), (-1.0, against))
    )

    def named(i: int) -> str:
        value = "" if values is None else f" {values[i]:g}"
        return f"{titles[i]}{value}" + ("" if digits is None else f" ({moved[i]:+.{digits}f})")

    rated = "of" if values is None else "you rated"
    up, down = [named(i) for i in for_it], [named(i) for i in not_for_it]
    spite = "in spite of" if values is None else "although you rated"
    parts = [f"because {rated} {_listed(up)}"] * bool(up)
    parts += [f"{spite} {_listed(down)}"] * bool(down)
    return ", ".join(parts) or otherwise


def _listed(parts: list[str]) -> str:
    """Parts as one speaks: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
