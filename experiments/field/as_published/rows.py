"""Which published learners of users run, and how: one row for each.

Each row names its setting as given and says where ours differs. What all differ in: a tenth of the
training users is kept out for a validation that nobody looks at, the query rows of warm tasks are
held out of training, and an epoch is as many drawn batches as the training tasks fill.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import optax

from metajax.benchmark.problem import Problem

from ...methods import metahin, paml
from ..tables.tables import CLICK, MELU, RATING, Design
from .parts import (
    Built,
    cmml_as_given,
    fomelu,
    lwa_or_nlba,
    mamo_as_given,
    melu,
    metahin_as_given,
    paml_as_given,
    seen,
    tanp_as_given,
    with_ids,
)


class Row(NamedTuple):
    """A published learner of users.

    Attributes:
      dataset, design: its data, and how its tasks are made and judged.
      given: its setting as given, short.
      differs: what ours differs in, beside what all differ in.
      epochs: as given.
      num_tasks: users of an outer step, as given.
      build: problem -> (learner, outer optimizer).
      prepare: problem -> the problem with the columns that it reads.
      per_epoch: outer steps of an epoch; 0 for as many as the training tasks fill.
      published: scenario -> the published number of the metric that the table shows.
    """

    dataset: str
    design: Design
    given: str
    differs: str
    epochs: int
    num_tasks: int
    build: Callable[[Problem], Built]
    prepare: Callable[[Problem], Problem]
    per_epoch: int = 0
    published: Mapping[str, float] = {}


IDS = "all item fields and the identifier of an item, no identifier of a user, whom nothing trains"
RATES = optax.chain(optax.clip(10.0), optax.adam(1e-3))

ROWS: dict[str, Row] = {
    "MeLU": Row(
        "ml-1m",
        MELU,
        "content 32-d, 64-64-1; 1 step of 5e-6 on the decision layers, first order; Adam 5e-5",
        "",
        20,
        32,
        functools.partial(melu, rate=5e-6, steps=1, second_order=False, tx=optax.adam(5e-5)),
        seen,
        published={"warm": 0.75, "user_cold": 0.79, "item_cold": 0.92, "both_cold": 0.92},
    ),
    "MELU_pytorch": Row(
        "ml-1m",
        MELU,
        "the same network; 5 steps of .01, second order; Adam 1e-3, gradients clipped at 10",
        "its published warm number is of training users, ours of held-out rows",
        30,
        32,
        functools.partial(melu, rate=0.01, steps=5, second_order=True, tx=RATES),
        seen,
        published={"warm": 0.68, "user_cold": 0.74, "item_cold": 0.90, "both_cold": 0.89},
    ),
    "MAMO": Row(
        "ml-1m",
        MELU,
        "embeddings of 100, 3 memories; Adam .01, 9 steps; 3 outer steps of .05 times the sum of "
        "100 users",
        "its own split needs times; inner steps on the whole support, on user tower, matrix and "
        "head; the faults of its code are left out (metajax.learners.cold_start.mamo)",
        3,
        100,
        mamo_as_given,
        seen,
        per_epoch=1,
    ),
    "MetaHIN": Row(
        "ml-1m",
        MELU,
        "embeddings of 32; steps of 5e-3 on aggregator and decision weights; Adam 5e-4",
        "neighbors are stored factors; no path through other users; all item fields; attention by "
        "the support loss, not the query's",
        100,
        32,
        metahin_as_given,
        lambda given: seen(metahin.prepare(metahin.Config(), given)),
    ),
    "TaNP": Row(
        "ml-1m",
        MELU,
        "16-d fields, latent 32, 10 clusters, divergences at 1; Adam 1e-4",
        f"MeLU's partition, not its own; {IDS}; the mean of the latent variable, not a draw",
        100,
        32,
        tanp_as_given,
        with_ids,
    ),
    "CMML": Row(
        "ml-1m",
        MELU,
        "content 32-d, context of the support, hypernetwork 256, FiLM 64-64-1; Adam 3e-4, decay "
        "1e-5",
        "a context of 0 leaves the network as it is",
        30,
        32,
        cmml_as_given,
        seen,
    ),
    "PAML": Row(
        "ciaodvd",
        MELU,
        "5 friends, gated 64-64-1; 1 step of 1e-3, first order; Adam 1e-3, decay 3e-3",
        "explicit friends alone, told of by their training ratings; no dropout; genres alone",
        120,
        64,
        paml_as_given,
        lambda given: seen(paml.prepare(paml.Config(), given)),
    ),
    "FOMeLU (MetaRec)": Row(
        "ml-100k",
        RATING,
        "fields 16-d, 64-64-1; 1 step of 5e-6, first order; gradient descent 5e-5",
        IDS,
        10,
        256,
        fomelu,
        with_ids,
        published={"user_cold": 0.5331},
    ),
    "LWA (MetaRec)": Row(
        "ml-100k",
        CLICK,
        "vectors of 8 by a layer of 256; sums, a softmax of probabilities; gradient descent .01 on "
        "the sum of 8 users",
        "ties of saturated probabilities at random, not by row",
        10,
        8,
        functools.partial(lwa_or_nlba, dim=8, hidden=256, biases=False),
        with_ids,
        published={"user_cold": 0.5736},
    ),
    "NLBA (MetaRec)": Row(
        "ml-100k",
        CLICK,
        "vectors of 16, hidden layers of 32; the rest as LWA",
        "ties of saturated probabilities at random, not by row; layers have biases of their own",
        10,
        8,
        functools.partial(lwa_or_nlba, dim=16, hidden=32, biases=True),
        with_ids,
        published={"user_cold": 0.5719},
    ),
}
"""Name -> the learner as published, in the order of the table."""
