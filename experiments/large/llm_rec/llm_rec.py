"""A language model that recommends: it generates semantic codes, only those of existing items.

A person is a text: profile tokens, then the codes of the last items. Beam search over the tree of
all items' codes decodes the next item. Codes are residual k-means of title vectors and of vectors
of co-occurrence. A small decoder is trained here on most people. For the others it reads the newest
items and is adapted, or not, to older items that do not fit its window: by fine-tuning LoRA, or
with a meta-learned LoRA or soft prompt. Control: the same decoder with codes assigned to the items
at random. Counted transitions between items, without training, are a further baseline.

References: Rajput et al., NeurIPS 2023 (TIGER); Geng et al., RecSys 2022 (P5); Hu et al., 2022;
Levy, Goldberg, NeurIPS 2014 (mutual information, factored).
Run: python -m experiments llm_rec              (needs the extra `text`)
     python -m experiments llm_rec --checkpoint smollm2 --dataset ml-100k --people 50
     (the extra `llm`: a pretrained model writes titles; a GGUF file or a folder serve too)
     python -m experiments llm_rec --dataset ml-100k --query "I liked Alien, something slower?"
     python -m experiments llm_rec --from-records prints the stored table.
Published: none under this protocol.
"""

import dataclasses
import pathlib
import time
from typing import Any, ClassVar, NamedTuple

import numpy as np

from metajax.data.histories import sequences as histories
from metajax.data.histories.sequences import Sequences
from metajax.data.sources import named
from metajax.data.table import Interactions
from metajax.evaluation import next_item
from metajax.models.language import pretrained
from metajax.results import ledger, records
from metajax.settings import Data, Hardware, Output, Positive, Presets, config_hash, replace
from metajax.training import progress
from metajax.types import UserError

from .. import report as large_report
from . import parts, query, writing
from .language import language
from .ranking import groups, ranks, simple


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    data: Data = Data()
    text_model: pathlib.Path | None = None
    """For the codes: a folder of a BERT-like encoder, or a language model (smollm2, a GGUF file, a
    folder); by default the packaged MiniLM."""
    checkpoint: pathlib.Path | None = None
    """A pretrained model that writes titles, without training: smollm2, a GGUF file or a folder
    in the Hugging Face layout."""
    prompt_tokens: Positive = 1024
    """Longest prompt of a pretrained model; of a longer one the oldest titles are left out."""
    query: str | None = None
    """A question in words, such as "I liked Alien, something slower?"; answered by five items."""
    ratings: str | None = None
    """With --query: what the person has rated, such as "Heat=2, Alien=5"."""
    candidates: Positive = 30
    """With --query: items that the language model proposes, before they are ranked."""
    window: Positive = 16
    """Number of items in a row of the prompt and in each example of the support."""
    rows: Positive = 2
    """Rows of older items that a person is adapted on."""
    num_codes: Positive = 256
    """Codes per level."""
    levels: Positive = 1
    """Levels of codes; a further token distinguishes items with equal codes."""
    factors: Positive = 64
    """Width of the vectors of co-occurrence used with the titles; 0 uses titles alone."""
    width: Positive = 64
    """Width of the decoder."""
    num_layers: Positive = 2
    """Number of blocks of the decoder."""
    num_steps: Positive = 6_000
    """Training steps of the decoder."""
    batch: Positive = 16
    """People per training step of the decoder."""
    rate: float = 3e-3
    """Adam's highest rate; it rises over a tenth of the steps and falls along a cosine."""
    meta_steps: int = 100
    """Outer steps of each meta-learned adapter, of 8 people each."""
    inner_steps: int = 3
    """Gradient steps on a person's older items."""
    beam: Positive = 50
    """Items that the constrained beam keeps."""
    people: Positive = 600
    """Test people judged, at most."""
    seeds: Positive = 1
    """Training seeds."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "num_steps": 100, "meta_steps": 10, "people": 50},
        "gpu": {
            "width": 256,
            "num_layers": 4,
            "num_steps": 50_000,
            "meta_steps": 2_000,
            "seeds": 5,
        },
    }


class Trained(NamedTuple):
    """The arms with the decoder that is trained here, before their test.

    Attributes:
      arms: of each seed, by name.
      settings: what was chosen on validation people.
      size: arm -> bytes kept of a person.
    """

    arms: list[dict[str, parts.Arm]]
    settings: dict[str, Any]
    size: dict[str, int]


def trained_here(
    config: Config, table: Interactions, data: Sequences, out: pathlib.Path
) -> Trained:
    """The arms with the decoder that is trained here."""
    from metajax.models.language import vectors

    titles = [str(title) for title in np.asarray(table.item_titles)]
    found = vectors.cached(titles, config.text_model, out / "titles.npz")
    train, valid, _ = groups(len(data.length))
    words = language(config, table, data, found, train)
    kept = out / config_hash(config)
    lab = parts.Lab(config, data, words, train, valid, kept)
    dealt = np.random.default_rng(12).permutation(len(words.items))
    control = dataclasses.replace(words, items=words.items[dealt])
    blind = parts.Lab(config, data, control, train, valid, kept / "codes-permuted")
    arms = [
        lab.arms(seed) | {"no adaptation, codes permuted": blind.plain(seed)[0]}
        for seed in range(config.seeds)
    ]
    settings: dict[str, Any] = {"vocabulary": words.vocab_size}
    for seed, by_name in enumerate(arms):
        settings |= {f"{arm}, seed {seed}": chosen for arm, (_, _, chosen) in by_name.items()}
    return Trained(arms, settings, lab.bytes)


def judged(
    config: Config, data: Sequences, trained: Trained
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Places (S, U) of each arm among the test people, and the seconds of its last seed."""
    train, _, test = groups(len(data.length))
    test = test[: config.people]
    held = histories.held_out(data, config.window, 1)
    found: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for by_name in trained.arms:
        for arm, (search, took, _) in by_name.items():
            began = time.perf_counter()
            items = search(test)
            found.setdefault(arm, []).append(ranks(items, held.target[test], held.seen[test]))
            seconds[arm] = took + time.perf_counter() - began
            quality = next_item.rank_metrics(found[arm][-1])["ndcg@10"].mean()
            progress.say(f"{arm} {quality}")
    places = {arm: np.stack(rows) for arm, rows in found.items()}
    return simple(data, held, train, test, config.beam) | places, seconds


