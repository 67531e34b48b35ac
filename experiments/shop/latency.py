"""Latency of serving: adapt a user to three new events and rank twenty of a million items.

One process holds the exported programs, the states of 100,000 users and a catalogue of 1,000,000 x
64 float32. A request adapts a user to three events and ranks the whole catalogue exactly, or
approximately by an inverted file of faiss, whose recall of the exact twenty is reported.

Run: python -m experiments latency              (the extra `serve`)
     python -m experiments latency --from-records prints the stored table.
Published: none. The limit of an exact answer is memory: the catalogue is read once per request.
Deviates: the catalogue is drawn, in clusters and without; wall times are those of the machine as it
was, with its load in the record, and processor times stand beside them.
"""

import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, tree
from metajax.adapters.conditions import last_layer
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import identity
from metajax.results import records
from metajax.serving import service as serve
from metajax.settings import Output, Positive, Presets, replace
from metajax.types import Episode, Examples, UserError

from ..large import report as large_report

EXACT, RANK_ONLY = "adapt + exact top 20", "exact top 20 alone"
K = 20


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    num_items: Positive = 1_000_000
    """Items of the catalogue."""
    dim: Positive = 64
    """Numbers per item."""
    num_users: Positive = 100_000
    """Users whose states are in the store."""
    requests: Positive = 10_000
    """Requests measured per arm."""
    events: int = 3
    """New events of a request."""
    probes: tuple[Positive, ...] = (8, 32, 128)
    """Number of the 2,048 lists that the inverted file searches; one arm for each."""
    approximate: bool = True
    """Measure the inverted file too; needs faiss-cpu."""
    seed: int = 0
    """Seed of catalogue and requests."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"num_items": 50_000, "num_users": 5_000, "requests": 200},
    }


def catalogue(config: Config, clustered: bool) -> np.ndarray:
    """Items (N, D): around a thousand centers, or spread with a falling spectrum."""
    rng = np.random.default_rng(config.seed)
    noise = rng.standard_normal((config.num_items, config.dim), np.float32)
    if not clustered:
        return noise / np.sqrt(np.arange(1, config.dim + 1, dtype=np.float32))
    centers = rng.standard_normal((1000, config.dim), np.float32)
    return centers[rng.integers(0, 1000, config.num_items)] + 0.3 * noise


def service(config: Config, items: np.ndarray, folder: pathlib.Path) -> serve.Service:
    """A service of a last layer that takes five steps on the events of each request."""
    learner = gradient(last_layer(identity()), optax.sgd(0.05), 5, adapts=tree.under("adapter"))
    few = jnp.zeros((config.events, config.dim))
    ones = jnp.ones(config.events)
    every = Examples(jnp.asarray(items), jnp.zeros(len(items)), jnp.ones(len(items)))
    episode = Episode((), Examples(few, ones, ones), every)
    params = learner.init(jax.random.key(config.seed), episode)
    serve.export(learner, params, episode, folder)
    made = serve.Service(folder, catalogue=[items])
    rng = np.random.default_rng(config.seed)
    for user in range(config.num_users):
        vector = rng.standard_normal(config.dim, np.float32)
        made.store.put(user, [np.zeros((), np.float32), vector])
    return made


def timed(calls: int, request: Callable[[int], Any]) -> dict[str, np.ndarray]:
    """Wall and processor milliseconds (1, calls) of each call."""
    for i in range(5):
        request(i)
    wall, processor = np.zeros(calls), np.zeros(calls)
    for i in range(calls):
        began, used = time.perf_counter(), time.process_time()
        request(i)
        wall[i] = time.perf_counter() - began
        processor[i] = time.process_time() - used
    return {"wall ms": 1e3 * wall[None], "processor ms": 1e3 * processor[None]}


def exact_arms(config: Config, made: serve.Service, items: np.ndarray) -> dict[str, dict]:
    """The service's own answers: with adaptation, and the ranking alone."""
    rng = np.random.default_rng(config.seed + 1)
    users = rng.integers(0, config.num_users, config.requests + 5)
    met = rng.integers(0, config.num_items, (config.requests + 5, config.events))
    labels = rng.integers(0, 2, met.shape).astype(np.float32)

    def request(i: int):
        user = int(users[i])
        made.observe(user, [items[met[i]]], labels[i])
        return made.recommend(user, K)

    found = {EXACT: timed(config.requests, request)}
    rank_only = lambda i: made.recommend(int(users[i]), K)
    found[RANK_ONLY] = timed(max(config.requests // 10, 1), rank_only)
    return found


def inverted_file(config: Config, items: np.ndarray) -> Any:
    """An index of faiss over the catalogue, for inner products."""
    try:
        import faiss
    except ImportError as error:
        raise UserError("no faiss: pip install faiss-cpu, or give --no-approximate") from error
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    lists = min(2048, config.num_items // 40)
    quantizer = faiss.IndexFlatIP(config.dim)
    index = faiss.IndexIVFFlat(quantizer, config.dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 5
    index.train(items[:: max(len(items) // 100_000, 1)])
    index.add(items)
    return index


def approximate_arms(
    config: Config, made: serve.Service, items: np.ndarray, kind: str
) -> dict[str, dict]:
    """Times and recall of the inverted file, at several numbers of probes."""
    index = inverted_file(config, items)
    found = {}
    num = min(config.requests, 1000)
    users = np.random.default_rng(config.seed + 2).integers(0, config.num_users, num + 5)
    vector = lambda user: made.store.get(int(user))[-1][None]  # pyright: ignore
    truth = [set(made.recommend(int(user), K)[0].tolist()) for user in users[:200]]
    for probes in config.probes:
        index.nprobe = probes
        times = timed(num, lambda i: index.search(vector(users[i]), K))
        hits = [
            len(truth[i] & set(index.search(vector(user), K)[1][0].tolist())) / K
            for i, user in enumerate(users[:200])
        ]
        found[f"faiss IVF, {probes} probes, {kind}"] = {**times, "recall": np.array(hits)[None]}
    return found


def run(config: Config) -> records.Record:
    """Measures every arm; writes the record."""
    config = replace(config, out=config.output.folder("latency"))
    found: dict[str, dict[str, np.ndarray]] = {}
    began = time.perf_counter()
    for kind in ("clustered", "spread"):
        items = catalogue(config, kind == "clustered")
        with tempfile.TemporaryDirectory() as folder:
            made = service(config, items, pathlib.Path(folder))
        if kind == "clustered":
            found |= exact_arms(config, made, items)
        if config.approximate:
            found |= approximate_arms(config, made, items, kind)
    scores = {
        records.Key("requests", arm, "one by one", metric): values
        for arm, metrics in found.items()
        for metric, values in metrics.items()
    }
    wall, processor = bandwidth(items)
    facts = {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "bytes per request": 4 * config.num_items * config.dim,
        "bytes per user": made.about["bytes_per_user"],
        "read": wall,
        "read per second of processor": processor,
    }
    seconds = {"total": time.perf_counter() - began}
    return large_report.written(
        "latency",
        "latency",
        "requests",
        list(found),
        config,
        scores,
        seconds,
        opened=(),
        extra={"machine": facts},
    )


def bandwidth(items: np.ndarray) -> tuple[float, float]:
    """Bytes per second, and per second of processor time, of adding up the catalogue, at best."""
    table = jnp.asarray(items)
    add = jax.jit(jnp.sum)
    jax.block_until_ready(add(table))
    found = timed(20, lambda i: jax.block_until_ready(add(table)))
    best = lambda name: items.nbytes / (1e-3 * float(found[name].min()))
    return best("wall ms"), best("processor ms")


def show(record: records.Record) -> None:
    """Prints percentiles of every arm, and what memory alone would take."""
    machine = record.extra["machine"]
    print(f"{'arm':44} {'p50 ms':>8} {'p99 ms':>8} {'processor p50':>14} {'p99':>8} {'recall':>7}")
    for arm in record.names():
        get = lambda metric, arm=arm: record.of("requests", arm, "one by one", metric)
        recall = record.scores.get(records.Key("requests", arm, "one by one", "recall"))
        cells = [np.percentile(get(m), p) for m in ("wall ms", "processor ms") for p in (50, 99)]
        kept = "" if recall is None else f"{recall.mean():.3f}"
        print(
            f"{arm:44} {cells[0]:8.2f} {cells[1]:8.2f} {cells[2]:14.2f} {cells[3]:8.2f} {kept:>7}"
        )
    size, one = machine["bytes per request"], machine["read per second of processor"]
    print(
        f"{machine['cores']} cores at load {machine['load'][0]:.1f}; the catalogue is "
        f"{size / 1e6:.0f} MB, read at {machine['read'] / 1e9:.1f} GB/s: "
        f"{1e3 * size / machine['read']:.1f} ms at the least; in processor time at "
        f"{one / 1e9:.1f} GB/s: {1e3 * size / one:.1f} ms. "
        f"{machine['bytes per user']} bytes per user."
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, and its table."""
    record = records.stored("latency") if config.output.from_records else run(config)
    show(record)
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
