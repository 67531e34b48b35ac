"""The two worlds of bandits, and what past users have taught before a new one comes."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.data.features import factors
from metajax.data.sources import named
from metajax.decide import policies, priors, replay
from metajax.decide.click_users import ClickUsers
from metajax.decide.environment import Environment, play
from metajax.learners.pooled import pooled
from metajax.models.towers import vector_mlp
from metajax.training import loop
from metajax.training.devices import on_devices
from metajax.types import Episode, Examples, PyTree

DIM, RICH = 12, 20
"""Factors of an item on replayed people: of flat priors, and of the meta-learned one."""
HIDDEN = 32
"""Width of the network of neural-linear."""


class Tables(NamedTuple):
    """What past users teach, as tables over the V items; a policy looks up those that it is shown.

    Attributes:
      popular: (V,) mean reward of an item.
      plain: (V, E) features without a prior: vectors, or factors of alternating least squares.
      hidden: (V, H) last hidden layer of a network trained on all users, head: (H,) its weights.
      rich: (V, D) features of the meta-learned prior, offset: (V,) what they are added to.
      mean, root: (D,), (D, D), the prior, see `beliefs.gaussian`.
      noise: () standard deviation of a reward about a user's own model.
    """

    popular: jax.Array
    plain: jax.Array
    hidden: jax.Array
    head: jax.Array
    rich: jax.Array
    offset: jax.Array
    mean: jax.Array
    root: jax.Array
    noise: jax.Array


class Past(NamedTuple):
    """What past users were shown and said: leaves (U, N)."""

    item: np.ndarray
    reward: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class World:
    """A world of new users.

    Attributes:
      name: of the world; unit: of a reward.
      environment: of one user.
      truth: params of a user -> (V,) the expected reward of every item, for the oracle alone.
      learn: seed -> what past users teach, `Tables` or a tree of the world's own.
      valid, test: params of new users, leaves (U, ...).
      arms: () -> the world's own policies by name; None for those of `arms`.
      controlled: (environment, control) -> the environment under it; None for `bandit.changed`.
    """

    name: str
    unit: str
    environment: Environment
    truth: Callable[[PyTree], jax.Array]
    learn: Callable[[int], Any]
    valid: PyTree
    test: PyTree
    arms: Callable[[], dict[str, Any]] | None = None
    controlled: Callable[[Environment, str], Environment] | None = None


def item_means(past: Past, num_items: int, damping: float = 5.0) -> np.ndarray:
    """The mean reward (V,) of each item, drawn to the mean of all by ``damping`` rewards."""
    weight = np.asarray(past.mask, float).ravel()
    item = np.asarray(past.item).ravel()
    total = np.bincount(item, weight * np.asarray(past.reward, float).ravel(), num_items)
    count = np.bincount(item, weight, num_items)
    middle = total.sum() / count.sum()
    return (total + damping * middle) / (count + damping)


def network(
    plain: np.ndarray, past: Past, seed: int, devices: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The last hidden layer (V, H + 1), and the head, of an MLP trained on all past users."""
    model = vector_mlp((HIDDEN,))
    known = tuple(map(jnp.asarray, (past.item, past.reward, past.mask)))
    table = jnp.asarray(plain, jnp.float32)

    def batch(data: PyTree, key: jax.Array) -> Episode:
        item, reward, mask = data
        users = jax.random.randint(key, (32,), 0, item.shape[0])
        inputs, half = table[item[users]], item.shape[1] // 2
        cut = lambda part: Examples(inputs[:, part], reward[users][:, part], mask[users][:, part])
        return Episode((), cut(slice(half)), cut(slice(half, None)))

    recipe = on_devices(devices, loop.recipe(pooled(model), optax.adam(3e-3)))
    fitted = loop.fit(recipe, batch, known, jax.random.key(seed)[None], num_steps=400)
    params = jax.tree.map(lambda x: x[0], fitted.params)["model"]
    head = params["head"]
    at = lambda kernel: model.apply(
        {**params, "head": {"kernel": kernel[:, None], "bias": jnp.zeros(1)}}, (), table
    )
    layer = jax.vmap(at, out_axes=1)(jnp.eye(HIDDEN))
    ones = np.ones((len(plain), 1))
    weights = np.concatenate([head["bias"], head["kernel"][:, 0]])
    return np.concatenate([ones, np.asarray(layer)], axis=1), weights


