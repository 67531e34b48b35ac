"""A command of the library in the process of the test: a second faster than in one of its own."""

import contextlib
import io
import runpy
import subprocess
import sys
import warnings
from unittest import mock


def command(module: str, *arguments: object) -> subprocess.CompletedProcess:
    """``python -m MODULE ARGUMENTS``: the number it ends with, and what it prints."""
    line = [module, *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", line),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".* found in sys.modules after import", RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as stop:  # as the interpreter ends: by a number, or by a text and 1
            code = stop.code or 0
            if isinstance(code, str):
                code = int(bool(err.write(f"{code}\n")))
    return subprocess.CompletedProcess(line, code, out.getvalue(), err.getvalue())
