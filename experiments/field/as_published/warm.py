"""The published ways to warm items up, at the rates of their programs.

The click model is trained on known items and frozen. A new item is judged cold and after its 60
clicks, on which its embedding alone takes as many steps of Adam as three published rounds do.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses
from metajax.data import episodes
from metajax.evaluation import evaluate, protocols
from metajax.learners import pooled
from metajax.learners.item_warm_up import cvar, dropout_net, meta_embedding, mwuf
from metajax.settings import Data
from metajax.training import loop
from metajax.transforms.pretrained import starting_from
from metajax.types import Episode, MetaLearner, Model, Params, PyTree

from ..metaemb import metaemb
from ..metaemb.report import SCENARIO

ROUNDS = (optax.adam(1e-3), 30)
"""The optimizer of a new item's embedding and its steps on three rounds of 20 clicks."""


class Given(NamedTuple):
    """What a way to warm up is made of.

    Attributes:
      model: the click model; user: the table of its embeddings of users.
      net: (width, ...) -> a network over an item's content.
      dim: the width of embeddings.
      known: (dim,) the mean embedding of the known items.
    """

    model: Model
    user: Model
    net: Callable[..., Model]
    dim: int
    known: jax.Array


class Made(NamedTuple):
    """A way to warm up, made.

    Attributes:
      train, test: the learner as it is trained, and as a new item meets it.
      start: parameters that it starts from, beside the click model's.
      frozen: the parts of its parameters that rest in training.
    """

    train: MetaLearner
    test: MetaLearner
    start: Mapping[str, PyTree] = {}
    frozen: tuple[str, ...] = ("base",)


def generated(given: Given) -> Made:
    """Meta-Embedding: content generates the first embedding."""
    of = functools.partial(
        meta_embedding.meta_embedding, given.model, given.net(given.dim), given.dim
    )
    return Made(of(optax.sgd(1e-4), 1), of(*ROUNDS))


def carried_over(given: Given) -> Made:
    """MWUF: the mean embedding, scaled and shifted."""
    nets = given.net(given.dim, center=1.0, hidden=(16,)), given.net(given.dim, hidden=(16,))
    of = functools.partial(
        mwuf.scale_and_shift, given.model, given.user, *nets, given.dim, given.dim
    )
    return Made(of(*ROUNDS), of(*ROUNDS), {"mean": given.known})


def decoded(given: Given) -> Made:
    """CVAR: a prior of content, decoded."""
    nets = given.net(2 * given.dim), given.net(2 * given.dim), given.net(given.dim)
    of = functools.partial(cvar.cvar, given.model, *nets, given.dim, noise=1e-4)
    return Made(of(optax.sgd(1.0), 5), of(*ROUNDS))


def of_its_users(given: Given) -> Made:
    """DropoutNet: the mean of the users met; the click model is trained on with it."""
    learner = dropout_net.dropout_net(given.model, given.user, given.dim, share=0.1)
    return Made(learner, learner, frozen=())


class Way(NamedTuple):
    """A published way to warm up.

    Attributes:
      make: its learner.
      given, differs: as of `rows.Row`.
      dim, hidden: widths of the click model's embeddings and layers.
      num_tasks, rows: items of an outer step, and the rows of each in its support and its query.
      steps: outer steps, as given.
      decay: weight decay of Adam at 1e-3.
      published: the published AUC after three rounds, if one was seen.
    """

    make: Callable[[Given], Made]
    given: str
    differs: str
    dim: int
    hidden: tuple[int, ...]
    num_tasks: int
    rows: tuple[int, int]
    steps: int
    decay: float = 0.0
    published: float | None = None


REPOSITORY = "DeepFM 16-d, 16-16; Adam 1e-3, decay 1e-6, one pass over the known items' rows"
HARNESS = "no dropout; 20 items of 100 rows for a batch of 2048; the log is in no order of time"
WAYS: dict[str, Way] = {
    "Meta-Embedding": Way(
        generated,
        "DeepFM 128-d, 128-128; 25 items of 20 + 20 rows, one step of 1e-4, .1 cold + .9 warm; "
        "Adam 1e-3, 3 epochs",
        "the generator has embeddings and a hidden layer of its own; no order of time",
        128,
        (128, 128),
        25,
        (20, 20),
        126,
        published=0.7073,
    ),
    "MWUF": Way(
        carried_over,
        REPOSITORY,
        f"{HARNESS}; users of the support alone",
        16,
        (16, 16),
        20,
        (60, 40),
        427,
        1e-6,
    ),
    "CVAR": Way(
        decoded,
        f"{REPOSITORY}, 10 updates a batch; draws times 1e-4, distance times 1e-4",
        f"{HARNESS}; a known embedding is what 50 steps of rate 1 make of 0; no count as a feature",
        16,
        (16, 16),
        20,
        (60, 40),
        4270,
        1e-6,
    ),
    "DropoutNet": Way(
        of_its_users,
        f"{REPOSITORY}; an item loses its embedding with probability .1",
        f"{HARNESS}; of its paper: the embedding is the mean of the users met, and nothing else "
        "adapts",
        16,
        (16, 16),
        20,
        (60, 40),
        427,
        1e-6,
    ),
}
BASE_STEPS = 427
"""One pass over the rows of known items of MovieLens 1M, 20 items of 100 rows at a time."""


