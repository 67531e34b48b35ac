"""Several starts instead of one: a task begins near those whose first examples looked alike.

A clustered learner has shared meta-parameters and, for each of C clusters, a shift of them. A
task's first examples decide its shares in the clusters, and it starts from the shared parameters
plus the shifts by its shares. Who decides is an `Assign`: fixed centers, soft ones, a learned gate.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import precision, tree
from metajax.learners.closed_form import sums
from metajax.learners.parts import plain_loss, query_loss
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree, UserError


class Assign(NamedTuple):
    """How a task's shares in the clusters follow from where its first examples put it.

    Attributes:
      init: (key, episode) -> params.
      shares: (params, profile, code (D,), count ()) -> (C,), not negative, summing to 1. The code
        is 0 and the count 0 before any example.
    """

    init: Callable[[jax.Array, Episode], Params]
    shares: Callable[[Params, PyTree, jax.Array, jax.Array], jax.Array]


class Features(NamedTuple):
    """What a task's code is the ridge regression of.

    Attributes:
      size: D.
      of: inputs -> features (N, D).
      base: inputs -> labels (N,) of a task whose code is 0.
      penalty: of the regression.
    """

    size: int
    of: Callable[[PyTree], jax.Array]
    base: Callable[[PyTree], jax.Array]
    penalty: float = 3.0

    @precision.highest
    def code(self, examples: Examples) -> jax.Array:
        """The code (D,) of some examples; 0 without any."""
        x = jnp.where(examples.mask[:, None] > 0, self.of(examples.inputs), 0.0)
        y = jnp.where(examples.mask > 0, examples.label - self.base(examples.inputs), 0.0)
        gram, moment = sums(x, y, examples.mask)
        return jnp.linalg.solve(gram + self.penalty * jnp.eye(len(gram)), moment)


class State(NamedTuple):
    """A task's shares (C,) in the clusters, number of examples (), profile and learner's state."""

    shares: jax.Array
    count: jax.Array
    profile: PyTree
    inner: PyTree


def nearest(centers_CxD: jax.Array) -> Assign:
    """All to the nearest of given centers, which stay as they are."""

    def shares(params: Params, profile: PyTree, code: jax.Array, count: jax.Array) -> jax.Array:
        far = jnp.sum((code[None] - centers_CxD) ** 2, axis=1)
        return jax.nn.one_hot(jnp.argmin(far), len(centers_CxD))

    return Assign(lambda key, episode: {}, shares)


def soft(centers_CxD: jax.Array) -> Assign:
    """By a softmax of minus the squared distances to centers that move with the training.

    References: Yao et al., "Hierarchically structured meta-learning" (HSML), ICML 2019: soft
    clusters of task codes; its tree of clusters and its gate of parameters are left out.
    """
    spread = jnp.mean(jnp.sum((centers_CxD - centers_CxD.mean(axis=0, keepdims=True)) ** 2, axis=1))

    def init(key: jax.Array, episode: Episode) -> Params:
        return {"centers": jnp.asarray(centers_CxD), "log_sharpness": jnp.log(2.0 / spread)}

    def shares(params: Params, profile: PyTree, code: jax.Array, count: jax.Array) -> jax.Array:
        far = jnp.sum((code[None] - params["centers"]) ** 2, axis=1)
        return jax.nn.softmax(-jnp.exp(params["log_sharpness"]) * far)

    return Assign(init, shares)


def gate(num_clusters: int, num_code: int) -> Assign:
    """By a learned linear gate on the code and the logarithm of the number of examples."""

    def init(key: jax.Array, episode: Episode) -> Params:
        kernel = jax.random.normal(key, (num_code, num_clusters))
        zeros = jnp.zeros(num_clusters)
        return {"kernel": kernel, "count": zeros, "bias": zeros}

    @precision.highest
    def shares(params: Params, profile: PyTree, code: jax.Array, count: jax.Array) -> jax.Array:
        told = code @ params["kernel"] + jnp.log1p(count) * params["count"] + params["bias"]
        return jax.nn.softmax(told)

    return Assign(init, shares)


def given(name: str) -> Assign:
    """By the column ``name`` (C,) of the profile, whatever the examples: for random clusters."""
    return Assign(lambda key, episode: {}, lambda params, profile, code, count: profile[name] * 1.0)


def clustered(
    learner: MetaLearner, num_clusters: int, features: Features, assign: Assign
) -> MetaLearner:
    """The learner with a start for each cluster; a task's first examples decide its shares.

    The shares are decided once, by the first call of ``adapt`` with a real row; before it they are
    those of the code 0. All parameters of the learner must be floats.

    Args:
      features: of the code by which tasks are told apart.
      assign: code -> shares.

    Raises:
      UserError: ``num_clusters`` is below 1, or the learner has an outer loss of its own.
    """
    if num_clusters < 1:
        raise UserError(f"there is one cluster or more, not {num_clusters}")

    def init(key: jax.Array, episode: Episode) -> Params:
        key_learner, key_assign, key_own = jax.random.split(key, 3)
        shared = learner.init(key_learner, episode)
        # Equal shifts would leave a gate nothing to learn from in its first step.
        noise = lambda x: 0.01 * jax.random.normal(key_own, (num_clusters, *x.shape), x.dtype)
        own = jax.tree.map(noise, shared)
        return {"shared": shared, "own": own, "assign": assign.init(key_assign, episode)}

    def mixed(params: Params, shares: jax.Array) -> Params:
        shift = lambda x, own: x + jnp.tensordot(shares, own, axes=1, precision="highest")
        return jax.tree.map(shift, params["shared"], params["own"])

    def begun(params: Params, profile: PyTree, code: jax.Array, count: jax.Array) -> State:
        shares = assign.shares(params["assign"], profile, code, count)
        inner = learner.start(mixed(params, shares), profile)
        return State(shares, count, profile, inner)

    def start(params: Params, profile: PyTree) -> State:
        return begun(params, profile, jnp.zeros(features.size), jnp.zeros(()))

    def adapt(params: Params, state: State, examples: Examples, key: jax.Array) -> State:
        count = jnp.sum(examples.mask)
        fresh = begun(params, state.profile, features.code(examples), count)
        now = tree.where((state.count == 0) & (count > 0), fresh, state)
        inner = learner.adapt(mixed(params, now.shares), now.inner, examples, key)
        return now._replace(count=state.count + count, inner=inner)

    def predict(params: Params, state: State, inputs: PyTree) -> jax.Array:
        return learner.predict(mixed(params, state.shares), state.inner, inputs)

    loss = query_loss(start, adapt, predict, plain_loss(learner, "clustered"))
    return MetaLearner(init, start, adapt, predict, loss, learner.num_gradients)
