"""The workloads in JAX: this library's way, and what a competent user of JAX writes first."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from metajax import losses, tree
from metajax.adapters.mixed import mixed
from metajax.learners.gradient.fast_perceptron import fast_maml
from metajax.learners.gradient.maml import gradient
from metajax.models import conv
from metajax.platforms import Way
from metajax.training import devices, loop, outer_gradient
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree

from . import one_kernel, problems
from .choices import How
from .choices import how as chosen

OUTER = optax.adam(1e-3)


def perceptron(params: PyTree, profile: PyTree, x: jax.Array) -> jax.Array:
    """The scores (N,) of vectors (N, D)."""
    for layer in params["body"].values():
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"].reshape(1, -1))
    return (x @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1))[:, 0]


def summed(params: PyTree, profile: PyTree, x: jax.Array) -> jax.Array:
    """The same as `perceptron` with no matrix product: sums that a compiler fuses."""
    product = lambda x, kernel: jnp.sum(x[:, :, None] * kernel[None], axis=1)
    for layer in params["body"].values():
        x = jax.nn.relu(product(x, layer["kernel"]) + layer["bias"].reshape(1, -1))
    return product(x, params["head"]["kernel"])[:, 0] + params["head"]["bias"]


def look_up(tables: PyTree, index: jax.Array, one_hot: int = 0) -> jax.Array:
    """The features (..., 256) of feature values (..., 8); `choices.How` tells of ``one_hot``."""

    def rows(table: jax.Array, index: jax.Array) -> jax.Array:
        if len(table) > one_hot:
            return table[index]
        return jax.nn.one_hot(index, len(table), dtype=table.dtype) @ table

    found = [rows(tables[k], index[..., i]) for i, k in enumerate(problems.TABLES)]
    return jnp.concatenate(found, -1)


def users(params: PyTree, profile: PyTree, index: jax.Array) -> jax.Array:
    """The ratings (N,) of pairs of user and item features (N, 8)."""
    return perceptron(params, profile, look_up(params["tables"], index))


def _normal(norm: PyTree, x_NxLxD: jax.Array) -> jax.Array:
    centered = x_NxLxD - jnp.mean(x_NxLxD, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + 1e-5)
    return centered * scale * norm["scale"].reshape(1, 1, -1) + norm["shift"].reshape(1, 1, -1)


def _attention(layer: PyTree, x_NxLxD: jax.Array, seen_NxQxD: jax.Array) -> jax.Array:
    """What the last Q places of sequences read from all L places."""
    n, length, width = x_NxLxD.shape
    low = lambda name, x: x @ layer["lora"][name]["a"] @ layer["lora"][name]["b"]
    heads = lambda y: y.reshape(n, y.shape[1], problems.HEADS, -1)
    query = seen_NxQxD @ layer["query"] + low("query", seen_NxQxD)
    key, value = x_NxLxD @ layer["key"], x_NxLxD @ layer["value"] + low("value", x_NxLxD)
    scores = jnp.einsum("nqhd,nkhd->nhqk", heads(query), heads(key))
    scores = scores * (width // problems.HEADS) ** -0.5
    causal = jnp.tril(jnp.ones((length, length), bool))[-seen_NxQxD.shape[1] :]
    weight = jax.nn.softmax(jnp.where(causal[None, None], scores, -1e9), axis=-1)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", weight, heads(value)).reshape(n, -1, width)
    return mixed @ layer["out"]


def _block(layer: PyTree, x_NxLxD: jax.Array, num_read: int) -> jax.Array:
    """One layer's outputs at the last places, as many as are read."""
    normal, x_NxLxD = _normal(layer["before"], x_NxLxD), x_NxLxD[:, -num_read:]
    x_NxLxD = x_NxLxD + _attention(layer, normal, normal[:, -num_read:])
    hidden = jax.nn.relu(_normal(layer["between"], x_NxLxD) @ layer["up"])
    return x_NxLxD + hidden @ layer["down"]


def transformer(
    params: PyTree,
    profile: PyTree,
    items: jax.Array,
    last_place: bool = False,
    scanned: bool = False,
) -> jax.Array:
    """The logits (N, 10000) of the item after each sequence of items (N, 50).

    Args:
      last_place: the last layer computes the last place alone, which is all that is read of it.
      scanned: the layers before the last are one loop, which is compiled once for all of them.
    """
    x_NxLxD = params["items"][items] + params["places"].reshape(1, *params["places"].shape)
    *early, last = params["layers"].values()
    length = items.shape[1]
    if scanned:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *early)
        step = lambda x, layer: (_block(layer, x, length), None)
        x_NxLxD, _ = jax.lax.scan(step, x_NxLxD, stacked)
    else:
        for layer in early:
            x_NxLxD = _block(layer, x_NxLxD, length)
    x_NxLxD = _block(last, x_NxLxD, 1 if last_place else length)
    last_NxD = _normal(params["after"], x_NxLxD)[:, -1]
    last_NxD = last_NxD @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1)
    return last_NxD @ params["items"].T


