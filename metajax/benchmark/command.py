"""The command line of an experiment: a typed configuration in, one line for what is wrong."""

import contextlib
import dataclasses
import errno
import io
import itertools
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import jax
import tyro

from metajax.types import UserError

Preset = Literal["quick", "paper", "gpu"]
"""Sizes of a run: minutes on two cores; as the stored records; large batches, full schedules."""
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
"""Operations of a program one after the other, each on all cores. Side by side, a program that
solves linear systems beside a network waited forever on two cores (jaxlib 0.10.2). Read by XLA when
the first device is asked for."""
SAID = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end; what is open is closed on the way out."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = signal.Signals(number)


def cli(main: Callable[[Any], Any], config: type) -> None:
    """Runs ``main`` on a configuration from the command line.

    What the user can mend is told in one line on standard error, with exit status 1; Ctrl-C and
    SIGTERM too, with 128 and the number of the signal, as the shell has it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if IN_ORDER.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{IN_ORDER} {flags}".strip()
    cache = pathlib.Path(__file__).resolve().parents[2] / ".cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        with _signals():
            main(parse(config, None, _by_field(sys.modules[main.__module__].__doc__ or "")))
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        sys.exit(
            f"error: cannot write {error.filename or 'a file of the run'} ({error.strerror}); make "
            "room or choose another --out, then run the same command: it goes on where it stood"
        )
    except Stopped as stop:
        print(
            f"{SAID[stop.number]}: what was saved last is whole; the same command goes on from it",
            file=sys.stderr,
        )
        sys.exit(128 + stop.number)


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
      UserError: an option is not understood.
    """
    said = io.StringIO()
    given = list(sys.argv[1:] if arguments is None else arguments)
    default = with_preset(_declared(config), _preset_in(given)) if has_preset(config) else None
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                config,
                args=given,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
                **options,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()[1:]]
        told = " ".join(itertools.takewhile(bool, lines))
        message = f"{told or 'the options are not understood'} (see --help)"
    raise UserError(message)


def has_preset(config: Any) -> bool:
    """Whether a configuration, or a part of it, has the field ``preset``."""
    names = {field.name: field.type for field in dataclasses.fields(config)}
    parts = [t for t in names.values() if dataclasses.is_dataclass(t)]
    return "preset" in names or any(map(has_preset, parts))


def with_preset(config: Any, name: str) -> Any:
    """The configuration with the settings of a preset.

    Each dataclass takes them from the table ``PRESETS`` of its own module: preset -> field ->
    value. What a table does not name stays as declared; ``paper`` names nothing, since the declared
    defaults are those of the stored records.
    """
    changes = {
        field.name: with_preset(getattr(config, field.name), name)
        for field in dataclasses.fields(config)
        if dataclasses.is_dataclass(getattr(config, field.name))
    }
    table = getattr(sys.modules[type(config).__module__], "PRESETS", {})
    known = {field.name for field in dataclasses.fields(config)}
    changes |= {k: v for k, v in table.get(name, {}).items() if k in known}
    if "preset" in known:
        changes["preset"] = name
    return dataclasses.replace(config, **changes)


def _declared(config: type) -> Any:
    """The configuration as declared; what has no default is left for the command line."""
    needed = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return config(**needed)


def _preset_in(arguments: Sequence[str]) -> str:
    """The preset that the options name; a wrong name is told by the parser, later."""
    for option, value in itertools.pairwise([*arguments, ""]):
        name, _, joined = option.partition("=")
        if name == "--preset" and (joined or value) in get_args(Preset):
            return joined or value
    return "paper"
