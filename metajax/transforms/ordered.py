"""Training to order: the outer loss also counts pairs of query rows in the wrong order."""

import jax

from metajax import losses
from metajax.types import Episode, MetaLearner, PyTree


def ordered(learner: MetaLearner, weight: float = 1.0) -> MetaLearner:
    """The learner, meta-trained to put the query in order, too, for lists that are judged by it.

    ``weight`` times the `losses.bpr` of the query's scores, after one ``adapt`` on the support, is
    added to the outer loss; the gradient runs through ``adapt``. How the learner adapts and
    predicts does not change, nor what it minimizes in a task. Every learner whose scores are
    numbers (N,) can be trained so, which gives the arms of a table the same choice of a loss.

    Args:
      weight: of the pairs, beside the learner's own outer loss.

    References: Rendle et al., "BPR: Bayesian personalized ranking", UAI 2009.
    """

    def loss(params: PyTree, episode: Episode, key: jax.Array):
        value, info = learner.loss(params, episode, key)
        query = episode.query
        state = learner.start(params, episode.profile)
        state = learner.adapt(params, state, episode.support, key)
        score = learner.predict(params, state, query.inputs)
        pairs = losses.bpr(score, query.label, query.mask)
        return value + weight * pairs, {**info, "pairs": pairs}

    return learner._replace(loss=loss)
