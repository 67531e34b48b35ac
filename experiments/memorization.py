"""Meta-learning without memorization: sines whose amplitude is given away, with MR-MAML.

A meta-training task shows its amplitude as a one-hot input, so that one network fits all tasks
without looking at their points. At test the one-hot is drawn at random: it tells nothing, and only
a learner that reads the support is right.
Paper: Yin et al., "Meta-learning without memorization", ICLR 2020, section 6.1.
Run: python -m experiments.memorization        (the tables come with experiments.sinusoid)
Deviates: 25 tasks per outer step, not one; the scale of the noise starts from 1e-3, not near 0.
"""

import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import sinusoid_report
from metajax import benchmark, losses, progress, report, train, tree
from metajax.command import Preset
from metajax.learners.gradient import gradient
from metajax.models import features, towers
from metajax.transforms.regularize import noisy
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

TEST_STEPS = (0, 1, 5, 10, 20, 50, 100)


@dataclasses.dataclass(frozen=True)
class Config:
    """What the experiment can be told."""

    preset: Preset = "paper"
    """Size of the run; other options override it."""
    shots: tuple[int, ...] = (5, 10)
    """Points of a test task, one table each; training tasks have ten."""
    beta: float = 1e-4
    """Price of a nat that the shared encoder holds."""
    num_steps: int = 15_000
    """Outer steps."""
    num_tasks: int = 25
    """Tasks per outer step."""
    inner_rate: float = 0.01
    """Inner rate, at test too."""
    outer_rate: float = 1e-3
    """Adam's rate."""
    seeds: int = 3
    """Number of training seeds."""
    test_tasks: int = 600
    """Tasks of the test."""
    out: pathlib.Path = pathlib.Path("out/sinusoid")
    """Folder for records and plots."""
    publish: bool = False
    """Store the records in paper/results too."""


PRESETS: dict[Preset, dict[str, Any]] = {
    "quick": {"shots": (5,), "num_steps": 500, "test_tasks": 100},
    "paper": {},
    "gpu": {"num_steps": 70_000, "seeds": 10},
}


@dataclasses.dataclass(frozen=True)
class GivenAway:
    """Sines ``A sin(x)`` with noise 0.1 and a one-hot of 20 amplitudes between 0.1 and 4.

    Attributes:
      honest: the one-hot is that of the amplitude, which is one of the lowest 16, as published;
        else the amplitude is anything between 0.1 and 4 and the one-hot is drawn by itself.
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
        label = amplitude * jnp.sin(x[:, 0]) + 0.1 * jax.random.normal(key_noise, (n,))
        one_hot = jnp.broadcast_to(jax.nn.one_hot(shown, 20), (n, 20))
        examples = Examples(jnp.concatenate([x, one_hot], axis=1), label, jnp.ones(n))
        k = self.num_support
        part = lambda rows: jax.tree.map(lambda v: v[rows], examples)
        return Episode((), part(slice(0, k)), part(slice(k, n)))


def encoded() -> Model:
    """The published network: an encoder to five numbers (``encoder``), then an adapting one."""
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


def arms(config: Config) -> dict[str, MetaLearner]:
    """MAML on the plain network, the encoder with and without a price, and the price on all."""
    inner = optax.sgd(config.inner_rate)
    base = gradient(encoded(), inner, 1, adapts=tree.under("net"))
    encoder = tree.under("model/encoder")
    return {
        "MAML": gradient(towers.vector_mlp(), inner, 1),
        "MR-MAML": noisy(base, config.beta, encoder),
        "MR-MAML, beta = 0": base,
        "MR-MAML, all weights": noisy(base, config.beta, tree.everything),
    }


def errors(
    learner: MetaLearner, params: Params, world: GivenAway, key: jax.Array, num_tasks: int
) -> jax.Array:
    """Query errors (S, num_tasks, len(TEST_STEPS)) after so many adaptations of one step."""

    def one_task(params: Params, key: jax.Array) -> jax.Array:
        episode = world.sample(key)

        def step(state, key):
            scores = learner.predict(state, episode.query.inputs)
            value = losses.squared_error(scores, episode.query.label, episode.query.mask)
            return learner.adapt(state, episode.support, key), value

        cold = learner.start(params, episode.profile)
        found = jax.lax.scan(step, cold, jax.random.split(key, TEST_STEPS[-1] + 1))[1]
        return found[jnp.asarray(TEST_STEPS)]

    over_tasks = jax.vmap(one_task, (None, 0))
    return jax.jit(jax.vmap(over_tasks, (0, None)))(params, jax.random.split(key, num_tasks))


def main(config: Config) -> None:
    """Trains the arms once and tests them at each number of shots; writes and prints records."""
    sample = train.world_sampler(GivenAway(10, 10, honest=True), config.num_tasks)
    keys = jax.random.split(jax.random.key(1), config.seeds)
    block = min(1000, config.num_steps)
    fitted, seconds = {}, {}
    for name, learner in arms(config).items():
        began, tx = time.perf_counter(), optax.adam(config.outer_rate)
        with progress.bar(name, config.num_steps) as update:
            fitted[name] = train.fit(
                learner, tx, sample, (), keys, config.num_steps, block=block, report=update
            )
        seconds[name] = time.perf_counter() - began
    for shots in config.shots:
        world, scenario = GivenAway(shots, 100, honest=False), f"amplitude given away, K={shots}"
        scores = {}
        for name, learner in arms(config).items():
            params, key = fitted[name].params, jax.random.key(3)
            found = np.asarray(errors(learner, params, world, key, config.test_tasks))
            found = np.nan_to_num(found, nan=np.inf, posinf=np.inf)  # a task that diverged counts
            for i, step in enumerate(TEST_STEPS):
                condition = f"steps={step}"
                full = report.score_name(scenario, name, condition, sinusoid_report.METRIC)
                scores[full] = found[..., i]
        name = f"sinusoid-memorization-k{shots}"
        record = sinusoid_report.written(name, scenario, list(fitted), config, {}, seconds, scores)
        sinusoid_report.show(record)


if __name__ == "__main__":
    benchmark.cli(main, Config)
