"""MAMO: memories of earlier tasks, read by attention, give a new task its start.

Memories are meta-parameters. They are read under ``stop_gradient`` and written by surrogate losses
``0.5 ||M - stop_gradient(value)||^2``, whose gradient step of rate a is the published write
``M <- (1 - a) M + a value``; `memory_optimizer` gives each memory its own rate.

With a the attention of the task's description p over the profile memory P, a task starts from
``theta - shift * a' U`` in its personal parameters and from the matrix ``a' C`` between body and
head. Personal parameters, matrix and head adapt by gradient. Then the outer product of a and p is
written to P, the gradient of the support loss at the start to U, and the adapted matrix to C.

Deviates from the published code, which has errors: here the attention's linear map is learned, not
drawn anew at every read; all tensors are restored between tasks, biases and shared embeddings too;
examples are not separated from their labels; there is one softmax, not two.

References: Dong et al., "MAMO: memory-augmented meta-optimization for cold-start recommendation",
KDD 2020, equations 3 to 13.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metajax import losses, optim, tree
from metajax.learners.gradient.maml import State, gradient
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


def _layered(body: Model, head: Model, num_features: int) -> Model:
    """``head(mix body(x))``, the model whose matrix ``mix`` is a task's own."""

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> PyTree:
        key_body, key_head = jax.random.split(key)
        own = body.init(key_body, profile, inputs)
        return {
            "body": own,
            "mix": jnp.eye(num_features),
            "head": head.init(key_head, profile, body.apply(own, profile, inputs)),
        }

    def apply(params: PyTree, profile: PyTree, inputs: PyTree) -> jax.Array:
        x_NxD = body.apply(params["body"], profile, inputs) @ params["mix"].T
        return head.apply(params["head"], profile, x_NxD)

    return Model(init, apply)


def attention(description: jax.Array, keys_MxP: jax.Array, kernel: jax.Array) -> jax.Array:
    """The attention weights (M,): softmax of a linear map of the cosine similarities.

    Args:
      description: (P,) of the task.
      keys_MxP: one key per memory slot.
      kernel: (M, M) the linear map.
    """
    norm = jnp.sqrt(jnp.sum(description**2) + 1e-12)
    norms = jnp.sqrt(jnp.sum(keys_MxP**2, axis=1) + 1e-12)
    return jax.nn.softmax((keys_MxP @ description) / (norm * norms) @ kernel)


def read(weight: jax.Array, memory: PyTree) -> PyTree:
    """The sum (...) of the memory slots, leaves (M, ...), weighted by attention (M,)."""
    return jax.tree.map(lambda m: jnp.tensordot(weight, m, axes=1), memory)


def write_loss(weight: jax.Array, value: PyTree, memory: PyTree) -> jax.Array:
    """The surrogate loss () of a write: half the squared distance of memory and written value.

    The written value is the outer product of weight (M,) and value, a tree of leaves (...); the
    gradient reaches the memory, leaves (M, ...), only.
    """
    target = jax.tree.map(lambda v: jnp.multiply.outer(weight, v), value)
    target = jax.lax.stop_gradient(target)
    return 0.5 * tree.squared_norm(jax.tree.map(jnp.subtract, memory, target))


