"""Cold items with text: do titles, read by a language model, predict how people rate a new film?

A fifth of the items is hidden. Biases and ALS factors of the other items are regressed on their
content; a hidden item gets the predicted bias and factors, and every user's factors score it. The
content is none, genres, title embeddings of MiniLM, or both; the control uses the titles of other
films.

Distributions over ratings: for each draw a fifth of the items that are not hidden is hidden as
well, everything is fitted anew without their ratings, and the ordinal link of each arm is fitted on
what it then says of them.

References: Reimers, Gurevych, EMNLP 2019; Gantner et al., ICDM 2010 (attributes to factors).
Run: python -m experiments text_cold            (needs the extra `text`)
     python -m experiments text_cold --text-model smollm2 --seeds 3    (the extra `llm`)
     python -m experiments text_cold --from-records prints the stored table.
Published: none under this protocol.
Deviates: the year is cut from the titles, so that the embedding cannot read the release date.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.benchmark import belief
from metajax.data.features import factors, represent
from metajax.data.sources import named
from metajax.data.table import Features, Interactions
from metajax.evaluation import metrics, ordinal
from metajax.results import ledger, records
from metajax.settings import Data, Output, Positive, Presets, Share, replace
from metajax.types import Episode, Examples, UserError

from . import report as large_report
from .titles import record_name

ARMS = ("constant", "genres", "titles", "genres + titles", "titles permuted", "genres + permuted")
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TEXT_SCALE = 4.0  # title vectors have length 1; genres have one to six ones
NUM_QUERY = 50


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data()
    text_model: pathlib.Path | None = None
    """A folder of a BERT-like encoder, or a language model (smollm2, a GGUF file, a folder); by
    default the packaged MiniLM."""
    cold_share: Share = 0.2
    """Share of the items hidden from training."""
    dim: Positive = 16
    """Factors of the collaborative model."""
    seeds: Positive = 5
    """Draws of the hidden items and of the permutation."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "seeds": 1},
        "gpu": {"seeds": 20},
    }


