"""Records of runs: one writer, one reader, one file per record.

    from metajax.results.schema import Arm, Key, METHOD, BASELINE

    record = records.made("mine", config, arms=[Arm("Mine"), Arm("Item mean", BASELINE)],
                          scores={Key("user_cold", "Mine", "all", "mae"): values_SxT},
                          method="Mine", seconds={"total": 12.0}, extra={"note": "..."})
    path = records.write(folder, "mine-ml-1m", record,   # first, so that a plot cannot lose it
                         config.output.publish)          # also among the stored records
    record = records.read(path)
    records.stored("maml-ml-1m"), records.all_stored("tables-*")

`schema` says what the fields mean. A file ``NAME.record`` is a zip archive of ``record.json``, all
facts, and ``scores.bin``, the packed per-task scores (`packing`), to the last bit those of the
record in memory: `made` has rounded them below their noise (`rounding`). Means, intervals and
differences are recomputed from the scores each time, so that a record can be checked
and compared by anyone: `interval` and `difference` are what every table prints.
"""

import dataclasses
import hashlib
import io
import json
import lzma
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from metajax import places, settings
from metajax.data.table import Interactions
from metajax.results import intervals, ledger, packing, rounding
from metajax.results.environment import environment, now, require_clean, uncommitted_changes
from metajax.results.schema import (
    ABLATION,
    ALL,
    BASELINE,
    CONTROL,
    GENERATION,
    METHOD,
    N0,
    N1,
    N2,
    N3,
    PUBLISHED,
    READABLE,
    VERSION,
    Arm,
    Data,
    Environment,
    Gradients,
    Key,
    Opening,
    Record,
    Split,
    arms_of,
    label,
)
from metajax.settings import PLACES, config_hash
from metajax.types import UserError

__all__ = [
    "ABLATION",
    "ALL",
    "BASELINE",
    "CONTROL",
    "GENERATION",
    "METHOD",
    "N0",
    "N1",
    "N2",
    "N3",
    "PLACES",
    "PUBLISHED",
    "RESULTS",
    "Arm",
    "Data",
    "Environment",
    "Gradients",
    "Key",
    "Opening",
    "Record",
    "Split",
    "all_stored",
    "arms_of",
    "config_hash",
    "data_of",
    "difference",
    "environment",
    "facts",
    "files",
    "interval",
    "label",
    "made",
    "now",
    "open_tests",
    "path_of",
    "publish",
    "read",
    "require_clean",
    "rooted",
    "stored",
    "uncommitted_changes",
    "write",
]

RESULTS = places.published()
"""Where published records are."""
SUFFIX = ".record"
FOLDERS = {"out", "data_dir"}
"""Settings that say where files are on a machine."""
DAMAGED = (
    *(UserError, ValueError, KeyError, TypeError, AttributeError, OSError, EOFError),
    *(zipfile.BadZipFile, lzma.LZMAError, NotImplementedError, MemoryError),
)
"""What reading something that is no record may raise."""


def made(
    experiment: str,
    config: Any,
    arms: Iterable[Arm] = (),
    scores: Mapping[Key, np.ndarray] | None = None,
    **fields: Any,
) -> Record:
    """A record of a run that ends now: its configuration, digest and environment are filled in.

    Print what a run prints from this record: its scores are `rounding.rounded`, and so are those
    that are read back later.

    Args:
      experiment: its name.
      config: the configuration, a dataclass.
      scores: `Key` -> (S, T), as they were computed.
      fields: the others of `Record`.
    """
    known = {"config": settings_of(config), "config_hash": config_hash(config)}
    known |= {"environment": environment(), "generation": GENERATION}
    return Record(experiment, tuple(arms), rounding.rounded(scores or {}), **(known | fields))


def data_of(table: Interactions) -> Data:
    """The data set's name, checksum and sizes."""
    return Data(table.name, table.checksum(), table.num_users, table.num_items, len(table))


