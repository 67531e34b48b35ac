"""What a person can say about a log where a guess would be wrong: `ReadOptions`."""

import dataclasses
import pathlib
from typing import Literal

from metajax.types import UserError

Missing = Literal["refuse", "drop", "keep"]


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How a log of your own is read; what is left out is found in the file, and told.

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
    """Column of how often an event happened, such as plays; 'none' leaves it out."""
    time: str | None = None
    """Column of the times; 'none' leaves them out."""
    columns: str | None = None
    """Names of a file's columns in their order, such as user,item,_,time; _ leaves one out."""
    header: bool = True
    """Whether the first line names the columns."""
    separator: str | None = None
    """What stands between two fields, such as ';' or '::' or tab."""
    quote: str | None = None
    """'"' if such signs enclose fields, 'none' if they are part of the text."""
    decimal: str | None = None
    """The decimal sign of ratings and counts: '.' or ','."""
    encoding: str = "utf-8"
    """How the text is encoded, such as latin-1."""
    missing: Missing = "refuse"
    """A row without user, item, label or time; keep takes NA and the like for ids."""
    time_format: str | None = None
    """How times are written, such as '%d/%m/%Y %H:%M'."""
    scale: tuple[float, float] | None = None
    """Lowest and highest rating; else those that occur."""
    min_rows: int = 0
    """Leave out users with fewer rows."""
    last_only: bool = False
    """Keep only the last row of each pair of user and item."""
    items: pathlib.Path | None = None
    """File with side information of the items: a row each, with a header."""
    users: pathlib.Path | None = None
    """File with side information of the users: a row each, with a header."""

    def __post_init__(self) -> None:
        if self.min_rows < 0:
            raise UserError(f"--min-rows {self.min_rows}: give 0 or more")
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
