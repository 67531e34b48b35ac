"""Federated MAML over a network: one server process, one process for each person, by Flower.

The same client and server functions as `federated`, which simulates. Every person of the training
set may be a client; here client N is person N. A server that died goes on from its last round when
it is started again, with clients that are started again. The simulator, with as many clients, gives
the same parameters; both store them.

References: Beutel et al., 2020, arXiv 2007.14390 (Flower); Chen et al., 2018 (FedMeta).
Run: python -m experiments flower --role server --clients 2 --address 127.0.0.1:9092
     python -m experiments flower --role client --number 0 --address 127.0.0.1:9092
     python -m experiments flower --role client --number 1 --address 127.0.0.1:9092
Published: none.
"""

import dataclasses
import pathlib
import shutil
from typing import Any, Literal

import jax
import numpy as np
import optax

from metajax import benchmark
from metajax.federated import flower, rounds, simulator
from metajax.learners.gradient.maml import gradient
from metajax.models import towers
from metajax.settings import Data, Output, Positive
from metajax.training import checkpoint, loop, progress
from metajax.types import Episode, MetaLearner, Params, UserError

from . import own_data
from .own_data import People


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a process."""

    output: Output = Output()
    data: Data = Data("synthetic")
    role: Literal["server", "client", "simulator"] = "simulator"
    """What this process is; the simulator is both, for as many clients."""
    address: str = "127.0.0.1:9092"
    """Where the server listens."""
    certificates: pathlib.Path | None = None
    """Folder with ca.pem, and for the server server.pem and server.key; without it nothing is
    encrypted."""
    clients: Positive = 2
    """Clients that the server waits for in every round."""
    number: int = 0
    """Which client this is, from 0 on."""
    rounds: Positive = 3
    """Rounds."""
    seed: int = 0
    """Seed of the first parameters and of the episodes."""
    wait: float = 60.0
    """Seconds that a client waits for the server."""
    fresh: bool = False
    """The server starts from the beginning, instead of going on from its last round."""


def learner_of(people: People) -> MetaLearner:
    """MAML of a small network on public columns of items."""
    return gradient(towers.factor_mlp(people.mean, (16,)), optax.sgd(0.1), 1)


def tasks_of(people: People, sums: own_data.Sums, config: Config, number: int, at: int) -> Episode:
    """The one episode (1, ...) of a client in a round."""
    draw = own_data.drawer(people, 10.0, 16)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), number), at)
    episode = jax.jit(draw)(own_data.own_data(people, sums), number, key)
    return jax.tree.map(lambda x: x[None], episode)


def first(learner: MetaLearner, people: People, sums: own_data.Sums, config: Config) -> Params:
    """The first parameters, the same in every process."""
    key = jax.random.key(config.seed)
    return jax.jit(learner.init)(key, own_data.example(people, sums))


def simulated(config: Config, people: People, sums: own_data.Sums) -> Params:
    """The parameters that the simulator has after all rounds of the same clients."""
    learner = learner_of(people)
    client, server = rounds.meta_gradient(learner), rounds.server(optax.adam(0.01))
    recipe = simulator.simulation(learner, client, server, config.clients)
    params = first(learner, people, sums, config)
    state = loop.TrainState(params, recipe.update_fn.init(params), jax.random.key(0), np.int32(0))
    step = jax.jit(lambda state, cohort: loop.step(recipe, lambda d, k: cohort, state, ())[0])
    for at in range(1, config.rounds + 1):
        each = [tasks_of(people, sums, config, n, at) for n in range(config.clients)]
        tasks = jax.tree.map(lambda *x: np.stack(x), *each)
        numbers = np.arange(config.clients)
        state = step(state, simulator.Cohort(numbers, tasks, np.ones(config.clients, np.float32)))
    return state.params


def main(config: Config) -> Any:
    """Runs the process's part; the server and the simulator store the parameters they end with.

    Raises:
      UserError: an address, a certificate or flwr is missing, or the client has no person.
    """
    flower.parsed(config.address)
    people = own_data.load(config.data, 0, 200)
    if not 0 <= config.number < people.num_clients or config.clients > people.num_clients:
        raise UserError(f"{people.table.name} has clients 0 to {people.num_clients - 1}")
    sums, learner = own_data.exact_sums(people), learner_of(people)
    folder = config.output.folder("flower")
    if config.role == "simulator":
        return stored(folder, "simulator", simulated(config, people, sums))
    params = first(learner, people, sums, config)
    if config.role == "client":
        tasks = lambda at: tasks_of(people, sums, config, config.number, at)
        key = jax.random.fold_in(jax.random.key(config.seed), config.number)
        client = rounds.meta_gradient(learner)
        own = flower.client_of(client, tasks, key, params, config.number)
        return flower.join(own, config.address, config.certificates, config.wait)
    return stored(folder, "server", served(config, params, folder))


def served(config: Config, params: Params, folder: pathlib.Path) -> Params:
    """The parameters of the server after all rounds; one that died goes on from its last round."""
    server = rounds.server(optax.adam(0.01))
    named = [config.data.dataset, config.clients, config.seed, checkpoint.tree_digest(params)]
    if config.fresh:
        shutil.rmtree(folder / "rounds", ignore_errors=True)
    with checkpoint.opened(folder / "rounds", f"flower {named}") as store:
        found = store.latest((params, server.init(params)), lambda step: step <= config.rounds)
        done = found.step if found else 0
        params, state = found.tree if found else (params, None)
        if done:
            progress.say(f"goes on after round {done} of {config.rounds}")
        if done == config.rounds:
            return params
        # a lower score is kept longer: the newest round
        report = lambda at, params, state: store.save(at, (params, state), {}, -at)
        strategy = flower.strategy_of(
            server, params, config.clients, report, state=state, done=done
        )
        left = config.rounds - done
        return flower.serve(strategy, config.address, left, config.certificates)


def stored(folder: pathlib.Path, name: str, params: Params) -> Params:
    """The parameters, written as ``NAME.npz``."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(params))}
    np.savez(folder / f"{name}.npz", **leaves)
    print(f"{folder / name}.npz: parameters {checkpoint.tree_digest(params)[:12]}")
    return params


if __name__ == "__main__":
    benchmark.cli(main, Config)