def _fast(
    model: Model,
    problem: problems.Problem,
    num_steps: int,
    second_order: bool,
    narrow: bool,
    how: How,
) -> MetaLearner:
    """The learner of a perceptron, all of whose weights adapt to ratings or values."""
    if how.sums:
        rule = optax.sgd(problem.rate)
        return gradient(model, rule, num_steps, second_order=second_order)
    compute = jnp.bfloat16 if narrow else None
    return fast_maml(model, problem.rate, num_steps, second_order=second_order, compute=compute)


def _by_gradient(
    model: Model,
    problem: problems.Problem,
    num_steps: int,
    second_order: bool,
    narrow: bool,
    how: How,
) -> MetaLearner:
    """The learner of a network that tells classes, whose activations are its model's."""
    del narrow
    return gradient(
        model,
        optax.sgd(problem.rate),
        num_steps,
        adapts=problem.adapts,
        second_order=second_order,
        loss=losses.class_cross_entropy,
        reverse=how.reverse,
    )


def _looked_up(how: How) -> outer_gradient.Prepare:
    """The tasks with the features of their pairs in place of the pairs."""

    def all_rows(params: PyTree, episodes: Episode) -> Episode:
        rows = lambda e: e._replace(inputs=look_up(params["tables"], e.inputs, how.one_hot))
        return Episode((), rows(episodes.support), rows(episodes.query))

    return outer_gradient.Prepare(tree.under("tables"), all_rows)


class Workload(NamedTuple):
    """A workload in JAX; its numbers are those of its name in `problems.PROBLEMS`.

    Attributes:
      network: (params, profile, inputs) -> scores, as one writes it first.
      own: choices -> the network of the library's way.
      loss: of scores, labels and mask, in support and query.
      learner: (model, problem, num_steps, second_order, narrow, choices) -> the library's learner.
      prepare: choices -> what the library does once for all tasks of a step.
      variations: other networks that one may write first, by name.
    """

    network: Callable
    own: Callable[[How], Callable]
    loss: losses.Loss
    learner: Callable[[Model, problems.Problem, int, bool, bool, How], MetaLearner]
    prepare: Callable[[How], outer_gradient.Prepare] | None = None
    variations: Mapping[str, Callable] = {}


_sines = Workload(
    perceptron, lambda how: summed if how.sums else perceptron, losses.squared_error, _fast
)
_characters = Workload(
    conv.conv4(5).apply,
    lambda how: conv.conv4(5, convolve=how.convolve, normalize=how.normalize).apply,
    losses.class_cross_entropy,
    _by_gradient,
)
_users = Workload(
    users,
    lambda how: perceptron,  # features are looked up before
    losses.squared_error,
    _fast,
    _looked_up,
)
_sequences = Workload(
    transformer,
    lambda how: functools.partial(transformer, last_place=True, scanned=how.scanned),
    losses.class_cross_entropy,
    _by_gradient,
    variations={"last place": functools.partial(transformer, last_place=True)},
)
_as_called = {"lax.conv": conv.conv4(5, convolve=conv.ordinary_convolution).apply}

WORKLOADS: dict[str, Workload] = {
    "W1": _sines,
    "W2": _characters._replace(variations=_as_called),
    "W2q15": _characters,
    "W3": _users,
    "W4": _sequences,
    "W4h": _sequences,
}
"""Name -> the workload. The variations of plain JAX: the compiler's own convolution in W2, as a
network library calls it; no places that are not read in W4."""


def episodes_of(problem: problems.Problem) -> Episode:
    """The batch of tasks on the device."""
    part = lambda p: Examples(*jax.tree.map(jnp.asarray, tuple(p)))
    return Episode((), part(problem.support), part(problem.query))


def branch_shares(how: How, problem: problems.Problem) -> dict[int, float] | None:
    """How often each support size of the choices is taken by the chunks of a workload's batch."""
    if not how.lengths:
        return None
    rows = np.sort(problem.support.mask.sum(axis=1))
    sizes = rows.reshape(-1, min(how.chunk_size or len(rows), len(rows)))
    taken = np.searchsorted(how.lengths, sizes.max(axis=1))
    return {i: float(np.mean(taken == i)) for i in range(len(how.lengths) + 1)}


class Program(NamedTuple):
    """Something to be timed.

    Attributes:
      run: (state, data) -> (state, losses); it makes ``num_outer`` outer steps and is jitted.
      state: the first state; it is donated.
      data: what stays.
      num_outer: see ``run``.
      options: of the compiler.
    """

    run: Any
    state: PyTree
    data: PyTree
    num_outer: int
    options: tuple[tuple[str, bool | int | str], ...] = ()

    def compiled(self):
        """The program, compiled ahead of time with its options."""
        lowered = self.run.lower(self.state, self.data)
        return lowered.compile(compiler_options=dict(self.options))


