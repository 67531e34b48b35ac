"""The arms of ``meta_rl``: a linear softmax policy, how it is meta-trained, and how it adapts."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.decide import dice
from metajax.decide.click_users import ClickUsers
from metajax.decide.environment import Log, Observation, Policy, drawing, play
from metajax.training.devices import split_over

RANDOM, SCRATCH, JOINT, STEP, MAML, DROPPED, EMAML, ORACLE = NAMES = (
    "random", "from scratch, one step", "joint training", "joint training, one step", "MAML-RL",
    "MAML-RL without the DiCE operator", "E-MAML", "oracle",
)  # fmt: skip


class Shape(NamedTuple):
    """What programs are compiled for: episodes before and after the step, users of an outer step.

    A click depends on what is shown in its round alone, so the credit of a decision ends there:
    the discount of DiCE is 0. The users of an outer step are split over the devices.
    """

    world: ClickUsers
    before: int
    after: int
    users: int
    seeds: int
    steps: int
    devices: int = 1


def policy(w: jax.Array) -> Policy:
    """Softmax of ``v . w`` over the candidates; it never learns by itself."""

    def chances(state: Any, seen: Observation, key: jax.Array) -> jax.Array:
        return jax.nn.softmax(seen.inputs["vector"] @ w)

    return drawing(lambda key, seen: (), chances, lambda state, decision, key: state)


def episodes(world: ClickUsers, w: jax.Array, user: jax.Array, key: jax.Array, count: int) -> Log:
    """Logs with leaves (count, T)."""
    one = lambda key: play(world.environment(), policy(w), user, key, world.horizon)
    return jax.vmap(one)(jax.random.split(key, count))


def start(rate: float) -> dict[str, jax.Array]:
    """The parameters before meta-training: no taste, and a rate of the inner step."""
    return {"w": jnp.zeros(8), "log_rate": jnp.log(jnp.asarray(rate))}


def objective(shape: Shape, kind: str) -> Callable[[dict, jax.Array], jax.Array]:
    """(params, key) -> what an outer step ascends, over drawn users."""

    def one(params: dict, key: jax.Array) -> tuple[jax.Array, Log]:
        key_user, key_play = jax.random.split(key)
        user = shape.world.sample(key_user)
        if kind == JOINT:  # as many episodes as the others see
            logs = episodes(shape.world, params["w"], user, key_play, shape.before + shape.after)
            return dice.of_logs(logs, discount=0.0), logs

        def at(w: jax.Array, key: jax.Array) -> Log:
            return episodes(shape.world, w, user, key, shape.before)

        operator = dice.no_box if kind == DROPPED else dice.box
        told = dice.after_step(
            params["w"], jnp.exp(params["log_rate"]), at, key_play, discount=0.0,
            operator=operator,
        )  # fmt: skip
        return told[0], told[1][0]

    deal = split_over(shape.devices)

    def whole(params: dict, key: jax.Array) -> jax.Array:
        total, before = jax.vmap(one, (None, 0))(params, deal(jax.random.split(key, shape.users)))
        return (dice.exploring(total, before) if kind == EMAML else total).mean()

    return whole


@functools.partial(jax.jit, static_argnames=("shape", "kind"))
def trained(shape: Shape, kind: str, rate: float, inner_rate: float) -> tuple[Any, jax.Array]:
    """Meta-trained parameters (S, ...) of all seeds, and the return (S, steps) while training."""
    ascend = objective(shape, kind)
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))

    def one_seed(key: jax.Array):
        def one(carry: tuple, key: jax.Array):
            params, state = carry
            value, slope = jax.value_and_grad(lambda p: -ascend(p, key))(params)
            updates, state = tx.update(slope, state)
            return (optax.apply_updates(params, updates), state), -value

        params = start(1.0) | {"log_rate": jnp.log(inner_rate)}
        (params, _), told = jax.lax.scan(
            one, (params, tx.init(params)), jax.random.split(key, shape.steps)
        )
        return params, told

    return jax.vmap(one_seed)(jax.random.split(jax.random.key(0), shape.seeds))


@functools.partial(jax.jit, static_argnames=("shape", "known"))
def earned(
    shape: Shape, params: dict, rate: jax.Array, users: jax.Array, key: jax.Array, known: int,
    shuffled: jax.Array,
) -> jax.Array:  # fmt: skip
    """The chance of a click (U,) after a step on ``known`` episodes of each user; 0 is no step.

    Args:
      users: (U, dim) who they are.
      shuffled: 1 to deal the rewards of a user's episodes to other rounds.
    """
    world = shape.world

    def one(user: jax.Array, key: jax.Array) -> jax.Array:
        key_before, key_after, key_deal = jax.random.split(key, 3)
        w = params["w"]
        if known:
            at = lambda w, key: episodes(world, w, user, key, known)
            in_order = jnp.arange(known * world.horizon, dtype=float)
            dealt = jax.random.uniform(key_deal, in_order.shape)
            order = jnp.where(shuffled, dealt, in_order)
            w, _ = dice.step(w, rate, at, key_before, order, discount=0.0)
        logs = episodes(world, w, user, key_after, shape.after)
        return logs.info["expected"].mean()

    keys = jax.random.split(key, users.shape[0])
    return jax.lax.map(lambda each: one(*each), (users, keys), batch_size=50)


@functools.partial(jax.jit, static_argnames="shape")
def best(shape: Shape, users: jax.Array, key: jax.Array) -> jax.Array:
    """The chance of a click (U,) of whoever knows the user and always shows the best candidate."""

    def one(user: jax.Array, key: jax.Array) -> jax.Array:
        return episodes(shape.world, jnp.zeros(8), user, key, shape.after).info["best"].mean()

    return jax.vmap(one)(users, jax.random.split(key, users.shape[0]))
