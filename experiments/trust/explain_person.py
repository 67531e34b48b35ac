"""One person's recommendation and where it comes from: a sentence, a counterfactual, a picture."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.data import episodes
from metajax.data.sources import named
from metajax.explain import support
from metajax.explain.sentence import because
from metajax.results import plots
from metajax.types import Episode, Examples, UserError

from . import explain_arms as arms

LEAST_RATINGS, SHOWN, RIVALS, TOLD = 20, 12, 10, 3
"""Ratings of an item that may be recommended; ratings in the picture; items that may take over;
ratings of a counterfactual that are named."""


def place_of(user: str, ids: np.ndarray, name: str) -> int:
    """The user's place in the data set.

    Raises:
      UserError: it has no such user.
    """
    found = np.flatnonzero(ids.astype(str) == user.strip())
    if not found.size:
        raise UserError(
            f"no user {user!r} in {name}; users are called like {ids[0]!s}, there are {len(ids):,}"
        )
    return int(found[0])


def main(config: Any) -> None:
    """Prints why, and saves the picture."""
    problem = benchmark.load(config.data, config.split, config.training.num_support)
    table, name = problem.table, named.short_name(config.data.dataset)
    user = place_of(config.user, table.user_ids, name)
    folder = config.output.folder(f"explain-{name}")
    arm = arms.of_log(problem, config, folder)[config.learner]
    rows = np.flatnonzero(table.user == user)
    often = np.bincount(table.item, minlength=table.num_items) >= LEAST_RATINGS
    often[table.item[rows]] = False
    items = np.flatnonzero(often).astype(np.int32)
    ones = lambda n: jnp.ones(n, jnp.float32)
    own = Examples(jnp.asarray(table.item[rows]), jnp.asarray(table.label[rows]), ones(len(rows)))
    asked = Examples(jnp.asarray(items), ones(len(items)), ones(len(items)))
    episode = episodes.fetch(Episode(jnp.asarray(user), own, asked), problem.valid[0])
    titles = table.item_titles if table.item_titles is not None else table.item_ids.astype(str)
    tell(config, arm, episode, [str(titles[i]) for i in table.item[rows]], titles[items], folder)


def tell(
    config: Any,
    arm: arms.Explained,
    episode: Episode,
    said: list[str],
    titles: np.ndarray,
    folder: pathlib.Path,
) -> None:
    """The sentence, the counterfactual and the picture of one person.

    Args:
      said: titles (N,) of what the person rated; titles: (Q,) of what may be recommended.
    """
    key = jax.random.key(0)
    score = support.adapted(arm.learner, arm.params, episode, key)
    label, mask = episode.support.label, episode.support.mask
    scores = np.asarray(jax.jit(score)(mask, label))
    best = np.argsort(-scores)[:RIVALS]
    few = episode._replace(query=jax.tree.map(lambda x: x[best], episode.query))
    score = support.adapted(arm.learner, arm.params, few, key)
    moved = np.asarray(jax.jit(lambda e: support.leave_one_out(score, e))(few))[:, 0]
    values = np.asarray(label)
    print(f"user {config.user}, by {config.learner}: {titles[best[0]]} ({scores[best[0]]:.2f})")
    print(f"  {because(said, list(values), moved, against=1, digits=3)}")
    change = support.counterfactual(score, few)
    if change is None:
        print("  no set of ratings was found without which another item would be first")
    else:
        strongest = sorted(change.rows, key=lambda r: -abs(moved[r]))
        gone = " and ".join(f"{said[r]} {values[r]:g}" for r in strongest[:TOLD])
        more = len(strongest) - TOLD
        gone += f" and {more} more of {len(said)} ratings" if more > 0 else ""
        found = "smallest set" if change.smallest else "smallest set found"
        print(f"  without {gone} it would be {titles[best[change.after]]} ({found})")
    path = folder / f"user-{config.user}.png"
    picture(path, said, values, moved, f"{titles[best[0]]}, user {config.user}", change)
    print(f"plot   {path}")


def picture(
    path: pathlib.Path,
    said: list[str],
    values: np.ndarray,
    moved: np.ndarray,
    title: str,
    change: support.Counterfactual | None,
) -> None:
    """Saves what the strongest ratings did to the score; those whose loss changes it are marked."""
    order = np.argsort(-np.abs(moved), kind="stable")[:SHOWN]
    order = order[np.argsort(-moved[order], kind="stable")]
    rows = set(change.rows) if change else set()
    with plots.page(path, 0.9 + 0.17 * len(order)) as axes:
        places = np.arange(len(order))[::-1]
        colors = [plots.COLORS[1] if moved[i] > 0 else plots.COLORS[0] for i in order]
        bars = axes.barh(places, moved[order], color=colors, height=0.7)
        for bar, i in zip(bars, order, strict=True):
            if i in rows:
                bar.set(hatch="////", edgecolor="white")
        names = [s if len(s) < 30 else f"{s[:28]}…" for s in (said[i] for i in order)]
        labels = [f"{n}  {values[i]:g}" for n, i in zip(names, order, strict=True)]
        axes.set_yticks(places, labels)
        axes.axvline(0.0, color="#666666", linewidth=0.7)
        axes.figure.suptitle(title if len(title) < 50 else f"{title[:48]}…", fontsize=8)
        mark = "\nhatched: ratings without which another is first" if rows & set(order) else ""
        axes.figure.supxlabel(f"what each rating did to the score{mark}", fontsize=7)
        axes.grid(axis="x", alpha=0.25, linewidth=0.4)
        axes.set_axisbelow(True)
