"""From a log to a model folder: the recommended learner, beside those that need no meta-learning.

The rule. Of *ratings* the ridge head is trained on the squared error. Of *events* (clicks, plays,
purchases) it is trained to put what a person did before what they did not, with items drawn at
random for the latter; counts become log(1 + count). A share of the training tasks hides its items
behind their content if the log has item features; the offset sees user features if there are some;
validation users are asked for their last events if there are times, else for random ones.
Whichever arm is best for validation users, mean over 0, 1, 3, 10 and all events, is saved.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import optax

from metajax import losses
from metajax.benchmark import baselines, problem
from metajax.benchmark.problem import Problem
from metajax.commands import verdict
from metajax.data import negatives, split
from metajax.data.features.represent import as_cold
from metajax.data.table import Interactions
from metajax.learners import item_ridge
from metajax.serving import linear, model
from metajax.serving.catalogue import Catalogue, Labels
from metajax.settings import Positive, Range, ReadOptions, Training, check
from metajax.training import devices
from metajax.transforms.augment import hide
from metajax.types import MetaLearner, UserError

SHOTS = (0, 1, 3, 10)
NEGATIVES = 2
"""Items drawn at random for each event of a log of events."""
HEAD = "ridge head"
"""The arm that is meta-learned; the others are closed forms."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a recommender is trained."""

    num_steps: int = 400
    """Outer steps of the meta-learner; 0 trains and compares only the closed-form learners."""
    num_tasks: Positive = 64
    """People per outer step."""
    num_support: Annotated[int, Range(1, 600)] = 64
    """Events that a person adapts on in training, at most."""
    outer_rate: float = 1e-3
    """Rate of AdamW across tasks, decayed to 0 along a cosine."""
    split_seed: int = 0
    """Seed of the validation users and of the items drawn for people of an event log."""


class Arm(NamedTuple):
    """A way to recommend, ready to be compared.

    Attributes:
      recipe, params: what it is built from.
      form: the same as arrays, for people of whom only events are known.
      seconds: that its training took.
    """

    recipe: item_ridge.Recipe
    params: Any
    form: linear.Form
    seconds: float


def labels_of(table: Interactions) -> Labels:
    """What kind of log a table is.

    Raises:
      UserError: every rating is the same, so that there is nothing to tell apart.
    """
    if table.count is not None:
        return Labels("counts", unit=float(np.log1p(table.count).mean()))
    if (table.label == 1).all() and table.scale == (0.0, 1.0):
        return Labels("clicks")
    if np.ptp(table.label) == 0:
        raise UserError(
            f"{table.name}: every rating is {table.label[0]:g}; read the rows as events with "
            "--label none"
        )
    return Labels("ratings", float(table.scale[0]), float(table.scale[1]))


def prepared(table: Interactions, labels: Labels, seed: int) -> tuple[Interactions, Problem]:
    """The log with one row a pair, and the problem of it: split, negatives drawn, represented."""
    table = negatives.without_repeats(table)
    if table.count is not None:
        label = (np.log1p(table.count) / labels.unit).astype(np.float32)
        table = dataclasses.replace(table, label=label, scale=(0.0, float(label.max())))
    parts = split.newcomers(table, seed)
    error, given = losses.squared_error, table
    if labels.events:
        given, parts = negatives.with_negatives(table, parts, NEGATIVES, seed)
        error = losses.misordered
    return table, problem.problem_of(given, parts, error=error, shots=(*SHOTS, 100))


def rule(labels: Labels, table: Interactions) -> str:
    """What was done because the log is what it is, in one line."""
    met = {
        "ratings": "ratings are predicted, and judged by their squared error",
        "counts": "counts are met as log(1 + count)",
        "clicks": "events are met as 1",
    }[labels.kind]
    drawn = (
        f", {NEGATIVES} items drawn at random for each event as what was not done, and lists are "
        "judged by where the events of the query stand among all items not in the support"
    )
    asked = "random" if table.time is None else "last"
    return f"rule: {met}{drawn if labels.events else ''}; {asked} events of new people are asked"


