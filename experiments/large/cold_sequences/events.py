"""The data of `cold_sequences`: histories without new items; the events and content of these."""

from typing import NamedTuple

import numpy as np

from metajax.data.features import represent
from metajax.data.histories.sequences import HELD_OUT, Sequences
from metajax.data.table import Features, Interactions
from metajax.types import UserError

MOST_SHOTS = 5
"""Interactions of a new item that may be seen; all later ones are judged."""


class Events(NamedTuple):
    """Interactions of M new items: what stood in a person's history before each.

    Attributes:
      item: (M,) their indices.
      history: (M, N, L) the items before each event, oldest first, padded on the right with 0.
      length: (M, N) how many are real.
      mask: (M, N) 1 for a real event.
    """

    item: np.ndarray
    history: np.ndarray
    length: np.ndarray
    mask: np.ndarray

    def part(self, first: int, last: int | None) -> "Events":
        """The events from the place ``first`` to ``last`` of each item."""
        at = slice(first, last)
        return Events(self.item, self.history[:, at], self.length[:, at], self.mask[:, at])


def divided(
    data: Sequences, shares: tuple[float, ...], least: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Groups of items to hide, each a share of those that have ``least`` interactions.

    Raises:
      UserError: a group would have fewer than 8 items.
    """
    count = np.bincount(data.items, minlength=data.num_items)
    able = rng.permutation(np.flatnonzero(count >= least))
    ends = np.cumsum([int(share * len(able)) for share in shares])
    groups = [np.sort(part) for part in np.split(able, ends)[:-1]]
    if min(map(len, groups)) < 8:
        raise UserError(
            f"{data.name}: {len(able)} items have {least} interactions, too few to hide some of "
            "them; give a smaller --least, or a larger log"
        )
    return groups


def without(data: Sequences, hidden: np.ndarray) -> Sequences:
    """The histories without the hidden items; people with fewer than 3 others are left out."""
    kept = ~np.isin(data.items, hidden)
    person = np.repeat(np.arange(len(data.length)), data.length)
    length = np.bincount(person[kept], minlength=len(data.length))
    enough = length > HELD_OUT
    kept &= enough[person]
    length = length[enough]
    start = np.cumsum(length) - length
    return data._replace(
        items=data.items[kept], start=start, length=length, owners=data.owners[enough]
    )


def events_of(
    data: Sequences,
    items: np.ndarray,
    hidden: np.ndarray,
    width: int,
    most: int,
    rng: np.random.Generator,
) -> Events:
    """Up to ``most`` events of each item, in random order, with the known items before each.

    Args:
      items: (M,) whose events.
      hidden: items that no history shows.
      width: L, items of a history, the newest ones.
    """
    person = np.repeat(np.arange(len(data.length)), data.length)
    known = ~np.isin(data.items, hidden)
    history = np.zeros((len(items), most, width), np.int32)
    length, mask = np.zeros((2, len(items), most), np.int32)
    for row, item in enumerate(items):
        places = rng.permutation(np.flatnonzero(data.items == item))[:most]
        for column, place in enumerate(places):
            before = slice(data.start[person[place]], place)
            seen = data.items[before][known[before]][-width:]
            history[row, column, : len(seen)] = seen
            length[row, column], mask[row, column] = len(seen), 1
    return Events(items, history, length, mask)


def content_of(table: Interactions, item_ids: np.ndarray) -> np.ndarray:
    """Genres and title words (V, F) of the items, as far as the data set tells them."""
    features = table.item_features
    kept = {k: v for k, v in features.columns.items() if k == "genre"}
    sizes = {k: features.sizes[k] for k in kept}
    blocks = [represent.content_matrix(Features(kept, sizes), table.num_items).toarray()]
    if table.item_titles is not None:
        words = [set(str(t).split(" (")[0].lower().split()) for t in table.item_titles]
        count: dict[str, int] = {}
        for word in (w for title in words for w in title):
            count[word] = count.get(word, 0) + 1
        common = sorted(w for w, n in count.items() if n > 2)
        place = {word: i for i, word in enumerate(common)}
        block = np.zeros((table.num_items, len(common)), np.float32)
        for row, title in enumerate(words):
            block[row, [place[w] for w in title if w in place]] = 1.0
        blocks.append(block)
    row_of = {int(i): row for row, i in enumerate(table.item_ids)}
    return np.hstack(blocks)[[row_of[int(i)] for i in item_ids]]
