"""The items of a model as people know them: ids, titles, and search by what is typed."""

import difflib
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from metajax.types import UserError

CLOSE_AMONG = 50_000  # titles that are compared letter by letter for suggestions
RATING = re.compile(r"\s*(.+?)\s*=\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(?:[,;]|$)")


class Catalogue:
    """The items of a model.

    Args:
      ids: (N,) whole numbers or text, as the log has them.
      titles: (N,) text, or None where the log has none: then an item is called by its id.
      year: (N,) year of release, 0 where unknown, or None.
    """

    def __init__(self, ids: np.ndarray, titles: list[str] | None, year: np.ndarray | None = None):
        self.ids, self.titles, self.year = ids, titles, year
        self._by_id = {str(one): place for place, one in enumerate(ids.tolist())}
        self._by_title: dict[str, list[int]] = {}
        self._by_name: dict[str, list[tuple[int, int]]] = {}  # without the year: (place, year)
        for place, title in enumerate(titles or []):
            self._by_title.setdefault(plain(title), []).append(place)
            name, own = _name_and_year(title)
            known = own if year is None else int(year[place]) or own
            self._by_name.setdefault(plain(name), []).append((place, known))

    def __len__(self) -> int:
        return len(self.ids)

    def id(self, item: int) -> int | str:
        """The id of an item, a plain Python value."""
        return self.ids[item].item()

    def title(self, item: int) -> str:
        """What an item is called, with its year where that is known; its id without a title."""
        title = self.titles[item] if self.titles else ""
        if not title:
            return str(self.ids[item])
        year = int(self.year[item]) if self.year is not None else 0
        return f"{title} ({year})" if year and str(year) not in title else title

    def find(self, name: str | int) -> int:
        """The index of the item with this id or title, in upper or lower case.

        Args:
          name: an id or a title; ``id:7`` or ``title:7`` where both exist.

        Raises:
          UserError: there is no such item (the message names similar titles), or several.
        """
        text = str(name).strip()
        wanted, rest = text.partition(":")[0], text.partition(":")[2].strip()
        if wanted == "id" and rest in self._by_id:
            return self._by_id[rest]
        by_title = self._titled(rest) if wanted == "title" else self._titled(text)
        by_id = self._by_id.get(text)
        found = sorted(set(by_title if by_id is None else [*by_title, by_id]))
        if len(found) == 1:
            return found[0]
        if not found:
            raise UserError(f"no item is called {text!r}{self._nearest(text)}")
        if by_id is not None:
            raise UserError(
                f"{text!r} is the id of {self.title(by_id)!r} and the title of another item; write "
                f"id:{text} or title:{text}"
            )
        shown = ", ".join(f"id:{self.ids[i]} {self.title(i)}" for i in found[:5])
        raise UserError(f"{len(found)} items are called {text!r}; give the id: {shown}")

    def _titled(self, text: str) -> list[int]:
        """The items with just this title, else with this title but for the year."""
        name, year = _name_and_year(text)
        named = self._by_name.get(plain(name), [])
        return self._by_title.get(plain(text)) or [i for i, own in named if year in (0, own)]

    def _nearest(self, text: str) -> str:
        """The titles most like a text, as the end of a message."""
        near = self.search(text, 3)
        if not near and len(self) <= CLOSE_AMONG:
            pool = self._by_title or {one.lower(): [i] for one, i in self._by_id.items()}
            close = difflib.get_close_matches(plain(text), pool, 3, 0.6)
            near = [pool[name][0] for name in close]
        if near:
            return "; did you mean " + " or ".join(repr(self.title(i)) for i in near) + "?"
        kind = "titles or ids" if self.titles else "ids (this log has no titles)"
        return f"; give {kind} of the log, such as {self.title(0)!r}"

    def search(self, text: str, limit: int) -> list[int]:
        """Up to ``limit`` items whose title or id has every word of a text; prefixes first."""
        words = plain(text).split()
        if not words:
            return []
        pool = self._by_title or {one.lower(): [i] for one, i in self._by_id.items()}
        held = [name for name in pool if all(word in name for word in words)]
        held.sort(key=lambda name: (not name.startswith(words[0]), len(name), name))
        found = [item for name in held[:limit] for item in pool[name]]
        exact = self._by_id.get(text.strip())
        if exact is not None:
            found = [exact, *(item for item in found if item != exact)]
        return found[:limit]


