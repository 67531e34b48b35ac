"""A trained ridge learner as NumPy arrays, which is all that serving needs.

The state of a user of `learners.item_ridge` is a Gram matrix, a moment and a count, whichever
network made the item vectors. So one table of item vectors serves everyone: adapting is a sum over
the rows that a person has rated, and a prediction is an inner product.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from metajax.learners import item_ridge
from metajax.learners.ensemble import GAIN
from metajax.types import PyTree, UserError


class Form(NamedTuple):
    """A trained learner in closed form: item vectors and the prior of a user's weights.

    Labels and scores inside are in units of ``scale``.

    Attributes:
      x: (N, D) float32 vectors of all items.
      offset: (N,) float32 the score of a user with zero weights.
      pooled: (N,) float32 the score that is blended in; all 0 without a blend.
      mean, precision: (D,) float64, the prior of the weights, in units of the noise variance.
      level, slope: (2,) parameters of the weights of pooled and ridge scores, which depend on the
        number of examples, see `shares`; None without a blend.
      scale: what labels are divided by.
    """

    x: np.ndarray
    offset: np.ndarray
    pooled: np.ndarray
    mean: np.ndarray
    precision: np.ndarray
    level: np.ndarray | None
    slope: np.ndarray | None
    scale: float


class State(NamedTuple):
    """The state of a user, as `learners.closed_form.State`.

    Attributes:
      gram: (D, D) sum of x x' over the examples so far.
      moment: (D,) sum of x times (label - offset).
      weight: number of examples.
    """

    gram: np.ndarray
    moment: np.ndarray
    weight: float


def form(
    recipe: item_ridge.Recipe,
    params: PyTree,
    columns: Mapping[str, np.ndarray],
    profile: Mapping[str, np.ndarray],
) -> Form:
    """The arrays of a trained learner, for users with one profile.

    Args:
      recipe: how the learner is built.
      params: of one seed, of `item_ridge.learner`.
      columns: the item columns (N, ...) that the recipe reads.
      profile: one user's columns (width,); all 0 for a user of whom nothing is known.

    Raises:
      UserError: a number is not finite.
    """
    features, offset = item_ridge.networks(recipe)
    inputs = {k: jnp.asarray(v) for k, v in columns.items()}
    num_items = len(next(iter(columns.values())))
    inputs = item_ridge.rescaled({**inputs, "item": jnp.arange(num_items)}, recipe.scale)
    known = {k: jnp.asarray(v) for k, v in profile.items()}
    call = lambda network, own: np.asarray(network.apply(own, known, inputs), np.float32)
    level = slope = None
    pooled, head = np.zeros(num_items, np.float32), params
    if not recipe.precision:
        x, base = np.zeros((num_items, 0), np.float32), call(offset, params["model"])
        mean = precision = np.zeros(0)
    else:
        if recipe.blend:
            pooled, head = call(offset, params["bases"][0]["model"]), params["bases"][1]
            level, slope = (np.asarray(params["weigher"][k], float) for k in ("level", "slope"))
        x, base = call(features, head["embed"]), call(offset, head["offset"])
        mean = np.asarray(head["mean"], float)
        precision = np.exp(np.asarray(head["log_precision"], float))
    made = Form(x, base, pooled, mean, precision, level, slope, recipe.scale)
    for name, values in made._asdict().items():
        if values is not None and not np.isfinite(values).all():
            raise UserError(f"the {name} of the trained model is not finite: it diverged")
    return made


def start(form: Form) -> State:
    """The state of a user without examples."""
    size = len(form.mean)
    return State(np.zeros((size, size)), np.zeros(size), 0.0)


def adapt(form: Form, state: State, items: np.ndarray, label: np.ndarray) -> State:
    """The state after events on items (n,) with labels (n,), exactly as after one after another.

    Raises:
      UserError: a label is not finite; the state stays as it was.
    """
    if not np.isfinite(label).all():
        raise UserError("a label is not a finite number; nothing was learned from these events")
    x = form.x[items].astype(float)
    residual = np.asarray(label, float) / form.scale - form.offset[items]
    return State(state.gram + x.T @ x, state.moment + residual @ x, state.weight + len(items))


def shares(form: Form, weight: float) -> tuple[float, float]:
    """The weights of pooled and ridge scores after ``weight`` examples; they sum to 1."""
    if form.level is None or form.slope is None:
        return 0.0, 1.0
    z = GAIN * (form.level + form.slope * np.log1p(weight))
    z = np.exp(z - z.max())
    return float(z[0] / z.sum()), float(z[1] / z.sum())


def solved(form: Form, state: State) -> np.ndarray:
    """The weights (D,) of a user: the ridge solution on their examples."""
    normal = np.diag(form.precision) + state.gram
    return np.linalg.solve(normal, form.precision * form.mean + state.moment)


def predict(form: Form, state: State, items: np.ndarray | slice = slice(None)) -> np.ndarray:
    """The scores (n,) of items for a user, in the unit of the labels.

    Raises:
      UserError: a score is not finite.
    """
    pooled, ridge = shares(form, state.weight)
    weights = solved(form, state).astype(np.float32)
    score = ridge * (form.offset[items] + form.x[items] @ weights) + pooled * form.pooled[items]
    if not np.isfinite(score).all():
        raise UserError("a score is not finite: the user's state or the model is damaged")
    return form.scale * score


def influence(form: Form, items: np.ndarray, label: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How much each event moved each target's score: (len(targets), len(items)), exactly.

    Scores are affine in the labels. So they are what they would be if the person had rated every
    item just as the offset says, plus these numbers, one for each event: its share of the ridge
    solution, ``x_target' (P + G)^-1 x_event`` times what the offset leaves of its label.
    """
    state = adapt(form, start(form), items, label)
    x = form.x[items].astype(float)
    residual = np.asarray(label, float) / form.scale - form.offset[items]
    inverse = np.linalg.solve(np.diag(form.precision) + state.gram, x.T)
    share = form.scale * shares(form, state.weight)[1]
    return share * (form.x[targets].astype(float) @ inverse) * residual
