"""Models of several tasks at once: what tasks share, and through which gates.

A model here scores a row for T tasks: ``apply`` gives (N, T), for inputs (N, D) and no profile. A
logit of a yes and a number stand side by side; which loss each column has is the trainer's affair.
Layers are ReLU; a tower is one hidden layer and a linear output.

References: Caruana, "Multitask learning", 1997; Ma et al., "Modeling task relationships in
multi-task learning with multi-gate mixture-of-experts", KDD 2018; Tang et al., "Progressive layered
extraction", RecSys 2020; Ma et al., "Entire space multi-task model" (ESMM), SIGIR 2018.
"""

import jax
import jax.numpy as jnp

from metajax.types import Model, Params, PyTree

Layer = dict[str, jax.Array]


def dense(key: jax.Array, *shape: int) -> Layer:
    """Kernels (..., inputs, outputs) of variance 2 / inputs, with biases of 0."""
    kernel = jax.random.normal(key, shape) * (2.0 / shape[-2]) ** 0.5
    return {"kernel": kernel, "bias": jnp.zeros((*shape[:-2], shape[-1]))}


def shared_bottom(num_tasks: int, width: int, tower: int) -> Model:
    """One hidden layer that all tasks share, and a tower for each.

    Args:
      num_tasks: T; width: units of the shared layer; tower: hidden units of each tower.
    """

    def init(key: jax.Array, profile: PyTree, inputs: jax.Array) -> Params:
        key_bottom, key_tower = jax.random.split(key)
        bottom = dense(key_bottom, inputs.shape[-1], width)
        return {"bottom": bottom, "towers": _towers(key_tower, num_tasks, width, tower)}

    def apply(params: Params, profile: PyTree, inputs: jax.Array) -> jax.Array:
        shared = jax.nn.relu(_through(params["bottom"], inputs))
        seen = jnp.broadcast_to(shared, (num_tasks, *shared.shape))
        return _scores(params["towers"], seen)

    return Model(init, apply)


def mixture(
    num_tasks: int,
    num_experts: int,
    width: int,
    tower: int,
    *,
    one_gate: bool = False,
    frozen: bool = False,
) -> Model:
    """Mixture of experts, with a gate for each task (MMoE) or one for all (OMoE).

    The gates are softmaxes of a linear map of the inputs; a task's tower sees the mean of the
    experts by its gate. With one expert it is a `shared_bottom`.

    Args:
      num_tasks: T; num_experts: E, each one hidden layer of ``width`` units.
      tower: hidden units of each tower.
      one_gate: whether all tasks share a gate.
      frozen: whether all gates stay uniform (the control).
    """
    num_gates = 1 if one_gate else num_tasks

    def init(key: jax.Array, profile: PyTree, inputs: jax.Array) -> Params:
        key_expert, key_gate, key_tower = jax.random.split(key, 3)
        size = inputs.shape[-1]
        return {
            "experts": dense(key_expert, num_experts, size, width),
            "gates": _gates(key_gate, num_gates, size, num_experts),
            "towers": _towers(key_tower, num_tasks, width, tower),
        }

    def apply(params: Params, profile: PyTree, inputs: jax.Array) -> jax.Array:
        experts_ExNxW = jax.nn.relu(_through(params["experts"], inputs))
        gate_TxNxE = gate_weights(params, inputs)
        if frozen:
            gate_TxNxE = jnp.full_like(gate_TxNxE, 1.0 / num_experts)
        seen = jnp.einsum("tne,enw->tnw", gate_TxNxE, experts_ExNxW)
        return _scores(params["towers"], jnp.broadcast_to(seen, (num_tasks, *seen.shape[1:])))

    return Model(init, apply)


def gate_weights(params: Params, inputs: jax.Array) -> jax.Array:
    """The weights (gates, N, E) that a `mixture` gives its experts; they sum to 1."""
    return jax.nn.softmax(_through(params["gates"], inputs), axis=-1)


