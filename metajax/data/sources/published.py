"""Published rating and event logs other than MovieLens as `Interactions`, and Omniglot.

Users and items are those with at least one row; repeated (user, item) pairs are kept. Every reader
takes the folder of the files, or its parent, and raises a `UserError` for a missing, truncated or
damaged file. An implicit event has the label 1.0 on the scale 0..1.
"""

import csv
from pathlib import Path

import numpy as np

from metajax.data.sources.files import (
    IMPLICIT,
    STARS,
    arrays,
    assemble,
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
from metajax.data.table import Interactions, index_encode
from metajax.types import UserError

GENRES_CIAO = (
    "Action & Adventure", "Comedy", "Family", "Drama", "Horror", "Science Fiction & Fantasy",
    "Thriller & Mystery", "Martial Arts", "Musicals & Music Films", "War", "Westerns",
    "Documentaries & Biographies", "Special Interest", "Sports", "World Cinema", "TV Series",
    "Anime",
)  # fmt: skip


def movietweetings_100k(folder: Path | str) -> Interactions:
    """MovieTweetings 100K: 16,554 users, 10,506 movies, 100,000 ratings of 0..10, seconds.

    The items' ids are IMDb's, as text of 7 digits; features: genre, year, decade.

    References: S. Dooms, T. De Pessemier, L. Martens, CrowdRec at RecSys 2013.
    """
    name = "movietweetings-100k"
    folder = dataset_folder(folder, name)
    path = required(folder, "ratings.dat", name)
    names = ("user id", "movie id", "rating", "timestamp")
    table = numbers(path, "::", names, ends=True)
    ids = np.array([f"{i:07d}" for i in integers(table[:, 1], path, "movie id").tolist()])
    movies = {i: (t, g) for i, t, g in rows(required(folder, "movies.dat", name), "::", 3)}
    item, item_ids = index_encode(ids)
    known = [movies.get(str(i), ("", "")) for i in item_ids]
    titles = [split_year(title) for title, _ in known]
    years = [year for _, year in titles]
    genres = [[g for g in text.split("|") if g] for _, text in known]
    return assemble(
        name,
        integers(table[:, 0], path, "user id"),
        (item, item_ids),
        table[:, 2],
        integers(table[:, 3], path, "timestamp"),
        (0.0, 10.0),
        item_features=categories({"genre": genres} | year_columns(years)),
        item_year=np.array(years, np.int16),
        item_titles=np.array([title for title, _ in titles]),
    )


def ciaodvd(folder: Path | str) -> Interactions:
    """CiaoDVD: 17,615 users, 16,121 movies, 72,665 ratings of 1..5 with their days.

    The items have one genre each; `ciaodvd_trust` reads the trust graph of the users.

    References: G. Guo et al., "ETAF", ASONAM 2014.
    """
    name = "ciaodvd"
    folder = dataset_folder(folder, name)
    path = required(folder, "movie-ratings.txt", name)
    fields = np.array(rows(path, ",", 6, "latin-1"))
    try:
        user, movie, genre = fields[:, :3].astype(np.int64).T
        label = fields[:, 4].astype(np.float32)
        day = fields[:, 5].astype("datetime64[D]")
    except ValueError as error:
        raise UserError(f"{path}: {error}; get a complete copy of the file") from error
    if genre.min() < 1 or genre.max() > len(GENRES_CIAO):
        raise UserError(f"{path}: a genre lies outside 1..{len(GENRES_CIAO)}; get a complete copy")
    item, item_ids = index_encode(movie)
    of_item = np.zeros(len(item_ids), np.int64)
    of_item[item] = genre
    genres = categories({"genre": [[GENRES_CIAO[g - 1]] for g in of_item]})
    seconds = day.astype("datetime64[s]").astype(np.int64)
    return assemble(name, user, (item, item_ids), label, seconds, STARS, item_features=genres)


def ciaodvd_trust(folder: Path | str) -> np.ndarray:
    """The trust graph of CiaoDVD: (40133, 2) int64 user ids, who trusts and who is trusted.

    Ids as in ``ciaodvd(folder).user_ids``; some of these users rated nothing.
    """
    folder = dataset_folder(folder, "ciaodvd")
    path = required(folder, "trusts.txt", "ciaodvd")
    table = numbers(path, ",", ("trustor id", "trustee id", "trust"))
    return integers(table[:, :2].reshape(-1), path, "user id").reshape(-1, 2)


def amazon_musical_instruments(folder: Path | str) -> Interactions:
    """Amazon Musical Instruments 5-core: 1,429 users, 900 items, 10,261 ratings of 1..5, days.

    References: J. McAuley et al., SIGIR 2015; R. He and J. McAuley, WWW 2016.
    """
    name = "amazon-musical-instruments"
    path = required(dataset_folder(folder, name), "ratings.csv", name)
    fields = np.array(rows(path, ",", 4, header=True))
    try:
        label, time = fields[:, 2].astype(np.float32), fields[:, 3].astype(np.int64)
    except ValueError as error:
        raise UserError(f"{path}: {error}; get a complete copy of the file") from error
    return assemble(name, fields[:, 0], index_encode(fields[:, 1]), label, time, STARS)


def amazon_grocery(folder: Path | str) -> Interactions:
    """Amazon Grocery without each user's last two events: 121,892 events of 14,681 users, days.

    Implicit; 8,687 items with one category each (56 values).

    References: McAuley et al. 2015; prepared by ReChorus, C. Wang et al., SIGIR 2020.
    """
    name = "amazon-grocery"
    folder = dataset_folder(folder, name)
    path = required(folder, "train.tsv", name)
    log = integers(numbers(path, "\t", ("user id", "item id", "time"), header=True), path, "field")
    side = required(folder, "item_category.tsv", name)
    pairs = numbers(side, "\t", ("item id", "category"), header=True)
    category = {int(item): str(int(code)) for item, code in pairs}
    item, item_ids = index_encode(log[:, 1])
    known = [[category[int(i)]] if int(i) in category else [] for i in item_ids]
    features = categories({"category": known})
    ones = np.ones(len(log))
    encoded = (item, item_ids)
    return assemble(name, log[:, 0], encoded, ones, log[:, 2], IMPLICIT, item_features=features)


def jester5k(folder: Path | str) -> Interactions:
    """Jester: 5,000 users, 100 jokes, 363,209 ratings of -10..10, without times.

    References: K. Goldberg et al., "Eigentaste", Information Retrieval 4(2), 2001.
    """
    path = required(dataset_folder(folder, "jester5k"), "jester5k.npz", "jester5k")
    found = arrays(path, ["user", "item", "rating"])
    item, item_ids = index_encode(found["item"])
    encoded = (item, item_ids.astype(np.int64) + 1)
    scale = (-10.0, 10.0)
    return assemble(
        "jester5k", found["user"].astype(np.int64), encoded, found["rating"], None, scale
    )


def msweb(folder: Path | str) -> Interactions:
    """Microsoft web visits of February 1998, implicit: 113,845 visits of 37,711 users.

    ``state`` is 0 for the published training users, 1 for the 5,000 others of the test file.
    ``item_titles`` are the titles of the visited areas.

    References: J. Breese, D. Heckerman, C. Kadie, UAI 1998.
    """
    folder = dataset_folder(folder, "msweb")
    paths = [required(folder, f"anonymous-msweb.{part}", "msweb") for part in ("data", "test")]
    titles: dict[int, str] = {}
    visits: list[tuple[str, int, int]] = []
    for state, path in enumerate(paths):
        visits += [(user, item, state) for user, item in _visits(path, titles)]
    users, items, states = zip(*visits, strict=True)
    item, item_ids = index_encode(np.array(items))
    return assemble(
        "msweb",
        np.array(users),
        (item, item_ids),
        np.ones(len(visits)),
        None,
        IMPLICIT,
        state=np.array(states, np.int8),
        item_titles=np.array([titles.get(i, "") for i in item_ids.tolist()]),
    )


def _visits(path: Path, titles: dict[int, str]) -> list[tuple[str, int]]:
    """The visits (user, item) of one file; adds its items' titles to ``titles``."""
    user, out = "", []
    part = path.suffix[1:]
    for number, line in enumerate(csv.reader(read_text(path, "latin-1").splitlines()), start=1):
        kind = line[0] if line else ""
        try:
            if kind == "A":
                titles[int(line[1])] = line[3]
            elif kind == "C":
                user = f"{part}-{int(line[2])}"
            elif kind == "V":
                out.append((user, int(line[1])))
        except (ValueError, IndexError) as error:
            message = f"{path}: line {number} is damaged; get a complete copy of the file"
            raise UserError(message) from error
    if not out:
        raise UserError(f"{path}: no visits; get a complete copy of the file")
    return out


def omniglot(folder: Path | str, size: int = 28) -> dict[str, np.ndarray]:
    """The 32,460 images of Omniglot, 20 drawers of each of 1,623 characters, in order.

    Returns:
      ``images`` (32460, size, size) uint8, 1 is ink; ``class_id``, ``alphabet_id``, ``character``,
      ``drawer``, ``evaluation`` per image; ``alphabet_names`` (50,).

    Args:
      folder: the folder of ``omniglot28.npz`` or ``omniglot105.npz``, or the one above it.
      size: 28 or 105 pixels.

    References: B. Lake, R. Salakhutdinov, J. Tenenbaum, Science 350, 2015.
    """
    if size not in (28, 105):
        raise UserError(f"omniglot: no images of {size} pixels; choose 28 or 105")
    path = required(dataset_folder(folder, "omniglot"), f"omniglot{size}.npz", "omniglot")
    kept = ["class_id", "alphabet_id", "character", "drawer", "evaluation", "alphabet_names"]
    found = arrays(path, [*kept, "images" if size == 28 else "images_packed"])
    images = found.get("images")
    if images is None:
        bits = np.unpackbits(found["images_packed"], axis=1, count=size * size)
        images = bits.reshape(-1, size, size)
    return {"images": images} | {name: found[name] for name in kept}
