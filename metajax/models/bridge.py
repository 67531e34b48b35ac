"""The border between Flax and the rest of the library: modules in, plain nested dicts out."""

from collections.abc import Callable

import jax
from flax import nnx

from metajax.types import Model, Params, PyTree


def from_nnx(make: Callable[[nnx.Rngs, PyTree, PyTree], nnx.Module]) -> Model:
    """The model of a Flax NNX module that is called with ``(profile, inputs)``.

    Beyond this border parameters are a plain nested dict, and only ``jax`` transformations are
    used: ``nnx.split`` and ``nnx.merge`` cost trace time and nothing at run time.

    Args:
      make: (rngs, profile, inputs) -> module; it may read widths off the shapes of an example.
        Everything the module learns must be an ``nnx.Param``.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        return nnx.to_pure_dict(nnx.split(make(nnx.Rngs(key), profile, inputs), nnx.Param)[1])

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        skeleton = nnx.eval_shape(lambda: make(nnx.Rngs(0), profile, inputs))
        graphdef, _ = nnx.split(skeleton, nnx.Param)
        return nnx.merge(graphdef, params)(profile, inputs)

    return Model(init, apply)
