"""The options that experiments share, as dataclasses to compose, and the ranges that options have.

An experiment's configuration is a frozen dataclass. What many experiments need stands in parts of
its own (`Output`, `Data`, `SplitOptions`, `Training`), which are its fields; on the command line
every setting is a plain option, whichever part it stands in:

    @dataclasses.dataclass(frozen=True)
    class Config:
        output: Output = Output()
        training: Training = Training(num_steps=1_500)
        inner_rate: float = 0.1
        inner_steps: Positive = 5

A number must be finite and not negative. A type with a `Range`, such as `Positive`, says more.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import math
import pathlib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import tyro

from metajax import places
from metajax.types import UserError

Preset = Literal["quick", "paper", "gpu"]
"""Sizes of a run: minutes on two cores; as the stored records; large batches, full schedules."""
T = TypeVar("T")
Presets = Mapping[Preset, Mapping[str, Any]]
"""Preset -> setting -> value. ``paper`` names nothing: declared defaults are those of records."""

PLACES = (
    *("preset", "seeds_at_once", "devices", "out", "data_dir", "fresh", "publish"),
    "from_records",
)
"""Settings that change no result but for its last bits."""


class Range(NamedTuple):
    """The values that an option may have: from ``low`` to ``high``, both included."""

    low: float = 0
    high: float = math.inf

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"{self.low:g} to {self.high:g}"
        return f"{self.low:g} or more" if self.low > -math.inf else "a finite number"


class Later(NamedTuple):
    """Marks a setting added when there were records: at its default it is not in the digest."""


Positive = Annotated[int, Range(1)]
"""A number of steps, users, layers ...: 1 or more."""
Share = Annotated[float, Range(0, 1)]
"""A part of a whole, or a probability."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where results go, and whether stored ones are shown instead."""

    out: pathlib.Path | None = None
    """Folder for record and plots; by default a folder of the experiment in ./out."""
    publish: bool = False
    """Also store the record in the folder of published records."""
    from_records: bool = False
    """Print the table of the stored record, without running anything."""

    def folder(self, name: str) -> pathlib.Path:
        """The folder ``--out``, else ``out/name``."""
        return places.own(self.out or pathlib.Path("out") / name)


@dataclasses.dataclass(frozen=True)
class Output(Stored):
    """Where results go, whether stored ones are shown instead, and the size of the run."""

    preset: Preset = "paper"
    """Size of the run: quick is minutes on two cores; other options override it."""


Missing = Literal["refuse", "drop", "keep"]


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How a log of your own is read; what is not given is detected in the file and reported.

    Every field has the same name in Python, ``ReadOptions(user="visitor")``, and on the command
    line, ``--user visitor``. A column is a name of the header or a number counted from 1.
    """

    user: str | None = None
    """Column of the users, by name or number; a session may stand for a user."""
    item: str | None = None
    """Column of the items, by name or number."""
    label: str | None = None
    """Column of the ratings; 'none' reads every row as an event."""
    count: str | None = None
    """Column of counts: how often an event happened, such as plays; 'none' ignores it."""
    time: str | None = None
    """Column of the times; 'none' ignores it."""
    columns: str | None = None
    """Names of the file's columns in their order, such as user,item,_,time; _ ignores a column."""
    header: bool = True
    """Whether the first line names the columns."""
    separator: str | None = None
    """The separator of two fields, such as ';' or '::' or tab."""
    quote: str | None = None
    """'"' if these marks enclose fields, 'none' if they are part of the text."""
    decimal: str | None = None
    """The decimal sign of ratings and counts: '.' or ','."""
    encoding: str = "utf-8"
    """How the text is encoded, such as latin-1."""
    missing: Missing = "refuse"
    """A row without user, item, label or time: refuse the file, drop the row, or keep it, where NA
    and the like are ids."""
    time_format: str | None = None
    """How times are written, such as '%d/%m/%Y %H:%M'."""
    scale: Annotated[tuple[float, float] | None, Range(-math.inf)] = None
    """Lowest and highest possible rating; by default those in the file."""
    last_only: bool = False
    """Keep only the last row of each pair of user and item."""
    items: pathlib.Path | None = None
    """File with side information of the items: a row each, with a header."""
    users: pathlib.Path | None = None
    """File with side information of the users: a row each, with a header."""

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise UserError(f"--decimal {self.decimal!r}: give '.' or ','")
        if self.quote not in (None, "", "none", '"'):
            raise UserError(f"--quote {self.quote!r}: give '\"' or none")
        if self.missing not in ("refuse", "drop", "keep"):
            raise UserError(f"--missing {self.missing!r}: give refuse, drop or keep")
        if self.scale and not self.scale[0] < self.scale[1]:
            low, high = self.scale
            raise UserError(f"--scale {low:g} {high:g}: give the lowest, then the highest rating")

    def roles(self) -> dict[str, str | None]:
        """The columns as they were named, by role; "" is none."""
        said = {role: getattr(self, role) for role in ("user", "item", "label", "count", "time")}
        return {role: "" if name == "none" else name for role, name in said.items()}


