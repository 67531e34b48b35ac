"""The data of cross_domain: two logs, their users' source behaviour, and tasks in the target."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data import negatives, shared_users
from metajax.data.features.behavior import noise, sums
from metajax.data.features.represent import represent
from metajax.data.sources import crossdomain, named
from metajax.data.sources.movielens import GENRES_100K
from metajax.data.table import Interactions
from metajax.results import groups
from metajax.training import loop
from metajax.types import Episode, Examples, UserError

from . import cross_factors as factors

FOLDERS = {
    "amazon-cloth-sport": ("amazon-cloth", "amazon-sport"),
    "amazon-four-domains": crossdomain.FOUR_DOMAINS,
    "douban": ("douban-book", "douban-music"),
}
"""Data sets of more than one domain, as their folders are called."""
GENRES = GENRES_100K[1:]
SHOTS = 10
"""Support rows of a task."""
FEWEST = 3
"""Query rows of a task, at least."""
WIDTH = 50
"""Rows that are kept of a user, at most: the support, then the query."""
LIKED = 20
"""Source items that PTUPCDR sees."""


PLAIN, TRANSFERRED = ("x", "offset"), ("shared_x", "shared_offset")
"""Columns of an item: from the target alone, and from both domains, with the score of CMF."""


class Side(NamedTuple):
    """A domain as learners see it.

    Attributes:
      table: the log; x: (I, D) features of items; offset: (I,) scores of a user with weights 0.
      held_out: (F, I, D) and (F, I), the same without the users of a fold; fold: (U,).
      item_mean: (I,) damped mean label.
    """

    table: Interactions
    x: np.ndarray
    offset: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray]
    fold: np.ndarray


class Crossing(NamedTuple):
    """Everything of one pair of domains with some target users hidden.

    Attributes:
      profile: name -> (shared, ...), what is known of each user from the source alone.
      rows: (shared, R) columns of the users' target rows in random order, see `Rows`.
      parts: "train", "valid", "test" -> the users (n,) of each.
      noise: the variance of the target's noise.
      implicit: whether labels are events and sampled non-events.
    """

    profile: dict[str, np.ndarray]
    rows: Examples
    parts: dict[str, np.ndarray]
    noise: float
    implicit: bool


def domain(name: str, other: str, data_dir: pathlib.Path | None) -> Interactions:
    """A domain by name: a named data set, a file, one of four Amazon domains, ``ml-1m:Comedy``.

    Of two genres, items that have both are in neither. Of a log with a published split, only the
    training rows are read.
    """
    base, _, genre = name.partition(":")
    if name in FOLDERS:
        raise UserError(f"{name} holds several domains; give two of {', '.join(FOLDERS[name])}")
    if name in crossdomain.FOUR_DOMAINS:
        return crossdomain.four_domains(named.data_folder(data_dir), name)
    if genre and base in ("ml-1m", "ml-100k"):
        codes = []
        for one in (genre, other.partition(":")[2]):
            if one not in GENRES:
                raise UserError(f"no genre {one!r} in {base}; the genres are {', '.join(GENRES)}")
            codes.append(sorted(GENRES).index(one) + 1)
        log = named.load(base, data_dir)
        return shared_users.of_category(log, "genre", *codes, name=f"{base}-{genre.lower()}")
    log = named.load(name, data_dir)
    if log.state is None or not name.startswith("amazon"):
        return log
    kept = log.state == 0
    changes = {k: getattr(log, k)[kept] for k in ("user", "item", "label", "state")}
    return dataclasses.replace(log, **changes)


def loaded(source: str, target: str, data_dir: pathlib.Path | None) -> shared_users.Pair:
    """The two domains with shared users first; implicit ones as events and sampled non-events.

    Raises:
      UserError: nobody is in both, both are one, or one has events and the other ratings.
    """
    if source == target:
        raise UserError(f"{source} is both source and target; give two domains")
    logs = [domain(source, target, data_dir), domain(target, source, data_dir)]
    pair = shared_users.paired(*logs)
    kinds = [negatives.is_implicit(log) for log in pair[:2]]
    if kinds[0] != kinds[1]:
        what = ["events" if k else "ratings" for k in kinds]
        raise UserError(
            f"{source} has {what[0]} and {target} has {what[1]}; give two domains of one kind"
        )
    if not any(kinds):
        return pair
    return pair._replace(
        source=negatives.ratings_from_events(pair.source),
        target=negatives.ratings_from_events(pair.target),
    )


def side(table: Interactions, rows: np.ndarray) -> Side:
    """The features of a domain's items, estimated from these rows."""
    found = represent(table, rows, num_folds=4)
    columns, held = found.table.item_features.columns, found.held_out
    held_out = held["bayes"], found.mean + held["bias"]
    return Side(table, columns["bayes"], found.mean + columns["bias"], held_out, found.fold)