def open_tests(config: Any, choices: Mapping[str, Any], experiment: str, tests: str) -> Opening:
    """Opens test tasks after the last choice; returns the line of the ledger for the record.

    Args:
      config: the resolved configuration.
      choices: arm -> what was chosen on meta-validation.
      experiment: the experiment that opens them.
      tests: checksum of the test tasks, see `ledger.checksum`.
    """
    return ledger.enter(ledger.freeze(config, choices), experiment, tests, published=RESULTS)


def settings_of(config: Any) -> dict[str, Any]:
    """The settings of a configuration by name; None for those that only one machine understands."""
    found = plain(settings.flat(config))
    return {**found, **dict.fromkeys(FOLDERS & found.keys())}


def plain(value: Any) -> Any:
    """The value as JSON stores it: tuples become lists, paths text."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def write(
    folder: pathlib.Path, name: str, record: Record, also_publish: bool = False
) -> pathlib.Path:
    """Writes ``name.record``, scores as float32 and exactly, and returns its path.

    It is written beside its place and moved there: what is read is whole.

    Args:
      also_publish: whether the record is published, too, see `publish`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = {key: np.asarray(v, np.float32) for key, v in record.scores.items()}
    facts = {"version": VERSION, **dataclasses.asdict(dataclasses.replace(record, scores={}))}
    facts |= {"scores": [[*key] for key in scores], "scores_digest": digest(scores)}
    facts |= {"packing": packing.FORM}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        text = json.dumps(facts, indent=1, default=_plain) + "\n"
        _add(archive, "record.json", text.encode(), zipfile.ZIP_LZMA)
        packed = packing.pack([scores[key] for key in _in_order(scores)])
        _add(archive, "scores.bin", packed, zipfile.ZIP_STORED)
    path = folder / f"{name}{SUFFIX}"
    _replace(path, content.getvalue())
    if also_publish and not places.process():
        publish(name, record)
    return path


def _in_order(scores: Iterable[Key]) -> list[Key]:
    """The keys with what resembles each other side by side: scenario, metric, then as they come."""
    return sorted(scores, key=lambda key: (key.scenario, key.metric))


def _add(archive: zipfile.ZipFile, name: str, content: bytes, how: int) -> None:
    """Adds a file without its time, so that equal records are equal files."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.compress_type = how
    archive.writestr(info, content)


def _replace(path: pathlib.Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def digest(scores: Mapping[Key, np.ndarray]) -> str:
    """A digest of scores: keys, shapes and float32 values, as 32 hexadecimal digits."""
    total = hashlib.blake2b(digest_size=16)
    for key, values in scores.items():
        values = np.asarray(values, np.float32)
        total.update(json.dumps([*key, *values.shape]).encode())
        total.update(np.where(np.isnan(values), np.float32(np.nan), values).tobytes())
    return total.hexdigest()


def read(path: pathlib.Path) -> Record:
    """The record in a file ``NAME.record``, with its scores.

    Raises:
      UserError: the file is missing, damaged, not a record or of a newer version, or the scores
        are not those it was written with.
    """
    if not path.is_file():
        raise UserError(f"no record {path}; run the experiment first (see --help)")
    try:
        with zipfile.ZipFile(path) as archive:
            told, packed = _facts(archive), archive.read("scores.bin")
        keys = [Key(*key) for key in told["scores"]]
        found = dict(zip(_in_order(keys), packing.unpack(packed), strict=True))
        record = _record(told, {key: found[key] for key in keys})
    except packing.OtherForm as error:
        raise UserError(f"{path} is of another version of metajax: {error}") from error
    except DAMAGED as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path} is no record or is damaged ({told})") from error
    if digest(record.scores) != record.scores_digest:
        raise UserError(f"{path} does not have the scores that it was written with")
    return record


def facts(path: pathlib.Path) -> Record | None:
    """The record without its scores, which is fast to read; None if the file cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _record(_facts(archive), {})
    except DAMAGED:
        return None


def _facts(archive: zipfile.ZipFile) -> dict[str, Any]:
    told = json.loads(archive.read("record.json"))
    if (version := told.pop("version")) not in READABLE:
        read = " and ".join(map(str, READABLE))
        raise packing.OtherForm(f"version {version}, and {read} are read here; update metajax")
    form = told.pop("packing", packing.FORM)  # version 1 does not say; `unpack` recognizes it
    if form != packing.FORM:
        raise packing.OtherForm(f"its scores are packed as {form!r}; update metajax")
    return told


