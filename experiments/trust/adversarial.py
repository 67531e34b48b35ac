"""What does a liar do, and to whom? Attacks on supports, factors and meta-training, and defences.

Four attacks. *Lies*: a person gives the opposite of their opinion in a share of their own ratings.
*Moved factors*: the stored factors of the items that a person rated, or is asked about, are moved
to raise the error (FGSM and PGD). *Hostile users* in meta-training: shilling profiles that push one
item, and people who say the opposite throughout. *Domains*: features that tell a source domain
from a target one. Against each stand plain arms, robust ones, and random noise of equal norm as
control. All settings of defences are chosen on meta-validation.

References: He et al., SIGIR 2018; Goodfellow et al., ICLR 2015; Madry et al., ICLR 2018; Ganin et
al., JMLR 2016; Huber, 1964; Yin et al., ICML 2018; Lam and Riedl, WWW 2004.
Run: python -m experiments adversarial --dataset ml-100k
Published: none under this protocol.
Deviates: item factors are estimated beforehand from honest ratings, so that hostile users reach the
initialization only.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, losses
from metajax.benchmark import baselines, harness
from metajax.data import episodes
from metajax.data.sources import named
from metajax.evaluation import evaluate
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import factor_mlp
from metajax.results import records
from metajax.settings import Data, Output, Positive, Presets, Share, SplitOptions, Training
from metajax.training import journal, loop, progress, robust
from metajax.transforms import adversarial as against
from metajax.transforms.robust import bisquare, doubtful, huber
from metajax.types import MetaLearner, Params

from . import adversarial_parts as parts
from . import adversarial_report as report
from .adversarial_report import FOLD_IN, MAML

INNER = optax.chain(optax.clip(10.0), optax.sgd(0.1))
TUNED_AT = 0.2
CLEAN_LOSS = 0.0025
"""What a defence may cost on clean meta-validation tasks, in MAE; the bar is .003 on the test."""
THRESHOLDS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
TARGET = 0.25
"""The rise of the loss under attack that a controller is to hold, as a share."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data("ml-100k")
    split: SplitOptions = SplitOptions()
    training: Training = Training(seeds=1, num_steps=400)
    outer_rate: float = 3e-3
    """Rate of Adam across tasks."""
    hostile: Share = 0.05
    """Share of hostile users in meta-training."""
    size: float = 0.5
    """Length by which adversarial training moves an item's factors, which have length about 1."""
    people: Positive = 1_000
    """Users drawn from the two domains."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "synthetic", "num_steps": 40, "num_tasks": 8, "people": 50},
    }


class Arm(NamedTuple):
    """A learner with its parameters (of one seed) and what was chosen for it."""

    learner: MetaLearner
    params: Params
    settings: dict[str, Any]
    role: str = records.METHOD


def maml(problem: benchmark.Problem, loss: losses.Loss = losses.squared_error) -> MetaLearner:
    """The learner by gradients that the attacks are tried on."""
    return gradient(factor_mlp(problem.mean, (32, 32)), INNER, 3, loss=loss)


def errors(
    learner: MetaLearner, params: Params, tasks: Any, source: Any, alter: evaluate.Alteration
) -> jax.Array:
    """The mean absolute error (T,) of each task, its support altered."""
    options = {"fetch": episodes.fetch_from(source), "alter": alter}
    scores = evaluate.predictions(learner, params, tasks, jax.random.key(11), **options)
    off = jnp.abs(scores - tasks.query.label) * tasks.query.mask
    return off.sum(axis=1) / jnp.maximum(tasks.query.mask.sum(axis=1), 1.0)


def best_trust(
    plain: Arm, make: Callable[[Any], Callable], problem: benchmark.Problem, role: str
) -> Arm:
    """The plain arm with doubts, at the threshold best under lies of those that cost little."""
    source, tasks = problem.valid

    @jax.jit
    def tried(params: Params, thresholds: jax.Array):
        def one(threshold: jax.Array):
            learner = doubtful(plain.learner, make(threshold))
            at = lambda alter: errors(learner, params, tasks, source, alter).mean()
            return at(evaluate.unaltered), at(parts.lies(TUNED_AT))

        return jax.lax.map(one, thresholds)

    clean, lied = (np.asarray(x) for x in tried(plain.params, jnp.asarray((*THRESHOLDS, 1e6))))
    kept = np.where(clean <= clean[-1] + CLEAN_LOSS, lied, np.inf)[:-1]
    chosen = float((*THRESHOLDS, 1e6)[int(np.argmin(kept))])
    told = {"threshold": chosen, "trials": len(THRESHOLDS), "valid_clean": clean.tolist()}
    told["valid_lies"] = lied.tolist()
    return Arm(doubtful(plain.learner, make(chosen)), plain.params, told, role)


def careful_fold_in(problem: benchmark.Problem) -> tuple[Arm, Arm]:
    """Fold-in tuned on clean tasks, and tuned under lies among what costs little clean."""
    learner, grid = benchmark.fold_in_learner(problem)
    plain = baselines.closed_form_arm(learner, problem, grid)
    source, tasks = problem.valid
    one = jax.tree.map(lambda x: x[0], plain.params)
    shift = jnp.log(jnp.asarray([0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6]))

    @jax.jit
    def tried(shift: jax.Array):
        params = {**one, "log_precision": one["log_precision"] + shift}
        at = lambda alter: errors(learner, params, tasks, source, alter).mean()
        return at(evaluate.unaltered), at(parts.lies(TUNED_AT))

    clean, lied = (np.array([float(v) for v in x]) for x in zip(*map(tried, shift), strict=True))
    best = int(np.argmin(np.where(clean <= clean[2] + CLEAN_LOSS, lied, np.inf)))
    moved = {**one, "log_precision": one["log_precision"] + shift[best]}
    told = {"penalty times": float(jnp.exp(shift[best])), "trials": len(shift)}
    return Arm(learner, one, plain.settings, records.BASELINE), Arm(learner, moved, told)


def trained(
    name: str, learner: MetaLearner, problem: benchmark.Problem, config: Config, folder: Any
) -> Arm:
    """A learner meta-trained, its best step chosen on meta-validation."""
    tx = optax.adam(config.outer_rate)
    arm = baselines.trained_arm(name, learner, tx, problem, config.training, folder)
    return Arm(learner, jax.tree.map(lambda x: x[0], arm.params), arm.settings)


def against_lies(problem: benchmark.Problem, config: Config, folder: Any) -> dict[str, Arm]:
    """The arms against lying supports."""
    plain, tuned = careful_fold_in(problem)
    arms = {FOLD_IN: plain, f"{FOLD_IN}, tuned on lies": tuned}
    made = {"Huber": huber, "bisquare": bisquare}
    for name, make in made.items():
        arms[f"{FOLD_IN}, {name}"] = best_trust(plain, make, problem, records.METHOD)
    arms[MAML] = trained(MAML, maml(problem), problem, config, folder)
    arms[MAML] = arms[MAML]._replace(role=records.BASELINE)
    liars = parts.trained_on_lies(maml(problem), 0.5, 2 * TUNED_AT)
    for name, learner in {
        f"{MAML}, trained on lies": liars,
        f"{MAML}, Huber loss": maml(problem, losses.huber),
    }.items():
        arms[name] = trained(name, learner, problem, config, folder)
    for name in (MAML, f"{MAML}, trained on lies"):
        arms[f"{name}, bisquare"] = best_trust(arms[name], bisquare, problem, records.METHOD)
    return arms


def against_moves(
    problem: benchmark.Problem, config: Config, folder: Any, plain: Arm
) -> dict[str, Arm]:
    """The arms against moved item factors."""
    fixed, own = against.Fixed(config.size), (parts.factors, parts.with_factors)
    held = against.Controller(TARGET, start=0.1)
    each = held._replace(per_task=2)
    base = maml(problem)
    made = {
        "outer": against.against_query(base, *own, fixed),
        "inner": against.against_support(base, *own, fixed),
        "noise": against.against_query(base, *own, fixed, direction=against.anywhere),
        "controlled": against.against_query(base, *own, held),
        "controlled each": against.against_query(base, *own, each),
    }
    arms = {report.PLAIN: plain}
    for name, learner in made.items():
        arms[name] = trained(f"moved, {name}", learner, problem, config, folder)
    return {k: a._replace(role=records.CONTROL) if k == "noise" else a for k, a in arms.items()}


def moved_errors(arm: Arm, tasks: Any, source: Any) -> dict[str, jax.Array]:
    """Condition -> the error (T,) of each person, factors moved by who knows the answers."""
    fetch, key = episodes.fetch_from(source), jax.random.key(5)

    def asked(size: float, direction: Any, steps: int = 1) -> jax.Array:
        measure = parts.on_query(arm.learner, arm.params, size, direction, steps)
        run = evaluate.after_adapting
        return run(arm.learner, arm.params, tasks, key, measure, fetch=fetch)

    def rated(size: float, direction: Any) -> jax.Array:
        alter = parts.on_support(arm.learner, arm.params, size, direction)
        return errors(arm.learner, arm.params, tasks, source, alter)

    up, noise = against.uphill, against.anywhere
    found = {records.ALL: asked(0.0, up)}
    found |= {f"asked moved {s:g}": asked(s, up) for s in (0.25, 0.5, 1.0)}
    found["asked moved .5, signs"] = asked(0.5, against.signs)
    found["asked moved .5, PGD"] = asked(0.5, up, 8)
    found["asked moved .5, noise"] = asked(0.5, noise)
    found["rated moved .5"], found["rated moved .5, noise"] = rated(0.5, up), rated(0.5, noise)
    return found


RULES = {
    "mean": robust.mean,
    "clipped": robust.clipped(),
    "trimmed": robust.trimmed(0.1),
    "median": robust.median,
}


def under_hostile(
    problem: benchmark.Problem, config: Config, target: int
) -> dict[tuple[str, str], Params]:
    """(rule, kind of hostile users) -> the parameters after meta-training among them."""
    learner = maml(problem)
    sample = parts.hostile_sampler(problem, config.training, config.hostile)
    found = {}
    with progress.bar("hostile users", len(RULES) * len(parts.HOSTILE)) as update:
        for name, rule in RULES.items():
            gradient_fn = robust.aggregated(learner, rule)
            recipe = loop.recipe(learner, optax.adam(config.outer_rate), gradient_fn)
            for kind, said in enumerate(parts.HOSTILE):
                data = (problem.train, jnp.asarray(kind), jnp.asarray(target, jnp.int32))
                keys = jax.random.key(1)[None]
                fitted = loop.fit(recipe, sample, data, keys, config.training.num_steps)
                found[name, said] = jax.tree.map(lambda x: x[0], fitted.params)
                update(len(found), {})
    return found


def pushed(learner: MetaLearner, params: Params, tasks: Any, source: Any, target: int) -> jax.Array:
    """The predicted rating (T,) of the item that shilling users push."""

    def measure(state: Any, episode: Any) -> jax.Array:
        inputs = {k: v[target][None] for k, v in source.inputs.items()}
        item = {"item": jnp.asarray([target])} | inputs
        return learner.predict(params, state, item)[0]

    fetch = episodes.fetch_from(source)
    return evaluate.after_adapting(learner, params, tasks, jax.random.key(5), measure, fetch=fetch)


def target_item(problem: benchmark.Problem) -> int:
    """An item that is rated seldom and badly: whom shilling would be worth it."""
    columns = problem.table.item_features.columns
    count = np.bincount(problem.table.item, minlength=problem.table.num_items)
    order = np.argsort(np.where(count >= 10, np.asarray(columns["bias"]), np.inf))
    return int(order[len(order) // 20])


def measured(config: Config) -> records.Record:
    """Trains all arms, attacks them, writes the record."""
    began, name = time.perf_counter(), named.short_name(config.data.dataset)
    problem = benchmark.load(config.data, config.split, config.training.num_support)
    folder = config.output.folder(f"adversarial-{name}")
    if config.training.fresh:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    liars = against_lies(problem, config, folder)
    movers = against_moves(problem, config, folder, liars[MAML])
    target = target_item(problem)
    hostile = under_hostile(problem, config, target)
    domains = parts.domain_arms(config.training.num_steps, config.people)
    choices = {k: a.settings for k, a in (liars | movers).items()}
    source, opened = problem.open_test(benchmark.freeze(config, choices), "adversarial")
    scenario = "user_cold" if "user_cold" in opened else next(iter(opened))
    tasks, scores = opened[scenario], {}
    keep = lambda room, arm, condition, metric, x: scores.__setitem__(
        records.Key(room, arm, condition, metric), np.asarray(x)[None]
    )
    for arm, one in liars.items():
        for condition, alter in report.lies_of(parts.lies, parts.noise_of).items():
            run = jax.jit(lambda p, t, o=one, a=alter: errors(o.learner, p, t, source, a))
            keep(report.LIES, arm, condition, "mae", run(one.params, tasks))
        print(f"lies, {arm}: judged", flush=True)
    for arm, one in movers.items():
        run = jax.jit(lambda p, t, o=one: moved_errors(o._replace(params=p), t, source))
        for condition, x in run(one.params, tasks).items():
            keep(report.MOVED, arm, condition, "mae", x)
        print(f"moved factors, {arm}: judged", flush=True)
    learner = maml(problem)
    run = jax.jit(
        lambda p, t: (
            errors(learner, p, t, source, evaluate.unaltered),
            pushed(learner, p, t, source, target),
        )
    )
    for (rule, kind), params in hostile.items():
        mae, push = run(params, tasks)
        keep(report.HOSTILE, rule, kind, "mae", mae)
        keep(report.HOSTILE, rule, kind, "pushed", push)
    for arm, told in domains.items():
        for metric, x in told.items():
            scores[records.Key(report.DOMAINS, arm, records.ALL, metric)] = np.asarray(x)
    roles = {k: a.role for k, a in (liars | movers).items()}
    arms = dict.fromkeys(key.arm for key in scores)
    record = records.made(
        "adversarial", config, records.arms_of(arms, roles=roles, settings=choices), scores,
        scenario=report.LIES, data=harness.data_of(problem), split=harness.split_of(problem),
        opened=(problem.opened[-1],), seconds={"total": time.perf_counter() - began},
        peak_memory=journal.peak_memory(), extra={"pushed": target, "people": scenario},
    )  # fmt: skip
    records.write(folder, f"adversarial-{name}", record, config.output.publish)
    return record


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    name = f"adversarial-{named.short_name(config.data.dataset)}"
    record = records.stored(name) if config.output.from_records else measured(config)
    report.report(record, config.output.folder(name))
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config)
