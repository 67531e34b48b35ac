"""Linear algebra that decides a result is exact, whatever precision networks are given."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.extend import core

from metajax.adapters.mixed import mixed
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.closed_form import ridge
from metajax.learners.ensemble import stacking_weights
from metajax.learners.gradient.implicit import implicit
from metajax.models.towers import identity, vector_linear, vector_mlp
from metajax.types import Episode


def products(jaxpr: core.Jaxpr) -> Iterator[str]:
    """The precision of each matrix product, those of inner programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield str(equation.params["precision"])
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from products(getattr(inner, "jaxpr", inner))


def _is_program(value: object) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def traced(function: Callable, *arguments: object) -> list[str]:
    """The precisions of a function's products where the platform's own is TF32."""
    with jax.default_matmul_precision("tensorfloat32"):
        return list(products(jax.make_jaxpr(function)(*arguments).jaxpr))


def _episode() -> Episode:
    return LatentUsers(num_support=6).sample(jax.random.key(0))


def _ridge_gradient() -> tuple:
    learner = ridge(identity(), zero(), 8)
    params = learner.init(jax.random.key(0), _episode())
    return jax.grad(lambda p, e: learner.loss(p, e, jax.random.key(1))[0]), params, _episode()


def zero():
    """A model that scores 0 everywhere."""
    return vector_linear()._replace(
        init=lambda *_: {}, apply=lambda params, profile, x: jnp.zeros(len(x))
    )


def _bayes() -> tuple:
    return LatentUsers().bayes, LatentUsers().sample(jax.random.key(0))


def _stack() -> tuple:
    return stacking_weights, jnp.ones((4, 2)), jnp.ones(4), jnp.ones(4)


@pytest.mark.parametrize("case", [_ridge_gradient, _bayes, _stack])
def test_every_product_of_a_linear_system_is_exact(case):
    found = traced(*case())
    assert found, "no product was seen"
    assert all("HIGHEST" in one for one in found), found


def test_conjugate_gradients_are_exact_and_the_network_is_not():
    learner = implicit(vector_linear(), optax.sgd(0.1), 2)
    params = learner.init(jax.random.key(0), _episode())
    forward = traced(lambda p, e: learner.loss(p, e, jax.random.key(1))[0], params, _episode())
    assert not any("HIGHEST" in one for one in forward)
    both = traced(
        jax.grad(lambda p, e: learner.loss(p, e, jax.random.key(1))[0]), params, _episode()
    )
    assert sum("HIGHEST" in one for one in both) >= 5


def test_a_narrow_network_computes_narrow_and_keeps_what_is_learned_wide():
    model = vector_mlp((4,))
    inputs = jnp.ones((3, 2))
    params = model.init(jax.random.key(0), (), inputs)
    narrow = mixed(model, "bfloat16")
    score = lambda model: lambda params: jnp.sum(model.apply(params, (), inputs))
    kinds = lambda model: {
        str(x.aval.dtype)
        for equation in jax.make_jaxpr(score(model))(params).jaxpr.eqns
        if equation.primitive.name == "dot_general"
        for x in equation.invars
    }
    assert kinds(narrow) == {"bfloat16"} and kinds(model) == {"float32"}
    grads = jax.grad(score(narrow))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert mixed(model, "float32") is model
