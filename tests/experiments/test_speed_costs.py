"""What each lever is for falls: counted in programs for a card, and in those for a processor.

Programs for a card are lowered for CUDA with few tasks, which needs no card. What a compiler fuses
is not in them: they tell what a lever asks for. Compiled programs are those of a processor.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.speed import choices, ours, problems
from metajax import losses, tree
from metajax.adapters.mixed import mixed
from metajax.evaluation.trial import FAST_TO_COMPILE
from metajax.learners.gradient import maml
from metajax.models import conv
from metajax.models.towers import vector_mlp
from metajax.profiling import flops
from metajax.types import Episode, Examples, Model

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


def costs(program: jax.stages.Compiled) -> dict[str, float]:
    """The compiler's own account of a program, a loop's body once, and its temporaries."""
    found, planned = program.cost_analysis(), program.memory_analysis()
    told: dict[str, float] = found[0] if isinstance(found, list) else found
    assert planned is not None
    return {**told, "temporaries": planned.temp_size_in_bytes}


def stacked(num_layers: int) -> dict:
    """The weights of a Transformer as that of W4, 8 wide, with so many layers."""
    rng = np.random.default_rng(0)
    full = lambda *shape: jnp.asarray(0.1 * rng.normal(size=shape), jnp.float32)
    norm = lambda: {"scale": jnp.ones(8), "shift": jnp.zeros(8)}
    low = lambda: {"a": full(8, 2), "b": full(2, 8)}
    layers = [
        {name: full(8, 8) for name in ("query", "key", "value", "out")}
        | {"before": norm(), "between": norm(), "up": full(8, 16), "down": full(16, 8)}
        | {"lora": {"query": low(), "value": low()}}
        for _ in range(num_layers)
    ]
    head = {"kernel": full(8, 8), "bias": jnp.zeros(8)}
    parts = {"items": full(9, 8), "places": full(5, 8), "after": norm(), "head": head}
    return parts | {"layers": {str(i): layer for i, layer in enumerate(layers)}}


def test_scanned_layers_are_compiled_once():
    """Instructions of the compiled gradient of six layers."""
    items = jnp.zeros((2, 5), int)

    def instructions(num_layers: int, scanned: bool) -> int:
        loss = lambda p: jnp.sum(ours.transformer(p, (), items, scanned=scanned))
        lowered = jax.jit(jax.grad(loss)).lower(stacked(num_layers))
        return (lowered.compile(FAST_TO_COMPILE).as_text() or "").count(" = ")

    assert instructions(6, False) > 2 * instructions(6, True)


def test_outer_steps_in_one_program_are_one_loop():
    def lines(num_outer: int) -> int:
        how = choices.HOW["gpu"]["W1"]._replace(num_outer=num_outer)
        program = ours.library("W1", 1, True, how, num_tasks=4)
        return program.run.lower(program.state, program.data).as_text().count("\n")

    assert lines(50) < 1.2 * lines(1)


def test_what_does_not_adapt_is_computed_once_a_task(monkeypatch):
    """Eight inner steps of a head on frozen features: seven of their products are saved."""
    rows, width, hidden, steps = 16, 32, 24, 8
    examples = Examples(jnp.ones((rows, width)), jnp.ones(rows), jnp.ones(rows))
    learner = maml.gradient(vector_mlp((hidden,)), optax.sgd(0.1), steps, adapts=tree.under("head"))
    params = jax.eval_shape(learner.init, jax.random.key(0), Episode((), examples, examples))

    def operations() -> float:
        key = jax.random.key(0)
        adapted = lambda p: learner.adapt(p, learner.start(p, ()), examples, key)
        return flops.matrix_flops(adapted, params)

    found = operations()
    monkeypatch.setattr(maml, "hoist", lambda function, fast, given: (function, given))
    saved = operations() - found
    assert saved == (steps - 1) * 2 * rows * width * hidden


def test_patches_of_the_images_are_made_once_a_task():
    """Only the three upper layers make patches in each of six inner steps."""
    images = Examples(jnp.ones((5, 12, 12, 1)), jnp.zeros(5, int), jnp.ones(5))
    loss = losses.class_cross_entropy
    learner = maml.gradient(conv.conv4(5, 4), optax.sgd(0.1), 6, loss=loss)
    params = jax.eval_shape(learner.init, jax.random.key(0), Episode((), images, images))
    program = jax.make_jaxpr(
        lambda p: learner.adapt(p, learner.start(p, ()), images, jax.random.key(0))
    )(params)
    (loop,) = [e for e in program.eqns if e.primitive.name == "scan"]
    made = [str(e.outvars[0].aval) for e in program.eqns if e.primitive.name == "concatenate"]
    assert made == ["float32[5,6,6,9]"]
    assert len(re.findall(r"= concatenate\[", str(loop.params["jaxpr"]))) == 3


def convolved(convolve: conv.Convolve, narrow: bool = False) -> jax.stages.Lowered:
    """A convolution of 16 channels, whose patches have 144 columns."""
    model = Model(lambda *_: {}, lambda kernel, profile, x: convolve(x, kernel))
    model = mixed(model) if narrow else model
    x, kernel = jnp.ones((8, 14, 14, 16)), jnp.ones((3, 3, 16, 16))
    return jax.jit(lambda k, x: model.apply(k, (), x)).lower(kernel, x)


def test_nine_shifted_products_make_no_patches():
    """Forwards they access and keep less; their derivatives do not, which their docstring says."""
    shifted, patches = convolved(conv.shifted_convolution), convolved(conv.patch_convolution)
    assert "x144xf32" in patches.as_text() and "x144xf32" not in shifted.as_text()
    few, many = costs(shifted.compile()), costs(patches.compile())
    assert few["bytes accessed"] < 0.9 * many["bytes accessed"]
    assert few["temporaries"] < 0.9 * many["temporaries"]


def test_patches_of_bfloat16_have_half_the_bytes():
    of = lambda text, kind: len(re.findall(rf"x144x{kind}>$", text, re.M))
    wide, narrow = (convolved(conv.patch_convolution, n).as_text() for n in (False, True))
    assert of(wide, "f32") == of(narrow, "bf16") > 0
    assert of(wide, "bf16") == of(narrow, "f32") == 0


@pytest.mark.slow
def test_a_transposed_inner_gradient_accesses_less_with_images():
    """About what plain JAX accesses, and the guards of empty supports, which that does not have."""
    how = choices.HOW["gpu"]["W2"]
    ways = [
        ours.library("W2", 1, True, how, num_tasks=8),
        ours.plain("W2", 1, True, num_tasks=8),
        ours.library("W2", 1, True, how._replace(reverse=False), num_tasks=8),
    ]
    ours_, plain, curvature = (costs(program.compiled()) for program in ways)
    for name in ("flops", "bytes accessed"):
        assert ours_[name] < min(1.05 * plain[name], curvature[name])


def test_moments_of_one_pass_access_less():
    """The compiled gradient of a loss of normalized values, on the processor."""
    x, ones = jnp.zeros((4, 8, 8, 16)), jnp.ones(4)

    def accessed(normalize: conv.Normalize) -> float:
        loss = lambda x: jnp.sum(jnp.sin(normalize(x, ones)))
        return costs(jax.jit(jax.grad(loss)).lower(x).compile())["bytes accessed"]

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
