"""Federated learning in two pure functions: what a client computes, what a server makes of it.

A client is a task that keeps its data. Each round the server sends the parameters to a few clients;
each answers with an `Upload`, and the server moves the parameters. `client(params, tasks, key)` and
the `Update` of `server` are all there is: `federated.simulator` vmaps the first over a cohort, and
`federated.flower` runs the same two in processes of their own.

==========  ====================================================================================
FedAvg      `local_steps` of a learner without adaptation (McMahan et al., AISTATS 2017)
FedProx     the same, with `proximal` before the client's optimizer (Li et al., MLSys 2020)
Ditto       FedAvg; new users adapt with `proximal` as inner optimizer (Li et al., ICML 2021)
FedMeta     `meta_gradient` of MAML or Meta-SGD (Chen et al., 2018, arXiv 1802.07876)
Per-FedAvg  `local_steps` of MAML (Fallah et al., NeurIPS 2020)
==========  ====================================================================================
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import tree
from metajax.training.outer_gradient import outer_gradient
from metajax.training.updates import Update, optimizer
from metajax.types import Episode, MetaLearner, Params, PyTree, UserError


class Upload(NamedTuple):
    """What one client sends; of a cohort, leaves (C, ...).

    Attributes:
      update: what the server descends, shaped as the parameters: a gradient, or the parameters
        that were received minus those after local steps.
      weight: () how much it counts in the server's mean; 0 if nothing arrived.
      loss: () the client's mean loss, for the log.
    """

    update: PyTree
    weight: jax.Array
    loss: jax.Array


Client = Callable[[Params, Episode, jax.Array], Upload]
"""(params, the client's own episodes (E, ...), key) -> upload."""


def meta_gradient(learner: MetaLearner, *, by_rows: bool = False) -> Client:
    """The client of FedMeta: it sends the outer gradient, averaged over its E episodes.

    With every client present and ``optax.sgd`` at the server, a round is one step of centralized
    MAML on these tasks.

    Args:
      learner: its ``loss`` is differentiated.
      by_rows: weigh the client by its number of ratings; else every client counts alike.
    """
    gradient = outer_gradient(learner)

    def client(params: Params, tasks: Episode, key: jax.Array) -> Upload:
        grads, info = gradient(params, tasks, key)
        return Upload(grads, _weight(tasks, by_rows), info["loss"])

    return client


def local_steps(
    learner: MetaLearner, tx: optax.GradientTransformation, *, by_rows: bool = True
) -> Client:
    """The client of FedAvg and its kin: a step of ``tx`` on the loss of each of its E episodes.

    Args:
      learner: ``pooled`` of a model gives FedAvg, ``gradient`` gives Per-FedAvg.
      tx: the client's optimizer, whose state starts anew each round.
      by_rows: weigh the client by its number of ratings; else every client counts alike.
    """

    descent = optimizer(tx)

    def client(params: Params, tasks: Episode, key: jax.Array) -> Upload:
        def step(carry: tuple, given: tuple):
            local, state = carry
            episode, key = given
            value, grads = jax.value_and_grad(lambda p: learner.loss(p, episode, key)[0])(local)
            return descent.apply(local, state, grads), value

        keys = jax.random.split(key, tasks.query.mask.shape[0])
        (local, _), losses = jax.lax.scan(step, (params, descent.init(params)), (tasks, keys))
        update = jax.tree.map(jnp.subtract, params, local)
        return Upload(update, _weight(tasks, by_rows), jnp.mean(losses))

    return client


def proximal(strength: float) -> optax.GradientTransformation:
    """A transformation that pulls parameters toward where they started: FedProx, Ditto.

    It adds ``strength * (parameters - start)``, the gradient of half the squared distance times
    ``strength``; the start is what ``init`` is given. Chain it before the optimizer.
    """

    def update(grads: PyTree, start: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        pulled = jax.tree.map(lambda g, p, s: g + strength * (p - s), grads, params, start)
        return pulled, start

    # optax accepts any callables here
    return optax.GradientTransformation(lambda params: params, update)  # type: ignore[arg-type]


def server(tx: optax.GradientTransformation) -> Update:
    """The server: it averages the uploads (C, ...) by weight and lets an optax optimizer descend.

    ``optax.sgd(1.0)`` is FedAvg; ``optax.adam`` is FedAdam (Reddi et al., ICLR 2021). If no upload
    has a weight, parameters and optimizer stay as they are.
    """

    descent = optimizer(tx)

    def apply(params: Params, state: Any, uploads: Upload) -> tuple[Params, Any]:
        some = jnp.sum(uploads.weight) > 0
        moved = descent.apply(params, state, average(uploads))
        return tree.where(some, moved, (params, state))

    return Update(descent.init, apply)


def average(uploads: Upload) -> PyTree:
    """The weighted mean of uploads (C, ...), shaped as the parameters; 0 if all weights are."""
    share_C = uploads.weight / jnp.maximum(jnp.sum(uploads.weight), 1e-12)
    mean = lambda u: jnp.tensordot(share_C, u, axes=1, precision="highest")
    return jax.tree.map(mean, uploads.update)


def without_unsound(uploads: Upload) -> tuple[Upload, jax.Array]:
    """The uploads (C, ...) with those that are not finite refused, and their number ().

    A refused upload has weight, update and loss 0. `accepted` is the same check for a real server.
    """
    finite = lambda x: jnp.all(jnp.isfinite(x.reshape(x.shape[0], -1)), axis=1)
    sound_C = jnp.all(jnp.stack([finite(x) for x in jax.tree.leaves(uploads)]), axis=0)
    clean = lambda x: jnp.where(sound_C.reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0)
    return jax.tree.map(clean, uploads), jnp.sum(~sound_C)


def accepted(params: Params, upload: Upload, client: object) -> Upload:
    """The upload itself, if the server can use it.

    Args:
      client: who sent it, for the message.

    Raises:
      UserError: its shape is not that of the parameters, or it is not finite.
    """
    shapes = lambda t: {
        tree.path_name(path): np.shape(x) for path, x in jax.tree_util.tree_flatten_with_path(t)[0]
    }
    wanted, sent = shapes(params), shapes(upload.update)
    for name in [*wanted, *sent]:
        if wanted.get(name) != sent.get(name):
            raise UserError(
                f"client {client}: the upload is refused, {name} is {sent.get(name)} and the "
                f"parameters have {wanted.get(name)}; give the client the server's model"
            )
    numbers = {**dict(zip(sent, jax.tree.leaves(upload.update), strict=True))}
    numbers |= {"weight": upload.weight, "loss": upload.loss}
    for name, value in numbers.items():
        if not np.isfinite(value).all():
            raise UserError(
                f"client {client}: the upload is refused, {name} is not finite; lower the client's "
                "rate, or look at its ratings"
            )
    return upload


def stacked(uploads: list[Upload]) -> Upload:
    """Uploads of single clients as those of a cohort, leaves (C, ...)."""
    return jax.tree.map(lambda *x: jnp.stack(x), *uploads)


def _weight(tasks: Episode, by_rows: bool) -> jax.Array:
    """1, or the number of a client's ratings: those of one of its episodes, on average."""
    if not by_rows:
        return jnp.ones(())
    return (jnp.sum(tasks.support.mask) + jnp.sum(tasks.query.mask)) / tasks.query.mask.shape[0]
