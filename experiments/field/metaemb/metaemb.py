"""Item warm-up: four ways to embed a new item, judged cold and after 20, 40 and 60 clicks.

A click model is trained on items with many interactions and frozen. Meta-Embedding generates the
embedding of a new item from its content, MWUF scales and shifts a cold embedding toward warm ones,
CVAR decodes a latent variable whose prior is given by the content, and DropoutNet uses the mean of
the users who interacted. The baseline is the mean embedding of the known items; controls are a
random embedding, and Meta-Embedding with the content of other items.

References: Pan et al., SIGIR 2019; Zhu et al., SIGIR 2021; Zhao et al., SIGIR 2022; Volkovs et al.,
NeurIPS 2017.
Run: python -m experiments metaemb --dataset ml-100k --hot 100
Published: AUC of Meta-Embedding on ML-1M .6693 cold and .6875, .6998, .7073 warm, of a random
embedding .6528 and .6772, .6927, .7019; ML-1M's public copy here has no times, which the protocol
needs.
Deviates: a smaller click model; a phase adapts on all clicks so far at once; the inner rate is set
for gradient descent on a mean loss.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses
from metajax.data import episodes
from metajax.data.sources import named
from metajax.data.split import Split
from metajax.data.table import Interactions
from metajax.evaluation import evaluate, protocols
from metajax.learners import pooled
from metajax.learners.item_warm_up import cvar, dropout_net, meta_embedding, mwuf
from metajax.results import records
from metajax.settings import Data, Hardware, Output, Positive, Presets, Range
from metajax.transforms.pretrained import starting_from
from metajax.tuning import search
from metajax.types import Episode, MetaLearner, Model, Params, UserError

from . import training
from .report import METHOD, SCENARIO, plot, show, weighted_auc
from .training import Items, Way

MOST_DRAWS, MOST_WEIGHTS = 500, 12_000_000
"""Bootstrap draws of the AUC: fewer where there are so many rows that their weights fill memory."""
OTHERS = "others_"
OTHERS_CONTENT = "- others' content"
"""Prefix of the content columns that belong to another item, and the arm that reads them."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    data: Data = Data(dataset="ml-100k")
    hot: Positive = 200
    """Items with more interactions than this are known."""
    seeds: Positive = 3
    """Number of training seeds of every way to warm up."""
    base_steps: Positive = 2000
    """Outer steps of the click model."""
    num_steps: Positive = 1000
    """Outer steps of every way to warm up, at most."""
    patience: Annotated[int, Range(0, 10**9)] = 0
    """Outer steps without a lower log-loss on meta-validation after which a training of a way to
    warm up ends, at its plateau; 0 takes all steps."""
    num_tasks: Positive = 16
    """Items per outer step."""
    outer_rate: float = 1e-3
    """Rate of Adam."""
    inner_rate: float = 1.0
    """Rate of the gradient steps of an embedding."""
    inner_steps: int = 5
    """Gradient steps of a phase."""
    embedding: Positive = 16
    """Width of all embeddings."""
    trials: int = 0
    """Settings (inner, outer rate) tried for every arm on meta-validation; 0 takes those above."""
    trial_steps: Positive = 200
    """Outer steps of a trial."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "synthetic", "seeds": 1, "base_steps": 200, "num_steps": 100},
        "gpu": {"seeds": 5, "base_steps": 20_000, "num_steps": 10_000, "num_tasks": 128},
    }


Logits = Callable[[Episode, Sequence[int]], jax.Array]
"""(tasks (T, ...), K numbers of shots) -> logits (S, K, T, Q) of their queries, by S seeds."""


class Arm(NamedTuple):
    """A way to warm up that is ready for the test.

    Attributes:
      settings: what was chosen on meta-validation.
      role: what it is in a table, one of `schema.ROLES`.
    """

    logits: Logits
    settings: dict[str, Any]
    seconds: float
    role: str = records.METHOD


class Others(NamedTuple):
    """Arms of another making, judged on the same rows: the first is the method of the record.

    Attributes:
      notes: lines to print below the table.
    """

    arms: dict[str, Arm]
    notes: Sequence[str]


Also = Callable[[Interactions, Split], Others]


def load(config: Config, protocol: protocols.Protocol) -> Items:
    """The data set under the protocol, with each item's index and another item's content.

    Raises:
      UserError: every row is a click.
    """
    from metajax.models import ctr

    table = protocol.prepare(named.chosen(config.data))
    if np.ptp(table.label) == 0:
        raise UserError(
            f"{table.name}: every row is a click, and nothing tells what was passed over; give "
            "ratings, or impressions whose --label is 1 if clicked and 0 if not"
        )
    in_time = table.time is not None
    if not in_time:  # the public copy of ml-1m has no times: any order must do
        table = dataclasses.replace(table, time=np.random.default_rng(0).permutation(len(table)))
    items = table.item_features.with_column("index", np.arange(table.num_items, dtype=np.int32))
    order = np.random.default_rng(1).permutation(table.num_items)
    for name in table.item_features.sizes:  # for the control alone
        items = items.with_column(OTHERS + name, items.columns[name][order])
    table = dataclasses.replace(table, item_features=items)
    split = protocol.split(table, 0)
    users = table.user_features.sizes
    base = ctr.deep_fm(table.num_users, users, table.item_features.sizes, config.embedding)
    return Items(table, split, episodes.source_of_items(split.train, table), base, in_time)


def steps_of(config: Config) -> training.Steps:
    """What an outer step sees."""
    return training.Steps(config.num_tasks, config.hardware.devices)


def tuned(arm: str, data: Items, config: Config, trained: Params) -> tuple[Config, dict]:
    """The configuration with the arm's best rates, and what the record says of the search."""
    if config.trials == 0:
        return config, {}

    way = lambda rates: build(dataclasses.replace(config, **rates), data, trained)[arm]
    trial = training.trials(arm, way, data, steps_of(config), config.trial_steps)
    objective = lambda rates, watch: trial(rates)
    space = {
        "inner_rate": search.Real(0.1, 10.0, log=True),
        "outer_rate": search.Real(3e-4, 3e-3, log=True),
    }
    first = {name: getattr(config, name) for name in space}
    folder = config.output.out and config.output.out / "trials" / arm.lower().replace(" ", "-")
    found = search.tune(objective, space, config.trials, folder=folder, name=arm, first=first)
    told = found.best | {"trials": found.spent, "valid": found.score}
    return dataclasses.replace(config, **found.best), told


