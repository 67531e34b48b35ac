"""A pretrained language model writes the next title: the arms of `llm_rec --checkpoint`."""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.histories import sequences as histories
from metajax.data.histories.sequences import Sequences
from metajax.data.table import Interactions
from metajax.evaluation import next_item
from metajax.models.language import constrained, pretrained
from metajax.models.language.pretrained import Pretrained
from metajax.results import ledger, records
from metajax.results.partial import Partial
from metajax.settings import config_hash, replace
from metajax.training import progress
from metajax.types import Params

from .. import report as large_report
from ..titles import Searcher, fitting, names_of
from . import ranking

WRITES, OTHERS = "no adaptation", "another person's list"
MINUS = "minus the prior"
SCENARIO, CONDITION = "people not trained on", "constrained beam"
HEAD = "Films watched, in order:\n"


def run(
    config: Any, name: str, table: Interactions, data: Sequences, out: pathlib.Path
) -> records.Record:
    """Searches for every person, each kept as it is found; writes the record."""
    began, clock = time.perf_counter(), time.process_time()
    names = names_of(table, data.item_ids)
    model = pretrained.load(config.checkpoint)
    search = Searcher(model, names, config.beam)
    loaded = {"load": time.perf_counter() - began, "load, processor": time.process_time() - clock}
    train, _, people = ranking.groups(len(data.length))
    people = people[: config.people]
    asked = ledger.checksum(SCENARIO, data.digest(), people, config.people)
    of_any_size = config_hash(replace(config, people=1))  # with more people it goes on
    kept = Partial(out / "people.jsonl", {"config": of_any_size, "data": data.digest()})
    settings = {"checkpoint": model.name, "prompt": HEAD, "nothing was chosen": True}
    opened = kept.opening(config, lambda: records.open_tests(config, settings, "llm_rec", asked))
    held = histories.held_out(data, config.window, 1)
    found = searched(config, search, names, held, people, kept)
    target, seen = held.target[people], held.seen[people]
    items = np.array([row["items"] for row in found])
    places = ranking.simple(data, held, train, people, config.beam)
    places |= {
        OTHERS: ranking.ranks(np.roll(items, 1, axis=0), target, seen)[None],
        WRITES: ranking.ranks(items, target, seen)[None],
        MINUS: ranking.ranks(reordered(found, priors(model, names)), target, seen)[None],
    }
    scores = {
        records.Key(SCENARIO, arm, CONDITION, metric): values
        for arm, rows in places.items()
        for metric, values in next_item.rank_metrics(rows).items()
    }
    cost = {part: [row[part] for row in found] for part in ("seconds", "processor", "tokens")}
    left_out = sum(row["left_out"] > 0 for row in found)
    return large_report.written(
        name, "llm_rec", SCENARIO, list(places), config, scores,
        loaded | {WRITES: float(np.sum(cost["seconds"]))},
        opened=[opened], data=records.Data(data.name, data.digest(), items=data.num_items),
        settings=settings, extra={"cost": cost, "titles left out for": left_out},
    )  # fmt: skip


def searched(
    config: Any, search: Searcher, names: list[str], held: Any, people: np.ndarray, kept: Partial
) -> list[dict[str, Any]]:
    """What was found for each person, and what it cost; what is kept already is not redone."""
    longest, found, said = min(config.prompt_tokens, search.room), [], False
    with progress.bar("people", len(people)) as update:
        for i, person in enumerate(people.tolist()):
            key = str(person)
            if key not in kept:
                history = held.history[person, : held.length[person]]
                lines = [f" {names[item]}\n" for item in history]
                text = fitting(search.model, HEAD, lines, longest=longest)
                allowed = np.ones(len(names), bool)
                allowed[held.seen[person][held.seen[person] < len(names)]] = False
                wall, processor = time.perf_counter(), time.process_time()
                items, scores = search(text, allowed)
                cost = {
                    "seconds": time.perf_counter() - wall,
                    "processor": time.process_time() - processor,
                }
                about = {"tokens": text.length, "left_out": text.left_out, **cost}
                kept.add(key, {"items": items, "scores": np.round(scores, 4).tolist(), **about})
                if found and not said:  # the first one compiles
                    said = True
                    rest = (len(people) - i - 1) * cost["seconds"] / 60
                    progress.say(
                        f"a person takes {cost['seconds']:.1f} s, {cost['processor']:.1f} s of "
                        f"processor time; the others {rest:.0f} minutes more"
                    )
            found.append(kept[key])
            update(i + 1, {"seconds": found[-1]["seconds"]})
    short = sum(row["left_out"] > 0 for row in found)
    if short:
        progress.say(
            f"the oldest titles did not fit and were left out for {short} of {len(found)} people"
        )
    return found


def priors(model: Pretrained, names: Sequence[str], at_once: int = 64) -> np.ndarray:
    """The log-likelihood (N,) of each name where nothing is known of a person."""
    head = jnp.asarray(model.encode(HEAD))
    length = head.shape[0]

    @jax.jit
    def run(params: Params, head: jax.Array, rows: constrained.Packed) -> jax.Array:
        prompt = constrained.prompt_cache(model.decoder, params, head, length)
        return constrained.log_likelihoods(model.decoder, params, prompt, rows)

    tokens = [model.encode(f" {name}\n") for name in names]
    order, out = np.argsort([len(row) for row in tokens], kind="stable"), np.zeros(len(names))
    for at in range(0, len(names), at_once):
        chosen = order[at : at + at_once]
        rows = [tokens[i] for i in chosen] + [[0]] * (at_once - len(chosen))
        told = run(model.params, head, constrained.packed(rows, 256))
        out[chosen] = np.asarray(told)[: len(chosen)]
    return out


def reordered(found: Sequence[Mapping[str, Any]], prior: np.ndarray) -> np.ndarray:
    """The items (U, W) of each person's list by likelihood minus prior, best first, -1 at the end.

    The prior is high for what is written often, whoever asks.

    References: Brown et al., NeurIPS 2020, section 2.4 (answers without context).
    """
    out = []
    for row in found:
        items, scores = np.array(row["items"]), np.array(row["scores"], float)
        gain = np.where(items >= 0, scores - prior[items], -np.inf)
        out.append(items[np.argsort(-gain, kind="stable")])
    return np.array(out)


def costs(record: records.Record) -> str:
    """One line: what a person costs."""
    cost = record.extra["cost"]
    wall, processor = (np.median(cost[part]) for part in ("seconds", "processor"))
    return (
        f"a person: {np.mean(cost['tokens']):.0f} tokens of prompt, {wall:.1f} s, "
        f"{processor:.1f} s of processor time (medians of {len(cost['tokens'])})"
    )
