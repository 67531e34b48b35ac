"""A catalogue as a pretrained language model reads it: names, prompts that fit, programs."""

import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.sources import named
from metajax.data.table import Interactions
from metajax.models.language import constrained
from metajax.models.language.pretrained import Pretrained, name_of
from metajax.types import UserError

ARTICLE = re.compile(r"^(.*), (The|A|An|Le|La|Les|L'|El|Los|Il|Das|Der|Die)((?: \(.*\))?)$")
SIZE = 32  # prompts are padded to multiples of it: few programs are compiled


def spoken(title: str) -> str:
    """A title as people write it.

    >>> spoken("Usual Suspects, The (1995)")
    'The Usual Suspects (1995)'
    """
    found = ARTICLE.match(title)
    if not found:
        return title
    return found[2] + ("" if found[2].endswith("'") else " ") + found[1] + found[3]


def names_of(table: Interactions, ids: np.ndarray | None = None) -> list[str]:
    """A name for each item, all different: equal titles get the item's number.

    Args:
      ids: of the items; None for all, in the order of the table.

    Raises:
      UserError: the table has no titles.
    """
    if table.item_titles is None:
        raise UserError(f"{table.name} has no item titles; name a table of the items with --items")
    titles = [spoken(str(title)) for title in np.asarray(table.item_titles)]
    if ids is not None:
        title_of = dict(zip(table.item_ids.tolist(), titles, strict=True))
        titles = [title_of[i] for i in ids.tolist()]
    count: dict[str, int] = {}
    for title in titles:
        count[title] = count.get(title, 0) + 1
    return [t if count[t] == 1 else f"{t} #{i}" for i, t in enumerate(titles)]


def record_name(experiment: str, model: pathlib.Path | None, dataset: str) -> str:
    """The name of a record about titles that a model has read; MiniLM, the default, is not named.

    >>> record_name("text_cold", pathlib.Path("smollm2"), "ml-1m")
    'text_cold-smollm2-ml-1m'
    """
    read_by = () if model is None else (name_of(model),)
    return "-".join((experiment, *read_by, named.short_name(dataset)))


class Text(NamedTuple):
    """A prompt that fits.

    Attributes:
      tokens: (S,) padded on the right; length: how many are real.
      left_out: how many of the oldest lines were left out.
    """

    tokens: np.ndarray
    length: int
    left_out: int


def fitting(
    model: Pretrained, head: str, lines: Sequence[str], tail: str = "", longest: int | None = None
) -> Text:
    """The prompt ``head + lines + tail``, without its oldest lines if it would be too long.

    Args:
      lines: oldest first; the newest always stays.
      longest: in tokens; None for the model's context.

    Raises:
      UserError: head, newest line and tail alone are too long.
    """
    room = min(longest or model.context, model.context)
    first, last = model.encode(head), model.encode(tail) if tail else []
    rows = [model.encode(line) for line in lines]
    left_out, total = 0, len(first) + len(last) + sum(map(len, rows))
    while total > room and left_out < len(rows) - 1:
        total -= len(rows[left_out])
        left_out += 1
    if total > room:
        raise UserError(
            f"the prompt has {total} tokens and {room} fit, even with its newest title alone; "
            "shorten it"
        )
    tokens = [*first, *(t for row in rows[left_out:] for t in row), *last]
    padding = [0] * (-len(tokens) % SIZE)
    return Text(np.array(tokens + padding, np.int32), len(tokens), left_out)


class Searcher:
    """The search for the titles that a model writes next, after any prompt.

    Attributes:
      tree: of all names.
    """

    def __init__(self, model: Pretrained, names: Sequence[str], width: int):
        self.model = model
        self.tree = constrained.prefix_tree([model.encode(f" {name}\n") for name in names])
        found = lambda params, tree, tokens, length, allowed: constrained.best_items(
            model.decoder, params, tokens, length, tree, width, allowed
        )
        self._found = jax.jit(found)  # parameters and tree are arguments, not constants

    @property
    def room(self) -> int:
        """Tokens that a prompt may have, so that every title fits behind it."""
        return self.model.context - self.tree.depth

    def __call__(self, text: Text, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items found (W,), best first, -1 where there are fewer, and log-likelihoods (W,)."""
        given = jnp.asarray(text.tokens), jnp.int32(text.length), jnp.asarray(allowed)
        items, scores = self._found(self.model.params, self.tree, *given)
        return np.asarray(items), np.asarray(scores)
