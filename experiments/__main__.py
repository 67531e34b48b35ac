"""``python -m experiments`` lists the commands; ``python -m experiments NAME`` runs one."""

import ast
import pathlib
import runpy
import sys

from metajax import stand_ins

from . import find, sources


def first_line(path: pathlib.Path) -> str:
    """The first line of a file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def listing() -> str:
    """Every command by its room, with the first line of its docstring."""
    lines, last = [f"usage: python -m {__package__} NAME [--help | options]\n"], ""
    for room, name, path in sources():
        lines += [f"{room}/"] * (room != last) + [f"  {name:<22}{first_line(path)}"]
        last = room
    return "\n".join(lines)


def run(name: str) -> None:
    """Runs a command with the arguments that follow its name."""
    module = find(name)
    if module is None:
        sys.exit(f"error: no experiment {name!r}; python -m {__package__} lists them all")
    start = lambda: runpy.run_module(f"{__package__}.{module}", run_name="__main__", alter_sys=True)
    stand_ins.where_help_is_asked(start)


def main() -> None:
    """Runs the command that the first argument names, or lists all of them."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help"):
        print(listing())  # at once: a reader such as head may stop early
    else:
        del sys.argv[1]
        run(name)


if __name__ == "__main__":
    main()