def build(config: Config, data: Items, trained: Params) -> dict[str, Way]:
    """Every way to warm up, over the trained click model and its table."""
    from metajax.models import ctr

    dim, sizes = config.embedding, data.table.item_features.sizes
    base, known = trained["base"], trained["table"][jnp.asarray(data.split.train.owner)]
    inner = optax.sgd(config.inner_rate)
    user = ctr.table_rows(jax.lax.stop_gradient(base["owner"]["embedding"]))
    net = functools.partial(ctr.content_net, sizes)
    vector = lambda v: Model(lambda key, p, x: {"e": v(key)}, lambda params, p, x: params["e"])
    generated = lambda model: starting_from(
        meta_embedding.meta_embedding(data.base, model, dim, inner, config.inner_steps), base=base
    )
    carried = mwuf.scale_and_shift(
        data.base, user, net(dim, center=1.0), net(dim), dim, dim, inner, config.inner_steps
    )
    coded = cvar.cvar(
        data.base, net(2 * dim), net(2 * dim), net(dim), dim, inner, config.inner_steps
    )
    deviation = jnp.std(known, axis=0)
    drawn = generated(vector(lambda k: deviation * jax.random.normal(k, (dim,))))
    shuffled = ctr.content_net({OTHERS + name: size for name, size in sizes.items()}, dim)
    return {
        "random embedding": Way(drawn, trained=False),
        "mean embedding": Way(generated(vector(lambda k: known.mean(axis=0))), trained=False),
        "Meta-Embedding": Way(generated(net(dim))),
        OTHERS_CONTENT: Way(generated(shuffled), role=records.ABLATION),
        "MWUF": Way(starting_from(carried, base=base, mean=known.mean(axis=0))),
        "CVAR": Way(starting_from(coded, base=base)),
        "DropoutNet": Way(starting_from(dropout_net.dropout_net(data.base, user, dim), base=base)),
    }


def logits_of(learner: MetaLearner, params: Params, source: episodes.Source) -> Logits:
    """The scores of a learner with parameters (S, ...), given the columns of a source."""
    fetch, key = episodes.fetch_from(source), jax.random.key(2)

    def logits(tasks: Episode, shots: Sequence[int]) -> jax.Array:
        at = lambda params, k: evaluate.predictions(
            learner, params, tasks, key, fetch=fetch, alter=evaluate.first_shots(k)
        )
        every = jnp.asarray(shots)
        of_seed = lambda params: jax.lax.map(lambda k: at(params, k), every)
        return jax.jit(lambda params: jax.lax.map(of_seed, params))(params)

    return logits


