"""The trunk of `adapt_large`: items by their text and estimates, and what it costs."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import optim
from metajax.data import split
from metajax.data.table import Interactions
from metajax.types import Model, Params, PyTree, UserError


def with_text(
    table: Interactions, model: pathlib.Path | None, dim: int, folder: pathlib.Path
) -> Interactions:
    """The table with an item column ``text``: components of the title vectors, mean square 1/D."""
    from metajax.models.language import vectors

    if table.item_titles is None:
        raise UserError(f"{table.name} has no item titles; name a table of them with --items")
    titles = [str(title) for title in table.item_titles]
    found = vectors.cached(titles, model, folder / "titles.npz")
    centered = found - found.mean(axis=0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    text = (u * s)[:, :dim]
    text = text / np.sqrt(np.mean(np.sum(text**2, axis=1)))
    columns = table.item_features.with_column("text", text.astype(np.float32))
    return dataclasses.replace(table, item_features=columns)


def shortened(tasks: split.Tasks, most: int) -> split.Tasks:
    """The tasks with their first ``most`` rows, which are in random order."""
    return tasks._replace(length=np.minimum(tasks.length, most).astype(np.int32))


def evidence(inputs: PyTree) -> jax.Array:
    """What is known of each item (N, E): estimates, what content says, its text."""
    factor, content = inputs["factor"], inputs["content_factor"]
    scale = factor.shape[-1] ** 0.5
    scalars = jnp.stack([inputs["bias"], inputs["content_bias"], inputs["count"] / 5.0 - 1.0], -1)
    text = inputs["text"] * inputs["text"].shape[-1] ** 0.5
    return jnp.concatenate([scale * factor, scale * content, scalars, text], axis=1)


def perceptron(hidden: int, finish: Callable[[jax.Array, PyTree], jax.Array], width: int) -> Model:
    """``finish(two layers of the evidence, inputs)``; its kernels multiply from the right alone."""

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        rows = evidence(inputs).shape[1]
        kernel = jax.random.normal(key, (rows, hidden)) / rows**0.5
        small = 0.02 * jax.random.normal(jax.random.fold_in(key, 1), (hidden, width))
        return {
            "body": {"kernel": kernel, "bias": jnp.zeros(hidden)},
            "head": {"kernel": small, "bias": jnp.zeros(width)},
        }

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        body, head = params["body"], params["head"]
        x = jax.nn.gelu(evidence(inputs) @ body["kernel"] + body["bias"][None, :])
        return finish(x @ head["kernel"] + head["bias"][None, :], inputs)

    return Model(init, apply)


def clipped(inner: optim.Inner) -> optim.Inner:
    """The inner optimizer on gradients cut to [-1, 1]: one odd task must not end the run."""
    return inner._replace(make=lambda rates: optax.chain(optax.clip(1.0), inner.make(rates)))
