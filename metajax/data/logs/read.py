"""A person's own interaction log as `Interactions`, and the line that says what was understood.

    table = read.load("my_ratings.csv")            # columns found by their usual names
    table = read.load("events.parquet", user="visitor", item="sku", label="none")
    print(table.notes)

What is done with what is found:

* Ids are whole numbers or text, with surrounding space removed. A column of text that holds nothing
  but plain whole numbers becomes numbers; "007" keeps it text. Users and items are numbered in
  sorted order, rows keep the order of the file. Ids that mean "none" (NA, NaN, null, \\N) and
  floats too large to be told apart are refused.
* A column of ratings is the label, on the scale given or from the lowest to the highest. A column
  of counts, such as plays, makes every row an event: the label is 1.0 on the scale 0..1,
  `Interactions.count` is how often it happened, rows with 0 are left out. Without either every row
  is an event. A column that was left over and looks like the label is an error.
* Times become Unix seconds, see `metajax.data.logs.times`.
* Repeated (user, item) pairs are kept and counted; with ``last_only`` only the last by time (by row
  without times) is.
* Text is delimited (by any usual separator, quoted or not), JSON lines, or Netflix's or MIND's;
  packed as gz, bz2, xz, zst or zip. A `.inter` file is read with the `.user` and `.item` files
  beside it, any log with the tables that ``items`` and ``users`` name.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.logs import columns, opened, raw, roles, side, times
from metajax.data.logs.options import ReadOptions
from metajax.data.logs.source import Source
from metajax.data.table import Features, Interactions, repeated_pairs, tied_rows, validate
from metajax.types import UserError


def load(
    path: Path | str,
    options: ReadOptions | None = None,
    *,
    min_users: int = 2,
    name: str | None = None,
    **changes: Any,
) -> Interactions:
    """The log in ``path``, as a table whose ``notes`` say in one line what was understood.

    Args:
      path: of the file.
      options: how it is read, where a guess would be wrong.
      min_users: refuse fewer users; 1 allows one person's own log.
      name: of the table; None takes the file's.
      changes: fields of `ReadOptions`, as ``user="visitor"``, in place of options.

    Raises:
      UserError: one line for anything wrong with the file, with what to do.
    """
    path = Path(path)
    options = dataclasses.replace(options or ReadOptions(), **changes)
    raw.check(path)
    source = opened.source(path, options)
    places = roles.find(source, options.roles())
    read = _Reading(source, places, options)
    table = read.table(name or raw.stem(path))
    table = _selected(read, table, options)
    if table.num_users < min_users:
        raise UserError(f"{path}: {table.num_users} user; give a log of at least {min_users} users")
    table = _with_sides(read, table, options)
    return validate(dataclasses.replace(table, notes=read.line(table)))


class _Reading:
    """One reading of a log: its columns, and what is said about them."""

    def __init__(self, source: Source, places: dict[str, int], options: ReadOptions):
        self.source, self.places, self.options = source, places, options
        left = roles.left_over(source, places)
        judged = options.label is None and not {"label", "count"} & places.keys()
        if options.columns is not None or source.roles:
            judged = False
        wanted = [*places.values(), *(left if judged else [])]
        found = source.read(wanted)
        self.others = [found[place] for place in left] if judged else []
        self.ignored = [source.names[place] for place in left]
        self.columns = {
            role: columns.Column(source.path, role, found[place]) for role, place in places.items()
        }
        self.num_rows = len(found[wanted[0]])
        self.dropped: dict[str, int] = {}
        self.facts: list[str] = []
        self.odd: list[str] = []
        if not self.num_rows:
            raise UserError(
                f"{source.path}: no rows; give a log with at least one row below the header"
            )

    def name(self, role: str) -> str:
        """The name of a role's column, without RecBole's type."""
        return self.source.names[self.places[role]].split(":")[0]

    def drop(self, reason: str, keep: np.ndarray) -> None:
        """Counts rows that are left out."""
        number = int((~keep).sum())
        if number:
            self.dropped[reason] = number
        if number == len(keep):
            raise UserError(f"{self.source.path}: no row is left; left out were {self._losses()}")

    def _losses(self) -> str:
        return ", ".join(f"{number:,} {reason}" for reason, number in self.dropped.items())

    def table(self, name: str) -> Interactions:
        """The log without side information."""
        options = self.options
        self._drop_missing()
        user, user_ids = columns.ids(self.columns["user"], options.missing == "keep")
        item, item_ids = columns.ids(self.columns["item"], options.missing == "keep")
        roles.refuse_hidden_label(self.source.path, user.values, item.values, self.others)
        scale, label, count = (0.0, 1.0), np.ones(len(user.values), np.float32), None
        self._said("user", user, f"{len(user_ids):,} ids, {user.said}")
        self._said("item", item, f"{len(item_ids):,} ids, {item.said}")
        if "label" in self.columns:
            read = columns.labels(self.columns["label"], options.decimal)
            label, scale = (
                read.values,
                options.scale or columns.scale_of(self.source.path, read.values),
            )
            self._said("label", read, f"{scale[0]:g}..{scale[1]:g}", read.said)
        elif "count" in self.columns:
            read = columns.counts(self.columns["count"], options.decimal)
            count = read.values
            self._said(
                "count", read, f"events, {count.min():g} to {count.max():g} times", read.said
            )
        else:
            scale = options.scale or scale
            self.facts.append("no label: every row is an event")
        time = None
        if "time" in self.columns:
            form = options.time_format or self.source.time_format
            read = times.seconds(self.columns["time"], form)
            time = read.values
            ends = [str(np.datetime64(int(t), "s"))[:10] for t in (time.min(), time.max())]
            self._said("time", read, f"{read.said}, {ends[0]} to {ends[1]}")
        return Interactions(
            name=name,
            user=user.values,
            item=item.values,
            label=label,
            time=time,
            user_ids=user_ids,
            item_ids=item_ids,
            user_features=Features(),
            item_features=Features(),
            scale=scale,
            count=count,
        )

    def _drop_missing(self) -> None:
        """Leaves rows without a value out, if the person said so."""
        if self.options.missing != "drop":
            return
        absent = [columns.missing(column, False) for column in self.columns.values()]
        keep = ~np.any(absent, axis=0)
        self.drop("without a value", keep)
        self.columns = {role: column.kept(keep) for role, column in self.columns.items()}
        self.others = [other.filter(keep) for other in self.others]

    def _said(self, role: str, read: columns.Read, *facts: str) -> None:
        """Adds what was understood of a column."""
        self.facts.append(
            f"{role} = {self.name(role)} ({', '.join(fact for fact in facts if fact)})"
        )
        self.odd += read.odd

    def line(self, table: Interactions) -> str:
        """What was understood, in one line."""
        said = ", ".join(self.source.said)
        parts = [f"{self.source.path.name}: {self.num_rows:,} rows read ({said})"]
        parts += self.facts
        if self.ignored:
            names = [name or "a column without a name" for name in self.ignored]
            parts.append(f"ignored {roles.shown(names)}")
        if self.dropped:
            parts.append(f"left out {self._losses()}")
        odd = [*self.odd, *_repeats(table)]
        parts += [f"note: {one}" for one in odd]
        return " ".join("; ".join(parts).split())


def _repeats(table: Interactions) -> list[str]:
    """What is odd about rows side by side: repeated pairs, ties in time."""
    out = []
    repeated, tied = repeated_pairs(table), tied_rows(table)
    if repeated:
        out.append(f"{repeated:,} rows repeat a pair of user and item")
    if tied:
        out.append(
            f"{tied / len(table):.1%} of the rows share their time with another of their user"
        )
    return out


def _selected(read: _Reading, table: Interactions, options: ReadOptions) -> Interactions:
    """The rows of a table that the person wants."""
    if table.count is not None:
        keep = table.count > 0
        read.drop("with a count of 0", keep)
        table = _rows(table, keep)
    if options.last_only:
        keep = last_of_pairs(table)
        read.drop("repeated before the last of their pair", keep)
        table = _rows(table, keep)
    if options.min_rows:
        keep = np.bincount(table.user, minlength=table.num_users)[table.user] >= options.min_rows
        read.drop(f"of users with fewer than {options.min_rows}", keep)
        table = _rows(table, keep)
    return table


def _rows(table: Interactions, keep: np.ndarray) -> Interactions:
    """Some rows of a table without features, and the users and items that are left."""
    if keep.all():
        return table
    known_user, user = np.unique(table.user[keep], return_inverse=True)
    known_item, item = np.unique(table.item[keep], return_inverse=True)
    return dataclasses.replace(
        table,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        label=table.label[keep],
        time=None if table.time is None else table.time[keep],
        count=None if table.count is None else table.count[keep],
        user_ids=table.user_ids[known_user],
        item_ids=table.item_ids[known_item],
    )


def last_of_pairs(table: Interactions) -> np.ndarray:
    """Whether a row is the last of its pair: by time, by row among equals and without times."""
    n = len(table)
    order = np.arange(n) if table.time is None else np.argsort(table.time, kind="stable")
    pair = table.user.astype(np.int64) * table.num_items + table.item
    _, first = np.unique(pair[order[::-1]], return_index=True)
    keep = np.zeros(n, bool)
    keep[order[::-1][first]] = True
    return keep


def _with_sides(read: _Reading, table: Interactions, options: ReadOptions) -> Interactions:
    """The table with side information of both sides, where there is any."""
    path = read.source.path
    atomic = raw.kind(path) == ".inter"
    changes: dict[str, Any] = {}
    for role, given, ids in (
        ("user", options.users, table.user_ids),
        ("item", options.items, table.item_ids),
    ):
        beside = side.beside(path, role) if atomic else None
        if given is None and beside is None:
            if atomic:
                read.facts.append(f"no .{role} file beside it")
            continue
        found = side.read(Path(given or beside or path), role, ids, read.name(role), options)
        read.facts.append(found.said)
        read.odd += found.odd
        changes[f"{role}_features"] = found.features
        if role == "item":
            changes |= {"item_titles": found.titles, "item_year": found.year}
    return dataclasses.replace(table, **changes)
