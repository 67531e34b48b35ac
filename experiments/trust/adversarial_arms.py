"""The arms against lying supports and moved item factors, tuned on meta-validation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, losses, tree
from metajax.benchmark import baselines, belief
from metajax.data import episodes
from metajax.evaluation import evaluate, judge, ordinal
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import factor_mlp
from metajax.results import records
from metajax.transforms import adversarial as against
from metajax.transforms.item_table import item_table
from metajax.transforms.robust import bisquare, cauchy, doubtful, huber
from metajax.types import MetaLearner, Params

from . import adversarial_parts as parts
from . import adversarial_report as report
from .adversarial_report import FOLD_IN, MAML

INNER = optax.chain(optax.clip(10.0), optax.sgd(0.1))
TUNED_AT = 0.2
CLEAN_LOSS = 0.003
"""What a defence may cost on clean meta-validation tasks, in squared error: about as much as .0015
in absolute error, half of the bar on the test."""
THRESHOLDS, NO_DOUBT = (0.5, 0.7, 1.0, 1.4, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0), 1e6
TARGET = 0.25
"""The rise of the loss under attack that a controller is to hold, as a share."""


class Arm(NamedTuple):
    """A learner with its parameters (of the first seed) and what was chosen for it.

    Attributes:
      seeds: the parameters (S, ...) of all seeds; None if there is nothing random.
      links: the ordinal link of each seed, leaves (S, ...), see `linked`; None before.
    """

    learner: MetaLearner
    params: Params
    settings: dict[str, Any]
    role: str = records.METHOD
    seeds: Params | None = None
    links: ordinal.Link | None = None

    def stacked(self) -> Params:
        """The parameters of all seeds, leaves (S, ...)."""
        one = self.seeds is None
        return jax.tree.map(lambda x: jnp.asarray(x)[None], self.params) if one else self.seeds

    def every(self) -> list[tuple[Params, ordinal.Link | None]]:
        """The parameters of each seed, and its link."""
        given = self.stacked(), self.links
        count = len(jax.tree.leaves(given)[0])
        return [jax.tree.map(lambda x, i=i: x[i], given) for i in range(count)]


def maml(problem: benchmark.Problem, loss: losses.Loss = losses.squared_error) -> MetaLearner:
    """The learner by gradients that the attacks are tried on."""
    return gradient(factor_mlp(problem.mean, (32, 32)), INNER, 3, loss=loss)


def errors(
    learner: MetaLearner,
    params: Params,
    tasks: Any,
    source: Any,
    alter: evaluate.Alteration,
    seed: int | jax.Array = 11,
    link: ordinal.Link | None = None,
) -> dict[str, jax.Array]:
    """The measures of ratings (T,) of each task, see `evaluate.rating_metrics`; support altered.

    Args:
      link: of one seed, from `linked`; None leaves out what is said of distributions.
    """
    options = {"fetch": episodes.fetch_from(source), "alter": alter}
    scores = evaluate.predictions(learner, params, tasks, jax.random.key(seed), **options)
    return rated(scores, tasks, link)


def rated(scores: jax.Array, tasks: Any, link: ordinal.Link | None = None) -> dict[str, jax.Array]:
    """The measures of ratings (T,) of scores (T, Q)."""
    return evaluate.rating_metrics(scores, tasks, jax.random.key(13), link)


def linked(arms: dict[str, Arm], problem: benchmark.Problem) -> dict[str, Arm]:
    """The arms with the ordinal links of their seeds, fitted on clean meta-validation tasks.

    An honest service does not know that it is attacked: under every attack the link stays this one.
    """
    levels = belief.levels_of(problem)
    if levels is None or not arms:
        return arms
    ready = {name: (arm.learner, arm.stacked()) for name, arm in arms.items()}
    source, tasks = problem.valid
    links = judge.links_of(ready, tasks, levels, fetch=episodes.fetch, source=source)
    return {name: arm._replace(links=links[name]) for name, arm in arms.items()}


def tried(
    make: Callable[[Any], MetaLearner],
    params_of: Callable[[jax.Array], Params],
    problem: benchmark.Problem,
    pairs: list[tuple[float, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """The squared errors on meta-validation (C,) of candidates, clean and under lies (4 draws).

    Args:
      make: threshold -> the learner; params_of: a factor on the prior's precision -> its params.
      pairs: threshold and factor of each candidate.
    """
    source, tasks = problem.valid

    def one(pair: jax.Array) -> tuple[jax.Array, jax.Array]:
        at = lambda alter, seed: errors(
            make(pair[0]), params_of(pair[1]), tasks, source, alter, seed
        )["mse"].mean()
        lied = jax.lax.map(lambda seed: at(parts.lies(TUNED_AT), seed), jnp.arange(4))
        return at(evaluate.unaltered, jnp.asarray(0)), lied.mean()

    run = jax.jit(lambda pairs: jax.lax.map(one, pairs))
    clean, lied = run(jnp.asarray(pairs, jnp.float32))
    return np.asarray(clean), np.asarray(lied)


def scaled(params: Params, factor: jax.Array | float) -> Params:
    """The params of a ridge regression with its prior's precision times a factor."""
    return {**params, "log_precision": params["log_precision"] + jnp.log(factor)}


