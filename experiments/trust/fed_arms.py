"""The arms of ``federated``: how clients train, and how new people adapt."""

import functools
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses, optim, tree
from metajax.benchmark.baselines import Trained
from metajax.data import episodes
from metajax.evaluation import evaluate
from metajax.federated import compression, rounds, simulator
from metajax.federated.compression import Compression
from metajax.learners import closed_form, pooled
from metajax.learners.gradient.maml import gradient
from metajax.models import towers
from metajax.results import records
from metajax.training import journal, loop, progress
from metajax.training.devices import on_devices, split_by_compiler
from metajax.types import Episode, MetaLearner, Model, Params, PyTree

from . import own_data
from .own_data import People, Sums

MEAN, BIAS = "item mean", "bias"
FEDAVG, FEDADAM = "FedAvg, fine-tuned", "FedAdam, fine-tuned"
FEDPROX, DITTO = "FedProx, fine-tuned", "Ditto"
MAML, META_SGD, PER = "FedMeta, MAML", "FedMeta, Meta-SGD", "Per-FedAvg"
SMALLER = {
    "FedMeta, MAML, top-k": compression.top_k(0.1),
    "FedMeta, MAML, 8 bits": compression.eight_bits(),
    "FedMeta, MAML, low rank": compression.low_rank(2),
}
SWAPPED = "FedMeta, MAML, swapped supports"
ADAM_BOTH = "FedAdam, fine-tuned, 8 bits both ways"
MEANS, MEANS_BOTH = "FedMeta from the means", "FedMeta from the means, 8 bits both ways"
"""MAML whose network says nothing at first, and whose people fine-tune as those of FedAvg do."""
NAMES = (
    FEDAVG, FEDADAM, ADAM_BOTH, MAML, SWAPPED, *SMALLER, MEANS, MEANS_BOTH, META_SGD, PER, FEDPROX,
)  # fmt: skip
LOCAL_STEPS, OUTER_STEP = 5, 0.1
"""Local steps of a round, and the rate of those of Per-FedAvg."""
RATES, INNER_RATES = (0.03, 0.1, 0.3), (0.1, 0.3, 0.6)
"""Client rates, and inner rates of meta-learners, that are tried."""
SAME_AS = {
    **dict.fromkeys((FEDADAM, ADAM_BOTH, FEDPROX), FEDAVG),
    **dict.fromkeys((PER, META_SGD, *SMALLER, SWAPPED, MEANS, MEANS_BOTH), MAML),
}
"""Arm -> the arm whose rate it takes, instead of trials of its own."""
TUNE_RATES, TUNE_STEPS = INNER_RATES, 10
"""Fine-tuning: each rate after each number of steps up to this."""
PULLS = (0.1, 1.0)


class Plan(NamedTuple):
    """What is equal for all arms.

    Attributes:
      people, sums: the data.
      config: the experiment's.
      sample: of cohorts, by number of local episodes.
      judged: columns for people outside the sums; some: the validation people looked at.
    """

    people: People
    sums: Sums
    config: Any
    sample: Callable[[int], loop.Sampler]
    judged: episodes.Source
    some: Episode


class Recipe(NamedTuple):
    """How one arm is trained at one rate.

    Attributes:
      learner: whose parameters are trained.
      client: see `rounds.Client`.
      server: an optax optimizer.
      local: episodes of a client and round.
      tuned: whether new people fine-tune, at the rate and steps best on validation.
      sent: how uploads are compressed; got: how downloads are.
      swapped: the control.
    """

    learner: MetaLearner
    client: rounds.Client
    server: optax.GradientTransformation
    local: int = 1
    tuned: bool = False
    sent: Compression | None = None
    got: Compression | None = None
    swapped: bool = False


def from_the_means(learner: MetaLearner) -> MetaLearner:
    """The learner whose last layer is 0 at first, so that it begins at the items' means."""

    def init(key: jax.Array, episode: Episode) -> PyTree:
        last, rest = tree.partition(learner.init(key, episode), tree.under("model/head"))
        return tree.merge(jax.tree.map(jnp.zeros_like, last), rest)

    return learner._replace(init=init)


def model_of(plan: Plan) -> Model:
    """The item's mean plus a small network on public columns."""
    return towers.factor_mlp(plan.people.mean, (plan.config.hidden,))


