"""Train a recommender on a log and save it as a model folder.

The ridge head, a meta-learner, is trained and compared on held-out people with closed-form learners
that need no meta-learning. The best one is saved; a table says which and by how much it is better.

Run: metajax train ratings.csv --items movies.csv --out model
     metajax recommend model --ratings "Alien=5, Heat=2"
"""

import dataclasses
import pathlib

import tyro

from metajax.commands import training, verdict
from metajax.data.sources import named
from metajax.results import tables
from metajax.serving.model import Model
from metajax.settings import ReadOptions


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the command."""

    log: tyro.conf.Positional[str]
    """The path of your own log, or the name of a data set, such as synthetic."""
    out: pathlib.Path = pathlib.Path("model")
    """The model folder to write."""
    data_dir: pathlib.Path | None = None
    """Folder of the named data sets; by default METAJAX_DATA, else ./data."""
    settings: training.Settings = dataclasses.field(default_factory=training.Settings)
    """How it is trained."""
    read: ReadOptions = dataclasses.field(default_factory=ReadOptions)
    """How a log of your own is read, where detection would be wrong."""
    min_rows: int = 0
    """Leave out users with fewer rows."""


def main(config: Config) -> Model:
    """The model: trained, told about in a table, saved with a card and a plot."""
    table = named.load(config.log, config.data_dir, config.read, config.min_rows)
    trained, said = training.judged(table, config.out, config.settings, config.read)
    tables.terminal(verdict.grid(said, table.name))
    first = trained.catalogue.title(int(trained.popularity.argmax()))
    value = "" if trained.labels.events else f"={trained.labels.high:g}"
    print(
        f"model  {config.out} ({trained.about['arm']}, identity {trained.identity})\n"
        f"card   {config.out / 'README.md'}\nplot   {config.out / 'k_shot.png'}\n"
        f'next   metajax recommend {config.out} --ratings "{first}{value}"\n'
        f"       metajax serve {config.out}"
    )
    return trained
