"""Hoisting: what is left depends on the fast parameters, and nothing else has changed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import tree
from metajax.learners.gradient.hoist import hoist
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import melu_net
from metajax.types import Examples


def tower(fast, given):
    """A frozen tower on looked-up rows, then an adapted layer and a range that is no argument."""
    table, index = given
    rows = jnp.tanh(table)[index]
    return {"y": rows @ fast["w"] + jnp.arange(2.0)[None, :], "rows": rows}


FAST = {"w": jnp.ones((4, 2))}
GIVEN = (jnp.arange(12.0).reshape(3, 4) / 10, jnp.array([0, 2, 2]))


def test_what_is_left_has_the_values_and_both_gradients():
    def hoisted(fast, given):
        rest, values = hoist(tower, fast, given)
        return rest(fast, values)

    fast = jax.tree.map(lambda x: 0.5 * x, FAST)
    rest, values = hoist(tower, FAST, GIVEN)
    jax.tree.map(np.testing.assert_array_equal, rest(fast, values), tower(fast, GIVEN))
    score = lambda f: lambda fast, table: jnp.sum(jnp.sin(f(fast, (table, GIVEN[1]))["y"]))
    pull = lambda f: jax.grad(score(f), (0, 1))(FAST, GIVEN[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), pull(hoisted), pull(tower)
    )
    tables = jnp.stack([GIVEN[0], 2 * GIVEN[0]])
    mapped = jax.vmap(lambda t: hoisted(FAST, (t, GIVEN[1]))["y"])(tables)
    np.testing.assert_allclose(mapped[1], tower(FAST, (tables[1], GIVEN[1]))["y"], rtol=1e-6)


def test_only_what_needs_the_fast_parameters_is_left():
    rest, values = hoist(tower, FAST, GIVEN)
    assert [v.shape for v in values] == [(3, 4)]
    left = str(jax.make_jaxpr(rest)(FAST, values))
    assert "dot_general" in left and "tanh" not in left and "gather" not in left


def test_an_inner_loop_looks_embeddings_up_once():
    """Eight scanned inner steps of MeLU: the look-up of the support stands outside of the loop."""
    net = melu_net({"age": 3}, {"genre": 5}, 3.5, dim=4, hidden=(4,))
    learner = gradient(net, optax.sgd(0.1), 8, adapts=tree.under("body", "head"))
    rows = {"item": jnp.arange(6), "genre": jnp.ones((6, 1), jnp.int32)}
    profile = {"age": jnp.ones(1, jnp.int32)}
    examples = Examples(rows, jnp.ones(6), jnp.ones(6))
    params = {"model": net.init(jax.random.key(0), profile, rows), "rates": ()}
    state = learner.start(params, profile)
    program = jax.make_jaxpr(lambda s: learner.adapt(*s, examples, jax.random.key(0)))(
        (params, state)
    )
    (loop,) = [e for e in program.eqns if e.primitive.name == "scan"]
    assert "gather" not in str(loop.params["jaxpr"]) and "dot_general" in str(loop.params["jaxpr"])
    assert "gather" in str(program)
