"""A simulated e-commerce log of any size with known true probabilities, generated in pieces.

A user likes an item with probability ``sigmoid(bias + quality + strength * z . w / sqrt(dim))``.
The item's vector ``z`` is visible in its content features, except for a hidden part; the user's
vector is ``w = w_bar + tau * taste``, where tastes have a falling spectrum and drift a little with
every event. Adapting pays only for ``tau`` above 0: at 0 all users are the same. Which items a user
is shown, none twice, depends on popularity alone, a power law over ranks.

The log is made in pieces that do not depend on each other, so that memory does not grow with it;
`metajax.data.worlds.shop` writes them to disk.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from metajax.types import UserError

USERS, ITEMS = 5_000, 50_000
"""People and items of a piece; part of what a seed means."""


@dataclasses.dataclass(frozen=True)
class World:
    """The settings of a shop.

    Attributes:
      num_users, num_items: its size.
      tau: spread of the users' tastes around the common one; 0 is a world of one user.
      dim: numbers of a taste and of an item's vector.
      num_features: content features of an item.
      events: fewest and most events of a user; drawn uniformly.
      zipf: items are shown in proportion to rank ** -zipf; not 1.
      drift: share of a taste's variance renewed with each event.
      hidden: share of the variance of an item's vector that its features do not show.
      spectrum: the i-th direction of taste has variance in proportion to i ** -spectrum.
      strength: standard deviation of the logit that a taste of unit variance gives.
      bias: the logit of an average item for a user without taste.
      quality: standard deviation over items of the logit that all users share.
      seed: of everything.
    """

    num_users: int = 100_000
    num_items: int = 1_000_000
    tau: float = 1.0
    dim: int = 16
    num_features: int = 32
    events: tuple[int, int] = (20, 50)
    zipf: float = 0.8
    drift: float = 0.01
    hidden: float = 0.2
    spectrum: float = 1.5
    strength: float = 1.5
    bias: float = -0.5
    quality: float = 0.5
    seed: int = 0


class Piece(NamedTuple):
    """One piece of the log, generated independently of the others.

    Attributes:
      name: of the piece.
      place: column -> rows [start, stop) that the piece fills.
      make: generates the rows of each of these columns.
    """

    name: str
    place: dict[str, tuple[int, int]]
    make: Callable[[], dict[str, np.ndarray]]


def offsets(world: World) -> np.ndarray:
    """The first event of each user, and the number of all events: (U + 1,)."""
    low, high = world.events
    length = _rng(world, 0, 0).integers(low, high + 1, world.num_users)
    return np.concatenate([[0], np.cumsum(length)])


def exposure(world: World) -> np.ndarray:
    """The probability (V,) of each item to be the one shown in a draw; they sum to 1."""
    edges = np.arange(1, world.num_items + 2, dtype=np.float64) ** (1.0 - world.zipf)
    by_rank = np.diff(edges) / (edges[-1] - edges[0])
    found = np.empty(world.num_items)
    found[_ranking(world)] = by_rank
    return found


def common_taste(world: World) -> np.ndarray:
    """``w_bar`` (dim,), normal with the spectrum of the tastes."""
    return _rng(world, 0, 1).standard_normal(world.dim) * _scale(world)


def logit(world: World, latent: np.ndarray, quality: np.ndarray, taste: np.ndarray) -> np.ndarray:
    """The true logit of liking: latent (..., dim) and quality (...) of items, tastes (..., dim)."""
    product = np.sum(latent * taste, axis=-1) / np.sqrt(world.dim)
    return world.bias + quality + world.strength * product


def pieces(world: World) -> Iterator[Piece]:
    """The pieces of a log in their order: items first, then users."""
    at = offsets(world)
    for number, start in enumerate(range(0, world.num_items, ITEMS)):
        stop = min(start + ITEMS, world.num_items)
        place = {name: (start, stop) for name in ("content", "latent", "quality")}
        make = lambda number=number, size=stop - start: _items(world, number, size)
        yield Piece(f"items-{number:05d}", place, make)
    for number, start in enumerate(range(0, world.num_users, USERS)):
        stop = min(start + USERS, world.num_users)
        rows = (int(at[start]), int(at[stop]))
        place = {name: rows for name in ("item", "label", "chance")} | {"taste": (start, stop)}
        length = np.diff(at[start : stop + 1])
        make = lambda number=number, length=length: _users(world, number, length)
        yield Piece(f"users-{number:05d}", place, make)


def _items(world: World, number: int, size: int) -> dict[str, np.ndarray]:
    """Content, vectors and qualities of a piece of the catalogue."""
    rng = _rng(world, 1, number)
    shown = rng.standard_normal((size, world.dim), np.float32)
    hidden = rng.standard_normal((size, world.dim), np.float32)
    mix = _rng(world, 0, 2).standard_normal((world.dim, world.num_features), np.float32)
    noise = 0.1 * rng.standard_normal((size, world.num_features), np.float32)
    return {
        "content": (np.tanh(shown @ mix / np.sqrt(world.dim)) + noise).astype(np.float16),
        "latent": np.float32(np.sqrt(1 - world.hidden)) * shown
        + np.float32(np.sqrt(world.hidden)) * hidden,
        "quality": np.float32(world.quality) * rng.standard_normal(size, np.float32),
    }


def _users(world: World, number: int, length: np.ndarray) -> dict[str, np.ndarray]:
    """Events and last tastes of a piece of the users, whose catalogue is made anew as needed."""
    rng = _rng(world, 2, number)
    people, most = len(length), int(world.events[1])
    item_UxL = _shown(world, rng, people, most)
    latent, quality = _catalogue(world)
    taste = rng.standard_normal((people, world.dim), np.float32)
    common, scale = common_taste(world), _scale(world)
    chance_UxL = np.empty((people, most), np.float32)
    last = np.empty((people, world.dim), np.float32)
    for step in range(most):
        w = (common + world.tau * scale * taste).astype(np.float32)
        item = item_UxL[:, step]
        score = logit(world, latent[item], quality[item], w)
        chance_UxL[:, step] = 1.0 / (1.0 + np.exp(-score))
        last = np.where((length - 1 == step)[:, None], w, last)
        fresh = rng.standard_normal((people, world.dim), np.float32)
        taste = np.sqrt(1.0 - world.drift) * taste + np.sqrt(world.drift) * fresh
    liked_UxL = rng.random((people, most), np.float32) < chance_UxL
    real_UxL = np.arange(most)[None, :] < length[:, None]
    return {
        "item": item_UxL[real_UxL].astype(np.int32),
        "label": liked_UxL[real_UxL].astype(np.int8),
        "chance": chance_UxL[real_UxL].astype(np.float16),
        "taste": last,
    }


def _shown(world: World, rng: np.random.Generator, people: int, most: int) -> np.ndarray:
    """Items (people, most) by popularity, none twice for a person: draws in order, repeats out."""
    ranking = _ranking(world)
    width = most + most // 2 + 8
    drawn = np.zeros((people, 0), np.int64)
    while True:
        drawn = np.concatenate([drawn, _ranks(world, rng, (people, width))], axis=1)
        order = np.argsort(drawn, axis=1, kind="stable")
        ascending = np.take_along_axis(drawn, order, axis=1)
        again = np.zeros(drawn.shape, bool)
        again[:, 1:] = ascending[:, 1:] == ascending[:, :-1]
        first = np.empty_like(again)
        np.put_along_axis(first, order, ~again, axis=1)
        if first.sum(axis=1).min() >= most:
            break
    new = np.argsort(~first, axis=1, kind="stable")[:, :most]
    return ranking[np.take_along_axis(drawn, new, axis=1)]


def _ranks(world: World, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Ranks from 0 of a power law: the bounded Pareto variable, rounded down."""
    power = 1.0 - world.zipf
    top = (world.num_items + 1.0) ** power
    value = (1.0 + rng.random(shape) * (top - 1.0)) ** (1.0 / power)
    return np.minimum(value.astype(np.int64) - 1, world.num_items - 1)


