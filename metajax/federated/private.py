"""User-level differential privacy: one person's part is clipped, and noise hides it.

A person is a task, and a task is what a client uploads, so that clipping over the axis of clients
is privacy of whole people, not of single ratings. `server` is the private form of `rounds.server`;
`item_sums` and `gram_sums` are released once. How much privacy that is, `federated.accountant`
says. Only sums over people are released: what a person does with the parameters on their own
device, adapting included, is never sent and costs nothing.

Noise comes from a key. Whoever knows the key can take the noise off again: outside experiments draw
it from the system's randomness and forget it.

References: Abadi et al., CCS 2016 (DP-SGD); McMahan et al., ICLR 2018 (user level); Li et al.,
ICLR 2020 (meta-learning); Vu & Slavkovic, 2009, and Sheffet, 2017 (noisy sufficient statistics).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metajax import precision
from metajax.federated.rounds import Upload
from metajax.training.updates import Update, optimizer
from metajax.types import Params, PyTree, UserError

INSTALL = (
    "private learning needs jax-privacy and dp-accounting: pip install metajax[privacy], or see "
    "docs/privacy.md where attrs is too new for it"
)


class State(NamedTuple):
    """The state of a private server: of its optimizer, and the key of the next noise."""

    optimizer: Any
    key: jax.Array


def clipped_sum(clip: float) -> Callable[[PyTree, jax.Array], PyTree]:
    """(parts (C, ...), real (C,)) -> the sum of the real parts, each of norm ``clip`` at most.

    A part that is not finite counts as 0. Adding or leaving out one person moves the sum by
    ``clip`` at most, another person in their place by twice that.

    Raises:
      UserError: jax-privacy is not installed, or the clip is not positive.
    """
    try:
        from jax_privacy import clipping
    except ImportError as error:
        raise UserError(INSTALL) from error
    if not clip > 0:
        raise UserError(f"a clipping norm of {clip:g} lets nothing through; give one above 0")
    total = clipping.clipped_fun(lambda part: part, l2_clip_norm=clip, keep_batch_dim=False)
    return lambda parts, real: total(parts, is_padding_example=real <= 0)


def noised(key: jax.Array, total: PyTree, deviation: jax.Array | float) -> PyTree:
    """The tree plus independent normal noise of that standard deviation."""
    flat, unravel = ravel_pytree(total)
    return unravel(flat + deviation * jax.random.normal(key, flat.shape, flat.dtype))


def server(
    tx: optax.GradientTransformation,
    clip: float,
    noise: jax.Array | float,
    expected: float,
    key: jax.Array,
) -> Update:
    """A server that descends the clipped and noised sum of uploads, over their expected number.

    Every client counts once, whatever its weight; those of weight 0 do not. With ``noise`` 0 it is
    clipped averaging. The guarantee needs cohorts of `simulator.poisson`; ``expected`` is their
    mean size, since the real one is a secret too.

    Args:
      tx: the optimizer.
      clip: C, the largest norm of one client's update.
      noise: the noise multiplier; the standard deviation is this times C.
      expected: clients of a round.
      key: of the noise; each start gets one of its own by its parameters.
    """
    descent, total = optimizer(tx), clipped_sum(clip)

    def begin(params: Params) -> State:
        flat, _ = ravel_pytree(params)
        bits = jax.lax.bitcast_convert_type(jnp.sum(jnp.abs(flat)), jnp.uint32)
        return State(descent.init(params), jax.random.fold_in(key, bits))

    def apply(params: Params, state: State, uploads: Upload) -> tuple[Params, State]:
        key, now = jax.random.split(state.key)
        summed = noised(now, total(uploads.update, uploads.weight), noise * clip)
        grads = jax.tree.map(lambda x: x / expected, summed)
        params, of_tx = descent.apply(params, state.optimizer, grads)
        return params, State(of_tx, key)

    return Update(begin, apply)


class ItemSums(NamedTuple):
    """Sums over people, of one release.

    Attributes:
      total: (I,) of ratings less the mean; count: (I,) of ratings; with noise.
      scale: (T,) what each person's part was multiplied by; it stays with that person.
    """

    total: jax.Array
    count: jax.Array
    scale: jax.Array


def item_sums(
    person: jax.Array,
    item: jax.Array,
    value: jax.Array,
    shape: tuple[int, int],
    clip: float,
    noise: jax.Array | float,
    key: jax.Array,
    chosen: jax.Array | None = None,
) -> ItemSums:
    """Noisy sums of ratings by item; a person's part is their ratings and the number 1 of each.

    Args:
      person, item, value: (R,) of every rating: whose, of what, less the mean.
      shape: T people, I items.
      clip: C, the largest norm of one person's part; infinite for exact sums.
      noise: the standard deviation is this times C; 0 for none.
      key: of the noise.
      chosen: (T,) 1 for those who take part; None for all.
    """
    people, items = shape
    by_person = lambda x: jnp.zeros(people).at[person].add(x)
    norm = jnp.sqrt(by_person(value**2) + by_person(jnp.ones_like(value)))
    scale = jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12))
    scale = scale if chosen is None else scale * chosen
    weight = scale[person]
    by_item = lambda x: jnp.zeros(items).at[item].add(x)
    deviation = jnp.where(jnp.asarray(noise) > 0, noise * jnp.minimum(clip, 1e12), 0.0)
    total, count = noised(key, (by_item(weight * value), by_item(weight)), deviation)
    return ItemSums(total, count, scale)


@precision.highest
def gram_sums(
    x_TxNxD: jax.Array,
    y_TxN: jax.Array,
    mask_TxN: jax.Array,
    clip: float,
    noise: jax.Array | float,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Noisy sums of people's mean X'X (D, D) and X'y (D,): all that a linear start needs.

    A person's part is the mean over their ratings, clipped as one vector.

    Args:
      x_TxNxD: features of the ratings; y_TxN: what is to be explained of them.
      clip: C, the largest norm of one person's part.
      noise: the standard deviation is this times C.
    """
    count = jnp.maximum(mask_TxN.sum(axis=1), 1)
    x_TxNxD = x_TxNxD * mask_TxN[..., None]
    gram = jnp.einsum("tnd,tne->tde", x_TxNxD, x_TxNxD) / count[:, None, None]
    moment = jnp.einsum("tnd,tn->td", x_TxNxD, y_TxN * mask_TxN) / count[:, None]
    total = clipped_sum(clip)((gram, moment), jnp.ones(len(count)))
    gram, moment = noised(key, total, noise * clip)
    return (gram + gram.T) / 2, moment


@precision.highest
def linear_start(gram: jax.Array, moment: jax.Array, ridge: jax.Array | float) -> jax.Array:
    """Weights (D,) of the noisy normal equations, made positive definite.

    Args:
      ridge: what every eigenvalue is raised to at least; several standard deviations of the noise.
    """
    values, vectors = jnp.linalg.eigh(gram)
    return vectors @ ((vectors.T @ moment) / jnp.maximum(values, ridge))
