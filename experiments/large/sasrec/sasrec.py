"""Sequence recommendation: what does a person take next, ranked among all items?

A causal Transformer over the history, trained with the full softmax, beside popularity, untrained
transitions, item-kNN and BPR matrix factorization, tuned on the validation items. With --also,
other published recipes beside it: gBCE, eSASRec (gated residuals, sampled softmax corrected for
popular draws) and HSTU (pointwise attention, full softmax).

References: Kang, McAuley, ICDM 2018; Klenitskiy, Vasilev, RecSys 2023; Petrov, Macdonald, RecSys
2023 (gBCE); Tikhonovich et al., RecSys 2025 (eSASRec); Zhai et al., ICML 2024 (HSTU).
Run: python -m experiments sasrec                     (ml-1m, the order of SASRec's authors)
     python -m experiments sasrec --dataset ml-100k --seeds 3 --also gbce esasrec hstu
     python -m experiments sasrec --from-records prints the stored table.
Published: full ranking on ML-1M, SASRec with full cross-entropy HR@10 .315, NDCG@10 .182; with its
original loss .25/.13; eSASRec .3133/.1772, HSTU-large .3294/.1893; .82/.59 is the sampled-100
protocol, which no conclusion rests on.
Deviates: rotary positions, RMS norms and gated MLPs; windows of 64 items instead of 200 (beyond
50 items of context little is left to gain here); one cosine schedule instead of early stopping.
All histories of a batch share their draws, half of eSASRec's are items of the batch; HSTU has
rotary positions and no times.
"""

import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import tree
from metajax.data.histories import sequences as histories
from metajax.data.histories.sequences import HeldOut, Sequences
from metajax.data.sources import named
from metajax.evaluation import next_item
from metajax.learners import in_context
from metajax.models import sequence
from metajax.results import ledger, records
from metajax.settings import Data, Hardware, Output, Positive, Presets, Share, replace
from metajax.training import loop, progress
from metajax.training.devices import on_devices, split_second_axis
from metajax.types import Params, UserError

from .. import report as large_report
from . import arms as sasrec_arms

SASREC = "SASRec, full softmax"
RECIPES = {"gbce": "SASRec, gBCE", "esasrec": "eSASRec", "hstu": "HSTU, full softmax"}
Recipe = Literal["gbce", "esasrec", "hstu"]
COLUMNS = [
    (condition, metric)
    for condition in (next_item.FULL, next_item.UNMASKED, next_item.SAMPLED)
    for metric in ("hit@10", "ndcg@10")
]