def recipes(plan: Plan) -> dict[str, Callable[[float], Recipe]]:
    """Arm -> rate -> how it is trained."""
    model, steps, adam = model_of(plan), plan.config.inner_steps, optax.adam(plan.config.outer_rate)
    joint = pooled.pooled(model)
    maml = lambda rate: gradient(model, optax.sgd(rate), steps)
    sgd_rates = lambda rate: gradient(model, optim.learned_rates(rate), steps)
    local = rounds.local_steps
    prox = lambda rate: optax.chain(rounds.proximal(0.1), optax.sgd(rate))
    whole = optax.sgd(1.0)
    fedmeta = lambda learner, **more: Recipe(learner, rounds.meta_gradient(learner), adam, **more)
    tuned = {"local": LOCAL_STEPS, "tuned": True}
    bits = compression.eight_bits()
    both = {"sent": bits, "got": bits}
    means = lambda r, **more: fedmeta(from_the_means(maml(r)), tuned=True, **more)
    made = {
        FEDAVG: lambda r: Recipe(joint, local(joint, optax.sgd(r)), whole, **tuned),
        FEDADAM: lambda r: Recipe(joint, local(joint, optax.sgd(r)), adam, **tuned),
        ADAM_BOTH: lambda r: Recipe(joint, local(joint, optax.sgd(r)), adam, **tuned, **both),
        MEANS: means,
        MEANS_BOTH: lambda r: means(r, **both),
        MAML: lambda r: fedmeta(maml(r)),
        SWAPPED: lambda r: fedmeta(maml(r), swapped=True),
        **{name: lambda r, how=how: fedmeta(maml(r), sent=how) for name, how in SMALLER.items()},
        META_SGD: lambda r: fedmeta(sgd_rates(r)),
        PER: lambda r: Recipe(
            maml(r), local(maml(r), optax.sgd(OUTER_STEP), by_rows=False), whole, LOCAL_STEPS
        ),
        FEDPROX: lambda r: Recipe(joint, local(joint, prox(r)), whole, **tuned),
    }
    return {name: made[name] for name in NAMES}


def mean_square(scores: jax.Array, tasks: Episode) -> jax.Array:
    """The mean squared error () of people, each of whom counts alike."""
    each = jax.vmap(losses.squared_error)(scores, tasks.query.label, tasks.query.mask)
    return each.mean()


def valid_error(learner: MetaLearner, params: Params, plan: Plan) -> jax.Array:
    """The validation error () of a learner that adapts once."""
    fetch, key = episodes.fetch_from(plan.judged), jax.random.key(0)
    scores = evaluate.predictions(learner, params, plan.some, key, fetch=fetch)
    return mean_square(scores, plan.some)


def tuned_errors(
    model: Model, params: Params, plan: Plan, rates: jax.Array, pull: float = 0.0
) -> jax.Array:
    """Validation errors (R, N) of fine-tuning at R rates after each of N steps."""
    fetch, key = episodes.fetch_from(plan.judged), jax.random.key(0)

    def of_rate(rate: jax.Array) -> jax.Array:
        learner = fine_tuner(model, rate, 1, pull)

        def error(state: PyTree, episode: Episode) -> jax.Array:
            scores = learner.predict(params, state, episode.query.inputs)
            return losses.squared_error(scores, episode.query.label, episode.query.mask)

        return evaluate.while_adapting(
            learner, params, plan.some, key, error, TUNE_STEPS, fetch=fetch
        ).mean(axis=0)[1:]

    return jax.lax.map(of_rate, rates)


def finite(errors: Any) -> jax.Array:
    """The errors, infinite where a rate was too large for them to be numbers."""
    return jnp.where(jnp.isfinite(errors), errors, jnp.inf)


def fine_tuner(model: Model, rate: Any, steps: int, pull: float = 0.0) -> MetaLearner:
    """A learner that fine-tunes; with a ``pull`` toward the shared parameters, Ditto's."""
    tx = optax.sgd(rate)
    tx = optax.chain(rounds.proximal(pull), tx) if pull else tx
    return pooled.fine_tuned(model, tx, steps)