def recipes(ready: Problem, labels: Labels) -> dict[str, tuple[item_ridge.Recipe, dict]]:
    """The closed forms: name -> recipe, and the grid of its penalties.

    A penalty is in units of the noise, so that the unit of the ratings does not matter.
    """
    columns = ready.table.item_features.columns
    dim, width = columns["factor"].shape[1], columns["bayes"].shape[1]
    recipe = functools.partial(item_ridge.Recipe, ready.mean)
    penalties = {"damping": [1.0, 4.0, 16.0], "penalty": [1.0, 3.0, 8.0, 20.0, 50.0]}
    found = {
        "popularity" if labels.events else "item mean": (recipe(), {}),
        "bias": (recipe(precision=(1.0,)), {"damping": [1.0, 2.0, 4.0, 8.0, 16.0]}),
        "fold-in": (recipe(("factor",), precision=(1.0,) * (dim + 1)), penalties),
        "hierarchical Bayes": (
            recipe(("bayes",), (1.0,) * width, constant=False, bias="bayes_bias"),
            {"noise": [0.5, 1.0, 2.0, 4.0]},
        ),
    }
    if labels.events:
        del found["bias"]  # it moves all scores of a person alike
    return found


def head_recipe(ready: Problem) -> item_ridge.Recipe:
    """The recommended meta-learner: networks that start from both closed forms, and a blend."""
    columns, sizes = ready.table.item_features.columns, ready.table.user_features.sizes
    precision = [4.0]
    for name, value in {"factor": 24.0, "bayes": 2.0}.items():
        precision += [value] * columns[name].shape[1]
    return item_ridge.Recipe(
        ready.mean,
        ("factor", "bayes"),
        (*precision, *[12.0] * 4),
        learned=True,
        scale=ready.scale,
        user_sizes={name: size for name, size in sizes.items() if size <= 1000},
        extra=4,
        blend=True,
    )


def _built(recipe: item_ridge.Recipe, labels: Labels, ready: Problem) -> MetaLearner:
    """The learner of a recipe, as it is trained."""
    loss = _ordering if labels.events else losses.squared_error
    learner = item_ridge.learner(recipe, loss)
    if recipe.learned and ready.table.item_features.sizes:
        learner = hide(learner, 0.3, as_cold)
    learner = item_ridge.in_units(learner, recipe.scale)
    return item_ridge.positives_only(learner) if labels.events else learner


def _ordering(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    return losses.squared_error(score, label, mask) + losses.bpr(score, label, mask)


def arms(ready: Problem, labels: Labels, settings: Settings) -> tuple[dict[str, Arm], list[str]]:
    """Every arm, tuned or trained; and notes on those that failed."""
    found: dict[str, Arm] = {}
    notes: list[str] = []
    for name, (recipe, grid) in recipes(ready, labels).items():
        learner = _built(recipe, labels, ready)
        if not grid:
            params = learner.init(jax.random.key(0), ready.example)
            found[name] = _arm(ready, recipe, params, 0.0)
            continue
        tuned = baselines.closed_form_arm(learner, ready, grid)
        found[name] = _arm(ready, recipe, jax.tree.map(lambda x: x[0], tuned.params), tuned.seconds)
    if settings.num_steps:
        recipe = head_recipe(ready)
        try:
            trained = _trained(recipe, labels, ready, settings)
            params = jax.tree.map(lambda x: x[0], trained.params)
            found[HEAD] = _arm(ready, recipe, params, trained.seconds)
            for why in trained.settings.get("diverged", ()):
                notes.append(f"{HEAD} DIVERGED ({why}); what was best before stands in the table")
        except UserError as error:
            notes.append(f"{HEAD} DIVERGED and is left out: {error}")
    return found, notes


def _arm(ready: Problem, recipe: item_ridge.Recipe, params: Any, seconds: float) -> Arm:
    profile = {k: np.zeros_like(v[0]) for k, v in ready.table.user_features.columns.items()}
    columns = ready.table.item_features.columns
    return Arm(recipe, params, linear.form(recipe, params, columns, profile), seconds)


def _trained(
    recipe: item_ridge.Recipe, labels: Labels, ready: Problem, settings: Settings
) -> baselines.Trained:
    """The meta-learner at the step that is best on validation."""
    training = Training(
        seeds=1,
        num_steps=settings.num_steps,
        num_tasks=settings.num_tasks,
        num_support=settings.num_support * (3 if labels.events else 1),
    )
    rate = optax.cosine_decay_schedule(settings.outer_rate, settings.num_steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-4))
    learner = _built(recipe, labels, ready)
    return baselines.trained_arm(HEAD, learner, tx, ready, training)


