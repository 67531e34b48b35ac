"""MovieLens 100K and 1M as `Interactions`.

Users and items are those with at least one rating, in the order of their ids. A user or movie that
is rated but absent from the side tables is kept, with all its features absent (0).

Reference: F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context",
ACM TiiS 5(4):19, 2015.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metajax.data.sources.files import (
    arrays,
    categories,
    dataset_folder,
    integers,
    numbers,
    read_text,
    required,
    rows,
    split_year,
    year_columns,
)
from metajax.data.table import Interactions, index_encode, validate
from metajax.types import UserError

SCALE = (1.0, 5.0)
COLUMNS = ("user id", "movie id", "rating", "timestamp")
PROFILE = ("gender", "age", "occupation", "zip")
AGES = (1, 18, 25, 35, 45, 50, 56)  # lower ends of the brackets of ml-1m
# The order of the 19 flags in u.item; the first, "unknown", is read as no genre.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
# MeLU's table has one row for each of these two movies that MovieLens lists twice.
SAME_MOVIE = {860: 811, 1795: 1741}


def ml_100k(folder: Path | str) -> Interactions:
    """MovieLens 100K: 943 users, 1,682 movies, 100,000 ratings of 1..5 with their seconds.

    Args:
      folder: the folder of ``u.data``, ``u.user`` and ``u.item``, or the one above ``ml-100k/``.

    Raises:
      UserError: a missing, cut or damaged file; a rating outside 1..5.
    """
    name = "ml-100k"
    folder = dataset_folder(folder, name)
    path = required(folder, "u.data", name)
    ratings = numbers(path, "\t", COLUMNS, ends=True)
    users = {}
    for user, age, gender, *rest in rows(required(folder, "u.user", name), "|", 5, "latin-1"):
        users[_id(user, folder / "u.user")] = [gender, _bracket(age, folder / "u.user"), *rest]
    movies, genres = {}, {}
    for fields in rows(required(folder, "u.item", name), "|", 24, "latin-1"):
        movie = _id(fields[0], folder / "u.item")
        title, year = split_year(fields[1])
        released = re.search(r"\d{4}$", fields[2])
        movies[movie] = (title, year or (int(released[0]) if released else 0))
        flags = zip(GENRES_100K[1:], fields[6:], strict=True)
        genres[movie] = [genre for genre, flag in flags if flag == "1"]
    return _table(name, path, list(ratings.T), None, users, movies, {"genre": genres})


def ml_1m(folder: Path | str) -> Interactions:
    """MovieLens 1M: 6,040 users, 3,706 movies, 1,000,209 ratings of 1..5 with their seconds.

    Reads the GroupLens layout (``ratings.dat``) or, first if it is there, the compact one
    (``ratings.npz``, which may carry MeLU's split as ``state`` and estimated timestamps); both
    with ``users.dat`` and ``movies.dat``. With ``melu/movies_extra.csv`` the movies also have the
    content features of the MeLU experiments: rated, director, actor and genre_imdb.

    Args:
      folder: the folder of these files, or the one above ``ml-1m/``.

    Raises:
      UserError: a missing, cut or damaged file; a rating outside 1..5.
    """
    name = "ml-1m"
    folder = dataset_folder(folder, name)
    if (folder / "ratings.npz").is_file():
        path = folder / "ratings.npz"
        columns, state = _compact(path)
    else:
        path, state = required(folder, "ratings.dat", name), None
        columns = list(numbers(path, "::", COLUMNS, ends=True).T)
    users = {}
    for user, *profile in rows(required(folder, "users.dat", name), "::", 5, "latin-1"):
        users[_id(user, folder / "users.dat")] = profile
    movies, genres = {}, {}
    for movie, title, names in rows(required(folder, "movies.dat", name), "::", 3, "latin-1"):
        movies[_id(movie, folder / "movies.dat")] = split_year(title)
        genres[int(movie)] = names.split("|")
    content = {"genre": genres} | _content(folder / "melu" / "movies_extra.csv")
    return _table(name, path, columns, state, users, movies, content)


def _id(text: str, path: Path) -> int:
    """An id as a number."""
    if not text.isdecimal():
        raise UserError(f"{path}: the id {text[:40]!r} is not a whole number; correct the file")
    return int(text)


def _bracket(age: str, path: Path) -> str:
    """The bracket of ml-1m that holds an age in years."""
    return str(max(a for a in AGES if a <= max(_id(age, path), AGES[0])))


def _compact(path: Path) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The columns user, movie, rating, time and MeLU's states of a ``ratings.npz``."""
    names = ("user_id", "movie_id", "rating", "timestamp")
    found = arrays(path, names)
    columns = [found[name] for name in names]
    state = found.get("melu_state")
    if len({len(c) for c in columns if c.ndim == 1}) != 1 or any(c.ndim != 1 for c in columns):
        raise UserError(f"{path}: the arrays differ in length; get a complete copy")
    for name, column in zip(COLUMNS, columns, strict=True):
        bad = ~np.isfinite(column)
        if bad.any():
            raise UserError(f"{path}: row {int(np.argmax(bad)) + 1}: the {name} is not a number")
    return columns, None if state is None else state.astype(np.int8)


def _content(path: Path) -> dict[str, dict[int, list[str]]]:
    """MeLU's content features: column -> movie id -> names; nothing where the file is absent."""
    columns = {"rated": "rated", "genre_imdb": "genres", "director": "directors", "actor": "actors"}
    if not path.is_file():
        return {}
    lines = list(csv.DictReader(read_text(path).splitlines()))
    missing = {"movie_id", *columns.values()} - set(lines[0] if lines else {})
    if missing:
        raise UserError(f"{path}: no column {min(missing)}; get a complete copy")
    content: dict[str, dict[int, list[str]]] = {}
    for column, field in columns.items():
        found = {_id(line["movie_id"], path): _names(line[field]) for line in lines}
        for twin, movie in SAME_MOVIE.items():
            found.setdefault(twin, found.get(movie, []))
        content[column] = found
    return content


def _names(text: str) -> list[str]:
    """The distinct names of a comma-separated field, in order; N/A is none."""
    names = (part.strip() for part in (text or "").split(","))
    return list(dict.fromkeys(name for name in names if name not in ("", "N/A")))


def _table(
    name: str,
    path: Path,
    columns: Sequence[np.ndarray],
    state: np.ndarray | None,
    users: dict[int, list[str]],
    movies: dict[int, tuple[str, int]],
    content: dict[str, dict[int, list[str]]],
) -> Interactions:
    """The ratings with the side tables joined: per user the four `PROFILE` fields, per movie its
    title and year and the names of each content column."""
    user, user_ids = index_encode(integers(columns[0], path, "user id"))
    item, item_ids = index_encode(integers(columns[1], path, "movie id"))
    known_users = [users.get(int(u), [""] * len(PROFILE)) for u in user_ids]
    known_movies = [movies.get(int(i), ("", 0)) for i in item_ids]
    profile = {
        field: [[row[place]] if row[place] else [] for row in known_users]
        for place, field in enumerate(PROFILE)
    }
    years = [year for _, year in known_movies]
    about = {key: [found.get(int(i), []) for i in item_ids] for key, found in content.items()}
    table = Interactions(
        name=name,
        user=user,
        item=item,
        label=np.asarray(columns[2], np.float32),
        time=integers(columns[3], path, "timestamp"),
        user_ids=user_ids,
        item_ids=item_ids,
        user_features=categories(profile),
        item_features=categories(about | year_columns(years)),
        scale=SCALE,
        state=state,
        item_year=np.array(years, np.int16),
        item_titles=np.array([title for title, _ in known_movies]),
    )
    return validate(table)
