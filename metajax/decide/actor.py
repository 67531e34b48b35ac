"""Advantage actor-critic on whole sessions, with two networks of slate features."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.decide.choc_kale import features
from metajax.decide.environment import Environment, Observation, Policy, drawing
from metajax.decide.policy_gradient import actor_critic
from metajax.types import Model, Params, PyTree


def policy(model: Model, params: Params) -> Policy:
    """Softmax of the actor's scores of the actions."""

    def chances(state: PyTree, seen: Observation, key: jax.Array) -> jax.Array:
        score = model.apply(params["actor"], (), features(seen))
        return jax.nn.softmax(jnp.where(seen.mask > 0, score, -jnp.inf))

    return drawing(lambda key, seen: (), chances, lambda state, decision, key: state)


def session(
    environment: Environment, actor: Policy, sample: Any, key: jax.Array, horizon: int
) -> tuple[Observation, jax.Array, jax.Array]:
    """One session of a new person: what was seen, done and earned, leaves (horizon, ...)."""
    key_person, key_reset, key_rounds = jax.random.split(key, 3)
    person = sample(key_person)

    def one(carry: Any, key: jax.Array):
        seen, state = carry
        key_act, key_step = jax.random.split(key)
        action, _ = actor.act((), seen, key_act)
        later, after, reward, _, _ = environment.step(key_step, state, action, person)
        return (later, after), (seen, action, reward)

    begun = environment.reset(key_reset, person)
    return jax.lax.scan(one, begun, jax.random.split(key_rounds, horizon))[1]


def train(
    environment: Environment,
    model: Model,
    sample: Any,
    key: jax.Array,
    sessions: int,
    horizon: int,
    discount: float = 0.99,
    people: int = 16,
    rate: float = 3e-3,
    entropy: float = 0.01,
    scale: float = 0.1,
    deal: Callable[[PyTree], PyTree] = lambda rows: rows,
) -> tuple[Params, jax.Array]:
    """Learned parameters {"actor", "critic"}, and the mean reward (sessions,) while learning.

    Each step plays one session with each of ``people``, and takes one gradient on all of them.

    Args:
      entropy: weight of the policy's entropy; scale: of rewards.
      deal: what is done to the keys of a step's people, such as `training.devices.split_over`.
    """
    key_init, key_run = jax.random.split(key)
    seen, _ = environment.reset(key_init, sample(key_init))
    told = features(seen)
    critic_sees = lambda seen: jnp.stack([seen.profile["satisfaction"], seen.profile["left"]])[None]
    params = {
        "actor": model.init(key_init, (), told),
        "critic": model.init(jax.random.fold_in(key_init, 1), (), critic_sees(seen)),
    }
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))

    def loss(params: Params, keys: jax.Array):
        def of_one(key: jax.Array):
            told = session(environment, policy(model, params), sample, key, horizon)
            seen, action, reward = jax.lax.stop_gradient(told)
            scores = jax.vmap(lambda s: model.apply(params["actor"], (), features(s)))(seen)
            value = jax.vmap(lambda s: model.apply(params["critic"], (), critic_sees(s))[0])(seen)
            parts = actor_critic(jax.nn.softmax(scores), action, value, scale * reward, discount)
            return parts, reward.mean()

        parts, reward = jax.vmap(of_one)(keys)
        total = -parts.actor + 0.5 * parts.critic - entropy * parts.entropy
        return total.mean(), reward.mean()

    def step(carry: Any, key: jax.Array):
        params, opt = carry
        grads, reward = jax.grad(loss, has_aux=True)(params, deal(jax.random.split(key, people)))
        updates, opt = tx.update(grads, opt)
        return (optax.apply_updates(params, updates), opt), reward

    keys = jax.random.split(key_run, sessions)
    (params, _), curve = jax.lax.scan(step, (params, tx.init(params)), keys)
    return params, curve
