"""A causal Transformer as pure functions on one sequence of S vectors (S, D).

Pre-norm with RMS norms, rotary positions, grouped-query attention, gated MLPs. The same blocks make
a language model (`models.language.decoder`) and a sequence recommender (`models.sequence`).
Parameters are a plain nested dict whose leaves under ``blocks`` have a leading axis of layers and
are scanned: compile time does not grow with depth. A kernel is anything that can be multiplied from
the left: an array, or what an adapter or quantization has put in its place. Adapters may add two
keys: ``prompt`` (P, D), vectors read before the sequence, and ``film``, the scales and shifts
(layers, D) of the input of every gated MLP. Some of the blocks, without ``norm``, are the lower
part of a network: what they give is the input of the others.

Padding is on the right, where causal attention cannot see it.

References: Vaswani et al., NeurIPS 2017; Touvron et al., "LLaMA", 2023; Su et al., "RoFormer",
2021; Ainslie et al., "GQA", EMNLP 2023; Borisyuk et al., "LiGR", 2025; Zhai et al., "HSTU", ICML
2024.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.types import Params, PyTree


@dataclasses.dataclass(frozen=True)
class Shape:
    """The architecture of a Transformer.

    Attributes:
      num_layers: number of blocks.
      width: D, of the hidden vectors.
      num_heads: of the queries.
      num_kv_heads: heads of keys and values, which groups of query heads share.
      hidden: hidden width of the gated MLP.
      head_dim: width of a head; 0 for width / num_heads.
      theta: base of the rotary wavelengths.
      scaling: how `frequencies` stretches them, as Llama 3.1 does; None leaves them.
      norm_eps: added to the mean square in each norm.
      qkv_bias: queries, keys and values have a bias (Qwen 2).
      qk_norm: queries and keys of each head are normalized (Qwen 3).
      remat: recompute each layer in the backward pass: a third more time, memory of one layer.
      gated_residual: what attention and MLP write is multiplied by a sigmoid of their input (LiGR).
      pointwise: attention by silu instead of the softmax, gated, without an MLP (HSTU).
    """

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    hidden: int
    head_dim: int = 0
    theta: float = 10_000.0
    scaling: "Scaling | None" = None
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    remat: bool = False
    gated_residual: bool = False
    pointwise: bool = False

    @property
    def dim(self) -> int:
        """The width of a head."""
        return self.head_dim or self.width // self.num_heads


class Scaling(NamedTuple):
    """Llama 3.1's stretch of long rotary waves by ``factor``, for contexts beyond the original.

    Attributes:
      factor: by which waves with fewer than ``low`` turns in the original context are stretched;
        those with more than ``high`` turns are not, and between them the factor is interpolated.
      low, high: in turns.
      original: the context length of pretraining, in tokens.
    """

    factor: float
    low: float
    high: float
    original: int


class Cache(NamedTuple):
    """Keys and values of the positions read so far.

    Attributes:
      keys, values: (num_layers, capacity, num_kv_heads, head_dim).
      length: () how many positions are filled.
      before: a further cache, of what stands before these positions; it is read and never written,
        so that many continuations of one text share it.
    """

    keys: jax.Array
    values: jax.Array
    length: jax.Array
    before: "Cache | None" = None


def init(key: jax.Array, shape: Shape, scale: float = 0.02) -> Params:
    """Parameters ``{"blocks": ..., "norm": ...}``, kernels drawn from N(0, scale^2).

    Output kernels of attention and MLP are divided by sqrt(2 num_layers), as in GPT-2.
    """
    d, dim, n = shape.width, shape.dim, shape.num_layers
    heads, kv = shape.num_heads * dim, shape.num_kv_heads * dim
    keys = iter(jax.random.split(key, 7 + 3 * (shape.gated_residual or shape.pointwise)))

    def dense(rows: int, columns: int, bias: bool = False, std: float = scale) -> dict[str, Any]:
        kernel = {"kernel": std * jax.random.normal(next(keys), (n, rows, columns))}
        return kernel | ({"bias": jnp.zeros((n, columns))} if bias else {})

    ones = lambda width: {"scale": jnp.ones((n, width))}
    attention = {
        "norm": ones(d),
        "query": dense(d, heads, shape.qkv_bias),
        "key": dense(d, kv, shape.qkv_bias),
        "value": dense(d, kv, shape.qkv_bias),
        "output": dense(heads, d, std=scale / math.sqrt(2 * n)),
    }
    if shape.qk_norm:
        attention |= {"query_norm": ones(dim), "key_norm": ones(dim)}
    mlp = {
        "norm": ones(d),
        "gate": dense(d, shape.hidden),
        "up": dense(d, shape.hidden),
        "down": dense(shape.hidden, d, std=scale / math.sqrt(2 * n)),
    }
    if shape.gated_residual:
        attention["skip"], mlp["skip"] = dense(d, d, True), dense(d, d, True)
    blocks = {"attention": attention, "mlp": mlp}
    if shape.pointwise:
        attention |= {"gate": dense(d, heads), "read_norm": ones(heads)}
        del blocks["mlp"]
    return {"blocks": blocks, "norm": {"scale": jnp.ones(d)}}


def dense(params: Params, x: jax.Array) -> jax.Array:
    """``x @ kernel + bias`` (S, columns) of x (S, rows); the kernel may be a stand-in for a matrix.

    Such are `adapters.lora.LowRank` and `adapters.quantize.Integers`.
    """
    y = x @ params["kernel"]
    return y + params["bias"][None, :] if "bias" in params else y


def rms_norm(params: Params, x: jax.Array, eps: float) -> jax.Array:
    """x (..., D) over its root mean square, in float32, times the scale."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + eps)
    scale = params["scale"].reshape((1,) * (x.ndim - 1) + (-1,))
    return normed.astype(x.dtype) * scale


