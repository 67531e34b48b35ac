"""MAML against an independent implementation: the same weights and tasks, the same meta-gradient.

The other side is written in PyTorch with `torch.func`, convolutions by its own kernel and batch
statistics by hand: mapped over `F.batch_norm`, `torch.func` gives a wrong second-order gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import losses, tree
from metajax.data.worlds.latent import SineTasks
from metajax.learners.gradient.maml import gradient
from metajax.models import conv
from metajax.models.towers import vector_mlp
from metajax.training import loop
from metajax.types import Episode, Examples

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install metajax[parity]")
F = torch.nn.functional
torch.set_num_threads(1)

RATE, INNER_STEPS = 0.01, 2


def to_torch(values):
    return jax.tree.map(lambda x: torch.from_numpy(np.array(x)), values)


def torch_mlp(p, x):
    for i in range(2):
        x = torch.relu(x @ p["body"][i]["kernel"] + p["body"][i]["bias"])
    return (x @ p["head"]["kernel"] + p["head"]["bias"])[:, 0]


def torch_conv(p, x):
    """MAML's network: zeros to the right and below where the size is even, around where odd."""
    x = x.permute(0, 3, 1, 2)
    for i in range(4):
        layer = p["body"][str(i)]
        before = x.shape[-1] % 2
        x = F.pad(x, (before, 1, before, 1))
        x = F.conv2d(x, layer["kernel"].permute(3, 2, 0, 1), stride=2)
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        x = torch.relu((x - mean) / torch.sqrt(variance + 1e-3) + layer["offset"][:, None, None])
    return x.mean((2, 3)) @ p["head"]["kernel"] + p["head"]["bias"]


def torch_mse(score, label):
    return ((score - label) ** 2).mean()


def torch_outer(apply, loss, fixed, rate, steps):
    """The mean outer loss over tasks, as a function of flat parameters; ``fixed`` do not adapt."""
    pytree = torch.utils._pytree

    def one(params, support, query):
        leaves, spec = pytree.tree_flatten(params)
        for _ in range(steps):
            inner = lambda flat: loss(
                apply(pytree.tree_unflatten(flat, spec), support[0]), support[1]
            )
            grads = torch.func.grad(inner)(leaves)
            leaves = [
                p if frozen else p - rate * g
                for p, g, frozen in zip(leaves, grads, fixed, strict=True)
            ]
        return loss(apply(pytree.tree_unflatten(leaves, spec), query[0]), query[1])

    def outer(params, support, query):
        tasks = range(len(support[1]))
        pick = lambda pair, t: (pair[0][t], pair[1][t])
        return sum(one(params, pick(support, t), pick(query, t)) for t in tasks) / len(tasks)

    return outer


def plain(episodes: Episode):
    part = lambda e, dtype: (to_torch(e.inputs), torch.from_numpy(np.array(e.label)).to(dtype))
    dtype = torch.int64 if jnp.issubdtype(episodes.query.label.dtype, jnp.integer) else None
    return part(episodes.support, dtype), part(episodes.query, dtype)


def sine_case():
    learner = gradient(vector_mlp((40, 40)), optax.sgd(RATE), INNER_STEPS)
    world = SineTasks(num_support=5, num_query=10)
    draw = lambda key: jax.vmap(world.sample)(jax.random.split(key, 8))
    return learner, draw, torch_outer(torch_mlp, torch_mse, [False] * 6, RATE, INNER_STEPS)


def conv_case():
    adapts = tree.negate(tree.matching("offset"))
    model = conv.conv4(5, 16, convolve=conv.patch_convolution)
    learner = gradient(
        model, optax.sgd(0.1), INNER_STEPS, adapts=adapts, loss=losses.class_cross_entropy
    )

    def draw(key):
        key_support, key_query = jax.random.split(key)
        label = jnp.broadcast_to(jnp.repeat(jnp.arange(5), 2), (3, 10))
        make = lambda k: Examples(
            jax.random.uniform(k, (3, 10, 28, 28, 1)), label, jnp.ones((3, 10))
        )
        return Episode((), make(key_support), make(key_query))

    fixed = [False, True] * 4 + [False, False]
    return learner, draw, torch_outer(torch_conv, F.cross_entropy, fixed, 0.1, INNER_STEPS)


CASES = {"mlp": sine_case, "conv": conv_case}


