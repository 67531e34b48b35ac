"""New items as tasks, and what they start from, for knowledge_graph."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, losses
from metajax.benchmark.baselines import trained_arm
from metajax.benchmark.problem import Problem, problem_of, with_columns
from metajax.data import diversity, split
from metajax.data.episodes import Source
from metajax.data.features.represent import content_matrix
from metajax.data.negatives import is_implicit
from metajax.data.sources import graph as graphs
from metajax.data.table import Features, Interactions, in_stars, swapped
from metajax.evaluation import evaluate
from metajax.learners.closed_form import ridge
from metajax.models.towers import column
from metajax.models.translations import margin_loss, transe, unit
from metajax.results import groups
from metajax.settings import Training
from metajax.training import loop
from metajax.training.devices import on_devices, split_by_compiler
from metajax.training.updates import optimizer
from metajax.types import MetaLearner, Model, Params, PyTree, UserError

from . import graph_report as report
from .rates import best_of

SUPPORT = 20
FEWEST_ROWS = 30
"""An item with fewer ratings is no task."""
FEWEST_TRIPLES = 1_000
"""A relation with fewer triples has no path of its own."""
WIDEST = 200
"""An item column with more values is no content: its map would have as many rows."""
BATCH = 512


def rated(table: Interactions) -> Interactions:
    """The table on the scale 1..5.

    Raises:
      UserError: it has events and no ratings.
    """
    if is_implicit(table):
        raise UserError(f"{table.name} has events; new items are judged by ratings here")
    return in_stars(table)[0]


def of_items(table: Interactions, seed: int) -> Problem:
    """The problem whose tasks are items: 20 ratings to adapt on, all others to be judged on.

    Choices on meta-validation are by squared error.

    Raises:
      UserError: fewer than ten items have enough ratings.
    """
    turned = swapped(table)
    options = {"num_support": SUPPORT, "min_rows": FEWEST_ROWS, "max_rows": len(table)}
    return problem_of(turned, split.tanp(turned, seed, **options), error=losses.squared_error)


def with_content(problem: Problem, content_IxZ: np.ndarray) -> Problem:
    """The problem in which an item's profile is its content (Z,) alone."""
    content = jnp.asarray(content_IxZ, jnp.float32)

    def change(source: Source) -> Source:
        return source._replace(profile={"content": content})

    return with_columns(problem, change)


def start_of_content(problem: Problem) -> Model:
    """The scores of an item whose weights are a linear map of its content."""
    dim = problem.table.item_features.columns["factor"].shape[1]
    features = column("factor", constant=True)

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        width = profile["content"].shape[-1]
        return {"map": jnp.zeros((width, dim + 1)), "mu": jnp.asarray(problem.mean)}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        weights = profile["content"] @ params["map"]
        return params["mu"] + inputs["bias"] + features.apply({}, profile, inputs) @ weights

    return Model(init, apply)


def learner_of(problem: Problem) -> MetaLearner:
    """Fold-in of an item's ratings around a start that is a linear map of its content."""
    dim = problem.table.item_features.columns["factor"].shape[1]
    features = column("factor", constant=True)
    return ridge(features, start_of_content(problem), dim + 1, precision=(3.0, *[10.0] * dim))


def embedded(graph: graphs.Graph, dim: int, steps: int, devices: int = 1) -> np.ndarray:
    """TransE's embedding (num_entities, dim) of each entity, at length 1.

    Each step sees `BATCH` triples, and for each one whose head or tail is replaced at random.
    """
    model = transe(graph.num_entities, len(graph.names), dim)
    triples = {"head": graph.head, "relation": graph.relation, "tail": graph.tail}
    data = {name: jnp.asarray(x, jnp.int32) for name, x in triples.items()}

    def sample(data: dict[str, jax.Array], key: jax.Array) -> dict[str, Any]:
        key_row, key_side, key_other = jax.random.split(key, 3)
        row = jax.random.randint(key_row, (BATCH,), 0, len(data["head"]))
        true = {name: x[row] for name, x in data.items()}
        other = jax.random.randint(key_other, (BATCH,), 0, graph.num_entities)
        side = jax.random.bernoulli(key_side, shape=(BATCH,))
        head = jnp.where(side, other, true["head"])
        tail = jnp.where(side, true["tail"], other)
        return {"true": true, "false": true | {"head": head, "tail": tail}}

    def gradient(params: Params, batch: dict[str, Any], key: jax.Array):
        score = lambda p, which: model.apply(p, (), batch[which])
        loss = lambda p: margin_loss(score(p, "true"), score(p, "false"))
        value, slope = jax.value_and_grad(loss)(params)
        return slope, {"loss": value}

    init = lambda key, batch: model.init(key, (), batch["true"])
    recipe = loop.Recipe(init, gradient, optimizer(optax.adam(0.01)))
    recipe = on_devices(devices, recipe, split_by_compiler)
    found = loop.fit(recipe, sample, data, jax.random.split(jax.random.key(5), 1), steps, block=500)
    return np.asarray(unit(found.params["entity"][0]))


