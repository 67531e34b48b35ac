"""New items for new people: what title vectors of a language model add to genres.

A share of the items is hidden. Biases and ALS factors of the others, from training people alone,
are regressed on content, as in `text_cold`. A new person is solved by ridge regression on their
first K ratings of items that are not hidden, and orders the hidden ones that they have rated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from metajax.data import split
from metajax.data.features import represent
from metajax.data.table import Features, Interactions
from metajax.evaluation import ordinal

from .. import text_cold

CONSTANT, GENRES, SMALL, LARGE, PERMUTED = "constant", "genres", "MiniLM", "LLM", "LLM permuted"

PENALTY = 10.0  # of a person, as of the factors: see `factors.als`


Vectors = np.ndarray | Callable[[np.ndarray], np.ndarray]
"""Of the titles (N, D); or a function of which items are hidden (N,), for what must not see them.
"""


def contents(
    table: Interactions, vectors: Mapping[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What each arm knows of the items: (num_items, C); genres where the table has some.

    Args:
      vectors: `SMALL` and `LARGE` -> (num_items, D) of norm 1; what is missing has no arms.
    """
    scaled = {k: text_cold.TEXT_SCALE * (v - v.mean(axis=0)) for k, v in vectors.items()}
    if LARGE in scaled:
        scaled[PERMUTED] = scaled[LARGE][rng.permutation(table.num_items)]
    found = {CONSTANT: np.zeros((table.num_items, 0))}
    if "genre" not in table.item_features.columns:
        return found | scaled
    columns, sizes = table.item_features.columns, table.item_features.sizes
    told = Features({"genre": columns["genre"]}, {"genre": sizes["genre"]})
    genres = represent.content_matrix(told, table.num_items).toarray()
    found |= {GENRES: genres, **scaled}
    found |= {f"{GENRES} + {name}": np.hstack([genres, v]) for name, v in scaled.items()}
    if SMALL in scaled and LARGE in scaled:
        both = np.hstack([genres, scaled[SMALL], scaled[LARGE]])
        found[f"{GENRES} + {SMALL} + {LARGE}"] = both
    return found


