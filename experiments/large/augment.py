"""Augmentation where data are few: contrastive views of histories, and mixed tasks.

Sequences (`--what sequences`): a SASRec is trained on a fifth of the people and judged on the next
item of the others; beside it stands a contrastive loss between two views of a history (cropped,
masked, reordered, or any of these), and as a control two views of different people. Tasks (`--what
tasks`): MAML is trained on a few users of a world with latent tastes; beside it stand MetaMix,
interpolated tasks (MLTI) and mixup, and as a control MetaMix whose labels are not mixed; all are
judged on new users, at several levels of noise in their ratings.

References: Xie et al., "CL4SRec", ICDE 2022; Yao et al., "MetaMix", ICML 2021; Yao et al., "MLTI",
ICLR 2022; Zhang et al., "mixup", ICLR 2018.
Run: python -m experiments augment                                    (ml-1m)
     python -m experiments augment --dataset ml-100k --width 32 --num-layers 1
     python -m experiments augment --what tasks
     python -m experiments augment --dataset ml-100k --from-records prints the stored table.
Published: none under these protocols.
Deviates: people are divided, so that the judged ones are new to the model; CL4SRec judges the
trained ones.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark
from metajax.data.histories import sequences as histories
from metajax.data.histories import views
from metajax.data.histories.sequences import HeldOut, Sequences
from metajax.data.sources import named
from metajax.data.worlds.latent import LatentUsers
from metajax.evaluation import evaluate, next_item
from metajax.learners import in_context
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.results import ledger, records
from metajax.settings import Data, Hardware, Output, Positive, Presets, Share, config_hash, replace
from metajax.training import journal, loop
from metajax.training.devices import on_devices, split_second_axis
from metajax.transforms.contrastive import contrastive
from metajax.transforms.mix import between_tasks, meta_mix, mixup
from metajax.types import Episode, MetaLearner, Params, UserError

from . import report as large_report
from .sasrec import sasrec
from .sasrec.training import scorer, steps_of

NONE, UNRELATED = "no augmentation", "unrelated histories"
CROP, MASK, REORDER, ALL = "crop", "mask", "reorder", "crop, mask or reorder"
META_MIX, MLTI, MIXUP = "MetaMix", "interpolated tasks (MLTI)", "mixup"
UNMIXED = "MetaMix, labels not mixed"
NOISE = (0.0, 0.5, 1.0, 2.0)
LISTS, TASKS = "next item", "new users"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data()
    hardware: Hardware = Hardware()
    what: Literal["sequences", "tasks"] = "sequences"
    """Histories of a data set, or tasks of a world of latent tastes."""
    share: Share = 0.2
    """Share of the people whose histories are trained on."""
    window: Positive = 50
    """Items that the sequence model reads."""
    width: Positive = 64
    """Width of the sequence model."""
    num_layers: Positive = 2
    """Blocks of the sequence model."""
    epochs: Positive = 20
    """Passes over the histories trained on."""
    batch: Positive = 32
    """Histories per step."""
    weight: float = 0.1
    """Weight of the contrastive loss."""
    people: Positive = 1000
    """People judged, at most."""
    few: Positive = 20
    """Training users of the world."""
    num_steps: Positive = 400
    """Outer steps on the world's users."""
    seeds: Positive = 1
    """Training seeds."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "width": 32, "num_layers": 1, "epochs": 10},
        "gpu": {"epochs": 100, "seeds": 5},
    }


def checkpoint(config: Config, arm: str) -> pathlib.Path:
    """The folder in which the training of an arm is kept, so that a stopped run goes on."""
    return config.output.folder(name_of(config)) / config_hash(config) / journal.slug(arm)


def some_people(data: Sequences, people: np.ndarray) -> Sequences:
    """The histories of these people, over the same items."""
    rows = [data.items[data.start[p] : data.start[p] + data.length[p]] for p in people]
    length = data.length[people]
    return data._replace(
        items=np.concatenate(rows), start=np.cumsum(length) - length, length=length,
        owners=data.owners[people],
    )  # fmt: skip


def view_of(num_items: int) -> dict[str, views.View]:
    """Arm -> its views of a history."""
    each = {CROP: views.crop(0.6), MASK: views.mask(num_items, 0.3), REORDER: views.reorder(0.6)}
    any_of = views.one_of(tuple(each.values()))
    return each | {ALL: any_of, UNRELATED: any_of}


def sequence_arm(config: Config, data: Sequences, arm: str, seed: int) -> tuple[Params, dict]:
    """The recommender of an arm, its best moment chosen on validation items of trained people."""
    of = sasrec.Config(
        window=config.window, width=config.width, num_layers=config.num_layers,
        epochs=config.epochs, batch=config.batch,
    )  # fmt: skip
    settings = sasrec.build(of, data.num_items)
    windows, per_epoch, num_steps = steps_of(of, data)
    plain = in_context.in_batches(in_context.sequence_learner(settings, of.window), settings)
    learner, own = plain, lambda params: params
    if arm != NONE:
        view = view_of(data.num_items)[arm]
        related = arm != UNRELATED
        learner = contrastive(plain, settings, view, weight=config.weight, related=related)
        own = lambda params: params["base"]
    tx = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.adam(optax.cosine_decay_schedule(of.rate, num_steps), b2=0.98),
    )
    sample = histories.sampler(of.window, of.batch)
    recipe = on_devices(config.hardware.devices, loop.recipe(learner, tx), split_second_axis)
    valid = histories.held_out(data, of.window, 2)

    def validate(params: Params) -> jax.Array:
        score = scorer(settings, own(params))
        rank = next_item.ranks(score, valid, data.num_items, jax.random.key(3))[next_item.FULL]
        return -jnp.mean(1.0 / (rank + 1.0))

    fitted = loop.fit(
        recipe, sample, windows, jax.random.key(seed)[None], num_steps,
        title=arm, block=min(5 * per_epoch, num_steps), validate=validate,
        checkpoint=checkpoint(config, f"{arm}-{seed}"),
    )  # fmt: skip
    told = {"best_step": int(fitted.best_step[0]), "valid": float(-fitted.history["valid"].min())}
    return own(jax.tree.map(lambda x: x[0], fitted.params)), told


def of_sequences(config: Config):
    """Scores of every arm on people who were not trained on: arm -> metric -> (S, T)."""
    data = sasrec.load(sasrec.Config(data=config.data))
    order = np.random.default_rng(21).permutation(len(data.length))
    number = max(2, int(config.share * len(order)))
    few, others = order[:number], order[number : number + config.people]
    if len(others) < 2:
        raise UserError(f"--share {config.share:g} leaves nobody to judge; give less")
    known = some_people(data, np.sort(few))
    made: dict[str, list[Params]] = {}
    settings, seconds = {}, {}
    for arm in (NONE, CROP, MASK, REORDER, ALL, UNRELATED):
        began = time.perf_counter()
        for seed in range(config.seeds):
            params, told = sequence_arm(config, known, arm, seed)
            made.setdefault(arm, []).append(params)
            settings[f"{arm}, seed {seed}"] = told
        seconds[arm] = time.perf_counter() - began
    digest = ledger.checksum("next item", data.digest(), config.share, config.people)
    opened = records.open_tests(config, settings, "augment", digest)
    held = histories.held_out(some_people(data, np.sort(others)), config.window, 1)
    shape = sasrec.build(
        sasrec.Config(width=config.width, num_layers=config.num_layers), data.num_items
    )
    rank_of = jax.jit(
        lambda params, held: next_item.ranks(
            scorer(shape, params), held, data.num_items, jax.random.key(5)
        )[next_item.FULL]
    )
    held = HeldOut(*(jnp.asarray(x) for x in held))
    scores = {}
    for arm, of_seeds in made.items():
        ranks = np.stack([np.asarray(rank_of(params, held)) for params in of_seeds])
        told = next_item.rank_metrics(ranks)
        for metric in ("hit@10", "ndcg@10"):
            scores[records.Key(LISTS, arm, next_item.FULL, metric)] = told[metric]
    about = records.Data(data.name, data.digest(), len(data.length), data.num_items)
    return scores, settings, seconds, opened, about


def task_arms(config: Config) -> dict[str, tuple[MetaLearner, bool]]:
    """Arm -> its learner, and whether its batches are mixed between tasks."""
    del config
    maml = gradient(vector_mlp((32,)), optax.sgd(0.05), 3)
    return {
        NONE: (maml, False),
        META_MIX: (meta_mix(maml), False),
        MLTI: (maml, True),
        MIXUP: (mixup(maml), False),
        UNMIXED: (meta_mix(maml, labels=False), False),
    }


def noisy(sigma: jax.Array) -> evaluate.Alteration:
    """An alteration that adds N(0, sigma^2) to the labels of the support."""

    def alter(key: jax.Array, episode: Episode) -> Episode:
        support = episode.support
        label = support.label + sigma * jax.random.normal(key, support.label.shape)
        return episode._replace(support=support._replace(label=label))

    return alter


def of_tasks(config: Config):
    """Scores of every arm on new users of the world, at each noise of their ratings."""
    world = LatentUsers(dim=8, num_support=16, num_query=16)
    trained_on = jax.random.split(jax.random.key(31), config.few)
    valid = jax.vmap(world.sample)(jax.random.split(jax.random.key(32), 64))
    fitted, settings, seconds = {}, {}, {}
    for arm, (learner, between) in task_arms(config).items():

        def sample(keys: jax.Array, key: jax.Array, between: bool = between) -> Episode:
            key_task, key_mix = jax.random.split(key)
            batch = jax.vmap(world.sample)(jax.random.choice(key_task, keys, (8,)))
            return between_tasks(batch, key_mix) if between else batch

        def validate(params: Params, learner: MetaLearner = learner) -> jax.Array:
            scores = evaluate.predictions(learner, params, valid, jax.random.key(0))
            return jnp.mean((scores - valid.query.label) ** 2)

        seeds = jnp.stack([jax.random.key(seed) for seed in range(config.seeds)])
        recipe = on_devices(config.hardware.devices, loop.recipe(learner, optax.adam(5e-3)))
        found = loop.fit(
            recipe, sample, trained_on, seeds, config.num_steps,
            title=arm, block=50, validate=validate, checkpoint=checkpoint(config, arm),
        )  # fmt: skip
        fitted[arm], seconds[arm] = (learner, found.params), found.seconds
        settings[arm] = {"best_step": found.best_step.tolist()}
    digest = ledger.checksum("new users", config.people, config.few)
    opened = records.open_tests(config, settings, "augment", digest)
    keys = jax.random.split(jax.random.key(33), config.people)
    tasks = jax.vmap(world.sample)(keys)
    scores = {}
    for arm, (learner, params) in fitted.items():
        judge = _judge(learner, tasks)
        for sigma in NOISE:
            key = records.Key(TASKS, arm, f"noise {sigma:g}", "mse")
            scores[key] = np.asarray(judge(params, jnp.float32(sigma)))
    return scores, settings, seconds, opened, None


def _judge(learner: MetaLearner, tasks: Episode) -> Callable[[Params, jax.Array], jax.Array]:
    """A program (parameters (S, ...), noise) -> mean squared errors (S, T)."""

    def one(params: Params, sigma: jax.Array) -> jax.Array:
        scores = evaluate.predictions(learner, params, tasks, jax.random.key(2), alter=noisy(sigma))
        return jnp.mean((scores - tasks.query.label) ** 2, axis=1)

    return jax.jit(lambda params, sigma: jax.lax.map(lambda p: one(p, sigma), params))


def name_of(config: Config) -> str:
    """The name of the record."""
    lists = config.what == "sequences"
    return f"augment-{named.short_name(config.data.dataset)}" if lists else "augment-tasks"


def run(config: Config) -> records.Record:
    """Trains and tests every arm; writes the record."""
    name, lists = name_of(config), config.what == "sequences"
    config = replace(config, out=config.output.folder(name))
    make = of_sequences if lists else of_tasks
    scores, settings, seconds, opened, data = make(config)
    arms = list(dict.fromkeys(key.arm for key in scores))
    scenario = LISTS if lists else TASKS
    return large_report.written(
        name, "augment", scenario, arms, config, scores, seconds, opened=[opened],
        data=data, settings=settings,
    )  # fmt: skip


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and the differences it is about."""
    name = name_of(config)
    record = records.stored(name) if config.output.from_records else run(config)
    lists = record.scenario == LISTS
    columns = [(next_item.FULL, "hit@10"), (next_item.FULL, "ndcg@10")]
    if not lists:
        columns = [(f"noise {sigma:g}", "mse") for sigma in NOISE]
    title = f"{record.scenario}, {name[8:]}: what augmentation is worth where data are few"
    large_report.show(record, columns, title)
    condition, metric = columns[-1] if lists else columns[0]
    pairs = [(arm, NONE) for arm in record.names() if arm != NONE]
    for column in [(condition, metric)] if lists else columns:
        large_report.differences(record, f"{column[1]}, {column[0]}", column, pairs)
    if not config.output.from_records:
        large_report.finished(record, name, config, (condition, metric))
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config)