def train(
    table: Interactions, out: pathlib.Path | str, settings: Settings | None = None
) -> model.Model:
    """Trains every arm on a log, saves the best as a model folder and gives it back.

    Args:
      table: the log, as `data.logs.read.load` or `data.sources.named.load` gives it.
      out: the folder to write: the model, a card (README.md), a plot.

    Raises:
      UserError: the log is too small, or its ratings are all the same.
    """
    return judged(table, out, settings)[0]


def judged(
    table: Interactions,
    out: pathlib.Path | str,
    settings: Settings | None = None,
    read: ReadOptions | None = None,
) -> tuple[model.Model, verdict.Verdict]:
    """`train`, and the comparison of the arms.

    Args:
      read: how the log was read, which the model remembers for files of the same kind.
    """
    asked: Settings = check(settings or Settings())
    began = time.perf_counter()
    devices.in_order()
    labels = labels_of(table)
    log, ready = prepared(table, labels, asked.split_seed)
    found, notes = arms(ready, labels, asked)
    said = verdict.compare({k: a.form for k, a in found.items()}, log, ready.split, labels, HEAD)
    said = said._replace(notes=[rule(labels, log), *said.notes, *notes])
    arm = found[said.chosen]
    seconds = {name: round(a.seconds, 2) for name, a in found.items()}
    about = {
        "log": {
            "name": log.name,
            "checksum": log.checksum(),
            "users": log.num_users,
            "items": log.num_items,
            "rows": len(log),
            "notes": table.notes,
        },
        "arm": said.chosen,
        "read": _remembered(read),
        "settings": dataclasses.asdict(asked),
        "validation": said.facts() | {"notes": said.notes},
        "seconds": seconds | {"total": round(time.perf_counter() - began, 2)},
    }
    plot = verdict.plotted(said, pathlib.Path(out).with_suffix(".part.png"))
    try:
        made = model.save(
            out,
            about=about,
            labels=labels,
            catalogue=_catalogue(log),
            popularity=np.bincount(log.item, minlength=log.num_items),
            recipe=arm.recipe,
            params=arm.params,
            columns=_read_by(arm.recipe, ready.table.item_features.columns),
            known=_known(log, arm.recipe),
            card=verdict.card(about, said, labels),
            others={"k_shot.png": plot},
        )
    finally:
        plot.unlink(missing_ok=True)
    return made, said


def _remembered(read: ReadOptions | None) -> dict[str, Any]:
    """What was said of a log's columns, without what holds for that file alone."""
    options = dataclasses.asdict(read or ReadOptions())
    alone = ("items", "users", "scale", "columns", "header")
    return {k: v for k, v in options.items() if k not in alone}


def _read_by(recipe: item_ridge.Recipe, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The item columns that a recipe's networks read."""
    if not recipe.learned:
        return {k: columns[k] for k in (*recipe.start, recipe.bias)}
    kept = ("count", "bias", "factor", "bayes", "bayes_bias")
    contents = tuple(f"content_{name}" for name in kept[1:])
    return {k: columns[k] for k in (*kept, *contents)}


def _catalogue(table: Interactions) -> Catalogue:
    titles = None if table.item_titles is None else [str(t) for t in table.item_titles]
    return Catalogue(table.item_ids, titles, table.item_year)


def _known(table: Interactions, recipe: item_ridge.Recipe) -> model.Known:
    """The events of the log's users, in its order, and what of their profile the recipe reads."""
    order = np.argsort(table.user, kind="stable")
    start = np.searchsorted(table.user[order], np.arange(table.num_users + 1))
    profile = {k: table.user_features.columns[k] for k in recipe.user_sizes}
    return model.Known(table.user_ids, start, table.item[order], table.label[order], profile)
