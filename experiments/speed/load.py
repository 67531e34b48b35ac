"""The web service under load: parallel clients send events and get twenty of a million items.

`metajax serve` runs in a process of its own with a model folder of 1,000,000 items of 64 numbers.
Every client sends its next request when the answer to the last one has arrived. *adapt + top 20*
stores a new event on the disk, adapts to all events of the person and ranks; *top 20* only ranks;
*HTTP alone* uses neither model nor disk, so that its time can be subtracted. The service searches a
part of a large catalogue; the table reports the recall of the exact twenty.

Run: python -m experiments load              (the extra `serve`)
     python -m experiments load --from-records prints the stored table.
Published: none. The aim is 10 ms at the 99th percentile above HTTP alone, on two cores.
Deviates: the catalogue is drawn, in clusters and without; the clients run on the same cores as the
server; wall times depend on what else the machine did (its load is in the record), and the server's
processor time per request stands beside them.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import numpy as np

from metajax import benchmark
from metajax.results import plots, records, tables
from metajax.serving import model
from metajax.serving.catalogue import Catalogue, Labels
from metajax.serving.model import Model
from metajax.settings import Output, Positive, Presets, replace
from metajax.types import UserError

from ..large import report as large_report
from ..shop import latency

ADAPT, RANK, HTTP = "adapt + top 20", "top 20", "HTTP alone"
Kind = Literal["clustered", "spread"]
K = 20
TARGET = 10.0  # ms at the 99th percentile, above HTTP alone
WARM_UP = 5  # requests of each client that are not counted
PEOPLE = 50  # of each client
STARTS = 600.0  # seconds that a server may take to start


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    num_items: Positive = 1_000_000
    """Items of the catalogue."""
    dim: Positive = 64
    """Numbers per item."""
    clients: Positive = 8
    """Clients that ask at the same time."""
    requests: Positive = 500
    """Requests of each client, per arm."""
    kinds: tuple[Kind, ...] = ("clustered", "spread")
    """How the items lie: around a thousand centers, or with a falling spectrum."""
    seed: int = 0
    """Seed of catalogue and requests."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"num_items": 100_000, "requests": 50, "kinds": ("clustered",)},
    }


def written(folder: pathlib.Path, config: Config, kind: Kind) -> Model:
    """A model folder whose item vectors are drawn: a constant and ``dim - 1`` factors."""
    from metajax.learners import item_ridge

    drawn = latency.Config(num_items=config.num_items, dim=config.dim, seed=config.seed)
    factor = latency.catalogue(drawn, kind == "clustered")[:, 1:]
    bias = 0.3 * np.random.default_rng(config.seed + 1).standard_normal(len(factor), np.float32)
    ones = np.ones(config.dim, np.float32)
    params = {
        "embed": {},
        "offset": {"mu": np.float32(3.0)},
        "mean": 0.0 * ones,
        "log_precision": np.log(4.0 * ones),
    }
    nobody = np.zeros(0, np.int32)
    about = {
        "log": {"name": f"load test, {kind}", "users": 0, "items": config.num_items, "rows": 0},
        "arm": "fold-in",
        "validation": {"metric": "none", "events": [], "users": 0, "arms": {"fold-in": []}},
    }
    return model.save(
        folder,
        about=about,
        labels=Labels("ratings", 1.0, 5.0),
        catalogue=Catalogue(np.arange(config.num_items), None),
        popularity=np.zeros(config.num_items, np.int64),
        recipe=item_ridge.Recipe(3.0, ("factor",), (4.0,) * config.dim),
        params=params,
        columns={"factor": factor, "bias": bias},
        known=model.Known(nobody, np.zeros(1, np.int64), nobody, nobody.astype(np.float32), {}),
    )


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process of ``metajax serve`` on a model folder, and its port, until the context ends.

    Raises:
      UserError: it does not start.
    """
    command = [sys.executable, "-m", "metajax", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    late = threading.Timer(STARTS, process.kill)
    late.start()
    try:
        line = process.stdout.readline()
        late.cancel()
        if "http://" not in line:
            raise UserError("metajax serve did not start; what it said stands above")
        yield process, int(line.rpartition(":")[2])
    finally:
        late.cancel()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        process.stdout.close()


class Client:
    """One client with a connection that stays open."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, path: str, body: dict | None = None) -> dict:
        """The answer to a request.

        Raises:
          UserError: the server refuses it.
        """
        text = None if body is None else json.dumps(body)
        kind = {"Content-Type": "application/json"}
        self.connection.request("GET" if body is None else "POST", path, text, kind)
        response = self.connection.getresponse()
        found = json.loads(response.read())
        if response.status != 200:
            raise UserError(f"the server answers {response.status}: {found}")
        return found


def requests_of(config: Config, arm: str) -> Callable[[Client, int, int], None]:
    """What a client does in an arm: ``(client, number of the client, number of the request)``."""
    total = config.requests + WARM_UP
    rng = np.random.default_rng(config.seed + 2)
    items = rng.integers(0, config.num_items, (config.clients, total)).tolist()
    values = rng.integers(1, 6, (config.clients, total)).tolist()

    def adapt(client: Client, i: int, j: int) -> None:
        event = {"item": items[i][j], "value": values[i][j]}
        client.ask(f"/api/users/{person(i, j)}/events", {"events": [event], "top": K})

    def rank(client: Client, i: int, j: int) -> None:
        client.ask(f"/api/users/{person(i, j)}?top={K}")

    def nothing(client: Client, i: int, j: int) -> None:
        client.ask("/api/ping", {})

    return {ADAPT: adapt, RANK: rank, HTTP: nothing}[arm]


