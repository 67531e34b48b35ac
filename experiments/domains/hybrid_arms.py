"""The items and learners of hybrid; what it shares with knowledge_graph is in graph_arms."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.benchmark.problem import Problem, problem_of
from metajax.data import episodes, split
from metajax.data.table import Interactions, swapped
from metajax.learners import closed_form, pooled
from metajax.learners.parts import linear_layer, query_loss
from metajax.losses import squared_error
from metajax.models.towers import column
from metajax.settings import Training
from metajax.training import loop
from metajax.transforms.augment import forget
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree

from . import graph_arms
from . import hybrid_report as report

HIDDEN = 32
PENALTY = 10.0
"""Of the fold-in that is an item's identity."""


def thinned(table: Interactions, seed: int, density: float) -> Problem:
    """The problem of items with a share of the training ratings; the test tasks stay the same.

    Raises:
      UserError: fewer than ten items have enough ratings.
    """
    turned = swapped(table)
    options = {"num_support": graph_arms.SUPPORT, "max_rows": len(table)}
    parts = split.tanp(turned, seed, min_rows=graph_arms.FEWEST_ROWS, **options)
    rng = np.random.default_rng([seed, 15])
    rows = parts.train_rows[rng.random(len(parts.train_rows)) < density]
    train, _ = split.grouped(turned, rng.permutation(rows), 2)
    kept = dataclasses.replace(parts, train_rows=rows, train=train)
    return problem_of(turned, kept, error=squared_error)


def contents(table: Interactions) -> dict[str, np.ndarray]:
    """What the items of each arm have as content (I, Z)."""
    own = graph_arms.genres(table)
    own = own / np.sqrt(np.maximum((own**2).sum(axis=1, keepdims=True), 1.0))
    others = own[np.random.default_rng([0, 16]).permutation(len(own))]
    found: dict[str, np.ndarray] = {name: own for name in report.ARMS}
    return found | {report.IDENTITY: 0 * own, report.PERMUTED: others}


def beside(problem: Problem) -> MetaLearner:
    """The hybrid network: an item's weights from its identity and its content.

    The identity is the ridge solution of its ratings on the raters' factors, 0 without ratings; the
    score of a rater is the mean, their bias, and their factors times the item's weights.
    """
    dim = problem.table.item_features.columns["factor"].shape[1] + 1
    features = column("factor", constant=True)

    def init(key: jax.Array, episode: Episode) -> Params:
        width = dim + episode.profile["content"].shape[-1]
        keys = jax.random.split(key, 2)
        last = linear_layer(keys[1], HIDDEN, dim)
        last["kernel"] = 0.1 * last["kernel"]
        straight = jnp.concatenate([jnp.eye(dim), jnp.zeros((width - dim, dim))])
        return {
            "body": linear_layer(keys[0], width, HIDDEN),
            "head": last,
            "straight": straight,
            "mu": jnp.asarray(problem.mean),
        }

    def start(params: Params, profile: PyTree) -> closed_form.State:
        return closed_form.State(jnp.zeros((dim, dim)), jnp.zeros(dim), profile)

    def adapt(
        params: Params, state: closed_form.State, examples: Examples, key: jax.Array
    ) -> closed_form.State:
        real = examples.mask > 0
        x = jnp.where(real[:, None], features.apply({}, (), examples.inputs), 0.0)
        y = jnp.where(real, examples.label - params["mu"] - examples.inputs["bias"], 0.0)
        gram, moment = closed_form.sums(x, y, examples.mask)
        return state._replace(gram=state.gram + gram, moment=state.moment + moment)

    def predict(params: Params, state: closed_form.State, inputs: PyTree) -> jax.Array:
        identity = jnp.linalg.solve(state.gram + PENALTY * jnp.eye(dim), state.moment)
        both = jnp.concatenate([identity, state.profile["content"]])
        hidden = jax.nn.relu(both @ params["body"]["kernel"] + params["body"]["bias"])
        weights = both @ params["straight"] + hidden @ params["head"]["kernel"]
        x = features.apply({}, (), inputs)
        return params["mu"] + inputs["bias"] + x @ (weights + params["head"]["bias"])

    loss = query_loss(start, adapt, predict, squared_error)
    return MetaLearner(init, start, adapt, predict, loss)


def made(name: str, problem: Problem, dropped: float) -> MetaLearner:
    """The learner of an arm."""
    if name == report.CONTENT:
        return pooled.pooled(graph_arms.start_of_content(problem))  # never adapts
    if name == report.WHOLE:
        return beside(problem)
    closed = name in (report.IDENTITY, report.CLOSED)
    return forget(graph_arms.learner_of(problem) if closed else beside(problem), dropped)


def tuned(
    name: str,
    learner: MetaLearner,
    problem: Problem,
    training: Training,
    rates: tuple[float, ...],
) -> tuple[dict[str, Any], tuple[MetaLearner, Params]]:
    """What was chosen on validation items, and the trained arm; by the error over all shots.

    Supports of training tasks are whole: only dropping takes them away.
    """
    sizes = {"num_support": training.num_support, "num_query": problem.split.num_query}
    draw = functools.partial(episodes.draw, full_share=1.0, **sizes)
    drawn = (loop.sampler(draw, training.num_tasks), problem.train)
    return graph_arms.tuned(name, problem, training, rates, learner, drawn)
