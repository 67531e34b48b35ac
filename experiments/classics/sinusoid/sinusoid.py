"""Sinusoid regression from K points: nine learners, and an oracle as the bound on their errors.

Paper: Finn et al., ICML 2017, section 5.1; Nichol et al., 2018; Li et al., 2017 (Meta-SGD);
Zintgraf et al., ICML 2019 (CAVIA); Garnelo et al., ICML 2018; Yin et al., ICLR 2020, section 6.1.
Run: python -m experiments sinusoid            (all arms, K = 5, 10 and 20)
     python -m experiments sinusoid --from-records prints the stored tables and draws their curves.
The oracle knows that tasks are sines and solves for amplitude and phase; the points have no noise,
so that no learner can do better. The published oracle is a network with amplitude and phase as
inputs; its error shows how well a network of this size and schedule fits a sine.
Published: third_party/published.toml; here: the table, 600 test tasks of 100 query points each.
Deviates: 15,000 outer steps, not 70,000; LeCun-normal weights, not normal ones of scale 0.01; of
the parameters after each thousand steps, those are tested that have the least error after one
adaptation on 200 validation tasks, which also choose fine-tuning's rate; Reptile clips its inner
gradients at norm 10, without which one task in ten thousand steps can end the run; three seeds side
by side.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses, optim, precision
from metajax.data.worlds.latent import SineTasks
from metajax.evaluation import evaluate
from metajax.learners.amortized import neural_process
from metajax.learners.closed_form import ridge
from metajax.learners.gradient.context import cavia
from metajax.learners.gradient.maml import gradient
from metajax.learners.pooled import fine_tuned, pooled
from metajax.models import towers
from metajax.results import ledger, records
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import loop
from metajax.training.devices import on_devices
from metajax.transforms.reptile import reptile
from metajax.types import Episode, MetaLearner, Model, Params, PyTree, UserError

from . import report as sinusoid_report

MAX_STEPS = 10
VALID_TASKS = 200
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)

SOME = ("MAML", "ridge on features", "pretrained", "oracle")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    shots: tuple[Positive, ...] = (5, 10, 20)
    """Points of the support, one table each."""
    num_steps: Positive = 15_000
    """Outer steps of every arm."""
    num_tasks: Positive = 25
    """Tasks per outer step, as published."""
    inner_rate: float = 0.01
    """Inner rate of MAML and its variants."""
    outer_rate: float = 1e-3
    """Adam's rate."""
    seeds: Positive = 3
    """Number of training seeds; they train side by side in one program."""
    arms: tuple[str, ...] = ()
    """Arms to run, else all; with --publish they take their places in the stored record."""
    test_tasks: Positive = 600
    """Tasks of the test, as published."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"shots": (5,), "num_steps": 500, "test_tasks": 100, "arms": SOME},
        "gpu": {"num_steps": 70_000, "seeds": 10},
    }


class Arm(NamedTuple):
    """A way to learn sines.

    Attributes:
      learner: what is meta-trained.
      tx: the outer optimizer.
      stepped: the learner whose every ``adapt`` is one inner step, for the curve over steps.
      reveal: what the arm is shown of a task beside its points.
      trains: whether there is anything to train.
    """

    learner: MetaLearner
    tx: optax.GradientTransformation
    stepped: MetaLearner
    reveal: Callable[[Episode], Episode] = lambda episode: episode
    trains: bool = True


def _by_gradient(config: Config, make: Callable[[int], MetaLearner], steps: int = 1) -> Arm:
    return Arm(make(steps), optax.adam(config.outer_rate), make(1))


def maml(config: Config) -> Arm:
    """MAML, one inner step."""
    inner = optax.sgd(config.inner_rate)
    return _by_gradient(config, lambda n: gradient(towers.vector_mlp(), inner, n))


def fomaml(config: Config) -> Arm:
    """MAML without second derivatives."""
    inner = optax.sgd(config.inner_rate)
    make = lambda n: gradient(towers.vector_mlp(), inner, n, second_order=False)
    return _by_gradient(config, make)


def reptile_of(config: Config) -> Arm:
    """Reptile: ten clipped inner steps on all points of a task, outer rate from 1 to 0."""
    inner = optax.chain(optax.clip_by_global_norm(10.0), optax.sgd(config.inner_rate))
    make = lambda n: gradient(towers.vector_mlp(), inner, n)
    tx = optax.sgd(optax.linear_schedule(1.0, 0.0, config.num_steps))
    return Arm(reptile(make(10)), tx, make(1))


def meta_sgd(config: Config) -> Arm:
    """MAML with a learned rate per weight."""
    inner = optim.learned_rates(config.inner_rate)
    return _by_gradient(config, lambda n: gradient(towers.vector_mlp(), inner, n))


def cavia_of(config: Config) -> Arm:
    """Five context numbers adapt, at rate 1."""
    from metajax.models import features

    make = lambda n: cavia(features.conditioned_mlp(), 5, optax.sgd(1.0), n)
    return _by_gradient(config, make)


def cnp(config: Config) -> Arm:
    """A conditional neural process."""
    from metajax.models import features

    encode, decode = features.labeled_features((40, 40)), features.conditioned_mlp((40, 40))
    return _by_gradient(config, lambda n: neural_process(encode, decode, 40))


def ridge_on_features(config: Config) -> Arm:
    """Ridge regression on learned features, its prior learned too."""
    from metajax.models import features

    embed = features.vector_features((40, 40))
    return _by_gradient(config, lambda n: ridge(embed, towers.vector_linear(), 40))


def pretrained(config: Config, rate: float = 0.01) -> Arm:
    """Joint training, then fine-tuning at the rate that is best on validation tasks."""
    net = towers.vector_mlp()
    make = lambda n: fine_tuned(net, optax.sgd(rate), n)
    return _by_gradient(config, make)._replace(learner=pooled(net))


def oracle_network(config: Config) -> Arm:
    """A network that is told amplitude and phase, as in the published figure."""
    learner = pooled(towers.vector_mlp())
    return Arm(learner, optax.adam(config.outer_rate), learner, told)


def oracle(config: Config) -> Arm:
    """Least squares of the K points on sin x and cos x: A sin(x - p) = a sin x + b cos x."""
    del config
    none = lambda *_: ()
    waves = Model(none, lambda params, profile, x: jnp.concatenate([jnp.sin(x), jnp.cos(x)], 1))
    nothing = Model(none, lambda params, profile, x: jnp.zeros(len(x)))
    learner = ridge(waves, nothing, 2, precision=1e-6)
    return Arm(learner, optax.identity(), learner, trains=False)


@precision.highest
def told(episode: Episode) -> Episode:
    """The episode with amplitude and phase as inputs, read off its noiseless points.

    A sin(x - p) = a sin x + b cos x: all points together give a and b by least squares.
    """
    x = jnp.concatenate([episode.support.inputs, episode.query.inputs])[:, 0]
    label = jnp.concatenate([episode.support.label, episode.query.label])
    basis = jnp.stack([jnp.sin(x), jnp.cos(x)], axis=1)
    a, b = jnp.linalg.solve(basis.T @ basis, basis.T @ label)
    answer = jnp.stack([jnp.hypot(a, b), jnp.arctan2(-b, a)])

    def beside(examples):
        told = jnp.broadcast_to(answer, (len(examples.label), 2))
        return examples._replace(inputs=jnp.concatenate([examples.inputs, told], axis=1))

    return episode._replace(support=beside(episode.support), query=beside(episode.query))


ARMS: dict[str, Callable[[Config], Arm]] = {
    "MAML": maml,
    "FOMAML": fomaml,
    "Reptile": reptile_of,
    "Meta-SGD": meta_sgd,
    "CAVIA": cavia_of,
    "CNP": cnp,
    "ridge on features": ridge_on_features,
    "pretrained": pretrained,
    "oracle network": oracle_network,
    "oracle": oracle,
}


def untrained(title: str, config: Config, arm: Arm, world: SineTasks) -> tuple[Params, list[int]]:
    """The arm's first parameters, for all seeds, and no step."""
    episode = world.sample(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), config.seeds)
    return jax.vmap(lambda key: arm.learner.init(key, arm.reveal(episode)))(keys), []