def person(i: int, j: int) -> str:
    """The person for whom client ``i`` asks in its request ``j``."""
    return f"c{i}-{j % PEOPLE}"


def load(config: Config, port: int, arm: str) -> np.ndarray:
    """Wall milliseconds (clients * requests,) of an arm, all clients at once.

    Raises:
      UserError: a request is refused, or the server is gone.
    """
    request = requests_of(config, arm)
    taken = np.zeros((config.clients, config.requests + WARM_UP))
    together = threading.Barrier(config.clients)
    wrong: list[Exception] = []

    def run(i: int) -> None:
        client = Client(port)
        try:
            together.wait()
            for j in range(taken.shape[1]):
                began = time.perf_counter()
                request(client, i, j)
                taken[i, j] = time.perf_counter() - began
        except (UserError, OSError, http.client.HTTPException) as error:
            wrong.append(error)
        finally:
            client.connection.close()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(config.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise UserError(f"the load test broke off: {wrong[0]}")
    return 1e3 * taken[:, WARM_UP:].ravel()


def recall(config: Config, port: int, made: Model) -> np.ndarray:
    """The shares (people,) of the exact twenty that the service finds, for people of the load."""
    client, found = Client(port), []
    for i in range(config.clients):
        for j in range(0, PEOPLE, max(1, PEOPLE * config.clients // 100)):
            answer = client.ask(f"/api/users/{person(i, j)}?top={K}")
            items = np.array([one["id"] for one in answer["events"]], np.int64)
            values = np.array([one["value"] for one in answer["events"]], np.float32)
            exact = {int(one) for one in made.ranked(items, values, K)[0]}
            found.append(len(exact & {one["id"] for one in answer["items"]}) / len(exact))
    client.connection.close()
    return np.array(found)


def processor(pid: int) -> float:
    """Processor seconds of a process so far; not a number where the system does not tell."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(config: Config, kind: Kind) -> dict[str, dict[str, np.ndarray]]:
    """Arm -> metric -> (1, n) of one catalogue."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / "model"
        made = written(folder, config, kind)
        with serving(folder) as (process, port):
            for arm in (HTTP, ADAPT, RANK):
                began = processor(process.pid)
                wall = load(config, port, arm)
                used = (
                    1e3
                    * (processor(process.pid) - began)
                    / (len(wall) * (1 + WARM_UP / config.requests))
                )
                found[arm] = {"wall ms": wall[None], "processor ms": np.array([[used]])}
            found[ADAPT]["recall"] = recall(config, port, made)[None]
    return found


def run(config: Config) -> records.Record:
    """Measures every arm on every catalogue; writes record and plot."""
    config = replace(config, out=config.output.folder("load"))
    began, scores = time.perf_counter(), {}
    for kind in config.kinds:
        for arm, metrics in measured(config, kind).items():
            for metric, values in metrics.items():
                scores[records.Key("requests", arm, kind, metric)] = values
    facts = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}
    seconds = {"total": time.perf_counter() - began}
    record = large_report.written(
        *("load", "load", "requests", [ADAPT, RANK, HTTP], config, scores, seconds),
        opened=(),
        extra={"machine": facts},
    )
    plotted(record, config.output.folder("load") / "load.png")
    return record


def grid(record: records.Record) -> tables.Grid:
    """Percentiles of every arm: wall, above HTTP alone, processor time, recall."""
    rows, aims = [], []
    of = lambda arm, kind, metric: record.scores[records.Key("requests", arm, kind, metric)]
    for kind in record.config["kinds"]:
        http = np.percentile(of(HTTP, kind, "wall ms"), 99)
        for arm in (ADAPT, RANK, HTTP):
            wall, used = of(arm, kind, "wall ms"), float(of(arm, kind, "processor ms")[0, 0])
            middle, high = np.percentile(wall, [50, 99])
            above = "" if arm == HTTP else f"{high - http:.1f}"
            found = f"{of(arm, kind, 'recall').mean():.3f}" if arm == ADAPT else ""
            rows.append([arm, kind, f"{middle:.1f}", f"{high:.1f}", above, f"{used:.2f}", found])
            if arm == ADAPT:
                word = "met" if high - http <= TARGET else "missed"
                aims.append(
                    f"{kind}: the aim, at most {TARGET:g} ms at p99 above HTTP alone, is {word}"
                )
    machine, asked = record.extra["machine"], record.config
    return tables.Grid(
        f"{asked['clients']} clients at once, {asked['num_items']:,} x {asked['dim']} items",
        ["arm", "items", "p50 ms", "p99 ms", "p99 less HTTP", "server's processor ms", "recall@20"],
        rows,
        left=2,
        notes=[
            *aims,
            f"server and clients share {machine['cores']} cores; load {machine['load'][0]:.1f}",
        ],
        sections=range(3, len(rows), 3),
    )


def plotted(record: records.Record, path: pathlib.Path) -> None:
    """The share of requests answered within a time, one curve for each arm and catalogue."""
    keys = [key for key in record.scores if key.metric == "wall ms"]
    with plots.page(path) as axes:
        for i, key in enumerate(keys):
            wall = np.sort(record.scores[key].ravel())
            look = plots.look(i) | {"markevery": max(1, len(wall) // 6)}
            share = np.arange(1, len(wall) + 1) / len(wall)
            axes.plot(wall, share, label=f"{key.arm}, {key.condition}", **look)
        axes.axvline(TARGET, color="0.6", linewidth=0.8)
        axes.axhline(0.99, color="0.6", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds (grey: the aim, 99 per cent)")
        axes.set_ylabel("requests answered")
        plots.legend(axes, len(keys))


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, and its table."""
    record = records.stored("load") if config.output.from_records else run(config)
    tables.terminal(grid(record))
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
