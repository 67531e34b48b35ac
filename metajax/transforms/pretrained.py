"""A learner that starts from pretrained parameters."""

import jax

from metajax.types import Episode, MetaLearner, Params, UserError


def starting_from(learner: MetaLearner, **given: Params) -> MetaLearner:
    """The learner whose ``init`` has some parameters replaced, e.g. by a base trained before.

    ``starting_from(learner, model={"base": trained})`` replaces ``params["model"]["base"]`` and
    leaves the rest of ``params["model"]`` as ``init`` makes it.

    Args:
      given: entries of the parameters, as nested dicts down to what is replaced.

    Raises:
      UserError: when ``init`` is called, the learner has no parameters of such a name.
    """

    def init(key: jax.Array, episode: Episode) -> Params:
        return _replaced(learner.init(key, episode), given, "")

    return learner._replace(init=init)


def _replaced(params: Params, given: Params, path: str) -> Params:
    """The parameters with the given ones in their place, down the nested dicts of both."""
    if not (isinstance(params, dict) and isinstance(given, dict)):
        return given
    unknown = given.keys() - params.keys()
    if unknown:
        raise UserError(
            f"starting_from: there are no parameters {path}{min(unknown)}; "
            f"there are {', '.join(path + name for name in sorted(params))}"
        )
    changed = {k: _replaced(params[k], given[k], f"{path}{k}/") for k in given}
    return {**params, **changed}
