"""Causal language models of the Llama family, from a checkpoint folder or trained here.

Llama 2 and 3, Qwen 2 and 3, and Mistral without a sliding window share one architecture: RMS norms,
rotary positions, grouped-query attention, gated MLPs, a tied or free head. A configuration that
asks for anything else is refused by a `UserError`.

References: Touvron et al., "LLaMA: open and efficient foundation language models", 2023.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models import transformer
from metajax.models.language import checkpoints
from metajax.models.transformer import Cache, Scaling, Shape
from metajax.types import Model, Params, PyTree, UserError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A language model.

    Attributes:
      shape: of the Transformer.
      vocab_size: V, number of tokens.
      tied: whether the output head is the token embedding.
    """

    shape: Shape
    vocab_size: int
    tied: bool = True


def init(key: jax.Array, decoder: Decoder) -> Params:
    """Parameters: ``tokens`` (V, D), the Transformer's, and ``head`` unless tied."""
    key_tokens, key_head, key_stack = jax.random.split(key, 3)
    size = (decoder.vocab_size, decoder.shape.width)
    params = {
        "tokens": 0.02 * jax.random.normal(key_tokens, size),
        **transformer.init(key_stack, decoder.shape),
    }
    if not decoder.tied:
        params["head"] = {"kernel": 0.02 * jax.random.normal(key_head, size[::-1])}
    return params


def to_logits(decoder: Decoder, params: Params, hidden: jax.Array) -> jax.Array:
    """Logits (S, V) of hidden vectors (S, D)."""
    if decoder.tied:
        return hidden @ params["tokens"].T
    return transformer.dense(params["head"], hidden)


def logits(
    decoder: Decoder,
    params: Params,
    tokens: jax.Array,
    key: jax.Array | None = None,
    rate: float = 0.0,
) -> jax.Array:
    """Logits (S, V) of the next token after each of the tokens (S,), which are padded on the right.

    Args:
      key: for dropout; None for none.
      rate: the share dropped of the output of each attention and MLP.
    """
    x = params["tokens"][tokens]
    return to_logits(decoder, params, transformer.forward(decoder.shape, params, x, key, rate))


def read(
    decoder: Decoder,
    params: Params,
    tokens: jax.Array,
    cache: Cache,
    num_real: jax.Array | int | None = None,
) -> tuple[jax.Array, Cache]:
    """Logits (S, V) of the next token after each of S further tokens (S,), and the longer cache.

    Args:
      num_real: tokens from there on are padding; None for no padding.
    """
    hidden, cache = read_hidden(decoder, params, tokens, cache, num_real)
    return to_logits(decoder, params, hidden), cache


def read_hidden(
    decoder: Decoder,
    params: Params,
    tokens: jax.Array,
    cache: Cache,
    num_real: jax.Array | int | None = None,
) -> tuple[jax.Array, Cache]:
    """`read` without the output head: the last hidden vectors (S, D), normalized."""
    x = params["tokens"][tokens]
    return transformer.extend(decoder.shape, params, x, cache, num_real)


def start_cache(decoder: Decoder, params: Params, capacity: int) -> Cache:
    """A cache for ``capacity`` tokens: empty, or with an adapter's soft prompt already read."""
    prompt = params.get("prompt")
    dtype = params["tokens"].dtype
    if prompt is None:
        return transformer.empty_cache(decoder.shape, capacity, dtype)
    cache = transformer.empty_cache(decoder.shape, capacity + prompt.shape[0], dtype)
    return transformer.extend(decoder.shape, params, prompt.astype(dtype), cache)[1]


def greedy(
    decoder: Decoder, params: Params, tokens: jax.Array, length: jax.Array | int, num_new: int
) -> jax.Array:
    """Greedy decoding: ``num_new`` tokens (num_new,) after the first ``length`` of tokens (S,)."""
    cache = start_cache(decoder, params, tokens.shape[0] + num_new)
    hidden, cache = read_hidden(decoder, params, tokens, cache, length)
    rows = to_logits(decoder, params, hidden[length - 1][None])
    first = jnp.argmax(rows[0]).astype(tokens.dtype)

    def step(carry, _):
        token, cache = carry
        rows, cache = read(decoder, params, token[None], cache)
        return (jnp.argmax(rows[0]).astype(tokens.dtype), cache), token

    return jax.lax.scan(step, (first, cache), length=num_new)[1]


