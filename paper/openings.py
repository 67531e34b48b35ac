"""Openings of test tasks that nobody wrote down at the time, counted from the history of records.

The ledger (`metajax.results.ledger`) is younger than most stored records. Each version of a record
in the history of `paper/results` is one opening of its test tasks that is certain: this program
reads them all and writes one line for each to ``paper/results/openings.jsonl``, where the ledger
begins. Runs whose record was never committed have left no trace, so that a count is a lower bound.

Run: python -m paper.openings       (in a checkout with its whole history)
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from metajax.results import ledger, records
from metajax.types import UserError

UNTESTED = ("speed", "scaling", "latency", "stream", "adapt_large_memory")
"""Experiments that time programs: they have no test tasks."""
BY_RECORD = ("omniglot", "sinusoid", "regimes")
"""Experiments of several test sets: the ledger has them by the name of the record."""


def git(*args: str) -> str:
    """What a command of git prints.

    Raises:
      UserError: it fails, or this is no checkout.
    """
    try:
        done = subprocess.run(("git", *args), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError("no history of git here; run it in a full checkout") from error
    return done.stdout


def versions() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Commit, record and facts of every version of a record of version 0, the oldest first."""
    told = git("log", "--reverse", "--format=@%h", "--name-status", "--", "paper/results")
    for block in told.split("@")[1:]:
        commit, *changes = block.splitlines()
        for change in changes:
            if change[:1] in ("A", "M") and change.endswith(".json"):
                path = change.split("\t")[1]
                name = path.rsplit("/", 1)[1].removesuffix(".json")
                yield commit, name, json.loads(git("show", f"{commit}:{path}"))


def tickets(facts: dict[str, Any]) -> Iterator[tuple[dict[str, str], str]]:
    """The tickets in a record, each with the checksum of its split; "" where none is told."""
    parts = [*facts.get("datasets", {}).values(), *facts.get("rows", {}).values()]
    for part in (facts, *parts):
        test, split = part.get("test", {}), part.get("split", "")
        if "folds" in test:
            yield from zip(test["folds"], split["folds"], strict=True)
        elif test:
            yield test, split if isinstance(split, str) else split["checksum"]


def lines() -> list[dict[str, str]]:
    """One line of the ledger for each opening; a record that only moved is none."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for commit, name, facts in versions():
        experiment, date, data = (
            facts["experiment"],
            facts["environment"]["date"],
            facts.get("data"),
        )
        if experiment in UNTESTED:
            continue
        data = facts.get("data")
        split = data.get("split", "") if isinstance(data, dict) else ""
        untold = {"config_hash": facts["config_hash"], "settings_hash": "", "frozen": ""}
        for ticket, tests in list(tickets(facts)) or [(untold, split)]:
            opener = name if experiment in BY_RECORD else experiment
            told = {field: ticket[field] for field in untold}
            key = (opener, tests, *told.values(), "" if told["frozen"] else f"{name} {date}")
            source = {"written": date, "source": f"record {name} at commit {commit}"}
            found.setdefault(key, {"experiment": opener, "split": tests} | told | source)
    return list(found.values())


def main() -> None:
    """Writes what the history tells before what the ledger has added; says how much it is."""
    path = records.RESULTS / ledger.PUBLISHED
    there = [line for line in ledger.lines(path) if "source" not in line]
    made = lines()
    path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in (*made, *there)))
    splits = {line["split"] for line in made if line["split"]}
    told = sum(1 for line in made if line["split"])
    print(f"{path}: {len(made)} openings by records, {told} of {len(splits)} splits that are told,")
    print(f"{len(made) - told} of test tasks that the records do not name")


if __name__ == "__main__":
    main()
