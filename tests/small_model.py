"""A model of six films made by hand: a folder in no time, for the tests of serving."""

import pathlib

import numpy as np

from metajax.learners import item_ridge
from metajax.serving import model
from metajax.serving.catalogue import Catalogue, Labels

TITLES = ["Alien", "Heat", "Godfather, The", "Hamlet", "Hamlet", "Brazil"]
YEARS = [1979, 1995, 1972, 1948, 1996, 0]
FACTOR = np.array([[1, 0], [-1, 0], [1, 0.5], [0, 1], [0, -1], [0.5, 0.5]], np.float32)
BIAS = np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], np.float32)
RECIPE = item_ridge.Recipe(3.0, ("factor",), (2.0, 2.0, 2.0))


def write(folder: pathlib.Path, labels: Labels | None = None, mean: float = 3.0) -> model.Model:
    """The model, in a folder: score = mean + bias + a constant's and two factors' weights."""
    params = {
        "embed": {},
        "offset": {"mu": np.float32(mean)},
        "mean": np.zeros(3, np.float32),
        "log_precision": np.log(np.full(3, 2.0, np.float32)),
    }
    known = model.Known(
        ids=np.array(["ann", "bob"]),
        start=np.array([0, 2, 3]),
        item=np.array([0, 1, 5], np.int32),
        value=np.array([5, 1, 3], np.float32),
        profile={},
    )
    about = {
        "log": {"name": "films", "users": 2, "items": 6, "rows": 3},
        "arm": "fold-in",
        "validation": {
            "metric": "root mean squared error",
            "events": [0, 1, 3, 10, "all"],
            "users": 3,
            "arms": {"item mean": [0.9] * 5, "fold-in": [0.9, 0.8, 0.7, 0.6, 0.5]},
            "notes": [],
        },
    }
    return model.save(
        folder,
        about=about,
        labels=labels or Labels("ratings", 1.0, 5.0),
        catalogue=Catalogue(np.array([10, 11, 12, 13, 14, 1984]), TITLES, np.array(YEARS)),
        popularity=np.arange(6),
        recipe=RECIPE,
        params=params,
        columns={"factor": FACTOR, "bias": BIAS},
        known=known,
    )
