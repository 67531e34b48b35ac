"""The same client and server functions in processes of their own, joined by Flower.

`client_of` makes a Flower client of a `rounds.Client`, `strategy_of` a Flower strategy of an
`Update`. Both go into a ``ClientApp`` and a ``ServerApp`` of a deployment, or into `serve` and
`join`, which need no deployment: one server process, one process for each client.

Flower (``flwr``) wants versions of other packages that this project does not take: give it an
environment of its own, see docs/federated.md.
"""

import pathlib
import socket
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.federated.rounds import Client, Upload, accepted, stacked
from metajax.training.updates import Update
from metajax.types import Episode, Params, PyTree, UserError

INSTALL = "Flower is not installed: pip install metajax[federated], in an environment of its own"


def arrays_of(tree: PyTree) -> list[np.ndarray]:
    """The leaves of a tree, as Flower sends them."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def tree_of(arrays: list[np.ndarray], like: PyTree) -> PyTree:
    """The tree with these leaves; unlike numbers of leaves are refused.

    Raises:
      UserError: there are more or fewer than the tree has.
    """
    leaves, shape = jax.tree.flatten(like)
    if len(arrays) != len(leaves):
        raise UserError(
            f"{len(arrays)} arrays arrived and the parameters have {len(leaves)}; give client and "
            "server the same model"
        )
    return jax.tree.unflatten(shape, [jnp.asarray(x) for x in arrays])


def client_of(
    client: Client,
    tasks: Callable[[int], Episode],
    key: jax.Array,
    like: Params,
    number: int,
) -> Any:
    """A Flower client that computes and sends an `Upload`.

    Args:
      client: see `rounds.Client`.
      tasks: round, from 1 on -> the client's own episodes (E, ...).
      key: of the client; each round's is folded in.
      like: parameters, for their structure.
      number: the client's, by which the server orders uploads.
    """
    flwr = _flower()
    run = jax.jit(client)

    class Own(flwr.client.NumPyClient):
        def fit(self, parameters: list[np.ndarray], config: dict[str, Any]):
            at = int(config["round"])
            params = tree_of(parameters, like)
            upload = run(params, tasks(at), jax.random.fold_in(key, at))
            told = {"weight": float(upload.weight), "loss": float(upload.loss), "client": number}
            return arrays_of(upload.update), 1, told

    return Own().to_client()


def strategy_of(
    server: Update,
    params: Params,
    num_clients: int,
    report: Callable[[int, Params, PyTree], None] = lambda at, params, state: None,
    *,
    state: PyTree = None,
    done: int = 0,
) -> Any:
    """A Flower strategy that asks every client each round, and moves the parameters by `Update`.

    An upload that `rounds.accepted` refuses is told in one line and left out.

    Args:
      server: as `rounds.server` makes it.
      params: the first parameters; those after ``done`` rounds of a server that goes on.
      num_clients: how many a round waits for.
      report: (round, parameters, state) -> None, after each round: here a server stores what it
        has, so that it can go on if it dies.
      state: of the server after ``done`` rounds; None for that of its start.
      done: rounds that took place before.
    """
    flwr = _flower()
    apply = jax.jit(server.apply)

    class Rounds(flwr.server.strategy.Strategy):
        def __init__(self) -> None:
            self.params = params
            self.state = server.init(params) if state is None else state

        def initialize_parameters(self, client_manager: Any) -> Any:
            return flwr.common.ndarrays_to_parameters(arrays_of(self.params))

        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
            client_manager.wait_for(num_clients)
            told = flwr.common.FitIns(parameters, {"round": done + server_round})
            return [(one, told) for one in client_manager.all().values()]

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            if failures:
                print(
                    f"round {done + server_round}: {len(failures)} clients failed", file=sys.stderr
                )
            if found := _uploads(results, self.params):
                self.params, self.state = apply(self.params, self.state, stacked(found))
            report(done + server_round, self.params, self.state)
            return flwr.common.ndarrays_to_parameters(arrays_of(self.params)), {}

        def configure_evaluate(self, server_round: int, parameters: Any, client_manager: Any):
            return []

        def aggregate_evaluate(self, server_round: int, results: Any, failures: Any):
            return None, {}

        def evaluate(self, server_round: int, parameters: Any) -> None:
            return None

    return Rounds()


def _uploads(results: Any, params: Params) -> list[Upload]:
    """What clients sent, in the order of their numbers; what is refused is told in one line."""
    found = []
    for proxy, answer in results:
        number = answer.metrics.get("client", proxy.cid)
        arrays = _flower().common.parameters_to_ndarrays(answer.parameters)
        scalar = lambda name, told=answer.metrics: jnp.asarray(told[name], jnp.float32)
        try:
            sent = Upload(tree_of(arrays, params), scalar("weight"), scalar("loss"))
            found.append((number, accepted(params, sent, number)))
        except UserError as error:
            print(error, file=sys.stderr)
    return [upload for _, upload in sorted(found, key=lambda x: x[0])]


def serve(
    strategy: Any, address: str, num_rounds: int, certificates: pathlib.Path | None = None
) -> Params:
    """The parameters after all rounds of a server that listens at an address.

    Args:
      strategy: of `strategy_of`.
      address: "host:port".
      num_rounds: of this process: those that are left, where a server goes on.
      certificates: a folder with ca.pem, server.pem and server.key; None sends in the clear.

    Raises:
      UserError: the address makes no sense or is taken, a certificate is missing, or flwr is.
    """
    host, port = parsed(address)
    chain = None
    if certificates is not None:
        chain = tuple(_read(certificates, name) for name in ("ca.pem", "server.pem", "server.key"))
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen at {address} ({error}); give another --address"
            ) from error
    flwr = _flower()
    config = flwr.server.ServerConfig(num_rounds=num_rounds)
    flwr.server.start_server(
        server_address=address, config=config, strategy=strategy, certificates=chain
    )
    return strategy.params


def join(
    client: Any, address: str, certificates: pathlib.Path | None = None, wait: float = 60.0
) -> None:
    """Takes part in the rounds of the server at an address, until it ends.

    Args:
      client: of `client_of`.
      certificates: a folder with ca.pem; None sends in the clear.
      wait: seconds to wait for the server.

    Raises:
      UserError: the address makes no sense or nobody listens there, a certificate or flwr is
        missing.
    """
    parsed(address)
    root = None if certificates is None else _read(certificates, "ca.pem")
    _flower()
    from flwr.compat.client.app import start_client

    try:
        start_client(
            server_address=address, client=client, root_certificates=root,
            insecure=certificates is None, max_wait_time=wait,
        )  # fmt: skip
    except Exception as error:  # of grpc, whose kinds differ by version
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"no server answers at {address} ({reason}); start it first") from error


def parsed(address: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
      UserError: it is not "host:port".
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--address {address!r}: give host:port, as 127.0.0.1:9092")
    return host, int(port)


def _read(folder: pathlib.Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise UserError(f"no certificate {folder / name}; put {name} there") from error


def _flower() -> Any:
    try:
        import flwr
        import flwr.client
        import flwr.common
        import flwr.server
    except ImportError as error:
        raise UserError(INSTALL) from error
    return flwr
