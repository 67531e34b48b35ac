"""Small files of logs, and what is read of them, for the tests of `metajax.data.logs`."""

import pytest

from metajax.data.logs.read import load
from metajax.types import UserError


def put(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(read):
    """(user id, item id, label) of every row, as text and number."""
    users, items = read.user_ids[read.user], read.item_ids[read.item]
    return [(str(u), str(i), float(r)) for u, i, r in zip(users, items, read.label, strict=True)]


def refused(path, *wanted, **options):
    """The one line that a file is refused with, which holds every wanted text."""
    with pytest.raises(UserError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    for text in wanted:
        assert text in message, message
    for advice in ("truncate_ragged", "ignore_errors", "infer_schema", "user=", "quote_char"):
        assert advice not in message
    return message


FOUR = [("1", "1", 4.0), ("2", "1", 3.0), ("2", "2", 5.0), ("3", "1", 2.0)]
PLAIN = "user,item,rating\n1,1,4\n2,1,3\n2,2,5\n3,1,2\n"
