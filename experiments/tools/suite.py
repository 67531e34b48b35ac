"""Runs the experiments that a TOML file lists: resumable, shared by any number of processes.

A suite is a TOML file with [[members]]: `experiment` and any of its options; a list stands for all
its values (every combination). What an experiment takes without a flag stands after its name, such
as `experiment = "tables T2"`. Each member has a folder under --out and runs as a process of its
own. A member that is done is skipped, by digests of its configuration and its code; one that was
killed resumes; one that fails is reported at the end and does not stop the others. Start the same
command in several shells, or on several machines that share the folder: a lock (flock) keeps two
processes from running the same member.

Run: python -m experiments suite small
     python -m experiments suite ml-1m --dry-run
     python -m experiments suite mine.toml --module my.experiment
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from tyro.conf import Positional

from metajax.benchmark import command
from metajax.results import records as report
from metajax.results import tables
from metajax.settings import flat
from metajax.training import journal
from metajax.types import UserError

from .chosen import code_hash, experiment, own

SUITES = pathlib.Path(__file__).resolve().parent / "suites"
PATIENCE = 60.0  # seconds that a member is given to end by itself


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the suite."""

    suite: Positional[str] = "small"
    """Name of a suite in experiments/tools/suites, or the path of a TOML file."""
    module: str = ""
    """Module of your own, such as my.experiment: the experiment of members that name none."""
    out: pathlib.Path | None = None
    """Folder of the members; by default out/suite-NAME. Processes that share it share the work."""
    dry_run: bool = False
    """Print the members, their states and their times by earlier records; run nothing."""
    retry: bool = True
    """Run members again that failed before this process started."""


class Member(NamedTuple):
    """One experiment with its options.

    Attributes:
      name: of its folder.
      module: what runs.
      options: its command line, without --out.
      config_hash: of the configuration that they give.
      steps: outer steps times seeds, for the estimate; 0 where unknown.
      code_hash: of the code, see `chosen.code_hash`.
    """

    name: str
    module: str
    options: tuple[str, ...]
    config_hash: str
    steps: int
    code_hash: str = ""


