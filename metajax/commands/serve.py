"""Serve a model folder: a web page on which people rate items, and a JSON interface for programs.

The server accepts connections from this machine only, unless --host says otherwise. People's events
are kept in a file beside the model folder; it outlives a restart and a newer model.

Run: metajax serve model
"""

import dataclasses
import importlib.util
import pathlib
import socket
from typing import Annotated

import tyro

from metajax.serving import model
from metajax.settings import Range
from metajax.types import UserError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the command."""

    model: tyro.conf.Positional[pathlib.Path]
    """The model folder."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 lets everyone in the network in, without a password."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """The port; 0 chooses a free one."""
    state: pathlib.Path | None = None
    """The file of people's events; by default MODEL.events.sqlite."""


def main(config: Config) -> None:
    """Serves until it is stopped."""
    if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
        raise UserError("serving needs starlette and uvicorn: pip install 'metajax[serve]'")
    import uvicorn

    from metajax.serving import store, web

    trained = model.load(config.model, indexed=True)
    beside = config.model.resolve()
    path = config.state or beside.with_name(f"{beside.name}.events.sqlite")
    listening = _listening(config.host, config.port)
    events = store.Store(path, trained)
    port = listening.getsockname()[1]
    local = config.host in LOOPBACK
    own = frozenset(f"{name}{end}" for name in LOOPBACK for end in (f":{port}", ""))
    app = web.application(web.Service(trained, events), own if local else None)
    print(
        f"{trained.about['log']['name']}, {trained.about['arm']}: http://{config.host}:{port}\n"
        f"what people say is kept in {path}; Ctrl-C ends",
        flush=True,
    )
    if not local:
        print("everyone who reaches this address can read and change it: there is no password")
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
    )
    try:
        server.run(sockets=[listening])
    finally:
        events.close()


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      UserError: the port is taken, or there is no such address.
    """
    try:
        return socket.create_server((host, port), backlog=128)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}:{port} ({error}); give another --port") from error