def next_token(decoder: Decoder) -> Model:
    """A model that scores all V tokens as the next one after each of N texts: logits (N, V).

    ``inputs`` is the pair of tokens (N, S), padded on the right, and their number (N,), at least 1.
    """

    def apply(params: Params, profile: PyTree, inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        del profile

        def one(row: jax.Array, length: jax.Array) -> jax.Array:
            hidden = transformer.forward(decoder.shape, params, params["tokens"][row])
            return to_logits(decoder, params, hidden[length - 1][None])[0]

        return jax.vmap(one)(*inputs)

    return Model(lambda key, profile, inputs: init(key, decoder), apply)


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a ``config.json`` describes, as transformers 4 or 5 writes it.

    Raises:
      UserError: the family, or something that the configuration asks for, is not supported.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"model_type {family!r} is not supported; these are: {', '.join(FAMILIES)}")
    _refuse(config)

    def get(name: str, other: Any = None) -> Any:
        return other if config.get(name) is None else config[name]

    rope = get("rope_parameters") or get("rope_scaling") or {}
    theta = rope.get("rope_theta", get("rope_theta", 10_000.0))
    try:
        heads, width = config["num_attention_heads"], config["hidden_size"]
        shape = Shape(
            num_layers=config["num_hidden_layers"],
            width=width,
            num_heads=heads,
            num_kv_heads=get("num_key_value_heads", heads),
            hidden=config["intermediate_size"],
            head_dim=get("head_dim", width // heads),
            theta=float(theta),
            scaling=_scaling(rope),
            norm_eps=get("rms_norm_eps", 1e-6),
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
        )
        return Decoder(shape, config["vocab_size"], bool(get("tie_word_embeddings", False)))
    except KeyError as error:
        raise UserError(f"config.json has no {error}; get a complete checkpoint") from error


def _refuse(config: Mapping[str, Any]) -> None:
    """Raises a `UserError` for what would be computed wrongly."""
    slides = config.get("use_sliding_window", config.get("model_type") == "mistral")
    wrong = {
        "sliding-window attention": (slides and config.get("sliding_window"))
        or "sliding_attention" in (config.get("layer_types") or []),
        "an MLP with biases": config.get("mlp_bias"),
        "an attention with output biases": config.get("attention_bias"),
        f"the activation {config.get('hidden_act')}": config.get("hidden_act", "silu") != "silu",
    }
    for what, present in wrong.items():
        if present:
            raise UserError(f"the checkpoint has {what}, which is not supported")


def _scaling(rope: Mapping[str, Any]) -> Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(
            f"rotary positions of type {kind!r} are not supported (default, llama3 are)"
        )
    names = (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    )
    return Scaling(*(rope[name] for name in names))


def load(folder: pathlib.Path | str, dtype=jnp.float32) -> tuple[Decoder, Params]:
    """The decoder in a folder of the Hugging Face layout, and its parameters.

    Args:
      dtype: of the parameters; use float32 where logits are compared with other code's.

    Raises:
      UserError: a file or a tensor is missing, cut, of another shape, or unknown.
    """
    folder = pathlib.Path(folder)
    decoder = from_config(checkpoints.read_config(folder))
    tensors = checkpoints.Tensors(folder)
    shape, n = decoder.shape, decoder.shape.num_layers
    d, dim = shape.width, shape.dim
    heads, kv = shape.num_heads * dim, shape.num_kv_heads * dim
    of_layers = functools.partial(tensors.stacked, count=n)
    as_is, turned = lambda x: x, lambda x: x.T

    def dense(name: str, rows: int, columns: int, bias: bool = False) -> dict[str, np.ndarray]:
        path = "model.layers.{}." + name
        found = {"kernel": of_layers(path + ".weight", shape=(columns, rows), change=turned)}
        if bias:
            found["bias"] = of_layers(path + ".bias", shape=(columns,), change=as_is)
        return found

    def norm(name: str, width: int) -> dict[str, np.ndarray]:
        path = "model.layers.{}." + name + ".weight"
        return {"scale": of_layers(path, shape=(width,), change=as_is)}

    attention = {
        "norm": norm("input_layernorm", d),
        "query": dense("self_attn.q_proj", d, heads, shape.qkv_bias),
        "key": dense("self_attn.k_proj", d, kv, shape.qkv_bias),
        "value": dense("self_attn.v_proj", d, kv, shape.qkv_bias),
        "output": dense("self_attn.o_proj", heads, d),
    }
    if shape.qk_norm:
        attention["query_norm"] = norm("self_attn.q_norm", dim)
        attention["key_norm"] = norm("self_attn.k_norm", dim)
    mlp = {
        "norm": norm("post_attention_layernorm", d),
        "gate": dense("mlp.gate_proj", d, shape.hidden),
        "up": dense("mlp.up_proj", d, shape.hidden),
        "down": dense("mlp.down_proj", shape.hidden, d),
    }
    params = {
        "tokens": tensors("model.embed_tokens.weight", (decoder.vocab_size, d)),
        "blocks": {"attention": attention, "mlp": mlp},
        "norm": {"scale": tensors("model.norm.weight", (d,))},
    }
    if decoder.tied:
        tensors.unread.discard("lm_head.weight")
    else:
        params["head"] = {"kernel": tensors("lm_head.weight", (decoder.vocab_size, d)).T}
    unread = {name for name in tensors.unread if not name.endswith("rotary_emb.inv_freq")}
    if unread:
        raise UserError(f"{folder}: tensor {min(unread)} is not understood; another kind of model?")
    return decoder, jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