def _record(facts: dict[str, Any], scores: dict[Key, np.ndarray]) -> Record:
    """The record of what `write` has put in ``record.json``."""
    facts.pop("scores")

    def arm(told: dict[str, Any]) -> Arm:
        gradients = told.pop("gradients")
        return Arm(**told, gradients=None if gradients is None else Gradients(*gradients))

    data, split = facts.pop("data"), facts.pop("split")
    parts = {
        "environment": Environment(**facts.pop("environment")),
        "arms": tuple(map(arm, facts.pop("arms"))),
        "opened": tuple(Opening(**one) for one in facts.pop("opened")),
        "data": Data(**data) if data else None,
        "split": Split(**(split | {"folds": tuple(split["folds"])})) if split else None,
        "shots": tuple(facts.pop("shots")),
    }
    return Record(scores=scores, **parts, **facts)


def files(folder: pathlib.Path, pattern: str = "*") -> list[pathlib.Path]:
    """The records in a folder whose names match a pattern, by name."""
    return sorted(folder.glob(f"{pattern}{SUFFIX}"), key=lambda p: f"{p.stem}.")


def path_of(name: str, folder: pathlib.Path | None = None) -> pathlib.Path:
    """The path that the published record of a name has, or would have."""
    folder = folder or RESULTS
    return next(iter(files(folder, name)), folder / f"{name}{SUFFIX}")


def stored(
    name: str, folder: pathlib.Path | None = None, otherwise: pathlib.Path | None = None
) -> Record:
    """The published record of a name.

    Args:
      otherwise: the folder of a run, whose record serves where none is published.

    Raises:
      UserError: there is none, or as `read`.
    """
    path = path_of(name, folder)
    if otherwise and not path.is_file() and path_of(name, otherwise).is_file():
        path = path_of(name, otherwise)
    return read(path)


def all_stored(pattern: str, folder: pathlib.Path | None = None) -> dict[str, Record]:
    """Name -> published record, of all whose names match a pattern such as "tables-*"."""
    return {path.stem: read(path) for path in files(folder or RESULTS, pattern)}


def publish(name: str, record: Record, folder: pathlib.Path | None = None) -> pathlib.Path:
    """Writes a record among the stored ones.

    Raises:
      UserError: it was made by code that is not committed.
    """
    require_clean(record.environment.uncommitted_changes)
    ledger.publish(record.opened, record.experiment, folder or RESULTS)
    return write(folder or RESULTS, name, record)


def _diverged(values: np.ndarray) -> intervals.Interval | None:
    """Where an arm has diverged for some task, an infinite mean without an interval; else None."""
    if not np.isinf(values).any():
        return None
    return intervals.Interval(float(values.mean()), np.nan, np.nan, np.nan, len(values), 0)


def interval(scores: np.ndarray, metric: str) -> intervals.Interval:
    """The mean over tasks of scores (S, T) averaged over seeds, with its bootstrap interval.

    ``mse`` and ``mse_calibrated`` are reported as their roots. An arm that diverged has an infinite
    mean and an interval of NaN, so that a table can still be printed.
    """
    values = intervals.mean_of_seeds(scores)
    return rooted(_diverged(values) or intervals.mean_interval(values), metric)


def rooted(found: intervals.Interval, metric: str) -> intervals.Interval:
    """The root of an interval of ``mse`` or ``mse_calibrated``; those of others as they are."""
    if metric not in ("mse", "mse_calibrated"):
        return found
    return found._replace(mean=found.mean**0.5, low=found.low**0.5, high=found.high**0.5)


def difference(a: np.ndarray, b: np.ndarray) -> intervals.Interval:
    """The mean over tasks of a - b, each (S, T) averaged over its seeds, paired by task.

    The interval is NaN if either has diverged.
    """
    a, b = intervals.mean_of_seeds(a), intervals.mean_of_seeds(b)
    with np.errstate(invalid="ignore"):  # both diverged: neither is ahead
        gap = _diverged(a - b)
    return gap or intervals.paired_bootstrap(a, b)
