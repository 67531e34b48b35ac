"""Attacks on a rating learner: lying supports, moved item factors, hostile users in training."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax import losses
from metajax.data import episodes
from metajax.data.worlds.domains import TwoDomains
from metajax.evaluation import evaluate
from metajax.evaluation.evaluate import Alteration
from metajax.learners.closed_form import ridge
from metajax.models.towers import vector_linear
from metajax.training import loop
from metajax.training.devices import on_devices
from metajax.transforms import adversarial
from metajax.transforms.adversarial import Direction
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree

SCALE = (1.0, 5.0)
HOSTILE = ("honest", "random", "bandwagon", "mirrored")
"""Kinds of hostile users in meta-training, by number."""


def mirrored(label: jax.Array) -> jax.Array:
    """The opposite rating: 1 for 5."""
    return SCALE[0] + SCALE[1] - label


def lies(share: float | jax.Array) -> Alteration:
    """An alteration: so many of a person's ratings, at random, are the opposite of the truth."""

    def alter(key: jax.Array, episode: Episode) -> Episode:
        support = episode.support
        real = support.mask > 0
        order = jnp.argsort(jnp.where(real, jax.random.uniform(key, real.shape), jnp.inf))
        place = jnp.zeros(len(real)).at[order].set(jnp.arange(len(real), dtype=float))
        told = place < jnp.round(share * jnp.sum(real))
        label = jnp.where(told & real, mirrored(support.label), support.label)
        return episode._replace(support=support._replace(label=label))

    return alter


def noise_of(alter: Alteration) -> Alteration:
    """The control: random noise on all ratings, of the length of what the alteration did."""

    def noisy(key: jax.Array, episode: Episode) -> Episode:
        key_alter, key_noise = jax.random.split(key)
        support = episode.support
        gap = (alter(key_alter, episode).support.label - support.label) * support.mask
        draw = jax.random.normal(key_noise, gap.shape) * support.mask
        draw = draw * jnp.sqrt(jnp.sum(gap**2) / jnp.maximum(jnp.sum(draw**2), 1e-12))
        return episode._replace(support=support._replace(label=support.label + draw))

    return noisy


def trained_on_lies(learner: MetaLearner, share: float, most: float) -> MetaLearner:
    """The learner, meta-trained on tasks of which a share has up to ``most`` of lies."""

    def loss(params: Params, episode: Episode, key: jax.Array):
        key_who, key_most, key_lies, key_own = jax.random.split(key, 4)
        liar = jax.random.uniform(key_who) < share
        amount = most * jax.random.uniform(key_most) * liar
        return learner.loss(params, lies(amount)(key_lies, episode), key_own)

    return learner._replace(loss=loss)


def factors(inputs: Mapping[str, jax.Array]) -> jax.Array:
    """The stored factors (N, D) of items, what an attack on embeddings moves."""
    return inputs["factor"]


def with_factors(inputs: Mapping[str, jax.Array], x_NxD: jax.Array) -> dict[str, jax.Array]:
    """The inputs with these factors."""
    return {**inputs, "factor": x_NxD}


def on_support(
    learner: MetaLearner, params: Params, size: float, direction: Direction, num_steps: int = 1
) -> Alteration:
    """A white-box attack: the factors of rated items are moved to raise the loss on the query."""

    def alter(key: jax.Array, episode: Episode) -> Episode:
        support = episode.support
        given = lambda x: support._replace(inputs=with_factors(support.inputs, x))
        worse = lambda x: learner.loss(params, episode._replace(support=given(x)), key)[0]
        moved = adversarial.perturbed(
            worse, factors(support.inputs), size, key, direction=direction, num_steps=num_steps
        )
        return episode._replace(support=given(moved))

    return alter


def on_query(
    learner: MetaLearner,
    params: Params,
    size: float | jax.Array,
    direction: Direction,
    num_steps: int = 1,
) -> evaluate.Measure:
    """A measure: scores (Q,) with the factors of asked items moved to raise the squared error."""

    def measure(state: PyTree, episode: Episode) -> jax.Array:
        query = episode.query
        scores = lambda x: learner.predict(params, state, with_factors(query.inputs, x))
        error = lambda x: losses.squared_error(scores(x), query.label, query.mask)
        moved = adversarial.perturbed(
            error, factors(query.inputs), size, jax.random.key(3), direction=direction,
            num_steps=num_steps,
        )  # fmt: skip
        return scores(moved)

    return measure