def frequencies(shape: Shape) -> jax.Array:
    """The rotary frequencies (head_dim / 2,) in radians per position."""
    base = shape.theta ** (-jnp.arange(0, shape.dim, 2, dtype=jnp.float32) / shape.dim)
    if shape.scaling is None:
        return base
    factor, low, high, original = shape.scaling
    turns = original * base / (2 * math.pi)
    smooth = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 - smooth) * base / factor + smooth * base


def rotate(x_SxHxE: jax.Array, positions: jax.Array, shape: Shape) -> jax.Array:
    """Queries or keys with rotary positions: each head's halves rotated by its position (S,)."""
    angle_SxF = positions.astype(jnp.float32)[:, None] * frequencies(shape)[None, :]
    cos, sin = jnp.cos(angle_SxF)[:, None, :], jnp.sin(angle_SxF)[:, None, :]
    first, second = jnp.split(x_SxHxE.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_SxHxE.dtype)


def _attend(
    shape: Shape, params: Params, x: jax.Array, positions: jax.Array, cached: PyTree
) -> tuple[jax.Array, PyTree]:
    """What each position (S, D) reads from those up to it, and the cache with them written.

    ``cached`` is None, or keys, values and what stands before them: None, or keys, values and how
    many of these are filled. Numbers (S,) in the place of the keys are of texts in one row: nothing
    is written then, and a position sees those of its own text.
    """
    s, dim, kv = x.shape[0], shape.dim, shape.num_kv_heads
    q = dense(params["query"], x).reshape(s, shape.num_heads, dim)
    k = dense(params["key"], x).reshape(s, kv, dim)
    v = dense(params["value"], x).reshape(s, kv, dim)
    if shape.qk_norm:
        q = rms_norm(params["query_norm"], q, shape.norm_eps)
        k = rms_norm(params["key_norm"], k, shape.norm_eps)
    q, k = rotate(q, positions, shape), rotate(k, positions, shape)
    visible_SxM, before = positions[:, None] >= positions[None, :], None
    if cached is not None and cached[1] is None:
        text, _, before = cached
        visible_SxM = visible_SxM & (text[:, None] == text[None, :])
        cached = None
    elif cached is not None:
        keys, values, before = cached
        first = 0 if before is None else before[2]
        start = (positions[0] - first, 0, 0)
        k = jax.lax.dynamic_update_slice(keys, k.astype(keys.dtype), start)
        v = jax.lax.dynamic_update_slice(values, v.astype(values.dtype), start)
        visible_SxM = positions[:, None] >= first + jnp.arange(k.shape[0])[None, :]
    q = q.reshape(s, kv, shape.num_heads // kv, dim)
    logits = _logits(q, k, visible_SxM)
    if before is None:
        weights = jax.nn.softmax(logits, axis=-1).astype(x.dtype)
        read = jnp.einsum("kgsm,mkd->skgd", weights, v)
    else:
        filled_M = jnp.arange(before[0].shape[0]) < before[2]
        earlier = _logits(q, before[0], jnp.broadcast_to(filled_M, (s, filled_M.shape[0])))
        weights = jax.nn.softmax(jnp.concatenate([earlier, logits], axis=-1), axis=-1)
        one, two = jnp.split(weights.astype(x.dtype), [filled_M.shape[0]], axis=-1)
        read = jnp.einsum("kgsm,mkd->skgd", one, before[1])
        read = read + jnp.einsum("kgsm,mkd->skgd", two, v)
    read = read.reshape(s, -1)
    return dense(params["output"], read), None if cached is None else (k, v)


def _logits(q_SxKxGxE: jax.Array, k_MxKxE: jax.Array, visible_SxM: jax.Array) -> jax.Array:
    """What each position makes of each key, in float32 (K, G, S, M); -1e30 where it cannot look."""
    found = jnp.einsum("skgd,mkd->kgsm", q_SxKxGxE, k_MxKxE).astype(jnp.float32)
    found = found / math.sqrt(q_SxKxGxE.shape[-1])
    return jnp.where(visible_SxM[None, None], found, -1e30)


def _dropped(key: jax.Array | None, rate: float, x: jax.Array) -> jax.Array:
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def _block(shape: Shape, x, positions, params, film, cached, key, rate):
    """One layer: x (S, D) plus what attention and the gated MLP write, and the cache."""
    keys = (None, None) if key is None else jax.random.split(key)
    attention = params["attention"]
    normed = rms_norm(attention["norm"], x, shape.norm_eps)
    if shape.pointwise:
        assert cached is None, "pointwise attention reads whole sequences"
        return x + _dropped(keys[0], rate, _pointwise(shape, attention, normed, positions)), None
    mlp = params["mlp"]
    read, cached = _attend(shape, attention, normed, positions, cached)
    x = x + _let_through(attention, x, _dropped(keys[0], rate, read))
    normed = rms_norm(mlp["norm"], x, shape.norm_eps)
    if film is not None:
        normed = normed * (1.0 + film["scale"][None, :]) + film["shift"][None, :]
    gated = jax.nn.silu(dense(mlp["gate"], normed)) * dense(mlp["up"], normed)
    written = _dropped(keys[1], rate, dense(mlp["down"], gated))
    return x + _let_through(mlp, x, written), cached


def _let_through(params: Params, x: jax.Array, written: jax.Array) -> jax.Array:
    """What is written (S, D), times a sigmoid of x (S, D) where the residual is gated."""
    return jax.nn.sigmoid(dense(params["skip"], x)) * written if "skip" in params else written


def _pointwise(shape: Shape, params: Params, x: jax.Array, positions: jax.Array) -> jax.Array:
    """What each position (S, D) reads by pointwise attention: silu, and no sum to one.

    Weights are divided by how many positions are visible, so that padding changes nothing.
    """
    split = lambda name: jax.nn.silu(dense(params[name], x)).reshape(x.shape[0], -1, shape.dim)
    q, k = (rotate(split(name), positions, shape) for name in ("query", "key"))
    visible_SxM = positions[:, None] >= positions[None, :]
    logits = jnp.einsum("shd,mhd->hsm", q, k) / math.sqrt(shape.dim)
    weights = jnp.where(visible_SxM[None], jax.nn.silu(logits), 0.0)
    weights = weights / jnp.sum(visible_SxM, axis=1)[None, :, None]
    read = jnp.einsum("hsm,mhd->shd", weights, split("value")).reshape(x.shape[0], -1)
    gate = jax.nn.silu(dense(params["gate"], x))
    return dense(params["output"], rms_norm(params["read_norm"], read, shape.norm_eps) * gate)


def _stack(shape: Shape, params: Params, x, positions, cache: PyTree, key, rate) -> Any:
    """All layers, scanned."""
    keys = None if key is None else jax.random.split(key, shape.num_layers)
    layers = (params["blocks"], params.get("film"), cache, keys)

    def layer(x, leaves):
        block, film, cached, key = leaves
        return _block(shape, x, positions, block, film, cached, key, rate)

    return jax.lax.scan(jax.checkpoint(layer) if shape.remat else layer, x, layers)


def _finished(shape: Shape, params: Params, out: jax.Array) -> jax.Array:
    """The vectors (S, D) as the norm leaves them; as they are where there is none."""
    return rms_norm(params["norm"], out, shape.norm_eps) if "norm" in params else out


def forward(
    shape: Shape,
    params: Params,
    x_SxD: jax.Array,
    key: jax.Array | None = None,
    rate: float = 0.0,
) -> jax.Array:
    """The last hidden vectors (S, D), normalized, of a sequence of embeddings.

    Args:
      x_SxD: embeddings; real rows first.
      key: for dropout; None for none.
      rate: the share dropped of the output of each attention and MLP.
    """
    prompt = params.get("prompt")
    length = 0 if prompt is None else prompt.shape[0]
    if prompt is not None:
        x_SxD = jnp.concatenate([prompt.astype(x_SxD.dtype), x_SxD])
    positions = jnp.arange(x_SxD.shape[0])
    out, _ = _stack(shape, params, x_SxD, positions, None, key, rate)
    return _finished(shape, params, out[length:])


def empty_cache(shape: Shape, capacity: int, dtype=jnp.float32) -> Cache:
    """An empty cache of up to ``capacity`` positions, a soft prompt included."""
    leaf = jnp.zeros((shape.num_layers, capacity, shape.num_kv_heads, shape.dim), dtype)
    return Cache(leaf, leaf, jnp.zeros((), jnp.int32))


def extend(
    shape: Shape,
    params: Params,
    x_SxD: jax.Array,
    cache: Cache,
    num_real: jax.Array | int | None = None,
) -> tuple[jax.Array, Cache]:
    """The last hidden vectors (S, D), normalized, of S further positions, and the longer cache.

    A soft prompt is not read here: extend an empty cache by it first.

    Args:
      x_SxD: embeddings of the further positions.
      num_real: rows from there on are padding, which the next call overwrites; None for no padding.
    """
    before, first, kept = cache.before, 0, (cache.keys, cache.values, None)
    if before is not None:
        first, n = before.length, shape.num_layers
        shared = (before.keys, before.values, jnp.broadcast_to(before.length, (n,)))
        kept = (cache.keys, cache.values, shared)
    positions = first + cache.length + jnp.arange(x_SxD.shape[0])
    out, (keys, values) = _stack(shape, params, x_SxD, positions, kept, None, 0.0)
    length = cache.length + (x_SxD.shape[0] if num_real is None else num_real)
    return _finished(shape, params, out), Cache(keys, values, length, before)


def continue_in_one_row(
    shape: Shape, params: Params, x_SxD: jax.Array, place: jax.Array, text: jax.Array, cache: Cache
) -> jax.Array:
    """The last hidden vectors (S, D), normalized, of many continuations of one text in one row.

    Each sees what the cache holds and itself; none is padded, and nothing is written.

    Args:
      x_SxD: embeddings, one continuation after the other.
      place: (S,) of each in its continuation, from 0.
      text: (S,) the number of its continuation.
      cache: of what stands before all of them.
    """
    n = shape.num_layers
    shared = (cache.keys, cache.values, jnp.broadcast_to(cache.length, (n,)))
    kept = (jnp.broadcast_to(text, (n, *text.shape)), None, shared)
    out, _ = _stack(shape, params, x_SxD, cache.length + place, kept, None, 0.0)
    return _finished(shape, params, out)