def tables_of(
    past: Past,
    plain: np.ndarray,
    rich: np.ndarray,
    offset: np.ndarray,
    prior: priors.Prior,
    trained: tuple[np.ndarray, np.ndarray],
) -> Tables:
    """The tables, with what `network` has trained and the prior in units of the noise."""
    hidden, head = trained
    root = np.linalg.cholesky(np.asarray(prior.covariance, float) / float(prior.noise))
    popular = item_means(past, len(plain))
    told = (popular, plain, hidden, head, rich, offset, prior.mean, root, float(prior.noise) ** 0.5)
    return Tables(*(jnp.asarray(x, jnp.float32) for x in told))


def with_constant(x: np.ndarray) -> np.ndarray:
    """The features (V, 1 + D) with a 1 first, the others with mean squared length 1."""
    scale = np.sqrt((x**2).sum(axis=1).mean())
    return np.concatenate([np.ones((len(x), 1)), x / scale], axis=1)


def clicks(past_users: int, shown: int, new: int, rounds: int, devices: int = 1) -> World:
    """`ClickUsers`: past users were shown random items, ``shown`` each."""
    world = ClickUsers(horizon=max(shown, rounds))
    environment = world.environment()
    people = lambda seed, count: jax.vmap(world.sample)(
        jax.random.split(jax.random.key(seed), count)
    )

    def learn(seed: int) -> Tables:
        key = jax.random.key(1_000 + seed)
        run = lambda w, k: play(environment, policies.at_random(), w, k, shown)
        log = jax.jit(jax.vmap(run))(
            people(2_000 + seed, past_users), jax.random.split(key, past_users)
        )
        past = Past(*map(np.asarray, (log.info["item"], log.reward, log.mask)))
        rich = with_constant(np.asarray(world.vectors))
        x = jnp.asarray(rich, jnp.float32)[log.info["item"]]
        prior = jax.jit(priors.learned_prior)(x, log.reward, log.mask)
        trained = network(rich, past, seed, devices)
        return tables_of(past, rich, rich, np.zeros(len(rich)), prior, trained)

    truth = lambda w: world.chance(world.vectors, w)
    return World("clicks", "clicks", environment, truth, learn, people(1, new), people(2, new))


def jokes(data_dir: pathlib.Path | None, new: int, rounds: int, devices: int = 1) -> World:
    """jester5k: new people have rated all jokes; everybody else has taught."""
    table = named.load_named("jester5k", data_dir)
    everybody = jax.tree.map(np.asarray, replay.people(table))
    whole = np.flatnonzero(everybody.known.all(axis=1))
    order = np.random.default_rng(17).permutation(whole)
    valid, test = order[:new], order[new : 2 * new]
    past = np.setdiff1d(np.arange(table.num_users), order[: 2 * new])
    num_items = table.num_items

    def learn(seed: int) -> Tables:
        user, item = np.nonzero(everybody.known[past])
        reward = everybody.rating[past][user, item]
        told = Past(
            np.tile(np.arange(num_items), (len(past), 1)), everybody.rating[past],
            everybody.known[past],
        )  # fmt: skip
        offset = item_means(told, num_items)
        left, shape = reward - offset[item], (len(past), num_items)
        found = factors.als(user, item, left, shape, dim=DIM, seed=seed)
        deep = factors.hierarchical_bayes(user, item, left, shape, dim=RICH, seed=seed)
        rich = np.concatenate([np.ones((num_items, 1)), deep.item], axis=1)
        prior = priors.Prior(*map(jnp.asarray, (deep.mean, deep.covariance, deep.noise)))
        plain = with_constant(found.item)
        trained = network(plain, told, seed, devices)
        return tables_of(told, plain, rich, offset, prior, trained)

    some = lambda rows: replay.Person(*(jnp.asarray(x[rows]) for x in everybody))
    environment = replay.replay({"item": jnp.arange(num_items)}, rounds)
    truth = lambda person: person.rating
    return World("jester5k", "rating points", environment, truth, learn, some(valid), some(test))
