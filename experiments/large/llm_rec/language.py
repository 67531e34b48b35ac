"""How `llm_rec` writes people and items: profile tokens and semantic codes."""

import dataclasses
from typing import Any

import numpy as np

from metajax.data.features import codes
from metajax.data.histories.sequences import Sequences
from metajax.data.table import Interactions

from ..sasrec import arms

PROFILE = ("gender", "age", "occupation")


@dataclasses.dataclass(frozen=True)
class Language:
    """How people and items are written.

    Attributes:
      start: (U, P) the first tokens of each person's text.
      items: the token row of each item.
      vocab_size: number of tokens.
    """

    start: np.ndarray
    items: np.ndarray
    vocab_size: int


def language(
    config: Any, table: Interactions, data: Sequences, vectors: np.ndarray, train: np.ndarray
) -> Language:
    """Profile tokens, and semantic codes with a token range of their own for each level."""
    vector_of = {int(i): v for i, v in zip(table.item_ids, vectors, strict=True)}
    known = np.stack([vector_of[int(i)] for i in data.item_ids])
    if config.factors:
        met = met_in_a_row(data, train, config.factors)
        known = np.concatenate([known, met / np.sqrt(np.mean(np.sum(met**2, axis=1)))], axis=1)
    found = codes.residual_codes(known, config.num_codes, config.levels)
    place = np.searchsorted(table.user_ids, data.owners)
    start, offset = [np.zeros(len(place), int)], 1
    for name in PROFILE:
        if name in table.user_features.columns:
            start.append(offset + table.user_features.columns[name][place, 0])
            offset += table.user_features.sizes[name]
    items = np.zeros_like(found)
    for level in range(found.shape[1]):
        items[:, level] = offset + found[:, level]
        offset += int(found[:, level].max()) + 1
    return Language(np.stack(start, axis=1).astype(np.int32), items.astype(np.int32), offset)


def met_in_a_row(data: Sequences, people: np.ndarray, dim: int, reach: int = 5) -> np.ndarray:
    """Vectors (V, dim) of the items by what some people met shortly before and after them.

    Left singular vectors, times the roots of the singular values, of the positive mutual
    information of items at most ``reach`` places apart; everyone's last two items are left out.
    """
    person, item = arms.trained_part(data)
    kept = np.isin(person, people)
    person, item, n = person[kept], item[kept], data.num_items
    count = np.zeros((n, n))
    for gap in range(1, reach + 1):
        same = person[gap:] == person[:-gap]
        pair = item[:-gap][same].astype(np.int64) * n + item[gap:][same]
        count += np.bincount(pair, minlength=n * n).reshape(n, n)
    count += count.T
    share = np.maximum(count.sum(axis=1), 1.0) / max(count.sum(), 1.0)
    ratio = count / max(count.sum(), 1.0) / share[:, None] / share[None, :]
    information = np.log(np.maximum(ratio, 1.0))
    basis = np.random.default_rng(13).normal(size=(n, min(dim + 16, n)))
    for _ in range(8):
        basis, _ = np.linalg.qr(information @ basis)
    u, s, _ = np.linalg.svd(information @ basis, full_matrices=False)
    return (u * np.sqrt(s))[:, :dim]