def progressive(
    num_tasks: int, num_shared: int, num_own: int, width: int, tower: int, levels: int = 2
) -> Model:
    """Progressive layered extraction (PLE): shared experts, and experts that one task alone uses.

    A task's gate chooses among its own experts and the shared ones; the gate of what is shared
    among all. Each level takes the gated mixtures of the level below.

    Args:
      num_tasks: T; num_shared: experts of all, and num_own: of each task, in each level.
      width: units of an expert; tower: hidden units of each tower; levels: how many.
    """
    total = num_shared + num_tasks * num_own

    def init(key: jax.Array, profile: PyTree, inputs: jax.Array) -> Params:
        key_tower, *keys = jax.random.split(key, 1 + 2 * levels)
        found, size = {"towers": _towers(key_tower, num_tasks, width, tower)}, inputs.shape[-1]
        for i in range(levels):
            found[f"level_{i}"] = {
                "experts": dense(keys[2 * i], total, size, width),
                "gates": _gates(keys[2 * i + 1], num_tasks + 1, size, total),
            }
            size = width
        return found

    def apply(params: Params, profile: PyTree, inputs: jax.Array) -> jax.Array:
        owner = jnp.asarray([num_tasks] * num_shared + sorted([*range(num_tasks)] * num_own))
        task = jnp.arange(num_tasks + 1)[:, None]  # the last is what is shared: it may use all
        allowed = (owner[None] == num_tasks) | (owner[None] == task) | (task == num_tasks)
        seen = jnp.broadcast_to(inputs, (num_tasks + 1, *inputs.shape))
        for i in range(levels):
            level = params[f"level_{i}"]
            experts = jax.nn.relu(_each(level["experts"], seen[owner]))
            logits = jnp.where(allowed[:, None, :], _each(level["gates"], seen), -jnp.inf)
            seen = jnp.einsum("tne,enw->tnw", jax.nn.softmax(logits, axis=-1), experts)
        return _scores(params["towers"], seen[:num_tasks])

    return Model(init, apply)


def apart(num_tasks: int, width: int, tower: int) -> Model:
    """A network for each of T tasks, which share nothing: the baseline of all models here.

    Args:
      num_tasks: T; width: units of the first hidden layer of each; tower: of the second.
    """

    def init(key: jax.Array, profile: PyTree, inputs: jax.Array) -> Params:
        key_bottom, key_tower = jax.random.split(key)
        bottom = dense(key_bottom, num_tasks, inputs.shape[-1], width)
        return {"bottom": bottom, "towers": _towers(key_tower, num_tasks, width, tower)}

    def apply(params: Params, profile: PyTree, inputs: jax.Array) -> jax.Array:
        return _scores(params["towers"], jax.nn.relu(_through(params["bottom"], inputs)))

    return Model(init, apply)


def entire_space(model: Model) -> Model:
    """The model of a chain of events (ESMM): what is shown, clicked, then bought.

    Column t of ``model`` becomes the logit that step t follows once step t - 1 has happened (the
    conversion rate, CVR), and column t of the result is the logit that all steps up to t happen
    (CTCVR), for which every row shown has a label. Trained on all rows, the conversion rate needs
    no labels of its own, which only clicked rows would have. `entire_space` of a `shared_bottom` is
    the ESMM of the paper.

    What is unbiased over all rows is CTCVR. A conversion rate that cannot be represented by the
    model stays biased toward clicked rows, as it is where it is trained on them alone.

    Args:
      model: scores (N, T), T steps in their order.
    """

    def apply(params: Params, profile: PyTree, inputs: jax.Array) -> jax.Array:
        return chained(model.apply(params, profile, inputs))

    return Model(model.init, apply)


def chained(logits_NxT: jax.Array) -> jax.Array:
    """The logits (N, T) that all steps up to t happen, from those that each follows the one before.

    >>> logits = jnp.log(jnp.array([[1.0, 3.0]]))  # 1/2, then 3/4
    >>> print(jax.nn.sigmoid(chained(logits)).round(3))
    [[0.5   0.375]]
    """
    log_p = jnp.cumsum(jax.nn.log_sigmoid(logits_NxT), axis=-1)
    # log(1 - exp(x)) loses all digits near 0 unless it is taken by expm1.
    return log_p - jnp.log(-jnp.expm1(jnp.minimum(log_p, -1e-6)))


def _gates(key: jax.Array, count: int, size: int, num_experts: int) -> Layer:
    """Linear maps to the logits of gates, small, so that all experts count alike at first."""
    kernel = 0.1 * jax.random.normal(key, (count, size, num_experts)) / size**0.5
    return {"kernel": kernel, "bias": jnp.zeros((count, num_experts))}


def _towers(key: jax.Array, num_tasks: int, size: int, hidden: int) -> dict[str, Layer]:
    key_hidden, key_out = jax.random.split(key)
    return {
        "hidden": dense(key_hidden, num_tasks, size, hidden),
        "out": dense(key_out, num_tasks, hidden, 1),
    }


def _scores(towers: dict[str, Layer], seen_TxNxW: jax.Array) -> jax.Array:
    """The scores (N, T) of all towers, each on what its task sees."""
    hidden = jax.nn.relu(_each(towers["hidden"], seen_TxNxW))
    return _each(towers["out"], hidden)[..., 0].T


def _through(layer: Layer, x_NxD: jax.Array) -> jax.Array:
    """The same rows through one layer (N, outputs), or through each of many (E, N, outputs)."""
    return x_NxD @ layer["kernel"] + layer["bias"][..., None, :]


def _each(layer: Layer, x_ExNxD: jax.Array) -> jax.Array:
    """Rows of its own through each of E layers: (E, N, outputs)."""
    return jnp.einsum("end,edw->enw", x_ExNxD, layer["kernel"]) + layer["bias"][:, None, :]
