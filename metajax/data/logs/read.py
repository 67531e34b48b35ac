"""Reads your own interaction log as `Interactions`, and says in one line what was understood.

    table = read.load("my_ratings.csv")            # columns found by their usual names
    table = read.load("events.parquet", user="visitor", item="sku", label="none")
    print(table.notes)

How each part of a log is read:

* Ids are whole numbers or text, with surrounding space removed. A column of text that holds nothing
  but plain whole numbers becomes numbers; "007" keeps it text. Users and items are numbered in
  sorted order, rows keep the order of the file. Ids that mean "none" (NA, NaN, null, \\N) and
  floats that are too large to be exact are refused.
* A column of ratings is the label, on the scale given or from the lowest to the highest. A column
  of counts, such as plays, makes every row an event: the label is 1.0 on the scale 0..1,
  `Interactions.count` is how often it happened, and rows with 0 are left out. Without either, every
  row is an event; it is an error if an unused column looks like a label.
* Times become Unix seconds, see `metajax.data.logs.times`.
* Repeated (user, item) pairs are kept and counted; with ``last_only`` only the last by time (by row
  without times) is.
* Text is delimited (by any usual separator, quoted or not), JSON lines, or Netflix's or MIND's;
  packed as gz, bz2, xz, zst or zip. A `.inter` file is read with the `.user` and `.item` files
  beside it, any log with the tables that ``items`` and ``users`` name.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.data.logs import columns, opened, raw, roles, side, times
from metajax.data.logs.source import Source
from metajax.data.table import Features, Interactions, repeated_pairs, tied_rows, validate
from metajax.settings import ReadOptions
from metajax.types import UserError


def load(
    path: Path | str,
    options: ReadOptions | None = None,
    *,
    min_users: int = 2,
    min_rows: int = 0,
    name: str | None = None,
    **changes: Any,
) -> Interactions:
    """The log in ``path``, as a table whose ``notes`` say in one line what was understood.

    Args:
      path: of the file.
      options: how it is read, where a guess would be wrong.
      min_users: refuse fewer users; 1 allows one person's own log, which needs no user column.
      min_rows: leave out users with fewer rows.
      name: of the table; None takes the file's.
      changes: fields of `ReadOptions`, as ``user="visitor"``, in place of options.

    Raises:
      UserError: one line for anything wrong with the file, with what to do.
    """
    path = Path(path)
    options = dataclasses.replace(options or ReadOptions(), **changes)
    raw.check(path)
    source = opened.source(path, options)
    needed = ("item",) if min_users == 1 else ("user", "item")
    places = roles.find(source, options.roles(), needed)
    found, others = _read(source, places, options)
    told = Told([], [], {})
    _settle_times(found, places, told, named=options.time is not None or "time" in source.roles)
    num_rows = len(found["item"].values)
    if "user" not in found:
        alone = raw.require_polars().Series("user", ["1"] * num_rows)
        found["user"] = columns.Column(path, "user", alone)
        told.facts.append("no user column: every row is of one person")
    if options.missing == "drop":
        found, others = _without_missing(path, found, others, told)
    table = _table(name or raw.stem(path), found, others, options, source.time_format, told)
    table = _selected(path, table, options, min_rows, told)
    if table.num_users < min_users:
        raise UserError(f"{path}: {table.num_users} user; give a log of at least {min_users} users")
    table = _with_sides(path, table, found, options, told)
    ignored = [source.names[place] for place in roles.left_over(source, places)]
    line = _line(path, num_rows, source.said, ignored, told, table)
    return validate(dataclasses.replace(table, notes=line))


class Told(NamedTuple):
    """What is said about a log, gathered on the way.

    Attributes:
      facts: what was understood.
      odd: what a person should look at.
      dropped: how many rows were left out, by reason.
    """

    facts: list[str]
    odd: list[str]
    dropped: dict[str, int]


def _read(
    source: Source, places: dict[str, int], options: ReadOptions
) -> tuple[dict[str, columns.Column], list[Any]]:
    """The columns of each role, and those among which a label may hide."""
    left = roles.left_over(source, places)
    labeled = options.label is not None or {"label", "count"} & places.keys()
    if labeled or options.columns is not None or source.roles:
        left = []
    found = source.read([*places.values(), *left])
    by_role = {
        role: columns.Column(source.path, role, found[place]) for role, place in places.items()
    }
    if not len(by_role["item"].values):
        raise UserError(
            f"{source.path}: no rows; give a log with at least one row below the header"
        )
    return by_role, [found[place] for place in left]


def _settle_times(
    found: dict[str, columns.Column], places: dict[str, int], told: Told, named: bool
) -> None:
    """Joins a column of days with one of clocks, and leaves days of a month out.

    Args:
      found, places: by role; changed in place.
      named: whether a person or the layout named the column of times.
    """
    date, time = found.pop("date", None), found.get("time")
    if date is not None and time is not None and times.clocks(time):
        polars = raw.require_polars()
        days, hours = (columns.trimmed(x.values).cast(polars.String) for x in (date, time))
        joined = (days + " " + hours).alias(f"{date.values.name} {time.values.name}")
        found["time"] = time._replace(values=joined)
        return
    places.pop("date", None)
    if named or time is None or roles.plain(time.values.name) not in roles.DAYS:
        return
    numbers = times.small_numbers(time)
    if numbers is not None:
        (low, high), name = numbers, time.values.name
        told.odd.append(
            f"{name} holds numbers from {low:g} to {high:g}, which are no times, and is left out; "
            f"say --time {name} if they tell which row came first"
        )
        del found["time"], places["time"]


def _drop(path: Path, reason: str, keep: np.ndarray, told: Told) -> None:
    """Counts the rows that are left out.

    Raises:
      UserError: no row is left.
    """
    number = int((~keep).sum())
    if number:
        told.dropped[reason] = number
    if number == len(keep):
        raise UserError(f"{path}: no row is left; left out were {_losses(told)}")


def _losses(told: Told) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in told.dropped.items())


def _without_missing(
    path: Path, found: dict[str, columns.Column], others: list[Any], told: Told
) -> tuple[dict[str, columns.Column], list[Any]]:
    """The columns without rows that lack a value."""
    absent = [columns.missing(column, False) for column in found.values()]
    keep = ~np.any(absent, axis=0)
    _drop(path, "without a value", keep, told)
    kept = {role: column.kept(keep) for role, column in found.items()}
    return kept, [other.filter(keep) for other in others]


def _table(
    name: str,
    found: dict[str, columns.Column],
    others: list[Any],
    options: ReadOptions,
    time_format: str | None,
    told: Told,
) -> Interactions:
    """The table of a log, without side information."""
    user, user_ids = columns.ids(found["user"], options.missing == "keep")
    item, item_ids = columns.ids(found["item"], options.missing == "keep")
    path = found["user"].path
    roles.refuse_hidden_label(path, user.values, item.values, others)
    _say(told, found["user"], user, _many(len(user_ids), "id") + f", {user.said}")
    _say(told, found["item"], item, _many(len(item_ids), "id") + f", {item.said}")
    scale, label, count, time = (0.0, 1.0), np.ones(len(user.values), np.float32), None, None
    if "label" in found:
        read = columns.labels(found["label"], options.decimal)
        label, scale = read.values, options.scale or columns.scale_of(path, read.values)
        _say(told, found["label"], read, f"{scale[0]:g}..{scale[1]:g}", read.said)
    elif "count" in found:
        read = columns.counts(found["count"], options.decimal)
        count = read.values
        _say(told, found["count"], read, f"events, {count.min():g} to {count.max():g} times")
    else:
        scale = options.scale or scale
        told.facts.append("no label: every row is an event")
    if options.time_format and "time" not in found:
        raise UserError(
            f"{path}: --time-format says how times are written, and no column of times was found; "
            "name it with --time"
        )
    if "time" in found:
        read = times.seconds(found["time"], options.time_format or time_format)
        time = read.values
        ends = [str(np.datetime64(int(t), "s"))[:10] for t in (time.min(), time.max())]
        _say(told, found["time"], read, f"{read.said}, {ends[0]} to {ends[1]}")
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


def _say(told: Told, column: columns.Column, read: columns.Read, *facts: str) -> None:
    """Adds what was understood of a column."""
    said = ", ".join(fact for fact in facts if fact)
    told.facts.append(f"{column.role} = {_plainly(column)} ({said})")
    told.odd.extend(read.odd)


def _plainly(column: columns.Column) -> str:
    """The name of a column without RecBole's type."""
    return column.values.name.split(":")[0]


