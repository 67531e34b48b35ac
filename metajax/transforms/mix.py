"""Mixed examples and mixed tasks: more tasks than there are, by interpolation.

Inputs must be numbers that can be averaged; an index of an item cannot.

References: Zhang et al., "mixup", ICLR 2018; Yao et al., "Improving generalization in meta-learning
via task augmentation" (MetaMix), ICML 2021; Yao et al., "Meta-learning with fewer tasks through
task interpolation" (MLTI), ICLR 2022.
"""

import jax
import jax.numpy as jnp

from metajax.types import Episode, Examples, MetaLearner, Params, PyTree, UserError


def _average(share: jax.Array, first: PyTree, second: PyTree) -> PyTree:
    """``share`` (N,) of the first leaves (N, ...) and the rest of the second.

    Raises:
      UserError: a leaf holds whole numbers, such as indices.
    """

    def leaf(a: jax.Array, b: jax.Array) -> jax.Array:
        if not jnp.issubdtype(jnp.result_type(a), jnp.floating):
            raise UserError(
                "mixing averages inputs, and these hold whole numbers, such as indices of items; "
                "give vectors in their place"
            )
        s = share.reshape((-1,) + (1,) * (a.ndim - 1))
        return s * a + (1.0 - s) * b

    return jax.tree.map(leaf, first, second)


def _rows(examples: Examples, key: jax.Array, count: int) -> Examples:
    """``count`` random real rows, each as likely; rows of mask 0 where there is no real one."""
    logits = jnp.where(examples.mask > 0, 0.0, -1e30)
    at = jax.random.categorical(key, logits, shape=(count,))
    return jax.tree.map(lambda x: x[at], examples)


def _mixed(
    key: jax.Array, first: Examples, others: Examples, alpha: float, labels: bool
) -> Examples:
    """Each row mixed with a random real row of the others, by a Beta(alpha, alpha) share."""
    key_rows, key_share = jax.random.split(key)
    number = first.mask.shape[0]
    second = _rows(others, key_rows, number)
    share = jax.random.beta(key_share, alpha, alpha, (number,))
    share = jnp.where(second.mask > 0, jnp.maximum(share, 1.0 - share), 1.0)
    inputs = _average(share, first.inputs, second.inputs)
    label = _average(share, first.label, second.label) if labels else first.label
    return first._replace(inputs=inputs, label=label)


def meta_mix(learner: MetaLearner, alpha: float = 0.5, *, labels: bool = True) -> MetaLearner:
    """MetaMix: the outer loss is on query rows mixed with rows of the support.

    The larger share is the query's. A task without a support is as it was.

    Args:
      alpha: of the Beta distribution of the shares.
      labels: whether labels are mixed as the inputs are; if not, a control.
    """

    def loss(params: Params, episode: Episode, key: jax.Array):
        key_mix, key_loss = jax.random.split(key)
        query = _mixed(key_mix, episode.query, episode.support, alpha, labels)
        return learner.loss(params, episode._replace(query=query), key_loss)

    return learner._replace(loss=loss)


def mixup(learner: MetaLearner, alpha: float = 0.5, *, labels: bool = True) -> MetaLearner:
    """mixup within a task: support rows are mixed among themselves, and so are query rows."""

    def loss(params: Params, episode: Episode, key: jax.Array):
        key_support, key_query, key_loss = jax.random.split(key, 3)
        support, query = episode.support, episode.query
        mixed = episode._replace(
            support=_mixed(key_support, support, support, alpha, labels),
            query=_mixed(key_query, query, query, alpha, labels),
        )
        return learner.loss(params, mixed, key_loss)

    return learner._replace(loss=loss)


def between_tasks(episodes: Episode, key: jax.Array, alpha: float = 0.5) -> Episode:
    """MLTI: each task of a batch, leaves (T, ...), mixed with another one, row by row.

    One share per task; a row is mixed where it is real in both tasks, and else as it was. Profiles
    stay those of the first task.
    """
    key_pairs, key_share = jax.random.split(key)
    number = len(episodes.query.mask)
    other = jax.random.permutation(key_pairs, number)
    share = jax.random.beta(key_share, alpha, alpha, (number,))
    share = jnp.maximum(share, 1.0 - share)

    def mix(first: Examples) -> Examples:
        second = jax.tree.map(lambda x: x[other], first)

        def one(share: jax.Array, a: Examples, b: Examples) -> Examples:
            of_row = jnp.where((a.mask > 0) & (b.mask > 0), share, 1.0)
            inputs = _average(of_row, a.inputs, b.inputs)
            return a._replace(inputs=inputs, label=_average(of_row, a.label, b.label))

        return jax.vmap(one)(share, first, second)

    return episodes._replace(support=mix(episodes.support), query=mix(episodes.query))
