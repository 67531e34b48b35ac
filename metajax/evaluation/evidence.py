"""MeLU's evidence candidates: items to ask a new user about, whose ratings move the model most."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax import losses, tree
from metajax.types import Episode, Examples, Model, Params


def gradient_norms(
    model: Model, params: Params, adapts: tree.Filter, loss: losses.Loss = losses.squared_error
) -> Callable[[Episode], jax.Array]:
    """A function of one task: the size (S,) of the gradient of each support row alone.

    It is the sum, over the tensors that adapt, of the Frobenius norm of the gradient of the row's
    loss, divided by that loss; 0 for padding and for a row with loss 0.
    """
    fast, shared = tree.partition(params, adapts)

    def norm_of(profile, row: Examples) -> jax.Array:
        alone = jax.tree.map(lambda x: x[None], row)

        def row_loss(fast) -> jax.Array:
            scores = model.apply(tree.merge(fast, shared), profile, alone.inputs)
            return loss(scores, alone.label, jnp.ones(1))

        value, grads = jax.value_and_grad(row_loss)(fast)
        norms = [jnp.sqrt(jnp.sum(g**2)) for g in jax.tree.leaves(grads)]
        return jnp.where((row.mask > 0) & (value > 0), sum(norms) / jnp.maximum(value, 1e-12), 0.0)

    return lambda episode: jax.vmap(norm_of, (None, 0))(episode.profile, episode.support)


def evidence_scores(
    norms: jax.Array, item: jax.Array, mask: jax.Array, num_items: int
) -> jax.Array:
    """The score (num_items,) of every item as a question: mean gradient norm times popularity.

    Both are divided by their maximum over items. An item without rows has the score 0.

    Args:
      norms: (...) of `gradient_norms`, one per row.
      item: (...) the item of the row.
      mask: (...) 1 for a real row.

    References: Lee et al., "MeLU: meta-learned user preference estimator for cold-start
    recommendation", KDD 2019, section 3.4.
    """
    index, real = item.ravel(), mask.ravel()
    popularity = jnp.zeros(num_items).at[index].add(real)
    total = jnp.zeros(num_items).at[index].add(norms.ravel() * real)
    mean = total / jnp.maximum(popularity, 1.0)
    relative = lambda x: x / jnp.maximum(jnp.max(x), 1e-12)
    return relative(mean) * relative(popularity)


def evidence_candidates(scores: jax.Array, num_candidates: int = 20) -> jax.Array:
    """The items (num_candidates,) with the highest scores, best first."""
    return jax.lax.top_k(scores, num_candidates)[1]
