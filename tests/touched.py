"""Checks the types of what has changed since a commit, and runs the tests that the change touches.

Tests are touched that have changed themselves or import a module that has. They run, those that
bear the name of a changed module first, until the time is over: `make check` is for a quick answer,
`make test` for the whole.

Run: python tests/touched.py [--since main] [--seconds 50]
"""

import argparse
import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def changed(since: str) -> list[pathlib.Path]:
    """The Python files that differ from a commit or are new, and are still there."""
    git = lambda *told: subprocess.run(
        ["git", "-C", ROOT, *told], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    differ = git("diff", "--name-only", "--diff-filter=d", since)
    new = git("ls-files", "--others", "--exclude-standard")
    return [ROOT / name for name in dict.fromkeys(differ + new) if name.endswith(".py")]


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
    """The test files to run, the closest to the change first."""
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in files}
    modules = {name.removesuffix(".__init__") for name in modules}
    names = {f"test_{name.rsplit('.', 1)[-1]}.py" for name in modules}
    rank = {}
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        if test in files:
            rank[test] = 0
        elif modules & imported(test):
            rank[test] = 1 if test.name in names else 2
    return sorted(rank, key=lambda test: rank[test])


def main() -> int:
    """The exit status: 0 if the types agree and no test that was run fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--since", default="main", help="a commit or branch; by default main")
    parser.add_argument("--seconds", type=float, default=50.0, help="time for the tests")
    options = parser.parse_args()
    files = changed(options.since)
    if not files:
        print(f"no Python file differs from {options.since}")
        return 0
    python = [sys.executable, "-m"]
    types = subprocess.Popen([*python, "pyright", *map(str, files)], cwd=ROOT)
    tests = touched(files)
    status = 0
    if tests:
        print(f"{len(tests)} test files are touched")
        command = [*python, "pytest", "-q", "-x", *map(str, tests)]
        try:
            status = subprocess.run(command, cwd=ROOT, timeout=options.seconds).returncode
        except subprocess.TimeoutExpired:
            print(f"\n{options.seconds:g} s are over, nothing has failed; make test runs the rest")
    return types.wait() or status


if __name__ == "__main__":
    sys.exit(main())
