"""The four-layer convolutional network of the few-shot classics, and its ways to normalize.

Inputs are images (N, H, W, C), or a dict with the column ``image`` and, for batch statistics over
padded batches, ``present`` (N,): 1 for a real row, 0 for padding. Paths for filters: ``body/0`` to
``body/3`` with ``kernel`` and ``offset``, then ``head``.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from metajax.types import Model, PyTree

Convolve = Callable[[jax.Array, jax.Array], jax.Array]
"""(images (N, H, W, C), kernel (3, 3, C, F)) -> (N, ceil(H/2), ceil(W/2), F)."""

Normalize = Callable[[jax.Array, jax.Array], jax.Array]
"""(values (N, H, W, F), present (N,)) -> values of the same shape."""

SIZE = 3
STRIDE = 2


def ordinary_convolution(x_NxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """The 3 x 3 convolution of stride 2 with SAME padding, by ``lax.conv``; shapes: `Convolve`."""
    outputs = jax.lax.conv_general_dilated(
        x_NxHxWxC,
        kernel,
        (STRIDE, STRIDE),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=_wide(x_NxHxWxC),
    )
    return outputs.astype(x_NxHxWxC.dtype)


def patch_convolution(x_NxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same convolution as one matrix product of image patches; shapes: `Convolve`.

    Under ``vmap`` over tasks with a kernel each, it stays a batched matrix product; ``lax.conv``
    becomes a grouped convolution, which is tens of times slower on a CPU.
    """
    x_NxIxJxP = patches(x_NxHxWxC)
    flat = _summed_wide(
        x_NxIxJxP.reshape(-1, x_NxIxJxP.shape[-1]), kernel.reshape(-1, kernel.shape[-1])
    ).astype(x_NxHxWxC.dtype)
    return flat.reshape(*x_NxIxJxP.shape[:3], kernel.shape[-1])


