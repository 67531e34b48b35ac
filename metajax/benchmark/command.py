"""The command line of an experiment: a typed configuration in, one line for what is wrong."""

import contextlib
import dataclasses
import errno
import itertools
import os
import pathlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import jax
import numpy as np
import tyro

from metajax import places, settings
from metajax.results import records
from metajax.settings import Preset
from metajax.training import devices, journal, standstill
from metajax.types import UserError

CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
SAID = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}

GOES_ON = "what was saved last is whole; the same command goes on from it"
FROM_START = "nothing is kept of an unfinished run; the same command starts from the beginning"
"""What is said of a command that a signal ends, with checkpoints (`GOES_ON`) and without."""


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end; what is open is closed on the way out."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = signal.Signals(number)


def cli(main: Callable[[Any], Any], config: type, *, stopped: str = GOES_ON) -> None:
    """Parses a configuration from the command line and runs ``main`` on it.

    A `UserError` ends the process with one line on standard error and exit status 1. Ctrl-C and
    SIGTERM end it with one line and exit status 128 plus the number of the signal, as in a shell.

    Args:
      main: takes the configuration; its module's docstring is the text of ``--help``.
      config: a dataclass of options.
      stopped: the message after a signal: what is kept, and what the same command does next.
    """
    devices.in_order()
    standstill.arm()
    _keep_programs()
    try:
        with _signals():
            found = parse(config, None, _by_field(sys.modules[main.__module__].__doc__ or ""))
            options = settings.flat(found)
            if options.get("publish"):
                records.require_clean(records.uncommitted_changes())
            if not options.get("from_records"):
                require_writable(options.get("out"))
            devices.make_available(options.get("devices", 1))
            with contextlib.ExitStack() as stack:
                if places.process():  # the first of several processes speaks for all
                    silence = stack.enter_context(open(os.devnull, "w"))
                    stack.enter_context(contextlib.redirect_stdout(silence))
                main(found)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        again = ": it goes on where it stood" if stopped == GOES_ON else " again"
        sys.exit(
            f"error: cannot write {error.filename or 'a file of the run'} ({error.strerror}); make "
            f"room or choose another --out, then run the same command{again}"
        )
    except Stopped as stop:
        print(f"{SAID[stop.number]}: {stopped}", file=sys.stderr)
        sys.exit(128 + stop.number)


def shown(
    name: str,
    config: Any,
    measured: Callable[[Any], records.Record],
    report: Callable[[records.Record, pathlib.Path], None],
) -> records.Record:
    """The record of an experiment, read if ``--from-records`` asks for it and else made; reported.

    Args:
      name: of the record.
      config: the configuration; it has an ``output``.
      measured: makes the record and writes it.
      report: prints a record and saves its pictures in a folder.
    """
    record = records.stored(name) if config.output.from_records else measured(config)
    report(record, config.output.folder(name))
    return record


def kept(
    name: str,
    experiment: str,
    config: Any,
    arms: Iterable[records.Arm],
    scores: Mapping[records.Key, np.ndarray],
    *,
    began: float,
    **fields: Any,
) -> records.Record:
    """The record of a run that ends now, with its time and its peak memory, made and written.

    Args:
      name: of the record.
      experiment: the experiment's name.
      began: `time.perf_counter` at the start of the run.
      fields: the others of `Record`.
    """
    took = {"total": time.perf_counter() - began}
    memory = journal.peak_memory()
    record = records.made(
        experiment, config, arms, scores, seconds=took, peak_memory=memory, **fields
    )
    records.write(config.output.folder(name), name, record, config.output.publish)
    return record


def require_writable(out: pathlib.Path | None) -> None:
    """Checks, before anything is computed, that results can be written to a folder.

    Args:
      out: the folder, which need not exist; None for ``./out``.

    Raises:
      UserError: it is a file, or cannot be written to.
    """
    wanted = pathlib.Path("out") if out is None else out
    said = "./out" if out is None else f"--out {out}"
    above = next(p for p in (wanted.absolute(), *wanted.absolute().parents) if p.exists())
    if not above.is_dir():
        raise UserError(f"{said}: {above} is a file; name another folder with --out")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{said}: nothing can be written in {above}; name another with --out")


def _keep_programs() -> None:
    """Keeps compiled programs in the user's cache, unless the user has said where, or cannot."""
    option = "jax_compilation_cache_dir"
    if getattr(jax.config, option):  # the user's JAX_COMPILATION_CACHE_DIR
        return
    folder = places.cache() / "jax"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update(option, str(folder))


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Raises `Stopped` at the first SIGINT or SIGTERM; a second one ends the process at once."""

    def stop(number: int, frame: Any) -> None:
        for each in SAID:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    earlier = {number: signal.signal(number, stop) for number in SAID}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _by_field(text: str) -> str:
    """An experiment's docstring with a paragraph for each field, which ``--help`` keeps apart."""
    return re.sub(r"\n(?=(?:References?|Run|Published|Deviates): )", "\n\n", text)


def parse(
    config: type, arguments: Sequence[str] | None = None, description: str | None = None
) -> Any:
    """The configuration from options, or from the command line; ``--preset`` sets the defaults.

    Raises:
      UserError: an option is not understood, or its value makes no sense.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    default = settings.with_preset(declared(config), _preset_in(given))
    told = {"prog": _program(), "description": description, "default": default}
    return settings.parsed(config, given, **told)


def _program() -> str:
    """How the command was called, for the line of usage: a module, a script or ``metajax NAME``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not sys.argv[0].endswith(".py"):
        return sys.argv[0]
    return f"python -m {spec.name.removesuffix('.__main__')}"


def declared(config: type) -> Any:
    """The configuration with its default values; fields without one are required options."""
    needed = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return config(**needed)


def _preset_in(arguments: Sequence[str]) -> Preset:
    """The preset that the options name; a wrong name is told by the parser, later."""
    for option, value in itertools.pairwise([*arguments, ""]):
        name, _, joined = option.partition("=")
        for known in get_args(Preset):
            if name == "--preset" and (joined or value) == known:
                return known
    return "paper"
