"""Which place does a new item get after 1, 3 or 5 interactions? New items in a sequence model.

Some items are hidden from the training of a sequence model. A new one is then known by its first
interactions alone, that is by the histories before them, and by its content (genres and title
words). Its embedding is the mean of these histories, found by gradient steps, predicted from
content, or matched by a meta-learned metric that was trained on other items hidden from the model.
Each later interaction is a test: the place of the new item among all items, and among the
new ones. Controls: the embedding as it was initialized, and matching with another item's
interactions.

References: Zheng et al., "Cold-start sequential recommendation via meta learner", AAAI 2021
(Mecos); Vartak et al., NeurIPS 2017; Kang, McAuley, ICDM 2018.
Run: python -m experiments cold_sequences                       (ml-1m)
     python -m experiments cold_sequences --dataset ml-100k
     python -m experiments cold_sequences --dataset ml-100k --from-records prints the stored table.
Published: none under this protocol (Mecos draws its items from Amazon and Steam).
Deviates: Mecos matches pairs of steps by an LSTM of its own; here histories are matched in the
space of a trained SASRec, so that new and known items stand in one list.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse

from metajax.data.features import represent
from metajax.data.sources import named
from metajax.evaluation import evaluate, next_item
from metajax.models import sequence
from metajax.results import ledger, records
from metajax.settings import Data, Hardware, Output, Positive, Presets, Share, config_hash, replace
from metajax.training import journal, loop
from metajax.training.devices import check_even, on_devices
from metajax.types import Episode, Examples, MetaLearner, Params

from .. import report as large_report
from ..sasrec import sasrec
from . import arms, events
from .events import MOST_SHOTS, Events

SHOTS = (1, 3, 5)
DESCENT, SCENARIO = 30, "new items"  # gradient steps on an embedding
ALL, NEW = "all items", "new items only"  # among which items the new one is placed


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    data: Data = Data()
    window: Positive = 32
    """Items that the model reads of a person."""
    width: Positive = 64
    """Width of the sequence model."""
    num_layers: Positive = 2
    """Blocks of the sequence model."""
    epochs: Positive = 16
    """Passes over the histories when the sequence model is trained."""
    least: Positive = 20
    """Interactions that an item has at least, to be hidden."""
    shares: tuple[Share, Share, Share] = (0.2, 0.1, 0.15)
    """Shares of these items to hide: for meta-training, for validation and for the test."""
    judged: Positive = 20
    """Later interactions of a new item that are judged, at most."""
    num_steps: Positive = 400
    """Outer steps of the meta-learned arms."""
    num_tasks: Positive = 32
    """Items per outer step."""
    rate: float = 3e-3
    """Adam's rate of the outer steps."""
    seeds: Positive = 1
    """Draws of the hidden items, each with a sequence model of its own."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "width": 32, "num_layers": 1, "epochs": 4},
        "gpu": {"epochs": 60, "seeds": 5},
    }


class Model:
    """A sequence model that has never seen the hidden items, and tasks for learners.

    Attributes:
      items: (V, D) its embeddings.
      warm: (V,) whether it was trained on an item.
      told: (V, D) the embeddings that content tells.
      common: (D,) the mean of hidden vectors, which is subtracted where new items score too high.
    """

    def __init__(self, config: Config, params: Params, warm: np.ndarray, content: np.ndarray):
        """Tells all embeddings from content by ridge regression on those of the known items."""
        self.config, self.params, self.warm = config, params, warm
        self.settings = sasrec.build(backbone(config), len(warm))
        self.items = sequence.item_embeddings(params)
        rows = np.asarray(self.items)
        x = scipy.sparse.csr_matrix(content.astype(np.float32))
        found, self.penalty = represent.content_prediction(x, rows, warm * 1.0)
        self.told = found.astype(np.float32)
        self.common = np.zeros(rows.shape[1], np.float32)
        self.read = jax.jit(jax.vmap(self._read, (None, None, 0, 0)))

    def _read(self, params: Params, warm: jax.Array, history: jax.Array, length: jax.Array):
        catalogue = sequence.item_embeddings(params)
        hidden = sequence.hidden_vectors(self.settings, params, catalogue, history)[length]
        scores = jnp.where(warm, catalogue @ hidden, -jnp.inf)
        return hidden, jax.nn.logsumexp(scores)

    def inputs(self, of: Events) -> dict[str, np.ndarray]:
        """What learners read of each event: (M, N, ...), see `arms`."""
        size = 2048
        flat = of.history.reshape(-1, of.history.shape[-1]), of.length.reshape(-1)
        number = len(flat[1])
        padded = [np.pad(x, [(0, -number % size)] + [(0, 0)] * (x.ndim - 1)) for x in flat]
        found = [
            jax.device_get(self.read(self.params, jnp.asarray(self.warm), *rows))
            for rows in zip(*(x.reshape(-1, size, *x.shape[1:]) for x in padded), strict=True)
        ]
        hidden, others = (np.concatenate(x)[:number] for x in zip(*found, strict=True))
        shape = of.length.shape
        return {"hidden": hidden.reshape(*shape, -1), "others": others.reshape(shape)}

    def tasks(self, of: Events, others: Events, shots: int = MOST_SHOTS) -> Episode:
        """The items as tasks: the first events are the support, those after `MOST_SHOTS` judged.

        Both have half of the events of other items, with the label 0, behind them.
        """
        own, wrong, mask = self.inputs(of), self.inputs(others), of.mask.astype(np.float32)
        half, number = len(others.item) // 2, len(of.item)

        def rows(at: slice, rest: slice, kept: np.ndarray) -> Examples:
            def both(mine: np.ndarray, other: np.ndarray) -> np.ndarray:
                other = np.broadcast_to(other[rest, 0], (number, half, *other.shape[2:]))
                return np.concatenate([mine[:, at], other], axis=1)

            inputs = {name: both(own[name], wrong[name]) for name in own}
            ones, zeros = np.ones((number, kept.shape[1])), np.zeros((number, half))
            label = np.concatenate([ones, zeros], axis=1).astype(np.float32)
            real = np.concatenate([kept, 1 - zeros], axis=1).astype(np.float32)
            return Examples(inputs, label, real)

        first = mask[:, :MOST_SHOTS] * (np.arange(MOST_SHOTS)[None] < shots)
        support = rows(slice(MOST_SHOTS), slice(half), first)
        query = rows(slice(MOST_SHOTS, None), slice(half, 2 * half), mask[:, MOST_SHOTS:])
        return jax.tree.map(jnp.asarray, Episode(self.told[of.item], support, query))


def backbone(config: Config) -> sasrec.Config:
    """The configuration of the sequence model."""
    sizes = {"width": config.width, "num_layers": config.num_layers, "window": config.window}
    return sasrec.Config(data=config.data, hardware=config.hardware, epochs=config.epochs, **sizes)


def embeddings(learner: MetaLearner) -> Callable[[Params, Episode], jax.Array]:
    """A program (parameters, tasks) -> the embeddings (M, D) after adapting to the supports."""
    measure = lambda state, episode: state.embedding
    adapted = evaluate.after_adapting
    return jax.jit(
        lambda params, tasks: adapted(learner, params, tasks, jax.random.key(0), measure)
    )


@jax.jit
def _ranks(items, warm, hidden, history, length, new_MxD) -> tuple[jax.Array, jax.Array]:
    """The ranks (M, N) of each new item at its events, among all and among new items."""

    def one(hidden: jax.Array, history: jax.Array, length: jax.Array, item: jax.Array, key):
        known = jnp.where(warm, items @ hidden, -jnp.inf)
        seen = jnp.where(jnp.arange(history.shape[0]) < length, history, len(known))
        known = known.at[seen].set(-jnp.inf, mode="drop")
        new = new_MxD @ hidden
        among = jnp.concatenate([known, new])
        return (
            next_item.rank(among, len(known) + item, jnp.ones(len(among)), key),
            next_item.rank(new, item, jnp.ones(len(new)), key),
        )

    keys = jax.random.split(jax.random.key(2), length.shape)
    of_item = jax.vmap(one, (0, 0, 0, None, 0))
    each = lambda row: of_item(*row)
    return jax.lax.map(each, (hidden, history, length, jnp.arange(len(length)), keys))


def places(model: Model, of: Events, tasks: Episode, new_MxD: jax.Array) -> dict[str, np.ndarray]:
    """The rank (M, N) of the new item at each judged event, among all and among new items."""
    part = of.part(MOST_SHOTS, None)
    hidden = tasks.query.inputs["hidden"][:, : part.length.shape[1]]
    found = _ranks(model.items, model.warm, hidden, part.history, part.length, new_MxD)
    return {name: np.asarray(rank) for name, rank in zip((ALL, NEW), found, strict=True)}


def by_item(ranks: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics (M,) of each new item, mean over its judged events; NaN where it has none."""
    told = next_item.rank_metrics(ranks)
    count = mask.sum(axis=1)
    mean = lambda values: np.where(
        count > 0, (values * mask).sum(axis=1) / np.maximum(count, 1), np.nan
    )
    return {metric: mean(told[metric]) for metric in ("hit@10", "ndcg@10")}