@dataclasses.dataclass(frozen=True)
class Data:
    """Which interactions are read, from where and how."""

    dataset: str = "ml-1m"
    """synthetic, ml-100k, ml-1m, another named data set, or the path of your own log."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""
    read: ReadOptions = ReadOptions()
    """How a log of your own is read, where detection would be wrong."""

    PRESETS: ClassVar[Presets] = {"quick": {"dataset": "synthetic"}}


Protocol = Literal[
    "melu",
    "users",
    "first-k",
    "tanp",
    "time",
    "stream",
    "leave-one-out",
    "items",
    "domains",
    "file",
]
"""Who is new, and what is asked of them: see `metajax.benchmark.splits`."""


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """Who is seen in meta-training, and who is tested."""

    protocol: Annotated[Protocol, tyro.conf.arg(aliases=("--split",))] = "melu"
    """melu: warm, user-cold, item-cold and both-cold tasks; users: new users, query rows at random;
    first-k: new users, their first rows are the support; tanp: new users, all rows beside the
    support are the query; time: train on the past, query the future; stream: predict each row,
    then learn from it; leave-one-out: each user's last row is the query; items: tasks are new
    items; domains: users who are new in a domain; file: the tasks in --tasks."""
    split_seed: int = 0
    """Seed of the split: meta-validation users, query rows, and cold users and items where no split
    is published."""
    redraw: bool = False
    """melu: draw the cold users and items anew even where a published split exists."""
    min_rows: Positive | None = None
    """Least number of rows of a test task; with items: of a known item."""
    max_rows: Positive | None = None
    """Largest number of rows of a test task."""
    support_rows: Positive | None = None
    """Support rows of a test task: exactly (first-k, tanp), at most (time, stream, leave-one-out,
    domains), or in each phase (items)."""
    query_rows: Positive | None = None
    """Query rows of a test task: exactly (melu, users), or at most."""
    fold: int | None = None
    """users: number of the fold whose users are tested; no two folds share a test user."""
    source_domain: str = ""
    """domains: the data set that the supports come from; the queries come from --dataset."""
    tasks: pathlib.Path | None = None
    """file: the task file that `metajax.data.split.save` wrote."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Devices, for an experiment that has training options of its own."""

    devices: Positive = 1
    """Number of devices over which the batch of a training step is split."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How every trained arm of a rating experiment is trained; every setting is given by name."""

    seeds: Positive = 3
    """Number of training seeds; they train side by side in one program."""
    seeds_at_once: int = 0
    """Number of seeds that train at the same time, if memory is short; 0 is all."""
    num_steps: Positive = 2000
    """Outer steps of every trained arm, at most."""
    patience: Annotated[int, Range(0, 10**9)] = 0
    """Outer steps without a lower error on meta-validation after which a training ends, at its
    plateau; 0 takes all steps."""
    num_tasks: Positive = 32
    """Tasks per outer step."""
    num_support: Annotated[int, Range(1, 2000)] = 64
    """Support ratings of a training task, at most."""
    devices: Positive = 1
    """Number of devices over which the tasks of an outer step are split."""
    fresh: bool = False
    """Start from the beginning, instead of resuming from the run's checkpoints in the folder."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"seeds": 2, "num_steps": 200, "num_tasks": 16},
        "gpu": {"seeds": 5, "num_steps": 10_000, "num_tasks": 256},
    }


def leaves(config: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and value of every setting, those of parts in the place of the part."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from leaves(value)
        else:
            yield field.name, hints[field.name], value


def flat(config: Any) -> dict[str, Any]:
    """Setting -> value of a configuration and all its parts, as records hold it.

    Of `ReadOptions` those that were said, so that a record of a named data set tells none of them.

    Raises:
      ValueError: two parts have a setting of the same name.
    """
    settings = [(name, value) for name, _, value in leaves(config)]
    if len({name for name, _ in settings}) < len(settings):
        raise ValueError(f"{type(config).__name__}: two parts have a setting of the same name")
    read = getattr(getattr(config, "data", None), "read", None)
    unsaid = dataclasses.fields(read) if isinstance(read, ReadOptions) else ()
    return dict(x for x in settings if x not in [(field.name, field.default) for field in unsaid])


def config_hash(config: Any) -> str:
    """A digest of a resolved configuration, as 12 hexadecimal digits.

    Where the data lie, where results go, the name of the preset and how many seeds go side by side
    do not count, see `PLACES`, and neither does the default of a setting that is `Later`. Two
    experiments of equal settings have equal digests.
    """
    apart = {*PLACES, *_untouched(config)}
    named = {name: value for name, value in flat(config).items() if name not in apart}
    text = json.dumps(named, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _untouched(config: Any) -> Iterator[str]:
    """The settings of `Later` that are at their default, of those that stand in no part."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for name, default in ((field.name, field.default) for field in dataclasses.fields(config)):
        if Later() in typing.get_args(hints[name]) and getattr(config, name) == default:
            yield name


