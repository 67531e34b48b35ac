"""Every way of the benchmark computes what it says: a plain loop over tasks in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.speed import choices, ours, problems, worker
from metajax import tree
from metajax.models import conv

SLOW = pytest.mark.slow


def few(name: str, num_tasks: int) -> problems.Problem:
    """A workload cut to its first tasks."""
    problem = problems.PROBLEMS[name]()
    cut = lambda part: problems.Part(*(x[:num_tasks] for x in part))
    return problem._replace(support=cut(problem.support), query=cut(problem.query))


def by_hand(name: str, num_steps: int, second: bool, problem: problems.Problem):
    """The gradient of the learned weights, task after task, in double precision."""
    apply, loss = ours.WORKLOADS[name].network, ours.WORKLOADS[name].loss
    double = lambda x: x.astype(np.float64) if x.dtype == np.float32 else x
    weights, support, query = jax.tree.map(
        double, (problem.weights, problem.support, problem.query)
    )
    learned, frozen = tree.partition(jax.tree.map(jnp.asarray, weights), problem.learned)

    def task(learned, support, query):
        whole = tree.merge(learned, frozen)
        fast, rest = tree.partition(whole, problem.adapts)
        score = lambda fast, part: loss(apply(tree.merge(fast, rest), (), part[0]), *part[1:])
        for _ in range(num_steps):
            grads = jax.grad(score)(fast, support)
            grads = grads if second else jax.lax.stop_gradient(grads)
            fast = jax.tree.map(lambda p, g: p - problem.rate * g, fast, grads)
        return score(fast, query)

    gradient, total = jax.jit(jax.grad(task)), jax.tree.map(jnp.zeros_like, learned)
    num_tasks = len(support.label)
    for t in range(num_tasks):
        pick = lambda part, t=t: tuple(jnp.asarray(x[t]) for x in part)
        found = gradient(learned, pick(support), pick(query))
        total = jax.tree.map(lambda a, b: a + b / num_tasks, total, found)
    return total


@pytest.mark.parametrize(
    "name, num_steps, second, num_tasks",
    [
        ("W1", 1, True, 25),
        pytest.param("W1", 5, True, 25, marks=SLOW),
        pytest.param("W1", 5, False, 25, marks=SLOW),
        pytest.param("W2", 1, True, 3, marks=SLOW),
        pytest.param("W2", 2, False, 3, marks=SLOW),
        pytest.param("W3", 1, True, 8, marks=SLOW),
        pytest.param("W3", 5, True, 8, marks=SLOW),
        pytest.param("W4", 1, True, 4, marks=SLOW),
        pytest.param("W4h", 2, True, 4, marks=SLOW),
    ],
)
def test_the_gradient_is_that_of_a_plain_loop(monkeypatch, name, num_steps, second, num_tasks):
    """The outer optimizer is replaced by one that takes the gradient off, so that it shows."""
    problem = few(name, num_tasks)
    monkeypatch.setitem(problems.PROBLEMS, name, lambda: problem)
    monkeypatch.setattr(ours, "OUTER", optax.sgd(1.0))
    how = choices.how(name)._replace(num_outer=1)
    program = ours.library(name, num_steps, second, how)
    before = jax.tree.map(np.array, program.state.params)
    after, _ = program.run(program.state, program.data)
    with jax.enable_x64(True):
        expected = jax.tree.map(np.array, by_hand(name, num_steps, second, problem))
    ours_ = jax.tree.map(lambda a, b: (a - np.asarray(b)).ravel(), before, after.params)
    flat = lambda tree: np.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
    difference = np.linalg.norm(flat(ours_) - flat(expected)) / np.linalg.norm(flat(expected))
    assert difference < 1e-5


def test_the_last_place_alone_has_the_logits_of_all_places():
    problem = problems.PROBLEMS["W4"]()
    items = problem.support.inputs[0][:2]
    workload = ours.WORKLOADS["W4"]
    ways = (workload.network, workload.own(choices.how("W4")))
    both = [jax.jit(f)(problem.weights, (), items) for f in ways]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("convolve", [choices.row_convolution, conv.shifted_convolution])
@pytest.mark.parametrize("shape", [(2, 5, 6, 3), (2, 7, 4, 1)])
def test_convolutions_are_the_compilers_own_with_its_gradient(convolve, shape):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in (shape, (3, 3, shape[-1], 4)))
    found = [
        jax.jit(jax.value_and_grad(lambda x, k, f=f: jnp.sum(jnp.sin(f(x, k))), (0, 1)))(x, kernel)
        for f in (convolve, conv.ordinary_convolution)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


def test_compilations_are_counted():
    count = worker._compilations()
    before = count()
    double = jax.jit(lambda x: 2 * x)
    double(jnp.zeros(11)).block_until_ready()
    first = count()
    assert first > before
    double(jnp.zeros(11)).block_until_ready()
    assert count() == first
    double(jnp.zeros(12)).block_until_ready()
    assert count() > first


@pytest.mark.parametrize("package", ["learn2learn", "torchopt"])
def test_a_packages_first_loss_is_that_of_the_plain_loop(package):
    pytest.importorskip("torch", reason="PyTorch: pip install metajax[peers]")
    pytest.importorskip(package, reason=f"pip install {package}")
    from experiments.speed import packages, peers

    peer = packages.LEARNERS[package]("W1", 2, True)
    plain = peers.Loop("W1", 2, True)
    for _ in range(2):
        assert peer.step() == pytest.approx(plain.step(), rel=1e-5)
