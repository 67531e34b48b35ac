"""MAML of an MLP without a kernel per task: the same result as `gradient` with less work.

After inner steps of rate a, a kernel is ``W - H' C``: H (R, D) are the inputs of the layer in these
steps, C (R, F) are a times the gradients with respect to its outputs. So its outputs on X are
``X W - (X H') C``. W is the same for all tasks, and where R is small no kernel of a task is formed,
read or differentiated. Each layer takes the cheapest of three forms, all exact for gradient
descent:

- *Gram*: the first layer, if its inputs are wide. They are the K rows of the support in each step,
  so that H = X, C is a sum, and a step costs K K F operations on the Gram matrix X X', not K D F.
- *Low rank*: a deeper layer in a short loop over few rows. H and C grow by K rows a step.
- *Whole*: any other layer has a kernel per task, as in `gradient`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import losses
from metajax.learners.gradient.maml import UNROLL_UP_TO, State, gradient
from metajax.learners.parts import QueryLoss
from metajax.types import Examples, MetaLearner, Model, PyTree

GRAM, LOW_RANK, WHOLE = "Gram", "low rank", "whole"


class Layer(NamedTuple):
    """A layer of one task, with the kernel ``kernel - seen' sent``.

    Attributes:
      kernel: (D, F), W of the module's docstring.
      bias: (F,).
      seen: (R, D), H; None before the first step.
      sent: (R, F), C; None before the first step.
    """

    kernel: jax.Array
    bias: jax.Array
    seen: jax.Array | None = None
    sent: jax.Array | None = None


class _Moving(NamedTuple):
    """What the inner gradient is taken to: the bias, and the kernel or a shift of the outputs."""

    bias: jax.Array
    kernel: jax.Array | None
    shift: jax.Array | None


def fast_maml(
    model: Model,
    rate: float,
    num_steps: int,
    *,
    second_order: bool = True,
    loss: losses.Loss = losses.squared_error,
    compute: jax.typing.DTypeLike | None = None,
) -> MetaLearner:
    """The learner ``gradient(model, optax.sgd(rate), num_steps)`` of an MLP, computed faster.

    Args:
      model: an MLP with ReLU on vectors (N, D) with the parameters of `towers.vector_mlp`.
      rate: the inner learning rate.
      num_steps, second_order, loss: as of `gradient`.
      compute: type of activations and of the factors of products, as of `adapters.mixed`; None
        leaves them as they are.
    """
    plain = gradient(model, optax.sgd(rate), num_steps, second_order=second_order, loss=loss)

    def moved(fast: PyTree, examples: Examples) -> list[Layer]:
        """The layers after the inner steps."""
        x_KxD, layers = examples.inputs, _layers(fast)
        kinds = forms(layers, len(x_KxD), num_steps)
        constant = (lambda x: x) if second_order else jax.lax.stop_gradient
        ready = None
        if kinds[0] == GRAM:
            x = _narrow(x_KxD, compute)
            ready = (x @ _narrow(layers[0].kernel, compute), x @ x.T)
            sent = jnp.zeros(ready[0].shape, layers[0].kernel.dtype)
            layers[0] = layers[0]._replace(seen=constant(x_KxD), sent=sent)

        def value(moving: list[_Moving], layers: list[Layer]):
            shifts = [m.shift for m in moving]
            scores, seen = _scores(_put(layers, moving), x_KxD, ready, shifts, compute)
            return loss(scores, examples.label, examples.mask), seen

        def step(layers: list[Layer]) -> list[Layer]:
            moving = [_free(*pair, len(x_KxD)) for pair in zip(kinds, layers, strict=True)]
            grads, seen = constant(jax.grad(value, has_aux=True)(moving, layers))
            each = zip(kinds, layers, grads, seen, strict=True)
            return [_after(kind, layer, rate, g, h) for kind, layer, g, h in each]

        return _repeated(step, layers, num_steps)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del params, key  # all parameters adapt, and the rate is given
        return state._replace(fast=_with_layers(state.fast, moved(state.fast, examples)))

    def outer_loss(params: PyTree, episode, key: jax.Array):
        del key
        layers = moved(plain.start(params, episode.profile).fast, episode.support)
        num_rows = len(episode.query.mask)
        few = lambda layer: num_rows * sum(layer.kernel.shape) < layer.kernel.size
        layers = [layer if few(layer) else _whole(layer) for layer in layers]
        scores, _ = _scores(layers, episode.query.inputs, compute=compute)
        value = loss(scores, episode.query.label, episode.query.mask)
        return value, {"query_loss": value}

    return plain._replace(adapt=adapt, loss=QueryLoss(loss, outer_loss))


def _repeated(
    step: Callable[[list[Layer]], list[Layer]], layers: list[Layer], num_steps: int
) -> list[Layer]:
    """The layers after the steps: unrolled where shapes grow, else recomputed backwards."""
    if num_steps > UNROLL_UP_TO:
        once = jax.checkpoint(lambda layers, _: (step(layers), None))
        return jax.lax.scan(once, layers, length=num_steps)[0]
    for _ in range(num_steps):
        layers = step(layers)
    return layers


def _with_layers(fast: PyTree, layers: list[Layer]) -> PyTree:
    """The parameters with the layers' own kernels and biases, the last of which is the head's."""
    whole = [_whole(layer) for layer in layers]
    pairs = [{"kernel": layer.kernel, "bias": layer.bias} for layer in whole]
    body = dict(zip(sorted(fast["body"]), pairs[:-1], strict=True))
    return {**fast, "body": body, "head": pairs[-1]}


def forms(layers: list[Layer], num_rows: int, num_steps: int) -> list[str]:
    """The form (`GRAM`, `LOW_RANK` or `WHOLE`) of each layer, by measured thresholds."""
    found = []
    for i, layer in enumerate(layers):
        short = num_steps <= UNROLL_UP_TO and 4 * num_rows * num_steps <= min(layer.kernel.shape)
        first = GRAM if num_rows < layer.kernel.shape[0] else WHOLE
        found.append(first if i == 0 else LOW_RANK if short else WHOLE)
    return found


def _layers(fast: PyTree) -> list[Layer]:
    """The layers of a perceptron, the last one the head."""
    body = [fast["body"][name] for name in sorted(fast["body"])]
    return [Layer(layer["kernel"], layer["bias"]) for layer in (*body, fast["head"])]


def _free(kind: str, layer: Layer, num_rows: int) -> _Moving:
    if kind == WHOLE:
        return _Moving(layer.bias, layer.kernel, None)
    shift = jnp.zeros((num_rows, layer.bias.shape[0]), layer.bias.dtype)
    return _Moving(layer.bias, None, shift)


def _put(layers: list[Layer], moving: list[_Moving]) -> list[Layer]:
    """The layers with what moves in its place."""
    kernel = lambda layer, m: layer.kernel if m.kernel is None else m.kernel
    return [
        layer._replace(bias=m.bias, kernel=kernel(layer, m))
        for layer, m in zip(layers, moving, strict=True)
    ]


def _after(kind: str, layer: Layer, rate: float, gradient: _Moving, inputs: jax.Array) -> Layer:
    """The layer one step later; ``inputs`` (K, D) is what it saw."""
    layer = layer._replace(bias=layer.bias - rate * gradient.bias)
    if gradient.kernel is not None:
        return layer._replace(kernel=layer.kernel - rate * gradient.kernel)
    assert gradient.shift is not None
    sent = rate * gradient.shift
    if kind == GRAM:
        return layer._replace(sent=sent if layer.sent is None else layer.sent + sent)
    joined = lambda old, new: new if old is None else jnp.concatenate([old, new])
    return layer._replace(seen=joined(layer.seen, inputs), sent=joined(layer.sent, sent))


def _whole(layer: Layer) -> Layer:
    """The same layer with a kernel of its own."""
    if layer.seen is None or layer.sent is None:
        return layer
    return Layer(layer.kernel - layer.seen.T @ layer.sent, layer.bias)


def _scores(
    layers: list[Layer],
    x_NxD: jax.Array,
    ready: tuple[jax.Array, jax.Array] | None = None,
    shifts: list[jax.Array | None] | None = None,
    compute: jax.typing.DTypeLike | None = None,
) -> tuple[jax.Array, list[jax.Array]]:
    """The scores (N,), and the inputs of each layer.

    Args:
      ready: of the first layer, its inputs times the kernel (N, F) and times what it saw (N, R).
      shifts: added to the outputs of each layer.
      compute: the type that layers work in, see `fast_maml`.
    """
    inputs, kind, narrow = [], layers[0].kernel.dtype, lambda x: _narrow(x, compute)
    x_NxD = narrow(x_NxD)
    for i, layer in enumerate(layers):
        inputs.append(x_NxD)
        if i == 0 and ready is not None:
            outputs, overlap = ready
        else:
            outputs = x_NxD @ narrow(layer.kernel)
            overlap = None if layer.seen is None else x_NxD @ narrow(layer.seen).T
        if overlap is not None and layer.sent is not None:
            outputs = outputs - overlap @ narrow(layer.sent)
        outputs = outputs + narrow(layer.bias).reshape(1, -1)
        shift = None if shifts is None else shifts[i]
        outputs = outputs if shift is None else outputs + narrow(shift)
        x_NxD = jax.nn.relu(outputs) if i + 1 < len(layers) else outputs
    return x_NxD[:, 0].astype(kind), inputs


def _narrow(x: jax.Array, compute: jax.typing.DTypeLike | None) -> jax.Array:
    return x if compute is None else x.astype(compute)
