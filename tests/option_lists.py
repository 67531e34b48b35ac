"""Lists of options, as ``--help`` prints them, and whether a list was given without JAX."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = """
import contextlib, io, json, sys
{imports}

said = {{}}
for name in {names}:
    sys.argv = ["program", *{words}, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        {call}
    jax = sys.modules.get("jax")
    said[name] = out.getvalue(), jax is None or type(jax).__name__ == "_Library"
print(json.dumps(said))
"""


def listed(imports: str, names: str, words: str, call: str) -> dict[str, tuple[str, bool]]:
    """Name -> (its list, whether without JAX), all in one process of their own.

    Args:
      imports: a line of Python; names: an expression of the names; words: one of what stands before
        ``--help`` for a ``name``; call: a statement that runs it.
    """
    program = PROGRAM.format(imports=imports, names=names, words=words, call=call)
    wide = dict(os.environ, COLUMNS="80")
    command_line = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command_line, cwd=ROOT, env=wide, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
