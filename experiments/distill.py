"""A smaller recommender from a large one: taught, pruned, or in eight bits, and then adapted.

A Transformer over histories teaches one a twentieth its size by its full softmax; it is pruned by
magnitude along the cubic schedule while it trains on; its weights are rounded to eight bits. Each
is judged as it is and after adapting scales and shifts to a person's own newest items. Controls: a
teacher that learned nothing, random masks, two bits.

References: Hinton et al., 2015; Tang, Wang, KDD 2018; Zhu, Gupta, 2017; Jacob et al., CVPR 2018.
Run: python -m experiments.distill
     python -m experiments.distill --from-records prints the stored table.
Published: none under this protocol.
Deviates: activations are not rounded; a kept weight counts a bit and four bytes.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import large_report, sasrec
from metajax import benchmark, losses, next_item, report, train, tree
from metajax.adapters import prune, quantize
from metajax.adapters.conditions import film
from metajax.data import sequences as histories
from metajax.data import sources
from metajax.data.sequences import Held, Sequences
from metajax.learners import in_context
from metajax.learners.gradient import gradient
from metajax.models import sequence
from metajax.types import Episode, Examples, MetaLearner, Params

TEACHER, STUDENT = "teacher", "student"
MATRICES = tree.matching(r"(kernel|items)$")


@dataclasses.dataclass(frozen=True)
class Config:
    """What the experiment can be told."""

    dataset: str = "ml-100k"
    """A data set with times, or ml-1m in the order of SASRec's authors."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets."""
    window: int = 32
    """Items that a person's state holds."""
    widths: tuple[int, int] = (64, 16)
    """Widths of teacher and student."""
    layers: tuple[int, int] = (2, 1)
    """Their blocks."""
    num_steps: int = 800
    """Training steps of each, of 32 windows."""
    prune_steps: int = 200
    """Further steps of the teacher while it is pruned, the last fifth at the full share."""
    shares: tuple[float, ...] = (0.5, 0.9)
    """Shares of the kernels' weights that are pruned."""
    weight: float = 0.5
    """Weight of the teacher in the student's loss."""
    temperature: float = 1.0
    """Temperature of both softmaxes."""
    people: int = 300
    """People judged after adaptation, at most; all are judged without."""
    seeds: int = 1
    """Training seeds."""
    out: pathlib.Path | None = None
    """Folder; else out/distill-DATASET."""
    publish: bool = False
    """Store the record in paper/results too."""
    from_records: bool = False
    """Print the table of the stored record, without running anything."""


@dataclasses.dataclass(frozen=True)
class Made:
    """A recommender with its parameters, the bytes it is stored in, and seconds of training."""

    settings: sequence.Settings
    params: Params
    size: int
    seconds: float


def settings_of(config: Config, data: Sequences, which: int) -> sequence.Settings:
    """The teacher (0) or the student (1)."""
    shape = sequence.small(config.widths[which], config.layers[which])
    return sequence.Settings(data.num_items, shape, dropout=(0.2, 0.05)[which])


def taught(
    config: Config, student: sequence.Settings, teacher: sequence.Settings, told: Params
) -> MetaLearner:
    """The student whose loss is its own and, by ``weight``, the divergence from the teacher's."""
    base = in_context.sequence_learner(student, config.window)
    own = in_context.in_batches(base, student).loss

    def logits(settings: sequence.Settings, params: Params, rows: jax.Array, key=None) -> jax.Array:
        catalogue = sequence.vectors(params)
        read = lambda row: sequence.states(settings, params, catalogue, row, key)[:-1]
        return jax.vmap(read)(rows) @ catalogue.T

    def outer_loss(params: Params, episodes: Episode, key: jax.Array):
        value, info = own(params, episodes, key)
        support, query = episodes.support, episodes.query
        parts = (support.inputs, support.mask, query.inputs, query.mask)
        rows, mask = jax.vmap(in_context.joined)(*parts)
        t = config.temperature
        log_p = jax.nn.log_softmax(logits(teacher, told, rows) / t, axis=-1)
        log_q = jax.nn.log_softmax(logits(student, params, rows, key) / t, axis=-1)
        each = t**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
        pull = losses.masked_mean(each, mask)
        return (1 - config.weight) * value + config.weight * pull, info

    return base._replace(loss=outer_loss)


