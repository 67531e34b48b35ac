"""MAMO: a user starts from memories of similar users, then adapts by gradient steps.

Reference: Dong et al., "MAMO: memory-augmented meta-optimization for cold-start recommendation",
KDD 2020.
Run: python -m experiments mamo --dataset ml-1m
Published: none under this protocol; the code's memory rates .5, .05 and .1, its 3 memories and its
shift of .01 are the defaults here.
Deviates: as `metajax.learners.cold_start.mamo` says; a rating is a number, not a class; features of
width 32; item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from metajax import benchmark
from metajax.adapters.mixed import mixed
from metajax.learners.cold_start.mamo import mamo, memory_optimizer
from metajax.models.towers import stored_mean, vector_mlp
from metajax.results import records
from metajax.transforms.residual import residual
from metajax.types import Model, PyTree

from .cnp import Base, features


@dataclasses.dataclass(frozen=True)
class Config(Base):
    """Settings of the experiment."""

    inner_rate: float = 0.05
    """Rate of the gradient steps in a task."""
    inner_steps: int = 5
    """Gradient steps in a task."""
    features: benchmark.Positive = 32
    """Width of the layer that a user's own matrix multiplies."""
    memories: benchmark.Positive = 3
    """Rows of each memory."""
    shift: float = 0.01
    """How far the remembered gradient moves a user's start."""


def body(config: Config, problem: benchmark.Problem) -> Model:
    """A layer over the features of a user with each item; ``layer`` is personal."""
    embed = features(config, problem)

    def activated(layer: PyTree, profile: PyTree, x_NxE: jax.Array) -> jax.Array:
        return jax.nn.relu(x_NxE @ layer["kernel"] + layer["bias"])

    layer = mixed(Model(lambda *_: {}, activated), config.compute)

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> PyTree:
        key_embed, key_layer = jax.random.split(key)
        own = embed.init(key_embed, profile, inputs)
        width = embed.apply(own, profile, inputs).shape[1]
        kernel = jax.random.normal(key_layer, (width, config.features)) / width**0.5
        return {"embed": own, "layer": {"kernel": kernel, "bias": jnp.zeros((1, config.features))}}

    def apply(params: PyTree, profile: PyTree, inputs: PyTree) -> jax.Array:
        x_NxE = embed.apply(params["embed"], profile, inputs)
        return layer.apply(params["layer"], profile, x_NxE)

    return Model(init, apply)


def model(config: Config, problem: benchmark.Problem) -> Model:
    """The same layers without memories, for A3 and A4."""
    head = mixed(vector_mlp((32,)), config.compute)
    below, offset = body(config, problem), stored_mean(problem.mean)

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> PyTree:
        key_body, key_head, key_offset = jax.random.split(key, 3)
        own = below.init(key_body, profile, inputs)
        x_NxD = below.apply(own, profile, inputs)
        return {
            "body": own,
            "head": head.init(key_head, profile, x_NxD),
            "offset": offset.init(key_offset, profile, inputs),
        }

    def apply(params: PyTree, profile: PyTree, inputs: PyTree) -> jax.Array:
        x_NxD = below.apply(params["body"], profile, inputs)
        base = offset.apply(params["offset"], profile, inputs)
        return base + head.apply(params["head"], profile, x_NxD)

    return Model(init, apply)


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """MAMO and its outer optimizer."""
    from metajax.models.modulated import user_features

    sizes = problem.table.user_features.sizes
    learner = mamo(
        body(config, problem),
        mixed(vector_mlp((32,)), config.compute),
        mixed(user_features(sizes, config.embedding), config.compute),
        optax.chain(optax.clip(10.0), optax.sgd(config.inner_rate)),
        config.inner_steps,
        num_features=config.features,
        num_description=config.embedding * max(len(sizes), 1),
        personal=lambda path: path.startswith("layer"),
        num_memories=config.memories,
        shift=config.shift,
    )
    learner = residual(learner, stored_mean(problem.mean))
    return learner, memory_optimizer(optax.adam(config.outer_rate))


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("mamo", config, model, {"A6 MAMO": build}, "A6 MAMO")


if __name__ == "__main__":
    benchmark.cli(main, Config)
