"""Interactive attention: each candidate looks at a person's history in its own way.

A model's profile is a `History`, the vectors of what a person has rated with what was said of them;
its inputs are vectors (N, E) of candidates, its scores (N,). No score depends on the order of the
history or on its padding, and an empty history scores as if nothing were known.

- `din`: a perceptron of the history's item, the candidate and their product weighs each item; the
  weights are not normalized (Zhou et al., KDD 2018).
- `autoint`: summaries of the history and the candidate are fields, between which several heads
  attend (Song et al., CIKM 2019).
- `focused`: a softmax over the history with a temperature and a gate under the path ``focus``,
  which a task can adapt: how sharp its interest is, and how far it is to be trusted.
- `solved`: weights that solve the history (kriging): ratings that are near each other share their
  weight, and what they say continues smoothly beyond them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.types import Model, Params, PyTree

SHARPEST = 0.02
"""The lowest temperature of `focused`."""


class History(NamedTuple):
    """What a person has rated.

    Attributes:
      vector: (S, E) of the items.
      label: (S,) what was said of them, around 0.
      mask: (S,) 1 for a real row, 0 for padding.
    """

    vector: jax.Array
    label: jax.Array
    mask: jax.Array


def _kernel(key: jax.Array, rows: int, columns: int) -> jax.Array:
    return jax.random.normal(key, (rows, columns)) / rows**0.5


def _perceptron(key: jax.Array, rows: int, hidden: int) -> Params:
    first, second = jax.random.split(key)
    return {
        "first": {"kernel": _kernel(first, rows, hidden), "bias": jnp.zeros(hidden)},
        "second": {"kernel": 0.3 * _kernel(second, hidden, 1)},
    }


def _apply(params: Params, x: jax.Array) -> jax.Array:
    """The perceptron's number (...,) of each vector x (..., rows)."""
    bias = params["first"]["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
    hidden = jax.nn.silu(x @ params["first"]["kernel"] + bias)
    return (hidden @ params["second"]["kernel"])[..., 0]


def _mean(history: History, values_SxD: jax.Array) -> jax.Array:
    """The masked mean (D,) of values, as of one row more, which is 0."""
    total = jnp.sum(jnp.where(history.mask[:, None] > 0, values_SxD, 0.0), axis=0)
    return total / (1.0 + jnp.sum(history.mask))


def din(width: int = 16, hidden: int = 32) -> Model:
    """A deep interest network: ``v = sum_j w(e_j, e_j e_c, e_c) y_j [e_j, 1]``, then a perceptron.

    References: Zhou et al., "Deep interest network for click-through rate prediction", KDD 2018.
    """

    def init(key: jax.Array, history: History, inputs: jax.Array) -> Params:
        keys = jax.random.split(key, 3)
        return {
            "embed": _kernel(keys[0], inputs.shape[1], width),
            "attention": _perceptron(keys[1], 3 * width, hidden),
            "head": _perceptron(keys[2], 3 * width + 1, hidden),
        }

    def apply(params: Params, history: History, inputs: jax.Array) -> jax.Array:
        item_SxD, candidate_NxD = history.vector @ params["embed"], inputs @ params["embed"]
        shape = (inputs.shape[0], *item_SxD.shape)
        item = jnp.broadcast_to(item_SxD[None], shape)
        candidate = jnp.broadcast_to(candidate_NxD[:, None], shape)
        pair_NxSx3D = jnp.concatenate([item, item * candidate, candidate], axis=-1)
        weight_NxS = _apply(params["attention"], pair_NxSx3D)
        weight_NxS = jnp.where(history.mask[None] > 0, weight_NxS, 0.0)
        ones = jnp.ones((item_SxD.shape[0], 1))
        value_SxF = history.label[:, None] * jnp.concatenate([item_SxD, ones], axis=1)
        interest = weight_NxS @ jnp.where(history.mask[:, None] > 0, value_SxF, 0.0)
        met = interest[:, :-1] * candidate_NxD
        return _apply(params["head"], jnp.concatenate([candidate_NxD, interest, met], axis=1))

    return Model(init, apply)


def autoint(width: int = 16, num_heads: int = 2, num_layers: int = 2) -> Model:
    """Self-attention between fields, with a residual and a ReLU, then a linear layer over all.

    Fields are the candidate, the mean of the history's items, their mean weighed by label, and the
    mean label. ``E' = relu(heads(E) + E W)``.

    References: Song et al., "AutoInt: automatic feature interaction learning via self-attentive
    neural networks", CIKM 2019.
    """
    fields, names = 4, ("query", "key", "value", "skip")

    def init(key: jax.Array, history: History, inputs: jax.Array) -> Params:
        key_embed, key_label, key_head, *keys = jax.random.split(key, 3 + num_layers)
        layer = lambda key: {
            name: _kernel(k, width, width)
            for name, k in zip(names, jax.random.split(key, len(names)), strict=True)
        }
        return {
            "embed": _kernel(key_embed, inputs.shape[1], width),
            "label": jax.random.normal(key_label, (width,)),
            "layers": {str(i): layer(k) for i, k in enumerate(keys)},
            "head": 0.1 * _kernel(key_head, fields * width, 1)[:, 0],
        }

    def apply(params: Params, history: History, inputs: jax.Array) -> jax.Array:
        item_SxD = history.vector @ params["embed"]
        label = history.label[:, None]
        known = (
            _mean(history, item_SxD),
            _mean(history, label * item_SxD),
            _mean(history, label) * params["label"],
        )
        candidate_NxD = inputs @ params["embed"]
        same = [jnp.broadcast_to(k[None], candidate_NxD.shape) for k in known]
        x_NxFxD = jnp.stack([candidate_NxD, *same], axis=1)
        for i in range(num_layers):
            x_NxFxD = _interacting(params["layers"][str(i)], x_NxFxD, num_heads)
        return x_NxFxD.reshape(inputs.shape[0], -1) @ params["head"]

    return Model(init, apply)


def _interacting(params: Params, x_NxFxD: jax.Array, num_heads: int) -> jax.Array:
    """One interacting layer of `autoint`."""
    split = lambda name: (x_NxFxD @ params[name]).reshape(*x_NxFxD.shape[:2], num_heads, -1)
    read = jax.nn.dot_product_attention(split("query"), split("key"), split("value"))
    return jax.nn.relu(read.reshape(x_NxFxD.shape) + x_NxFxD @ params["skip"])


def focused(width: int = 16, cosine: bool = False) -> Model:
    """Mean labels under a softmax: ``g sum_j softmax_j(q_c k_j / tau) y_j + (1 - g) mean y``.

    The softmax has one place more, whose value is 0 and whose logit is learned: what nothing in the
    history resembles is not predicted from it. ``focus`` has ``temperature`` () and ``gate`` (),
    ``tau = softplus(temperature) + SHARPEST`` and ``g = sigmoid(gate)``.

    Args:
      width: of queries and keys.
      cosine: their length is 1, so that the temperature alone says how sharp the softmax is.

    References: Plotz, Roth, NeurIPS 2018 (temperature of neighbors); Kim et al., "Attentive neural
    processes", ICLR 2019.
    """

    def init(key: jax.Array, history: History, inputs: jax.Array) -> Params:
        key_query, key_key = jax.random.split(key)
        start = _kernel(key_query, inputs.shape[1], width)
        return {
            "query": start,
            "key": start + 0.1 * _kernel(key_key, inputs.shape[1], width),
            "nothing": jnp.zeros(()),
            "damping": jnp.zeros(()),
            "focus": {"temperature": jnp.zeros(()), "gate": jnp.zeros(())},
        }

    def apply(params: Params, history: History, inputs: jax.Array) -> jax.Array:
        query_NxD, key_SxD = inputs @ params["query"], history.vector @ params["key"]
        if cosine:
            query_NxD, key_SxD = _unit(query_NxD), _unit(key_SxD)
        focus = params["focus"]
        tau = jax.nn.softplus(focus["temperature"]) + SHARPEST
        scale = 1.0 if cosine else width**0.5
        logit_NxS = jnp.where(history.mask[None] > 0, query_NxD @ key_SxD.T / (scale * tau), -1e30)
        nothing = jnp.broadcast_to(params["nothing"], (inputs.shape[0], 1))
        weight = jax.nn.softmax(jnp.concatenate([logit_NxS, nothing], axis=1), axis=1)
        label = jnp.where(history.mask > 0, history.label, 0.0)
        near = weight[:, :-1] @ label
        mean = jnp.sum(label) / (jnp.exp(params["damping"]) + jnp.sum(history.mask))
        gate = jax.nn.sigmoid(focus["gate"])
        return gate * near + (1.0 - gate) * mean

    return Model(init, apply)


def solved(width: int = 16) -> Model:
    """Attention with weights solved in closed form: ``k_c' (K + lambda I)^-1 y``.

    ``K_ij = exp((e_i e_j - 1) / tau)`` of vectors e of length 1, so that tau says how far a rating
    tells something; ``focus`` has ``temperature`` and ``gate`` as in `focused`, and here lambda,
    the variance of the noise over that of the taste, is ``softplus(gate)``. This is the mean of a
    Gaussian process whose length scale a task can adapt.

    References: Rasmussen, Williams, "Gaussian processes for machine learning", 2006, ch. 2 and 5.4.
    """

    def init(key: jax.Array, history: History, inputs: jax.Array) -> Params:
        return {
            "embed": _kernel(key, inputs.shape[1], width),
            "focus": {"temperature": jnp.zeros(()), "gate": jnp.float32(-2.0)},
        }

    @precision.highest
    def apply(params: Params, history: History, inputs: jax.Array) -> jax.Array:
        inverse, label = _solution(params, history)
        near_NxS = _similarity(params, inputs, history.vector)
        near_NxS = jnp.where(history.mask[None] > 0, near_NxS, 0.0)
        return near_NxS @ (inverse @ label)

    return Model(init, apply)


@precision.highest
def solved_left_out(params: Params, history: History) -> jax.Array:
    """Scores (S,) of `solved` for each row of the history, predicted from the others.

    ``y_i - (A^-1 y)_i / (A^-1)_ii`` with A = K + lambda I, instead of a solution for each row.
    """
    inverse, label = _solution(params, history)
    return label - (inverse @ label) / jnp.diagonal(inverse)


def _solution(params: Params, history: History) -> tuple[jax.Array, jax.Array]:
    """The inverse (S, S) of K + lambda I, and the labels (S,); padded rows see nothing."""
    real = history.mask > 0
    near = _similarity(params, history.vector, history.vector)
    near = jnp.where(real[:, None] & real[None], near, 0.0)
    noise = jax.nn.softplus(params["focus"]["gate"]) + 1e-3
    matrix = near + jnp.diag(jnp.where(real, noise, 1.0))
    return _inverse(matrix), jnp.where(real, history.label, 0.0)


@jax.custom_jvp
def _inverse(matrix_SxS: jax.Array) -> jax.Array:
    """The inverse of a positive definite matrix, by Gauss and Jordan without pivots.

    Hundreds of small Cholesky factors a step, by LAPACK in a compiled loop, stopped for good on two
    cores (JAX 0.10.2); these are plain array operations.
    """

    def swept(matrix: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        here = jnp.arange(matrix.shape[0]) == k
        row = jnp.where(here, 1.0, matrix[k]) / matrix[k, k]
        other = jnp.where(here, 0.0, matrix[:, k])
        rest = jnp.where(here[None], 0.0, matrix) - jnp.outer(other, row)
        return jnp.where(here[:, None], row[None], rest), None

    return jax.lax.scan(swept, matrix_SxS, jnp.arange(matrix_SxS.shape[0]))[0]


@_inverse.defjvp
@precision.highest
def _inverse_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]):
    inverse = _inverse(primals[0])
    return inverse, -inverse @ tangents[0] @ inverse


@precision.highest
def _similarity(params: Params, a_NxE: jax.Array, b_SxE: jax.Array) -> jax.Array:
    """``exp((e_a e_b - 1) / tau)``: (N, S)."""
    first, second = _unit(a_NxE @ params["embed"]), _unit(b_SxE @ params["embed"])
    return jnp.exp((first @ second.T - 1.0) / temperature(params["focus"]))


def temperatures(num: int, lowest: float = -4.0, highest: float = 1.5) -> Callable:
    """Candidates for what adapts under ``focus``, see `learners.history.reader`.

    The parameter of the temperature lies on a grid of ``num`` values; the gate stays as it is.
    """
    grid = jnp.linspace(lowest, highest, num)

    def of(fast: PyTree) -> PyTree:
        gate = jnp.broadcast_to(fast["focus"]["gate"], (num,))
        return {**fast, "focus": {"temperature": grid, "gate": gate}}

    return of


def _unit(x: jax.Array) -> jax.Array:
    """Vectors (..., D) of length 1; the derivative at 0 is 0."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-8)


def temperature(focus: PyTree) -> jax.Array:
    """The temperature of the parameters under ``focus``."""
    return jax.nn.softplus(focus["temperature"]) + SHARPEST