def fit(
    config: Config,
    data: Sequences,
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    steps: int,
    seed: int,
    start: Params | None = None,
) -> tuple[Params, float]:
    """Parameters after training, from ``start`` if it is given, and seconds."""
    began, windows = time.perf_counter(), histories.windows(data, config.window)

    def sample(windows: histories.Windows, key: jax.Array) -> Episode:
        draw = functools.partial(histories.draw, windows, width=config.window)
        return jax.tree.map(lambda x: x[None], jax.vmap(draw)(jax.random.split(key, 32)))

    if start is not None:
        learner = learner._replace(init=lambda key, episode: start)
    keys = jax.random.key(seed)[None]
    found = train.fit(learner, tx, sample, windows, keys, steps, block=min(100, steps))
    return jax.tree.map(lambda x: x[0], found.params), time.perf_counter() - began


def adam(steps: int, rate: float = 2e-3) -> optax.GradientTransformation:
    """Adam along a cosine, after a short rise."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20 + 1, steps)
    return optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule, b2=0.98))


def recommenders(config: Config, data: Sequences, seed: int) -> dict[str, Made]:
    """Every row of the table, trained and compressed."""
    big, little = settings_of(config, data, 0), settings_of(config, data, 1)
    alone = lambda s: in_context.in_batches(in_context.sequence_learner(s, config.window), s)
    steps = config.num_steps
    size = lambda params: 4 * tree.size(params)
    params, took = fit(config, data, alone(big), adam(steps), steps, seed)
    made = {TEACHER: Made(big, params, size(params), took)}
    fresh = sequence.init(jax.random.key(seed + 99), big)
    students = {
        STUDENT: alone(little),
        "student + teacher": taught(config, little, big, params),
        "student + untrained teacher": taught(config, little, big, fresh),
    }
    for name, learner in students.items():
        found, took = fit(config, data, learner, adam(steps), steps, seed)
        made[name] = Made(little, found, size(found), took)
    further = config.prune_steps
    for share in config.shares:
        schedule = prune.cubic(share, 0, int(0.8 * further))
        for name, importance in {
            f"pruned {share:.0%}": prune.magnitude,
            f"pruned {share:.0%} at random": prune.at_random(jax.random.key(seed)),
        }.items():
            tx = prune.pruned(adam(further, 1e-3), schedule, prune.KERNELS, importance)
            found, took = fit(config, data, alone(big), tx, further, seed, params)
            made[name] = Made(big, found, prune.nonzero_bytes(found), took)
    for bits in (8, 2):
        stored = quantize.integer_bytes(params, MATRICES, bits)
        made[f"{bits} bits"] = Made(big, quantize.quantized(params, MATRICES, bits), stored, 0.0)
    return made


def own_rows(data: Sequences, people: np.ndarray, back: int, window: int, rows: int = 8) -> Episode:
    """Each person's newest ``rows`` transitions before the item ``back`` from the end."""
    parts = [histories.held_out(data, window, back + i) for i in range(rows, 0, -1)]
    stack = lambda name: np.stack([getattr(p, name)[people] for p in parts], axis=1)
    inputs = (jnp.asarray(stack("history")), jnp.asarray(stack("length")))
    label = jnp.asarray(stack("target"), jnp.float32)
    support = Examples(inputs, label, jnp.ones(label.shape))
    return Episode((), support, jax.tree.map(lambda x: x[:, :1], support))


def adapter(settings: sequence.Settings, rate: jax.Array) -> MetaLearner:
    """Three gradient steps on scales and shifts."""
    model = film(sequence.next_item(settings), settings.shape)
    entropy = losses.class_cross_entropy
    return gradient(model, optax.sgd(rate), 3, adapts=tree.under("adapter"), loss=entropy)


