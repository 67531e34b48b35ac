"""Recommend items from a model folder, for given ratings, for a user of the log, or for a file.

Without any events, it prints the cold start: the list for a person of whom nothing is known.

Run: metajax recommend model --ratings "Alien=5, Heat=2" --top 10
     metajax recommend model --events new_users.csv --out lists.csv
"""

import csv
import dataclasses
import pathlib
import sys

import numpy as np
import tyro

from metajax.commands import people
from metajax.serving import model
from metajax.serving.model import Model, Recommendation
from metajax.settings import Positive
from metajax.types import UserError

COLUMNS = ("user", "rank", "id", "title", "score", "why")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the command."""

    model: tyro.conf.Positional[pathlib.Path]
    """The model folder."""
    ratings: str | None = None
    """A person's ratings, by titles or ids: "Alien=5, Heat=2"; for events "Alien, Heat"."""
    events: pathlib.Path | None = None
    """A file of the events of one or many new people."""
    user: str | None = None
    """The id of a user of the model's log."""
    top: Positive = 10
    """Number of items to recommend."""
    seen: bool = False
    """Also recommend items that the person has already rated or met."""
    out: pathlib.Path | None = None
    """Write the lists to this CSV file instead."""


def main(config: Config) -> dict[str, list[Recommendation]]:
    """The lists, by person; printed, or written to a file."""
    if sum(x is not None for x in (config.ratings, config.events, config.user)) > 1:
        raise UserError("give one of --ratings, --events and --user")
    trained = model.load(config.model)
    found: dict[str, list[Recommendation]] = {}
    if config.events is not None:
        read = people.of_file(config.events, trained)
        print(read.said, file=sys.stderr)
        for one in read.people:
            found[one.name] = trained.best(one.items, one.labels, config.top, seen=config.seen)
    elif config.user is not None:
        items, labels, profile = trained.user(config.user)
        given = {"seen": config.seen, "profile": profile}
        found[config.user] = trained.best(items, labels, config.top, **given)
    else:
        found[""] = trained.recommend(config.ratings or "", config.top, seen=config.seen)
    if config.out is not None:
        _write(config.out, found)
        print(f"{len(found)} {'list' if len(found) == 1 else 'lists'} in {config.out}")
        return found
    for name, one in found.items():
        if name:
            print(f"{name}:")
        print("\n".join(lines(trained, one)))
    return found


def lines(trained: Model, found: list[Recommendation]) -> list[str]:
    """A list for the terminal: a line for each item, and one that says why."""
    if not found:
        return ["nothing is left to recommend: every item was met"]
    width = len(str(len(found)))
    out = []
    for rank, one in enumerate(found, 1):
        stars = f"{one.score:.2f}" if not trained.labels.events else f"{one.score:.3f}"
        out.append(f"{rank:>{width}}  {stars}  {one.title}")
        out.append(f"{'':{width + 2}}{'':{len(stars)}}  {one.why}")
    top = trained.labels.high
    if not trained.labels.events and sum(one.score >= top for one in found) > 1:
        out.append(f"Those at {top:g} were predicted to be above it; the highest stand first.")
    return out


def _write(path: pathlib.Path, found: dict[str, list[Recommendation]]) -> None:
    """The lists as CSV: a row for each recommendation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, one in found.items():
            for rank, r in enumerate(one, 1):
                writer.writerow(
                    [name, rank, r.id, r.title, np.format_float_positional(r.score, 4), r.why]
                )
