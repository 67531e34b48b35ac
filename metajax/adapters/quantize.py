"""Weight quantization to integers of 2 to 8 bits, one scale per column, and int8 products.

``q = round(w / s)`` with ``s = max |w| / (2^(bits - 1) - 1)`` per column: symmetric, weights only.
`EightBits` quantizes activations too and multiplies integers by qwix.

References: Jacob et al., CVPR 2018; the same rounding as qwix's post-training quantization.
"""

from typing import Any

import jax
import jax.numpy as jnp

from metajax import tree
from metajax.types import Params, UserError


@jax.tree_util.register_pytree_node_class
class Integers:
    """A stand-in for the matrix ``codes * scale``, for products ``x @ kernel``.

    Attributes:
      codes: (..., rows, columns) int8.
      scale: (..., 1, columns).
    """

    def __init__(self, codes: Any, scale: Any):
        self.codes, self.scale = codes, scale

    def __rmatmul__(self, x: jax.Array) -> jax.Array:
        return (x @ self.codes.astype(x.dtype)) * self.scale.reshape(1, -1)

    def dense(self) -> jax.Array:
        """The matrix (..., rows, columns) in floating point."""
        return self.codes.astype(self.scale.dtype) * self.scale

    def tree_flatten(self):
        """Codes and scales."""
        return (self.codes, self.scale), None

    @classmethod
    def tree_unflatten(cls, aux: None, leaves: tuple) -> "Integers":
        """The inverse."""
        del aux
        return cls(*leaves)


@jax.tree_util.register_pytree_node_class
class EightBits:
    """A stand-in for a matrix, for products ``x @ kernel`` of int8 weights and int8 activations.

    Each row of x is quantized dynamically, with its own scale. Gradients pass straight through, as
    if nothing had been rounded, so that a task can adapt earlier layers.

    Attributes:
      weights: a ``qwix.QArray`` (..., rows, columns).
    """

    def __init__(self, weights: Any):
        self.weights = weights

    def __rmatmul__(self, x: jax.Array) -> jax.Array:
        qwix = library()
        exact = x @ qwix.dequantize(self.weights)
        rounded = qwix.quantize(x, jnp.int8, channelwise_axes=(0,))
        value = qwix.dot(rounded, self.weights)
        return exact + jax.lax.stop_gradient(value - exact)

    def tree_flatten(self):
        """The matrix of integers with its scales."""
        return (self.weights,), None

    @classmethod
    def tree_unflatten(cls, aux: None, leaves: tuple) -> "EightBits":
        """The inverse."""
        del aux
        return cls(*leaves)


def library() -> Any:
    """The package that multiplies integers; asked for at the start, it is missed before training.

    Raises:
      UserError: it is not installed.
    """
    try:
        import qwix
    except ImportError as error:
        raise UserError('int8 products need qwix: pip install "metajax[compress]"') from error
    return qwix


def in_eight_bits(params: Params, keep: tree.Filter) -> Params:
    """The parameters with the kernels (..., rows, columns) under ``keep`` replaced by `EightBits`.

    Raises:
      UserError: qwix is not installed.
    """
    qwix = library()

    def replace(path: tuple, leaf: jax.Array) -> Any:
        if not keep(tree.path_name(path)) or leaf.ndim < 2:
            return leaf
        own = (*range(leaf.ndim - 2), leaf.ndim - 1)
        return EightBits(qwix.quantize(leaf, jnp.int8, channelwise_axes=own))

    return jax.tree_util.tree_map_with_path(replace, params)


def to_integers(weights: jax.Array, bits: int = 8) -> Integers:
    """A matrix (..., rows, columns) quantized to the nearest integers; zero columns stay zero.

    Args:
      bits: 2 to 8, the sign included.
    """
    most = 2 ** (bits - 1) - 1
    peak = jnp.max(jnp.abs(weights), axis=-2, keepdims=True)
    scale = jnp.where(peak > 0, peak / most, 1.0)
    return Integers(jnp.round(weights / scale).astype(jnp.int8), scale)


def quantized(
    params: Params, keep: tree.Filter, bits: int = 8, stand_in: tree.Filter = tree.nothing
) -> Params:
    """The parameters with each chosen matrix quantized to integers.

    Args:
      keep: which leaves of two or more axes are quantized.
      bits: 2 to 8, the sign included.
      stand_in: which of those become `Integers`; the others become rounded floating-point matrices,
        for models that look rows up or transpose.
    """

    def replace(path: tuple, leaf: jax.Array) -> Any:
        name = tree.path_name(path)
        if not keep(name) or leaf.ndim < 2:
            return leaf
        found = to_integers(leaf, bits)
        return found if stand_in(name) else found.dense()

    return jax.tree_util.tree_map_with_path(replace, params)


def integer_bytes(params: Params, keep: tree.Filter, bits: int = 8) -> int:
    """Bytes of the parameters with the matrices under ``keep`` in ``bits``, with float32 scales."""
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if keep(tree.path_name(path)) and leaf.ndim >= 2:
            total += -(-leaf.size * bits // 8) + 4 * (leaf.size // leaf.shape[-2])
        else:
            total += 4 * leaf.size
    return total
