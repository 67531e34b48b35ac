"""The 3 x 3 convolution of stride 2 on a graphics card without an array of patches.

A convolution, its gradient to the images and its gradient to the kernel are each bilinear, and the
derivatives of each are the other two. So three small kernels in Pallas (Triton) differentiate to
any order. Each reads nine shifted views of its input straight from memory and keeps the sum in
registers: no patches of 9 C columns are written, and ``vmap`` over tasks with a kernel each makes
one more axis of the grid. On any other platform the products of patches are taken instead.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from metajax.models import conv
from metajax.types import UserError

MOST_ROWS = 128
"""Positions that a program of the grid does at a time, at most."""
THIN = 4
"""Channels up to which a convolution is sums that fuse with what follows, not products."""
TAPS = list(itertools.product(range(conv.SIZE), range(conv.SIZE)))
INTERPRET = False
"""Whether the kernels are interpreted on a processor, which a test asks for."""


def product(a: jax.Array, b: jax.Array, **transposed: bool) -> jax.Array:
    """The product of two matrices in a kernel: float32 rounds its factors as elsewhere on a card.

    Some releases of Pallas take float32 as exact if they are not told, without the units that
    multiply matrices.
    """
    asked = jax.config.values["jax_default_matmul_precision"]
    how = jax.lax.Precision.HIGH if asked is None else asked
    return triton.dot(a, b, precision=how, **transposed)


class Shape(NamedTuple):
    """The sizes of a convolution: images, height, width, channels and filters."""

    count: int
    height: int
    width: int
    channels: int
    filters: int

    @property
    def outputs(self) -> tuple[int, int]:
        """Height and width of the output."""
        return -(-self.height // 2), -(-self.width // 2)

    @property
    def rows(self) -> int:
        """Positions that a program of the grid does at a time, a power of two."""
        positions = self.count * math.prod(self.outputs)
        return min(MOST_ROWS, max(16, 1 << (positions - 1).bit_length()))

    @property
    def before(self) -> tuple[int, int]:
        """Zeros above and left of the images, those of SAME padding."""
        zeros = lambda size, count: max(2 * count + 1 - size, 0) // 2
        rows, columns = self.outputs
        return zeros(self.height, rows), zeros(self.width, columns)


def chip_convolution(x_NxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution; shapes and meaning: `conv.Convolve`."""
    thin = x_NxHxWxC.shape[-1] <= THIN
    return summed_convolution(x_NxHxWxC, kernel) if thin else _convolve(x_NxHxWxC, kernel)


