"""Speed of a pretrained language model: reading, writing, scoring titles, searching a catalogue.

Each is timed by the clock and in processor time; processor time hardly depends on what else the
machine does. The last column divides it by the cores, as if all of them
did their share: what a quiet machine reaches at best. Programs take parameters and tree as
arguments; compiling is not counted and is printed apart.

Run: python -m experiments llm_speed            (smollm2; the extra `llm`)
     python -m experiments llm_speed --checkpoint FOLDER_OR_GGUF
     python -m experiments llm_speed --from-records prints the stored table.
Published: none.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.models.language import constrained, decoder, pretrained
from metajax.models.language.pretrained import Pretrained
from metajax.results import records, tables
from metajax.settings import Output, Positive, Presets
from metajax.training import progress

from ..large import report as large_report
from ..large.titles import Searcher, Text

READ, WRITE, SCORE, SEARCH = "read", "write", "score titles", "search"
WORDS = (
    "The Last Harbor Silent Planet Night Train Before Winter Summer of Glass Iron Garden Second "
    "Moon Paper Kingdom Blue Letters Long Way Home River Stone Broken Clock White Island"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    checkpoint: pathlib.Path = pathlib.Path(pretrained.NAME)
    """smollm2, a GGUF file or a folder in the Hugging Face layout."""
    prompt: Positive = 128
    """Tokens of the prompt that is read."""
    new: Positive = 24
    """Tokens written."""
    titles: Positive = 100
    """Titles scored after one prompt."""
    catalogue: Positive = 1_000
    """Titles that the search may write."""
    beam: Positive = 50
    """Titles that the search keeps."""
    repeats: Positive = 5
    """How often each is timed."""

    PRESETS: ClassVar[Presets] = {"quick": {"repeats": 2, "beam": 10, "catalogue": 100}}


def invented(count: int) -> list[str]:
    """So many different titles of two to five words."""
    rng, found, words = np.random.default_rng(0), {}, WORDS.split()
    while len(found) < count:
        found[" ".join(rng.choice(words, rng.integers(2, 6)))] = None
    return list(found)


def programs(config: Config, model: Pretrained) -> dict[str, tuple[Callable[[], Any], int]]:
    """Name -> what is timed, and how many tokens it reads or writes; of the search, titles kept."""
    made, names = model.decoder, invented(max(config.catalogue, config.titles))
    text = model.encode(" ".join(names))[: config.prompt]
    prompt, size = jnp.asarray(text), len(text)
    read = jax.jit(lambda params, row: constrained.prompt_cache(made, params, row, size))
    write = jax.jit(lambda params, row: decoder.greedy(made, params, row, size, config.new))
    score = jax.jit(
        lambda params, prompt, rows: constrained.log_likelihoods(made, params, prompt, rows)
    )
    rows = [model.encode(f" {name}\n") for name in names[: config.titles]]
    scored = constrained.packed(rows)
    cache = read(model.params, prompt)
    search = Searcher(model, names[: config.catalogue], config.beam)
    asked, allowed = Text(np.asarray(text, np.int32), size, 0), np.ones(config.catalogue, bool)
    return {
        READ: (lambda: read(model.params, prompt), size),
        WRITE: (lambda: write(model.params, prompt), config.new),
        SCORE: (lambda: score(model.params, cache, scored), sum(map(len, rows))),
        SEARCH: (lambda: search(asked, allowed), config.beam),
    }


def timed(call: Callable[[], Any], repeats: int) -> dict[str, np.ndarray]:
    """Wall and processor seconds (1, repeats), and seconds (1, 1) of the first, which compiles."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - began
    found = np.zeros((2, repeats))
    for i in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        found[:, i] = time.perf_counter() - wall, time.process_time() - processor
    return {"seconds": found[:1], "processor seconds": found[1:], "first": np.full((1, 1), first)}


def name_of(config: Config) -> str:
    """The name of the record."""
    return f"llm_speed-{pretrained.name_of(config.checkpoint)}"


def run(config: Config) -> records.Record:
    """Loads the model, times everything; writes the record."""
    wall, processor = time.perf_counter(), time.process_time()
    model = pretrained.load(config.checkpoint)
    load = {"seconds": time.perf_counter() - wall, "processor": time.process_time() - processor}
    scores, counts = {}, {}
    for arm, (call, count) in programs(config, model).items():
        counts[arm] = count
        for metric, values in timed(call, config.repeats).items():
            scores[records.Key("calls", arm, "one by one", metric)] = values
        progress.say(f"{arm}: {scores[records.Key('calls', arm, 'one by one', 'seconds')]} s")
    facts = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg(), "loading": load}
    facts |= {"tokens": counts, "parameters": sum(x.size for x in jax.tree.leaves(model.params))}
    return large_report.written(
        name_of(config), "llm_speed", "calls", list(counts), config, scores, {},
        opened=(), extra={"machine": facts},
    )  # fmt: skip


def show(record: records.Record) -> None:
    """Prints the rates, by the best call: another program can only add to a time."""
    machine = record.extra["machine"]
    title = f"{record.config['checkpoint']}, {machine['parameters']:,} parameters"
    heads = ("seconds", "processor s", "a second", "a processor second", "quiet machine, a second")
    rows = []
    for arm in record.names():
        get = lambda metric, arm=arm: float(record.of("calls", arm, "one by one", metric).min())
        wall, processor, count = get("seconds"), get("processor seconds"), machine["tokens"][arm]
        what = "titles kept" if arm == SEARCH else "tokens"
        rates = (count / wall, count / processor, count / processor * machine["cores"])
        cells = [f"{wall:.2f}", f"{processor:.2f}", *(f"{rate:,.0f}" for rate in rates)]
        rows.append([arm, f"{count} {what}", *cells, f"{get('first'):.1f} s"])
    tables.terminal(tables.Grid(title, ("", "of", *heads, "first call"), rows, 2))
    memory = record.peak_memory["host_mb"] / 1e3
    print(
        f"{machine['cores']} cores at load {machine['load'][0]:.1f}; loaded in "
        f"{machine['loading']['seconds']:.1f} s ({machine['loading']['processor']:.1f} s of "
        f"processor time); {memory:.1f} GB at the peak"
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and its plot."""
    name = name_of(config)
    record = records.stored(name) if config.output.from_records else run(config)
    show(record)
    if not config.output.from_records:
        large_report.finished(record, name, config, ("one by one", "processor seconds"))
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config)