@dataclasses.dataclass(frozen=True)
class Config:
    """What the experiment can be told."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    data: Data = Data()
    window: Positive = 64
    """Items that a person's state holds."""
    width: Positive = 64
    """Width of the Transformer and of the item embeddings."""
    num_layers: Positive = 2
    """Blocks."""
    num_heads: Positive = 2
    """Attention heads."""
    dropout: Share = 0.2
    """Dropout rate of the embeddings and of each block's output."""
    epochs: Positive = 16
    """Passes over the trained part of all histories."""
    batch: Positive = 32
    """Windows per step."""
    rate: float = 2e-3
    """Adam's highest rate; it rises over 5 % of the steps and falls along a cosine."""
    num_negatives: int = 0
    """Number of uniform negatives of the corrected sampled softmax; 0 is the full softmax."""
    also: tuple[Recipe, ...] = ()
    """Further recipes: gbce, esasrec, hstu."""
    drawn: Positive = 256
    """Items that gbce and esasrec draw per step."""
    seeds: Positive = 1
    """Training seeds, one after the other."""
    fresh: bool = False
    """Start from the beginning, instead of resuming from the checkpoints in the folder."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "epochs": 2},
        "gpu": {"width": 128, "epochs": 200, "batch": 128, "seeds": 5},
    }


def load(config: Config) -> Sequences:
    """The histories of the data set."""
    if config.data.dataset == "ml-1m":
        return histories.read_sasrec(named.data_folder(config.data.data_dir))
    return histories.of_table(named.chosen(config.data))


def build(config: Config, num_items: int) -> sequence.Settings:
    """The recommender."""
    shape = sequence.small(config.width, config.num_layers, config.num_heads)
    return sequence.Settings(num_items, shape, config.dropout, 0.0, config.num_negatives)


def recipe_of(name: str, config: Config, num_items: int) -> sequence.Settings:
    """The recommender of another recipe, of the same width and depth."""
    plain = build(config, num_items)
    drawn = min(config.drawn, num_items)
    if name == "gbce":
        return dataclasses.replace(plain, num_negatives=drawn, objective=sequence.gbce)
    if name == "hstu":
        return dataclasses.replace(plain, shape=dataclasses.replace(plain.shape, pointwise=True))
    shape = dataclasses.replace(plain.shape, gated_residual=True)
    corrected = {"num_negatives": drawn, "popular": 0.5, "objective": sequence.logq_softmax}
    return dataclasses.replace(plain, shape=shape, **corrected)


def scorer(settings: sequence.Settings, params: Params) -> next_item.Scorer:
    """Scores of all items for a batch of histories."""
    model = sequence.next_item(settings)
    return lambda person, history, length: model.apply(params, (), (history, length))


def fit(
    config: Config,
    data: Sequences,
    seed: int,
    out: pathlib.Path,
    settings: sequence.Settings | None = None,
    name: str = "",
) -> loop.Fitted:
    """The recommender trained with one seed; resumed, if it was killed. Kept as ``seed-N.npz``.

    Args:
      settings: of another recipe, with its name; None for `build`.
    """
    settings = settings or build(config, data.num_items)
    called = f"{name}-seed-{seed}" if name else f"seed-{seed}"
    windows = histories.windows(data, config.window)
    per_epoch = -(-len(windows.end) // config.batch)
    num_steps = -(-config.epochs * per_epoch // 100) * 100
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.rate, max(num_steps // 20, 1), num_steps
    )
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule, b2=0.98))
    learner = in_context.sequence_learner(settings, config.window)
    learner = in_context.in_batches(learner, settings)

    def sample(windows: histories.Windows, key: jax.Array):
        draw = functools.partial(histories.draw, windows, width=config.window)
        episodes = jax.vmap(draw)(jax.random.split(key, config.batch))
        return jax.tree.map(lambda x: x[None], episodes)

    held = histories.held_out(data, config.window, 2)
    some = np.random.default_rng(0).permutation(len(held.target))[:2048]
    valid = HeldOut(*(x[some] for x in held))

    def validate(params: Params) -> jax.Array:
        ranks = next_item.ranks(scorer(settings, params), valid, data.num_items, jax.random.key(3))
        rank = ranks[next_item.FULL]
        return -jnp.mean(jnp.where(rank < 10, 1.0 / jnp.log2(rank + 2.0), 0.0))

    recipe = on_devices(config.hardware.devices, loop.recipe(learner, tx), split_second_axis)
    with progress.bar(f"{name or 'SASRec'} seed {seed}", num_steps) as update:
        fitted = loop.fit(
            recipe,
            sample,
            windows,
            jax.random.key(seed)[None],
            num_steps,
            block=per_epoch // 100 * 100 or 100,
            validate=validate,
            report=update,
            checkpoint=out / "checkpoints" / called,
        )
    leaves = jax.tree_util.tree_leaves_with_path(fitted.params)
    arrays = {tree.path_name(path): np.asarray(leaf[0]) for path, leaf in leaves}
    np.savez(out / f"{called}.npz", allow_pickle=False, **arrays)
    return fitted


def kept(config: Config, data: Sequences, seed: int, out: pathlib.Path) -> tuple[Params, float]:
    """The recommender of one seed and its seconds of training: read where it stands, or trained.

    Other experiments start from it.

    Raises:
      UserError: the file is of another recommender.
    """
    path = out / f"seed-{seed}.npz"
    settings = build(config, data.num_items)
    like = jax.eval_shape(lambda: sequence.init(jax.random.key(0), settings))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    names = [tree.path_name(path) for path, _ in leaves]
    if not path.is_file():
        fitted = fit(config, data, seed, out)
        return jax.tree.map(lambda x: x[0], fitted.params), fitted.seconds
    with np.load(path) as stored:
        found = {name: stored[name] for name in stored.files}
    if {n: x.shape for n, x in found.items()} != dict(
        zip(names, (x.shape for _, x in leaves), strict=True)
    ):
        raise UserError(f"{path} holds another recommender; remove it, or give another folder")
    return jax.tree.unflatten(treedef, [jnp.asarray(found[name]) for name in names]), 0.0


class Simple(NamedTuple):
    """An arm without a Transformer, before its test.

    Attributes:
      make: (histories, held-out items, *chosen) -> scores, see `arms`.
      chosen: its settings.
      settings: what the record says of them.
      seconds: that choosing took.
    """

    make: Callable[..., np.ndarray]
    chosen: tuple[Any, ...]
    settings: dict[str, Any]
    seconds: float


def simple_arms(data: Sequences, width: int) -> dict[str, Simple]:
    """The arms without a Transformer, their settings chosen on validation items."""
    valid = histories.held_out(data, width, 2)
    key_valid, _ = jax.random.split(jax.random.key(4))
    decays = (0.6, 0.8, 0.95)
    makers = {
        "popularity": (sasrec_arms.popularity, [()]),
        "transitions": (sasrec_arms.transitions, [(r, d) for r in (1, 5, 20) for d in decays]),
        "item-kNN": (sasrec_arms.item_knn, [(k, d) for k in (20, 100) for d in decays]),
        "BPR-MF": (
            sasrec_arms.bpr,
            [(sasrec_arms.Factors(decay=decay),) for decay in (1e-4, 1e-3, 1e-2)],
        ),
    }
    found = {}
    for name, (make, grid) in makers.items():
        began = time.perf_counter()
        best, valid_ndcg = sasrec_arms.chosen(make, grid, data, valid, key_valid)
        settings = {"chosen": str(best), "valid_ndcg": valid_ndcg, "trials": len(grid)}
        found[name] = Simple(make, best, settings, time.perf_counter() - began)
        print(name, settings, flush=True)
    return found


def fitted_arms(
    config: Config, data: Sequences, out: pathlib.Path
) -> dict[str, tuple[sequence.Settings, list[loop.Fitted]]]:
    """Arm -> its settings, and what each seed has made."""
    made = {SASREC: ("", build(config, data.num_items))}
    made |= {RECIPES[name]: (name, recipe_of(name, config, data.num_items)) for name in config.also}
    return {
        arm: (s, [fit(config, data, seed, out, s, name) for seed in range(config.seeds)])
        for arm, (name, s) in made.items()
    }


def run(config: Config) -> records.Record:
    """Trains and tests every arm; writes the record."""
    name = f"sasrec-{named.short_name(config.data.dataset)}"
    out = config.output.folder(name)
    config = replace(config, out=out)
    if config.fresh:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    data = load(config)
    build(config, data.num_items)
    scores, seconds, settings = {}, {}, {}

    def keep(arm: str, ranks: dict[str, np.ndarray]) -> None:
        for condition, rank in ranks.items():
            for metric, values in next_item.rank_metrics(np.atleast_2d(rank)).items():
                scores[records.Key("leave-one-out", arm, condition, metric)] = values

    simple = simple_arms(data, config.window)
    for arm, made in simple.items():
        settings[arm], seconds[arm] = made.settings, made.seconds
    trained = fitted_arms(config, data, out)
    for arm, (_, by_seed) in trained.items():
        seconds[arm] = sum(fitted.seconds for fitted in by_seed) / config.seeds
        for seed, fitted in enumerate(by_seed):
            settings[f"{arm}, seed {seed}"] = {
                "best_step": int(fitted.best_step[0]),
                "valid": np.round(fitted.history["valid"][0], 5).tolist(),
            }
    tests = ledger.checksum("leave-one-out", data.digest(), config.window)
    opened = records.open_tests(config, settings, "sasrec", tests)
    test = histories.held_out(data, config.window, 1)
    _, key_test = jax.random.split(jax.random.key(4))
    for arm, made in simple.items():
        score = made.make(data, test, *made.chosen)
        keep(arm, sasrec_arms.judged(score, test, data.num_items, key_test))

    for arm, (made, by_seed) in trained.items():
        judge = jax.jit(
            lambda params, made=made: next_item.ranks(
                scorer(made, params), test, data.num_items, jax.random.key(5)
            )
        )
        found = [judge(jax.tree.map(lambda x: x[0], fitted.params)) for fitted in by_seed]
        keep(arm, {k: np.stack([ranks[k] for ranks in found]) for k in found[0]})
    sizes = len(data.length), data.num_items, len(data.items)
    arms = ["popularity", "transitions", "item-kNN", "BPR-MF", *trained]
    return large_report.written(
        name,
        "sasrec",
        "leave-one-out",
        arms,
        config,
        scores,
        seconds,
        opened=[opened],
        data=records.Data(data.name, data.digest(), *sizes),
        settings=settings,
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, and its table."""
    name = f"sasrec-{named.short_name(config.data.dataset)}"
    record = large_report.stored(name) if config.output.from_records else run(config)
    people = record.data.users if record.data else "?"
    title = f"Next item, leave-one-out, {name[7:]}, {people} people"
    large_report.show(record, COLUMNS, title, quoted=config.data.dataset == "ml-1m")
    if not config.output.from_records:
        large_report.finished(record, name, config, COLUMNS[1])
    return record
