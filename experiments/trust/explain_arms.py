"""The learners whose scores are explained, and one whose attention can be looked at."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import benchmark, losses
from metajax.benchmark import baselines
from metajax.data.worlds.causes import Interests
from metajax.learners.closed_form import ridge
from metajax.learners.gradient.maml import gradient
from metajax.learners.parts import query_loss
from metajax.models.towers import factor_mlp, identity, stored_mean, vector_linear, vector_mlp
from metajax.training import loop
from metajax.training.devices import check_even, on_devices
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

RIDGE, MAML, ATTENTION = "ridge", "MAML", "attention"
INNER = optax.chain(optax.clip(10.0), optax.sgd(0.1))
OUTER_RATE = 3e-3
WORLD_BATCH = 32
"""Tasks of an outer step in the world."""


class Looked(NamedTuple):
    """A task's own sums of an attention over its examples.

    Attributes:
      key: (H,) sum of the keys; value: (H,) sum of the keys times what the offset leaves.
      profile: the task's profile.
    """

    key: jax.Array
    value: jax.Array
    profile: PyTree


class Attentive(NamedTuple):
    """A learner with attention over its support, and its weights.

    Attributes:
      weights: (params, episode) -> (N, Q), how much each query row looks at each support row.
    """

    learner: MetaLearner
    weights: Callable[[Params, Episode], jax.Array]


def attentive(features: Callable[[Any], jax.Array], offset: Model, width: int = 48) -> Attentive:
    """Attention over the support's residuals: ``score = offset(x) + sum_n a_n (label - offset)_n``.

    ``a_n = q . k_n / (c + sum_m q . k_m)`` with ``q, k >= 0`` of ``width`` numbers, so that sums
    over the support are all that a state holds. The damping c is learned: a cold person scores the
    offset.

    References: Katharopoulos et al., "Transformers are RNNs", ICML 2020; Kim et al., "Attentive
    neural processes", ICLR 2019.
    """

    def positive(layer: Mapping[str, jax.Array], inputs: Any) -> jax.Array:
        return jax.nn.softplus(features(inputs) @ layer["kernel"] + layer["bias"][None, :])

    def init(key: jax.Array, episode: Episode) -> PyTree:
        inputs = episode.support.inputs
        rows = features(inputs).shape[1]
        key_offset, *keys = jax.random.split(key, 3)
        draw = lambda k: {
            "kernel": 2.0 * jax.random.normal(k, (rows, width)) / rows**0.5,
            "bias": jnp.zeros(width),
        }
        own = {name: draw(k) for name, k in zip(("query", "key"), keys, strict=True)}
        own["offset"] = offset.init(key_offset, episode.profile, inputs)
        return own | {"log_damping": jnp.log(jnp.asarray(2.0 * width))}

    def start(params: PyTree, profile: PyTree) -> Looked:
        return Looked(jnp.zeros(width), jnp.zeros(width), profile)

    def adapt(params: PyTree, state: Looked, examples: Examples, key: jax.Array) -> Looked:
        base = offset.apply(params["offset"], state.profile, examples.inputs)
        residual = jnp.where(examples.mask > 0, examples.label - base, 0.0)
        keys_NxH = positive(params["key"], examples.inputs)
        keys_NxH = jnp.where(examples.mask[:, None] > 0, examples.mask[:, None] * keys_NxH, 0.0)
        return state._replace(
            key=state.key + keys_NxH.sum(0), value=state.value + residual @ keys_NxH
        )

    def predict(params: PyTree, state: Looked, inputs: PyTree) -> jax.Array:
        looks_QxH = positive(params["query"], inputs)
        total = jnp.exp(params["log_damping"]) + looks_QxH @ state.key
        return (
            offset.apply(params["offset"], state.profile, inputs) + looks_QxH @ state.value / total
        )

    def weights(params: PyTree, episode: Episode) -> jax.Array:
        keys_NxH = positive(params["key"], episode.support.inputs) * episode.support.mask[:, None]
        match_NxQ = keys_NxH @ positive(params["query"], episode.query.inputs).T
        return match_NxQ / (jnp.exp(params["log_damping"]) + match_NxQ.sum(0))[None, :]

    loss = query_loss(start, adapt, predict, losses.squared_error)
    return Attentive(MetaLearner(init, start, adapt, predict, loss), weights)


class Explained(NamedTuple):
    """A trained learner to explain.

    Attributes:
      learner, params: of one seed.
      settings: what was chosen for it on meta-validation.
      weights: its attention, see `Attentive`; None for a learner that has none.
      random: parameters of the same learner that were not trained.
      closed: whether ``adapt`` is a ridge regression.
    """

    learner: MetaLearner
    params: Params
    settings: dict[str, Any]
    random: Params
    weights: Callable[[Params, Episode], jax.Array] | None = None
    closed: bool = False


def item_vector(inputs: Mapping[str, jax.Array]) -> jax.Array:
    """The stored factors of items, each of variance 1, with their biases (N, D + 1)."""
    factor = inputs["factor"]
    return jnp.concatenate([factor.shape[1] ** 0.5 * factor, inputs["bias"][:, None]], axis=1)


def of_log(problem: benchmark.Problem, config: Any, folder: Any) -> dict[str, Explained]:
    """The learners of a log, trained; a run that was stopped goes on from its folder."""
    check_even(config.training.devices, WORLD_BATCH)  # of the training that comes afterwards
    attention = attentive(item_vector, stored_mean(problem.mean))
    maml = gradient(factor_mlp(problem.mean, (32, 32)), INNER, 3)
    fold_in, grid = benchmark.fold_in_learner(problem)
    trained = {RIDGE: baselines.closed_form_arm(fold_in, problem, grid)}
    for name, learner in ((MAML, maml), (ATTENTION, attention.learner)):
        tx = optax.adam(OUTER_RATE)
        trained[name] = baselines.trained_arm(name, learner, tx, problem, config.training, folder)
    return {
        name: Explained(
            arm.learner,
            jax.tree.map(lambda x: x[0], arm.params),
            arm.settings,
            arm.learner.init(jax.random.key(99), problem.example),
            attention.weights if name == ATTENTION else None,
            name == RIDGE,
        )
        for name, arm in trained.items()
    }


def of_world(world: Interests, num_steps: int, devices: int = 1) -> dict[str, Explained]:
    """The learners of the world with planted causes, trained on tasks drawn from it."""
    width = world.num_interests * world.dim
    attention = attentive(lambda x: world.dim**0.5 * x, vector_linear())
    learners = {
        RIDGE: ridge(identity(), vector_linear(), width),
        MAML: gradient(vector_mlp((32, 32)), INNER, 3),
        ATTENTION: attention.learner,
    }
    example, found = world.sample(jax.random.key(0)), {}
    for name, learner in learners.items():
        fitted = loop.fit(
            on_devices(devices, loop.recipe(learner, optax.adam(OUTER_RATE))),
            loop.world_sampler(world, WORLD_BATCH),
            (),
            jax.random.split(jax.random.key(1), 1),
            num_steps,
            title=f"{name}, world",
        )
        params = jax.tree.map(lambda x: x[0], fitted.params)
        weights = attention.weights if name == ATTENTION else None
        random = learner.init(jax.random.key(99), example)
        told = {"num_steps": num_steps}
        found[name] = Explained(learner, params, told, random, weights, name == RIDGE)
    return found
