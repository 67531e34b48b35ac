"""The logs that are ranked: who met what, and what is known of items that nobody has met."""

import collections
import itertools
import pathlib
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from metajax.benchmark.ranking_arms import Sparse
from metajax.data.features.represent import content_matrix
from metajax.data.sources import files, named
from metajax.data.table import Features, Interactions, categorical

RETAIL = "online-retail"
LIKED = 3.5
"""A rating above this is an interaction, on a scale of 1 to 5."""


class World(NamedTuple):
    """A log that is ranked.

    Attributes:
      table: the interactions.
      threshold: rows with labels above it count.
      content: (I, C) what is known of each item; None if nothing is.
    """

    table: Interactions
    threshold: float
    content: Sparse | None


def load(name: str, data_dir: pathlib.Path | None = None) -> World:
    """The log of that name.

    Raises:
      UserError: it is missing or damaged.
    """
    if name == RETAIL:
        table = online_retail(named.data_folder(data_dir))
    else:
        table = named.load(name, data_dir)
    low, high = table.scale
    implicit = bool(np.ptp(table.label) == 0)
    threshold = -np.inf if implicit else low + (LIKED - 1) / 4 * (high - low)
    content = content_matrix(table.item_features, table.num_items)
    if not content.shape[1] and table.item_titles is not None:
        content = content_matrix(words_of(table.item_titles), table.num_items)
    return World(table, float(threshold), sp.csr_matrix(content) if content.shape[1] else None)


def online_retail(folder: pathlib.Path | str) -> Interactions:
    """Online Retail I and II (UCI): the products that each customer bought, once each.

    Postage and the like (``is_product``) is left out. ``item_features`` has the words of the
    description. No time: a customer's invoices are put together.

    Raises:
      UserError: the file is missing or damaged.

    References: Chen, Sain, Guo, "Data mining for the online retail industry", 2012.
    """
    place = files.dataset_folder(folder, RETAIL)
    path = files.required(place, "online_retail.npz", RETAIL)
    names = ("invoice_customer", "invoice_n_items", "item", "is_product", "description")
    read = files.arrays(path, names)
    customer = np.repeat(read["invoice_customer"], read["invoice_n_items"]).astype(np.int64)
    keep = read["is_product"].astype(bool)[read["item"]]
    pairs = np.unique(np.stack([customer[keep], read["item"][keep].astype(np.int64)], 1), axis=0)
    item_ids, descriptions = np.arange(len(read["description"])), read["description"].astype(str)
    return files.assemble(
        RETAIL,
        pairs[:, 0],
        (pairs[:, 1].astype(np.int32), item_ids),
        np.ones(len(pairs)),
        None,
        files.IMPLICIT,
        item_features=words_of(descriptions),
        item_titles=descriptions,
    )


def words_of(titles: np.ndarray) -> Features:
    """The words of items' titles, in lower case; one that only one item has tells nothing."""
    words = [str(text).lower().split() for text in titles]
    times = collections.Counter(itertools.chain.from_iterable(map(set, words)))
    often = {word for word, count in times.items() if count > 1}
    column, size = categorical([[w for w in text if w in often] for text in words])
    return Features({"word": column}, {"word": size})