class Judge:
    """Compiled judgements of the recommenders of one architecture; parameters are arguments."""

    def __init__(self, config: Config, data: Sequences, settings: sequence.Settings):
        long = np.flatnonzero(data.length >= 12)
        self.some = np.random.default_rng(1).permutation(long)[: config.people]
        self.held = histories.held_out(data, config.window, 1)
        model = sequence.next_item(settings)
        self.score = jax.jit(lambda params, rows: model.apply(params, (), rows))

        def as_it_is(params: Params) -> jax.Array:
            scorer = sasrec.scorer(settings, params)
            found = next_item.places(scorer, self.held, data.num_items, jax.random.key(5))
            return found[next_item.FULL]

        self.as_it_is = jax.jit(as_it_is)
        self.adapted = {back: self._adapted(config, data, settings, back) for back in (1, 2)}

    def _adapted(self, config: Config, data: Sequences, settings: sequence.Settings, back: int):
        """(params, rate) -> places of the held-out items when each person is adapted to first."""
        held = Held(*(x[self.some] for x in histories.held_out(data, config.window, back)))
        support = own_rows(data, self.some, back, config.window).support
        wrapped = film(sequence.next_item(settings), settings.shape)
        rows = jax.tree.map(lambda x: x[0], support.inputs)
        fresh = wrapped.init(jax.random.key(0), (), rows)["adapter"]

        def places(params: Params, rate: jax.Array) -> jax.Array:
            learner = adapter(settings, rate)
            start = {"model": {"base": params, "adapter": fresh}, "rates": ()}

            def one(person, history, length):
                mine = jax.tree.map(lambda x: x[person], support)
                state = learner.adapt(learner.start(start, ()), mine, jax.random.key(0))
                return learner.predict(state, (history[None], length[None]))[0]

            key = jax.random.key(6)
            found = next_item.places(jax.vmap(one), held, data.num_items, key, batch_size=16)
            return found[next_item.FULL]

        return jax.jit(places)

    def __call__(self, params: Params) -> tuple[dict[str, np.ndarray], Any, float]:
        """Places (U,) as it is and adapted, the rate chosen on validation, milliseconds."""
        places = {"as it is": np.asarray(self.as_it_is(params))}
        valid = {}
        for rate in (0.01, 0.1, 1.0):
            rank = np.asarray(self.adapted[2](params, rate))
            valid[rate] = float(next_item.from_place(rank)["ndcg@10"].mean())
        best = max(valid, key=lambda rate: valid[rate])
        places["adapted"] = np.asarray(self.adapted[1](params, best))
        places["same people, as it is"] = places["as it is"][self.some]
        one = (jnp.asarray(self.held.history[:1]), jnp.asarray(self.held.length[:1]))
        took = []
        for _ in range(50):
            began = time.process_time()
            jax.block_until_ready(self.score(params, one))
            took.append(time.process_time() - began)
        return places, {"rate": best, "valid": valid}, 1e3 * float(np.median(took))


def run(config: Config) -> report.Record:
    """Trains, compresses, adapts and tests; writes the record."""
    name = f"distill-{sources.short_name(config.dataset)}"
    config = dataclasses.replace(config, out=large_report.folder(config.out, name))
    data = sasrec.load(sasrec.Config(dataset=config.dataset, data_dir=config.data_dir))
    ranks: dict[tuple[str, str], list[np.ndarray]] = {}
    seconds, settings, size, milliseconds = {}, {}, {}, {}
    judges = {s: Judge(config, data, s) for s in (settings_of(config, data, i) for i in (0, 1))}
    for seed in range(config.seeds):
        for arm, made in recommenders(config, data, seed).items():
            places, chosen, took = judges[made.settings](made.params)
            for condition, rank in places.items():
                ranks.setdefault((arm, condition), []).append(rank)
            seconds[arm], size[arm], milliseconds[arm] = made.seconds, made.size, took
            settings[f"{arm}, seed {seed}"] = chosen
    scores = {
        report.score_name("leave-one-out", arm, condition, metric): values
        for (arm, condition), rows in ranks.items()
        for metric, values in next_item.from_place(np.stack(rows)).items()
    }
    facts = {"name": data.name, "digest": data.digest(), "items": data.num_items}
    return large_report.written(
        name, "distill", "leave-one-out", list(size), config, scores, seconds,
        data=facts, settings=settings, stored=size, milliseconds=milliseconds,
    )  # fmt: skip


def main(config: Config) -> report.Record:
    """The record of the experiment, run or read, and its table."""
    name = f"distill-{sources.short_name(config.dataset)}"
    record = large_report.stored(name) if config.from_records else run(config)
    columns = [(c, "ndcg@10") for c in ("as it is", "same people, as it is", "adapted")]
    large_report.show(record, columns, f"Smaller recommenders, {name[8:]}: next item, all ranked")
    for arm in record.facts["arms"]:
        took, size = record.facts["milliseconds"][arm], record.facts["stored"][arm]
        print(f"{arm:30} {size:>10,} bytes  {took:6.2f} ms of one processor per person")
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config)
