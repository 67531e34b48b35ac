"""Ways in which a person adapts the pretrained model, and ways to train where they start from."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from metajax import optim, tree
from metajax.adapters.conditions import soft_prompt
from metajax.adapters.lora import lora
from metajax.benchmark import belief
from metajax.benchmark.baselines import sampler, state_bytes
from metajax.benchmark.problem import Problem
from metajax.data import episodes
from metajax.evaluation import evaluate, ordinal
from metajax.learners import pooled
from metajax.learners.gradient.maml import gradient
from metajax.models.transformer import Shape
from metajax.settings import Training
from metajax.training import loop
from metajax.training.devices import on_devices, split_by_compiler
from metajax.training.outer_gradient import GradientFn, outer_gradient
from metajax.training.updates import optimizer
from metajax.transforms.reptile import reptile
from metajax.types import Episode, MetaLearner, Model, Params, PyTree

from ..adapt_large.parts import clipped
from .frozen import Frozen, tail

LAST, PROMPT, LORA = "last layer", "soft prompt", "LoRA"
TUNED, REPTILE, FIRST, SECOND = "fine-tuned", "Reptile", "first order", "second order"
KERNELS = tree.matching(r"attention/(query|output)/kernel$")
RATES, MOST_STEPS = (0.03, 0.1, 0.3, 1.0), 6  # of fine-tuning, tried on validation people
AT_ONCE = 8  # people judged at a time

Make = Callable[[Frozen], MetaLearner]
"""What all people share -> the learner. It is an argument of each program, and no constant in it.
"""


class Way(NamedTuple):
    """An arm that is trained.

    Attributes:
      make: see `Make`.
      params: of one seed, what was trained: where people start from.
      shared: with the titles of other items in the control.
      settings: what was chosen on validation people.
      seconds: of training and choosing.
    """

    make: Make
    params: Params
    shared: Frozen
    settings: dict[str, Any]
    seconds: float


def given(model: Model, base: Params) -> Model:
    """An adapter's model whose ``base`` is not among its parameters: it is neither trained nor
    stored, and no gradient of it is formed."""

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        made = model.init(key, profile, inputs)
        return {name: value for name, value in made.items() if name != "base"}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        return model.apply({**params, "base": base}, profile, inputs)

    return Model(init, apply)


def of_person(kind: str, rank: int, shape: Shape, mean: float, shared: Frozen) -> Model:
    """The scores ``mean + item bias + features' w + b``; a person has w, b and an adapter.

    Args:
      kind: `LAST` (w and b alone), `PROMPT` or `LORA`.
      rank: of LoRA.
    """
    base = tail(shape, shared)
    if kind == LAST:
        features = Model(
            lambda key, profile, inputs: {},
            lambda params, profile, inputs: shared.plain[shared.order[inputs["item"]]],
        )
    elif kind == PROMPT:
        wrapped = soft_prompt(base, shape, shared.prompt.shape[0], scale=0.0)
        features = given(wrapped, {"blocks": shared.blocks})
    else:
        features = given(lora(base, rank, KERNELS), {"blocks": shared.blocks})

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        head = {"kernel": jnp.zeros(shape.width), "bias": jnp.zeros(())}
        return {"features": features.init(key, profile, inputs), "head": head}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        found, head = features.apply(params["features"], profile, inputs), params["head"]
        return mean + inputs["bias"] + found @ head["kernel"] + head["bias"]

    return Model(init, apply)


def learner_of(config: Any, kind: str, how: str, shape: Shape, mean: float) -> Make:
    """The learner of a way to adapt and a way to train."""

    def make(shared: Frozen) -> MetaLearner:
        model = of_person(kind, config.rank, shape, mean, shared)
        rates, steps = clipped(optim.learned_rates(config.inner_rate)), config.inner_steps
        if how in (FIRST, SECOND):
            return gradient(model, rates, steps, second_order=how == SECOND)
        plain = optax.chain(optax.clip(1.0), optax.sgd(config.inner_rate))
        if how == REPTILE:
            return reptile(gradient(model, plain, steps))
        return pooled.fine_tuned(model, plain, steps)

    return make


def trained(
    config: Any, name: str, make: Make, problem: Problem, shared: Frozen
) -> tuple[Params, float]:
    """The parameters after training, of one seed, and seconds."""
    began = time.perf_counter()
    training = Training(num_tasks=config.num_tasks, num_support=config.num_support)
    draw = sampler(problem, training)
    first = lambda tasks: jax.tree.map(lambda x: x[0], tasks)
    rate = optax.cosine_decay_schedule(config.outer_rate, config.num_steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    recipe = loop.Recipe(
        lambda key, batch: make(batch[1]).init(key, first(batch[0])),
        lambda params, batch, key: outer_gradient(make(batch[1]))(params, batch[0], key),
        optimizer(tx),
    )
    recipe = on_devices(config.hardware.devices, recipe, split_by_people)
    folder = config.output.out
    found = loop.fit(
        recipe,
        lambda data, key: (draw(data[0], key), data[1]),
        (problem.train, shared),
        jax.random.split(jax.random.key(1), 1),
        config.num_steps,
        title=name,
        block=max(1, config.num_steps // 4),
        checkpoint=folder and folder / "checkpoints" / name.replace(" ", "-").replace(",", ""),
    )
    params = jax.tree.map(lambda x: x[0], found.params)
    return params, max(found.seconds, time.perf_counter() - began)


def split_by_people(mesh: Mesh, gradient_fn: GradientFn) -> GradientFn:
    """The gradient of a batch whose people are dealt over the devices; each has all they share."""

    def gradient(params: Params, batch: Any, key: jax.Array):
        of_people = lambda params, tasks, key: gradient_fn(params, (tasks, batch[1]), key)
        return split_by_compiler(mesh, of_people)(params, batch[0], key)

    return gradient


def tuned(
    make: Callable[[Frozen, float | jax.Array, int], MetaLearner],
    params: Params,
    problem: Problem,
    shared: Frozen,
    people: int,
) -> dict[str, Any]:
    """The rate and number of steps of fine-tuning that are best on some validation people."""
    source, tasks = problem.valid
    tasks = jax.tree.map(lambda x: x[:people], tasks)

    @jax.jit
    def errors(params: Params, shared: Frozen, source: episodes.Source, rate: jax.Array):
        learner = make(shared, rate, 1)

        def error(state: PyTree, episode: Episode) -> jax.Array:
            scores = learner.predict(params, state, episode.query.inputs)
            return jnp.mean((scores - episode.query.label) ** 2)

        found = evaluate.while_adapting(
            learner, params, tasks, jax.random.key(0), error, MOST_STEPS,
            fetch=episodes.fetch_from(source), batch_size=AT_ONCE,
        )  # fmt: skip
        return found.mean(axis=0)[1:]

    grid = np.stack([np.asarray(errors(params, shared, source, jnp.float32(r))) for r in RATES])
    grid = np.where(np.isfinite(grid), grid, np.inf)
    row, column = np.unravel_index(np.argmin(grid), grid.shape)
    about = {"rate": RATES[row], "steps": int(column) + 1, "valid": float(grid[row, column])}
    return about | {"trials": int(grid.size)}


def built(
    config: Any, kind: str, how: str, shape: Shape, problem: Problem, shared: Frozen, name: str
) -> Way:
    """An arm, trained; what is fine-tuned has its rate and steps chosen on validation people."""
    began = time.perf_counter()
    make = learner_of(config, kind, how, shape, problem.mean)
    params, seconds = trained(config, name, make, problem, shared)
    settings: dict[str, Any] = {"inner_steps": config.inner_steps}
    if how in (TUNED, REPTILE):

        def at(shared: Frozen, rate: float | jax.Array, steps: int) -> MetaLearner:
            model = of_person(kind, config.rank, shape, problem.mean, shared)
            return pooled.fine_tuned(model, optax.chain(optax.clip(1.0), optax.sgd(rate)), steps)

        # Clipping and descent keep nothing between steps, and the rate was no parameter.
        settings = tuned(at, params, problem, shared, config.valid_people)
        make = functools.partial(at, rate=settings["rate"], steps=settings["steps"])
    return Way(make, params, shared, settings, max(seconds, time.perf_counter() - began))


def judged(
    way: Way, source: episodes.Source, tasks: Episode, shots: Sequence[int]
) -> dict[str, np.ndarray]:
    """Metric -> (K + 1, T) of the people after each number of ratings; last, after all, shuffled.

    Shuffled labels are a person's own in another order. Under ``scores`` are the scores (K + 1, T,
    Q) that the metrics are of.
    """

    @jax.jit
    def run(params: Params, shared: Frozen, source: episodes.Source, tasks: Episode):
        learner, fetch = way.make(shared), episodes.fetch_from(source)

        def at(given: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
            count, mixed = given

            def alter(key: jax.Array, episode: Episode) -> Episode:
                cut = evaluate.first_shots(count)(key, episode)
                return evaluate.when(mixed, evaluate.shuffled_labels)(key, cut)

            scores = evaluate.predictions(
                learner, params, tasks, jax.random.key(3),
                fetch=fetch, alter=alter, batch_size=AT_ONCE,
            )  # fmt: skip
            found = evaluate.rating_metrics(scores, tasks, jax.random.key(4))
            return found | {"scores": scores}

        counts = jnp.asarray([*shots, max(shots)])
        return jax.lax.map(at, (counts, jnp.arange(len(shots) + 1) == len(shots)))

    return {k: np.asarray(v) for k, v in run(way.params, way.shared, source, tasks).items()}


def links_of(found: Mapping[str, Way], problem: Problem, people: int) -> dict[str, ordinal.Link]:
    """Way -> its ordinal link, leaves (1, ...), fitted on some validation people."""
    (source, tasks), levels = problem.valid, belief.levels_of(problem)
    if levels is None:
        return {}
    tasks = jax.tree.map(lambda x: x[:people], tasks)
    query, ratings = tasks.query, jnp.asarray(levels)

    def link_of(way: Way) -> ordinal.Link:
        def fit(params: Params, shared: Frozen, source: episodes.Source) -> ordinal.Link:
            told: Any = {"fetch": episodes.fetch_from(source), "batch_size": AT_ONCE}
            learner, key = way.make(shared), jax.random.key(3)
            scores = evaluate.predictions(learner, params, tasks, key, **told)
            return ordinal.fit(scores, query.label, query.mask, ratings)

        link = jax.jit(fit)(way.params, way.shared, source)
        return jax.tree.map(lambda x: x[None], link)

    return {name: link_of(way) for name, way in found.items()}


def size_of(way: Way, profile: PyTree) -> int:
    """The bytes that are kept of a person."""
    return state_bytes(way.make(way.shared), way.params, profile)
