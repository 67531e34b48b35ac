"""A person's own log: what it may look like, how it is read, what is said about it."""

from metajax.data.logs.options import ReadOptions
from metajax.data.logs.read import last_of_pairs, load

__all__ = ["ReadOptions", "last_of_pairs", "load"]
