"""Meta-learning without memorization: sinusoids whose amplitude is an input in training; MR-MAML.

In meta-training, the amplitude of a task is a one-hot input, so that one network fits all tasks
without using their support. At test the one-hot input is random and carries no information: only a
learner that uses the support has a small error.
Paper: Yin et al., "Meta-learning without memorization", ICLR 2020, section 6.1.
Run: python -m experiments memorization
     python -m experiments memorization --from-records prints the stored tables.
Deviates: the first four arms take 25 tasks per outer step, not one; their noise starts from a scale
at which it has an effect; inner gradients are clipped at norm 10, without which a hundred steps
diverge for some tasks; Adam keeps its moments. The authors' notebook makes a new Adam at every
outer step, so that each weight moves by the full rate along the sign of its gradient. It starts
from noise of 1e-7, which it cannot raise, so that its penalty is one on squared weights. Under such
an optimizer any penalty, however small, moves each weight that the one task of the step does not
use by the full rate toward 0: the weights of one amplitude in fifteen steps of sixteen, so that
they are erased. The arms called program repeat this; two variants leave out the penalty (beta = 0)
and keep the moments. Of the parameters after each thousand steps, those are tested that have, after
the last of TEST_STEPS, the least error on 200 validation tasks.
"""

import dataclasses
import functools
import time
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, tree
from metajax.learners.gradient.maml import gradient
from metajax.models import towers
from metajax.results import ledger, records
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import loop
from metajax.training.devices import on_devices
from metajax.transforms.regularize import noisy
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

from .sinusoid import report as sinusoid_report
from .sinusoid import sinusoid

