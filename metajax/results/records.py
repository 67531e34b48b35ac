"""One record per run: a JSON file for what was done, an npz file of per-task scores beside it.

Tables and plots are functions of records. Means, intervals and differences are recomputed from the
per-task scores each time, so that a record can be checked and compared by anyone.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import numpy as np

from metajax import settings
from metajax.results import intervals
from metajax.types import UserError

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "paper" / "results"
PACKAGES = ("metajax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")

PLACES = (
    "preset",
    "seeds_at_once",
    "devices",
    "out",
    "data_dir",
    "fresh",
    "publish",
    "from_records",
)


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run did and what came of it.

    Attributes:
      facts: everything that is JSON: experiment, method, arms, config, environment, data, split,
        settings chosen, seconds.
      scores: "scenario|arm|condition|metric" -> (S, T) per-task scores, one row per seed; arms
        without randomness have one row.
    """

    facts: dict[str, Any]
    scores: dict[str, np.ndarray]

    def of(self, scenario: str, arm: str, condition: str, metric: str) -> np.ndarray:
        """Per-task scores (S, T).

        Raises:
          UserError: the record has none of that name.
        """
        name = score_name(scenario, arm, condition, metric)
        if name not in self.scores:
            raise UserError(f"the record of {self.facts['experiment']} has no scores {name!r}")
        return self.scores[name]


def score_name(scenario: str, arm: str, condition: str, metric: str) -> str:
    """The name of an array of per-task scores."""
    return f"{scenario}|{arm}|{condition}|{metric}"


def environment() -> dict[str, Any]:
    """What a number can depend on besides the configuration: versions, device, flags, commit."""

    def git(*args: str) -> str:
        root = pathlib.Path(__file__).resolve().parent
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": f"{device.platform}:{device.device_kind}",
        "num_devices": jax.device_count(),
        "num_cpus": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "x64": bool(jax.config.read("jax_enable_x64")),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "command": " ".join(["python -m", _module_name(), *sys.argv[1:]]),
        "date": now(),
    }


def now() -> str:
    """The time in UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else pathlib.Path(sys.argv[0]).name


def config_hash(config: Any) -> str:
    """A digest of a resolved configuration, as 12 hexadecimal digits.

    Where the data lie, where results go, the name of the preset and how many seeds go side by side
    do not count: they change no result but for its last bits. Two experiments of equal settings
    have equal digests.
    """
    named = {name: value for name, value in settings.flat(config).items() if name not in PLACES}
    text = json.dumps(named, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def write(folder: pathlib.Path, name: str, record: Record) -> pathlib.Path:
    """Writes ``name.json`` and ``name.npz`` and returns the path of the first.

    Each file is written beside its place and moved there, the JSON last: what is read is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compact = {k: v.astype(np.float32) for k, v in record.scores.items()}
    digest = _replace(
        folder / f"{name}.npz", lambda f: np.savez_compressed(f, allow_pickle=False, **compact)
    )
    facts = {**record.facts, "scores_blake2b": digest}
    text = json.dumps(facts, indent=1, sort_keys=True, default=_plain) + "\n"
    _replace(folder / f"{name}.json", lambda f: f.write(text.encode()))
    return folder / f"{name}.json"


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _replace(path: pathlib.Path, fill: Callable[[Any], Any]) -> str:
    """Fills a temporary file, moves it to ``path`` and returns the digest of its content."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    return _digest(path)


def _digest(path: pathlib.Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def read(path: pathlib.Path) -> Record:
    """Reads a record by the path of its JSON file.

    Raises:
      UserError: a file is missing or damaged, or the scores are not those of the record.
    """
    scores_path = path.with_suffix(".npz")
    for needed in (path, scores_path):
        if not needed.is_file():
            raise UserError(f"no record {needed}; run the experiment first (see --help)")
    try:
        facts = json.loads(path.read_text())
        if _digest(scores_path) != facts["scores_blake2b"]:
            raise UserError(f"{scores_path} is not the file that {path.name} was written with")
        facts["config"] = flat_config(facts.get("config", {}))
        with np.load(scores_path) as arrays:
            return Record(facts, dict(arrays))
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); run the experiment again") from error


def flat_config(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a record; older ones have those that experiments share under ``run``."""
    return {**config.get("run", {}), **{k: v for k, v in config.items() if k != "run"}}


def _diverged(values: np.ndarray) -> intervals.Interval | None:
    """Where an arm has diverged for some task, an infinite mean without an interval; else None."""
    if not np.isinf(values).any():
        return None
    return intervals.Interval(float(values.mean()), np.nan, np.nan, np.nan, len(values), 0)


def interval(scores: np.ndarray, metric: str) -> intervals.Interval:
    """The mean over tasks of scores (S, T) averaged over seeds, with its bootstrap interval.

    ``mse`` is reported as its root. An arm that diverged has an infinite mean and no interval: in
    a table that is a result, and not a reason to stop.
    """
    values = intervals.mean_of_seeds(scores)
    result = _diverged(values) or intervals.mean_interval(values)
    if metric != "mse":
        return result
    return result._replace(mean=result.mean**0.5, low=result.low**0.5, high=result.high**0.5)


def difference(a: np.ndarray, b: np.ndarray) -> intervals.Interval:
    """The mean over tasks of a - b, each (S, T) averaged over its seeds, paired by task.

    Without an interval where either has diverged.
    """
    a, b = intervals.mean_of_seeds(a), intervals.mean_of_seeds(b)
    with np.errstate(invalid="ignore"):  # both diverged: neither is ahead
        gap = _diverged(a - b)
    return gap or intervals.paired_bootstrap(a, b)
