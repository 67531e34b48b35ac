"""The data sets of the paper: what they are, how large, and where they stand."""

from collections.abc import Iterator

from metajax.results import records, tables
from paper.claims import listed, number
from paper.edition import Results

TOLD = {
    "ml-1m": ("MovieLens 1M", "films, stars; profiles, genres, cast"),
    "ml-100k": ("MovieLens 100K", "films, stars; profiles, genres"),
    "movietweetings-100k": ("MovieTweetings", "films, whole points; genres"),
    "ciaodvd": ("CiaoDVD", "films, stars; genres"),
    "jester5k": ("Jester", "jokes, a continuous scale; no content"),
    "amazon-musical-instruments": ("Amazon instruments", "goods, stars; no content"),
    "amazon-grocery": ("Amazon grocery", "purchases; categories"),
    "online-retail": ("Online Retail", "purchases; words of the names"),
    "msweb": ("MSWeb", "areas of a site visited; no content"),
    "synthetic": ("synthetic world", "ratings from latent tastes"),
}
"""Name -> how the paper calls it, and what is in it."""


def _used(r: Results) -> Iterator[tuple[str, str, records.Record]]:
    """Data set, where it stands, and the record, of everything with users and items."""
    groups = ((r.ratings, "methods"), (r.tables, ""), (r.fresh, "fresh splits"), (r.ranking, "T6"))
    for group, where in groups:
        for name, record in group.items():
            table = where or name.split("-")[1]
            if record.data or "dataset" in record.config:
                dataset = record.dataset or str(record.config["dataset"])
                yield dataset, table, record


def data_table(r: Results) -> tables.Grid:
    """Users, items and interactions of each data set, and where it stands."""
    places: dict[str, list[str]] = {}
    sizes: dict[str, records.Data] = {}
    for dataset, table, record in _used(r):
        also = [table, "T3"] if table == "T2" else [table]
        places.setdefault(dataset, []).extend(also)
        if record.data and record.data.users:
            sizes.setdefault(dataset, record.data)
    rows = []
    for dataset, where in places.items():
        name, what = TOLD.get(dataset, (dataset, ""))
        size = sizes.get(dataset)
        counts = [""] * 4
        if size and size.users and size.items and size.interactions:
            each = size.interactions / size.users
            filled = size.interactions / (size.users * size.items)
            counts = [f"{n:,}" for n in (size.users, size.items, size.interactions)]
            counts = [*counts, f"{each:.1f}", f"{100 * filled:.2f}"]
        rows.append([name, what, *counts, ", ".join(sorted(set(where)))])
    heads = ["data set", "what", "users", "items", "interactions", "per user", "% filled", "in"]
    note = (
        "As read, before users with few interactions are left out of the tasks. Filled: the share "
        "of all pairs of a user and an item. In: the tables, the fresh splits, and the records of "
        "single methods."
    )
    return tables.Grid("Data sets", heads, rows, 2, [note])


def data_sets(r: Results) -> str:
    """How many data sets there are, and which."""
    found = dict.fromkeys(dataset for dataset, _, _ in _used(r))
    return f"{number(len(found))}: {listed([TOLD.get(n, (n, ''))[0] for n in found])}"
