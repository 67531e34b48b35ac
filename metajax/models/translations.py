"""TransE: entities of a knowledge graph as points, relations as steps between them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from metajax.types import Model, PyTree


def transe(num_entities: int, num_relations: int, dim: int) -> Model:
    """Scores (N,) of triples, ``-|h + r - t|``, entities at length 1.

    Inputs are ``head``, ``relation`` and ``tail`` (N,), numbers of entities and relations.
    Parameters are ``entity`` (num_entities, dim) and ``relation`` (num_relations, dim).

    References: Bordes et al., "Translating embeddings for modeling multi-relational data", 2013.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> PyTree:
        key_entity, key_relation = jax.random.split(key)
        draw = lambda key, n: jax.random.uniform(key, (n, dim), minval=-1.0) * (6 / dim) ** 0.5
        return {
            "entity": draw(key_entity, num_entities),
            "relation": unit(draw(key_relation, num_relations)),
        }

    def apply(params: PyTree, profile: PyTree, inputs: Mapping[str, jax.Array]) -> jax.Array:
        point = lambda name: unit(params["entity"][inputs[name]])
        away = point("head") + params["relation"][inputs["relation"]] - point("tail")
        return -jnp.sqrt(jnp.sum(away**2, axis=-1) + 1e-9)

    return Model(init, apply)


def unit(x_NxD: jax.Array) -> jax.Array:
    """The rows (N, D) at length 1."""
    return x_NxD / jnp.sqrt(jnp.sum(x_NxD**2, axis=-1, keepdims=True) + 1e-9)


def margin_loss(true_N: jax.Array, false_N: jax.Array, margin: float = 1.0) -> jax.Array:
    """The mean hinge by which true triples do not score ``margin`` above false ones."""
    return jnp.mean(jnp.maximum(0.0, margin - true_N + false_N))