def relative(ours, theirs) -> float:
    """The largest error over leaves, relative to the leaf's norm."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    error = lambda a, b: np.linalg.norm(np.asarray(a) - b) / max(np.linalg.norm(b), 1e-12)
    return max(error(a, b.detach().numpy()) for a, b in pairs)


def torch_gradient(outer, params, support, query):
    leaves, spec = torch.utils._pytree.tree_flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value = outer(torch.utils._pytree.tree_unflatten(leaves, spec), support, query)
    grads = torch.autograd.grad(value, leaves)
    return torch.utils._pytree.tree_unflatten(list(grads), spec), float(value.detach())


@pytest.mark.parametrize("case", CASES)
def test_meta_gradient_is_that_of_torch(case: str):
    """In float32 to 1e-5 relative; the two libraries share nothing but the numbers."""
    learner, draw, outer = CASES[case]()
    episodes = draw(jax.random.key(1))
    params = learner.init(jax.random.key(0), jax.tree.map(lambda x: x[0], episodes))
    ours, info = jax.jit(lambda p: loop.outer_gradient(learner)(p, episodes, jax.random.key(2)))(
        params
    )
    theirs, value = torch_gradient(outer, to_torch(params["model"]), *plain(episodes))
    assert float(info["loss"]) == pytest.approx(value, rel=1e-5)
    assert relative(ours["model"], theirs) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_first_order_is_told_apart(case: str):
    """The comparison is sharp enough: without second derivatives it would fail."""
    learner, draw, outer = CASES[case]()
    episodes = draw(jax.random.key(1))
    params = learner.init(jax.random.key(0), jax.tree.map(lambda x: x[0], episodes))

    def cut(params, episode, key):
        state = learner.adapt(params, learner.start(params, ()), episode.support, key)
        fast = jax.tree.map(
            lambda phi, theta: theta + jax.lax.stop_gradient(phi - theta),
            state.fast,
            learner.start(params, ()).fast,
        )
        scores = learner.predict(params, state._replace(fast=fast), episode.query.inputs)
        loss = losses.squared_error if case == "mlp" else losses.class_cross_entropy
        return loss(scores, episode.query.label, episode.query.mask), {}

    first = learner._replace(loss=cut)
    ours, _ = jax.jit(lambda p: loop.outer_gradient(first)(p, episodes, jax.random.key(2)))(params)
    theirs, _ = torch_gradient(outer, to_torch(params["model"]), *plain(episodes))
    assert relative(ours["model"], theirs) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("case, x64", [("mlp", False), ("conv", True)])
def test_a_hundred_steps_of_training_stay_together(case: str, x64: bool):
    """The same tasks and the same outer Adam: losses and weights within 1e-3 after 100 steps.

    The convolutional net runs in float64: in float32 rounding puts some ReLU on its other side
    after a dozen steps, and the two runs part as any two of one library with another order of sums.
    """
    with jax.enable_x64(x64):
        learner, draw, outer = CASES[case]()
        draw = jax.jit(draw)
        first = jax.tree.map(lambda x: x[0], draw(jax.random.key(0)))
        params = learner.init(jax.random.key(0), first)
        losses_ours, losses_theirs, weights = both_train(learner, draw, outer, params)
        np.testing.assert_allclose(losses_ours, losses_theirs, rtol=1e-3)
        assert relative(*weights) < 1e-3


def both_train(learner, draw, outer, params):
    """The losses of 100 steps on each side, and the pair of weights after them."""
    tx = optax.adam(1e-3)
    opt_state = tx.init(params)
    leaves, spec = torch.utils._pytree.tree_flatten(to_torch(params["model"]))
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    adam = torch.optim.Adam(leaves, lr=1e-3)

    @jax.jit
    def step(params, opt_state, episodes):
        grads, info = loop.outer_gradient(learner)(params, episodes, jax.random.key(0))
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, info["loss"]

    ours, theirs = [], []
    for i in range(100):
        episodes = draw(jax.random.key(100 + i))
        params, opt_state, loss = step(params, opt_state, episodes)
        ours.append(float(loss))
        adam.zero_grad()
        value = outer(torch.utils._pytree.tree_unflatten(leaves, spec), *plain(episodes))
        value.backward()
        adam.step()
        theirs.append(float(value.detach()))
    return ours, theirs, (params["model"], torch.utils._pytree.tree_unflatten(leaves, spec))
