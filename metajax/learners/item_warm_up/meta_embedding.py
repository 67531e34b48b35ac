"""Meta-Embedding, and what warm-up learners share: a task is an item, which adapts its embedding.

The profile is the item's content, the inputs are users. The *base* is a model that takes the
profile ``(profile, embedding (D,))``. It is trained before, on items with many interactions: put
its parameters under ``base``, in place of those that ``init`` gives; they get no gradient. Only
`dropout_net` trains its base. Counts of interactions are no inputs, since those of the whole log
would leak the test.
"""

import jax
import jax.numpy as jnp
import optax

from metajax import losses
from metajax.learners.gradient.context import context_learner
from metajax.learners.gradient.maml import State
from metajax.types import Episode, MetaLearner, Model, PyTree


def embedding_of(state: State) -> jax.Array:
    """The current embedding (D,) of an item."""
    return state.fast["context"]


def on_base(params: PyTree, embedding: jax.Array | None = None) -> PyTree:
    """The parameters of a `context_learner` of the frozen ``params["base"]``.

    Args:
      params: of a warm-up learner.
      embedding: (D,) the start of ``start``; None for ``adapt`` and ``predict``, which read the
        state's.
    """
    frozen = jax.lax.stop_gradient(params["base"])
    return {"model": {"net": frozen, "context": embedding}, "rates": ()}


def on_frozen_base(learner: MetaLearner) -> MetaLearner:
    """A `context_learner` whose ``adapt`` and ``predict`` take a warm-up learner's parameters."""
    return learner._replace(
        adapt=lambda params, *given: learner.adapt(on_base(params), *given),
        predict=lambda params, *given: learner.predict(on_base(params), *given),
        adapted=None,
    )


def init_base(base: Model, key: jax.Array, episode: Episode, num_embedding: int) -> PyTree:
    """Untrained parameters of a base."""
    profile = (episode.profile, jnp.zeros(num_embedding))
    return base.init(key, profile, episode.support.inputs)


def meta_embedding(
    base: Model,
    generate: Model,
    num_embedding: int,
    inner: optax.GradientTransformation,
    num_steps: int = 1,
    *,
    cold_share: float = 0.1,
    loss: losses.Loss = losses.log_loss,
) -> MetaLearner:
    """Meta-Embedding: content generates the first embedding, gradient steps warm it up.

    ``e_0 = h(content)``, ``e_1 = e_0 - a grad L_a(e_0)``; the outer loss is ``cold_share L_a(e_0) +
    (1 - cold_share) L_b(e_1)``, a the support and b the query, and its gradient runs through the
    step (second order).

    Args:
      base: the frozen model.
      generate: h, a model whose ``apply(params, profile, ())`` is of shape (``num_embedding``,).
      num_embedding: D.
      inner: the inner optimizer of the embedding; the paper's is gradient descent at 1e-4.
      num_steps: its steps in one call of ``adapt``.
      cold_share: the paper's alpha.
      loss: (scores, label, mask) -> scalar; `losses.log_loss` takes scores for logits.

    References: Pan et al., "Warm up cold-start advertisements: improving CTR predictions via
    learning to learn ID embeddings", SIGIR 2019, equations 7 to 13.
    """
    item = context_learner(base, num_embedding, inner, num_steps, loss=loss)
    learner = on_frozen_base(item)

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_base, key_generate = jax.random.split(key)
        return {
            "base": init_base(base, key_base, episode, num_embedding),
            "generate": generate.init(key_generate, episode.profile, ()),
        }

    def start(params: PyTree, profile: PyTree) -> State:
        embedding = generate.apply(params["generate"], profile, ())
        return item.start(on_base(params, embedding), profile)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        support, query = episode.support, episode.query
        before = start(params, episode.profile)
        after = learner.adapt(params, before, support, key)
        cold = loss(learner.predict(params, before, support.inputs), support.label, support.mask)
        warm = loss(learner.predict(params, after, query.inputs), query.label, query.mask)
        value = cold_share * cold + (1.0 - cold_share) * warm
        return value, {"query_loss": warm, "cold_loss": cold}

    return learner._replace(init=init, start=start, loss=outer_loss)
