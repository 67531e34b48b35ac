"""A new user of a domain starts from what is known of that user in another domain.

The user's weights in the target domain get a Gaussian prior that is computed from the profile, the
behaviour in the source domain; ratings in the target domain update it in closed form. What differs
is the prior: a *bridge* maps the user's source vector to the prior's mean (EMCDR, TMCDR, PTUPCDR),
or the weights of both domains have one joint Gaussian prior, which is conditioned on the source
ratings (`joint_prior`): then the mean and how sure one is of it both depend on how much is known.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import losses
from metajax import precision as products
from metajax.learners.closed_form import solved, sums_of
from metajax.learners.parts import linear, linear_layer, query_loss
from metajax.learners.pooled import all_examples
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree


class Belief(NamedTuple):
    """A Gaussian over a task's weights, in units of the noise variance.

    Attributes:
      precision: (D, D), positive definite.
      moment: (D,) precision times mean.
      profile: the task's profile.
    """

    precision: jax.Array
    moment: jax.Array
    profile: PyTree = ()


Gradient = Callable[[Params, Episode, jax.Array], tuple[PyTree, dict[str, jax.Array]]]
"""(params, a batch of tasks, key) -> the gradient, and an info with ``loss``."""


class Prior(NamedTuple):
    """What a learner believes of a user before any rating in the target.

    Attributes:
      init: (key, profile, inputs) -> params.
      apply: (params, profile, inputs) -> `Belief`; the inputs are not used.
    """

    init: Callable[[jax.Array, PyTree, PyTree], Params]
    apply: Callable[[Params, PyTree, PyTree], Belief]


def profile_ridge(
    embed: Model, offset: Model, prior: Prior, *, loss: losses.Loss = losses.squared_error
) -> MetaLearner:
    """A ridge head whose prior is computed from the profile: ``score = offset(x) + embed(x)' w``.

    Adapting twice is the same as adapting once on both sets together.

    Args:
      embed: features (N, D); offset: scores (N,) of a task with zero weights.
      prior: see `Prior`.
      loss: the outer loss on the query set.
    """

    def init(key: jax.Array, episode: Episode) -> Params:
        keys = jax.random.split(key, 3)
        parts = {"embed": embed, "offset": offset, "prior": prior}
        given = episode.profile, episode.support.inputs
        return {k: m.init(key, *given) for key, (k, m) in zip(keys, parts.items(), strict=True)}

    def start(params: Params, profile: PyTree) -> Belief:
        found = prior.apply(params["prior"], profile, ())
        return found._replace(profile=profile)

    def adapt(params: Params, state: Belief, examples: Examples, key: jax.Array) -> Belief:
        del key
        gram, moment = sums_of(embed, offset, params, state.profile, examples)
        return state._replace(precision=state.precision + gram, moment=state.moment + moment)

    def predict(params: Params, state: Belief, inputs: PyTree) -> jax.Array:
        x_NxD = embed.apply(params["embed"], state.profile, inputs)
        base = offset.apply(params["offset"], state.profile, inputs)
        return base + solved(state.precision, state.moment, x_NxD)

    return MetaLearner(init, start, adapt, predict, query_loss(start, adapt, predict, loss))


def joint_prior(
    dims: tuple[int, int],
    source: Callable[[PyTree], tuple[jax.Array, jax.Array]],
    initial: Callable[[PyTree], tuple[jax.Array, jax.Array] | None] = lambda profile: None,
) -> Prior:
    """The target half of one Gaussian over both domains' weights, given the source's ratings.

    ``(w_source, w_target) ~ N(mean, precision^-1)``, both meta-parameters; the precision is
    ``L L'`` with a lower-triangular L. Where the source's examples have the sums X'X and X'y, the
    belief about ``w_target`` is the exact posterior. What carries over from one domain to the
    other is learned: with nothing in common, the source changes nothing.

    Args:
      dims: the numbers of weights in the source and in the target.
      source: profile -> (X'X (S, S), X'y (S,)) in units in which the noise of both domains is
        equal; labels minus what is expected of everybody.
      initial: profile -> mean (S + T,) and precision (S + T, S + T) that training starts from, such
        as those of `estimated_prior`; None is 0 and 1. Training moves ``params["moved"]`` alone.
    """
    size, first = sum(dims), dims[0]

    @products.highest
    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        del key, inputs
        mean, precision = initial(profile) or (jnp.zeros(size), jnp.eye(size))
        root = jnp.linalg.cholesky(precision)
        still = {
            "mean": jnp.asarray(mean),
            "log_diagonal": jnp.log(jnp.diagonal(root)),
            "below": jnp.tril(root, -1),
        }
        return {"first": still, "moved": jax.tree.map(jnp.zeros_like, still)}

    @products.highest
    def apply(params: Params, profile: PyTree, inputs: PyTree) -> Belief:
        del inputs
        still = jax.lax.stop_gradient(params["first"])
        now = jax.tree.map(jnp.add, still, params["moved"])
        root = jnp.tril(now["below"], -1) + jnp.diag(jnp.exp(now["log_diagonal"]))
        precision = root @ root.T
        gram, moment = source(profile)
        known = precision[:first, :first] + gram
        right = precision @ now["mean"]
        cross = precision[first:, :first]
        both = jnp.column_stack([cross.T, right[:first] + moment])
        found = jax.scipy.linalg.solve(known, both, assume_a="pos")
        return Belief(
            precision[first:, first:] - cross @ found[:, :-1], right[first:] - cross @ found[:, -1]
        )

    return Prior(init, apply)


def estimated_prior(
    gram: np.ndarray, moment: np.ndarray, noise: float, num_sweeps: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and precision (D, D) of a joint Gaussian over users' weights, by EM.

    It needs no gradient, and is where `joint_prior` starts from. The precision is in units of the
    noise variance.

    Args:
      gram: (U, D, D) each user's X'X over both domains, whose blocks between them are 0.
      moment: (U, D) X'y, the source's in units of the target's noise.
      noise: its variance.
      num_sweeps: iterations; few of them shrink towards 0 and 1.
    """
    size = gram.shape[-1]
    mean, covariance = np.zeros(size), np.eye(size)
    for _ in range(num_sweeps):
        prior = np.linalg.inv(covariance)
        spread = np.linalg.inv(prior + gram)
        w = np.einsum("uij,uj->ui", spread, prior @ mean + moment)
        mean = w.mean(axis=0)
        away = w - mean
        covariance = spread.mean(axis=0) + away.T @ away / (len(w) * noise)
    return mean, np.linalg.inv(covariance)


