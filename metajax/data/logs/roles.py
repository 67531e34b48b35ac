"""Finds which column of a log is the user, the item, the label, the count and the time.

Columns are found by their usual names. Where two columns could be the label, or an unused one looks
like it, an error asks for the option that decides; nothing is guessed.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.logs import raw
from metajax.data.logs.source import Source
from metajax.types import UserError

# The usual names, most specific first; compared without case, "_", "-" and space.
USER = (
    *("user_id", "user", "uid", "userid", "reviewer_id", "customer_id", "member_id", "visitor_id"),
    *("profile_id", "account_id", "client_id", "username", "reviewer", "customer", "visitor"),
    *(
        "person_id",
        "person",
        "member",
        "reader_id",
        "reader",
        "listener_id",
        "listener",
        "viewer_id",
    ),
    *(
        "viewer",
        "player_id",
        "player",
        "buyer_id",
        "buyer",
        "shopper_id",
        "shopper",
        "subscriber_id",
    ),
    *("subscriber", "client", "account"),
)
SESSION = ("session_id", "session", "sess_id", "sid")
ITEM = (
    *("item_id", "item", "iid", "movie_id", "asin", "parent_asin", "product_id", "book_id", "isbn"),
    *("business_id", "track_id", "song_id", "article_id", "news_id", "game_id", "movie", "product"),
    *("anime_id", "video_id", "app_id", "venue_id", "place_id", "poi_id", "location_id", "sku"),
    *("recipe_id", "beer_id", "joke_id", "artist_id", "stock_code", "news", "song", "artist"),
    *("film_id", "show_id", "album_id", "film", "book", "track", "article", "game", "video"),
    *("recipe", "restaurant_id", "restaurant", "album", "track_name", "song_title", "song_name"),
    *("artist_name", "movie_title", "movie_name", "film_title", "film_name", "book_title"),
    *("book_name", "product_name", "game_name", "article_title", "title"),
)
LABEL = (
    *("rating", "label", "score", "stars", "overall", "user_rating", "click", "ratings", "rate"),
    *("review_score", "review_rating", "preference", "like", "liked", "clicked", "is_click"),
    *("recommend", "recommended", "is_recommended", "grade", "star_rating", "book_rating"),
    *("movie_rating", "item_rating", "product_rating", "user_score"),
)
COUNT = (
    *("plays", "play_count", "count", "counts", "quantity", "qty", "listen_count", "listens"),
    *("num_plays", "n_plays", "scrobbles", "views", "view_count", "clicks", "num_clicks", "visits"),
    *("checkins", "purchases", "times_played", "playtime", "playtime_forever", "hours"),
)
TIME = (
    *("timestamp", "time", "unix_review_time", "datetime", "date", "ts", "created_at", "rated_at"),
    *("event_time", "event_date", "time_stamp", "date_time", "review_time", "review_date"),
    *("unix_time", "utc_time", "invoice_date", "date_added", "time_ms", "timeframe", "when"),
    *("played_at", "listened_at", "watched_at", "viewed_at", "read_at", "ordered_at"),
    *("purchased_at", "clicked_at", "rated_on", "rating_date", "order_date", "purchase_date"),
    *("watch_date", "day"),
)
SAME_KIND = {
    **dict.fromkeys(("asin", "parentasin", "sku", "stock", "product"), "product"),
    **{"film": "movie", "song": "track", "news": "article", "isbn": "book", "app": "game"},
    **dict.fromkeys(("venue", "location", "poi", "business", "restaurant"), "place"),
}
"""What other names call the same kind of thing."""
GENERAL = ("user", "u", "item", "i")  # names that decide, whatever else there is
OF_ANOTHER = ("title", "artist", "album")  # that describe an item where another column is one
DAYS = ("day", "date", "when")  # names of times that may as well be the day of a month
USUAL = {"user": USER, "item": ITEM, "label": LABEL, "count": COUNT, "time": TIME}
LABEL_WORDS = {
    *("rating", "score", "star", "grade", "like", "liked", "recommend", "recommended", "vote"),
    *("preference", "voted", "feedback", "thumb", "opinion", "play", "listen", "watch", "watched"),
    *("purchase", "purchased", "bought", "clicked", "count", "quantity", "reaction"),
}
NOT_LABELS = re.compile(
    r"id$|^$|^_+$|index|^unnamed|^row|number$|price|hour|minute|day$|week|month|year|position|rank|"
    r"page|zip|^lat|^lon|^age$"
)
SAMPLE = 10_000  # rows by which a column that was left over is judged


def plain(column: str) -> str:
    """A column's name for comparison: without case, "_", "-", space and RecBole's ``:type``."""
    return re.sub(r"[\s_-]", "", column.split(":")[0]).lower()


def find(
    source: Source, given: dict[str, str | None], needed: tuple[str, ...] = ("user", "item")
) -> dict[str, int]:
    """The place of the column of each role; label, count and time only if there.

    Args:
      source: the log.
      given: role -> name or number (from 1) of the column, from the user's options; None: find it;
        "": there is none.
      needed: the roles that must be there.

    Raises:
      UserError: no such column; none of the user or item; two that may be the label.
    """
    names, found = source.names, {}
    for role, name in given.items():
        if name:
            found[role] = _named(source, role, name)
    taken = set(found.values())
    by_name = {plain(column): place for place, column in reversed(list(enumerate(names)))}
    for role, name in given.items():
        if name is not None:
            continue
        fixed = [source.roles[role]] if role in source.roles else USUAL[role]
        places = [by_name[plain(one)] for one in fixed if plain(one) in by_name]
        places = [place for place in dict.fromkeys(places) if place not in taken]
        may = places if role == "label" else _of_kinds(names, places)
        if role in ("label", "user", "item") and len(may) > 1:
            raise UserError(
                f"{source.path}: {_listed(names, may)} may each be the {role}; say which, such "
                f"as --{role} {names[may[0]]}"
            )
        if places:
            found[role] = places[0]
        day = by_name.get("date", by_name.get("day"))
        if role == "time" and places and plain(names[places[0]]) == "time" and day in places:
            found["date"] = day  # for a column of clocks
    for role in needed:
        if role not in found:
            raise _absent(source, role)
    _refuse_doubled(source, found, given)
    if given.get("label") is None and "label" in found and given.get("count") is None:
        found.pop("count", None)
    return found


def _of_kinds(names: list[str], places: list[int]) -> list[int]:
    """The first column of each kind of thing that the columns name; of `GENERAL` ones none else.

    >>> _of_kinds(["movie_id", "film", "title", "book"], [0, 1, 2, 3])
    [0, 3]
    """
    first: dict[str, int] = {}
    for place in places:
        kind = re.sub(r"(id|name|title|code)$", "", plain(names[place])) or "title"
        if kind in GENERAL:
            return [place]
        first.setdefault(SAME_KIND.get(kind, kind), place)
    kinds = [place for kind, place in first.items() if kind not in OF_ANOTHER]
    return kinds or places[:1]


def _listed(names: list[str], places: list[int]) -> str:
    shown = [names[place] for place in places]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _named(source: Source, role: str, name: str) -> int:
    """The place of the column that a person named, by its number if there is no such name."""
    names = source.names
    if name in names:
        return names.index(name)
    matches = [place for place, column in enumerate(names) if plain(column) == plain(name)]
    if len(matches) == 1:
        return matches[0]
    if name.isdecimal() and 1 <= int(name) <= len(names):
        if source.first and looks_like_data(source.first):
            raise UserError(
                f"{source.path}: the first line reads like a row ({shown(source.first)}); say "
                "--no-header if it is one"
            )
        return int(name) - 1
    raise UserError(
        f"{source.path}: no column {name!r} for the {role}; the columns are: {shown(names)}; say "
        f"--{role} with a name or a number from 1 to {len(names)}"
    )


def _absent(source: Source, role: str) -> UserError:
    """The error of a log in which no column of a role was found."""
    path, names = source.path, source.names
    if source.first and looks_like_data(source.first):
        return UserError(
            f"{path}: no column of the {role} found: the first line reads like a row "
            f"({shown(source.first)}); without a header name the columns in their order, such as "
            f"--columns {','.join(likely(names))}"
        )
    sessions = [n for n in names if plain(n) in {plain(one) for one in SESSION}]
    if role == "user" and sessions:
        return UserError(
            f"{path}: no column of the user found; the columns are: {shown(names)}; say "
            f"--user {sessions[0]} to take each session for a user"
        )
    return UserError(
        f"{path}: no column of the {role} found; the columns are: {shown(names)}; say --{role} "
        "NAME; without a header name the columns in their order, such as --columns user,item"
    )


def shown(names: list[str]) -> str:
    """The first few names, on one line."""
    return " ".join(", ".join(names[:20]).split())[:200]


def looks_like_data(cells: list[str]) -> bool:
    """Whether the fields of a first line are those of a row: one of them is a number or a date."""
    return any(re.match(r"[-+]?\d+([.,]\d+)*$|\d{4}-\d\d-\d\d", cell) for cell in cells)


def likely(cells: list[str]) -> list[str]:
    """The roles that the fields of a first row may have, as an example of how to say them.

    >>> likely(["7", "2014-04-07T10:51:09Z", "30.25", "22847", "4"])
    ['user', 'time', '_', 'item', 'label']
    """
    out, left = ["_"] * len(cells), ["user", "item", "label"]
    for place, cell in enumerate(cells):
        number = float(cell) if re.fullmatch(r"\d+(\.\d+)?", cell) else 0.0
        dated = re.match(r"\d{4}-\d\d?-\d\d?|[A-Z][a-z]{2} [A-Z][a-z]{2} \d", cell)
        dated = dated or 6e8 < number < 3e9 or 6e11 < number < 3e12
        if dated and place and "time" not in out:
            out[place] = "time"
        elif left == ["label"]:
            if 0.5 <= number <= 10 and len(cell) <= 3:
                out[place] = left.pop()
        elif left and "." not in cell:
            out[place] = left.pop(0)
    return out


def _refuse_doubled(source: Source, found: dict[str, int], given: dict[str, str | None]) -> None:
    """Refuses a column that is used twice, or whose name another one has too."""
    for role, place in found.items():
        numbered = (given.get(role) or "").isdecimal()
        if source.names.count(source.names[place]) > 1 and not (numbered or source.roles):
            raise UserError(
                f"{source.path}: two columns are called {source.names[place]!r}; say which is the "
                f"{role} by its number, or rename one"
            )
    for role, place in found.items():
        other = next((r for r, p in found.items() if p == place and r != role), None)
        if other:
            raise UserError(
                f"{source.path}: the column {source.names[place]!r} is named for both {role} and "
                f"{other}; name two"
            )


def left_over(source: Source, found: dict[str, int]) -> list[int]:
    """The places of the columns that have no role."""
    return [place for place in range(len(source.names)) if place not in found.values()]


def refuse_hidden_label(path: Path, user: np.ndarray, item: np.ndarray, others: list[Any]) -> None:
    """Refuses a log without label in which another column looks like it.

    A column looks like the label if its name says so and its values are numbers or true and false,
    or if they are numbers of few kinds that differ within a user and within an item.

    Args:
      path: of the file.
      user, item: (rows,) indices.
      others: the columns without a role, as polars.Series.

    Raises:
      UserError: a column that looks like the label.
    """
    alike = []
    for column in others:
        name = column.name
        if NOT_LABELS.search(plain(name)):
            continue
        numbers = _as_numbers(column.head(SAMPLE))
        if numbers is None:
            continue
        words = re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", name)
        named = any(
            word.lower() in LABEL_WORDS or word.lower()[:-1] in LABEL_WORDS for word in words
        )
        kinds = numbers.n_unique()
        few = 2 <= kinds <= 101 and all(_differs_within(s, numbers) for s in (user, item))
        if named or few:
            alike.append(name)
    if alike:
        raise UserError(
            f"{path}: no label was found, and a column looks like one ({shown(alike)}); say "
            f"--label {alike[0]}, or --count {alike[0]} if it counts events, or --label none if "
            "every row is an event"
        )


def _as_numbers(column: Any) -> Any | None:
    """Numbers of a column of numbers, true and false; None for any other."""
    polars = raw.require_polars()
    if column.dtype == polars.Boolean or column.dtype.is_numeric():
        return None if column.null_count() == len(column) else column.cast(polars.Float64)
    if column.dtype != polars.String:
        return None
    text = column.str.strip_chars().str.to_lowercase().replace("", None).drop_nulls()
    text = text.replace({"true": "1", "false": "0", "yes": "1", "no": "0"})
    numbers = text.cast(polars.Float64, strict=False)
    if not len(numbers) or numbers.null_count() or len(numbers) < len(column):
        return None
    return numbers


def _differs_within(side: np.ndarray, numbers: Any) -> bool:
    """Whether a user (or an item) has two values."""
    pairs = np.stack([side[:SAMPLE], np.unique(numbers.to_numpy(), return_inverse=True)[1]])
    return len(np.unique(pairs, axis=1).T) > len(np.unique(pairs[0]))
