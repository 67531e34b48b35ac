"""The ledger of test tasks: which experiment evaluated which tasks, when, and after which choices.

Test tasks should be evaluated (opened) once, after the last choice. `freeze` takes the digests of
configuration and choices; `enter` writes down that the tasks are opened now. A second opening, with
other settings or in another process, is allowed and counted; the count is in the record and below
its table.

The ledger has two parts: ``openings.jsonl`` beside the published records, which holds every opening
that is known from them, and what this machine has opened, a file for each set of test tasks in
`metajax.places.state`. Old records did not store the checksum of their test tasks or the hash of
the choices: these fields are empty then, and such openings are counted apart, since their tasks
may be these or others.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax import places
from metajax.results.environment import now
from metajax.results.schema import Opening
from metajax.settings import config_hash

PUBLISHED = "openings.jsonl"


def freeze(config: Any, choices: Mapping[str, Any]) -> Opening:
    """A ticket to open test tasks: nothing may be chosen after it is made.

    Args:
      config: the resolved configuration, a dataclass.
      choices: what was chosen on meta-validation, by arm; JSON.
    """
    text = json.dumps(choices, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return Opening(now(), config_hash(config), digest)


def checksum(*parts: Any) -> str:
    """A digest of test tasks that do not come from a split.

    Args:
      parts: arrays, trees of arrays and plain values that determine the tasks.

    >>> checksum("5-way", np.arange(3)) == checksum("5-way", np.arange(3))
    True
    """
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(parts):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        values = np.asarray(leaf)
        digest.update(f"{values.dtype}:{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def enter(
    ticket: Opening,
    experiment: str,
    tests: str,
    *,
    published: pathlib.Path | None = None,
) -> Opening:
    """Writes into the ledger that test tasks are opened now, and counts earlier openings.

    Args:
      ticket: of `freeze`.
      experiment: who opens them.
      tests: checksum of the test tasks, of `Split.checksum` or `checksum`.
      published: the folder of published records, whose openings count too.

    Returns:
      The ticket with the experiment and the checksum, and with how often it has opened these tasks,
      under how many configurations, this time included; how often others have; and how often it
      has opened tasks that nobody named. Where the ledger cannot be written, one line on standard
      error says so and the count is that of what could be read.
    """
    ticket = dataclasses.replace(ticket, split=tests, experiment=experiment)
    path = places.state() / "ledger" / f"{tests}.jsonl"
    line = _line(ticket)
    try:
        _append(path, [] if places.process() else [line])
    except OSError as error:
        print(f"the opening of the test tasks is not in the ledger: {error}", file=sys.stderr)
    shared = lines(published / PUBLISHED) if published else ()
    known = {
        (
            *(told.get("experiment"), told.get("split"), told["config_hash"]),
            *(told["settings_hash"], told["frozen"] or told.get("written", "")),
        )
        for told in (*lines(path), *shared, line)
    }
    these = [config for who, split, config, *_ in known if (who, split) == (experiment, tests)]
    return dataclasses.replace(
        ticket,
        times_opened=len(these),
        configurations=len(set(these)),
        times_by_others=sum(who != experiment and split == tests for who, split, *_ in known),
        times_unnamed=sum(who == experiment and not split for who, split, *_ in known),
    )


def publish(openings: tuple[Opening, ...], experiment: str, folder: pathlib.Path) -> None:
    """Adds the openings of a record that is published to ``openings.jsonl`` in the folder."""
    there = list(lines(folder / PUBLISHED))
    named = (
        dataclasses.replace(opening, experiment=opening.experiment or experiment)
        for opening in openings
        if opening.split
    )
    _append(folder / PUBLISHED, [told for told in map(_line, named) if told not in there])


def everything(published: pathlib.Path) -> list[dict[str, str]]:
    """All lines of the ledger: those beside the published records, and those of this machine."""
    mine = sorted((places.state() / "ledger").glob("*.jsonl"))
    found = [line for path in (published / PUBLISHED, *mine) for line in lines(path)]
    fields = ("experiment", "split", "frozen", "config_hash", "settings_hash", "written")
    same = {tuple(line.get(name, "") for name in fields): line for line in reversed(found)}
    return list(reversed(same.values()))


def _line(opening: Opening) -> dict[str, str]:
    names = ("experiment", "split", "config_hash", "settings_hash", "frozen")
    return {name: getattr(opening, name) for name in names}


def _append(path: pathlib.Path, made: list[dict[str, str]]) -> None:
    """Adds lines at the end, in one write."""
    if made:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write("".join(json.dumps(line, sort_keys=True) + "\n" for line in made))


def lines(path: pathlib.Path) -> Iterator[dict[str, str]]:
    """The lines of a ledger file, none if there is no file; damaged lines are left out."""
    try:
        text = path.read_text()
    except OSError:
        return
    for line in text.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and {"frozen", "config_hash", "settings_hash"} <= told.keys():
            yield told
