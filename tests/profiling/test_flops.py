"""Operations of programs, against products counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from metajax.profiling.flops import matrix_flops


def counted(f, *shapes) -> float:
    return matrix_flops(f, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))


def test_products_are_counted_as_with_a_pencil():
    """(3 x 5) (5 x 7) is 2 * 105; seven times in a loop, thrice with its gradients."""
    assert counted(jnp.matmul, (3, 5), (5, 7)) == 210
    assert counted(jax.vmap(jnp.matmul), (4, 3, 5), (4, 5, 7)) == 840
    looped = lambda w, x: jax.lax.scan(lambda x, _: (x @ w, None), x, length=7)[0]
    assert counted(looped, (5, 5), (3, 5)) == 7 * 150
    both = jax.grad(lambda w, x: jnp.sum((x @ w) ** 2), argnums=(0, 1))
    assert counted(both, (5, 7), (3, 5)) == 3 * 210
    either = lambda c, a, b: jax.lax.cond(c[0] > 0, lambda: (a @ b).sum(), lambda: a.sum())
    assert counted(either, (1,), (3, 5), (5, 7)) == 210


def test_convolutions_are_counted_as_with_a_pencil():
    """A 3 x 3 kernel from 2 to 4 channels on 8 x 8 places: 2 * 9 * 2 operations an output."""
    f = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert counted(f, (1, 8, 8, 2), (3, 3, 2, 4)) == 64 * 4 * 36


def test_a_choice_counts_its_branches_by_their_shares():
    wide, narrow = lambda x: x @ x, lambda x: jnp.tile(x[:, :5] @ x[:5, :5], (1, 4))
    choose = lambda i, x: jax.lax.switch(i, [wide, narrow], x)
    args = (choose, jnp.asarray(0), jnp.ones((20, 20)))
    full, cut = 2 * 20**3, 2 * 20 * 5 * 5
    assert matrix_flops(*args) == full
    shares = {0: 0.25, 1: 0.75}
    assert matrix_flops(*args, branches=shares) == pytest.approx(0.25 * full + 0.75 * cut)


def test_a_jitted_program_counts_as_what_it_calls():
    square = jnp.ones((20, 20))
    assert matrix_flops(jax.jit(lambda x: x @ x), square) == 2 * 20**3
