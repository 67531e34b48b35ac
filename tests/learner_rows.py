"""The rows of the contract battery: every learner, adapter and transform that must pass it.

To add a learner, append a `Row` to `ROWS`. What a learner may do differently is a property of its
row, never a question about its name: `tests/test_contract.py` reads properties only.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from metajax import losses, optim, tree
from metajax.adapters.mixed import mixed
from metajax.data.worlds.domains import TwoDomains
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.amortized import neural_process
from metajax.learners.closed_form import ridge
from metajax.learners.cold_start import cross_domain
from metajax.learners.gradient.context import cavia
from metajax.learners.gradient.fast_perceptron import fast_maml
from metajax.learners.gradient.implicit import implicit
from metajax.learners.gradient.maml import gradient
from metajax.learners.history import reader
from metajax.learners.metric import prototypes
from metajax.learners.pooled import fine_tuned, pooled
from metajax.models.attention import focused
from metajax.models.features import conditioned_mlp, labeled_features, vector_features
from metajax.models.towers import identity, vector_linear, vector_mlp
from metajax.transforms.augment import forget
from metajax.transforms.clustered import Features, clustered, soft
from metajax.transforms.committee import committee
from metajax.transforms.mix import meta_mix
from metajax.transforms.ordered import ordered
from metajax.transforms.per_label import per_label
from metajax.transforms.regularize import noisy
from metajax.transforms.reptile import reptile
from metajax.transforms.weigh import weighed
from metajax.types import Episode, Examples, MetaLearner, Model


class World(Protocol):
    """Tasks with a known best answer."""

    def sample(self, key: jax.Array) -> Episode:
        """One task."""
        ...

    def bayes(self, episode: Episode) -> jax.Array:
        """The query scores (Q,) that no learner can beat in expectation."""
        ...


class Row(NamedTuple):
    """A learner, the world it is tried in, and what may be expected of it.

    Attributes:
      name: the id of the test.
      learner: what is tried.
      world: tasks whose inputs and profile the learner understands.
      adapts: the support changes its predictions, and after training for the better.
      order_free: the order of the support does not matter.
      outer: what ``learner.loss`` is of the query after adapting on the support; None where the
        outer loss is something else (joint training, surrogates, likelihoods, regularizers).
      unlearned: a filter for meta-parameters whose outer gradient is zero, by design.
      tx: the outer optimizer of the trial.
      num_steps: outer steps of the trial, of `BATCH` tasks each.
      tolerance: how far two ways of computing the same number may be apart, relative and absolute.
    """

    name: str
    learner: MetaLearner
    world: World
    adapts: bool = True
    order_free: bool = True
    outer: losses.Loss | None = losses.squared_error
    unlearned: tree.Filter = tree.nothing
    tx: optax.GradientTransformation = optax.adam(0.02)
    num_steps: int = 200
    tolerance: float = 2e-4


BATCH = 16
"""Tasks per outer step of a trial."""


@dataclasses.dataclass(frozen=True)
class BiasedUsers:
    """`LatentUsers` with weak tastes whose users also have a bias ``b_u ~ N(mean_bias, 1)``.

    The last column of the inputs is the constant 1, so that the bias is the last weight.
    """

    users: LatentUsers
    mean_bias: float = 0.5

    def sample(self, key: jax.Array) -> Episode:
        """One user."""
        key_user, key_bias = jax.random.split(key)
        episode = self.users.sample(key_user)
        bias = self.mean_bias + jax.random.normal(key_bias)
        add = lambda e: e._replace(
            inputs=jnp.concatenate([e.inputs, jnp.ones_like(e.label)[:, None]], axis=1),
            label=e.label + bias,
        )
        return Episode((), add(episode.support), add(episode.query))

    def bayes(self, episode: Episode) -> jax.Array:
        """The posterior mean under the prior N([w_bar, mean_bias], diag(tau^2, 1))."""
        x, label, mask = episode.support
        mean = jnp.append(self.users.mean_weights, self.mean_bias)
        prior = jnp.append(jnp.full(self.users.dim, self.users.tau**-2.0), 1.0)
        x = x * mask[:, None]
        normal = x.T @ x / self.users.sigma**2 + jnp.diag(prior)
        moment = x.T @ ((label - x @ mean) * mask) / self.users.sigma**2
        return episode.query.inputs @ (mean + jnp.linalg.solve(normal, moment))


def zero() -> Model:
    """A model that scores 0 and has no parameters."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, x: jnp.zeros(len(x)))


