"""Mixed precision: networks compute in bfloat16 while everything that is learned stays float32.

Activations, their cotangents and the factors of products are bfloat16, so that a step moves half
the bytes and tensor cores run at twice the rate; products accumulate in float32, and scores,
losses, parameters, gradients, inner steps and optimizers are float32 as before.

References: Micikevicius et al., "Mixed precision training", ICLR 2018; Kalamkar et al., "A study of
bfloat16 for deep learning training", 2019 (no loss scaling is needed).
"""

from typing import Literal

import jax
import jax.numpy as jnp

from metajax import tree
from metajax.types import Model, Params, PyTree

Compute = Literal["float32", "bfloat16"]
"""The types of activations to choose from."""


def mixed(
    model: Model,
    compute: Compute = "bfloat16",
    keep: tree.Filter = tree.nothing,
) -> Model:
    """The model with the same parameters and float32 scores that computes in another type.

    Args:
      model: any model; every learner takes the result in its place.
      compute: the type of activations; with float32 the model is as it was.
      keep: paths of parameters that are used as they are, such as a bias that must not be rounded.
    """

    if compute == "float32":
        return model

    def narrow(x: jax.Array) -> jax.Array:
        return x.astype(compute) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        few, rest = tree.partition(params, keep)
        narrowed = tree.merge(few, jax.tree.map(narrow, rest))
        scores = model.apply(narrowed, *jax.tree.map(narrow, (profile, inputs)))
        return scores.astype(jnp.float32)

    return Model(model.init, apply)