def person_vector(factors_KxD: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """The ridge solution (1 + D,) of residuals (K,) on [1, factors]; zeros without a rating."""
    x = np.column_stack([np.ones(len(residual)), factors_KxD])
    return np.linalg.solve(x.T @ x + PENALTY * np.eye(x.shape[1]), x.T @ residual)


class Draw(NamedTuple):
    """One draw of hidden items, and what every arm says of them.

    Attributes:
      hidden: (N,) which items; order: (R,) rows of the test people, in the order they are met.
      mean, bias, factor: the model of the other items; bias (N,), factor (N, D).
      size: root mean square length of a factor, the unit in which content predicts it.
      fits: arm -> its regression on content.
      told: arm -> (N, 1 + D) what content says of an item: three times its bias, factors over size.
    """

    hidden: np.ndarray
    order: np.ndarray
    mean: float
    bias: np.ndarray
    factor: np.ndarray
    size: float
    fits: dict[str, represent.ContentFit]
    told: dict[str, np.ndarray]


def people_of(parts: split.Split) -> np.ndarray:
    """The people who are judged."""
    return parts.test["user_cold"].owner


def draw(
    table: Interactions,
    parts: split.Split,
    vectors: Mapping[str, Vectors],
    seed: int,
    hidden_share: float,
    dim: int,
) -> Draw:
    """A draw of hidden items; the model of the others is of training people alone."""
    rng = np.random.default_rng((20, seed))
    hidden = rng.random(table.num_items) < hidden_share
    known = np.zeros(len(table), bool)
    known[parts.train_rows] = True
    mean, bias, count, made = text_cold.fitted(table, known & ~hidden[table.item], dim)
    trust = np.where(hidden, 0.0, count / (count + 40.0))
    size = np.sqrt(np.mean(np.sum(made.item[trust > 0].astype(float) ** 2, axis=1)))
    target = np.column_stack([bias * 3.0, made.item / size])
    rows = np.flatnonzero(np.isin(table.user, people_of(parts)))
    order = rng.permutation(rows)  # the same ratings come first for every arm
    of_titles = {k: v(hidden) if callable(v) else v for k, v in vectors.items()}
    known_of = contents(table, of_titles, rng)
    fits = {
        arm: represent.content_fit(content, target, trust, text_cold.PENALTIES, seed)
        for arm, content in known_of.items()
    }
    told = {arm: fits[arm](content) for arm, content in known_of.items()}
    return Draw(hidden, order, mean, bias, made.item, size, fits, told)


def judged(
    table: Interactions,
    parts: split.Split,
    draws: Sequence[Draw],
    shots: Sequence[int],
    links: Sequence[Mapping[str, ordinal.Link]],
) -> dict[tuple[str, int, str], np.ndarray]:
    """(arm, K, metric) -> scores (draws, people) of the people of the split's test.

    Someone with fewer than five ratings of hidden items has no score, NaN.

    Args:
      links: of `links_of`, for the largest K.
    """
    people = people_of(parts)
    found: dict[tuple[str, int, str], list[np.ndarray]] = {}
    for seed, one in enumerate(draws):
        for k in shots:
            for arm, score, asked in scores_of(table, one, people, one.order, k):
                link = links[seed][arm] if k == max(shots) else None
                values = text_cold.judge(score, table, asked, jax.random.key(seed), link)
                for metric, of_all in values.items():
                    found.setdefault((arm, k, metric), []).append(np.asarray(of_all)[people])
    return {key: np.stack(values) for key, values in found.items()}


def links_of(
    table: Interactions, parts: split.Split, draws: Sequence[Draw], k: int
) -> list[dict[str, ordinal.Link]]:
    """Arm -> its ordinal link, of each draw.

    It is fitted to the scores of validation people for hidden items, after K ratings of others.
    """
    people = parts.valid["user_cold"].owner
    rows = np.flatnonzero(np.isin(table.user, people))
    levels = ordinal.levels_of(table.label[parts.train_rows], table.scale)
    found = []
    for seed, one in enumerate(draws):
        order = np.random.default_rng((21, seed)).permutation(rows)
        told = scores_of(table, one, people, order, k)
        found.append({a: text_cold.link_of(x, table, asked, levels) for a, x, asked in told})
    return found


def scores_of(
    table: Interactions, one: Draw, people: np.ndarray, order: np.ndarray, k: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each arm, its scores (n,) after K ratings of each person, and which rows they are of (n,).

    Args:
      order: (R,) the rows of these people, in the order in which they are met.
    """
    seen = order[~one.hidden[table.item[order]]]
    asked = np.zeros(len(table), bool)
    asked[order] = one.hidden[table.item[order]]
    own = people_vectors(table, people, seen, k, one.mean + one.bias, one.factor)
    for arm, guess in one.told.items():
        yield arm, one.mean + scored(table, asked, people, own, guess, one.size), asked


def people_vectors(
    table: Interactions,
    people: np.ndarray,
    seen: np.ndarray,
    k: int,
    offset: np.ndarray,
    factors: np.ndarray,
) -> np.ndarray:
    """The vector (P, 1 + D) of each person after the first ``k`` of their rows among ``seen``."""
    out = np.zeros((len(people), 1 + factors.shape[1]))
    user = table.user[seen]
    for i, person in enumerate(people.tolist()):
        rows = seen[user == person][:k]
        item = table.item[rows]
        out[i] = person_vector(factors[item], table.label[rows] - offset[item])
    return out


def scored(
    table: Interactions,
    asked: np.ndarray,
    people: np.ndarray,
    own: np.ndarray,
    guess: np.ndarray,
    size: float,
) -> np.ndarray:
    """Scores (n,) beyond the mean of the rows asked for; 0 elsewhere.

    Args:
      guess: (N, 1 + D) of `Draw.told`.
    """
    place = np.zeros(table.num_users, int)
    place[people] = np.arange(len(people))
    rows = np.flatnonzero(asked)
    item, vector = table.item[rows], own[place[table.user[rows]]]
    out = np.zeros(len(table), np.float32)
    taste = np.sum(vector[:, 1:] * guess[item, 1:] * size, axis=1)
    out[rows] = vector[:, 0] + guess[item, 0] / 3.0 + taste
    return out
