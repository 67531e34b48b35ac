"""Prepared data sets in a cache: written once by TFDS builders, with random access.

    folder = builders.prepare("ml-1m", data_dir)            # Path, written if it was not there
    users = builders.source(folder, "user_tasks")           # users[17] -> dict of arrays
    table = builders.load("ml-1m", data_dir)                # the whole table again

``python -m metajax.data.builders ml-1m`` prepares one from the command line.
"""

from metajax.data.builders.cache import cache_folder, load, prepare, source

__all__ = ["cache_folder", "load", "prepare", "source"]