def trained(
    config: Config,
    learner: MetaLearner,
    tasks: Episode,
    valid: Episode,
    name: str,
    folder: pathlib.Path,
):
    """Meta-trained parameters, the best on the items for choices; resumed, if it was killed."""

    def sample(tasks: Episode, key: jax.Array) -> Episode:
        key_task, key_shots = jax.random.split(key)
        at = jax.random.randint(key_task, (config.num_tasks,), 0, len(tasks.query.mask))
        batch = jax.tree.map(lambda x: x[at], tasks)
        shots = jax.random.randint(key_shots, (config.num_tasks, 1), 1, MOST_SHOTS + 1)
        place = jnp.arange(batch.support.mask.shape[1])[None]
        mask = batch.support.mask * ((place < shots) | (place >= MOST_SHOTS))
        return batch._replace(support=batch.support._replace(mask=mask))

    def validate(params: Params) -> jax.Array:
        loss = lambda episode: learner.loss(params, episode, jax.random.key(0))[0]
        return jnp.mean(jax.vmap(loss)(valid))

    fitted = loop.fit(
        on_devices(config.hardware.devices, loop.recipe(learner, optax.adam(config.rate))),
        sample, tasks, jax.random.key(0)[None], config.num_steps,
        title=name, block=25, validate=validate, checkpoint=folder / journal.slug(name),
    )  # fmt: skip
    return jax.tree.map(lambda x: x[0], fitted.params), {"best_step": int(fitted.best_step[0])}