def mamo(
    body: Model,
    head: Model,
    describe: Model,
    inner: optim.Inner | optax.GradientTransformation,
    num_steps: int,
    *,
    num_features: int,
    num_description: int,
    personal: tree.Filter = tree.everything,
    num_memories: int = 3,
    shift: float = 0.01,
    second_order: bool = False,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """MAMO: a learner whose start is read from three memories by attention on the profile.

    Args:
      body: a model whose ``apply`` gives features (N, ``num_features``).
      head: a model of features (N, ``num_features``).
      describe: a model whose ``apply(params, profile, ())`` is p, of shape (``num_description``,).
      inner: the inner optimizer.
      num_steps: its steps in one call of ``adapt``.
      personal: a filter over the paths of the body's parameters: those that start from U.
      num_memories: M.
      shift: tau, how far the remembered gradient moves the start.
      second_order: whether the outer gradient sees the derivative of the inner gradient.
      loss: (scores, label, mask) -> scalar.
    """
    model, adapts = _layered(body, head, num_features), _adapting(personal)
    base = gradient(model, inner, num_steps, adapts=adapts, second_order=second_order, loss=loss)
    sizes = {"profile": num_description, "task": num_features}
    init = _initializer(base, describe, personal, num_memories, sizes)

    def start(params: PyTree, profile: PyTree) -> State:
        _, weight = _attended(describe, params, profile)
        theta = _recalled(params, weight, personal, shift)
        return base.start({"model": theta, "rates": params["rates"]}, profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        return base.adapt(_for_base(params), state, examples, key)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        return base.predict(_for_base(params), state, inputs)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        description, weight = _attended(describe, params, episode.profile)
        before = start(params, episode.profile)
        after = adapt(params, before, episode.support, key)
        scores = predict(params, after, episode.query.inputs)
        value = loss(scores, episode.query.label, episode.query.mask)
        new = {
            "profile": description,
            "gradient": _support_gradient(predict, params, before, episode.support, loss),
            "task": after.fast["mix"],
        }
        write = _write_loss(params["memory"], weight, new, episode.support)
        return value + write, {"query_loss": value, "write": write}

    return MetaLearner(init, start, adapt, predict, outer_loss, base.num_gradients)


def _write_loss(memory: PyTree, weight: jax.Array, new: PyTree, support: Examples) -> jax.Array:
    """What pulls the memories to what a task has to say; 0 where it has said nothing."""
    write = sum(write_loss(weight, new[k], rows) for k, rows in memory.items())
    return jnp.where(jnp.any(support.mask > 0), write, 0.0)


def _for_base(params: PyTree) -> PyTree:
    """The parameters of the gradient learner, whose matrix stands in the state alone."""
    return {"model": {**params["model"], "mix": None}, "rates": params["rates"]}


def _adapting(personal: tree.Filter) -> tree.Filter:
    """A filter for the matrix, the head and the personal parameters of the body."""

    def adapts(path: str) -> bool:
        top, _, rest = path.partition("/")
        return top in ("mix", "head") or (top == "body" and personal(rest))

    return adapts


def _initializer(
    base: MetaLearner,
    describe: Model,
    personal: tree.Filter,
    num_memories: int,
    sizes: dict[str, int],
) -> Callable[[jax.Array, Episode], PyTree]:
    """`MetaLearner.init` of MAMO: random profiles, no gradients, matrices about the identity.

    Args:
      sizes: lengths of a profile and of a side of a task's matrix.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_base, key_describe, key_profile, key_task, key_attention = jax.random.split(key, 5)
        params = base.init(key_base, episode)
        theta = {k: v for k, v in params["model"].items() if k != "mix"}
        own, _ = tree.partition(theta["body"], personal)
        side = sizes["task"]
        noise = jax.random.normal(key_task, (num_memories, side, side))
        memory = {
            "profile": jax.random.normal(key_profile, (num_memories, sizes["profile"])),
            "gradient": jax.tree.map(lambda x: jnp.zeros((num_memories, *x.shape)), own),
            "task": jnp.eye(side)[None] + 0.1 * noise,
        }
        return {
            "model": theta,
            "rates": params["rates"],
            "describe": describe.init(key_describe, episode.profile, ()),
            "attention": jax.random.normal(key_attention, (num_memories, num_memories)),
            "memory": memory,
        }

    return init


def _attended(describe: Model, params: PyTree, profile: PyTree) -> tuple[jax.Array, jax.Array]:
    """The description (P,) of a task and its weights (M,) of the memories."""
    description = describe.apply(params["describe"], profile, ())
    keys = jax.lax.stop_gradient(params["memory"]["profile"])
    return description, attention(description, keys, params["attention"])


def _recalled(params: PyTree, weight: jax.Array, personal: tree.Filter, shift: float) -> PyTree:
    """The model's parameters of a task that weighs the memories by (M,)."""
    memory, theta = jax.lax.stop_gradient(params["memory"]), params["model"]
    own, rest = tree.partition(theta["body"], personal)
    own = jax.tree.map(lambda x, g: x - shift * g, own, read(weight, memory["gradient"]))
    return {**theta, "body": tree.merge(own, rest), "mix": read(weight, memory["task"])}


def _support_gradient(
    predict: Callable[[PyTree, State, PyTree], jax.Array],
    params: PyTree,
    state: State,
    support: Examples,
    loss: losses.Loss,
) -> PyTree:
    """The gradient of the support loss in the personal parameters."""

    def support_loss(own: PyTree) -> jax.Array:
        fast = {**state.fast, "body": own}
        scores = predict(params, state._replace(fast=fast), support.inputs)
        return loss(scores, support.label, support.mask)

    return jax.grad(support_loss)(state.fast["body"])


def memory_optimizer(
    tx: optax.GradientTransformation,
    *,
    profile_rate: float = 0.5,
    gradient_rate: float = 0.05,
    task_rate: float = 0.1,
) -> optax.GradientTransformation:
    """``tx`` for all parameters of `mamo` but the memories, which are written at the given rates.

    The rates, of the memories P, U and C, are the published alpha, beta and gamma. A batch writes
    the mean over its tasks.
    """
    rates = {"profile": profile_rate, "gradient": gradient_rate, "task": task_rate}

    def label(path: tuple, leaf: jax.Array) -> str:
        del leaf
        _, memory, rest = f"/{tree.path_name(path)}".partition("/memory/")
        return rest.split("/")[0] if memory else "rest"

    labels = lambda params: jax.tree_util.tree_map_with_path(label, params)
    writes: dict[str, optax.GradientTransformation] = {k: optax.sgd(r) for k, r in rates.items()}
    return optax.partition({**writes, "rest": tx}, labels)
