"""Logs of shops as `Interactions`: Online Retail, RetailRocket."""

from pathlib import Path

import numpy as np

from metajax.data.sources.files import IMPLICIT, arrays, assemble, dataset_folder, required
from metajax.data.table import Interactions, index_encode
from metajax.types import UserError

OPENED = 1_259_625_600
"""The first minute of Online Retail, 2009-12-01 00:00 of the shop's clock, as Unix seconds."""


def online_retail(folder: Path | str) -> Interactions:
    """Online Retail: 5,878 customers, 4,631 items, 768,864 lines of invoices over two years.

    Implicit, to the minute: the lines of an invoice have one time, and keep its order. What is no
    product (postage, fees) is left out. ``item_titles`` are descriptions.

    References: D. Chen, S. L. Sain, K. Guo, Journal of Database Marketing 19(3), 2012.
    """
    name = "online-retail"
    path = required(dataset_folder(folder, name), "online_retail.npz", name)
    names = ["invoice_minute", "invoice_customer", "invoice_n_items", "item", "description"]
    found = arrays(path, [*names, "is_product"])
    each = found["invoice_n_items"].astype(np.int64)
    if each.sum() != len(found["item"]):
        raise UserError(f"{path}: the invoices have not as many lines as there are; get a copy")
    user = np.repeat(found["invoice_customer"].astype(np.int64), each)
    time = OPENED + 60 * np.repeat(found["invoice_minute"].astype(np.int64), each)
    real = found["is_product"][found["item"]]
    user, line, time = user[real], found["item"][real].astype(np.int64), time[real]
    item, item_ids = index_encode(line)
    titles = found["description"][item_ids]
    ones = np.ones(len(user))
    return assemble(name, user, (item, item_ids), ones, time, IMPLICIT, item_titles=titles)


def retailrocket(folder: Path | str) -> Interactions:
    """RetailRocket: views of 2,083 people who also buy, 29,521 items, 75,374 events, seconds.

    Implicit; a person and an item meet once, at one of their times.

    References: W. Wei et al., "Contrastive meta learning", WSDM 2022, who prepared it.
    """
    name = "retailrocket-multibehavior"
    path = required(dataset_folder(folder, name), "retailrocket.npz", name)
    found = arrays(path, ["view_user", "view_item", "view_time"])
    item = index_encode(found["view_item"].astype(np.int64))
    ones, time = np.ones(len(found["view_user"])), found["view_time"].astype(np.int64)
    return assemble(name, found["view_user"].astype(np.int64), item, ones, time, IMPLICIT)