def name_of(config: Config) -> str:
    """The name of the record: of the data, and of the model where it was trained elsewhere."""
    model = f"{pretrained.name_of(config.checkpoint)}-" if config.checkpoint else ""
    return f"llm_rec-{model}{named.short_name(config.data.dataset)}"


def run(config: Config) -> records.Record:
    """Trains, adapts and tests; writes the record."""
    name = name_of(config)
    out = config.output.folder(name)
    config = replace(config, out=out)
    table = named.chosen(config.data)
    if table.item_titles is None:
        raise UserError(f"{table.name} has no item titles; name a table of the items with --items")
    data = histories.of_table(table)
    if config.checkpoint:
        return writing.run(config, name, table, data, out)
    test = groups(len(data.length))[2]
    tests = ledger.checksum("people not trained on", data.digest(), test, config.people)
    trained = trained_here(config, table, data, out)
    settings, size = trained.settings, trained.size
    opened = records.open_tests(config, settings, "llm_rec", tests)
    places, seconds = judged(config, data, trained)
    scores = {
        records.Key("people not trained on", arm, "constrained beam", metric): values
        for arm, rows in places.items()
        for metric, values in next_item.rank_metrics(rows).items()
    }
    about = records.Data(data.name, data.digest(), items=data.num_items)
    return large_report.written(
        name, "llm_rec", "people not trained on", list(places), config, scores, seconds,
        opened=[opened], data=about, settings=settings, size=size,
    )  # fmt: skip


def main(config: Config) -> records.Record | None:
    """The record of the experiment, run or read, and its table; or the answer to a question."""
    if config.query is not None:
        return query.answered(config)
    if config.ratings is not None:
        raise UserError("--ratings belong to a question; give --query, too")
    name = name_of(config)
    record = records.stored(name) if config.output.from_records else run(config)
    columns = [("constrained beam", metric) for metric in ("hit@10", "ndcg@10", "mrr")]
    large_report.show(record, columns, f"Next item by a language model, {name[8:]}, new people")
    pairs = [(arm, "no adaptation") for arm in record.names() if arm != "no adaptation"]
    large_report.differences(record, "ndcg@10", columns[1], pairs)
    if "cost" in record.extra:
        print(writing.costs(record))
    if not config.output.from_records:
        large_report.finished(record, name, config, columns[1])
    return record
