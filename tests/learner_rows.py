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
from metajax.data.synthetic import LatentUsers
from metajax.learners.closed_form import ridge
from metajax.learners.gradient import gradient
from metajax.learners.pooled import fine_tuned, pooled
from metajax.models.towers import identity, vector_linear, vector_mlp
from metajax.transforms.reptile import reptile
from metajax.types import Episode, MetaLearner, Model


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


def _rows() -> list[Row]:
    """The learners of the core: by gradient, without tasks, in closed form."""
    users = LatentUsers(dim=4, num_support=12, num_query=8, random_shots=True)
    biased = BiasedUsers(dataclasses.replace(users, tau=0.3))
    linear, mlp, parts = vector_linear(), vector_mlp((12,)), embedded(6, 12)
    descent = optax.sgd(0.4)
    head, slow = tree.under("head"), optax.sgd(0.1)
    maml = gradient(linear, descent, 3)
    return [
        Row("maml", maml, users),
        Row("maml_mlp", gradient(mlp, slow, 2), users),
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
        Row("ridge", ridge(identity(), zero(), users.dim), users),
        Row("ridge_mlp", ridge(identity(), mlp, users.dim), users),
        Row("bias", ridge(last_column(), linear, 1), biased),
        Row("item_mean", pooled(linear), biased, adapts=False, outer=None),
    ]


ROWS: list[Row] = _rows()
"""Every row of the battery. To add one: ``ROWS.append(Row(...))`` or ``ROWS += [...]``."""
