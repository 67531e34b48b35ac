"""A learner that starts from parameters made elsewhere."""

import jax

from metajax.types import Episode, MetaLearner, Params


def starting_from(learner: MetaLearner, **given: Params) -> MetaLearner:
    """The learner whose ``init`` has the named parts replaced, e.g. by a base trained before.

    Args:
      given: entries of the top level of its parameters; ``init`` must have entries of the names.
    """

    def init(key: jax.Array, episode: Episode) -> Params:
        params = learner.init(key, episode)
        assert given.keys() <= params.keys(), f"no parameters {given.keys() - params.keys()}"
        return {**params, **given}

    return learner._replace(init=init)
