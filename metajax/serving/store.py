"""The events of people, in SQLite: an event is acknowledged once it is on the disk.

Events are stored, not states: a state belongs to one model, while a newer model can adapt to the
same events.
"""

import concurrent.futures
import fcntl
import pathlib
import queue
import sqlite3
import threading
import time
from typing import IO, NamedTuple

from metajax.serving.catalogue import Labels
from metajax.serving.model import Model
from metajax.types import UserError

VERSION = 1
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT) STRICT;
CREATE TABLE events (
  place INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, item TEXT NOT NULL, value REAL,
  at REAL NOT NULL
) STRICT;
CREATE INDEX of_user ON events (user, place);
"""


class Event(NamedTuple):
    """One event of a person: the id of an item as text, and a value; None takes the event back."""

    item: str
    value: float | None


class _Write(NamedTuple):
    user: str
    events: list[Event] | None
    done: concurrent.futures.Future


class Store:
    """The events of people, in the order in which they came.

    One thread writes. What arrives while the disk is busy goes into the next commit, so that many
    people at once cost one wait for the disk and not one each.

    Args:
      path: of the database file, which is created if there is none.
      model: whose items and kind of labels the events have.

    Raises:
      UserError: the file is not such a store, has another kind of labels, or is in use.
    """

    def __init__(self, path: pathlib.Path, model: Model):
        self.path = path
        self._lock = _locked(path)
        try:
            self._reader = _opened(path)
            _require(self._reader, path, model)
        except UserError:
            self._lock.close()
            raise
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="events", daemon=True)
        self._thread.start()

    def events(self, user: str) -> list[Event]:
        """The events of a person: the last one of each item, in the order of these."""
        rows = self._reader.execute(
            "SELECT item, value FROM events WHERE user = ? ORDER BY place", (user,)
        ).fetchall()
        last: dict[str, float | None] = {}
        for item, value in rows:
            last.pop(item, None)
            last[item] = value
        return [Event(item, value) for item, value in last.items() if value is not None]

    def add(self, user: str, events: list[Event]) -> concurrent.futures.Future:
        """Stores events; the future is done when they are on the disk."""
        return self._put(user, events)

    def undo(self, user: str) -> concurrent.futures.Future:
        """Takes the last event of a person away, so that what was before it holds again."""
        return self._put(user, None)

    def _put(self, user: str, events: list[Event] | None) -> concurrent.futures.Future:
        done: concurrent.futures.Future = concurrent.futures.Future()
        self._waiting.put(_Write(user, events, done))
        return done

    def close(self) -> None:
        """Writes what is waiting and closes the file."""
        self._waiting.put(None)
        self._thread.join()
        self._reader.close()
        self._lock.close()

    def _write(self) -> None:
        """The writing thread: all that waits in one transaction."""
        connection = _opened(self.path)
        open_ = True
        while open_:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            open_ = None not in batch
            writes = [one for one in batch if one is not None]
            try:
                with connection:
                    for one in writes:
                        _written(connection, one)
            except sqlite3.Error as error:
                for one in writes:
                    one.done.set_exception(UserError(f"{self.path}: not stored: {error}"))
            else:
                for one in writes:
                    one.done.set_result(None)
        connection.close()


def _written(connection: sqlite3.Connection, one: _Write) -> None:
    if one.events is None:
        connection.execute(
            "DELETE FROM events WHERE place = (SELECT max(place) FROM events WHERE user = ?)",
            (one.user,),
        )
        return
    now = time.time()
    connection.executemany(
        "INSERT INTO events (user, item, value, at) VALUES (?, ?, ?, ?)",
        [(one.user, item, value, now) for item, value in one.events],
    )


def _locked(path: pathlib.Path) -> IO[str]:
    """A lock that ends with the process: what a service remembers must be all there is.

    Raises:
      UserError: another process has it; the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f"{path.name}.lock").open("w")
    except OSError as error:
        raise UserError(
            f"{path}: no store of events ({error.strerror}); give another --state"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise UserError(
            f"{path} is in use by another service; stop that one, or give another --state"
        ) from None
    return file


def _opened(path: pathlib.Path) -> sqlite3.Connection:
    """A connection that waits for the disk at each commit.

    Raises:
      UserError: the file is no database, or cannot be opened.
    """
    try:
        connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        raise UserError(f"{path}: no store of events ({error}); give another --state") from error
    return connection


def _require(connection: sqlite3.Connection, path: pathlib.Path, model: Model) -> None:
    """Makes the tables in a new file; refuses one that another kind of model has written."""
    own = {"version": str(VERSION), "labels": _labels(model.labels), "model": model.identity}
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        connection.executescript(SCHEMA)
    elif "events" not in tables or "about" not in tables:
        raise UserError(f"{path} is a database of something else; give another --state")
    found = dict(connection.execute("SELECT name, value FROM about").fetchall())
    if found.get("version", own["version"]) != own["version"]:
        raise UserError(f"{path} is of version {found['version']}, not {VERSION}")
    if found.get("labels", own["labels"]) != own["labels"]:
        raise UserError(
            f"{path} holds {found['labels']}, and the model is of {own['labels']}; give another "
            "--state"
        )
    with connection:
        connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", list(own.items()))


def _labels(labels: Labels) -> str:
    scale = "" if labels.events else f" on {labels.low:g}..{labels.high:g}"
    return labels.kind + scale
