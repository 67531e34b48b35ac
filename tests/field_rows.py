"""The rows of the battery that are the field's: cold-start learners, warm-up, ensembles."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from learner_rows import Row, TwoKinds, zero

from metajax import losses, optim, tree
from metajax.adapters.conditions import last_layer
from metajax.adapters.lora import lora
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.closed_form import ridge
from metajax.learners.cold_start.cmml import cmml
from metajax.learners.cold_start.lwa import lwa, nlba
from metajax.learners.cold_start.mamo import mamo, memory_optimizer
from metajax.learners.cold_start.metahin import metahin
from metajax.learners.cold_start.paml import paml
from metajax.learners.cold_start.tanp import tanp
from metajax.learners.ensemble import blended, gated, stacked
from metajax.learners.gradient.maml import gradient
from metajax.learners.item_warm_up.cvar import cvar
from metajax.learners.item_warm_up.dropout_net import dropout_net
from metajax.learners.item_warm_up.meta_embedding import meta_embedding
from metajax.learners.item_warm_up.mwuf import scale_and_shift
from metajax.learners.pooled import pooled
from metajax.models.features import conditioned_mlp, labeled_features, vector_features
from metajax.models.modulated import adaptive_decoder, film_mlp
from metajax.models.towers import identity, vector_linear, vector_mlp
from metajax.transforms.attenuate import attenuate
from metajax.transforms.dropgrad import dropgrad, gaussian_noise
from metajax.transforms.multistep import multistep
from metajax.transforms.residual import residual
from metajax.types import Episode, MetaLearner, Model


@dataclasses.dataclass(frozen=True)
class ProfiledUsers:
    """`LatentUsers` whose profile is their weights seen through noise: ``p ~ N(w_u, blur^2 I)``."""

    users: LatentUsers
    blur: float = 0.7

    def sample(self, key: jax.Array) -> Episode:
        """One user."""
        key_user, key_blur = jax.random.split(key)
        episode = self.users.sample(key_user)
        noise = self.blur * jax.random.normal(key_blur, (self.users.dim,))
        return episode._replace(profile=episode.profile + noise)

    def bayes(self, episode: Episode) -> jax.Array:
        """The posterior mean, the profile being one more noisy observation of the weights."""
        return _posterior(self.users, episode, episode.profile, jnp.ones(()), self.blur)


@dataclasses.dataclass(frozen=True)
class FriendlyUsers:
    """`LatentUsers` whose profile tells of friends, if known: ``f_j ~ N(w_u, blur^2 I)``."""

    users: LatentUsers
    num_friends: int = 3
    blur: float = 0.7

    def sample(self, key: jax.Array) -> Episode:
        """One user."""
        key_user, key_blur, key_known = jax.random.split(key, 3)
        episode = self.users.sample(key_user)
        shape = (self.num_friends, self.users.dim)
        friend = episode.profile[None, :] + self.blur * jax.random.normal(key_blur, shape)
        known = jax.random.bernoulli(key_known, 0.7, shape[:1]).astype(friend.dtype)
        return episode._replace(profile={"friend": friend * known[:, None], "known": known})

    def bayes(self, episode: Episode) -> jax.Array:
        """The posterior mean, each friend being one more noisy observation of the weights."""
        friend, known = episode.profile["friend"], episode.profile["known"]
        told = jnp.sum(friend, axis=0), jnp.sum(known)
        return _posterior(self.users, episode, *told, self.blur)


@dataclasses.dataclass(frozen=True)
class LinkedUsers:
    """`LatentUsers` with two paths from every item: to ``N(w_u, blur^2 I)``, and to noise.

    The neighbor of a support item tells of the user. That of a query item would too, but may not.
    """

    users: LatentUsers
    blur: float = 2.0

    def sample(self, key: jax.Array) -> Episode:
        """One user, whose inputs are ``x`` (N, D) and ``reach`` (N, 2, D + 1)."""
        key_user, key_support, key_query = jax.random.split(key, 3)
        episode = self.users.sample(key_user)
        w = jnp.stack([episode.profile, jnp.zeros(self.users.dim)])

        def linked(key, examples):
            shape = (len(examples.label), *w.shape)
            near = w[None] + self.blur * jax.random.normal(key, shape)
            one = jnp.ones((*shape[:2], 1))
            reach = jnp.concatenate([near, one], axis=2)
            return examples._replace(inputs={"x": examples.inputs, "reach": reach})

        support, query = linked(key_support, episode.support), linked(key_query, episode.query)
        return Episode((), support, query)

    def bayes(self, episode: Episode) -> jax.Array:
        """The posterior mean, the first neighbor of each support item being an observation."""
        (inputs, _, mask), plain = episode.support, lambda e: e._replace(inputs=e.inputs["x"])
        near = jnp.sum(inputs["reach"][:, 0, :-1] * mask[:, None], axis=0)
        flat = Episode((), plain(episode.support), plain(episode.query))
        return _posterior(self.users, flat, near, jnp.sum(mask), self.blur)


def _posterior(
    users: LatentUsers, episode: Episode, total: jax.Array, number: jax.Array, blur: float
) -> jax.Array:
    """Query scores under the posterior mean, given the sum of some ``N(w_u, blur^2 I)`` besides."""
    x, label, mask = episode.support
    x = x * mask[:, None]
    prior = users.tau**-2.0
    normal = x.T @ x / users.sigma**2 + (prior + number * blur**-2.0) * jnp.eye(users.dim)
    moment = x.T @ (label * mask) / users.sigma**2
    moment = moment + prior * users.mean_weights + total * blur**-2.0
    return episode.query.inputs @ jnp.linalg.solve(normal, moment)


def named(name: str) -> Model:
    """One column of the inputs, without parameters."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, inputs: inputs[name])