def hostile_sampler(problem: Any, training: Any) -> loop.Sampler:
    """Batches of which about ``data[3]`` are hostile users, of the kind in ``data[1]``: `HOSTILE`.

    Random and bandwagon users rate random items around the mean, bandwagon users 8 popular items
    with 5; both give item ``data[2]`` a 5, which is in their support and in their query. Mirrored
    users are people who say the opposite of what they think throughout.

    References: Lam and Riedl, "Shilling recommender systems for fun and profit", WWW 2004; Mobasher
    et al., "Toward trustworthy recommender systems", ACM TOIT 2007.
    """
    draw = functools.partial(
        episodes.draw, num_support=training.num_support, num_query=problem.split.num_query
    )
    num_items = problem.table.num_items
    popular = jnp.argsort(-jnp.asarray(problem.table.item_features.columns["count"]))[:50]

    def fake(key: jax.Array, source: Any, kind: jax.Array, target: jax.Array) -> Episode:
        key_item, key_label, key_pop, key_user = jax.random.split(key, 4)
        n, q = training.num_support, problem.split.num_query
        item = jax.random.randint(key_item, (n + q,), 0, num_items)
        label = jnp.clip(jnp.round(3.6 + 1.1 * jax.random.normal(key_label, (n + q,))), *SCALE)
        band = (jnp.arange(n + q) % 8 == 1) & (kind == HOSTILE.index("bandwagon"))
        item = jnp.where(band, jax.random.choice(key_pop, popular, (n + q,)), item)
        label = jnp.where(band, SCALE[1], label)
        push = (jnp.arange(n + q) == 0) | (jnp.arange(n + q) == n)
        item, label = jnp.where(push, target, item), jnp.where(push, SCALE[1], label)
        rows = Examples(item.astype(jnp.int32), label, jnp.ones(n + q))
        user = jax.random.randint(key_user, (), 0, source.tasks.owner.shape[0])
        parts = (jax.tree.map(lambda x, p=p: x[p], rows) for p in (slice(n), slice(n, n + q)))
        return episodes.fetch(Episode(source.tasks.owner[user], *parts), source)

    def one(key: jax.Array, data: Any) -> Episode:
        source, kind, target, share = data
        key_real, key_fake, key_who = jax.random.split(key, 3)
        real = draw(key_real, source)
        liar = lambda e: e._replace(label=mirrored(e.label))
        other = real._replace(support=liar(real.support), query=liar(real.query))
        bad = jax.random.uniform(key_who) < share * (kind > 0)
        shills = (kind == 1) | (kind == 2)
        made = fake(key_fake, source, kind, target)
        choose = lambda a, b: jax.tree.map(lambda x, y: jnp.where(bad & shills, x, y), a, b)
        real = choose(made, real)
        opposite = lambda a, b: jax.tree.map(lambda x, y: jnp.where(bad & (kind == 3), x, y), a, b)
        return opposite(other, real)

    return loop.sampler(one, training.num_tasks)


def domain_arms(num_steps: int, people: int, devices: int = 1) -> dict[str, dict[str, jax.Array]]:
    """Arm -> metric -> (1, T) of new users of `TwoDomains`: "mse", and two classifiers' accuracy.

    "along" is the classifier that was trained along with the features, against whom they were.

    "domain" is linear and fitted afterwards to the features of other new users
    by least squares, so that no arm can win by a classifier that was trained badly.
    """
    from metajax.models.features import vector_features

    world = TwoDomains()
    embed = vector_features((24, 8))
    plain = ridge(embed, vector_linear(), 8)
    own = lambda params, profile, x: embed.apply(params["embed"], profile, x)
    strengths = {"no reversal": 0.0, "reversal": 1.0, "reversal, sign flipped": -1.0}
    keys = jax.vmap(jax.random.key)(jnp.arange(10_000, 10_000 + 2 * people))
    fit, test = (jax.vmap(world.sample)(k) for k in (keys[:people], keys[people:]))
    found = {}
    for name, strength in strengths.items():
        learner = adversarial.domain_adversarial(plain, own, 8, strength)
        recipe = on_devices(devices, loop.recipe(learner, optax.adam(3e-3)))
        fitted = loop.fit(
            recipe, loop.world_sampler(world, 32), (), jax.random.key(1)[None], num_steps
        )
        params = jax.tree.map(lambda x: x[0], fitted.params)
        scores = evaluate.predictions(learner, params, test, jax.random.key(0))
        mse = jnp.mean((scores - test.query.label) ** 2, axis=1)
        x_fit, side_fit = _sides(own, params["learner"], fit)
        x_test, side_test = _sides(own, params["learner"], test)
        flat = x_fit.reshape(-1, x_fit.shape[-1])
        slope = jnp.linalg.lstsq(flat, side_fit.reshape(-1))[0]
        right = jnp.mean((x_test @ slope > 0) == (side_test > 0), axis=1)
        _, info = jax.vmap(learner.loss, (None, 0, None))(params, test, jax.random.key(0))
        along = info["domain_accuracy"]
        found[name] = {"mse": mse[None], "along": along[None], "domain": right[None]}
    bayes = jax.vmap(world.bayes)(test)
    found["Bayes"] = {"mse": jnp.mean((bayes - test.query.label) ** 2, axis=1)[None]}
    return found


def _sides(own: Callable, params: Params, tasks: Episode) -> tuple[jax.Array, jax.Array]:
    """Features with a constant (T, N, D + 1), and -1 or 1 for the side (T, N)."""

    def one(episode: Episode):
        rows = [own(params, (), e.inputs) for e in (episode.support, episode.query)]
        x = jnp.concatenate(rows)
        side = jnp.concatenate(
            [jnp.full(len(r), s) for r, s in zip(rows, (-1.0, 1.0), strict=True)]
        )
        return jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1), side

    return jax.vmap(one)(tasks)