def best_trust(
    plain: Arm, make: Callable[[Any], Callable], problem: benchmark.Problem, rounds: int = 4
) -> Arm:
    """The plain arm with doubts, at the threshold best under lies of those that cost little.

    Doubtful ratings count less, so that the prior counts for more: of ridge regression its
    precision is chosen anew, too.
    """
    ridge = "log_precision" in plain.params
    params_of = lambda f: scaled(plain.params, f) if ridge else plain.params
    factors = (0.3, 0.6, 1.0, 1.5) if ridge else (1.0,)
    pairs = [(NO_DOUBT, 1.0), *((t, f) for t in THRESHOLDS for f in factors)]
    learner = lambda t: doubtful(plain.learner, make(t), rounds)
    clean, lied = tried(learner, params_of, problem, pairs)
    best = int(np.argmin(np.where(clean <= clean[0] + CLEAN_LOSS, lied, np.inf)))
    threshold, factor = pairs[best]
    told = {"threshold": threshold, "penalty times": factor, "trials": len(pairs)}
    told |= {"valid": float(clean[best]), "valid_lies": float(lied[best])}
    return Arm(learner(threshold), params_of(factor), told, seeds=plain.seeds)


def careful_fold_in(problem: benchmark.Problem) -> tuple[Arm, Arm]:
    """Fold-in tuned on clean tasks, and tuned under lies among what costs little clean."""
    learner, grid = benchmark.fold_in_learner(problem)
    plain = baselines.closed_form_arm(learner, problem, grid)
    one = jax.tree.map(lambda x: x[0], plain.params)
    pairs = [(0.0, factor) for factor in (1.0, 0.5, 0.7, 1.4, 2.0, 2.8, 4.0, 5.6)]
    clean, lied = tried(lambda _: learner, lambda f: scaled(one, f), problem, pairs)
    best = int(np.argmin(np.where(clean <= clean[0] + CLEAN_LOSS, lied, np.inf)))
    told = {"penalty times": pairs[best][1], "trials": len(pairs)}
    moved = Arm(learner, scaled(one, pairs[best][1]), told)
    return Arm(learner, one, plain.settings, records.BASELINE), moved


def trained(
    name: str, learner: MetaLearner, problem: benchmark.Problem, config: Any, folder: Any
) -> Arm:
    """A learner meta-trained, its best step chosen on meta-validation."""
    tx = optax.adam(config.outer_rate)
    arm = baselines.trained_arm(name, learner, tx, problem, config.training, folder)
    first = jax.tree.map(lambda x: x[0], arm.params)
    return Arm(learner, first, arm.settings, seeds=arm.params)


def embedded(learner: MetaLearner, num_items: int, dim: int) -> MetaLearner:
    """The learner whose item factors are learned too: the stored ones plus a table (I, D).

    Its params are ``learner`` and ``table``, all zeros at first.
    """
    seen = lambda table, inputs: parts.with_factors(
        inputs, parts.factors(inputs) + table[inputs["item"]]
    )
    return item_table(learner, "table", (num_items, dim), seen)


def against_lies(problem: benchmark.Problem, config: Any, folder: Any) -> dict[str, Arm]:
    """The arms against lying supports."""
    plain, tuned = careful_fold_in(problem)
    arms = {FOLD_IN: plain, f"{FOLD_IN}, tuned on lies": tuned}
    for name, make in {"Huber": huber, "Cauchy": cauchy, "bisquare": bisquare}.items():
        arms[f"{FOLD_IN}, {name}"] = best_trust(plain, make, problem)
    if config.closed_form:
        return arms
    arms[MAML] = trained(MAML, maml(problem), problem, config, folder)
    arms[MAML] = arms[MAML]._replace(role=records.BASELINE)
    liars = parts.trained_on_lies(maml(problem), 0.5, 2 * TUNED_AT)
    for name, learner in {
        f"{MAML}, trained on lies": liars,
        f"{MAML}, Huber loss": maml(problem, losses.huber),
    }.items():
        arms[name] = trained(name, learner, problem, config, folder)
    for name in (MAML, f"{MAML}, trained on lies"):
        arms[f"{name}, Cauchy"] = best_trust(arms[name], cauchy, problem)
    return arms


def against_moves(
    problem: benchmark.Problem, config: Any, folder: Any, plain: Arm
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


def learned_embeddings(problem: benchmark.Problem, config: Any, folder: Any) -> dict[str, Arm]:
    """MAML whose item embeddings are learned too, plain, by APR, and by noise of equal length."""
    dim = problem.table.item_features.columns["factor"].shape[1]
    plain = embedded(maml(problem), problem.table.num_items, dim)
    apr = lambda **how: against.against_embeddings(
        plain, tree.under("table"), against.Fixed(config.size), **how
    )
    made = {
        report.EMBEDDED: plain,
        report.APR: apr(),
        report.APR_NOISE: apr(direction=against.anywhere),
    }
    arms = {name: trained(name, one, problem, config, folder) for name, one in made.items()}
    roles = {report.EMBEDDED: records.BASELINE, report.APR_NOISE: records.CONTROL}
    return {k: a._replace(role=roles.get(k, records.METHOD)) for k, a in arms.items()}
