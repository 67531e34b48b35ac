"""Attacks on supports, item factors and meta-training, and what defences against them achieve.

Four attacks. *Lies*: a person gives the opposite of their opinion in a share of their own ratings.
*Moved factors*: the stored factors of the items that a person rated, or is asked about, are moved
to raise the error (FGSM and PGD). *Hostile users* in meta-training: shilling profiles that push one
item, and people who say the opposite throughout. *Domains*: features that tell a source domain
from a target one. Against each stand plain arms, robust ones, and random noise of equal norm as
control. All settings of defences are chosen on meta-validation.

References: He et al., SIGIR 2018; Goodfellow et al., ICLR 2015; Madry et al., ICLR 2018; Ganin et
al., JMLR 2016; Huber, 1964; Yin et al., ICML 2018; Lam and Riedl, WWW 2004.
Run: python -m experiments adversarial --dataset ml-100k
     python -m experiments adversarial --attack lies  tries one of the attacks.
Published: none under this protocol.
Deviates: item factors are estimated beforehand from honest ratings, so that hostile users reach the
initialization only.
"""

import dataclasses
import shutil
import time
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark
from metajax.benchmark import belief, harness
from metajax.data import episodes
from metajax.data.sources import named
from metajax.evaluation import evaluate, ordinal
from metajax.results import ledger, records
from metajax.settings import Data, Output, Positive, Presets, SplitOptions, Training
from metajax.training import journal, loop, progress, robust
from metajax.training.devices import on_devices, split_by_compiler
from metajax.transforms import adversarial as against
from metajax.types import MetaLearner, Params, UserError

from . import adversarial_parts as parts
from . import adversarial_report as report
from .adversarial_arms import (
    MAML,
    TUNED_AT,
    Arm,
    against_lies,
    against_moves,
    errors,
    learned_embeddings,
    linked,
    maml,
    rated,
    trained,
)

ATTACKS = ("lies", "moved", "embeddings", "hostile", "shares", "domains")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    attack: Literal["all", "lies", "moved", "embeddings", "hostile", "shares", "domains"] = "all"
    """Which attack; each has a record of its own. Embeddings: moved factors, where the embeddings
    of items are learned too, and APR against it. Shares: shilling users in several shares, of whom
    hostile has the largest alone, under every rule."""
    data: Data = Data("ml-100k")
    split: SplitOptions = SplitOptions()
    training: Training = Training(seeds=3, num_steps=400)
    outer_rate: float = 3e-3
    """Rate of Adam across tasks."""
    hostile: tuple[float, ...] = (0.01, 0.02, 0.05)
    """Shares of hostile users in meta-training."""
    closed_form: bool = False
    """Against lies, only fold-in and its robust forms, which need no training: for more people."""
    size: float = 0.5
    """Length by which adversarial training moves an item's factors, which have length about 1."""
    domain_steps: Positive = 3_000
    """Outer steps in the world of two domains."""
    people: Positive = 1_000
    """Users drawn from the two domains."""

    PRESETS: ClassVar[Presets] = {
        "quick": {
            "dataset": "synthetic",
            "num_steps": 40,
            "num_tasks": 8,
            "people": 50,
            "domain_steps": 50,
        },
    }


def lied_errors(
    arm: Arm, link: ordinal.Link | None, tasks: Any, source: Any
) -> dict[str, jax.Array]:
    """Metric -> its values (C, T) for each person under each of `report.CONDITIONS`."""
    under = lambda alter: errors(arm.learner, arm.params, tasks, source, alter, link=link)
    shares = jnp.asarray((0.0, *report.SHARES))
    lied = jax.lax.map(lambda share: under(parts.lies(share)), shares)
    noisy = under(parts.noise_of(parts.lies(TUNED_AT)))
    return {metric: jnp.concatenate([x, noisy[metric][None]]) for metric, x in lied.items()}


def moved_errors(
    arm: Arm, link: ordinal.Link | None, tasks: Any, source: Any
) -> dict[str, dict[str, jax.Array]]:
    """Condition -> metric -> (T,) of each person, factors moved by who knows the answers."""
    fetch, key = episodes.fetch_from(source), jax.random.key(5)

    def asked(size: float | jax.Array, direction: Any, steps: int = 1) -> dict[str, jax.Array]:
        measure = parts.on_query(arm.learner, arm.params, size, direction, steps)
        run = evaluate.after_adapting
        return rated(run(arm.learner, arm.params, tasks, key, measure, fetch=fetch), tasks, link)

    def support(size: float, direction: Any) -> dict[str, jax.Array]:
        alter = parts.on_support(arm.learner, arm.params, size, direction)
        return errors(arm.learner, arm.params, tasks, source, alter, link=link)

    up, noise = against.uphill, against.anywhere
    sizes = (0.0, 0.25, 0.5, 1.0)
    by_size = jax.lax.map(lambda size: asked(size, up), jnp.asarray(sizes))
    names = [f"asked moved {size:g}" if size else records.ALL for size in sizes]
    found = {name: {k: x[i] for k, x in by_size.items()} for i, name in enumerate(names)}
    found["asked moved .5, signs"] = asked(0.5, against.signs)
    found["asked moved .5, PGD"] = asked(0.5, up, 8)
    found["asked moved .5, noise"] = asked(0.5, noise)
    found["rated moved .5"], found["rated moved .5, noise"] = support(0.5, up), support(0.5, noise)
    return found


