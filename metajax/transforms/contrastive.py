"""Contrastive learning beside next-item prediction: two views of a history are to be alike."""

import jax
import jax.numpy as jnp

from metajax.data.histories.views import View
from metajax.learners import in_context
from metajax.learners.parts import of_part
from metajax.models import sequence
from metajax.types import Episode, MetaLearner, Params


def info_nce(first_BxD: jax.Array, second_BxD: jax.Array, temperature: float) -> jax.Array:
    """The mean of ``-log exp(s(z, z+) / t) / sum exp(s(z, z') / t)``, in nats; s is the cosine.

    Each of the 2 B vectors is to find the other view of its own row among all others.

    References: Chen et al., "SimCLR", ICML 2020, equation 1.
    """
    both = jnp.concatenate([first_BxD, second_BxD])
    both = both * jax.lax.rsqrt(jnp.sum(both**2, axis=1, keepdims=True) + 1e-8)
    logits = both @ both.T / temperature
    number = len(both)
    logits = jnp.where(jnp.eye(number, dtype=bool), -1e30, logits)
    other = (jnp.arange(number) + number // 2) % number
    chosen = jnp.take_along_axis(logits, other[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - chosen)


def contrastive(
    learner: MetaLearner,
    settings: sequence.Settings,
    view: View,
    *,
    weight: float = 0.1,
    temperature: float = 0.5,
    related: bool = True,
) -> MetaLearner:
    """The sequence learner whose outer loss also pulls two views of each history together.

    Its parameters are ``{"base": ..., "masked": (D,)}``; the last is the embedding of the item
    ``settings.num_items``, by which a view may replace others. Adaptation and prediction are as
    before.

    Args:
      learner: of `learners.in_context.in_batches`.
      view: makes a view of a history, see `data.histories.views`.
      weight: of the contrastive loss.
      temperature: t of `info_nce`.
      related: the two views are of one history; else, as a control, of two people.

    References: Xie et al., "Contrastive learning for sequential recommendation", ICDE 2022.
    """

    def init(key: jax.Array, episode: Episode) -> Params:
        masked = 0.02 * jax.random.normal(jax.random.fold_in(key, 1), (settings.shape.width,))
        return {"base": learner.init(key, episode), "masked": masked}

    def loss(params: Params, episodes: Episode, key: jax.Array):
        key_next, key_views = jax.random.split(key)
        value, info = learner.loss(params["base"], episodes, key_next)
        support, query = episodes.support, episodes.query
        rows = (support.inputs, support.mask, query.inputs, query.mask)
        items, real = jax.vmap(in_context.joined)(*rows)
        length = jnp.sum(real, axis=1, dtype=jnp.int32)
        catalogue = sequence.item_embeddings(params["base"])
        catalogue = jnp.concatenate([catalogue, params["masked"][None]])

        def seen(items: jax.Array, length: jax.Array, key: jax.Array) -> jax.Array:
            key_view, key_drop = jax.random.split(key)
            items, length = view(items, length, key_view)
            read = sequence.hidden_vectors(settings, params["base"], catalogue, items, key_drop)
            return read[length]

        keys = jax.random.split(key_views, (2, items.shape[0]))
        first = jax.vmap(seen)(items, length, keys[0])
        of = (items, length) if related else (jnp.roll(items, 1, 0), jnp.roll(length, 1))
        second = jax.vmap(seen)(*of, keys[1])
        alike = info_nce(first, second, temperature)
        return value + weight * alike, info | {"contrast": alike}

    return of_part(learner, lambda params: params["base"])._replace(init=init, loss=loss)
