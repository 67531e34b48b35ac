"""Transforms of transforms: each pair works on each learner, or is refused when it is made."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import tree
from metajax.learners.amortized import neural_process
from metajax.learners.closed_form import ridge
from metajax.learners.gradient.context import cavia
from metajax.learners.gradient.fast_perceptron import fast_maml
from metajax.learners.gradient.maml import gradient
from metajax.learners.pooled import fine_tuned, pooled
from metajax.models.features import conditioned_mlp, labeled_features
from metajax.models.towers import identity, vector_linear, vector_mlp
from metajax.transforms.attenuate import attenuate
from metajax.transforms.augment import hide
from metajax.transforms.committee import committee
from metajax.transforms.dropgrad import dropgrad, gaussian_noise
from metajax.transforms.multistep import multistep
from metajax.transforms.regularize import noisy
from metajax.transforms.reptile import reptile
from metajax.transforms.residual import residual, unchanged
from metajax.types import Episode, Examples, MetaLearner, Model, UserError


def zero() -> Model:
    """A model that scores 0."""
    return Model(lambda key, profile, inputs: {}, lambda params, p, x: jnp.zeros(len(x)))


def ones() -> Model:
    """A constant feature."""
    return Model(lambda key, profile, inputs: {}, lambda params, p, x: jnp.ones((len(x), 1)))


KEY = jax.random.key(0)
MLP, SGD = vector_mlp((4,)), optax.chain(gaussian_noise(0.1), optax.sgd(0.1))


def rows(seed: int, count: int) -> Examples:
    x = jax.random.normal(jax.random.key(seed), (count, 3))
    return Examples(x, x @ jnp.array([1.0, -2.0, 0.5]), jnp.ones(count))


EPISODE = Episode((), rows(1, 5), rows(2, 4))

LEARNERS: dict[str, MetaLearner] = {
    "maml": gradient(MLP, SGD, 2),
    "anil": gradient(MLP, SGD, 2, adapts=tree.under("head")),
    "dual": fast_maml(MLP, 0.1, 2),
    "cavia": cavia(conditioned_mlp((4,)), 2, SGD, 2),
    "ridge": ridge(identity(), vector_linear(), 3),
    "process": neural_process(labeled_features((4,)), conditioned_mlp((4,)), 4),
    "pooled": pooled(MLP),
    "fine-tuned": fine_tuned(MLP, SGD, 2),
}

TRANSFORMS: dict[str, Callable[[MetaLearner], MetaLearner]] = {
    "attenuate": attenuate,
    "reptile": reptile,
    "multistep": lambda learner: multistep(learner, (0.5, 0.5)),
    "dropgrad": dropgrad,
    "noisy": lambda learner: noisy(learner, 0.1, tree.everything),
    "committee": lambda learner: committee(learner, 2),
    "hide": lambda learner: hide(learner, 0.5, jnp.zeros_like),
    "residual": lambda learner: residual(learner, vector_linear()),
}

BY_GRADIENTS = {"maml", "anil", "dual"}
NEEDS_PLAIN_LOSS = {"attenuate", "reptile", "multistep", "dropgrad"}
HAS_PLAIN_LOSS = {"attenuate", "residual"}

FITS: dict[str, set[str]] = {
    "attenuate": BY_GRADIENTS,
    "reptile": BY_GRADIENTS,
    "multistep": BY_GRADIENTS | {"cavia"},
    "dropgrad": BY_GRADIENTS | {"cavia"},
    "noisy": set(LEARNERS),
    "committee": set(LEARNERS),
    "hide": set(LEARNERS),
    "residual": set(LEARNERS),
}
"""Transform -> the learners that it fits."""


def plays(learner: MetaLearner) -> None:
    """Its state keeps its structure, and its loss has a finite gradient."""
    params = jax.eval_shape(learner.init, KEY, EPISODE)

    def play(params):
        before = learner.start(params, ())
        after = learner.adapt(params, before, EPISODE.support, KEY)
        scores = learner.predict(params, after, EPISODE.query.inputs)
        return before, after, scores, jax.grad(learner.loss, has_aux=True)(params, EPISODE, KEY)[0]

    before, after, scores, grads = jax.eval_shape(play, params)
    assert before == after and scores.shape == (4,)
    assert jax.tree.structure(grads) == jax.tree.structure(params)


def one_line(error: pytest.ExceptionInfo) -> str:
    """The message of a `UserError`, which is one line."""
    text = str(error.value)
    assert text and "\n" not in text
    return text


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_fits_a_learner_or_says_so_when_it_is_made(name: str, learner: str):
    if learner in FITS[name]:
        made = TRANSFORMS[name](LEARNERS[learner])
        if (name, learner) == ("dropgrad", "dual"):
            with pytest.raises(UserError, match="gaussian_noise"):  # it has no such optimizer
                made.init(KEY, EPISODE)
        else:
            plays(made)
    else:
        with pytest.raises(UserError) as error:
            TRANSFORMS[name](LEARNERS[learner])
        assert name in one_line(error)


FAST = {"maml", "ridge"}
"""One learner by gradients and one in closed form; the slow tests try pairs on two more."""


def _plays(first: str, second: str, learner: str) -> bool:
    """Whether a pair fits a learner, and the second throws no outer loss of the first away."""
    keeps = second not in NEEDS_PLAIN_LOSS or first in HAS_PLAIN_LOSS
    return learner in FITS[first] & FITS[second] and keeps


PAIRS = [
    pytest.param(*pair, marks=pytest.mark.slow if _plays(*pair) and pair[2] not in FAST else ())
    for pair in itertools.product(TRANSFORMS, TRANSFORMS, ("maml", "anil", "cavia", "ridge"))
    if pair[2] in FITS[pair[0]]
]


@pytest.mark.parametrize(("first", "second", "learner"), PAIRS)
def test_a_transform_of_a_transform_works_or_is_refused_when_made(first, second, learner):
    """Refused is what would throw an outer loss away: whoever sets one goes first."""
    inner = TRANSFORMS[first](LEARNERS[learner])
    if _plays(first, second, learner):
        plays(TRANSFORMS[second](inner))
    else:
        with pytest.raises(UserError) as error:
            TRANSFORMS[second](inner)
        assert second in one_line(error)


def test_a_residual_learner_is_the_learner_of_what_the_offset_leaves():
    """Ridge beside a linear offset: scores and gradients are those on labels less the offset."""
    offset, learner = vector_linear(), ridge(identity(), zero(), 3)
    beside = residual(learner, offset)
    params = beside.init(KEY, EPISODE)
    params["offset"] = {"head": {"kernel": jnp.array([0.3, -0.1, 2.0])}}
    base = lambda e, p: offset.apply(p["offset"], (), e.inputs)
    left = lambda e, p: e._replace(label=e.label - base(e, p))
    support, query = left(EPISODE.support, params), EPISODE.query
    state = beside.adapt(params, beside.start(params, ()), EPISODE.support, KEY)
    own = params["learner"]
    alone = learner.adapt(own, learner.start(own, ()), support, KEY)
    expected = base(query, params) + learner.predict(own, alone, query.inputs)
    np.testing.assert_allclose(beside.predict(params, state, query.inputs), expected, rtol=1e-5)
    on_left = lambda p: learner.loss(
        p["learner"], Episode((), left(EPISODE.support, p), left(query, p)), KEY
    )[0]
    found = jax.jit(jax.grad(lambda p: beside.loss(p, EPISODE, KEY)[0]))(params)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, found, jax.grad(on_left)(params))


def test_labels_shown_unchanged_reach_the_learner_whole():
    """The mean label 2 + the offset 2 of both rows: what is encoded is not what is left."""
    mean = ridge(ones(), zero(), 1, precision=1e-6)
    offset = Model(lambda k, p, x: {}, lambda params, p, x: 2.0 * jnp.ones(len(x)))
    support = Examples(jnp.ones((2, 3)), jnp.array([1.0, 3.0]), jnp.ones(2))
    for shown, expected in ((jnp.subtract, 2.0), (unchanged, 4.0)):
        beside = residual(mean, offset, shown=shown)
        params = beside.init(KEY, Episode((), support, support))
        state = beside.adapt(params, beside.start(params, ()), support, KEY)
        np.testing.assert_allclose(beside.predict(params, state, support.inputs), expected, 1e-4)
    with pytest.raises(UserError, match="without the argument shown"):
        residual(pooled(MLP), offset, shown=unchanged)


def test_attenuating_twice_scales_twice():
    """With gamma = 1/2 of both networks, a quarter of the start is left before the inner step."""
    model = vector_linear()
    maml = gradient(model, optax.sgd(0.1), 1)
    twice = attenuate(attenuate(maml))
    params = twice.init(KEY, EPISODE)
    half = lambda layers: [*layers[:-1], jax.tree.map(jnp.zeros_like, layers[-1])]
    inner = params["learner"]
    params = {
        "learner": {**inner, "attenuator": half(inner["attenuator"])},
        "attenuator": half(params["attenuator"]),
    }
    start = {"model": jax.tree.map(lambda x: x / 4, inner["learner"]["model"]), "rates": ()}
    adapted = twice.adapt(params, twice.start(params, ()), EPISODE.support, KEY)
    expected = maml.adapt(start, maml.start(start, ()), EPISODE.support, KEY)
    assert twice.adapted is not None
    found = twice.adapted.get(adapted)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected.fast)
    assert twice.num_gradients == 3