def shifted_convolution(x_NxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same convolution as the sum of nine products, one per position of the kernel: `Convolve`.

    No array of 9 C columns is made. XLA today writes each operand and each partial sum to memory,
    which moves more bytes than `patch_convolution`; it pays with a compiler that fuses the nine.
    """
    taps = kernel.reshape(SIZE * SIZE, *kernel.shape[2:])
    maps = _shifted(x_NxHxWxC)
    total = _summed_wide(maps[0], taps[0])
    for x_NxIxJxC, tap in zip(maps[1:], taps[1:], strict=True):
        total = total + _summed_wide(x_NxIxJxC, tap)
    return total.astype(x_NxHxWxC.dtype)


def _wide(x: jax.Array) -> jnp.dtype:
    """The type that products with these factors are summed in: float32 for bfloat16."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _summed_wide(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The product (..., F) of (..., C) and (C, F), summed and given in float32 at least."""
    return jnp.matmul(x, kernel, preferred_element_type=_wide(x))


def patches(x_NxHxWxC: jax.Array) -> jax.Array:
    """The 3 x 3 patches (N, ceil(H/2), ceil(W/2), 9 C) that the convolution reads."""
    return jnp.concatenate(_shifted(x_NxHxWxC), axis=-1)


def _shifted(x_NxHxWxC: jax.Array) -> list[jax.Array]:
    """What each of the nine places of the kernel looks at (N, ceil(H/2), ceil(W/2), C)."""
    _, height, width, _ = x_NxHxWxC.shape
    rows, columns = -(-height // STRIDE), -(-width // STRIDE)
    around = ((0, 0), _same_padding(height, rows), _same_padding(width, columns), (0, 0))
    padded = jnp.pad(x_NxHxWxC, around)
    every = lambda start, count: slice(start, start + STRIDE * (count - 1) + 1, STRIDE)
    return [padded[:, every(i, rows), every(j, columns)] for i in range(SIZE) for j in range(SIZE)]


def _same_padding(size: int, count: int) -> tuple[int, int]:
    """The zeros before and after an axis of ``size`` that give ``count`` outputs."""
    total = max((count - 1) * STRIDE + SIZE - size, 0)
    return total // 2, total - total // 2


def batch_statistics(x_NxHxWxF: jax.Array, present: jax.Array) -> jax.Array:
    """Batch normalization of (N, H, W, F): per filter, over all positions of the rows present (N,).

    Mean and variance are always those of the rows given, never running averages of training. For a
    query set this is the *transductive* setting of the published few-shot numbers, in which the
    prediction for one image depends on the other images of the query.

    References: Ioffe, Szegedy, "Batch normalization", ICML 2015.
    """
    weight, kind = present.reshape(-1, 1, 1, 1), x_NxHxWxF.dtype
    wide = _wide(x_NxHxWxF)  # sums of narrow values are wide
    count = jnp.maximum(jnp.sum(present, dtype=wide), 1.0)
    total = count * x_NxHxWxF.shape[1] * x_NxHxWxF.shape[2]
    kept = jnp.where(weight > 0, x_NxHxWxF, 0.0)
    mean = jnp.sum(kept, axis=(0, 1, 2), keepdims=True, dtype=wide) / total
    centered = jnp.where(weight > 0, x_NxHxWxF - mean.astype(kind), 0.0)
    variance = jnp.sum(centered**2, axis=(0, 1, 2), keepdims=True, dtype=wide) / total
    return centered * jax.lax.rsqrt(variance + 1e-3).astype(kind)


def layer_statistics(x_NxHxWxF: jax.Array, present: jax.Array) -> jax.Array:
    """Layer normalization of (N, H, W, F): per image, over positions and filters; not transductive.

    References: Ba, Kiros, Hinton, "Layer normalization", 2016.
    """
    del present
    mean = jnp.mean(x_NxHxWxF, axis=(1, 2, 3), keepdims=True)
    variance = jnp.var(x_NxHxWxF, axis=(1, 2, 3), keepdims=True)
    return (x_NxHxWxF - mean) * jax.lax.rsqrt(variance + 1e-3)


def _body_init(key: jax.Array, channels: int, filters: int) -> dict[str, PyTree]:
    """Kernels by Glorot's rule, as in the published code, and offsets of 0."""
    glorot = jax.nn.initializers.glorot_uniform()
    body = {}
    for i, key_layer in enumerate(jax.random.split(key, 4)):
        shape = (SIZE, SIZE, channels if i == 0 else filters, filters)
        body[str(i)] = {"kernel": glorot(key_layer, shape), "offset": jnp.zeros(filters)}
    return body


def _features(
    body: Mapping[str, PyTree], inputs: PyTree, normalize: Normalize, convolve: Convolve
) -> jax.Array:
    """The maps (N, ceil(H/16), ceil(W/16), F) after four layers; rows not present are 0."""
    columns = inputs if isinstance(inputs, Mapping) else {"image": inputs}
    x_NxHxWxC = columns["image"]
    present = columns.get("present", jnp.ones(x_NxHxWxC.shape[0], x_NxHxWxC.dtype))
    for layer in body.values():
        x_NxHxWxC = normalize(convolve(x_NxHxWxC, layer["kernel"]), present)
        x_NxHxWxC = jax.nn.relu(x_NxHxWxC + layer["offset"].reshape(1, 1, 1, -1))
    return x_NxHxWxC


def _image(inputs: PyTree) -> jax.Array:
    """The images of the inputs."""
    return inputs["image"] if isinstance(inputs, Mapping) else inputs


def conv4(
    num_classes: int,
    filters: int = 64,
    *,
    normalize: Normalize = batch_statistics,
    convolve: Convolve = patch_convolution,
) -> Model:
    """Class scores (N, ``num_classes``): four strided convolutions, the mean over places, a head.

    The network of MAML's Omniglot experiment: 3 x 3 kernels, stride 2, no pooling, normalization
    with a learned offset and no scale, ReLU. Convolutions have no bias, which the normalization
    would cancel. In the paper offsets do not adapt within a task: give the learner
    ``adapts=tree.negate(tree.matching("offset"))`` for the same.

    Args:
      num_classes: width of the head.
      filters: F of every layer.
      normalize: `batch_statistics` or `layer_statistics`, or any such function.
      convolve: `patch_convolution`, `shifted_convolution`, or `ordinary_convolution` where kernels
        do not adapt.

    References: Finn et al., ICML 2017, section 5.2; Vinyals et al., NeurIPS 2016.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> PyTree:
        key_body, key_head = jax.random.split(key)
        head = {
            "kernel": jax.random.normal(key_head, (filters, num_classes)),
            "bias": jnp.zeros(num_classes),
        }
        return {"body": _body_init(key_body, _image(inputs).shape[-1], filters), "head": head}

    def apply(params: PyTree, profile: PyTree, inputs: PyTree) -> jax.Array:
        maps = _features(params["body"], inputs, normalize, convolve)
        x_NxF = jnp.mean(maps, axis=(1, 2))
        return x_NxF @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1)

    return Model(init, apply)


def conv4_features(
    filters: int = 64,
    *,
    normalize: Normalize = batch_statistics,
    convolve: Convolve = patch_convolution,
) -> Model:
    """The last maps of `conv4`, flattened, for `metric.prototypes`: (N, 4 F) at 28 x 28 pixels."""

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> PyTree:
        return {"body": _body_init(key, _image(inputs).shape[-1], filters)}

    def apply(params: PyTree, profile: PyTree, inputs: PyTree) -> jax.Array:
        maps = _features(params["body"], inputs, normalize, convolve)
        return maps.reshape(maps.shape[0], -1)

    return Model(init, apply)