def split(pair: shared_users.Pair, hidden: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Who of the shared users is hidden ("test"), for validation, and for training.

    Those without enough target rows are in none of the first two.
    """
    order = np.random.default_rng([seed, 3]).permutation(pair.shared)
    cut = round(hidden * pair.shared)
    rest = order[cut:]
    aside = max(1, len(rest) // 5)
    count = np.bincount(pair.target.user, minlength=pair.shared)[: pair.shared]
    enough = lambda users: users[count[users] >= SHOTS + FEWEST]
    parts = {"test": enough(order[:cut]), "valid": enough(rest[:aside]), "train": rest[aside:]}
    parts["train"] = parts["train"][count[parts["train"]] >= 4]
    for name, users in parts.items():
        if len(users) < 10:
            raise UserError(
                f"{len(users)} users for {name}, who need {SHOTS + FEWEST} rows in "
                f"{pair.target.name} and some in {pair.source.name}: too few to compare; "
                "give larger logs or another --hidden"
            )
    parts["unseen"] = np.concatenate([order[:cut], rest[:aside]])
    return parts


def of_others(of: Side, user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (..., D) and offsets (...) of items, estimated without the fold of their user."""
    fold = of.fold[user]
    return of.held_out[0][fold, item], of.held_out[1][fold, item]


def behaviour(of: Side, table: Interactions, shared: int) -> tuple[dict[str, np.ndarray], float]:
    """A profile (shared, ...) of users from the rows of the source, and the variance of the noise.

    Each user's rows are seen as estimated from others, so that no vector has been fitted to them.
    """
    x, offset = of_others(of, table.user, table.item)
    gram, moment, square = sums(table.user, x, table.label - offset, shared)
    count = np.bincount(table.user, minlength=shared)[:shared]
    variance = noise(gram, moment, square, float(count.sum()))
    vector = np.linalg.solve(gram + np.eye(x.shape[1]), moment[..., None])[..., 0]
    found = {"vector": vector, "gram": gram, "moment": moment}
    return {k: v.astype(np.float32) for k, v in found.items()}, variance


def favorites(table: Interactions, x: np.ndarray, shared: int) -> tuple[np.ndarray, np.ndarray]:
    """The vectors (shared, `LIKED`, D) of each user's best source items, and their mask."""
    liked = np.zeros((shared, LIKED, x.shape[1]), np.float32)
    mask = np.zeros((shared, LIKED), np.float32)
    order = np.lexsort((-table.label, table.user))
    first = np.searchsorted(table.user[order], np.arange(shared + 1))
    for u in range(shared):
        mine = order[first[u] : first[u + 1]]
        mine = mine[table.label[mine] >= np.mean(table.scale)][:LIKED]
        liked[u, : len(mine)], mask[u, : len(mine)] = x[table.item[mine]], 1.0
    return liked, mask


def crossing(pair: shared_users.Pair, hidden: float, of_source: Side) -> Crossing:
    """The tasks of a pair with this share of shared users hidden in the target."""
    parts, table, source = split(pair, hidden), pair.target, pair.source
    known = np.flatnonzero(~np.isin(table.user, parts["unseen"]))
    of = side(table, known)
    both = side(
        factors.stacked(pair), np.concatenate([np.arange(len(source)), len(source) + known])
    )
    row, mask = kept_rows(table, pair.shared)
    item = table.item[row]
    seen = ~np.isin(np.arange(pair.shared), parts["unseen"])
    inputs = {"item": item.astype(np.int32)}
    users = np.flatnonzero(seen)[:, None]
    for one, place, names in ((of, item, PLAIN), (both, item + source.num_items, TRANSFERRED)):
        x, offset = one.x[place], one.offset[place]
        x[seen], offset[seen] = of_others(one, users, place[seen])
        inputs |= {names[0]: x.astype(np.float32), names[1]: offset.astype(np.float32)}
    both_factors = factors.collective(pair, known)
    item_vector = factors.item_vectors(both_factors, pair, item, seen)
    inputs["cmf_x"] = item_vector.astype(np.float32)
    rows = Examples(inputs, table.label[row], mask.astype(np.float32))
    plain, _ = behaviour(of_source, source, pair.shared)
    profile, variance = behaviour(both, source, pair.shared)
    liked, liked_mask = favorites(source, of_source.x, pair.shared)
    train = parts["train"]
    target_noise = noise(*target_sums(rows, train), float(mask[train].sum()))
    profile["moment"] *= np.float32((target_noise / variance) ** 0.5)
    profile["cmf_vector"] = factors.vectors(both_factors, pair).astype(np.float32)
    profile |= {"vector": plain["vector"], "liked": liked, "liked_mask": liked_mask}
    return Crossing(profile, rows, parts, target_noise, table.scale[0] == 0)


def groups_of(pair: shared_users.Pair, users: np.ndarray) -> groups.Kinds:
    """The groups (n,) of users: by their rows in the source, and by what is known of them."""
    events = pair.source.scale[0] == 0  # of which half the rows are items drawn at random
    rows = pair.source.user[pair.source.label > 0] if events else pair.source.user
    count = np.bincount(rows, minlength=pair.shared)[users]
    kind = "source events" if events else "source ratings"
    return groups.of_tasks(users, {kind: count}, pair.target.user_features)


def kept_rows(table: Interactions, shared: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `WIDTH` rows (shared, WIDTH) of each user in random order, and their mask."""
    order = np.lexsort((np.random.default_rng(5).random(len(table)), table.user))
    first = np.searchsorted(table.user[order], np.arange(shared + 1))
    place = first[:-1, None] + np.arange(WIDTH)
    mask = place < first[1:, None]
    return order[np.where(mask, place, 0)], mask


def embedded(inputs: Any, profile: Any, names: tuple[str, str], dot: Any = jnp.einsum) -> Any:
    """The features (..., R, D) of items; those of both domains have the score of CMF as the last.

    Args:
      inputs: columns (..., R, ...); profile: of their users (...).
      names: `PLAIN` or `TRANSFERRED`.
      dot: the einsum of numpy or of JAX.
    """
    x = inputs[names[0]]
    if names == PLAIN:
        return x
    score = dot("...rd,...d->...r", inputs["cmf_x"], profile["cmf_vector"])[..., None]
    return (np if dot is np.einsum else jnp).concatenate([x, score], axis=-1)


def target_sums(
    rows: Examples,
    users: np.ndarray,
    names: tuple[str, str] = PLAIN,
    profile: dict[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`sums` of the target rows of these users; ``profile`` (n, ...) is theirs."""
    real = rows.mask[users] > 0
    user = np.repeat(np.arange(len(users)), real.sum(axis=1))
    y = (rows.label - rows.inputs[names[1]])[users][real]
    inputs = {k: v[users] for k, v in rows.inputs.items()}
    return sums(user, embedded(inputs, profile, names, np.einsum)[real], y, len(users))


def tasks(crossing: Crossing, users: np.ndarray) -> Episode:
    """The stored tasks of these users: the first `SHOTS` rows are the support."""
    take = lambda x: jnp.asarray(x)[jnp.asarray(users)]
    rows, profile = jax.tree.map(take, (crossing.rows, crossing.profile))
    part = lambda s: jax.tree.map(lambda x: x[:, s], rows)
    return Episode(profile, part(slice(None, SHOTS)), part(slice(SHOTS, None)))


def sampler(num_tasks: int, most: int = SHOTS) -> loop.Sampler:
    """Draws users of ``data["who"]``, mixes their rows, and shows 0 to ``most`` of them."""

    def sample(data: Any, key: jax.Array) -> Episode:
        key_user, key_mix, key_shots = jax.random.split(key, 3)
        place = jax.random.randint(key_user, (num_tasks,), 0, data["count"])
        rows, profile = jax.tree.map(lambda x: x[data["who"][place]], data["all"])
        draw = jax.random.uniform(key_mix, rows.mask.shape) + 2 * (1 - rows.mask)
        order = jnp.argsort(draw, axis=1)
        mix = lambda x: jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)
        rows = jax.tree.map(mix, rows)
        half = jnp.maximum(rows.mask.sum(axis=1) // 2, 1)
        shots = jnp.minimum(jax.random.randint(key_shots, (num_tasks,), 0, most + 1), half)
        shown = (jnp.arange(SHOTS) < shots[:, None]) * rows.mask[:, :SHOTS]
        support = jax.tree.map(lambda x: x[:, :SHOTS], rows)._replace(mask=shown)
        asked = rows.mask * (jnp.arange(WIDTH) >= shots[:, None])
        alike = lambda x: jnp.broadcast_to(x, (num_tasks, *x.shape))
        profile = profile | jax.tree.map(alike, data["fixed"])
        return Episode(profile, support, rows._replace(mask=asked))

    return sample


def training_data(
    crossing: Crossing,
    settings: np.ndarray,
    mismatched: bool = False,
    first: tuple[np.ndarray, np.ndarray] | None = None,
) -> Any:
    """What `sampler` draws from; of every crossing of a pair in the same shapes.

    Args:
      settings: (2, 2) lowest and highest log rate, and log penalty.
      mismatched: the control: each training user gets the source behaviour of another.
      first: what a joint prior starts from.
    """
    train, size = crossing.parts["train"], len(crossing.rows.mask)
    profile = crossing.profile
    if mismatched:
        other = np.arange(size)
        other[train] = np.roll(train, 1)
        profile = {k: v[other] for k, v in profile.items()}
    who = np.resize(train, size)
    data = {"who": who, "count": np.int32(len(train)), "all": (crossing.rows, profile)}
    fixed = {"settings": settings.astype(np.float32)} | ({} if first is None else {"first": first})
    return jax.tree.map(jnp.asarray, data | {"fixed": fixed})