def option(name: str) -> str:
    """The option of a setting.

    >>> option("num_steps")
    '--num-steps'
    """
    return f"--{name.replace('_', '-')}"


def check(config: T) -> T:
    """The configuration itself, if every number in it is one that makes sense.

    Raises:
      UserError: an option is outside its range; the first one is named.
    """
    for name, kind, value in leaves(config):
        allowed = _range_of(kind)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if not (math.isfinite(number) and allowed.low <= number <= allowed.high):
                raise UserError(f"{option(name)} must be {allowed}, and it is {number:g}")
    return config


def parsed(config: type[T], arguments: Sequence[str], **options: Any) -> T:
    """The configuration that arguments of a command line say, checked.

    Args:
      options: others of `tyro.cli`.

    Raises:
      UserError: an option is not understood, or its value makes no sense.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = tyro.cli(config, args=arguments, config=(tyro.conf.OmitArgPrefixes,), **options)
        return check(found)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()[1:]]
    told = " ".join(itertools.takewhile(bool, lines))
    raise UserError(f"{told or 'the options are not understood'} (see --help)")


def _range_of(kind: Any) -> Range:
    """The range in a type, such as ``tuple[Positive, ...]``; without one, 0 or more."""
    for extra in getattr(kind, "__metadata__", ()):
        if isinstance(extra, Range):
            return extra
    inner = [_range_of(part) for part in typing.get_args(kind)]
    return next((found for found in inner if found != Range()), Range())


def with_preset(config: T, name: Preset) -> T:
    """The configuration with the settings of a preset.

    They stand in the table ``PRESETS`` of a dataclass, itself a `Presets`; what the table of the
    whole says goes before what its parts say. What no table names stays as declared.
    """
    changes = _of_preset(config, name)
    known = {key for key, _, _ in leaves(config)}
    if "preset" in known:
        changes["preset"] = name
    return replace(config, **{key: value for key, value in changes.items() if key in known})


def _of_preset(config: Any, name: Preset) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            changes |= _of_preset(part, name)
    return changes | dict(getattr(config, "PRESETS", {}).get(name, {}))


def replace(config: T, **changes: Any) -> T:
    """The configuration with settings changed, whichever part they stand in.

    >>> replace(Training(), seeds=5).seeds
    5

    Raises:
      KeyError: it has no such setting.
    """
    own: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if field.name in changes:
            own[field.name] = changes.pop(field.name)
        elif dataclasses.is_dataclass(part) and not isinstance(part, type):
            mine = {name for name, _, _ in leaves(part)} & changes.keys()
            if mine:
                own[field.name] = replace(part, **{name: changes.pop(name) for name in mine})
    if changes:
        raise KeyError(f"{type(config).__name__} has no setting {', '.join(changes)}")
    return dataclasses.replace(config, **own)
