"""Rows that count more or less, in the support, in the query, or in both."""

from collections.abc import Callable

import jax

from metajax.types import Episode, Examples, MetaLearner, Params, PyTree

Weight = Callable[[PyTree], jax.Array]
"""The inputs of N rows -> how much each counts (N,), 0 or more."""


def weighed(
    learner: MetaLearner, weight: Weight, *, support: bool = True, query: bool = True
) -> MetaLearner:
    """The learner that adapts on weighed rows, and whose outer loss weighs those it is judged on.

    It is for any learner whose ``adapt`` weighs rows by their mask, as those that take a mean loss
    or a ridge regression do. With inverse propensities as weights the support stands for all items
    and not for those that the person chose to rate, and so does the query: a debiased
    meta-learner. A weight of 2 is a row that occurs twice, a weight of 0 one that is not there.

    Args:
      weight: inputs -> weights; their mean should be about 1, so that a prior keeps its strength.
      support: whether the support is weighed; query: whether the outer loss is.

    References: Schnabel et al., "Recommendations as Treatments", ICML 2016.
    """

    def by(examples: Examples) -> Examples:
        return examples._replace(mask=examples.mask * weight(examples.inputs))

    def adapt(params: Params, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        return learner.adapt(params, state, by(examples) if support else examples, key)

    def loss(params: Params, episode: Episode, key: jax.Array):
        seen = by(episode.support) if support else episode.support
        asked = by(episode.query) if query else episode.query
        return learner.loss(params, episode._replace(support=seen, query=asked), key)

    return learner._replace(adapt=adapt, loss=loss)