def fit(name: str, how: Recipe, plan: Plan, folder: pathlib.Path | None) -> tuple[loop.Fitted, int]:
    """All rounds of one arm at one rate, and how many uploads were refused.

    Args:
      folder: of checkpoints, from which a server that died goes on.
    """
    config, num = plan.config, plan.people.num_clients
    model, rates = model_of(plan), jnp.asarray(TUNE_RATES)
    server = rounds.server(how.server)
    recipe = simulator.simulation(how.learner, how.client, server, num, how.sent, how.got)
    recipe = on_devices(config.hardware.devices, recipe, split_by_compiler)
    validate = lambda params: (
        finite(tuned_errors(model, params, plan, rates)).min()
        if how.tuned
        else valid_error(how.learner, params, plan)
    )
    sample = plan.sample(how.local)
    sample = simulator.swapped_supports(sample) if how.swapped else sample
    fitted = loop.fit(
        recipe,
        sample,
        own_data.own_data(plan.people, plan.sums),
        jax.random.split(jax.random.key(config.split_seed), config.seeds),
        config.rounds,
        title=name,
        block=max(1, config.rounds // 20),
        validate=validate,
        checkpoint=folder and folder / "checkpoints" / journal.slug(name),
        go_on=True,
    )
    return fitted, int(np.sum(np.asarray(fitted.state.opt_state.refused)))


def train(
    name: str, make: Callable[[float], Recipe], rates: Iterable[float], plan: Plan, folder: Any
) -> Trained:
    """One arm, trained at each rate; the best on validation is kept."""
    found = {}
    for rate in rates:
        how = make(rate)
        fitted, refused = fit(f"{name} {rate:g}", how, plan, folder)
        best = np.asarray(finite(fitted.history["valid"])).min(axis=1).mean()
        found[rate] = best, how, fitted, refused
        progress.say(f"{name} at {rate:g}: validation MSE {found[rate][0]:.4f}")
    rate = min(found, key=lambda r: found[r][0])
    error, how, fitted, refused = found[rate]
    settings: dict[str, Any] = {"rate": rate, "valid": float(error), "refused": refused}
    settings |= {"trials": {f"{r:g}": float(told[0]) for r, told in found.items()}}
    settings |= traffic(how, plan, fitted.params)
    learner = how.learner
    if how.tuned:
        learner, chosen = tuned(model_of(plan), fitted.params, plan)
        settings |= chosen
    seconds = sum(told[2].seconds for told in found.values())
    return Trained(learner, fitted.params, settings, fitted.history, seconds)


def traffic(how: Recipe, plan: Plan, params: Params) -> dict[str, int]:
    """Bytes of a round, down and up."""
    one = jax.tree.map(lambda x: x[0], params)
    told = simulator.traffic(one, plan.config.clients, plan.config.drop, how.sent, how.got)
    return {"down": told.down, "up": told.up}


def tuned(
    model: Model, params: Params, plan: Plan, pulls: tuple[float, ...] = (0.0,)
) -> tuple[MetaLearner, dict[str, Any]]:
    """The fine-tuning that is best on validation, seeds averaged, and its settings."""
    best, rates = (np.inf, 0.0, 0, 0.0), jnp.asarray(TUNE_RATES)
    for pull in pulls:
        of_seed = jax.jit(functools.partial(tuned_errors, model, plan=plan, rates=rates, pull=pull))
        table = np.asarray(finite(jax.lax.map(of_seed, params))).mean(axis=0)
        row, column = np.unravel_index(np.argmin(table), table.shape)
        best = min(best, (float(table[row, column]), TUNE_RATES[row], int(column) + 1, pull))
    error, rate, steps, pull = best
    told = {"tuned_rate": rate, "tuned_steps": steps, "tuned_valid": error}
    told |= {"pull": pull} if pull else {}
    return fine_tuner(model, rate, steps, pull), told


def ditto(fedavg: Trained, plan: Plan) -> Trained:
    """Ditto: FedAvg's parameters, and people who adapt without going far from them."""
    learner, told = tuned(model_of(plan), fedavg.params, plan, PULLS)
    same = {k: v for k, v in fedavg.settings.items() if not k.startswith("tuned")}
    return fedavg._replace(learner=learner, settings=same | told)


def closed_forms(plan: Plan) -> dict[str, Trained]:
    """The item mean, and the bias arm: how far a person rates above it, shrunk."""
    offset = towers.stored_mean(plan.people.mean)
    item_mean = pooled.pooled(offset)
    example = own_data.example(plan.people, plan.sums)
    stack = lambda params: jax.tree.map(lambda x: jnp.asarray(x)[None], params)
    zero = {"down": 0, "up": 0}
    params = item_mean.init(jax.random.key(0), example)
    found = {MEAN: Trained(item_mean, stack(params), dict(zero), {}, 0.0, records.BASELINE)}
    bias = closed_form.ridge(towers.constant_feature(), offset, 1)
    params = bias.init(jax.random.key(0), example)
    grid = np.log([1.0, 2.0, 4.0, 8.0, 16.0])
    of = jax.jit(lambda p: valid_error(bias, {**params, "log_precision": p[None]}, plan))
    errors = [float(of(jnp.asarray(p))) for p in grid]
    chosen = {**params, "log_precision": jnp.asarray(grid[[int(np.argmin(errors))]])}
    told = zero | {"damping": float(np.exp(grid[np.argmin(errors)])), "valid": min(errors)}
    found[BIAS] = Trained(bias, stack(chosen), told, {}, 0.0, records.BASELINE)
    return found