def _many(number: int, word: str) -> str:
    """A number of things.

    >>> _many(1, "row"), _many(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{number:,} {word}{'s' * (number != 1)}"


def _line(
    path: Path,
    num_rows: int,
    said: list[str],
    ignored: list[str],
    told: Told,
    table: Interactions,
) -> str:
    """What was understood of a log, in one line."""
    parts = [f"{path.name}: {_many(num_rows, 'row')} read ({', '.join(said)})", *told.facts]
    if ignored:
        names = [name or "a column without a name" for name in ignored]
        parts.append(f"ignored {roles.shown(names)}")
    if told.dropped:
        parts.append(f"left out {_losses(told)}")
    parts += [f"note: {one}" for one in [*told.odd, *_repeats(table)]]
    return " ".join("; ".join(parts).split())


def _repeats(table: Interactions) -> list[str]:
    """What is odd about rows side by side: repeated pairs, ties in time."""
    out = []
    repeated, tied = repeated_pairs(table), tied_rows(table)
    if repeated:
        verb = "repeats" if repeated == 1 else "repeat"
        out.append(f"{_many(repeated, 'row')} {verb} a pair of user and item")
    if tied:
        out.append(
            f"{tied / len(table):.1%} of the rows share their time with another of their user"
        )
    return out


def _selected(
    path: Path, table: Interactions, options: ReadOptions, min_rows: int, told: Told
) -> Interactions:
    """The rows of a table that the person wants."""
    if table.count is not None:
        keep = table.count > 0
        _drop(path, "with a count of 0", keep, told)
        table = _rows(table, keep)
    if options.last_only:
        keep = last_of_pairs(table)
        _drop(path, "repeated before the last of their pair", keep, told)
        table = _rows(table, keep)
    if min_rows:
        keep = np.bincount(table.user, minlength=table.num_users)[table.user] >= min_rows
        _drop(path, f"of users with fewer than {min_rows}", keep, told)
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


def _with_sides(
    path: Path,
    table: Interactions,
    found: dict[str, columns.Column],
    options: ReadOptions,
    told: Told,
) -> Interactions:
    """The table with side information of both sides, where there is any."""
    atomic = raw.kind(path) == ".inter"
    changes: dict[str, Any] = {}
    for role, given, ids in (
        ("user", options.users, table.user_ids),
        ("item", options.items, table.item_ids),
    ):
        beside = side.beside(path, role) if atomic else None
        if given is None and beside is None:
            told.facts.extend([f"no .{role} file beside it"] * atomic)
            continue
        one = side.read(Path(given or beside or path), role, ids, _plainly(found[role]), options)
        told.facts.append(one.said)
        told.odd.extend(one.odd)
        changes[f"{role}_features"] = one.features
        if role == "item":
            changes |= {"item_titles": one.titles, "item_year": one.year}
    return dataclasses.replace(table, **changes)
