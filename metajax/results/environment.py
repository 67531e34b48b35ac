"""The environment of a run, on which its numbers can depend: versions, device, flags, commit."""

import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata

import jax

from metajax.results.schema import Environment
from metajax.types import UserError

PACKAGES = ("metajax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
ROOT = pathlib.Path(__file__).resolve().parent
PAGES = (":(top,exclude)paper/results", ":(top,exclude)docs", ":(top,exclude)*.md")
"""Changes that alter no result: other records, and pages written from records."""

FOLDERS = ("--out", "--data-dir")
"""Options that say where files are on a machine."""


def environment() -> Environment:
    """The environment of this process, now."""
    device = jax.devices()[0]
    return Environment(
        date=now(),
        command=" ".join(["python -m", _module_name(), *without_folders(sys.argv[1:])]),
        commit=_git("rev-parse", "HEAD") or os.environ.get("METAJAX_COMMIT", ""),
        uncommitted_changes=uncommitted_changes(),
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES},
        device=f"{device.platform}:{device.device_kind}",
        num_devices=jax.device_count(),
        num_cpus=os.cpu_count(),
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        x64=bool(jax.config.read("jax_enable_x64")),
    )


def without_folders(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command without the folders of one machine: no other needs them.

    >>> without_folders(["--seeds", "3", "--out", "/mine", "--data-dir=/disk", "--publish"])
    ['--seeds', '3', '--publish']
    """
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument in FOLDERS:
            next(rest, None)
        elif argument.partition("=")[0] not in FOLDERS:
            kept.append(argument)
    return kept


def version(package: str) -> str:
    """The version of an installed package, "unknown" if it is not installed as one.

    >>> version("no-such-package")
    'unknown'
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def now() -> str:
    """The time in UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def uncommitted_changes() -> bool:
    """Whether the checkout of this library has uncommitted changes that can change a result."""
    return bool(_git("status", "--porcelain", "--", ":/", *PAGES))


def require_clean(changed: bool) -> None:
    """Refuses to publish results that no commit can reproduce.

    Raises:
      UserError: there are `uncommitted_changes`.
    """
    if changed:
        raise UserError(
            "--publish stores records of committed code only, and this checkout has uncommitted "
            "changes (git status); commit them and run again, or leave --publish out"
        )


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""  # git is not installed
    return done.stdout.strip() if done.returncode == 0 else ""


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else pathlib.Path(sys.argv[0]).name
