"""Training of the large case's recommenders: one program, touched rows of large tables."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from metajax.data.histories import log as rows
from metajax.optim import touched_rows
from metajax.training import devices as shard
from metajax.training import loop, outer_gradient, updates
from metajax.types import Episode, MetaLearner, Params

from . import parts

QUERY = 10
"""Events of a user that are predicted."""


PRECISION = 40.0
"""Of the normal prior about 0 of every number of an item's own row."""


class Start(NamedTuple):
    """Where an arm begins: the tower's parameters and the items' own rows (V, width)."""

    tower: Params
    rows: jax.Array


class Data(NamedTuple):
    """What training reads, on the device.

    Attributes:
      log: the events.
      content: (V, F) features of the items.
      count: (V,) how many events each item has.
      start: the tower and rows to begin from; else new ones.
    """

    log: rows.Log
    content: jax.Array
    count: jax.Array
    start: Start | None = None


class Batch(NamedTuple):
    """Users' events with what is known of their items.

    Attributes:
      episodes: leaves (B, ...); ``profile`` is the users' numbers.
      content, count: (B, S + Q, F) and (B, S + Q) of the items, see `Data`.
      start: of the data; the first parameters are made of it.
    """

    episodes: Episode
    content: jax.Array
    count: jax.Array
    start: Start | None = None


class Plan(NamedTuple):
    """How a recommender is trained.

    Attributes:
      init: key -> parameters.
      tables: name -> number of rows and columns; all begin at 0.
      index: batch -> name -> the rows that the batch uses.
      loss: (rows by name, params, places by name, batch, the items' content (B, S + Q, F) and
        numbers of events (B, S + Q)) -> scalar.
    """

    init: Callable[[jax.Array], Params]
    tables: dict[str, tuple[int, int]]
    index: Callable[[Episode], dict[str, jax.Array]]
    loss: Callable[..., jax.Array]


def all_items(batch: Episode, num_items: int) -> jax.Array:
    """The items (B, S + Q) of a batch; padding is ``num_items``, which is no row."""
    real = lambda e: jnp.where(e.mask > 0, e.inputs, num_items)
    return jnp.concatenate([real(batch.support), real(batch.query)], axis=1)


