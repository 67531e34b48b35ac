"""Operations of compiled programs, against products counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from metajax.profiling.flops import matrix_flops


def compiled(function, *args) -> str:
    return jax.jit(function).lower(*args).compile().as_text()


def test_one_product_and_a_loop_of_seven():
    a, b = jnp.ones((30, 20)), jnp.ones((20, 50))
    assert matrix_flops(compiled(lambda a, b: a @ b, a, b)) == 2 * 30 * 20 * 50
    square = jnp.ones((20, 20))
    loop = lambda a, w: jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), a, length=7)[0]
    assert matrix_flops(compiled(loop, a, square)) == 7 * 2 * 30 * 20 * 20


def test_mapped_products_and_their_gradient():
    """Of three tasks; the gradient of a product with respect to both sides is two more of it."""
    a, b = jnp.ones((3, 8, 64)), jnp.ones((3, 64, 32))
    one = 2 * 3 * 8 * 64 * 32
    assert matrix_flops(compiled(jax.vmap(jnp.matmul), a, b)) == one
    slope = jax.grad(lambda a, b: jnp.sum(jnp.tanh(a @ b)), (0, 1))
    assert matrix_flops(compiled(slope, a, b)) == 3 * one


def test_a_choice_counts_its_branches_by_their_shares():
    wide, narrow = lambda x: x @ x, lambda x: jnp.tile(x[:, :5] @ x[:5, :5], (1, 4))
    choose = lambda i, x: jax.lax.switch(i, [wide, narrow], x)
    program = compiled(choose, jnp.asarray(0), jnp.ones((20, 20)))
    full, cut = 2 * 20**3, 2 * 20 * 5 * 5
    assert matrix_flops(program) == (full + cut) / 2
    assert matrix_flops(program, {0: 0.25, 1: 0.75}) == pytest.approx(0.25 * full + 0.75 * cut)
