"""Many clients on one machine: the client vmapped over a cohort, the server as an outer optimizer.

`simulation` makes a `Recipe`, so that `training.loop.fit` runs the rounds: several seeds side by
side, the best round by validation, checkpoints from which a server that died goes on. A batch is a
`Cohort`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.federated import rounds
from metajax.federated.compression import Compression, message_bytes, num_bytes, with_feedback
from metajax.federated.rounds import Client, Upload
from metajax.training.steps import Recipe, Sampler
from metajax.training.updates import Update
from metajax.types import Episode, MetaLearner, Params, PyTree, UserError

Draw = Callable[[Any, jax.Array, jax.Array], Episode]
"""(data, client (), key) -> one episode of that client's own ratings."""


class Cohort(NamedTuple):
    """The clients of a round.

    Attributes:
      client: (C,) their numbers.
      tasks: their own episodes, leaves (C, E, ...).
      present: (C,) 1, or 0 for a client that got the parameters and never answered, and for
        padding.
    """

    client: jax.Array
    tasks: Episode
    present: jax.Array


class Sent(NamedTuple):
    """What arrives at the server: uploads (C, ...), whose they are, and how many are refused."""

    client: jax.Array
    uploads: Upload
    refused: jax.Array


class State(NamedTuple):
    """The server's state in a simulation.

    Attributes:
      server: of its optimizer.
      memory: what compression left out, of every client: leaves (num_clients, ...); () without it.
      refused: () uploads that were not finite so far.
    """

    server: Any
    memory: PyTree
    refused: jax.Array


class Traffic(NamedTuple):
    """Bytes of a round: of all downloads and of all uploads that arrive."""

    down: int
    up: int


def simulation(
    learner: MetaLearner,
    client: Client,
    server: Update,
    num_clients: int,
    compression: Compression | None = None,
    download: Compression | None = None,
) -> Recipe:
    """Rounds of federated learning as a recipe of `training.loop`; a batch is a `Cohort`.

    Args:
      learner: makes the first parameters.
      client: see `rounds.Client`.
      server: moves the parameters by the uploads (C, ...), as `rounds.server`.
      num_clients: how many there are in all.
      compression: of the uploads, with error feedback in each client's memory.
      download: of the parameters that clients get; the server keeps them whole.
    """

    def gradient(params: Params, cohort: Cohort, key: jax.Array) -> tuple[Sent, dict]:
        keys = jax.random.split(key, cohort.client.shape[0])
        given = params if download is None else download.decode(download.encode(params), params)
        uploads = jax.vmap(client, (None, 0, 0))(given, cohort.tasks, keys)
        uploads = uploads._replace(weight=uploads.weight * cohort.present)
        clean, refused = rounds.without_unsound(uploads)
        here = cohort.present * (clean.weight > 0)
        loss = jnp.sum(clean.loss * here) / jnp.maximum(jnp.sum(here), 1)
        return Sent(cohort.client, clean, refused), {"loss": loss}

    def begin(params: Params) -> State:
        zeros = jax.tree.map(lambda x: jnp.zeros((num_clients, *x.shape), x.dtype), params)
        memory = () if compression is None else zeros
        return State(server.init(params), memory, jnp.zeros((), jnp.int32))

    def apply(params: Params, state: State, sent: Sent) -> tuple[Params, State]:
        uploads, memory = sent.uploads, state.memory
        if compression is not None:
            uploads, memory = _compressed(compression, params, memory, sent, num_clients)
        params, of_server = server.apply(params, state.server, uploads)
        return params, State(of_server, memory, state.refused + sent.refused)

    one = lambda cohort: jax.tree.map(lambda x: x[0, 0], cohort.tasks)
    return Recipe(
        lambda key, cohort: learner.init(key, one(cohort)), gradient, Update(begin, apply)
    )