def _split(problem: problems.Problem) -> tuple[PyTree, PyTree]:
    """The weights that the outer loop learns, and those that stay."""
    return tree.partition(jax.tree.map(jnp.asarray, problem.weights), problem.learned)


def _with(apply: Callable, frozen: PyTree, narrow: bool) -> Model:
    """A network with its frozen weights beside, in bfloat16 if ``narrow``."""
    model = Model(lambda *_: {}, apply)
    model = mixed(model) if narrow else model
    whole = lambda params, profile, x: model.apply(tree.merge(params, frozen), profile, x)
    return model._replace(apply=whole)


def _task(
    apply: Callable,
    loss: losses.Loss,
    problem: problems.Problem,
    num_steps: int,
    second_order: bool,
) -> Callable[[PyTree, PyTree, Episode], jax.Array]:
    """(learned, frozen, episode) -> the outer loss of a task, as one writes it first."""

    def task(learned: PyTree, frozen: PyTree, episode: Episode) -> jax.Array:
        fast, rest = tree.partition(tree.merge(learned, frozen), problem.adapts)
        score = lambda fast, e: loss(apply(tree.merge(fast, rest), (), e.inputs), e.label, e.mask)
        for _ in range(num_steps):
            grads = jax.grad(score)(fast, episode.support)
            if not second_order:
                grads = jax.lax.stop_gradient(grads)
            fast = jax.tree.map(lambda p, g: p - problem.rate * g, fast, grads)
        return score(fast, episode.query)

    return task


def library(
    name: str,
    num_steps: int,
    second_order: bool,
    how: How | None = None,
    mesh: Mesh | None = None,
    *,
    num_tasks: int | None = None,
    narrow: bool = False,
    outer: optax.GradientTransformation | None = None,
) -> Program:
    """This library's way to train on a workload.

    Args:
      how: other choices than those of the platform.
      mesh: devices that the tasks are dealt over.
      num_tasks: other than the workload's own.
      narrow: compute in bfloat16.
      outer: another outer optimizer than `OUTER`.
    """
    outer, how = outer or OUTER, how or chosen(name, narrow=narrow)
    problem, workload = problems.make(name, num_tasks), WORKLOADS[name]
    learned, frozen = _split(problem)

    def nested(learner: MetaLearner) -> MetaLearner:
        loss = lambda params, episode, key: learner.loss(
            {"model": params, "rates": ()}, episode, key
        )
        return learner._replace(loss=loss)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: loop.TrainState, data: PyTree):
        episodes, frozen = data
        network = workload.own(how)
        network = jax.checkpoint(network) if how.remat else network
        model = _with(network, frozen, narrow)
        learner = nested(workload.learner(model, problem, num_steps, second_order, narrow, how))
        prepare = workload.prepare and workload.prepare(how)
        gradient_fn = outer_gradient.arranged(learner, Way(how.chunk_size, how.lengths), prepare)
        if how.one_kernel:
            gradient_fn = one_kernel.gradient(problem.rate, num_steps, second_order, how.one_kernel)
        if mesh is not None:
            gradient_fn = devices.dealt(mesh, gradient_fn)
        recipe = loop.recipe(learner, outer, gradient_fn)
        state, info = loop.steps(recipe, lambda data, key: data, how.num_outer)(state, episodes)
        return state, info["loss"]

    start = loop.TrainState(learned, outer.init(learned), jax.random.key(0), jnp.zeros((), int))
    data = (episodes_of(problem), frozen)
    if mesh is not None:
        start, data = devices.place(mesh, (start, data))
    return Program(run, start, data, how.num_outer, how.options)


def plain(
    name: str,
    num_steps: int,
    second_order: bool,
    kind: str = "",
    *,
    num_tasks: int | None = None,
    narrow: bool = False,
    outer: optax.GradientTransformation | None = None,
) -> Program:
    """What one writes first: ``jit(grad(mean(vmap(task))))`` around a loop, and Adam.

    Args:
      kind: one of the workload's ``variations``, or nothing.
      num_tasks, narrow, outer: as of `library`.
    """
    outer = outer or OUTER
    problem, workload = problems.make(name, num_tasks), WORKLOADS[name]
    apply, loss = workload.variations[kind] if kind else workload.network, workload.loss
    apply = mixed(Model(lambda *_: {}, apply)).apply if narrow else apply
    learned, frozen = _split(problem)

    task = _task(apply, loss, problem, num_steps, second_order)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: tuple, data: PyTree):
        (learned, moments), (episodes, frozen) = state, data
        mean = lambda p: jnp.mean(jax.vmap(task, (None, None, 0))(p, frozen, episodes))
        value, grads = jax.value_and_grad(mean)(learned)
        updates, moments = outer.update(grads, moments, learned)
        return (optax.apply_updates(learned, updates), moments), value[None]

    return Program(run, (learned, outer.init(learned)), (episodes_of(problem), frozen), 1)