RULES = {
    "mean": robust.mean,
    "clipped": robust.clipped(),
    "trimmed": robust.trimmed(0.1),
    "median": robust.median,
}


def attempts(config: Config, attack: str) -> dict[str, tuple[int, float]]:
    """Condition -> the kind of hostile users, see `parts.HOSTILE`, and their share."""
    shares = sorted(config.hostile) if attack == "shares" else [max(config.hostile)]
    shills = {
        f"{kind} {share:.0%}": (parts.HOSTILE.index(kind), share)
        for kind in ("random", "bandwagon")
        for share in shares
    }
    mirrored = {f"mirrored {shares[-1]:.0%}": (parts.HOSTILE.index("mirrored"), shares[-1])}
    rest = mirrored if attack == "hostile" else {}
    return {parts.HOSTILE[0]: (0, 0.0), **shills, **rest}


def under_hostile(
    problem: benchmark.Problem, config: Config, target: int, attack: str
) -> dict[tuple[str, str], Params]:
    """(rule, condition) -> the parameters (S, ...) after meta-training among hostile users."""
    learner, every = maml(problem), attempts(config, attack)
    rules = RULES if attack == "hostile" else ("mean",)
    sample = parts.hostile_sampler(problem, config.training)
    keys = jax.random.split(jax.random.key(1), config.training.seeds)
    found = {}
    with progress.bar("hostile users", len(rules) * len(every)) as update:
        for name in rules:
            gradient_fn = robust.aggregated(learner, RULES[name])
            recipe = loop.recipe(learner, optax.adam(config.outer_rate), gradient_fn)
            recipe = on_devices(config.training.devices, recipe, split_by_compiler)
            for said, (kind, share) in every.items():
                numbers = (jnp.asarray(kind), jnp.asarray(target, jnp.int32), jnp.asarray(share))
                data = (problem.train, *numbers)
                fitted = loop.fit(recipe, sample, data, keys, config.training.num_steps)
                found[name, said] = fitted.params
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


Scores = dict[records.Key, np.ndarray]


def judged_lies(arms: dict[str, Arm], tasks: Any, source: Any) -> Scores:
    """The errors of the arms against lying supports."""
    found: Scores = {}
    for arm, one in arms.items():
        run = jax.jit(lambda p, link, t, o=one: lied_errors(o._replace(params=p), link, t, source))
        each = [run(*of_seed, tasks) for of_seed in one.every()]
        for metric in each[0]:
            values_SxCxT = np.stack([np.asarray(of_seed[metric]) for of_seed in each])
            for i, condition in enumerate(report.CONDITIONS):
                found[records.Key(report.LIES, arm, condition, metric)] = values_SxCxT[:, i]
        progress.say(f"lies, {arm}: judged")
    return found


def judged_moves(arms: dict[str, Arm], tasks: Any, source: Any) -> Scores:
    """The errors of the arms against moved factors."""
    found: Scores = {}
    for arm, one in arms.items():
        run = jax.jit(lambda p, link, t, o=one: moved_errors(o._replace(params=p), link, t, source))
        each = [jax.tree.map(np.asarray, run(*of_seed, tasks)) for of_seed in one.every()]
        for condition, by_metric in each[0].items():
            for metric in by_metric:
                key = records.Key(report.MOVED, arm, condition, metric)
                found[key] = np.stack([of_seed[condition][metric] for of_seed in each])
        progress.say(f"moved factors, {arm}: judged")
    return found


Linked = tuple[Params, ordinal.Link | None]
"""Parameters and the ordinal links of their seeds, leaves (S, ...)."""


def with_links(
    problem: benchmark.Problem, found: dict[tuple[str, str], Params]
) -> dict[tuple[str, str], Linked]:
    """What came of each (rule, condition) with its links, all fitted in one program: `linked`."""
    every = jax.tree.map(lambda *x: jnp.concatenate(x), *found.values())
    arm = linked({MAML: Arm(maml(problem), {}, {}, seeds=every)}, problem)[MAML]
    seeds = len(jax.tree.leaves(every)[0]) // len(found)
    own = lambda i: jax.tree.map(lambda x: x[i * seeds : (i + 1) * seeds], arm.links)
    return {name: (params, own(i)) for i, (name, params) in enumerate(found.items())}


