"""What each lever of a card is for falls: counted in the program for a card, which is not run.

The programs are lowered for CUDA with few tasks, which needs no card. What a compiler fuses is not
in them: they tell what a lever asks for.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speed import choices, ours, problems
from metajax.models import conv
from metajax.profiling import flops

BYTES = {"f32": 4, "bf16": 2, "i32": 4, "i1": 1, "ui32": 4, "i64": 8}


@functools.cache
def lowered(name: str, how: choices.How, narrow: bool = False, steps: int = 1) -> str:
    """The text of a workload's program for a card, with few tasks."""
    how = how._replace(num_outer=1)
    program = ours.library(name, steps, True, how, num_tasks=4, narrow=narrow)
    traced = program.run.trace(program.state, program.data)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def way(name: str, lever: str) -> choices.How:
    """A workload's choices with a lever pulled."""
    return choices.OTHERS[name][f"metajax, {lever}"]


def written(text: str) -> float:
    """The bytes of the arrays at the ends of lines, which are the results of operations."""
    found = re.findall(r"tensor<((?:\d+x)*)(f32|bf16|i32|i1|ui32|i64)>$", text, re.M)
    sizes = [np.prod([int(n) for n in shape.split("x") if n] or [1]) for shape, _ in found]
    return float(sum(n * BYTES[kind] for n, (_, kind) in zip(sizes, found, strict=True)))


def count(text: str, operation: str) -> int:
    """How often an operation is in a program."""
    return len(re.findall(rf"stablehlo\.{operation}\b", text))


def test_a_task_in_one_kernel_is_one_call_in_place_of_its_products():
    plain = lowered("W1", choices.HOW["gpu"]["W1"])
    try:
        one = lowered("W1", way("W1", "one kernel"))
    except RuntimeError as error:
        if "No supported GPU" in str(error):
            pytest.skip("from version 0.12 on, JAX lowers kernels only where there is a card")
        raise
    assert count(plain, "dot_general") > 10 and count(one, "dot_general") == 0
    assert len(re.findall("triton", one)) >= 1 and "triton" not in plain
    assert written(one) < 0.5 * written(plain)


def test_sums_have_no_products():
    assert count(lowered("W1", way("W1", "sums")), "dot_general") == 0


def test_small_tables_are_not_scattered_to():
    """Of eight tables five have at most 32 rows."""
    looked_up, one_hot = (
        lowered("W3", way("W3", "whole looked up")),
        lowered("W3", way("W3", "whole")),
    )
    scatters = [count(text, "scatter") for text in (looked_up, one_hot)]
    assert scatters[0] > scatters[1] > 0
    assert scatters[0] - scatters[1] == scatters[0] * 5 // 8


def test_activations_of_bfloat16_halve_what_products_move():
    """Look-ups stay float32, as the tables are."""
    how = way("W3", "whole looked up")
    moved = [
        sum(
            written(kind)
            for line in lowered("W3", how, narrow=n).splitlines()
            if "dot_general" in line
            for kind in re.findall(r"tensor<[^>]*>", line)
        )
        for n in (False, True)
    ]
    assert moved[1] < 0.6 * moved[0]


def test_supports_cut_to_their_length_have_fewer_operations():
    """Tasks in two halves, of which one is cut to 20 rows of 90."""
    problem = problems.make("W3", 64)
    found = []
    for lever, size in (("whole", 64), ("halves ten steps", 32)):
        how = way("W3", lever)._replace(num_outer=1, chunk_size=size)
        program = ours.library("W3", 1, True, how, num_tasks=64)
        shares = ours.branch_shares(how, problem)
        found.append(flops.matrix_flops(program.run, program.state, program.data, branches=shares))
    assert found[1] < 0.8 * found[0]


@pytest.mark.slow
@pytest.mark.parametrize("lever", ["on chip", "on chip one pass"])
def test_a_convolution_on_chip_writes_no_patches(lever):
    """No array has the 576 columns of the patches of 64 channels."""
    patches, chip = lowered("W2", choices.HOW["gpu"]["W2"]), lowered("W2", way("W2", lever))
    wide = lambda text: len(re.findall(r"x576xf32", text))
    assert wide(patches) > 20 and wide(chip) == 0


def test_moments_of_one_pass_access_less():
    """The compiled gradient of a loss of normalized values, on the processor."""
    x, ones = jnp.zeros((4, 8, 8, 16)), jnp.ones(4)

    def accessed(normalize: conv.Normalize) -> float:
        loss = lambda x: jnp.sum(jnp.sin(normalize(x, ones)))
        costs = jax.jit(jax.grad(loss)).lower(x).compile().cost_analysis()
        return (costs[0] if isinstance(costs, list) else costs)["bytes accessed"]

    assert accessed(choices.one_pass) < accessed(conv.batch_statistics)


@pytest.mark.slow
def test_recomputing_keeps_less():
    """Temporaries of the compiled program, on the processor, of five inner steps of W1."""
    kept = []
    for remat in (False, True):
        how = choices.HOW["gpu"]["W1"]._replace(num_outer=1, sums=True, remat=remat, options=())
        planned = ours.library("W1", 5, True, how, num_tasks=64).compiled().memory_analysis()
        kept.append(planned.temp_size_in_bytes)
    assert kept[1] < kept[0]