def contents(
    table: Interactions, text_NxD: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What each arm knows of the items: (num_items, C)."""
    column = {"genre": table.item_features.columns["genre"]}
    sizes = {"genre": table.item_features.sizes["genre"]}
    genres = represent.content_matrix(Features(column, sizes), table.num_items).toarray()
    titles = TEXT_SCALE * (text_NxD - text_NxD.mean(axis=0))
    others = titles[rng.permutation(len(titles))]
    return {
        "constant": np.zeros((table.num_items, 0)),
        "genres": genres,
        "titles": titles,
        "genres + titles": np.hstack([genres, titles]),
        "titles permuted": others,
        "genres + permuted": np.hstack([genres, others]),
    }


def fitted(table: Interactions, warm: np.ndarray, dim: int) -> tuple:
    """Mean, item biases and weights, and ALS factors, of the rows where ``warm`` holds."""
    user, item, label = (x[warm] for x in (table.user, table.item, table.label.astype(float)))
    mean = label.mean()
    count = np.bincount(item, minlength=table.num_items)
    bias = np.bincount(item, label - mean, table.num_items) / (count + 5.0)
    shape = (table.num_users, table.num_items)
    found = factors.als(user, item, label - mean - bias[item], shape, dim=dim)
    return mean, bias, count, found


def asked_of(score: np.ndarray, table: Interactions, cold: np.ndarray) -> tuple[jax.Array, Episode]:
    """Scores (num_users, Q) of the first rows of each user where ``cold`` holds, and their ratings.

    Users with fewer than 5 of them have none.

    Args:
      score: (n,) of every row of the table.
    """
    rows = np.flatnonzero(cold)
    rows = rows[np.argsort(table.user[rows], kind="stable")]
    count = np.bincount(table.user[rows], minlength=table.num_users)
    start = np.cumsum(count) - count
    place = np.arange(NUM_QUERY)[None, :]
    mask = (place < count[:, None]) & (count >= 5)[:, None]
    at = rows[np.where(mask, start[:, None] + place, 0)]
    scores, labels, real = (jnp.asarray(x) for x in (score[at], table.label[at], mask * 1.0))
    query = Examples((), labels, real)
    return scores, Episode((), query, query)


def judge(
    score: np.ndarray,
    table: Interactions,
    cold: np.ndarray,
    key: jax.Array,
    link: ordinal.Link | None = None,
) -> dict[str, jax.Array]:
    """Per-user metrics of the scores of hidden items; NaN for users with fewer than 5 of them.

    With a link of the arm's scores, the metrics `ordinal.PROPER`, too.
    """
    scores, tasks = asked_of(score, table, cold)
    labels, real = tasks.query.label, tasks.query.mask
    ndcg = functools.partial(metrics.ndcg, k=5)
    keys = jax.random.split(key, table.num_users)
    found = {
        "mae": jax.vmap(metrics.mae)(scores, labels, real),
        "mse": jax.vmap(metrics.rmse)(scores, labels, real) ** 2,
        "ndcg@5": jax.vmap(ndcg)(scores, labels, real, keys),
    }
    return found if link is None else found | _proper(link, scores, tasks, key)


def link_of(
    score: np.ndarray, table: Interactions, cold: np.ndarray, levels: np.ndarray
) -> ordinal.Link:
    """The ordinal link of an arm's scores (n,) of rows that nobody is tested on.

    Args: as `judge`, and the rating levels (L,).
    """
    scores, tasks = asked_of(score, table, cold)
    return _fit(scores, tasks.query.label, tasks.query.mask, jnp.asarray(levels))


_fit, _proper = jax.jit(ordinal.fit), jax.jit(ordinal.proper)


class Predicted(NamedTuple):
    """What the arms say of the hidden items of one draw, before anyone has looked at their ratings.

    Attributes:
      cold: (R,) which rows of the table are of hidden items.
      scores: arm -> (C,) scores of those rows.
      penalties: arm -> the penalty chosen on items that are not hidden.
      links: arm -> its ordinal link, see `linked`.
    """

    cold: np.ndarray
    scores: dict[str, np.ndarray]
    penalties: dict[str, float]
    links: dict[str, ordinal.Link]


def predicted(config: Config, table: Interactions, text: np.ndarray, seed: int) -> Predicted:
    """The scores of every arm, for one draw of hidden items."""
    rng = np.random.default_rng((7, seed))  # not the draw that chooses the penalty
    hidden = rng.random(table.num_items) < config.cold_share
    known_of = contents(table, text, rng)
    cold = hidden[table.item]
    told = told_of(table, known_of, hidden, ~cold, config.dim, seed)
    scores = {arm: score[cold] for arm, (score, _) in told.items()}
    penalties = {arm: penalty for arm, (_, penalty) in told.items()}
    return Predicted(cold, scores, penalties, linked(config, table, known_of, hidden, seed))


def told_of(
    table: Interactions,
    known_of: Mapping[str, np.ndarray],
    hidden: np.ndarray,
    warm: np.ndarray,
    dim: int,
    seed: int,
) -> dict[str, tuple[np.ndarray, float]]:
    """Arm -> scores (n,) of all rows by what content says of their items, and its penalty.

    Args:
      known_of: of `contents`.
      hidden: (num_items,) which items nothing is known of but their content.
      warm: (n,) the rows that are learned from.
    """
    mean, bias, count, found = fitted(table, warm, dim)
    trust = np.where(hidden, 0.0, count / (count + 40.0))
    scale = np.sqrt(np.mean(np.sum(found.item[~hidden].astype(float) ** 2, axis=1)))
    target = np.column_stack([bias * 3.0, found.item / scale])  # about equal variance
    results = {}
    for arm, content in known_of.items():
        told, penalty = represent.content_prediction(content, target, trust, PENALTIES, seed)
        item_bias, item_factor = told[:, 0] / 3.0, told[:, 1:] * scale
        of_user, user, item = found.user, table.user, table.item
        taste = np.sum(of_user[user, 1:] * item_factor[item], axis=1)
        score = (mean + of_user[user, 0] + item_bias[item] + taste).astype(np.float32)
        results[arm] = score, penalty
    return results


def linked(
    config: Config,
    table: Interactions,
    known_of: Mapping[str, np.ndarray],
    hidden: np.ndarray,
    seed: int,
) -> dict[str, ordinal.Link]:
    """Arm -> its ordinal link, fitted where further items are hidden; the test's are left out."""
    drawn = np.random.default_rng((8, seed)).random(table.num_items) < config.cold_share
    asked = (drawn & ~hidden)[table.item]
    warm = ~(drawn | hidden)[table.item]
    told = told_of(table, known_of, drawn | hidden, warm, config.dim, seed)
    levels = ordinal.levels_of(table.label[warm], table.scale)
    return {arm: link_of(score, table, asked, levels) for arm, (score, _) in told.items()}


def judged(told: Predicted, table: Interactions, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Per-user metrics of every arm on the hidden items of one draw."""
    results = {}
    for arm, score in told.scores.items():
        everywhere = np.zeros(len(table.label), np.float32)
        everywhere[told.cold] = score
        key, link = jax.random.key(seed), told.links[arm]
        found = judge(everywhere, table, told.cold, key, link)
        results[arm] = {metric: np.asarray(values) for metric, values in found.items()}
    return results


def run(config: Config) -> records.Record:
    """Runs every seed and arm; writes the record."""
    from metajax.models.language import vectors

    name = record_name("text_cold", config.text_model, config.data.dataset)
    out = config.output.folder(name)
    config = replace(config, out=out)
    began = time.perf_counter()
    table = named.chosen(config.data)
    if table.item_titles is None or "genre" not in table.item_features.columns:
        raise UserError(
            f"{table.name} has no titles or no genres; name a table of the items with --items"
        )
    texts = [str(title) for title in table.item_titles]
    text = vectors.cached(texts, config.text_model, out / "titles.npz")
    seconds = {"titles": time.perf_counter() - began}
    told = [predicted(config, table, text, seed) for seed in range(config.seeds)]
    choices = {f"seed {seed}": of_seed.penalties for seed, of_seed in enumerate(told)}
    tests = ledger.checksum(table.checksum(), config.cold_share, config.seeds)
    opened = records.open_tests(config, choices, "text_cold", tests)
    by_seed = [judged(of_seed, table, seed) for seed, of_seed in enumerate(told)]
    scores = {
        records.Key("item-cold", arm, "hidden items", metric): np.stack(
            [found[arm][metric] for found in by_seed]
        )
        for arm in ARMS
        for metric in by_seed[0][arm]
    }
    seconds["total"] = time.perf_counter() - began
    data = records.Data(table.name, table.checksum(), table.num_users)
    levels = ordinal.levels_of(table.label, table.scale)
    return large_report.written(
        name, "text_cold", "item-cold", ARMS, config, scores, seconds, opened=[opened], data=data,
        extra=belief.facts(levels, table.label, 1.0),
    )  # fmt: skip


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and the two differences it is about."""
    name = record_name("text_cold", config.text_model, config.data.dataset)
    record = records.stored(name) if config.output.from_records else run(config)
    columns = [("hidden items", metric) for metric in ("mse", "ndcg@5", "mae")]
    title = f"Items never rated, {name[10:]}: what content is worth"
    large_report.show(record, columns, title)
    large_report.distributions(record, "hidden items", title)
    pairs = [
        ("titles", "genres"),
        ("genres + titles", "genres"),
        ("titles", "titles permuted"),
        ("titles permuted", "constant"),
        ("genres + permuted", "genres"),
    ]
    for metric in ("mse", "ndcg@5"):
        large_report.differences(record, metric, ("hidden items", metric), pairs)
    if not config.output.from_records:
        large_report.finished(record, name, config, columns[0])
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
