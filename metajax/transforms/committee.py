"""A deep ensemble of learners: copies with other initializations, whose scores are averaged."""

import jax

from metajax.types import Episode, Examples, MetaLearner, Params, PyTree, UserError


def copies(learner: MetaLearner, number: int) -> MetaLearner:
    """So many copies of a learner side by side, each with parameters and a state of its own.

    All leaves have a first axis (``number``, ...), and so have the scores and the loss, which a
    transform is to join: this is part of a learner, not one.
    """

    def init(key: jax.Array, episode: Episode) -> Params:
        keys = jax.random.split(key, number)
        return jax.vmap(lambda k: learner.init(k, episode))(keys)

    def start(params: Params, profile: PyTree) -> PyTree:
        return jax.vmap(lambda p: learner.start(p, profile))(params)

    def adapt(params: Params, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        keys = jax.random.split(key, number)
        return jax.vmap(lambda p, s, k: learner.adapt(p, s, examples, k))(params, state, keys)

    def predict(params: Params, state: PyTree, inputs: PyTree) -> jax.Array:
        return jax.vmap(lambda p, s: learner.predict(p, s, inputs))(params, state)

    def loss(params: Params, episode: Episode, key: jax.Array):
        keys = jax.random.split(key, number)
        return jax.vmap(lambda p, k: learner.loss(p, episode, k))(params, keys)

    return MetaLearner(init, start, adapt, predict, loss, number * learner.num_gradients)


def committee(learner: MetaLearner, num_members: int) -> MetaLearner:
    """The learner whose score is the mean over ``num_members`` independently initialized copies.

    Each member is trained by its own loss on the same tasks and adapts alone. Parameters and states
    have leaves (``num_members``, ...); time and memory of a task grow by that factor.

    Raises:
      UserError: ``num_members`` is below 1.

    References: Lakshminarayanan, Pritzel, Blundell, "Simple and scalable predictive uncertainty
    estimation using deep ensembles", NeurIPS 2017.
    """
    if num_members < 1:
        raise UserError(f"a committee has one member or more, not {num_members}")

    own = copies(learner, num_members)

    def predict(params: Params, state: PyTree, inputs: PyTree) -> jax.Array:
        return own.predict(params, state, inputs).mean(axis=0)

    def loss(params: Params, episode: Episode, key: jax.Array):
        return jax.tree.map(lambda x: x.mean(axis=0), own.loss(params, episode, key))

    return own._replace(predict=predict, loss=loss)