def chosen(
    valid: Episode, make: Callable[..., MetaLearner], grid: list[tuple[float, ...]]
) -> tuple[MetaLearner, dict[str, Any]]:
    """The learner with the lowest loss on the items for choices, and its settings."""

    def loss(setting: jax.Array) -> jax.Array:
        learner = make(*setting)
        of_item = lambda episode: learner.loss({}, episode, jax.random.key(0))[0]
        return jnp.mean(jax.vmap(of_item)(valid))

    found = np.asarray(jax.jit(lambda grid: jax.lax.map(loss, grid))(jnp.asarray(grid)))
    best = grid[int(np.argmin(found))]
    return make(*best), {"chosen": list(best), "trials": len(grid), "valid": float(found.min())}


def made(config: Config, model: Model, meta: Episode, valid: Episode, folder: pathlib.Path):
    """Arm -> (learner, parameters), and what was chosen for each."""
    ready: dict[str, tuple[MetaLearner, Params]] = {}
    settings: dict[str, dict[str, Any]] = {}
    odds, common = float(model.warm.sum()), jnp.asarray(model.common)
    mean = lambda scale, less: arms.mean(odds, scale, -less * common)
    scales = [(s, c) for s in (0.1, 0.2, 0.3, 0.5) for c in (0.0, 0.1, 0.2, 0.3, 0.5)]
    descent = lambda content: lambda rate: arms.descent(odds, rate, DESCENT, content)
    rates = [(rate,) for rate in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)]
    for name, make, grid in (
        (arms.MEAN, mean, scales),
        (arms.GRADIENT, descent(False), rates),
        (arms.CONTENT_GRADIENT, descent(True), rates),
    ):
        learner, settings[name] = chosen(valid, make, grid)
        ready[name] = (learner, {})
    scale, less = settings[arms.MEAN]["chosen"]
    for name, content, histories in (
        (arms.CONTENT, True, False),
        (arms.MATCHED, False, True),
        (arms.BOTH, True, True),
    ):
        learner = arms.matching(odds, scale, -less * common, content=content, histories=histories)
        params, settings[name] = trained(config, learner, meta, valid, name, folder)
        ready[name] = (learner, params)
    return ready, settings


def one_seed(config: Config, seed: int, data: Any, content: np.ndarray):
    """The sequence model, the arms and the test events of one draw of hidden items."""
    rng = np.random.default_rng((12, seed))
    groups = events.divided(data, config.shares, config.least, rng)
    hidden = np.concatenate(groups)
    known = events.without(data, hidden)
    folder = config.output.folder("cold_sequences") / f"{known.digest()}-{config.epochs}"
    folder.mkdir(parents=True, exist_ok=True)
    params, seconds = sasrec.kept(backbone(config), known, seed, folder)
    warm = np.bincount(known.items, minlength=data.num_items) > 0
    model = Model(config, params, warm, content)
    most = MOST_SHOTS + config.judged
    of = [events.events_of(data, g, hidden, config.window, most, rng) for g in groups]
    some = rng.choice(np.flatnonzero(warm), 128)
    others = events.events_of(data, some, hidden, config.window, 1, rng)
    model.common = model.inputs(others)["hidden"].mean(axis=(0, 1))
    meta, valid = (model.tasks(each, others) for each in of[:2])
    ready, settings = made(
        config, model, meta, valid, folder / f"matching-{seed}-{config_hash(config)}"
    )
    settings[arms.CONTENT]["penalty"] = model.penalty
    return model, ready, settings, (of[2], others), seconds