def friendly() -> MetaLearner:
    """PAML over the friends of `FriendlyUsers`."""
    return paml(
        vector_mlp((16,)),
        lambda params, profile, inputs: inputs,
        labeled_features((16, 8)),
        lambda profile: (profile["friend"], profile["known"]),
        optax.chain(optax.clip(1.0), optax.sgd(0.05)),
        3,
        num_code=8,
    )


def pathwise() -> MetaLearner:
    """MetaHIN over the paths of `LinkedUsers`."""
    return metahin(
        named("x"),
        named("reach"),
        conditioned_mlp((16,)),
        num_paths=2,
        num_code=8,
        path_rate=0.05,
        task_rate=0.05,
        clip=1.0,
    )


def bilinear(dim: int) -> Model:
    """The frozen base of a warm-up: ``x' A e`` of inputs x and the task's embedding e."""
    init = lambda key, profile, inputs: {"A": jnp.eye(dim)}
    return Model(init, lambda params, profile, x: x @ params["A"] @ profile[1])


def with_content(dim: int) -> Model:
    """``x' (A e + B profile)``: a base that hears content and embedding."""
    init = lambda key, profile, inputs: {"A": jnp.zeros((dim, dim)), "B": 0.1 * jnp.eye(dim)}
    mixed = lambda params, profile: params["A"] @ profile[1] + params["B"] @ profile[0]
    return Model(init, lambda params, profile, x: x @ mixed(params, profile))


def affine(width: int, bias: float = 0.0) -> Model:
    """``K' z + b`` of the profile joined with a vector, if there is one."""

    def joined(profile: jax.Array, inputs: jax.Array | tuple) -> jax.Array:
        return profile if isinstance(inputs, tuple) else jnp.concatenate([profile, inputs])

    def init(key: jax.Array, profile, inputs):
        shape = (joined(profile, inputs).shape[0], width)
        return {"K": 0.1 * jax.random.normal(key, shape), "b": jnp.full(width, bias, float)}

    return Model(init, lambda params, p, x: joined(p, x) @ params["K"] + params["b"])


def scaled_by_profile(dim: int) -> Model:
    """Features ``x * (W' profile + b)``, whose parameters are personal."""

    def init(key: jax.Array, profile, inputs):
        return {"W": 0.3 * jax.random.normal(key, (dim, dim)), "b": jnp.ones(dim)}

    return Model(init, lambda params, p, x: x * (p @ params["W"] + params["b"])[None, :])


def content_score() -> Model:
    """The score ``x' profile``, without parameters: what content alone says."""
    return Model(lambda key, p, x: {}, lambda params, p, x: x @ p)


def click_probability(learner: MetaLearner) -> MetaLearner:
    """A learner of logits whose scores are probabilities."""
    return learner._replace(predict=lambda *given: jax.nn.sigmoid(learner.predict(*given)))


