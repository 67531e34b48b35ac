"""Training of the large case's recommenders: one program, touched rows of large tables."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.data.histories import log as rows
from metajax.optim import touched_rows
from metajax.types import Episode, MetaLearner, Params, UserError

from . import parts

QUERY = 10
"""Events of a user that are predicted."""


PRECISION = 40.0
"""Of the normal prior about 0 of every number of an item's own row."""


class Data(NamedTuple):
    """What training reads, on the device.

    Attributes:
      log: the events.
      content: (V, F) features of the items.
      count: (V,) how many events each item has.
    """

    log: rows.Log
    content: jax.Array
    count: jax.Array


class State(NamedTuple):
    """What the next step needs; ``tables`` are large tables, moved by touched rows alone."""

    params: Params
    opt_state: optax.OptState
    tables: dict[str, touched_rows.Rows]
    key: jax.Array
    step: jax.Array


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


BLOCK = 50
"""Steps of one call of the program."""
CHECK = 250
"""Steps between two looks at validation."""
CLIPPED = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

Program = Callable[[State, Data, jax.Array, jax.Array], tuple[State, jax.Array]]
"""(state, data, rate, steps of the whole run) -> the state `BLOCK` steps on, losses (BLOCK,)."""


class Start(NamedTuple):
    """Where an arm begins: the tower's parameters and the items' own rows (V, width)."""

    tower: Params
    rows: jax.Array


class Fitted(NamedTuple):
    """What stood best on validation: what was kept, its loss, its step; losses of all checks."""

    kept: Any
    valid_loss: float
    step: int
    history: list[tuple[int, float, float]]


def fit(
    advance: Program,
    plan: Plan,
    data: Data,
    key: jax.Array,
    rate: float,
    num_steps: int,
    keep: Callable[[Params, dict[str, jax.Array]], tuple[float, Any]],
    start: Start | None = None,
) -> Fitted:
    """What was best on validation in ``num_steps`` steps of Adam.

    The rate falls along a cosine; the tables' rows move at the same rate, only when touched.

    Args:
      advance: `program` of the plan; one serves runs of any rate and length.
      keep: (parameters, tables) -> validation loss and copies of what is worth keeping; called
        after every `CHECK` steps, and before the first where there is a start.
      start: the tower and rows to begin from; else new ones.

    Raises:
      UserError: the loss is not finite.
    """
    key_init, key_train = jax.random.split(key)
    params = plan.init(key_init)
    tables = {name: touched_rows.Rows.of(jnp.zeros(shape)) for name, shape in plan.tables.items()}
    best, history = Fitted(None, np.inf, 0, []), []
    if start is not None:
        params["tower"] = jax.tree.map(jnp.copy, start.tower)
        tables["item"] = touched_rows.Rows.of(jnp.copy(start.rows))
        valid, kept = keep(params, {name: t.value for name, t in tables.items()})
        best = Fitted(kept, valid, 0, history)
    state = State(params, CLIPPED.init(params), tables, key_train, jnp.zeros((), jnp.int32))
    for done in range(BLOCK, num_steps + BLOCK, BLOCK):
        state, losses = advance(state, data, jnp.float32(rate), jnp.float32(num_steps))
        mean = float(losses.mean())
        if not np.isfinite(mean):
            raise UserError(f"the loss is not finite before step {done}; lower the rate")
        if done % CHECK and done < num_steps:
            continue
        valid, kept = keep(state.params, {name: t.value for name, t in state.tables.items()})
        history.append((done, mean, valid))
        if valid < best.valid_loss:
            best = Fitted(kept, valid, done, history)
    return best


def program(plan: Plan, batch_size: int, sizes: parts.Sizes) -> Program:
    """The compiled training of a plan; it refuses to be traced twice."""

    def step(state: State, data: Data, rate: jax.Array) -> tuple[State, jax.Array]:
        key, key_draw = jax.random.split(state.key)
        draw = lambda key: rows.draw(data.log, key, sizes.shots, QUERY)
        batch = jax.vmap(draw)(jax.random.split(key_draw, batch_size))
        index = plan.index(batch)
        touched = {
            name: touched_rows.distinct(index[name], index[name].size, table.value.shape[0])
            for name, table in state.tables.items()
        }
        taken = {n: touched_rows.gather(t.value, touched[n].rows) for n, t in state.tables.items()}
        place = {name: found.place for name, found in touched.items()}
        about = (data.content[index["item"]], data.count[index["item"]])
        both = jax.value_and_grad(plan.loss, (0, 1))
        loss, (to_rows, grads) = both(taken, state.params, place, batch, *about)
        updates, opt_state = CLIPPED.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        tables = {
            n: touched_rows.lazy_adam(t, touched[n].rows, to_rows[n], rate)  # type: ignore[arg-type]
            for n, t in state.tables.items()
        }
        return State(params, opt_state, tables, key, state.step + 1), loss

    traces: list[int] = []

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state: State, data: Data, rate: jax.Array, num_steps: jax.Array):
        traces.append(1)
        assert len(traces) == 1, "the training program was traced again"

        def one(state: State, _):
            now = rate * (0.02 + 0.49 * (1.0 + jnp.cos(jnp.pi * state.step / num_steps)))
            return step(state, data, now)

        return jax.lax.scan(one, state, length=BLOCK)

    return advance


@functools.partial(jax.jit, static_argnames="chunk")
def catalogue(tower: Params, table: jax.Array, content: jax.Array, chunk: int = 20_000):
    """All items embedded (V, width)."""
    num_items = table.shape[0]
    chunk = chunk if num_items % chunk == 0 else num_items
    fold = lambda x: x.reshape(-1, chunk, x.shape[-1])
    one = lambda part: parts.embed(tower, *part)
    return jax.lax.map(one, (fold(table), fold(content))).reshape(num_items, -1)
