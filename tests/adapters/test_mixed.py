"""Narrow activations under every kind of learner: what is learned stays wide, results stay near.

A bfloat16 has 8 bits of mantissa, so that every number is rounded by up to 1/256 of itself. Scores
are stated to be within eight such roundings (`NEAR`), meta-gradients, which pass the network twice
as often, within sixteen.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learner_rows import TwoKinds, embedded

from metajax import tree
from metajax.adapters.mixed import mixed
from metajax.evaluation.trial import FAST_TO_COMPILE
from metajax.learners.amortized import neural_process
from metajax.learners.closed_form import ridge
from metajax.learners.cold_start.lwa import nlba
from metajax.learners.gradient.context import cavia
from metajax.learners.gradient.implicit import implicit
from metajax.learners.gradient.maml import gradient
from metajax.learners.metric import prototypes
from metajax.learners.pooled import pooled
from metajax.models.features import conditioned_mlp, labeled_features, vector_features
from metajax.models.towers import identity, vector_mlp
from metajax.transforms.reptile import reptile
from metajax.types import Episode, MetaLearner, Model, Params, PyTree

NEAR = 8 / 256
Wrap = Callable[[Model], Model]
DESCENT, HEAD = optax.sgd(0.1), tree.under("head")
LEARNERS: dict[str, Callable[[Wrap], MetaLearner]] = {
    "maml": lambda w: gradient(w(vector_mlp((12,))), DESCENT, 2),
    "fomaml": lambda w: gradient(w(vector_mlp((12,))), DESCENT, 2, second_order=False),
    "anil": lambda w: gradient(w(embedded(6, 12)), DESCENT, 2, adapts=HEAD),
    "imaml": lambda w: implicit(w(embedded(6, 12)), DESCENT, 6, strength=0.3, adapts=HEAD),
    "reptile": lambda w: reptile(gradient(w(vector_mlp((12,))), DESCENT, 2)),
    "cavia": lambda w: cavia(w(conditioned_mlp((12,))), 4, DESCENT, 2),
    "neural_process": lambda w: neural_process(
        w(labeled_features((12, 12))), w(conditioned_mlp((12,))), 12
    ),
    "ridge": lambda w: ridge(w(vector_features((12, 6))), w(vector_mlp((12,))), 6),
    "prototypes": lambda w: prototypes(w(vector_features((12, 6))), 2, 6),
    "pooled": lambda w: pooled(w(vector_mlp((12,)))),
    "nlba": lambda w: nlba(identity(), 3, (12,), compute="float32" if w is _wide else "bfloat16"),
}


FAST = {"maml", "anil", "neural_process", "ridge", "prototypes", "nlba"}
"""One of each kind of adaptation."""


def _wide(model: Model) -> Model:
    return model


@functools.cache
def _episode() -> Episode:
    """A task of `TwoKinds`, which learners of classes and of numbers understand."""
    episode = jax.device_get(jax.jit(TwoKinds().sample)(jax.random.key(3)))
    whole = episode.support._replace(mask=np.ones_like(episode.support.mask))
    return episode._replace(support=whole)


def _played(learner: MetaLearner, params: Params) -> tuple[tuple, str]:
    """The adapted state, the scores of the query, the meta-gradient; and the program's text."""
    episode, key = _episode(), jax.random.key(1)

    def run(params: Params, episode: Episode) -> tuple:
        before = learner.start(params, episode.profile)
        state = learner.adapt(params, before, episode.support, key)
        scores = learner.predict(params, state, episode.query.inputs)
        return state, scores, jax.grad(lambda p: learner.loss(p, episode, key)[0])(params)

    lowered = jax.jit(run).lower(params, episode)
    return lowered.compile(compiler_options=FAST_TO_COMPILE)(params, episode), lowered.as_text()


def _apart(found: PyTree, right: PyTree) -> float:
    """The distance of two trees over the length of the second."""
    flat = lambda leaves: np.concatenate([np.ravel(x) for x in jax.tree.leaves(leaves)])
    return float(np.linalg.norm(flat(found) - flat(right)) / np.linalg.norm(flat(right)))


@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in LEARNERS],
)
def test_a_narrow_learner_is_near_the_wide_one_and_keeps_what_is_learned_wide(name: str):
    wide, learner = LEARNERS[name](_wide), LEARNERS[name](mixed)
    params = jax.jit(wide.init, compiler_options=FAST_TO_COMPILE)(jax.random.key(0), _episode())
    assert jax.eval_shape(learner.init, jax.random.key(0), _episode()) == jax.eval_shape(
        lambda: params
    )
    (_, scores, grads), text = _played(wide, params)
    narrow, narrow_text = _played(learner, params)
    assert "bf16" in narrow_text and "bf16" not in text
    kinds = {x.dtype for x in jax.tree.leaves(narrow) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert kinds == {jnp.dtype("float32")}
    assert 0 < _apart(narrow[1], scores) < NEAR
    assert _apart(narrow[2], grads) < 2 * NEAR