def _name_and_year(title: str) -> tuple[str, int]:
    """``Alien (1979)`` as ``Alien`` and 1979; 0 where no year stands at the end."""
    match = re.fullmatch(r"(.*\S)\s*\((\d{4})\)\s*", title)
    return (match[1], int(match[2])) if match else (title, 0)


def plain(title: str) -> str:
    """A title for comparison: lower case, one space, ``Matrix, The`` as ``the matrix``."""
    text = " ".join(title.casefold().split())
    moved = re.fullmatch(r"(.*), (the|a|an|der|die|das|le|la|les|l'|el|il)", text)
    return f"{moved[2]} {moved[1]}" if moved else text


class Labels(NamedTuple):
    """The kind of feedback that people give on items, and its conversion to labels.

    Attributes:
      kind: "ratings" on a scale; "counts", how often something happened; "clicks", that it did.
      low, high: the ends of the scale of ratings.
      unit: of counts: the label is log(1 + count) / unit, whose mean over the log is 1.
    """

    kind: str
    low: float = 0.0
    high: float = 1.0
    unit: float = 1.0

    @property
    def events(self) -> bool:
        """Whether the log is implicit feedback: counts or clicks."""
        return self.kind != "ratings"

    def encode(self, said: Mapping[str, float]) -> np.ndarray:
        """The labels (n,) float32 that a model learns from.

        Args:
          said: title or id of an item -> rating, count, or any positive number for a click.

        Raises:
          UserError: a value is not finite, is off the scale of ratings, or is not positive.
        """
        for name, value in said.items():
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not np.isfinite(value):
                raise UserError(f"the {self.word} {value!r} of {name!r} is not a finite number")
            if self.events and not value > 0:
                raise UserError(f"{name!r} has {value:g}: give a number above 0, such as 1")
            if not self.events and not self.low <= value <= self.high:
                raise UserError(
                    f"the rating {value:g} of {name!r} lies outside the scale "
                    f"{self.low:g}..{self.high:g}"
                )
        values = np.array(list(said.values()), np.float64)
        if self.kind == "counts":
            values = np.log1p(values) / self.unit
        elif self.events:
            values = np.ones(len(values))
        return values.astype(np.float32)

    @property
    def word(self) -> str:
        """What one value is called: rating, count or event."""
        return {"ratings": "rating", "counts": "count", "clicks": "event"}[self.kind]


def parse_said(text: str, labels: Labels, catalogue: Catalogue) -> dict[str, float]:
    """Item -> value, from a text such as ``Alien=5, Godfather, The=2``.

    Of a log of events the values may be left out: ``Alien, Godfather, The``.

    Raises:
      UserError: the text is not understood; an item occurs twice with different values.
    """
    found: dict[str, float] = {}
    rest = text
    while rest.strip(" ,;"):
        match = RATING.match(rest)
        if match:
            name, value, rest = match[1].strip(), _number(match[2]), rest[match.end() :]
        elif labels.events:
            name, rest = _longest_name(rest.strip(" ,;"), catalogue)
            value = 1.0
        else:
            raise UserError(
                f"{rest.strip()!r} is not understood; write items and ratings as 'Alien=5, Heat=2'"
            )
        if found.get(name, value) != value:
            raise UserError(f"{name!r} stands twice with other values; give one")
        found[name] = value
    return found


def _longest_name(text: str, catalogue: Catalogue) -> tuple[str, str]:
    """The longest start of a text, up to a comma, that is an item; and what follows it."""
    ends = [m.start() for m in re.finditer(r"[,;]", text)] + [len(text)]
    for end in reversed(ends):
        try:
            catalogue.find(text[:end])
        except UserError:
            continue
        return text[:end].strip(), text[end:]
    return text[: ends[0]].strip(), text[ends[0] :]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{text!r} is not a number; write items and ratings as 'Alien=5'") from None