def of_linked(graph: graphs.Graph, entity_ExD: np.ndarray) -> np.ndarray:
    """What each item's entity has (I, D + 1), and whether it is linked; 0 where not."""
    linked = (graph.entity >= 0)[:, None] * 1.0
    return np.hstack([linked * entity_ExD[np.maximum(graph.entity, 0)], linked])


def weights_of_known(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Weights (I, 1 + D) of training items on their raters' factors, and which items they are."""
    code, _ = diversity.fold_in(problem.train, problem.mean, 10.0)
    tasks = problem.split.train
    level = np.add.reduceat(tasks.label - problem.mean, tasks.start) / (tasks.length + 3.0)
    known = np.zeros(problem.table.num_users, bool)
    known[tasks.owner] = True
    weights = np.zeros((problem.table.num_users, 1 + code.shape[1]))
    weights[tasks.owner] = np.column_stack([level, code])
    return weights, known


def near(graph: graphs.Graph, weights: np.ndarray, known: np.ndarray, relation: int | None = None):
    """The mean weights of an item's known neighbors (I, 1 + D), and whether it has any."""
    links = graphs.neighbors(graph, relation)
    some = graphs.average(links, known[:, None] * 1.0, known)
    return np.hstack([graphs.average(links, weights, known), some])


def genres(table: Interactions) -> np.ndarray:
    """The item's content without a graph (I, C), of columns with few values."""
    sizes = {k: v for k, v in table.item_features.sizes.items() if v <= WIDEST}
    columns = {k: table.item_features.columns[k] for k in sizes}
    return content_matrix(Features(columns, sizes), table.num_items).toarray()


def starts(
    problem: Problem,
    table: Interactions,
    graph: graphs.Graph,
    dim: int,
    steps: int,
    devices: int = 1,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What the items of each arm start from (I, Z), columns scaled alike, and facts."""
    weights, known = weights_of_known(problem)
    dealt = graphs.shuffled(graph)
    counts = np.bincount(graph.relation, minlength=len(graph.names))
    wide = np.flatnonzero(counts >= min(FEWEST_TRIPLES, counts.max()))
    paths = lambda g: np.hstack([near(g, weights, known, int(r)) for r in wide])
    own, of_genres = near(graph, weights, known), genres(table)
    found = {
        report.NOTHING: np.zeros((table.num_items, 1)),
        report.GENRES: of_genres,
        report.TRANSE: of_linked(graph, embedded(graph, dim, steps, devices)),
        report.NEAR: own,
        report.PATHS: paths(graph),
        report.BOTH: np.hstack([of_genres, own]),
        report.TRANSE_DEALT: of_linked(graph, embedded(dealt, dim, steps, devices)),
        report.NEAR_DEALT: near(dealt, weights, known),
        report.PATHS_DEALT: paths(dealt),
    }
    names = [str(graph.names[r]) for r in wide]
    told = {"paths": names, "linked": int((graph.entity >= 0).sum()), "items": table.num_items}
    return {name: _scaled(x) for name, x in found.items()}, told


def _scaled(x: np.ndarray) -> np.ndarray:
    """The columns divided by their root mean square, and all by the root of their number."""
    size = np.sqrt((x**2).mean(axis=0))
    return x / np.where(size > 0, size, 1) / x.shape[1] ** 0.5


def tuned(
    name: str,
    problem: Problem,
    training: Training,
    rates: tuple[float, ...],
    learner: MetaLearner | None = None,
    drawn: tuple[loop.Sampler, Any] | None = None,
) -> tuple[dict[str, Any], tuple[MetaLearner, Params]]:
    """What was chosen on validation items, and the trained arm; by the error over all shots.

    Args:
      learner: by default the one of `learner_of`.
      drawn: see `trained_arm`.
    """
    learner = learner or learner_of(problem)
    few = dataclasses.replace(problem, shots=evaluate.SHOTS)

    def fit(rate: float) -> tuple[float, dict[str, Any], Params]:
        tx = optax.adamw(rate, weight_decay=0.01)
        found = trained_arm(name, learner, tx, few, training, drawn=drawn)
        return found.settings["valid"], found.settings, found.params

    told, params = best_of(rates, fit)
    return told, (learner, params)


def groups_of(problem: Problem, scenario: str) -> dict[str, groups.Kinds]:
    """The groups of the test items, under the name that a record has for them."""
    (found,) = benchmark.groups_of(problem, people=False).values()
    return {scenario: found}