def fit(title: str, config: Config, arm: Arm, world: SineTasks) -> tuple[Params, list[int]]:
    """The arm's parameters after meta-training on the world, for all seeds, and their best step."""
    valid = dataclasses.replace(world, num_query=100)
    after_one = lambda params: errors(arm, params, valid, jax.random.key(2), VALID_TASKS)[:, 1]
    sample = loop.sampler(lambda key, data: arm.reveal(world.sample(key)), config.num_tasks)
    keys = jax.random.split(jax.random.key(1), config.seeds)
    recipe = on_devices(config.hardware.devices, loop.recipe(arm.learner, arm.tx))
    judge = lambda params: after_one(params).mean()
    try:
        found = loop.fit(
            recipe, sample, (), keys, config.num_steps, title=title, block=1000, validate=judge
        )
    except UserError as error:
        raise UserError(f"{title}: {error}") from error
    return found.params, found.best_step.tolist()


def errors(
    arm: Arm, params: Params, world: Any, key: jax.Array, num_tasks: int, steps: int = MAX_STEPS
) -> jax.Array:
    """Query errors (num_tasks, steps + 1) of one seed after 0, 1, ... adaptations.

    A task that diverged has an infinite error.
    """

    def error(state: PyTree, episode: Episode) -> jax.Array:
        scores = arm.stepped.predict(params, state, episode.query.inputs)
        return losses.squared_error(scores, episode.query.label, episode.query.mask)

    found = evaluate.while_adapting(
        arm.stepped,
        params,
        jax.random.split(key, num_tasks),
        key,
        error,
        steps,
        fetch=lambda key: arm.reveal(world.sample(key)),
        batch_size=num_tasks,
    )
    return jnp.nan_to_num(found, nan=jnp.inf, posinf=jnp.inf)


