"""Slates for the people of sushi10: what a policy learns from choices, and where it starts.

In each round a person is shown 2 of the 5 kinds on a menu, and takes the one that stands higher in
their own ranking of all ten. A policy is told which one they took, and nothing else; it is judged
by how high that kind stands. So every round is a duel, and a policy that explores shows a kind of
which it knows little beside one that is liked.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.sources import named
from metajax.decide import beliefs, choices, replay
from metajax.decide.environment import Environment, Observation
from metajax.results import records
from metajax.types import PyTree

from .arms import META, META_UCB, ORACLE, OTHERS, POPULAR, RANDOM, SUM, UNSURE, Arm
from .worlds import World

NAME = "sushi10"
SIZE, MENU, PAST = 2, 5, 1_000
"""Kinds of a slate, of a menu, and past people of a seed."""
FLAT, WARM = "flat prior, Thompson", "popularity + flat covariance, UCB"
SHUFFLED = "choices at random"
PRECISIONS, NOISES, WIDTHS = (3.0, 10.0, 30.0), (0.1, 0.3), (0.0, 0.3, 1.0)
NOISE = 0.2
"""Of a choice, where the prior is learned, in units of the ratings, 1 for the best and 0."""


def features(seen: Observation) -> jax.Array:
    """Each kind is its own feature (10, 10): a weight is what it is worth."""
    return jnp.eye(seen.mask.shape[0])


def arms() -> dict[str, Arm]:
    """Every arm, by name; knobs are (a precision, or a choice's noise; a width)."""
    learn = choices.learned_choice

    def of_prior(width_at: float = 1.0, draws: int = 0, learns: bool = True):
        def make(tables, knobs, _):
            believed = beliefs.gaussian(features, tables["mean"], tables["root"])
            taught = learn(features, knobs[0]) if learns else choices.untaught
            return choices.slate(believed, SIZE, width_at * knobs[1], draws=draws, learn=taught)

        return make

    def of_flat(start: str, draws: int):
        def make(tables, knobs, _):
            size = tables["mean"].shape[0]
            mean = tables["mean"] if start == POPULAR else jnp.full(size, 0.5)
            believed = beliefs.gaussian(features, mean, jnp.eye(size) / jnp.sqrt(knobs[0]))
            taught = learn(features, NOISE)
            return choices.slate(believed, SIZE, knobs[1], draws=draws, learn=taught)

        return make

    def still(score):
        return lambda t, k, truth: choices.slate(beliefs.fixed(lambda seen: score(t, truth)), SIZE)

    own = [(n, w) for n in (0.05, 0.1, 0.2, 0.4) for w in WIDTHS]
    flat = [(p, w) for p in (1.0, *PRECISIONS) for w in WIDTHS]
    once, control = [(0.2, 0.0)], records.CONTROL
    return {
        META: Arm(of_prior(draws=1), own, records.METHOD),
        META_UCB: Arm(of_prior(), own, records.METHOD),
        WARM: Arm(of_flat(POPULAR, 0), flat),
        FLAT: Arm(of_flat("", 1), flat),
        POPULAR: Arm(still(lambda t, _: t["mean"]), once),
        RANDOM: Arm(lambda t, k, _: choices.random_slate(SIZE), once),
        ORACLE: Arm(still(lambda _, truth: truth), once),
        SUM: Arm(of_prior(width_at=0.0), once, control, "", META),
        UNSURE: Arm(of_prior(width_at=0.0, learns=False), once, control),
        SHUFFLED: Arm(of_prior(draws=1), once, control, "shuffled", META),
        OTHERS: Arm(of_prior(draws=1), once, control, "others", META),
    }


def _with_choice(environment: Environment, choose) -> Environment:
    """The environment that tells another choice: (slate, its key, params) -> the item."""

    def step(key: jax.Array, state: PyTree, action: jax.Array, params: PyTree):
        seen, after, reward, done, info = environment.step(key, state, action, params)
        told = choose(action, jax.random.fold_in(key, 1), params).astype(jnp.int32)
        after = after._replace(chosen=jnp.where(after.chosen >= 0, told, -1))
        seen = seen._replace(profile={**seen.profile, "chosen": after.chosen})
        return seen, after, reward, done, info

    return environment._replace(step=step)


def controlled(environment: Environment, control: str) -> Environment:
    """The environment under a control: choices at random, or those of the next person.

    The second has pairs of people as params, as `wrappers.of_others`.
    """
    if control == "shuffled":
        return _with_choice(environment, lambda slate, key, _: jax.random.choice(key, slate))
    if control == "others":
        own = Environment(
            lambda key, params: environment.reset(key, params[0]),
            lambda key, state, action, params: environment.step(key, state, action, params[0]),
        )
        likes = lambda slate, key, params: slate[jnp.argmax(params[1].rating[slate])]
        return _with_choice(own, likes)
    return environment


def world(data_dir: pathlib.Path | None, new: int, rounds: int) -> World:
    """The people of sushi10: new ones, and others from whom the prior is learned."""
    everybody = jax.tree.map(np.asarray, replay.sushi(named.data_folder(data_dir)))
    past = everybody.rating[2 * new :]

    def learn(seed: int) -> dict[str, jax.Array]:
        some = past[np.random.default_rng(seed).permutation(len(past))[:PAST]].astype(float)
        values, vectors = np.linalg.eigh(np.cov(some.T))
        root = vectors * np.sqrt(np.maximum(values, 1e-6))
        told = {"mean": some.mean(axis=0), "root": root}
        return {k: jnp.asarray(v, jnp.float32) for k, v in told.items()}

    some = lambda rows: replay.Person(*(jnp.asarray(x[rows]) for x in everybody))
    num_items = everybody.rating.shape[1]
    environment = replay.slates({"item": jnp.arange(num_items)}, SIZE, MENU, rounds)
    unit = "places in the person's own ranking, 1 for the best of ten, 0 for the last"
    truth = lambda person: person.rating
    valid, test = some(slice(new)), some(slice(new, 2 * new))
    return World(NAME, unit, environment, truth, learn, valid, test, arms, controlled)
