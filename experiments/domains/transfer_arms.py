"""The people, the cures and the settings of negative_transfer."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import precision
from metajax.data.shared_users import Pair
from metajax.data.worlds.domains import TwoDomains
from metajax.learners.cold_start import cross_domain as crossing
from metajax.optim import balance
from metajax.results.groups import Kinds

from . import cross_data as data
from . import transfer_report as report

FIRST, REST = slice(data.SHOTS), slice(data.SHOTS, None)
"""Rows that are given, and that are asked for."""
ASKED = 20
"""Rows of the world that a person is asked for."""
POOL = 30
"""Items that a teacher labels for its student."""
RATE, STEPS, MOST_STEPS = 0.05, 100, 160
"""Of Adam, for decorrelated experts; PCGrad takes at most `MOST_STEPS`."""


class People(NamedTuple):
    """Users of two domains, as one user's arrays or with a leading axis of users (U, ...).

    Attributes:
      gram, moment: X'X (D, D) and X'y (D,) of the source rows; labels are minus what is expected
        of everybody, in units in which the noise of both domains is equal.
      x, y, mask: (K, D), (K,), (K,) the target's rows that are given.
      asked_x, asked_y, asked_mask: those that are asked for.
    """

    gram: Any
    moment: Any
    x: Any
    y: Any
    mask: Any
    asked_x: Any
    asked_y: Any
    asked_mask: Any


class Known(NamedTuple):
    """What is known of a pair of domains from training people.

    Attributes:
      pool: (`POOL`, D) target items.
      mean, precision: (2 D,) and (2 D, 2 D) of a joint prior.
    """

    pool: Any
    mean: Any
    precision: Any


class Domains(NamedTuple):
    """A pair of domains: part -> its people, and how many they are; they are padded to one size.

    ``groups`` are those of the test people of a log.
    """

    people: dict[str, People]
    count: dict[str, int]
    known: Known
    groups: Kinds | None = None


def with_shots(people: People, shots: int) -> People:
    """The people with their first target rows alone."""
    return people._replace(mask=people.mask * (np.arange(people.mask.shape[1]) < shots))


def of_other_people(people: People, count: int) -> People:
    """The control, a random second task: everybody has the source behaviour of somebody else."""
    other = np.arange(len(people.gram))
    other[:count] = np.roll(other[:count], 1)
    return people._replace(gram=people.gram[other], moment=people.moment[other])


def domains(people: Mapping[str, People], most: int, noise: float) -> Domains:
    """The parts cut or padded to ``most`` people, and what training people tell."""
    count = {k: min(len(p.gram), most) for k, p in people.items()}
    padded = {
        k: jax.tree.map(lambda x, n=count[k]: np.float32(x[np.resize(np.arange(n), most)]), p)
        for k, p in people.items()
    }
    train = jax.tree.map(lambda x: np.asarray(x[: count["train"]]), padded["train"])
    x = np.concatenate([train.x, train.asked_x], axis=1)
    mask = np.concatenate([train.mask, train.asked_mask], axis=1)
    y = np.concatenate([train.y, train.asked_y], axis=1)
    size = x.shape[-1]
    gram = np.zeros((len(x), 2 * size, 2 * size))
    gram[:, :size, :size] = train.gram
    gram[:, size:, size:] = np.einsum("ukd,uke,uk->ude", x, x, mask)
    moment = np.concatenate([train.moment, np.einsum("ukd,uk,uk->ud", x, y, mask)], axis=1)
    mean, joint = crossing.estimated_prior(gram, moment, noise)
    rows = x[mask > 0]
    pool = rows[np.random.default_rng(0).choice(len(rows), POOL)]
    return Domains(padded, count, Known(*map(np.float32, (pool, mean, joint))))


def of_world(rho: float, source_rows: int, most: int) -> Domains:
    """People of `TwoDomains`; the mean weights are known, as item means are in a log."""
    shape = {"num_support": source_rows, "num_query": data.SHOTS + ASKED}
    world = TwoDomains(rho=rho, marks=0, **shape)

    def sums(key: jax.Array) -> People:
        one = world.sample(key)
        away = lambda rows: rows.label - rows.inputs @ world.mean_weights
        there, here = one.support, one.query
        x, y, ones = here.inputs, away(here), jnp.ones(data.SHOTS + ASKED)
        rows = (v[part] for part in (FIRST, REST) for v in (x, y, ones))
        return People(there.inputs.T @ there.inputs, there.inputs.T @ away(there), *rows)

    draw = jax.jit(jax.vmap(sums))
    keys = jax.random.split(jax.random.key(18), (3, most))
    parts = dict(zip(("train", "valid", "test"), map(draw, keys), strict=True))
    return domains(jax.tree.map(np.asarray, parts), most, world.sigma**2)


def of_pair(pair: Pair, hidden: float, most: int) -> Domains:
    """People of two logs; items have vectors that were fitted to both logs without these people."""
    of_source = data.side(pair.source, np.arange(len(pair.source)))
    found = data.crossing(pair, hidden, of_source)
    rows, x = found.rows, found.rows.inputs["shared_x"]
    y = rows.label - rows.inputs["shared_offset"]
    enough = rows.mask.sum(axis=1) >= data.SHOTS + data.FEWEST
    parts = {}
    for name in ("train", "valid", "test"):
        who = found.parts[name]
        who = who[enough[who]]
        values = (v[who][:, part] for part in (FIRST, REST) for v in (x, y, rows.mask))
        parts[name] = People(found.profile["gram"][who], found.profile["moment"][who], *values)
    kinds = data.groups_of(pair, who[:most])  # the test is the last part
    return domains(parts, most, found.noise)._replace(groups=kinds)


Arm = Callable[[People, jax.Array, Known], jax.Array]
"""(a user, settings (3,): ridge penalty, knob, limit; what is known) -> weights (D,)."""


def ridge(gram: jax.Array, moment: jax.Array, penalty: jax.Array) -> jax.Array:
    """The weights (D,) of a ridge regression."""
    return jax.scipy.linalg.solve(gram + penalty * jnp.eye(len(moment)), moment, assume_a="pos")


def sums(user: People) -> tuple[jax.Array, jax.Array]:
    """X'X (D, D) and X'y (D,) of the given target rows."""
    x = user.x * user.mask[:, None]
    return x.T @ x, x.T @ user.y


def scratch(user: People, settings: jax.Array, known: Known) -> jax.Array:
    """Target rows alone."""
    del known
    return ridge(*sums(user), settings[0])


def reweighted(user: People, settings: jax.Array, known: Known) -> jax.Array:
    """Source rows with the weight of the knob, and target rows; plain transfer has the weight 1."""
    del known
    gram, moment = sums(user)
    weight = settings[1]
    return ridge(weight * user.gram + gram, weight * user.moment + moment, settings[0])


def distilled(user: People, settings: jax.Array, known: Known, shuffled: bool = False) -> jax.Array:
    """Target rows, and items labeled by a teacher that has seen the source rows alone.

    Only items on which the teacher's variance is at most the limit are labeled.

    Args:
      shuffled: the control: as many items, whichever they are.
    """
    penalty, weight, limit = settings
    gram, moment = sums(user)
    teacher = ridge(user.gram, user.moment, penalty)
    opened = variance(user, penalty, known.pool) <= limit
    if shuffled:
        opened = opened[np.random.default_rng(1).permutation(POOL)]
    x = known.pool * opened[:, None]
    pseudo = weight * x.T @ x
    return ridge(gram + pseudo, moment + pseudo @ teacher, penalty)


def variance(user: People, penalty: Any, pool: jax.Array) -> jax.Array:
    """How unsure (P,) the teacher is of items (P, D), in units of the noise."""
    covariance = jnp.linalg.inv(user.gram + penalty * jnp.eye(pool.shape[1]))
    return jnp.einsum("pd,de,pe->p", pool, covariance, pool)


unsure = jax.jit(jax.vmap(variance, (0, None, None)))
"""`variance` (U, P) of many users."""


def source_loss(w: jax.Array, user: People) -> jax.Array:
    """Half the squared error () on source rows, but for a constant."""
    return 0.5 * w @ user.gram @ w - w @ user.moment


def target_loss(w: jax.Array, user: People) -> jax.Array:
    """Half the squared error () on the given target rows."""
    return 0.5 * jnp.sum(user.mask * (user.y - user.x @ w) ** 2)


def freed(user: People, settings: jax.Array, known: Known) -> jax.Array:
    """One vector for both domains; gradients that conflict are freed of it (PCGrad).

    The knob is the number of steps.
    """
    del known
    size = len(user.moment)
    tx = optax.chain(balance.pcgrad(), optax.adam(RATE))

    def losses(w: jax.Array) -> jax.Array:
        prior = 0.5 * settings[0] * w @ w
        return jnp.stack([source_loss(w, user) + prior, target_loss(w, user) + prior])

    def step(carry: Any, place: jax.Array):
        w, state = carry
        change, state = tx.update(jax.jacrev(losses)(w), state, w)
        return (jnp.where(place < settings[1], w + change, w), state), None

    start = jnp.zeros(size), tx.init(jnp.zeros(size))
    return jax.lax.scan(step, start, jnp.arange(MOST_STEPS))[0][0]


def decorrelated(user: People, settings: jax.Array, known: Known) -> jax.Array:
    """A shared expert and one per domain, all linear; the knob weighs sum (E_i'E_j)^2."""
    del known
    tx = optax.adam(RATE)

    def loss(parts: jax.Array) -> jax.Array:
        shared, there, here = parts
        fitted = source_loss(shared + there, user) + target_loss(shared + here, user)
        product = parts @ parts.T
        alike = jnp.sum(jnp.triu(product, 1) ** 2)
        return fitted + 0.5 * settings[0] * jnp.trace(product) + settings[1] * alike

    def step(carry: Any, place: jax.Array):
        del place
        parts, state = carry
        change, state = tx.update(jax.grad(loss)(parts), state)
        return (parts + change, state), None

    zero = jnp.zeros((3, len(user.moment)))
    parts = jax.lax.scan(step, (zero, tx.init(zero)), jnp.arange(STEPS))[0][0]
    return parts[0] + parts[2]


def joint(user: People, settings: jax.Array, known: Known) -> jax.Array:
    """The joint prior of cross_domain by EM, given the source rows; it has no setting."""
    del settings
    size = len(user.moment)
    prior = crossing.joint_prior(
        (size, size),
        lambda given: (given.gram, given.moment),
        lambda given: (known.mean, known.precision),
    )
    belief = prior.apply(prior.init(jax.random.key(0), user, ()), user, ())
    gram, moment = sums(user)
    return ridge(belief.precision + gram, belief.moment + moment, jnp.zeros(()))


ARMS: dict[str, Arm] = {
    report.SCRATCH: scratch,
    report.TRANSFER: reweighted,
    report.UNGATED: distilled,
    report.GATED: distilled,
    report.REWEIGHTED: reweighted,
    report.EXPERTS: decorrelated,
    report.PCGRAD: freed,
    report.JOINT: joint,
    report.RANDOM_GATE: partial(distilled, shuffled=True),
}


@partial(jax.jit, static_argnums=0)
@precision.highest
def _errors(name: str, settings: jax.Array, people: People, known: Known) -> jax.Array:
    def one(user: People, settings: jax.Array) -> jax.Array:
        off = user.asked_y - user.asked_x @ ARMS[name](user, settings, known)
        return jnp.sum(user.asked_mask * off**2) / jnp.sum(user.asked_mask)

    return jax.vmap(lambda s: jax.vmap(lambda user: one(user, s))(people))(settings)


def errors(name: str, settings: np.ndarray, of: Domains, part: str, shots: int) -> np.ndarray:
    """The mean squared errors (N, people) of an arm at settings (N, 3) or (3,)."""
    people, some = with_shots(of.people[part], shots), np.atleast_2d(settings)
    return np.asarray(_errors(name, np.float32(some), people, of.known))[:, : of.count[part]]


def mismatched(of: Domains, part: str) -> Domains:
    """The domains with the control's source behaviour in one part."""
    people = of_other_people(of.people[part], of.count[part])
    return of._replace(people=of.people | {part: people})