def _compressed(
    compression: Compression, params: Params, memory: PyTree, sent: Sent, num_clients: int
) -> tuple[Upload, PyTree]:
    """The uploads as they arrive, and every client's memory afterwards."""
    arrived_C = sent.uploads.weight > 0
    mine = jax.tree.map(lambda m: m[sent.client], memory)
    message, left = jax.vmap(with_feedback(compression))(sent.uploads.update, mine)
    update = jax.vmap(compression.decode, (0, None))(message, params)
    place_C = jnp.where(arrived_C, sent.client, num_clients)  # of others nothing is written
    memory = jax.tree.map(lambda m, x: m.at[place_C].set(x, mode="drop"), memory, left)
    return sent.uploads._replace(update=update), memory


def cohorts(
    draw: Draw, num_clients: int, size: int, num_episodes: int = 1, drop: float = 0.0
) -> Sampler:
    """A sampler of cohorts of ``size`` different clients.

    Args:
      draw: see `Draw`.
      num_episodes: E, the episodes of each client: its local steps.
      drop: the share of the cohort that never answers, rounded to whole clients.

    Raises:
      UserError: there are not so many clients, or all of them are dropped.
    """
    if not 1 <= size <= num_clients:
        raise UserError(f"a cohort of {size} of {num_clients} clients: give 1 to {num_clients}")
    silent = num_dropped(size, drop)

    def sample(data: Any, key: jax.Array) -> Cohort:
        key_who, key_rows = jax.random.split(key)
        client_C = jax.random.choice(key_who, num_clients, (size,), replace=False)
        present_C = (jnp.arange(size) >= silent).astype(jnp.float32)
        return Cohort(client_C, _episodes(draw, data, client_C, key_rows, num_episodes), present_C)

    return sample


def poisson(draw: Draw, num_clients: int, rate: float, num_episodes: int = 1) -> Sampler:
    """A sampler that takes every client with probability ``rate``, as differential privacy assumes.

    Cohorts are padded to six standard deviations above the mean; the chance that more are drawn,
    of whom the last are then left out, is about 1e-9.

    Raises:
      UserError: the rate is not above 0 and up to 1.
    """
    if not 0 < rate <= 1:
        raise UserError(f"a sampling rate of {rate:g}: give one above 0 and up to 1")
    mean = rate * num_clients
    most = min(num_clients, int(mean + 6 * (mean * (1 - rate)) ** 0.5) + 1)

    def sample(data: Any, key: jax.Array) -> Cohort:
        key_who, key_rows = jax.random.split(key)
        drawn_N = jax.random.bernoulli(key_who, rate, (num_clients,))
        (client_C,) = jnp.nonzero(drawn_N, size=most, fill_value=0)
        present_C = (jnp.arange(most) < jnp.sum(drawn_N)).astype(jnp.float32)
        return Cohort(client_C, _episodes(draw, data, client_C, key_rows, num_episodes), present_C)

    return sample


def swapped_supports(sample: Sampler) -> Sampler:
    """The cohorts with each client's support that of the next one: a control, nothing to learn."""

    def swapped(data: Any, key: jax.Array) -> Cohort:
        cohort = sample(data, key)
        others = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), cohort.tasks.support)
        return cohort._replace(tasks=cohort.tasks._replace(support=others))

    return swapped


def num_dropped(size: int, drop: float) -> int:
    """How many of a cohort never answer.

    Raises:
      UserError: all of them.
    """
    silent = round(drop * size)
    if not 0 <= silent < size:
        raise UserError(f"a share of {drop:g} drops all {size} clients of a round; give a smaller")
    return silent


def traffic(
    params: Params,
    size: int,
    drop: float = 0.0,
    compression: Compression | None = None,
    download: Compression | None = None,
) -> Traffic:
    """The bytes of one round: ``size`` downloads, and the uploads of those who answer."""
    of = lambda how: num_bytes(params) if how is None else message_bytes(how, params)
    return Traffic(size * of(download), (size - num_dropped(size, drop)) * of(compression))


def _episodes(
    draw: Draw, data: Any, client_C: jax.Array, key: jax.Array, num_episodes: int
) -> Episode:
    """Episodes (C, E, ...) of each client."""
    keys = jax.random.split(key, (client_C.shape[0], num_episodes))
    of_client = lambda client, keys: jax.vmap(lambda k: draw(data, client, k))(keys)
    return jax.vmap(of_client)(client_C, keys)