def bridge_prior(bridge: Model, precision: float = 1.0) -> Prior:
    """A prior whose mean is ``bridge.apply(params, profile, ())`` (D,), equally sure everywhere.

    Args:
      bridge: from the profile to the mean.
      precision: the ridge penalty, in ``params["log_precision"]``; constant in training.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        strength = jnp.log(jnp.asarray(precision, float))
        return {"bridge": bridge.init(key, profile, inputs), "log_precision": strength}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> Belief:
        mean = bridge.apply(params["bridge"], profile, inputs)
        strength = jnp.exp(jax.lax.stop_gradient(params["log_precision"]))
        return Belief(strength * jnp.eye(len(mean)), strength * mean)

    return Prior(init, apply)


def no_bridge(dim: int) -> Model:
    """The mean 0 (``dim``,): what a target-only learner starts from."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, x: jnp.zeros(dim))


def mlp_bridge(dim: int, hidden: Sequence[int] = (), name: str = "vector") -> Model:
    """From ``profile[name]`` (S,) to a mean (``dim``,); linear without hidden layers (EMCDR).

    References: Man, Shen, Jin, Cheng, "Cross-domain recommendation: an embedding and mapping
    approach", IJCAI 2017.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        widths = (profile[name].shape[-1], *hidden, dim)
        keys = jax.random.split(key, len(widths) - 1)
        pairs = zip(keys, widths[:-1], widths[1:], strict=True)
        return {f"layer{i}": linear_layer(*given) for i, given in enumerate(pairs)}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        x = profile[name]
        for i in range(len(hidden) + 1):
            x = linear(params[f"layer{i}"], jnp.tanh(x) if i else x)
        return x

    return Model(init, apply)


def personal_bridge(dim: int, hidden: int = 32) -> Model:
    """A linear bridge of the user's own, made by a network from the liked source items (PTUPCDR).

    ``profile`` has ``vector`` (S,), ``liked`` (N, F), the vectors of liked items in the source, and
    ``liked_mask`` (N,). Attention over the items gives a code, the code the matrix (``dim``, S).

    References: Zhu et al., "Personalized transfer of user preferences for cross-domain
    recommendation", WSDM 2022.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        size, width = profile["vector"].shape[-1], profile["liked"].shape[-1]
        key_first, key_score, key_code, key_out = jax.random.split(key, 4)
        return {
            "attend": linear_layer(key_first, width, hidden),
            "score": linear_layer(key_score, hidden, 1),
            "code": linear_layer(key_code, width, hidden),
            "matrix": linear_layer(key_out, hidden, dim * size),
        }

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        items, mask, vector = profile["liked"], profile["liked_mask"], profile["vector"]
        rate = lambda x: linear(params["score"], jax.nn.relu(linear(params["attend"], x)))[0]
        score = jax.vmap(rate)(items)
        weight = jax.nn.softmax(jnp.where(mask > 0, score, -1e9)) * mask
        code = jax.nn.relu(linear(params["code"], weight @ items))
        return linear(params["matrix"], code).reshape(dim, -1) @ vector

    return Model(init, apply)


