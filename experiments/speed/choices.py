"""How each workload is done on each platform: choices that were measured there, in one place.

A processor's core likes few tasks at a time, which stay in its cache, and supports cut to their
length; a graphics card likes all tasks at once, as far as its memory goes. The choices for a card
rest on one run on an H200 beside which compilers were at work, so that its times say which way is
ahead and not by how much: supports cut to length in chunks of 256 were behind, and kernel gradients
by rows were ahead of patches and of shifted products.
"""

from typing import NamedTuple

import jax

from metajax.models import conv


def row_convolution(x_NxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv.patch_convolution` with the kernel's gradient made as (F, P) and not as (P, F).

    The product of a tall patch matrix, transposed, with a narrow one runs at 60 % of the speed of
    its transpose on a processor. The barrier keeps the compiler from turning it back.
    """
    x_NxIxJxP = conv.patches(x_NxHxWxC)
    kernel_FxP = jax.lax.optimization_barrier(kernel.reshape(-1, kernel.shape[-1]).T)
    flat = x_NxIxJxP.reshape(-1, x_NxIxJxP.shape[-1])
    outputs = jax.lax.dot_general(flat, kernel_FxP, (((1,), (1,)), ((), ())))
    return outputs.reshape(*x_NxIxJxP.shape[:3], kernel.shape[-1])


class How(NamedTuple):
    """The choices of a workload.

    Attributes:
      chunk_size: tasks that are taken at once; None takes them all.
      lengths: sizes that supports are cut to.
      num_outer: outer steps a program.
      convolve: the convolution of W2.
      scanned: whether layers are a loop, which is compiled once for all of them.
    """

    chunk_size: int | None = None
    lengths: tuple[int, ...] = ()
    num_outer: int = 1
    convolve: conv.Convolve = conv.patch_convolution
    scanned: bool = False


HOW: dict[str, dict[str, How]] = {
    "cpu": {
        "W1": How(num_outer=50),
        "W2": How(chunk_size=1, convolve=row_convolution),
        "W2q15": How(chunk_size=1, convolve=row_convolution),
        "W3": How(chunk_size=4, lengths=(12, 36)),
        "W4": How(chunk_size=2),
        "W4h": How(chunk_size=2),
    },
    "gpu": {
        "W1": How(chunk_size=8192, num_outer=50),
        "W2": How(chunk_size=1024, convolve=row_convolution),
        "W2q15": How(chunk_size=256, convolve=row_convolution),
        "W3": How(chunk_size=4096),
        "W4": How(chunk_size=256),
        "W4h": How(chunk_size=256),
    },
}
"""Platform -> workload -> what was fastest there, or on a card what its memory allows."""

OTHERS: dict[str, dict[str, How]] = {
    "W2": {
        "metajax, shifted": HOW["gpu"]["W2"]._replace(convolve=conv.shifted_convolution),
        "metajax, patches": HOW["gpu"]["W2"]._replace(convolve=conv.patch_convolution),
    },
    "W4": {
        "metajax, scanned": HOW["gpu"]["W4"]._replace(scanned=True),
    },
}
"""Workload -> other ways that a card is asked to measure beside, so that a choice can be made."""


def how(name: str, platform: str | None = None) -> How:
    """The choices for a workload on a platform; on that of this process by default."""
    return HOW["cpu" if (platform or jax.default_backend()) == "cpu" else "gpu"][name]
