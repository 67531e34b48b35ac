"""Adapters that condition a Transformer: soft prompts, FiLM by layer, a FiLM context; a last layer.

They add keys that `models.transformer` understands to the top level of the parameters of the model
that they wrap, where those of the Transformer have to be. As in all adapters, ``adapter`` is what a
task learns and ``base`` the parameters of the wrapped model.
"""

import jax
import jax.numpy as jnp

from metajax.models.transformer import Shape
from metajax.types import Model, Params, PyTree


def soft_prompt(
    model: Model, shape: Shape, length: int, *, scale: float = 0.5, frozen: bool = True
) -> Model:
    """The model with a soft prompt: ``length`` learned vectors before each sequence.

    A task's state is ``length * width`` numbers. Unlike the other adapters, a prompt changes the
    model from the start: even zero vectors receive attention.

    Args:
      scale: standard deviation of the prompt's entries at the start. Blocks normalize their input,
        so that a step turns short vectors further: those of scale .02 diverge at usual rates.
      frozen: no gradient reaches the base.

    References: Lester et al., "The power of scale for parameter-efficient prompt tuning", 2021.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        key_base, key_prompt = jax.random.split(key)
        prompt = scale * jax.random.normal(key_prompt, (length, shape.width))
        base = model.init(key_base, profile, inputs)
        return {"base": base, "adapter": {"prompt": prompt}}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        base = _held(params["base"], frozen)
        return model.apply({**base, "prompt": params["adapter"]["prompt"]}, profile, inputs)

    return Model(init, apply)


def film(model: Model, shape: Shape, *, frozen: bool = True) -> Model:
    """The model with FiLM: the input of each gated MLP becomes ``x * (1 + scale) + shift``.

    Scales and shifts start at 0.

    A task's state is ``2 * layers * width`` numbers.

    References: Perez et al., "FiLM", AAAI 2018.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        zeros = jnp.zeros((shape.num_layers, shape.width))
        adapter = {"scale": zeros, "shift": zeros}
        return {"base": model.init(key, profile, inputs), "adapter": adapter}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        base = _held(params["base"], frozen)
        return model.apply({**base, "film": params["adapter"]}, profile, inputs)

    return Model(init, apply)


def film_context(model: Model, shape: Shape, num_context: int, *, frozen: bool = True) -> Model:
    """The model whose FiLM scales and shifts are a linear map of a context, which starts at 0.

    A task's state is ``num_context`` numbers, however large the model; the map, under
    ``generator``, is shared by all tasks and learned by the outer loop.

    References: Zintgraf et al., ICML 2019 (CAVIA).
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        key_base, key_map = jax.random.split(key)
        size = (2, num_context, shape.num_layers, shape.width)
        return {
            "base": model.init(key_base, profile, inputs),
            "generator": jax.random.normal(key_map, size) / num_context**0.5,
            "adapter": {"context": jnp.zeros(num_context)},
        }

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        base = _held(params["base"], frozen)
        context = params["adapter"]["context"]
        scale, shift = jnp.einsum("c,kclw->klw", context, params["generator"])
        return model.apply({**base, "film": {"scale": scale, "shift": shift}}, profile, inputs)

    return Model(init, apply)


def last_layer(features: Model, *, frozen: bool = True) -> Model:
    """The scores (N,) ``features(x)' w + b``; w (D,) and b () start at 0 and are the adapter.

    Args:
      features: a model whose ``apply`` gives (N, D).
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        base = features.init(key, profile, inputs)
        width = jax.eval_shape(features.apply, base, profile, inputs).shape[-1]
        return {"base": base, "adapter": {"kernel": jnp.zeros(width), "bias": jnp.zeros(())}}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        head = params["adapter"]
        base = _held(params["base"], frozen)
        return features.apply(base, profile, inputs) @ head["kernel"] + head["bias"]

    return Model(init, apply)


def _held(base: Params, frozen: bool) -> Params:
    return jax.lax.stop_gradient(base) if frozen else base