def judge(
    logits_SxKxTxQ: jax.Array, tasks: Episode, protocol: protocols.Protocol
) -> dict[tuple[str, str], np.ndarray]:
    """(condition, metric) -> (S, 1), (S, T) for the log-loss of each item, (S, D) for AUC draws.

    A draw of ``auc_draws`` is the AUC over the rows of items drawn with replacement, the same for
    every arm: their differences are paired by item.

    Args:
      logits_SxKxTxQ: scores of the tasks' queries after each of ``protocol.shots``.
    """
    key = jax.random.key(2)

    def at(logits_TxQ: jax.Array) -> dict[str, jax.Array]:
        judged = protocol.judge(jax.nn.sigmoid(logits_TxQ), tasks.query, key)
        of_items = jax.vmap(losses.log_loss)(logits_TxQ, *tasks.query[1:])
        return judged | {"log_loss": of_items}

    run = jax.jit(lambda logits: jax.lax.map(lambda of_seed: jax.lax.map(at, of_seed), logits))
    found = {
        (f"k={k}", metric): np.asarray(values[:, i])
        for metric, values in run(logits_SxKxTxQ).items()
        for i, k in enumerate(protocol.shots)
    }
    real = np.asarray(tasks.query.mask) > 0
    num_items = len(real)
    draws = min(MOST_DRAWS, MOST_WEIGHTS // int(real.sum()))
    times_DxT = np.random.default_rng(0).multinomial(num_items, [1 / num_items] * num_items, draws)
    times_DxR = times_DxT[:, np.nonzero(real)[0]].astype(np.float64)
    label = np.asarray(tasks.query.label)[real]
    for i, k in enumerate(protocol.shots):
        of_seeds = np.asarray(logits_SxKxTxQ[:, i])
        of_draws = [weighted_auc(logits[real], label, times_DxR) for logits in of_seeds]
        found[f"k={k}", "auc_draws"] = np.stack(of_draws)
    return found


def run(config: Config, also: Also | None = None) -> records.Record:
    """The record of every way to warm up, and of the arms that ``also`` makes.

    Args:
      also: (table, split) -> arms that are judged on the same rows, and notes on them.
    """
    from metajax.models import ctr

    began = time.perf_counter()
    protocol = protocols.ctr_warmup(hot=config.hot)
    data = load(config, protocol)
    others, notes = also(data.table, data.split) if also else Others({}, ())
    table = ctr.with_table(data.base, data.table.num_items, config.embedding)
    joint = pooled.pooled(table, loss=losses.log_loss)
    rate, steps = config.outer_rate, steps_of(config)
    base = training.fitted("click model", joint, data, rate, steps, config.base_steps, 1)
    trained = jax.tree.map(lambda x: x[0], base.params["model"])
    arms = dict(others)
    for arm in build(config, data, trained):
        start = time.perf_counter()
        best, settings = tuned(arm, data, config, trained)
        learner, is_trained, role = build(best, data, trained)[arm]
        if is_trained:
            of = (config.num_steps, config.seeds, config.patience)
            params = training.fitted(arm, learner, data, best.outer_rate, steps, *of).params
        else:
            params = _untrained(learner, data, config.seeds)
        seconds = time.perf_counter() - start
        arms[arm] = Arm(logits_of(learner, params, data.source), settings, seconds, role)
    choices = {name: arm.settings for name, arm in arms.items()}
    opened = records.open_tests(config, choices, "metaemb", data.split.checksum())
    tests = jax.tree.map(jnp.asarray, episodes.fixed(data.split.test[SCENARIO], 0))
    scores = {
        records.Key(SCENARIO, name, *which): values
        for name, arm in arms.items()
        for which, values in judge(arm.logits(tests, protocol.shots), tests, protocol).items()
    }
    return records.made(
        "metaemb",
        config,
        [records.Arm(name, arm.role, arm.settings, arm.seconds) for name, arm in arms.items()],
        scores,
        method=next(iter(others), METHOD),
        protocol=protocol.name,
        shots=tuple(protocol.shots),
        opened=(opened,),
        seconds={"total": time.perf_counter() - began},
        extra={
            "in_time": data.in_time,
            "test_items": data.split.test[SCENARIO].num_tasks,
            "notes": list(notes),
        },
    )


def main(config: Config) -> records.Record:
    """The record of the experiment: AUC and F1 over all test rows, log-loss per item."""
    name = f"metaemb-{named.short_name(config.data.dataset)}"
    folder = config.output.folder(name)
    if config.output.from_records:
        record = records.stored(name, otherwise=folder)
        show(record)
        return record
    record = run(config)
    path = records.write(folder, name, record, config.output.publish)
    plot(record, folder / f"{name}.png")
    show(record)
    print(f"record {path}")
    return record


def _untrained(learner: MetaLearner, data: Items, seeds: int) -> Params:
    """Parameters (S, ...) as they start: an embedding that nothing learns."""
    one = episodes.draw(jax.random.key(0), data.source, 60, 40)
    return jax.vmap(lambda key: learner.init(key, one))(jax.random.split(jax.random.key(1), seeds))