def load(dataset: str, data_dir: pathlib.Path | None) -> metaemb.Items:
    """Items as tasks; those with more than 200 rows are known, of MovieLens 100K more than 100."""
    hot = 100 if dataset == "ml-100k" else 200
    given = metaemb.Config(data=Data(dataset, data_dir), hot=hot)
    return metaemb.load(given, protocols.ctr_warmup(hot=hot))


def sampler(num_tasks: int, rows: tuple[int, int]) -> loop.Sampler:
    """Batches of items, all with full supports."""
    draw = functools.partial(episodes.draw, num_support=rows[0], num_query=rows[1], full_share=1.0)
    return loop.sampler(draw, num_tasks)


def with_base(data: metaemb.Items, way: Way) -> metaemb.Items:
    """The data with the click model that a way was published with."""
    from metajax.models import ctr

    users, items = data.table.user_features.sizes, data.table.item_features.sizes
    base = ctr.deep_fm(data.table.num_users, users, items, way.dim, way.hidden)
    return data._replace(base=base)


def click_model(data: metaemb.Items, dim: int) -> MetaLearner:
    """The click model with a table of item embeddings, trained on known items."""
    from metajax.models import ctr

    joint = ctr.with_table(data.base, data.table.num_items, dim)
    return pooled.pooled(joint, loss=losses.log_loss)


def build(
    way: Way, data: metaemb.Items, trained: Params
) -> tuple[MetaLearner, MetaLearner, optax.GradientTransformation]:
    """The learner as it is trained, as a new item meets it, and the outer optimizer.

    Args:
      trained: parameters of the `click_model`.
    """
    from metajax.models import ctr

    base = trained["base"]
    net = functools.partial(ctr.content_net, data.table.item_features.sizes)
    user = ctr.table_rows(jax.lax.stop_gradient(base["owner"]["embedding"]))
    known = trained["table"][jnp.asarray(data.split.train.owner)].mean(axis=0)
    made = way.make(Given(data.base, user, net, way.dim, known))
    tx = optax.chain(optax.add_decayed_weights(way.decay), optax.adam(1e-3))
    train = starting_from(made.train, base=base, **made.start)
    return train, made.test, resting(tx, made.frozen)


def resting(tx: optax.GradientTransformation, names: Sequence[str]) -> optax.GradientTransformation:
    """The optimizer, but for parts of the parameters that rest.

    A frozen part has no gradient, and Adam would make full steps of its decay alone.
    """
    label = lambda name, part: jax.tree.map(lambda _: "rests" if name in names else "moves", part)
    labels = lambda params: {name: label(name, part) for name, part in params.items()}
    return optax.partition({"moves": tx, "rests": optax.set_to_zero()}, labels)


def judged(
    data: metaemb.Items, learner: MetaLearner, params: PyTree
) -> dict[tuple[str, str], np.ndarray]:
    """AUC (S, 1), its draws (S, D) and changes of probability (S, T), by (condition, metric)."""
    tasks = jax.tree.map(jnp.asarray, episodes.fixed(data.split.test[SCENARIO], 0))
    keys = jax.random.split(jax.random.key(3), tasks.query.label.shape[0])
    shuffled = jax.vmap(evaluate.shuffled_labels)(keys, tasks)
    most, protocol = 60, protocols.ctr_warmup()
    logits = metaemb.logits_of(learner, params, data.source)
    at = lambda t, shots: metaemb.judge(logits(t, shots), t, protocol._replace(shots=shots))
    found = at(tasks, (0, most)) | {
        ("shuffled", metric): v for (_, metric), v in at(shuffled, (most,)).items()
    }
    named = lambda had: "all" if had == f"k={most}" else had
    values = {(named(had), m): v for (had, m), v in found.items() if m != "log_loss"}
    return values | {("all", "change"): change(learner, params, data.source, tasks)}


def change(
    learner: MetaLearner, params: PyTree, source: episodes.Source, tasks: Episode
) -> np.ndarray:
    """How much adapting changes the probability of a click: mean absolute change (S, T)."""

    def of_seed(source: episodes.Source, tasks: Episode, params: PyTree) -> jax.Array:
        key, fetch = jax.random.key(2), episodes.fetch_from(source)
        at = lambda alter: jax.nn.sigmoid(
            evaluate.predictions(learner, params, tasks, key, fetch=fetch, alter=alter)
        )
        moved = jnp.abs(at(evaluate.unaltered) - at(evaluate.first_shots(0)))
        return jax.vmap(losses.masked_mean)(moved, tasks.query.mask)

    of_seeds = jax.jit(lambda s, t, p: jax.lax.map(functools.partial(of_seed, s, t), p))
    return np.asarray(of_seeds(source, tasks, params))


def block(steps: int) -> int:
    """The longest block of at most 100 steps that divides them."""
    return next(b for b in range(min(100, steps), 0, -1) if steps % b == 0)