def _transforms(users: LatentUsers) -> list[Row]:
    linear, rates = vector_linear(), optim.learned_step_rates(0.4, 3)
    noisy = optax.chain(gaussian_noise(0.1), optax.sgd(0.4))
    forgetting = gradient(vector_mlp((12,)), optax.sgd(0.1), 3)
    beside = residual(gradient(linear, optax.sgd(0.4), 3), linear)
    along = multistep(gradient(linear, rates, 1), (0.2, 0.3, 0.5))
    return [
        Row("losses_along_the_way", along, users, outer=None),
        Row("dropgrad", dropgrad(gradient(linear, noisy, 3)), users, outer=None),
        Row("residual", beside, users),
        Row("l2f", attenuate(forgetting, kept=0.99), users, num_steps=300),
    ]


def _amortized(users: LatentUsers) -> list[Row]:
    modulation = cmml(identity(), labeled_features((16, 4)), film_mlp((16,), 16), 4)
    process = tanp(
        identity(),
        labeled_features((16, 8)),
        labeled_features((16, 8)),
        adaptive_decoder((16,)),
        zero(),
        num_latent=4,
        num_codes=(8, 8),
        num_clusters=4,
        divergence_weight=0.01,
        cluster_weight=0.01,
    )
    weights, biases = lwa(identity(), 3), nlba(identity(), 3, (12,))
    return [
        Row("cmml", modulation, users),
        Row("tanp", process, users, outer=None),
        Row("lwa", click_probability(weights), TwoKinds(), outer=None),
        Row("nlba", click_probability(biases), TwoKinds(), outer=None),
    ]


def _profiled(world: ProfiledUsers) -> list[Row]:
    dim, descent, mse = world.users.dim, optax.sgd(0.4), losses.squared_error
    memories = mamo(
        scaled_by_profile(dim),
        vector_mlp(()),
        affine(dim),
        optax.chain(optax.clip(1.0), optax.sgd(0.05)),
        3,
        num_features=dim,
        num_description=dim,
    )
    base, frozen = bilinear(dim), tree.under("base")
    embedding = meta_embedding(base, affine(dim), dim, descent, 3, loss=mse)
    carried = scale_and_shift(
        base, identity(), affine(dim, 1.0), affine(dim), dim, dim, descent, 3, loss=mse
    )
    generated = cvar(
        base,
        affine(2 * dim),
        affine(2 * dim),
        affine(dim),
        dim,
        descent,
        3,
        num_teacher_steps=3,
        noise=0.1,
        wasserstein_weight=0.01,
        loss=mse,
    )
    pair = [ridge(identity(), zero(), dim, precision=0.3), pooled(content_score())]
    learned = ridge(identity(), zero(), dim, precision=0.3)
    bases = tree.under("bases")
    return [
        Row("mamo", memories, world, outer=None, tx=memory_optimizer(optax.adam(0.02))),
        Row("meta_embedding", embedding, world, outer=None, unlearned=frozen),
        Row("mwuf", carried, world, outer=None, unlearned=frozen),
        Row(
            "dropout_net",
            dropout_net(with_content(dim), identity(), dim, loss=mse),
            world,
            outer=None,
        ),
        Row("cvar", generated, world, outer=None, unlearned=frozen),
        Row("stack", stacked(pair), world, unlearned=bases),
        Row("gate", gated(pair), world, unlearned=bases, order_free=False),
        Row("blend", blended([learned, pooled(content_score(), loss=mse)]), world, outer=None),
    ]


def _adapters(users: LatentUsers) -> list[Row]:
    rank_one = lora(vector_mlp((12,)), 1, frozen=False, formed=True)
    head = last_layer(vector_features((12,)), frozen=False)
    adapter = tree.under("adapter")
    descent = optax.chain(optax.clip(1.0), optax.sgd(0.05))
    return [
        Row("lora", gradient(rank_one, descent, 3, adapts=adapter), users, num_steps=300),
        Row("last_layer", gradient(head, descent, 3, adapts=adapter), users, num_steps=300),
    ]


def _linked(users: LatentUsers) -> list[Row]:
    return [
        Row("paml", friendly(), FriendlyUsers(users), num_steps=300),
        Row("metahin", pathwise(), LinkedUsers(users), num_steps=300),
    ]


def _field_rows() -> list[Row]:
    users = LatentUsers(dim=4, num_support=12, num_query=8, random_shots=True)
    profiled = ProfiledUsers(dataclasses.replace(users, reveals=True))
    linked = _linked(profiled.users)
    return _transforms(users) + _adapters(users) + _amortized(users) + _profiled(profiled) + linked


FIELD_ROWS: list[Row] = _field_rows()
"""The field's rows, which stand beside those of `learner_rows.ROWS`."""