def mean_log_loss(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """The log loss of all real events of a batch alike."""
    each = optax.losses.sigmoid_binary_cross_entropy(score, label)
    return jnp.sum(each * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def price(own_BxNxW: jax.Array, mask: jax.Array, count: jax.Array) -> jax.Array:
    """What the items' own rows cost a batch, by the prior: each event pays its share of its item's.

    Args:
      mask: (B, N) the events that the loss sums over.
      count: (B, N) how many events the item has in all.
    """
    each = jnp.sum(own_BxNxW**2, axis=-1) / jnp.maximum(count, 1.0)
    return 0.5 * PRECISION * jnp.sum(each * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def adapted(learner: MetaLearner, num_items: int, num_features: int, sizes: parts.Sizes) -> Plan:
    """The plan of a recommender that is trained through its adaptation."""

    def init(key: jax.Array) -> Params:
        key_tower, key_learner = jax.random.split(key)
        one = lambda: parts.Examples(jnp.zeros((1, sizes.width)), jnp.zeros(1), jnp.zeros(1))
        return {
            "tower": parts.tower_init(key_tower, num_features, sizes),
            "learner": learner.init(key_learner, Episode((), one(), one())),
        }

    def loss(rows_of, params, place, batch: Episode, content, count) -> jax.Array:
        own_BxNxW = rows_of["item"][place["item"]]
        x_BxNxW = parts.embed(params["tower"], own_BxNxW, content)
        num_support = batch.support.mask.shape[1]

        def scores(support, x_NxW):
            known = support._replace(inputs=x_NxW[:num_support])
            own = params["learner"]
            state = learner.adapt(own, learner.start(own, ()), known, jax.random.key(0))
            return learner.predict(own, state, x_NxW[num_support:])

        score = jax.vmap(scores)(batch.support, x_BxNxW)
        mask, after = batch.query.mask, slice(num_support, None)
        cost = price(own_BxNxW[:, after], mask, count[:, after])
        return mean_log_loss(score, batch.query.label, mask) + cost

    index = lambda batch: {"item": all_items(batch, num_items)}
    return Plan(init, {"item": (num_items, sizes.width)}, index, loss)


def alike(num_items: int, num_features: int, sizes: parts.Sizes) -> Plan:
    """The plan of the tower that all arms begin from: everyone likes the same, by the offset."""

    def init(key: jax.Array) -> Params:
        return {"tower": parts.tower_init(key, num_features, sizes)}

    def loss(rows_of, params, place, batch: Episode, content, count) -> jax.Array:
        own_BxNxW = rows_of["item"][place["item"]]
        score = parts.embed(params["tower"], own_BxNxW, content)[..., -1]
        label, mask = _all_events(batch)
        return mean_log_loss(score, label, mask) + price(own_BxNxW, mask, count)

    index = lambda batch: {"item": all_items(batch, num_items)}
    return Plan(init, {"item": (num_items, sizes.width)}, index, loss)


def _all_events(batch: Episode) -> tuple[jax.Array, jax.Array]:
    """Labels and mask (B, S + Q) of a batch."""
    both = lambda a, b: jnp.concatenate([a, b], axis=1)
    support, query = batch.support, batch.query
    return both(support.label, query.label), both(support.mask, query.mask)


def joint(
    num_users: int, num_items: int, num_features: int, sizes: parts.Sizes, penalty: float = 1.0
) -> Plan:
    """The plan of the joint model: each trained user has a vector of its own about the mean user's.

    Factorization with content, by maximum a posteriori: the users' vectors have a normal prior of
    precision ``penalty`` about the mean, of which a batch pays its share.
    """
    dim = sizes.width - 1

    def init(key: jax.Array) -> Params:
        tower = parts.tower_init(key, num_features, sizes)
        return {"tower": tower, "learner": {"mean": jnp.zeros(dim)}}

    def loss(rows_of, params, place, batch: Episode, content, count) -> jax.Array:
        own_BxNxW = rows_of["item"][place["item"]]
        x_BxNxW = parts.embed(params["tower"], own_BxNxW, content)
        own_BxD = rows_of["user"][place["user"]]
        w_BxD = params["learner"]["mean"][None] + own_BxD
        score = jnp.einsum("bnd,bd->bn", x_BxNxW[..., :-1], w_BxD) + x_BxNxW[..., -1]
        label, mask = _all_events(batch)
        real = jnp.maximum(jnp.sum(mask), 1.0)
        share = real / (own_BxD.shape[0] * 35.0)  # of a user's events, 35 on average
        users = share * 0.5 * penalty * jnp.sum(own_BxD**2) / real
        return mean_log_loss(score, label, mask) + price(own_BxNxW, mask, count) + users

    index = lambda batch: {"item": all_items(batch, num_items), "user": batch.profile}
    tables = {"item": (num_items, sizes.width), "user": (num_users, dim)}
    return Plan(init, tables, index, loss)


CHECK = 250
"""Steps between two looks at validation."""
CLIPPED = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


class Best(NamedTuple):
    """What stood best on validation: its loss and its step; (step, loss, valid) of all checks."""

    params: touched_rows.Tabled
    valid_loss: float
    step: int
    history: list[tuple[int, float, float]]


def cosine(count: jax.Array, rate: jax.Array, num_steps: jax.Array) -> jax.Array:
    """The rate after so many steps: along a cosine to a fiftieth."""
    return rate * (0.02 + 0.49 * (1.0 + jnp.cos(jnp.pi * count / num_steps)))


def recipe(plan: Plan, rate: float, num_steps: int) -> loop.Recipe:
    """How a plan is trained: by Adam along a cosine, tables by touched rows at the same rate."""

    def init(key: jax.Array, batch: Batch) -> touched_rows.Tabled:
        params = plan.init(key)
        tables = {name: jnp.zeros(shape) for name, shape in plan.tables.items()}
        if batch.start is not None:
            params["tower"], tables["item"] = batch.start
        return touched_rows.Tabled(tables, params)

    def loss(rows_of, place, params, batch: Batch, key: jax.Array):
        del key
        return plan.loss(rows_of, params, place, *batch[:3]), {}

    gradient_fn = touched_rows.row_gradient(loss, lambda batch: plan.index(batch.episodes))
    return loop.Recipe(init, gradient_fn, updates.touched_rows(CLIPPED, cosine, rate, num_steps))


def sampler(plan: Plan, batch_size: int, sizes: parts.Sizes) -> loop.Sampler:
    """Batches of so many random users."""

    def sample(data: Data, key: jax.Array) -> Batch:
        draw = lambda key: rows.draw(data.log, key, sizes.shots, QUERY)
        batch = jax.vmap(draw)(jax.random.split(key, batch_size))
        item = plan.index(batch)["item"]
        return Batch(batch, data.content[item], data.count[item], data.start)

    return sample


def fit(
    plan: Plan,
    sample: loop.Sampler,
    data: Data,
    key: jax.Array,
    rate: float,
    num_steps: int,
    validate: loop.Validate,
    devices: int = 1,
) -> Best:
    """What was best on validation in ``num_steps`` steps, or before them where there is a start.

    Raises:
      UserError: the training diverged.
    """
    how = shard.on_devices(devices, recipe(plan, rate, num_steps), split_by_users)
    found = loop.fit(how, sample, data, key[None], num_steps, block=CHECK, validate=validate)
    steps = [min(CHECK * (i + 1), num_steps) for i in range(found.history["loss"].shape[1])]
    told = [found.history[name][0].tolist() for name in ("loss", "valid")]
    history = list(zip(steps, *told, strict=True))
    params = jax.tree.map(lambda x: x[0], found.params)
    best = Best(params, min(told[1]), int(found.best_step[0]), history)
    if data.start is None:
        return best
    first = how.init(jax.random.split(key)[0], sample(data, key))
    valid = float(jax.jit(validate)(first))
    return best if best.valid_loss < valid else Best(first, valid, 0, history)


def split_by_users(mesh: Mesh, gradient_fn: outer_gradient.GradientFn) -> outer_gradient.GradientFn:
    """The gradient of a batch whose users are dealt over the devices."""
    split = shard.split_by_compiler(mesh, gradient_fn)
    return lambda params, batch, key: split(params, batch._replace(start=None), key)


@functools.partial(jax.jit, static_argnames="chunk")
def catalogue(tower: Params, table: jax.Array, content: jax.Array, chunk: int = 20_000):
    """All items embedded (V, width)."""
    num_items = table.shape[0]
    chunk = chunk if num_items % chunk == 0 else num_items
    fold = lambda x: x.reshape(-1, chunk, x.shape[-1])
    one = lambda part: parts.embed(tower, *part)
    return jax.lax.map(one, (fold(table), fold(content))).reshape(num_items, -1)
