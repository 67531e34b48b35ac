"""Linear algebra that decides a result is exact, whatever precision networks are given."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core

from metajax.adapters.mixed import mixed
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.closed_form import ridge
from metajax.learners.ensemble import stacking_weights
from metajax.learners.gradient.implicit import implicit
from metajax.models import conv
from metajax.models.towers import identity, vector_linear, vector_mlp
from metajax.types import Episode


def multiplied(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Each matrix product and convolution, those of inner programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from multiplied(getattr(inner, "jaxpr", inner))


def _is_program(value: object) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def traced(function: Callable, *arguments: object) -> list[str]:
    """The precisions of a function's products where the platform's own is TF32."""
    with jax.default_matmul_precision("tensorfloat32"):
        program = jax.make_jaxpr(function)(*arguments)
    return [str(one.params["precision"]) for one in multiplied(program.jaxpr)]


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


@pytest.mark.parametrize(
    "convolve", [conv.patch_convolution, conv.shifted_convolution, conv.ordinary_convolution]
)
def test_a_narrow_convolution_and_its_derivatives_sum_in_float32(convolve):
    """As the program states it; of nine products that are added, the sum is wide, too."""

    def value(kernel, images):
        narrow = convolve(images.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        assert narrow.dtype == jnp.bfloat16
        return jnp.sum(narrow.astype(jnp.float32) ** 2)

    gradient = jax.grad(value, (0, 1))
    shapes = jnp.ones((3, 3, 2, 4)), jnp.ones((1, 6, 6, 2))
    program = jax.make_jaxpr(gradient)(*shapes).jaxpr
    kinds = {one.params["preferred_element_type"] for one in multiplied(program)}
    assert kinds == {jnp.dtype("float32")}
    assert {str(x.aval.dtype) for x in program.outvars} == {"float32"}
    alone = jax.make_jaxpr(convolve)(*(x.astype(jnp.bfloat16) for x in shapes[::-1])).jaxpr
    added = [one.outvars[0].aval.dtype for one in alone.eqns if one.primitive.name == "add"]
    assert added == [jnp.float32] * len(added)
    assert len(added) == (8 if convolve is conv.shifted_convolution else 0)


def test_a_narrow_network_sums_in_float32():
    """In bfloat16, 1 added to 256 is 256 again: a sum of 4096 ones would end there."""
    count = 4096
    model = mixed(vector_linear())
    params = {"head": {"kernel": jnp.ones(count)}}
    inputs = jnp.ones((2, count))
    score = lambda params, inputs: model.apply(params, (), inputs)
    np.testing.assert_array_equal(jax.jit(score)(params, inputs), count)
    tall = jax.jit(jax.grad(lambda params, inputs: jnp.sum(score(params, inputs))))
    one = {"head": {"kernel": jnp.ones(2)}}
    np.testing.assert_array_equal(tall(one, jnp.ones((count, 2)))["head"]["kernel"], count)
