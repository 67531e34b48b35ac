"""Ridge regression on item columns, built from a `Recipe`: the closed-form arms, the ridge head.

A recipe is a few numbers and names, which are stored with the parameters of a trained learner to
build it again, for instance in a service. The columns are those that `data.features.represent`
estimates from a log.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.adapters.mixed import Compute, mixed
from metajax.learners import closed_form, ensemble, pooled
from metajax.models.items import item_features, item_offset
from metajax.models.towers import stored_mean
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree

IN_RATINGS = ("bias", "content_bias", "bayes_bias", "content_bayes_bias")
"""The item columns in units of the ratings; the others are dimensionless."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The configuration of the learner ``score = offset(item, profile) + features(item)' w``.

    Attributes:
      mean: the mean label of the training rows.
      start: the item columns that are the features, or that learned features start from.
      precision: the prior precision of every feature, where it starts; the classical penalty.
      constant: whether a feature that is always 1 comes first; learned features always have it.
      bias: the item column that the offset starts from.
      learned: whether networks refine features and offset; else both are the stored columns.
      scale: labels are divided by it before the networks; closed forms do not depend on it.
      user_sizes: name -> number of categories of the profile's columns that the offset sees.
      extra: number of learned features in addition to those that start as columns.
      hidden, offset_hidden: widths of the two networks.
      blend: whether a second network, which does not adapt, is blended in by shares that depend on
        the number of examples, see `ensemble.blended`.
      compute: the type of the networks' activations, see `adapters.mixed`; stored columns, sums and
        solutions are float32 either way.
    """

    mean: float
    start: tuple[str, ...] = ()
    precision: tuple[float, ...] = ()
    constant: bool = True
    bias: str = "bias"
    learned: bool = False
    scale: float = 1.0
    user_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    extra: int = 0
    hidden: int = 32
    offset_hidden: int = 64
    blend: bool = False
    compute: Compute = "float32"


def columns_as_features(names: tuple[str, ...], constant: bool) -> Model:
    """The stored item columns side by side as features (N, D), after a 1 if ``constant``."""

    def apply(params: PyTree, profile: PyTree, inputs: Mapping[str, jax.Array]) -> jax.Array:
        ones = jnp.ones((inputs["item"].shape[0], int(constant)))
        return jnp.concatenate([ones, *(inputs[name] for name in names)], axis=1)

    return Model(lambda key, profile, inputs: {}, apply)


def networks(recipe: Recipe) -> tuple[Model, Model]:
    """The features (N, D) and the offset (N,) of a recipe, for labels divided by its scale."""
    mean = recipe.mean / recipe.scale
    if not recipe.learned:
        return columns_as_features(recipe.start, recipe.constant), stored_mean(mean, recipe.bias)
    wrap = functools.partial(mixed, compute=recipe.compute)
    features = item_features(recipe.start, recipe.extra, recipe.hidden, wrap=wrap)
    sizes, hidden = recipe.user_sizes, recipe.offset_hidden
    return features, item_offset(sizes, mean, hidden, bias=recipe.bias, wrap=wrap)


def learner(recipe: Recipe, loss: losses.Loss = losses.absolute_error) -> MetaLearner:
    """The learner of a recipe, for labels divided by its scale; see `in_units`.

    A recipe without a feature is the item mean, which has nothing to adapt.

    References: Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form
    solvers", ICLR 2019.
    """
    features, offset = networks(recipe)
    if not recipe.precision:
        return pooled.pooled(offset, loss=loss)
    size = len(recipe.precision)
    head = closed_form.ridge(features, offset, size, precision=recipe.precision, loss=loss)
    if not recipe.blend:
        return head
    return ensemble.blended([pooled.pooled(offset, loss=loss), head], loss=loss)


def rescaled(inputs: Mapping[str, jax.Array], scale: float) -> dict[str, jax.Array]:
    """The inputs, columns (N, ...), with those of `IN_RATINGS` divided by the scale."""
    return {**inputs, **{k: inputs[k] / scale for k in IN_RATINGS if k in inputs}}


def in_units(learner: MetaLearner, scale: float) -> MetaLearner:
    """The learner with ratings divided by the scale at its input, and scores multiplied by it.

    The learner must have been built for that unit. Its loss stays in units of the scale, so that
    clipped gradients are the same for any rating scale.
    """

    def own(examples: Examples) -> Examples:
        return examples._replace(
            inputs=rescaled(examples.inputs, scale), label=examples.label / scale
        )

    def episode_of(e: Episode) -> Episode:
        return e._replace(support=own(e.support), query=own(e.query))

    def predict(params: PyTree, state: PyTree, inputs: PyTree) -> jax.Array:
        return scale * learner.predict(params, state, rescaled(inputs, scale))

    return learner._replace(
        init=lambda key, episode: learner.init(key, episode_of(episode)),
        adapt=lambda params, state, examples, key: learner.adapt(params, state, own(examples), key),
        predict=predict,
        loss=lambda params, episode, key: learner.loss(params, episode_of(episode), key),
    )


def positives_only(learner: MetaLearner) -> MetaLearner:
    """The learner that ignores support rows whose label is not positive.

    For implicit feedback, whose negatives are sampled: a service knows events only, so that no
    learner may adapt on negatives.
    """
    kept = lambda e: e._replace(mask=e.mask * (e.label > 0))

    def loss(params: PyTree, episode: Episode, key: jax.Array):
        return learner.loss(params, episode._replace(support=kept(episode.support)), key)

    return learner._replace(
        adapt=lambda params, state, examples, key: learner.adapt(
            params, state, kept(examples), key
        ),
        loss=loss,
    )