@functools.lru_cache(maxsize=1)
def _ranking(world: World) -> np.ndarray:
    """The item of each rank (V,)."""
    return _rng(world, 0, 3).permutation(world.num_items)


@functools.lru_cache(maxsize=1)
def _catalogue(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (V, dim) and qualities (V,) of all items: what the pieces of users share."""
    sizes = [min(ITEMS, world.num_items - at) for at in range(0, world.num_items, ITEMS)]
    made = [_items(world, number, size) for number, size in enumerate(sizes)]
    latent, quality = (np.concatenate([m[n] for m in made]) for n in ("latent", "quality"))
    return latent, quality


def _scale(world: World) -> np.ndarray:
    """Standard deviations (dim,) of a taste by direction; their squares sum to dim."""
    variance = np.arange(1, world.dim + 1, dtype=np.float64) ** -world.spectrum
    return np.sqrt(variance * world.dim / variance.sum())


def _rng(world: World, stream: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox([world.seed, stream, number]))


def shapes(world: World) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of every column of the log."""
    events = int(offsets(world)[-1])
    return {
        "item": ((events,), np.int32),
        "label": ((events,), np.int8),
        "chance": ((events,), np.float16),
        "taste": ((world.num_users, world.dim), np.float32),
        "content": ((world.num_items, world.num_features), np.float16),
        "latent": ((world.num_items, world.dim), np.float32),
        "quality": ((world.num_items,), np.float32),
    }


def check(world: World) -> None:
    """Raises an error if no log can be generated from the settings.

    Raises:
      UserError: impossible settings.
    """
    low, high = world.events
    if not 1 <= low <= high:
        raise UserError(f"events go from {low} to {high}; give at least 1, fewest first")
    if high * 4 > world.num_items:
        raise UserError(f"{world.num_items} items are too few for {high} events; give more items")
    if (
        world.zipf == 1.0
        or world.tau < 0
        or not 0 <= world.drift <= 1
        or not 0 <= world.hidden <= 1
    ):
        raise UserError("zipf may not be 1, tau not negative; drift and hidden lie in 0..1")
