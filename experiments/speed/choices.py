"""How each workload is done on each platform: the library's way, and the levers beside it.

What the library chooses stands in `metajax.platforms`. The choices for a card rest on two runs on
an H200, of which the second is stored; the notebook has the figures of both.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax import platforms
from metajax.models import conv

from . import on_chip


def row_convolution(x_NxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv.patch_convolution` with the kernel's gradient made as (F, P) and not as (P, F).

    The product of a tall patch matrix, transposed, with a narrow one runs at 60 % of the speed of
    its transpose on a processor, which pays where the outer gradient transposes the inner one. The
    barrier keeps the compiler from turning it back.
    """
    x_NxIxJxP = conv.patches(x_NxHxWxC)
    kernel_FxP = jax.lax.optimization_barrier(kernel.reshape(-1, kernel.shape[-1]).T)
    flat = x_NxIxJxP.reshape(-1, x_NxIxJxP.shape[-1])
    outputs = jax.lax.dot_general(flat, kernel_FxP, (((1,), (1,)), ((), ())))
    return outputs.reshape(*x_NxIxJxP.shape[:3], kernel.shape[-1])


def thin_convolution(x_NxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """`row_convolution`, where images have few channels by sums that fuse with what follows."""
    thin = x_NxHxWxC.shape[-1] <= on_chip.THIN
    return (on_chip.summed_convolution if thin else row_convolution)(x_NxHxWxC, kernel)


def one_pass(x_NxHxWxF: jax.Array, present: jax.Array) -> jax.Array:
    """`conv.batch_statistics` of rows that are all present, read once for both moments.

    The variance is the mean of squares less the square of the mean, in float32: it loses digits
    where the mean is far larger than the deviation, which outputs of a convolution are not.
    """
    del present
    kind, axes = x_NxHxWxF.dtype, (0, 1, 2)
    wide = x_NxHxWxF.astype(jnp.float32)
    mean = jnp.mean(wide, axis=axes, keepdims=True)
    variance = jnp.mean(wide**2, axis=axes, keepdims=True) - mean**2
    scale = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + 1e-3)
    return x_NxHxWxF * scale.astype(kind) - (mean * scale).astype(kind)


class How(NamedTuple):
    """The choices of a workload.

    Attributes:
      chunk_size: tasks that are taken at once; None takes them all.
      lengths: sizes that supports are cut to.
      num_outer: outer steps a program.
      convolve: the convolution of W2.
      normalize: the normalization of W2.
      reverse: of the learner of W2 and W4, see `learners.gradient.maml.gradient`.
      scanned: whether layers are a loop, which is compiled once for all of them.
      one_hot: tables of at most this many rows are looked up in W3 by a product with one-hot rows,
        whose gradient is a product too and not additions to a few addresses.
      one_kernel: a task's whole gradient in W1 is one program of the card, of so many warps; 0:
        it is not. See `one_kernel`.
      sums: products of W1 as sums of elementwise products, which a compiler fuses.
      remat: recompute what a network computed when it is differentiated, and keep only its inputs.
      options: names and values of the compiler's options.
    """

    chunk_size: int | None = None
    lengths: tuple[int, ...] = ()
    num_outer: int = 1
    convolve: conv.Convolve = conv.patch_convolution
    normalize: conv.Normalize = conv.batch_statistics
    reverse: bool = False
    scanned: bool = False
    one_hot: int = 0
    one_kernel: int = 0
    sums: bool = False
    remat: bool = False
    options: tuple[tuple[str, bool | int | str], ...] = ()


LIBRARY_PRODUCTS = (("xla_gpu_enable_triton_gemm", False),)
"""Matrix products by the vendor's library: few programs are tried, so that it compiles fast."""
UNTUNED = (("xla_gpu_autotune_level", 0),)
"""No program is tried before one is chosen."""
REPLAYED = (
    ("xla_gpu_enable_command_buffer", "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,WHILE,CONDITIONAL"),
)
"""Whole loops are recorded once and replayed by the card, which starts them without the host."""

KINDS: dict[str, platforms.Kind] = {
    "W1": "vectors",
    "W2": "images",
    "W2q15": "images",
    "W3": "ratings",
    "W4": "sequences",
    "W4h": "sequences",
}
"""Workload -> the kind of its tasks."""
BEYOND: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {},
    "gpu": {
        "W2q15": {"chunk_size": 256},
        "W3": {"one_hot": 32},
        "W4": {"options": LIBRARY_PRODUCTS},
        "W4h": {"options": LIBRARY_PRODUCTS},
    },
}
"""Platform -> workload -> what is chosen beyond the library's table, or otherwise."""


