"""The ledger of test tasks: who opened which, when, and after which choices.

Test tasks are judged once, after the last choice. `freeze` takes the digests of configuration and
choices; `enter` writes down that the tasks are opened now. A second opening, with other settings or
in another process, is allowed and counted: the number stands in the record and under its table.

The ledger has one file for each set of test tasks, in `metajax.places.state`; what published
records have opened stands beside them, in ``openings.jsonl``, and counts everywhere.
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
    """The ticket for test tasks: nothing may be chosen after it.

    Args:
      config: the resolved configuration, a dataclass.
      choices: what was chosen on meta-validation, by arm; JSON.
    """
    text = json.dumps(choices, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return Opening(now(), config_hash(config), digest)


def checksum(*parts: Any) -> str:
    """A digest of test tasks that have no split: of arrays, trees of them and plain values.

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
    """Writes down that the test tasks are opened, and counts.

    Args:
      ticket: of `freeze`.
      experiment: who opens them.
      tests: checksum of the test tasks, of `Split.checksum` or `checksum`.
      published: the folder of published records, whose openings count too.

    Returns:
      The ticket with the checksum, and with how often the experiment has opened these tasks and
      under how many configurations, this time included. Where the ledger cannot be written, one
      line on standard error says so and the count is that of what could be read.
    """
    ticket = dataclasses.replace(ticket, split=tests)
    path = places.state() / "ledger" / f"{tests}.jsonl"
    line = _line(ticket, experiment)
    try:
        _append(path, [line])
    except OSError as error:
        print(f"the opening of the test tasks is not in the ledger: {error}", file=sys.stderr)
    shared = _lines(published / PUBLISHED) if published else ()
    mine = {
        (told["frozen"], told["config_hash"], told["settings_hash"])
        for told in (*_lines(path), *shared, line)
        if told.get("experiment") == experiment and told.get("split") == tests
    }
    configurations = len({config for _, config, _ in mine})
    return dataclasses.replace(ticket, times_opened=len(mine), configurations=configurations)


def publish(openings: tuple[Opening, ...], experiment: str, folder: pathlib.Path) -> None:
    """Writes down, beside published records, the openings that a record tells of."""
    there = list(_lines(folder / PUBLISHED))
    told = [_line(opening, experiment) for opening in openings if opening.split]
    _append(folder / PUBLISHED, [line for line in told if line not in there])


def _line(opening: Opening, experiment: str) -> dict[str, str]:
    names = ("split", "config_hash", "settings_hash", "frozen")
    return {"experiment": experiment} | {name: getattr(opening, name) for name in names}


def _append(path: pathlib.Path, lines: list[dict[str, str]]) -> None:
    """Adds lines at the end, in one write."""
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


def _lines(path: pathlib.Path) -> Iterator[dict[str, str]]:
    """The lines of a ledger; one that was cut short is left out."""
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