def scores_of(model: Model, ready: dict, test: Events, others: Events, num_items: int):
    """(arm, condition, metric) -> (M,) of every arm and control."""
    found: dict[tuple[str, str, str], np.ndarray] = {}
    judged = test.part(MOST_SHOTS, None)

    def keep(arm: str, shots: int, ranks: dict[str, np.ndarray]) -> None:
        for among, rank in ranks.items():
            for metric, values in by_item(rank, judged.mask).items():
                found[arm, f"n={shots}, {among}", metric] = values

    programs = {name: embeddings(learner) for name, (learner, _) in ready.items()}
    for shots in SHOTS:
        tasks = model.tasks(test, others, shots)
        keep(arms.UNTRAINED, shots, places(model, test, tasks, model.items[test.item]))
        support = test.part(0, shots)
        score = arms.overlap(
            (support.history, support.length * support.mask), (judged.history, judged.length),
            num_items,
        )  # fmt: skip
        own = np.take_along_axis(score, np.arange(len(score))[:, None, None], axis=2)
        ties = (score == own).sum(axis=2) - 1
        keep(arms.OVERLAP, shots, {NEW: (score > own).sum(axis=2) + ties // 2})
        for name, (_, params) in ready.items():
            keep(name, shots, places(model, test, tasks, programs[name](params, tasks)))
        moved = tasks._replace(support=jax.tree.map(lambda x: jnp.roll(x, 1, 0), tasks.support))
        wrong = programs[arms.MATCHED](ready[arms.MATCHED][1], moved)
        keep(arms.RANDOM, shots, places(model, test, tasks, wrong))
    return found


def run(config: Config) -> records.Record:
    """Trains and tests every arm; writes the record."""
    name = f"cold_sequences-{named.short_name(config.data.dataset)}"
    config = replace(config, out=config.output.folder(name))
    began = time.perf_counter()
    check_even(config.hardware.devices, config.num_tasks)
    data = sasrec.load(backbone(config))
    content = events.content_of(named.chosen(config.data), data.item_ids)
    drawn = [one_seed(config, seed, data, content) for seed in range(config.seeds)]
    choices = {
        f"{arm}, seed {seed}": told
        for seed, (_, _, settings, _, _) in enumerate(drawn)
        for arm, told in settings.items()
    }
    items = [each[0].item.tolist() for *_, each, _ in drawn]
    tests = ledger.checksum("new items", data.digest(), items)
    opened = records.open_tests(config, choices, "cold_sequences", tests)
    of_seeds = [scores_of(model, ready, *of, data.num_items) for model, ready, _, of, _ in drawn]
    scores = {
        records.Key(SCENARIO, *key): np.concatenate([of[key] for of in of_seeds])[None]
        for key in of_seeds[0]
    }
    names = list(dict.fromkeys(arm for arm, _, _ in of_seeds[0]))
    seconds = {"sequence model": sum(took for *_, took in drawn)}
    seconds["total"] = time.perf_counter() - began
    sizes = len(data.length), data.num_items, len(data.items)
    return large_report.written(
        name, "cold_sequences", SCENARIO, names, config, scores, seconds, opened=[opened],
        data=records.Data(data.name, data.digest(), *sizes), settings=choices,
        extra={"new items": sum(map(len, items))},
    )  # fmt: skip


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, and its tables."""
    name = f"cold_sequences-{named.short_name(config.data.dataset)}"
    record = records.stored(name) if config.output.from_records else run(config)
    number = record.extra["new items"]
    for among in (ALL, NEW):
        columns = [(f"n={shots}, {among}", metric) for shots in SHOTS for metric in ("ndcg@10",)]
        title = f"{number} new items, {name[15:]}: place among {among} after n interactions"
        large_report.show(record, columns, title)
    for shots in SHOTS:
        pairs = [(arms.MATCHED, other) for other in (arms.MEAN, arms.CONTENT, arms.RANDOM)]
        column = (f"n={shots}, {ALL}", "ndcg@10")
        large_report.differences(record, f"ndcg@10 after {shots}", column, pairs)
    if not config.output.from_records:
        large_report.finished(record, name, config, (f"n={SHOTS[-1]}, {NEW}", "ndcg@10"))
    return record