def _chosen(platform: str, name: str) -> How:
    """The library's way with a workload's kind of tasks, and what is chosen beyond it."""
    way = platforms.way(KINDS[name], platform)
    how = How(way.chunk_size, way.lengths, way.num_outer, reverse=way.reverse)
    return how._replace(**BEYOND[platform].get(name, {}))


HOW = {platform: {name: _chosen(platform, name) for name in KINDS} for platform in platforms.WAYS}
"""Platform -> workload -> what was fastest there, or on a card what its memory allows."""


ON_CHIP = {"convolve": on_chip.chip_convolution, "reverse": False}
ONE_PASS = ON_CHIP | {"normalize": one_pass}

NARROW: dict[str, How] = {
    "W2": HOW["gpu"]["W2"]._replace(**ON_CHIP),
    "W2q15": HOW["gpu"]["W2q15"]._replace(**ON_CHIP),
    "W3": HOW["gpu"]["W3"]._replace(num_outer=10),
}
"""Workload -> what was fastest on a card with bfloat16 activations, if it is something else."""


def _others(name: str, **levers: dict[str, Any]) -> dict[str, How]:
    """Changes of a workload's choices on a card, each under its name."""
    title = lambda key: "metajax, " + key.replace("_", " ")
    return {title(key): HOW["gpu"][name]._replace(**lever) for key, lever in levers.items()}


OTHERS: dict[str, dict[str, How]] = {
    "W1": _others(
        "W1",
        one_kernel={"one_kernel": 4},
        one_kernel_of_eight_warps={"one_kernel": 8},
        sums={"sums": True},
        replayed={"options": REPLAYED},
        one_step={"num_outer": 1},
        library_products={"options": LIBRARY_PRODUCTS},
    ),
    "W2": _others(
        "W2",
        on_chip=ON_CHIP,
        on_chip_one_pass=ONE_PASS,
        on_chip_ten_steps=ONE_PASS | {"num_outer": 10},
        on_chip_remat=ONE_PASS | {"remat": True},
        rows={"convolve": row_convolution, "reverse": False},
        patches={"reverse": False},
        thin={"convolve": thin_convolution},
        shifted={"convolve": conv.shifted_convolution},
        one_pass={"normalize": one_pass},
        library_products={"options": LIBRARY_PRODUCTS},
        on_chip_library_products=ON_CHIP | {"options": LIBRARY_PRODUCTS},
        lax_conv={"convolve": conv.ordinary_convolution},
    ),
    "W3": _others(
        "W3",
        halves_ten_steps={"num_outer": 10},
        halves_looked_up={"one_hot": 0},
        quarters={"chunk_size": 256, "lengths": (8, 18, 40)},
        whole={"chunk_size": 4096, "lengths": ()},
        whole_ten_steps={"chunk_size": 4096, "lengths": (), "num_outer": 10},
        whole_looked_up={"chunk_size": 4096, "lengths": (), "one_hot": 0},
        library_products={"options": LIBRARY_PRODUCTS},
    ),
    "W4": _others(
        "W4",
        tuned={"options": ()},
        scanned={"scanned": True, "options": ()},
        scanned_library_products={"scanned": True},
        scanned_untuned={"scanned": True, "options": UNTUNED},
        remat={"remat": True},
    ),
}
"""Workload -> other ways that a card is asked to measure beside, so that a choice can be made."""

QUICK: dict[tuple[str, int, str], str] = {
    ("W4", 1, "bf16"): "tuned; scanned library products; plain",
    ("W4", 1, "tf32"): "",
    ("W2", 1, "bf16"): "on chip one pass; plain",
    ("W2", 5, "bf16"): "plain",
    ("W3", 5, "bf16"): "whole ten steps; plain",
    ("W3", 5, "tf32"): "plain",
    ("W1", 5, "tf32"): "plain",
    ("W2", 1, "tf32"): "patches; plain",
}
"""Workload, inner steps and precision -> what ``--quick`` measures beside the choice."""


def how(name: str, platform: str | None = None, narrow: bool = False) -> How:
    """The choices for a workload on a platform; on that of this process by default.

    Args:
      narrow: whether activations are bfloat16, for which a card has its own.
    """
    if (platform or jax.default_backend()) == "cpu":
        return HOW["cpu"][name]
    return NARROW.get(name, HOW["gpu"][name]) if narrow else HOW["gpu"][name]
