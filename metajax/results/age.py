"""Whether stored records are older than the code that they are shown by.

A record holds the `GENERATION` of the code that made it. The number is raised by hand with every
change after which a new run would print another number for the same configuration; a record of an
earlier one is older than the code. It may stay among the published ones, but must be said to: the
file ``older.txt`` beside them names it with its commit. What is on the list without need, or needed
and not on the list, is an error of `check`, and so of ``make verify``.

    python -m metajax.results.age     writes the list of the published records anew
"""

import pathlib

from metajax.results import records
from metajax.results.schema import GENERATION
from metajax.types import UserError

LIST = "older.txt"
HEAD = (
    "# Records older than the code: a run of today may print other numbers.\n"
    "# name, date, commit that made it; written by metajax.results.age.\n"
)


def older(folder: pathlib.Path) -> dict[str, records.Record]:
    """Name -> record, without scores, of each record in a folder that is older than the code."""
    found = {path.stem: records.facts(path) for path in records.files(folder)}
    return {name: r for name, r in found.items() if r and r.generation < GENERATION}


def listing(folder: pathlib.Path) -> str:
    """The text that ``older.txt`` in a folder must have."""
    lines = [
        f"{name} {record.environment.date} {record.environment.commit[:12] or 'unknown'}"
        f"{'+changes' if record.environment.uncommitted_changes else ''}\n"
        for name, record in sorted(older(folder).items())
    ]
    return HEAD + "".join(lines)


def check(folder: pathlib.Path) -> int:
    """Checks that ``older.txt`` lists just the records that are older than the code; their number.

    Raises:
      UserError: an older record is not listed, or a listed one is not older.
    """
    path = folder / LIST
    text = path.read_text() if path.is_file() else ""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    told, known = {line.split()[0] for line in lines}, set(older(folder))
    if known - told:
        raise UserError(
            f"{', '.join(sorted(known - told))} in {folder}: older than the code; run again with "
            f"--publish, or name it in {path}"
        )
    if told - known:
        raise UserError(
            f"{path} names {', '.join(sorted(told - known))}: not older than the code, or not "
            "there; take it off the list (python -m metajax.results.age)"
        )
    return len(known)


if __name__ == "__main__":
    (records.RESULTS / LIST).write_text(listing(records.RESULTS))
    print(
        f"{len(older(records.RESULTS))} records are older than the code: {records.RESULTS / LIST}"
    )