def last_column() -> Model:
    """The last input column as the only feature (N, 1), without parameters."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, inputs: inputs[:, -1:])


def embedded(dim: int, hidden: int) -> Model:
    """An embedding of the inputs, a hidden layer and a head: MeLU's parts under MeLU's paths."""

    def init(key: jax.Array, profile, inputs: jax.Array):
        key_embed, key_body, key_head = jax.random.split(key, 3)
        normal = lambda key, a, *b: jax.random.normal(key, (a, *b)) / jnp.sqrt(a)
        return {
            "embed": normal(key_embed, inputs.shape[-1], dim),
            "body": {"kernel": normal(key_body, dim, hidden), "bias": jnp.zeros((1, hidden))},
            "head": {"kernel": normal(key_head, hidden), "bias": jnp.zeros(())},
        }

    def apply(params, profile, inputs: jax.Array) -> jax.Array:
        body, head = params["body"], params["head"]
        x = jnp.tanh(inputs @ params["embed"] @ body["kernel"] + body["bias"])
        return x @ head["kernel"] + head["bias"]

    return Model(init, apply)


def _narrow_rows(users: LatentUsers) -> list[Row]:
    """Learners over networks that compute in bfloat16, whose roundings are of 1/256."""
    process = neural_process(mixed(labeled_features((8, 8))), mixed(conditioned_mlp((8,))), 8)
    learners = {
        "maml_narrow": gradient(mixed(vector_mlp((12,))), optax.sgd(0.1), 2),
        "anil_narrow": gradient(
            mixed(embedded(6, 12)), optax.sgd(0.1), 2, adapts=tree.under("head")
        ),
        "ridge_narrow": ridge(mixed(vector_features((6,))), mixed(vector_mlp((12,))), 6),
        "neural_process_narrow": process,
    }
    return [Row(name, learner, users, tolerance=8 / 256) for name, learner in learners.items()]


def _rows() -> list[Row]:
    """The learners of the core: by gradient, without tasks, in closed form."""
    users = LatentUsers(dim=4, num_support=12, num_query=8, random_shots=True)
    biased = BiasedUsers(dataclasses.replace(users, tau=0.3))
    linear, mlp, parts = vector_linear(), vector_mlp((12,)), embedded(6, 12)
    descent = optax.sgd(0.4)
    head, slow = tree.under("head"), optax.sgd(0.1)
    maml = gradient(linear, descent, 3)
    told = Features(users.dim, lambda x: x, lambda x: jnp.zeros(len(x)))
    places = jax.random.normal(jax.random.key(5), (3, users.dim))
    side = lambda x: (x[:, 0] > 0).astype(int)
    near = lambda x: 0.5 + jax.nn.sigmoid(x[:, 0])
    return [
        Row("maml", maml, users),
        Row("maml_mlp", gradient(mlp, slow, 2), users),
        Row("maml_dual", fast_maml(mlp, 0.1, 2), users),
        Row("maml_scanned", gradient(linear, slow, 6), users),
        Row("fomaml", gradient(linear, descent, 3, second_order=False), users),
        Row("anil", gradient(parts, slow, 2, adapts=head), users),
        Row("boil", gradient(parts, slow, 2, adapts=tree.negate(head)), users),
        Row("melu", gradient(parts, slow, 2, adapts=tree.under("body", "head")), users),
        Row("meta_sgd", gradient(linear, optim.learned_rates(0.4), 3), users),
        Row("step_rates", gradient(linear, optim.learned_step_rates(0.4, 3), 3), users),
        Row("inner_adam", gradient(linear, optax.adam(0.2, eps_root=1e-8), 5), users),
        Row("reptile", reptile(maml), users, outer=None),
        Row("pooled", pooled(linear), users, adapts=False, outer=None),
        Row("fine_tuned", fine_tuned(linear, descent, 3), users, outer=None),
        Row("committee", committee(gradient(mlp, slow, 2), 3), users, outer=None),
        Row("ridge", ridge(identity(), zero(), users.dim), users),
        Row("ridge_mlp", ridge(identity(), mlp, users.dim), users),
        Row("weighed", weighed(ridge(identity(), zero(), users.dim), near), users, outer=None),
        Row("ordered", ordered(ridge(identity(), zero(), users.dim)), users, outer=None),
        Row("forget", forget(ridge(identity(), zero(), users.dim), 0.3), users, outer=None),
        Row(
            "clustered",
            clustered(ridge(identity(), zero(), users.dim), 3, told, soft(places)),
            users,
        ),
        Row("per_label", per_label(ridge(identity(), zero(), users.dim), 2, side), users),
        Row("bias", ridge(last_column(), linear, 1), biased),
        Row("item_mean", pooled(linear), biased, adapts=False, outer=None),
        *_narrow_rows(users),
    ]


ROWS: list[Row] = _rows()
"""Every row of the battery. To add one: ``ROWS.append(Row(...))`` or ``ROWS += [...]``."""


@dataclasses.dataclass(frozen=True)
class TwoKinds:
    """Points of two kinds around centers of the task's own; the label is the kind, 0 or 1.

    Kind c has its center at ``m_c ~ N(0, spread^2 I)`` and its points at ``N(m_c, I)``. Scores are
    probabilities of kind 1: under squared error nothing beats the posterior probability.
    """

    dim: int = 3
    spread: float = 1.5
    num_support: int = 12
    num_query: int = 8

    def sample(self, key: jax.Array) -> Episode:
        """One task with 0 to ``num_support`` real support rows."""
        key_center, key_kind, key_point, key_shots = jax.random.split(key, 4)
        k, n = self.num_support, self.num_support + self.num_query
        center = self.spread * jax.random.normal(key_center, (2, self.dim))
        kind = jax.random.bernoulli(key_kind, shape=(n,)).astype(jnp.int32)
        x = center[kind] + jax.random.normal(key_point, (n, self.dim))
        shots = jax.random.randint(key_shots, (), 0, k + 1)
        mask = (jnp.arange(k) < shots).astype(x.dtype)
        label = kind.astype(x.dtype)
        query = Examples(x[k:], label[k:], jnp.ones(self.num_query))
        return Episode((), Examples(x[:k], label[:k], mask), query)

    def bayes(self, episode: Episode) -> jax.Array:
        """The posterior probability (Q,), each center integrated out by its conjugate prior."""
        x, label, mask = episode.support

        def log_density(kind: int) -> jax.Array:
            mine = mask * (label == kind)
            precision = jnp.sum(mine) + self.spread**-2.0
            mean = jnp.sum(x * mine[:, None], axis=0) / precision
            variance = 1.0 + 1.0 / precision
            square = jnp.sum((episode.query.inputs - mean[None, :]) ** 2, axis=1)
            return -0.5 * square / variance - 0.5 * self.dim * jnp.log(variance)

        return jax.nn.sigmoid(log_density(1) - log_density(0))


def probability(learner: MetaLearner) -> MetaLearner:
    """A learner of two classes whose scores are the probability of class 1."""
    return learner._replace(
        predict=lambda *given: jax.nn.softmax(learner.predict(*given), axis=1)[:, 1]
    )


def _few_shot_rows() -> list[Row]:
    """The learners of the few-shot classics beyond plain gradients."""
    users = LatentUsers(dim=4, num_support=12, num_query=8, random_shots=True)
    linear, parts = vector_linear(), embedded(6, 12)
    process = neural_process(labeled_features((16, 16)), conditioned_mlp((16,)), 16)
    body = tree.under("model/embed", "model/body")
    anil = gradient(parts, optax.sgd(0.1), 2, adapts=tree.under("head"))
    context = tree.under("model/context")
    kinds = probability(prototypes(vector_features((6,)), 2, 6))
    own_focus = {"adapts": tree.under("focus"), "inner": optim.learned_rates(0.3), "num_steps": 1}
    reads = reader(focused(4), users.num_support, users.dim, **own_focus)
    return [
        Row("imaml", implicit(linear, optax.sgd(0.1), 15, strength=0.3), users),
        Row(
            "imaml_head",
            implicit(parts, optax.sgd(0.05), 15, strength=0.3, adapts=tree.under("head")),
            users,
        ),
        Row("cavia", cavia(conditioned_mlp((12,)), 4, optax.sgd(0.5), 2), users, unlearned=context),
        Row("neural_process", process, users),
        Row("history", reads, users),
        Row("meta_mix", meta_mix(gradient(vector_linear(), optax.sgd(0.4), 2)), users, outer=None),
        Row("prototypes", kinds, TwoKinds(), outer=None),
        Row("mr_maml", noisy(anil, 1e-4, body), users, outer=None),
    ]


ROWS += _few_shot_rows()


@dataclasses.dataclass(frozen=True)
class CrossedUsers:
    """Users of `TwoDomains` whose source examples are their profile, with a support in the target.

    The profile has the sums ``gram`` (D, D) and ``moment`` (D,), and the ridge solution ``vector``.
    """

    world: TwoDomains

    def sample(self, key: jax.Array) -> Episode:
        """One user; the first ``num_support`` target rows, or fewer, are the support."""
        key_user, key_shots = jax.random.split(key)
        source, target = self.world.sample(key_user)[1:]
        x, count = source.inputs, self.world.num_support
        gram, moment = x.T @ x, x.T @ source.label
        vector = jnp.linalg.solve(gram + jnp.eye(len(gram)), moment)
        shots = jax.random.randint(key_shots, (), 0, count + 1)
        support = jax.tree.map(lambda x: x[:count], target)
        query = jax.tree.map(lambda x: x[count:], target)
        shown = (jnp.arange(count) < shots) * support.mask
        profile = {"gram": gram, "moment": moment, "vector": vector}
        return Episode(profile, support._replace(mask=shown), query)

    def bayes(self, episode: Episode) -> jax.Array:
        """The posterior mean given the rows of both domains, from their joint Gaussian."""
        world, (x, label, mask) = self.world, episode.support
        size = world.dim
        block = jnp.array([[1.0, world.rho], [world.rho, 1.0]]) * (world.tau / world.sigma) ** 2
        prior = jnp.linalg.inv(jnp.kron(block, jnp.eye(size)))
        mean = jnp.tile(world.mean_weights, 2)
        seen = x * mask[:, None]
        zero = jnp.zeros((size, size))
        gram = jnp.block([[episode.profile["gram"], zero], [zero, seen.T @ seen]])
        moment = jnp.concatenate([episode.profile["moment"], seen.T @ (label * mask)])
        return episode.query.inputs @ jnp.linalg.solve(prior + gram, prior @ mean + moment)[size:]


def _cross_domain_rows() -> list[Row]:
    """Learners whose prior comes from the profile."""
    users = CrossedUsers(TwoDomains(rho=0.6, dim=3, marks=0, num_support=6, num_query=16))
    source = lambda profile: (profile["gram"], profile["moment"])
    joint = cross_domain.joint_prior((3, 3), source)
    bridge = cross_domain.bridge_prior(cross_domain.mlp_bridge(3))
    head = lambda prior: cross_domain.profile_ridge(identity(), zero(), prior)
    still, strength = tree.under("prior/first"), tree.under("prior/log_precision")
    return [
        Row("joint_prior", head(joint), users, unlearned=still),
        Row("bridge", head(bridge), users, unlearned=strength),
    ]


ROWS += _cross_domain_rows()