def judged_hostile(
    learner: MetaLearner, found: dict[tuple[str, str], Linked], tasks: Any, source: Any, target: int
) -> Scores:
    """The errors of honest people, and the rating predicted of the item that was pushed."""

    @jax.jit
    def run(given: Linked, tasks: Any):
        def of_seed(given: Linked) -> dict[str, jax.Array]:
            params, link = given
            clean = errors(learner, params, tasks, source, evaluate.unaltered, link=link)
            return clean | {"pushed": pushed(learner, params, tasks, source, target)}

        return jax.lax.map(of_seed, given)

    return {
        records.Key(report.HOSTILE, rule, kind, metric): np.asarray(x)
        for (rule, kind), given in found.items()
        for metric, x in run(given, tasks).items()
    }


def attacked(config: Config, attack: str) -> records.Record:
    """Trains the arms against one attack on a log, judges them under it and writes the record."""
    began, name = time.perf_counter(), named.short_name(config.data.dataset)
    if not config.hostile or not all(0 < share < 1 for share in config.hostile):
        raise UserError("--hostile: give shares of users above 0 and below 1, as 0.01 0.05")
    problem = benchmark.load(config.data, config.split, config.training.num_support)
    folder = config.output.folder(f"adversarial-{name}")
    if config.training.fresh:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    arms: dict[str, Arm] = {}
    hostile, target = dict[tuple[str, str], Linked](), target_item(problem)
    if attack == "lies":
        arms = against_lies(problem, config, folder)
    elif attack == "moved":
        plain = trained(MAML, maml(problem), problem, config, folder)
        arms = against_moves(problem, config, folder, plain)
    elif attack == "embeddings":
        arms = learned_embeddings(problem, config, folder)
    else:
        hostile = with_links(problem, under_hostile(problem, config, target, attack))
    arms = linked(arms, problem)
    choices = {"pushed": target} | {k: a.settings for k, a in arms.items()}
    source, opened = problem.open_test(benchmark.freeze(config, choices), "adversarial")
    scenario = "user_cold" if "user_cold" in opened else next(iter(opened))
    tasks = opened[scenario]
    if attack in ("hostile", "shares"):
        scores = judged_hostile(maml(problem), hostile, tasks, source, target)
    else:
        scores = (judged_lies if attack == "lies" else judged_moves)(arms, tasks, source)
    roles = {k: a.role for k, a in arms.items()}
    return records.made(
        "adversarial", config,
        records.arms_of(dict.fromkeys(k.arm for k in scores), roles=roles, settings=choices),
        scores, scenario=next(iter(scores)).scenario, data=harness.data_of(problem),
        split=harness.split_of(problem), opened=(problem.opened[-1],),
        seconds={"total": time.perf_counter() - began}, peak_memory=journal.peak_memory(),
        extra={"pushed": target, "people": scenario, **belief.scale_of(problem)},
    )  # fmt: skip


def two_domains(config: Config) -> records.Record:
    """Trains with and without gradient reversal in the world of two domains."""
    began, choices = time.perf_counter(), {"steps": config.domain_steps, "people": config.people}
    tests = ledger.checksum("two domains", config.people)
    opened = records.open_tests(config, choices, "adversarial", tests)
    found = parts.domain_arms(config.domain_steps, config.people, config.training.devices)
    scores = {
        records.Key(report.DOMAINS, arm, records.ALL, metric): np.asarray(x)
        for arm, told in found.items()
        for metric, x in told.items()
    }
    roles = {"reversal": records.METHOD, "Bayes": records.BASELINE, "no reversal": records.BASELINE}
    roles["reversal, sign flipped"] = records.CONTROL
    return records.made(
        "adversarial", config, records.arms_of(found, roles=roles), scores,
        scenario=report.DOMAINS, opened=(opened,), peak_memory=journal.peak_memory(),
        seconds={"total": time.perf_counter() - began},
    )  # fmt: skip


def main(config: Config) -> dict[str, records.Record]:
    """The record of each attack, run or read, its table and its picture."""
    name = f"adversarial-{named.short_name(config.data.dataset)}"
    folder, found = config.output.folder(name), {}
    for attack in ATTACKS if config.attack == "all" else (config.attack,):
        own = f"{name}-{attack}" if attack != "domains" else "adversarial-domains"
        if config.output.from_records:
            record = records.stored(own, otherwise=folder)
        else:
            record = two_domains(config) if attack == "domains" else attacked(config, attack)
            records.write(folder, own, record, config.output.publish)
        report.report(record, folder)
        found[attack] = record
    return found


if __name__ == "__main__":
    benchmark.cli(main, Config)
