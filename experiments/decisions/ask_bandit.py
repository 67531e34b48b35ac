"""A bandit in which asking costs and tells all: what makes a meta-learner explore, summed exactly.

One of N arms earns 1, which one is the user's secret; the others earn 0. A further arm, to ask,
costs, and tells what every arm would have earned. A policy takes one decision, learns from it by
one gradient step, and is judged by what it earns then. Nothing is drawn: decisions and users are
summed over.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

ARMS, COST = 10, 0.2


def rewards(secret: jax.Array) -> jax.Array:
    """What each arm (N + 1,) earns, asking last."""
    return jnp.append(jax.nn.one_hot(secret, ARMS), -COST)


def chances(params: dict[str, jax.Array]) -> jax.Array:
    """The policy (N + 1,)."""
    return jax.nn.softmax(params["logit"])


def start() -> dict[str, jax.Array]:
    """Every decision alike, and a first rate of the step."""
    return {"logit": jnp.zeros(ARMS + 1), "log_rate": jnp.log(jnp.asarray(20.0))}


def adapted(params: dict, secret: jax.Array, first: jax.Array) -> dict[str, jax.Array]:
    """The parameters after one step on what the first decision has told."""
    reward = rewards(secret)

    def told(logit: jax.Array) -> jax.Array:
        chance = jax.nn.softmax(logit)
        asked = chance @ reward  # all rewards are known: the gradient of the expected one
        pulled = jnp.log(chance[first]) * reward[first]
        return jnp.where(first == ARMS, asked, pulled)

    slope = jax.grad(told)(params["logit"])
    return {**params, "logit": params["logit"] + jnp.exp(params["log_rate"]) * slope}


def later(params: dict, explores: bool) -> jax.Array:
    """What the policy earns after its step (), over all secrets and first decisions.

    Args:
      explores: whether the chances of the first decision are differentiated, as in E-MAML; in
        MAML-RL they are those of data that happen to be there.
    """
    earned = lambda secret, first: chances(adapted(params, secret, first)) @ rewards(secret)
    over = jax.vmap(jax.vmap(earned, (None, 0)), (0, None))
    table_NxF = over(jnp.arange(ARMS), jnp.arange(ARMS + 1))
    first_F = chances(params)
    first_F = first_F if explores else jax.lax.stop_gradient(first_F)
    return (table_NxF @ first_F).mean()


@functools.partial(jax.jit, static_argnames=("explores", "steps"))
def trained(explores: bool, steps: int, rate: float = 0.1) -> tuple[Any, jax.Array, jax.Array]:
    """The parameters after meta-training, the chance of asking (steps,) and the return (steps,)."""
    tx = optax.adam(rate)

    def one(carry: tuple, _: None):
        params, state = carry
        value, slope = jax.value_and_grad(lambda p: -later(p, explores))(params)
        updates, state = tx.update(slope, state)
        told = chances(params)[ARMS], -value
        return (optax.apply_updates(params, updates), state), told

    params = start()
    # a policy in which all arms are equal is a saddle only for the asking: it can leave it
    (params, _), (asks, earns) = jax.lax.scan(one, (params, tx.init(params)), None, steps)
    return params, asks, earns
