"""A service of the small model in a thread, for the tests that speak HTTP."""

import json
import pathlib
import socket
import threading
import urllib.error
import urllib.request

import small_model
import uvicorn

from metajax.serving import store, web
from metajax.serving.catalogue import Labels


class Served:
    """A service in a thread of its own, and requests to it."""

    def __init__(self, folder: pathlib.Path, state: pathlib.Path, labels: Labels | None = None):
        self.model = small_model.write(folder, labels)
        self.store = store.Store(state, self.model)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.socket.getsockname()[1]}"
        app = web.application(web.Service(self.model, self.store), frozenset({self.host}))
        settings = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
        self.server = uvicorn.Server(settings)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.store.close()
        self.socket.close()

    def call(self, path: str, body=None, **headers) -> tuple[int, dict]:
        return call(self.host, path, body, **headers)


def call(host: str, path: str, body=None, **headers) -> tuple[int, dict]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    request = urllib.request.Request(f"http://{host}{path}", data, given)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"{}")