def summed_convolution(x_NxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as sums over places and channels, which a compiler fuses with what follows."""
    wide = jnp.promote_types(x_NxHxWxC.dtype, jnp.float32)
    patches = conv.patches(x_NxHxWxC).astype(wide)
    taps = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1]).astype(wide)
    terms = [patches[..., i : i + 1] * tap for i, tap in enumerate(taps)]
    return functools.reduce(jnp.add, terms).astype(x_NxHxWxC.dtype)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _CONVOLVE.bind(x, kernel, size=x.shape[-3:-1])


def _to_images(g: jax.Array, kernel: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """The gradient of `_convolve` to its images (N, *size, C)."""
    return _IMAGES.bind(g, kernel, size=size)


def _to_kernel(x: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of `_convolve` to its kernel (3, 3, C, F)."""
    return _KERNEL.bind(x, g, size=x.shape[-3:-1])


def _plain_images(g: jax.Array, kernel: jax.Array, *, size: tuple[int, ...]) -> jax.Array:
    images = jnp.zeros((g.shape[0], *size, kernel.shape[2]), g.dtype)
    return jax.vjp(lambda x: conv.patch_convolution(x, kernel), images)[1](g)[0]


def _plain_kernel(x: jax.Array, g: jax.Array) -> jax.Array:
    kernel = jnp.zeros((conv.SIZE, conv.SIZE, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.vjp(lambda k: conv.patch_convolution(x, k), kernel)[1](g)[0]


def _shape(kind: str, a: tuple[int, ...], b: tuple[int, ...], size: tuple[int, ...]) -> Shape:
    """The sizes, from the shapes of one task's operands."""
    channels = a[3] if kind != "images" else b[2]
    return Shape(a[0], size[0], size[1], channels, b[3])


def _out(kind: str, shape: Shape) -> tuple[int, ...]:
    if kind == "kernel":
        return conv.SIZE, conv.SIZE, shape.channels, shape.filters
    if kind == "images":
        return shape[:4]
    return (shape.count, *shape.outputs, shape.filters)


def _one(kind: str, a: jax.Array, b: jax.Array, *, size: tuple[int, ...]) -> jax.Array:
    """One of the three products for one task: on a card by a kernel on flat arrays."""
    shape = _shape(kind, a.shape, b.shape, size)
    out = _out(kind, shape)
    flat = lambda x: x.reshape(-1, *x.shape[2:]) if x.shape[:2] == (3, 3) else _rows_of(x)
    rows, columns = shape.outputs
    blocks = pl.cdiv(shape.count * rows * columns, shape.rows)
    is_kernel = kind == "kernel"

    def card(a: jax.Array, b: jax.Array) -> jax.Array:
        call = pl.pallas_call(
            functools.partial(_BODIES[kind], shape),
            out_shape=jax.ShapeDtypeStruct(
                (9, *out[2:]) if is_kernel else (math.prod(out[:3]), out[3]), a.dtype
            ),
            grid=(len(TAPS) if is_kernel else blocks,),
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
            interpret=INTERPRET,
        )
        return call(flat(a), flat(b)).reshape(out)

    def plain(a: jax.Array, b: jax.Array) -> jax.Array:
        if is_kernel:
            return _plain_kernel(a, b)
        return _plain_images(a, b, size=size) if kind == "images" else conv.patch_convolution(a, b)

    if INTERPRET:
        return card(a, b)
    return jax.lax.platform_dependent(a, b, cuda=card, default=plain)


def _rows_of(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _primitive(kind: str) -> core.Primitive:
    """A product as a primitive; operands with a fifth axis, the first, have one for each task."""
    found = core.Primitive(f"chip_{kind}")

    def many(a: jax.Array, b: jax.Array, *, size: tuple[int, ...]) -> jax.Array:
        one = functools.partial(_one, kind, size=size)
        if a.ndim == b.ndim == 4:
            return one(a, b)
        return jax.vmap(one, tuple(0 if x.ndim == 5 else None for x in (a, b)))(a, b)

    def abstract(a, b, *, size: tuple[int, ...]):
        tasks = a.shape[:-4] or b.shape[:-4]
        out = _out(kind, _shape(kind, a.shape[-4:], b.shape[-4:], size))
        return ShapedArray((*tasks, *out), a.dtype)

    def batch(operands, axes, *, size: tuple[int, ...]):
        if max(x.ndim - (axis is not None) for x, axis in zip(operands, axes, strict=True)) > 4:
            raise UserError("one vmap over tasks alone; use another convolution")
        moved = [
            x if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(operands, axes, strict=True)
        ]
        return found.bind(*moved, size=size), 0

    found.def_impl(jax.jit(many, static_argnames="size"))
    found.def_abstract_eval(abstract)
    batching.primitive_batchers[found] = batch
    mlir.register_lowering(found, mlir.lower_fun(many, multiple_results=False))
    return found


_CONVOLVE, _IMAGES, _KERNEL = map(_primitive, ("convolve", "images", "kernel"))


def _like(x, found: jax.Array) -> jax.Array:
    """What goes back to an operand: summed over the tasks if they share it."""
    return found.sum(axis=0) if found.ndim > len(x.aval.shape) else found


ad.defbilinear(
    _CONVOLVE,
    lambda ct, x, k, size: _like(x, _to_images(ct, k, size)),
    lambda ct, x, k, size: _like(k, _to_kernel(x, ct)),
)
ad.defbilinear(
    _IMAGES,
    lambda ct, g, k, size: _like(g, _convolve(ct, k)),
    lambda ct, g, k, size: _like(k, _to_kernel(ct, g)),
)
ad.defbilinear(
    _KERNEL,
    lambda ct, x, g, size: _like(x, _to_images(g, ct, size)),
    lambda ct, x, g, size: _like(g, _convolve(x, ct)),
)


def _places(shape: Shape, start: jax.Array | int) -> tuple[jax.Array, ...]:
    """Of some positions of a map of half the size: image, row, column, and whether they exist."""
    rows, columns = shape.outputs
    index = start * shape.rows + jnp.arange(shape.rows)
    exists = index < shape.count * rows * columns
    return index // (rows * columns), index // columns % rows, index % columns, exists


def _rows(ref, index: jax.Array):
    """The rows of a flat map with these numbers."""
    width = ref.shape[-1]
    size = (len(index), width)
    columns = jnp.broadcast_to(jnp.arange(width)[None, :], size)
    return ref.at[jnp.broadcast_to(index[:, None], size), columns]


def _read(ref, index: jax.Array, there: jax.Array) -> jax.Array:
    """Rows of a flat map, 0 where there is nothing."""
    mask = jnp.broadcast_to(there[:, None], (len(index), ref.shape[-1]))
    return triton.load(_rows(ref, jnp.where(there, index, 0)), mask=mask, other=0.0)


def _write(ref, index: jax.Array, there: jax.Array, value: jax.Array) -> None:
    """Writes rows of a flat map; one that is not there is written to no row."""
    mask = jnp.broadcast_to(there[:, None], value.shape)
    nowhere = jnp.where(there, index, ref.shape[0])
    triton.store(_rows(ref, nowhere), value.astype(ref.dtype), mask=mask)


def _viewed(shape: Shape, x_ref, place: tuple[jax.Array, ...], a, b) -> jax.Array:
    """What the tap (a, b) sees at some positions of the output."""
    n, i, j, exists = place
    h, w = 2 * i + a - shape.before[0], 2 * j + b - shape.before[1]
    inside = exists & (h >= 0) & (h < shape.height) & (w >= 0) & (w < shape.width)
    return _read(x_ref, (n * shape.height + h) * shape.width + w, inside)


def _convolve_kernel(shape: Shape, x_ref, kernel_ref, out_ref) -> None:
    place = _places(shape, pl.program_id(0))
    total = jnp.zeros((shape.rows, shape.filters), jnp.float32)
    for tap, (a, b) in enumerate(TAPS):
        total += product(_viewed(shape, x_ref, place, a, b), kernel_ref[tap])
    rows, columns = shape.outputs
    _write(out_ref, (place[0] * rows + place[1]) * columns + place[2], place[3], total)


def _images_kernel(shape: Shape, g_ref, kernel_ref, out_ref) -> None:
    """Every second row and column of the images sees the same taps: four sums, nine products."""
    n, u, v, exists = _places(shape, pl.program_id(0))
    (rows, columns), (above, left) = shape.outputs, shape.before
    for p, q in itertools.product(range(2), range(2)):
        total = jnp.zeros((shape.rows, shape.channels), jnp.float32)
        for tap, (a, b) in enumerate(TAPS):
            if (p + above - a) % 2 or (q + left - b) % 2:
                continue
            i, j = u + (p + above - a) // 2, v + (q + left - b) // 2
            inside = exists & (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
            seen = _read(g_ref, (n * rows + i) * columns + j, inside)
            total += product(seen, kernel_ref[tap], trans_b=True)
        h, w = 2 * u + p, 2 * v + q
        there = exists & (h < shape.height) & (w < shape.width)
        _write(out_ref, (n * shape.height + h) * shape.width + w, there, total)


def _kernel_kernel(shape: Shape, x_ref, g_ref, out_ref) -> None:
    """The gradient of one tap, summed over all positions."""
    tap = pl.program_id(0)
    a, b = tap // conv.SIZE, tap % conv.SIZE
    rows, columns = shape.outputs

    def block(start: jax.Array | int, total: jax.Array) -> jax.Array:
        place = _places(shape, start)
        n, i, j, exists = place
        sent = _read(g_ref, (n * rows + i) * columns + j, exists)
        return total + product(_viewed(shape, x_ref, place, a, b), sent, trans_a=True)

    count = pl.cdiv(shape.count * rows * columns, shape.rows)
    total = jnp.zeros((shape.channels, shape.filters), jnp.float32)
    total = jax.lax.fori_loop(0, count, block, total) if count > 1 else block(0, total)
    out_ref[tap] = total.astype(out_ref.dtype)


_BODIES = {"convolve": _convolve_kernel, "images": _images_kernel, "kernel": _kernel_kernel}
