"""Checks the types of what has changed since a commit, and runs the tests that the change touches.

A test is touched that has changed itself, imports a module that has, or names a file that has, and
those of the documents by every document. The closest to the change are run first, in two processes,
until the time is over; what is left out is named. `make check` is for an answer within a minute,
`make test` for the whole.

Run: python tests/touched.py [--since main] [--seconds 40]
"""

import argparse
import ast
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES, TYPED = 24, 12
"""Test files that are run, and changed files whose types are checked, at most."""
GRACE = 8.0
"""Seconds that a test may go on when the time is over."""


def changed(since: str) -> list[pathlib.Path]:
    """The files that differ from a commit or are new, and are still there."""
    git = lambda *told: subprocess.run(
        ["git", "-C", ROOT, *told], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    differ = git("diff", "--name-only", "--diff-filter=d", since)
    new = git("ls-files", "--others", "--exclude-standard")
    return [ROOT / name for name in dict.fromkeys(differ + new)]


@functools.cache
def imported(path: pathlib.Path) -> set[str]:
    """The dotted names that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def touched(files: list[pathlib.Path]) -> list[pathlib.Path]:
    """The test files to run, the closest to the change first.

    A test that has changed comes first, then that of a changed module's name, then the others by
    the share of what they import of this repository that has changed.
    """
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in files
        if p.suffix == ".py"
    }
    own = {f"test_{name.rpartition('.')[2]}.py" for name in modules}
    others = [p.relative_to(ROOT).as_posix() for p in files if p.suffix != ".py"]
    own |= {"test_docs.py"} if any(name.endswith(".md") for name in others) else set()
    rank = {}
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        text, names = test.read_text(), imported(test)
        ours = {name for name in names if name.startswith(("metajax", "experiments", "paper"))}
        share = len(modules & names) / max(1, len(ours))
        named = any(f'"{pathlib.Path(name).name}"' in text for name in others)
        if test in files:
            rank[test] = 3.0
        elif share or named or (test.name in own and not modules):
            rank[test] = 2.0 * (test.name in own) + share
    return sorted(rank, key=lambda test: -rank[test])


def ended(process: subprocess.Popen, until: float) -> bool:
    """Whether a process and those that it started end in time; if not, they are ended."""
    try:
        process.wait(max(0.0, until - time.time()))
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def start(*command: str, **environment: str) -> subprocess.Popen:
    """A Python module's process, with a group of its own."""
    place = os.environ | environment
    told = [sys.executable, "-m", *command]
    return subprocess.Popen(told, cwd=ROOT, env=place, start_new_session=True)


def main() -> int:
    """The exit status: 0 if the types agree and no test that was run fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--since", default="main", help="a commit or branch; by default main")
    parser.add_argument("--seconds", type=float, default=40.0, help="time for types and tests")
    options = parser.parse_args()
    until, files = time.time() + options.seconds, changed(options.since)
    python = [str(path) for path in files if path.suffix == ".py"]
    tests, types, status = touched(files), None, 0
    if python:
        types = start("pyright", *python[:TYPED])
    if tests:
        print(f"{len(tests)} test files are touched", flush=True)
        several = ["-n", "2", "--dist", "loadfile", "-p", "in_time", "-x", "-q"]
        place = {"METAJAX_TESTS_UNTIL": str(until), "PYTHONPATH": str(ROOT / "tests")}
        run = start("pytest", *several, *map(str, tests[:FILES]), **place)
        if not ended(run, until + GRACE):
            print("\na test was ended that did not end in time; nothing had failed before")
        status = max(0, run.returncode)
    if types and not ended(types, until + GRACE):
        print("types: not checked in time; make lint checks them")
    for what, count in (
        ("types of changed files", len(python[TYPED:])),
        ("test files that the change touches", len(tests[FILES:])),
    ):
        if count:
            print(f"left out: {count} more {what}")
    if not files:
        print(f"nothing differs from {options.since}")
    print("make test runs all tests, make lint checks all types")
    return status or max(0, types.returncode if types else 0)


if __name__ == "__main__":
    sys.exit(main())