def read(path: pathlib.Path, module: str = "") -> list[Member]:
    """The members of a suite file.

    Args:
      module: the experiment of members that name none.

    Raises:
      UserError: the file, an experiment or an option is not understood.
    """
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SUITES.glob("*.toml")))
        raise UserError(f"no suite {path}; there are {known}, or give the path of a TOML file")
    try:
        declared = tomllib.loads(path.read_text())["members"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise UserError(f"{path} is no suite ({error}); it needs [[members]] tables") from error
    members = [_member(one, module) for table in declared for one in _combinations(table)]
    twice = {m.name for m in members if sum(m.name == o.name for o in members) > 1}
    if twice:
        raise UserError(f"{path} declares {', '.join(sorted(twice))} twice")
    return members


def _combinations(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
    values = [v if isinstance(v, list) else [v] for v in table.values()]
    for chosen in itertools.product(*values):
        yield dict(zip(table, chosen, strict=True))


def _member(declared: dict[str, Any], module: str) -> Member:
    declared = dict(declared)
    named, *given = str(declared.pop("experiment", module)).split() or [""]
    if not named:
        raise UserError("a member names no experiment; name one, or give --module my.experiment")
    is_own = "." in named or named == module
    chosen = own(named) if is_own else experiment(named)
    options: list[str] = list(given)
    for name, value in declared.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            options += [f"--{flag}", str(value)]
    try:
        config = command.parse(chosen.config, options)
    except UserError as error:
        raise UserError(f"{chosen.name}: {error}") from error
    told = flat(config)
    steps = told.get("num_steps", 0) * told.get("seeds", 0)
    shown = given + [str(v) for k, v in declared.items() if k != "publish"]
    name = journal.slug("-".join([chosen.name, *shown]))
    digests = report.config_hash(config), code_hash(chosen.module)
    return Member(name, chosen.module, tuple(options), digests[0], steps, digests[1])


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[int | None]:
    """The descriptor of the lock on a member's folder, or None if another process holds it.

    The kernel gives it back when the last process that has it ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield descriptor if any(_taken(descriptor) for _ in range(3)) else None
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Whether the lock could be taken; where not, after a moment: somebody may only be looking."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        time.sleep(0.1)
        return False


def _told(folder: pathlib.Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((folder / name).read_text())
    except (OSError, ValueError):
        return {}


def state(member: Member, folder: pathlib.Path) -> str:
    """What became of a member so far: done, failed or to do."""
    done = _told(folder, "done.json")
    same = all(done.get(name) == digest for name, digest in _digests(member).items())
    if same and all((folder / name).is_file() for name in done["records"]):
        return "done"
    return "failed" if _told(folder, "failed.json") else "to do"


def _digests(member: Member) -> dict[str, Any]:
    return {"config_hash": member.config_hash, "code_hash": member.code_hash}


def run(member: Member, folder: pathlib.Path, lock: int) -> bool:
    """Runs a member in a process of its own, which holds the lock too; whether it ended well."""
    began = time.time()
    arguments = [sys.executable, "-m", member.module, *member.options, "--out", str(folder)]
    with (folder / "log.txt").open("a") as log:
        code = _ended(arguments, log, lock)
    facts = _digests(member) | {"seconds": time.time() - began}
    (folder / "failed.json").unlink(missing_ok=True)
    if code == 0:
        records = [p.name for p in report.files(folder)]
        _write(folder / "done.json", facts | {"records": records, "steps": member.steps})
    else:
        lines = (folder / "log.txt").read_text().strip().splitlines()
        reason = lines[-1] if lines else ""
        _write(
            folder / "failed.json", facts | {"status": code, "reason": reason, "at": time.time()}
        )
    return code == 0


def _ended(arguments: Sequence[str], log: IO[str], lock: int) -> int:
    """The exit status of a member; where the suite is stopped, the member is stopped first."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(arguments, stdout=log, stderr=log, stdin=quiet, pass_fds=[lock])
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=PATIENCE)
        process.kill()
        process.wait()
        raise


def _write(path: pathlib.Path, facts: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(facts, indent=1) + "\n")
    os.replace(temporary, path)


def work(members: Sequence[Member], out: pathlib.Path, retry: bool) -> list[str]:
    """Runs what is left and nobody else is running; returns the names it has run."""
    began, ran = time.time(), []
    for i, member in enumerate(members):
        folder = out / member.name
        with locked(folder) as lock:
            if lock is None or state(member, folder) == "done":
                continue
            failed = _told(folder, "failed.json")
            if failed and (not retry or failed["at"] >= began):
                continue
            print(f"[{i + 1}/{len(members)}] {member.name}: running", flush=True)
            well = run(member, folder, lock)
            print(f"[{i + 1}/{len(members)}] {member.name}: {'done' if well else 'FAILED'}")
            ran.append(member.name)
    return ran


def estimate(member: Member, out: pathlib.Path) -> float | None:
    """The seconds a member may take, by the record of the same experiment that is most alike.

    A record of the same configuration comes first, then those that have most of the options'
    values, in their settings or their names (that of `tables T4` is of another experiment, which
    T4 calls); of these the slowest counts. The time is scaled by outer steps times seeds.
    """
    experiment = member.module.rpartition(".")[2]
    asked = {word for word in member.options if not word.startswith("--")}
    places = [report.RESULTS, *(p for p in out.parent.glob("*") if p.is_dir()), *out.glob("*")]
    found: list[tuple[bool, int, float]] = []
    for path in itertools.chain.from_iterable(map(report.files, places)):
        record = report.facts(path)
        words = path.stem.split("-")
        if record is None or not record.total_seconds:
            continue
        if experiment not in (record.experiment, words[0]):
            continue
        past, total = record.config, record.total_seconds
        steps = past.get("num_steps", 0) * past.get("seeds", 0)
        scale = member.steps / steps if member.steps and steps else 1.0
        each = [x for value in past.values() for x in (value if type(value) is list else [value])]
        alike = len(asked & {*map(str, each), *words})
        found.append((record.config_hash == member.config_hash, alike, total * scale))
    return max(found)[2] if found else None


def overview(members: Sequence[Member], out: pathlib.Path) -> tables.Grid:
    """The members, their states and their expected minutes."""
    rows, total, unknown = [], 0.0, 0
    for member in members:
        folder = out / member.name
        now = "to do"
        if folder.is_dir():
            with locked(folder) as lock:
                now = state(member, folder) if lock is not None else "running"
        seconds = estimate(member, out)
        if now != "done":
            total, unknown = total + (seconds or 0.0), unknown + (seconds is None)
        reason = _told(folder, "failed.json").get("reason", "") if now == "failed" else ""
        done = _told(folder, "done.json")
        if now == "to do" and done.get("config_hash") == member.config_hash:
            reason = "its code has changed" if done.get("code_hash") != member.code_hash else ""
        minutes = "?" if seconds is None else f"{seconds / 60:.1f}"
        rows.append([member.name, now, minutes, member.config_hash, reason[:80]])
    note = f"About {total / 60:.0f} minutes are left for one process"
    note += f", without {unknown} members of which no time is known." if unknown else "."
    headings = ("member", "state", "minutes", "configuration", "reason")
    return tables.Grid(f"Suite in {out}", headings, rows, 2, [note])


def main(config: Config) -> None:
    """Runs what is left of the suite, or tells what it would cost."""
    path = pathlib.Path(config.suite)
    path = path if path.suffix == ".toml" else SUITES / f"{config.suite}.toml"
    members = read(path, config.module)
    out = config.out or pathlib.Path("out") / f"suite-{path.stem}"
    if not config.dry_run:
        work(members, out, config.retry)
    grid = overview(members, out)
    tables.terminal(grid)
    failed = [row[0] for row in grid.rows if row[1] == "failed"]
    if failed and not config.dry_run:
        raise UserError(f"{len(failed)} failed: {', '.join(failed)}; see log.txt in its folder")


if __name__ == "__main__":
    command.cli(main, Config)
