"""The command ``metajax``, which is ``python -m metajax`` too."""

import importlib
import importlib.util
import os
import runpy
import sys

from metajax import stand_ins

USAGE = """usage: metajax COMMAND [--help | options]

  describe LOG        show what a log of ratings or clicks holds, and how it can be split
  train LOG           train a recommender on a log: a table, a plot, a model folder
  recommend MODEL     recommend items to a person, with the reasons
  serve MODEL         serve a web page and a JSON interface on this machine
  experiments [NAME]  list the experiments, or run one
"""
COMMANDS = ("train", "recommend", "serve")
"""Each is a file of ``metajax.commands`` with a ``Config`` and a ``main``."""
STOPPED = {
    "train": "nothing is kept of an unfinished run; the same command starts from the beginning",
    "recommend": "the same command starts from the beginning",
    "serve": "what people said is kept; the same command serves again",
}
"""What is said of a command that a signal ends."""
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def main() -> None:
    """Runs the command that the first argument names, or lists all of them."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name == "serve":  # a request's products are small: threads would only wait for each other
        os.environ.update({k: os.environ.get(k, "1") for k in ONE_THREAD})
    if name in COMMANDS:
        sys.argv[:2] = [f"metajax {name}"]
        stand_ins.where_help_is_asked(lambda: _start(name))
    elif name == "describe":
        stand_ins.where_help_is_asked(lambda: _run("metajax.data"))
    elif name == "experiments":
        del sys.argv[1]
        _run(experiments())
    elif name in ("", "-h", "--help"):
        print(USAGE, end="")
    else:
        sys.exit(f"error: no command {name!r}; metajax --help lists them all")


def _start(name: str) -> None:
    command = importlib.import_module(f"metajax.commands.{name}")
    cli = importlib.import_module("metajax.benchmark.command").cli
    cli(command.main, command.Config, stopped=STOPPED[name])


def experiments() -> str:
    """The package of the experiments: inside an installed metajax, beside it in a checkout."""
    inside = "metajax.experiments"
    return inside if importlib.util.find_spec(inside) else "experiments"


def _run(package: str) -> None:
    try:
        runpy.run_module(f"{package}.__main__", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        sys.exit(f"error: no package {package} here; run this in the folder of the repository")


if __name__ == "__main__":
    main()