TEST_STEPS = (0, 1, 5, 10, 20, 50, 100)
PROGRAM_BETA = 5e-5
"""The price in the authors' notebook."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    shots: tuple[Positive, ...] = (5, 10)
    """Points of a test task, one table each; training tasks have ten."""
    beta: float = 1e-3
    """Penalty on one nat of information in the shared encoder; chosen on validation tasks."""
    scale: float = 0.03
    """Initial scale of the noise."""
    num_steps: Positive = 15_000
    """Outer steps."""
    num_tasks: Positive = 25
    """Tasks per outer step."""
    inner_rate: float = 0.01
    """Inner rate, at test too."""
    outer_rate: float = 1e-3
    """Adam's rate."""
    seeds: Positive = 3
    """Number of training seeds."""
    test_tasks: Positive = 600
    """Tasks of the test."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"shots": (5,), "num_steps": 500, "test_tasks": 100},
        "gpu": {"num_steps": 70_000, "seeds": 10},
    }


@dataclasses.dataclass(frozen=True)
class GivenAway:
    """Sines ``A sin(x)`` with noise 0.1 and a one-hot of 20 amplitudes between 0.1 and 4.

    Attributes:
      honest: the one-hot is that of the amplitude, which is one of the lowest 16, as published;
        else the amplitude is anything between 0.1 and 4, the one-hot is drawn by itself, and the
        query lies on a grid, as in the published test.
    """

    num_support: int
    num_query: int
    honest: bool

    def sample(self, key: jax.Array) -> Episode:
        """One task; inputs (N, 21)."""
        key_shown, key_amplitude, key_x, key_noise = jax.random.split(key, 4)
        shown = jax.random.randint(key_shown, (), 0, 16)
        anything = jax.random.uniform(key_amplitude, minval=0.1, maxval=4.0)
        amplitude = jnp.where(self.honest, 0.1 + shown * 3.9 / 19, anything)
        n = self.num_support + self.num_query
        x = jax.random.uniform(key_x, (n, 1), minval=-5.0, maxval=5.0)
        grid = jnp.linspace(-4.5, 4.5, self.num_query)[:, None]
        x = x if self.honest else x.at[self.num_support :].set(grid)
        label = amplitude * jnp.sin(x[:, 0]) + 0.1 * jax.random.normal(key_noise, (n,))
        one_hot = jnp.broadcast_to(jax.nn.one_hot(shown, 20), (n, 20))
        examples = Examples(jnp.concatenate([x, one_hot], axis=1), label, jnp.ones(n))
        k = self.num_support
        part = lambda rows: jax.tree.map(lambda v: v[rows], examples)
        return Episode((), part(slice(0, k)), part(slice(k, n)))


def encoded() -> Model:
    """The published network: an encoder to five numbers (``encoder``), then an adapting one."""
    from metajax.models import features

    encoder, net = features.vector_features((100, 5)), towers.vector_mlp((40, 40))

    def init(key: jax.Array, profile: PyTree, inputs: jax.Array) -> PyTree:
        key_encoder, key_net = jax.random.split(key)
        codes = jnp.zeros((inputs.shape[0], 5))
        return {
            "encoder": encoder.init(key_encoder, profile, inputs),
            "net": net.init(key_net, profile, codes),
        }

    def apply(params: PyTree, profile: PyTree, inputs: jax.Array) -> jax.Array:
        codes = encoder.apply(params["encoder"], profile, inputs)
        return net.apply(params["net"], profile, codes)

    return Model(init, apply)


class Arm(NamedTuple):
    """A way to train: what, by which outer optimizer, on how many tasks a step."""

    learner: MetaLearner
    tx: optax.GradientTransformation
    num_tasks: int


def forgetful(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer made anew at every step."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return tx.update(updates, tx.init(updates), params)[0], state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def arms(config: Config) -> dict[str, Arm]:
    """MAML on the plain network, the encoder with and without a price, and what was published."""
    plain = optax.sgd(config.inner_rate)
    bounded = optax.chain(optax.clip_by_global_norm(10.0), plain)
    make = lambda inner: gradient(encoded(), inner, 1, adapts=tree.under("net"))
    base = make(bounded)
    encoder = tree.under("model/encoder")
    kernels = lambda path: encoder(path) and tree.matching("kernel")(path)
    still = noisy(make(plain), PROGRAM_BETA, kernels, initial_scale=1.2e-7)
    priced = lambda where: noisy(base, config.beta, where, initial_scale=config.scale)
    kept = optax.adam(config.outer_rate)
    anew = forgetful(optax.adam(1e-3, eps=1e-7))
    return {
        "MAML": Arm(gradient(towers.vector_mlp(), bounded, 1), kept, config.num_tasks),
        "MR-MAML": Arm(priced(encoder), kept, config.num_tasks),
        "MR-MAML, beta = 0": Arm(base, kept, config.num_tasks),
        "MR-MAML, all weights": Arm(priced(tree.everything), kept, config.num_tasks),
        "program": Arm(still, anew, 1),
        "program, beta = 0": Arm(make(plain), anew, 1),
        "program, moments kept": Arm(still, optax.adam(1e-3, eps=1e-7), 1),
    }


def errors(
    learner: MetaLearner, params: Params, world: GivenAway, key: jax.Array, num_tasks: int
) -> jax.Array:
    """Query errors (num_tasks, len(TEST_STEPS)) of one seed after so many one-step adaptations.

    A task that diverged has an infinite error.
    """
    arm = sinusoid.Arm(learner, optax.identity(), stepped=learner)
    found = sinusoid.errors(arm, params, world, key, num_tasks, TEST_STEPS[-1])
    return found[:, jnp.asarray(TEST_STEPS)]


def judged(learner: MetaLearner, shots: int, params: Params) -> jax.Array:
    """The error of one seed after the last of TEST_STEPS, on validation tasks."""
    world = GivenAway(shots, 200, honest=False)
    last = errors(learner, params, world, jax.random.key(2), 200)[:, -1].mean()
    return jnp.where(jnp.isfinite(last), last, jnp.finfo(last.dtype).max)


def run(config: Config) -> None:
    """Trains the arms once and tests them at each number of shots; writes and prints records."""
    keys = jax.random.split(jax.random.key(1), config.seeds)
    trained, seconds = {}, {}
    for name, arm in arms(config).items():
        began = time.perf_counter()
        devices = config.hardware.devices if arm.num_tasks > 1 else 1  # one task is not dealt
        sample = loop.world_sampler(GivenAway(10, 10, honest=True), arm.num_tasks)
        valid = functools.partial(judged, arm.learner, min(config.shots))
        recipe = on_devices(devices, loop.recipe(arm.learner, arm.tx))
        trained[name] = loop.fit(
            recipe, sample, (), keys, config.num_steps, title=name, block=1000, validate=valid
        )
        seconds[name] = time.perf_counter() - began
    for shots in config.shots:
        world, scenario = GivenAway(shots, 200, honest=False), f"amplitude given away, K={shots}"
        name, scores = f"sinusoid-memorization-k{shots}", {}
        tests = ledger.checksum(name, config.test_tasks)
        choices = {arm: fitted.best_step.tolist() for arm, fitted in trained.items()}
        opened = records.open_tests(config, choices, name, tests)
        for arm_name, arm in arms(config).items():
            key, params = jax.random.key(3), trained[arm_name].params
            over_seeds = jax.vmap(errors, (None, 0, None, None, None))
            test = jax.jit(over_seeds, static_argnums=(0, 2, 4))
            found = np.asarray(test(arm.learner, params, world, key, config.test_tasks))
            for i, step in enumerate(TEST_STEPS):
                condition = f"steps={step}"
                full = records.Key(scenario, arm_name, condition, sinusoid_report.METRIC)
                scores[full] = found[..., i]
        record = sinusoid_report.written(
            name, scenario, list(trained), config, {}, seconds, scores, opened=opened
        )
        sinusoid_report.show(record)


def main(config: Config) -> None:
    """Runs the experiment, or prints the tables of its records and draws their curves."""
    if config.output.from_records:
        out = config.output.folder("sinusoid")
        sinusoid_report.show_stored("memorization", "sinusoid-memorization-*", out)
    else:
        run(config)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