def mapping_loss(learner: MetaLearner) -> MetaLearner:
    """The `profile_ridge` with EMCDR's outer loss: the mean squared distance of two vectors (D,).

    One is the prior's mean, the other the ridge solution (penalty 1) of all the task's examples.
    """

    @products.highest
    def loss(params: Params, episode: Episode, key: jax.Array):
        prior, all_rows = learner.start(params, episode.profile), all_examples(episode)
        none = Belief(jnp.eye(len(prior.moment)), 0.0 * prior.moment, episode.profile)
        own = learner.adapt(params, none, all_rows, key)
        gap = _mean(prior) - jax.lax.stop_gradient(_mean(own))
        value = jnp.mean(gap**2)
        return value, {"query_loss": value}

    return learner._replace(loss=loss)


@products.highest
def _mean(belief: Belief) -> jax.Array:
    return jax.scipy.linalg.solve(belief.precision, belief.moment, assume_a="pos")


def cold_loss(learner: MetaLearner, loss: losses.Loss = losses.squared_error) -> MetaLearner:
    """The learner with the loss of its cold start on all examples: how PTUPCDR is trained."""

    def outer(params: Params, episode: Episode, key: jax.Array):
        del key
        rows = all_examples(episode)
        scores = learner.predict(params, learner.start(params, episode.profile), rows.inputs)
        value = loss(scores, rows.label, rows.mask)
        return value, {"query_loss": value}

    return learner._replace(loss=outer)


def over_users(learner: MetaLearner, rate: float = 0.1) -> Gradient:
    """The gradient of a bridge that is meta-learned over users (TMCDR), for `loop.recipe`.

    Of a batch of users the first half is a task to adapt on: one gradient step of length ``rate``
    on their loss; the gradient is that of the loss of the other half afterwards, through the step.

    Args:
      learner: with a loss that does not adapt, such as that of `cold_loss`.

    References: Zhu et al., "Transfer-meta framework for cross-domain recommendation to cold-start
    users", SIGIR 2021.
    """

    def gradient(params: Params, batch: Episode, key: jax.Array):
        half = len(batch.query.mask) // 2

        def of_half(params: Params, part: slice) -> jax.Array:
            tasks = jax.tree.map(lambda x: x[part], batch)
            return jnp.mean(jax.vmap(lambda e: learner.loss(params, e, key)[0])(tasks))

        def outer(params: Params) -> jax.Array:
            slope = jax.grad(of_half)(params, slice(None, half))
            moved = jax.tree.map(lambda p, g: p - rate * g, params, slope)
            return of_half(moved, slice(half, None))

        value, slope = jax.value_and_grad(outer)(params)
        return slope, {"loss": value}

    return gradient