def curve(arm: Arm, params: Params, world: SineTasks, key: jax.Array, num_tasks: int) -> jax.Array:
    """`errors` (S, num_tasks, MAX_STEPS + 1) of every seed."""
    return jax.jit(jax.vmap(lambda one: errors(arm, one, world, key, num_tasks)))(params)


READ_ONCE = ("CNP", "ridge on features", "oracle")
"""Arms that read the support at once: reading it again is no second step."""


def tuned(config: Config, params: Params, world: SineTasks) -> tuple[Arm, dict[str, float]]:
    """The fine-tuned arm at the rate with the least error after ten steps on validation tasks."""
    score = {}
    for rate in RATES:
        found = curve(pretrained(config, rate), params, world, jax.random.key(2), VALID_TASKS)
        score[rate] = float(found[..., MAX_STEPS].mean())
    best = min(score, key=lambda rate: score[rate])
    return pretrained(config, best), {"rate": best, "valid": score[best], "trials": len(RATES)}


def run_shots(config: Config, shots: int) -> records.Record:
    """Trains and tests the arms at K shots; writes record and plot."""
    world = SineTasks(num_support=shots, num_query=10)
    tested = SineTasks(num_support=shots, num_query=100)
    params: dict[str, Params] = {}
    found, seconds, settings, best_steps, scores, gradients = {}, {}, {}, {}, {}, {}
    for name in config.arms or ARMS:
        began, arm = time.perf_counter(), ARMS[name](config)
        first = fit if arm.trains else untrained
        params[name], best_steps[name] = first(f"K={shots} {name}", config, arm, world)
        found[name] = arm
        if name == "pretrained":
            found[name], settings[name] = tuned(config, params[name], tested)
        seconds[name] = time.perf_counter() - began
        tasks = config.num_steps * config.num_tasks if arm.trains else 0
        gradients[name] = records.Gradients(tasks * (1 + arm.learner.num_gradients))
    tests = ledger.checksum("sinusoid", shots, config.test_tasks)
    choices = settings | {"best steps": best_steps}
    opened = records.open_tests(config, choices, f"sinusoid-k{shots}", tests)
    for name, arm in found.items():
        key = jax.random.key(3)
        measured = np.asarray(curve(arm, params[name], tested, key, config.test_tasks))
        if name in READ_ONCE:
            measured = measured[..., [0] + [1] * MAX_STEPS]
        for step in range(MAX_STEPS + 1):
            condition = f"steps={step}"
            full = records.Key(f"K={shots}", name, condition, sinusoid_report.METRIC)
            scores[full] = measured[..., step]
    return sinusoid_report.written(
        f"sinusoid-k{shots}",
        f"K={shots}",
        list(ARMS),
        config,
        settings,
        seconds,
        scores,
        gradients,
        opened=opened,
    )


def main(config: Config) -> None:
    """Runs all shots, or reads their records, and prints the tables."""
    unknown = sorted(set(config.arms) - set(ARMS))
    if unknown:
        raise UserError(f"no arm {unknown[0]!r}; the known ones are {', '.join(ARMS)}")
    if config.output.from_records:
        sinusoid_report.show_stored("sinusoid", "sinusoid-*", config.output.folder("sinusoid"))
    else:
        for shots in config.shots:
            sinusoid_report.show(run_shots(config, shots))
