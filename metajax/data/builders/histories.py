"""Logs of many files, grouped by user with Apache Beam, on this machine or on a cluster.

    folder = histories.prepare("logs/part-*.csv", Path("prepared"))
    users = histories.source(folder)              # users[17] -> item, label, time, oldest first

Each line is ``user,item,label,time``; a header line may come first. A user's lines may be in any
files, in any order. It needs ``apache-beam``; on a cluster, give Beam's options for its runner:

    python -m metajax.data.builders.histories 'gs://BUCKET/log/part-*.csv' gs://BUCKET/prepared \\
        --runner=DataflowRunner --project=PROJECT --region=REGION --temp_location=gs://BUCKET/tmp
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.builders.manifest import VERSION
from metajax.types import UserError

try:
    import tensorflow_datasets as tfds
except ModuleNotFoundError as missing:  # a program, which says so in one line
    raise SystemExit(
        "error: tensorflow-datasets is missing; pip install 'metajax[beam]'"
    ) from missing

Event = tuple[int, str, float]
"""Time, item, label."""


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """A log: the pattern of its files, as Beam's file systems understand it."""

    pattern: str = ""


def event(line: str, pattern: str) -> Iterator[tuple[str, Event]]:
    """The user and the event of a line; nothing for an empty line or the header.

    Raises:
      UserError: the line has not four fields, or its label or time is no number.
    """
    fields = [field.strip() for field in line.split(",")]
    if not any(fields) or fields[:2] == ["user", "item"]:
        return
    try:
        user, item, label, time = fields
        yield user, (int(time), item, float(label))
    except ValueError as error:
        told = f"{pattern}: a line is not user,item,label,time: {line[:80]!r}"
        raise UserError(told) from error


def history(pair: tuple[str, Iterable[Event]]) -> tuple[str, dict[str, Any]]:
    """The key and the example of a user; events by time and, where times tie, by item."""
    user, events = pair
    times, items, labels = zip(*sorted(events), strict=True)
    return user, {
        "user_id": user,
        "item_id": list(items),
        "label": np.array(labels, np.float32),
        "time": np.array(times, np.int64),
    }


class Histories(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One example is one user: the events in the order of time."""

    VERSION = tfds.core.Version(VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        vector = lambda kind: tfds.features.Tensor(shape=(None,), dtype=kind)
        columns = {
            "user_id": tfds.features.Text(),
            "item_id": tfds.features.Sequence(tfds.features.Text()),
            "label": vector(np.float32),
            "time": vector(np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{type(self).__doc__} Files: {self._pattern}",
            features=tfds.features.FeaturesDict(columns),
        )

    @property
    def _pattern(self) -> str:
        config = self.builder_config
        if not isinstance(config, Config):
            raise TypeError(f"{self.name} needs a config of its own")
        return config.pattern

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        import apache_beam as beam

        pattern = self._pattern
        return (
            beam.io.ReadFromText(pattern)
            | beam.FlatMap(event, pattern)
            | beam.GroupByKey()
            | beam.Map(history)
        )


def prepare(pattern: str, folder: Path | str, options: Sequence[str] = ()) -> Path:
    """The folder of a log's prepared users, written first if it is not there.

    Args:
      pattern: of the files.
      folder: of prepared data; one below it is named after the pattern.
      options: Beam's, as on a command line; none is the runner of this machine.

    Raises:
      UserError: Beam is not installed; no such files; a line is damaged.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError("apache-beam is not installed; `pip install 'metajax[beam]'`")
    from apache_beam.options.pipeline_options import PipelineOptions

    name = f"log-{hashlib.blake2b(pattern.encode(), digest_size=6).hexdigest()}"
    config = Config(name=name, version=VERSION, pattern=pattern)
    builder = Histories(data_dir=str(folder), config=config, file_format="array_record")
    download = tfds.download.DownloadConfig(beam_options=PipelineOptions(list(options)))
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what TFDS prints
            builder.download_and_prepare(download_config=download)
    except Exception as error:  # runners wrap what a worker raised in kinds of their own
        raise UserError(_told(pattern, error)) from error
    return Path(str(builder.data_dir))


def _told(pattern: str, error: Exception) -> str:
    """What went wrong in a pipeline, in one line."""
    text = " ".join(str(error).split())
    place = text.find(f"{pattern}: a line is not")
    if place >= 0:
        return text[place : place + len(pattern) + 140].partition(" [while")[0]
    return f"{pattern}: the pipeline failed ({text[:200]})"


def source(folder: Path) -> Sequence[dict[str, Any]]:
    """The users of a prepared log, with random access."""
    builder: Any = tfds.builder_from_directory(folder)
    return builder.as_data_source(split="train")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m metajax.data.builders.histories PATTERN FOLDER [BEAM OPTIONS]")
    try:
        print(prepare(sys.argv[1], sys.argv[2], sys.argv[3:]))
    except UserError as error:
        sys.exit(f"error: {error}")
