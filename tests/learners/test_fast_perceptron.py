"""The dual form is MAML of the same perceptron, to rounding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.learners.gradient.fast_perceptron import Layer, fast_maml, forms
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.types import Episode, Examples

KEY = jax.random.key(0)


def episode() -> Episode:
    """Five support rows of width 7, two of them padding, and four query rows."""
    rng = np.random.default_rng(2)
    part = lambda n, mask: Examples(
        jnp.asarray(rng.normal(size=(n, 7))), jnp.asarray(rng.normal(size=n)), jnp.asarray(mask)
    )
    return Episode((), part(5, [1.0, 1, 1, 0, 0]), part(4, np.ones(4)))


@pytest.mark.parametrize(
    "num_steps, second, hidden",
    [
        (3, True, (6, 5)),
        (1, True, (20, 20)),
        (2, True, (40, 41)),
        (2, False, (40, 40)),
        *(
            pytest.param(*one, (6, 5), marks=pytest.mark.slow)
            for one in ((1, True), (7, True), (3, False))
        ),
    ],
)
def test_the_dual_form_has_the_loss_and_the_gradient_of_the_plain_one(num_steps, second, hidden):
    with jax.enable_x64(True):
        model, task = vector_mlp(hidden), episode()
        plain = gradient(model, optax.sgd(0.3), num_steps, second_order=second)
        ours = fast_maml(model, 0.3, num_steps, second_order=second)
        params = jax.tree.map(lambda x: x.astype(float), plain.init(KEY, task))
        quick = {"xla_backend_optimization_level": 0}

        def pull(learner):
            moved = lambda x: task._replace(support=task.support._replace(inputs=x))
            value = lambda p, x: learner.loss(p, moved(x), KEY)[0]
            both = jax.jit(jax.value_and_grad(value, (0, 1)), compiler_options=quick)
            return both(params, task.support.inputs)

        (value, grads), (expected, to_params) = pull(ours), pull(plain)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13), grads, to_params
        )

        def twice(learner):
            first = learner.adapt(params, learner.start(params, ()), task.support, KEY)
            return learner.adapt(params, first, task.query, KEY).fast

        if num_steps == 1:
            close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
            both = jax.jit(lambda: (twice(ours), twice(plain)), compiler_options=quick)
            jax.tree.map(close, *both())


def test_each_layer_takes_the_form_that_its_sizes_call_for():
    """Gram below the inputs' width; low rank where four times the rows of all steps fit in."""
    layers = lambda *widths: [
        Layer(jnp.zeros(shape), jnp.zeros(shape[1])) for shape in itertools.pairwise(widths)
    ]
    assert forms(layers(256, 64, 64, 1), 90, 5) == ["Gram", "whole", "whole"]
    assert forms(layers(256, 64, 64, 1), 16, 1) == ["Gram", "low rank", "whole"]
    assert forms(layers(256, 64, 64, 1), 17, 1) == ["Gram", "whole", "whole"]
    assert forms(layers(1, 40, 40, 1), 5, 2) == ["whole", "low rank", "whole"]
    assert forms(layers(1, 400, 400, 1), 5, 6) == ["whole", "whole", "whole"]
