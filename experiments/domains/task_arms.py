"""The models of multi_task on tables of rows: how each is trained, tuned and scored."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.data.sources import labeled
from metajax.models import experts
from metajax.optim import balance
from metajax.training import loop
from metajax.training.devices import on_devices, split_by_compiler
from metajax.training.updates import Update
from metajax.transforms.task_weights import TaskLosses, task_weighed
from metajax.types import Episode, Examples, Model, Params

NAME = "multi_task"
SINGLE, BOTTOM, ONE, MANY, PLE = "single task", "shared bottom", "one gate (OMoE)", "MMoE", "PLE"
FROZEN, SURE, FREED = "MMoE, uniform gates", "MMoE, uncertainty", "MMoE, PCGrad"
LEARNED, RANDOM = "MMoE, learned weights", "MMoE, last task random"
ESMM, PRODUCT, CLICKED = "ESMM", "CTR x CVR of viewed rows", "CVR of viewed rows"
WIDTH, TOWER, EXPERTS = 16, 8, 4
RATES, DECAYS = (5e-4, 2e-2), (1e-4, 1.0)
"""A trial draws its rate of Adam and its weight decay between these, on a log scale."""
BLOCK = 50
"""Steps between two looks at validation; the best look is kept."""


class Arm(NamedTuple):
    """A model, and how it is trained.

    Attributes:
      model: logits or numbers (N, T).
      way: how losses are balanced: "mean", "uncertainty", "pcgrad" or "learned".
      stepwise: whether a step's label counts only where the step before happened; the product of
        the steps is what is scored.
      dealt: whether the labels of the last task are dealt at random in training.
    """

    model: Model
    way: str = "mean"
    stepwise: bool = False
    dealt: bool = False


def made(num_tasks: int, chain: bool) -> dict[str, Arm]:
    """The arms, of about as many parameters each."""
    gates = lambda **how: experts.mixture(num_tasks, EXPERTS, WIDTH, TOWER, **how)
    bottom = experts.shared_bottom(num_tasks, EXPERTS * WIDTH, TOWER)
    shared = max(1, EXPERTS - num_tasks)
    found = {
        SINGLE: Arm(experts.apart(num_tasks, EXPERTS * WIDTH // num_tasks, TOWER)),
        BOTTOM: Arm(bottom),
        ONE: Arm(gates(one_gate=True)),
        MANY: Arm(gates()),
        PLE: Arm(experts.progressive(num_tasks, shared, 1, WIDTH, TOWER)),
        SURE: Arm(gates(), "uncertainty"),
        FREED: Arm(gates(), "pcgrad"),
        LEARNED: Arm(gates(), "learned"),
        FROZEN: Arm(gates(frozen=True)),
        RANDOM: Arm(gates(), dealt=True),
    }
    if chain:
        found |= {ESMM: Arm(experts.entire_space(bottom)), PRODUCT: Arm(bottom, stepwise=True)}
    return found


def losses_of(rows: labeled.Labeled) -> TaskLosses:
    """The losses (T,) of a batch, each in units of the loss of the best constant in training.

    Cross-entropy of a yes, squared error of a number; all tasks weigh alike in these units.
    """
    train, unit = rows.part == labeled.TRAIN, []
    for t, number in enumerate(rows.numbers):
        label = rows.label[train & (rows.known[:, t] > 0), t].astype(float)
        p = label.mean()
        unit.append(label.var() if number else -(p * np.log(p) + (1 - p) * np.log1p(-p)))
    number, scale = jnp.asarray(rows.numbers)[None], jnp.asarray(unit, jnp.float32)

    def losses(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
        yes = jnp.logaddexp(0.0, score) - label * score
        each = jnp.where(number, (score - label) ** 2, yes)
        return (each * mask).sum(axis=0) / jnp.maximum(mask.sum(axis=0), 1.0) / scale

    return losses


def recipe(arm: Arm, losses: TaskLosses) -> loop.Recipe:
    """How an arm is trained on batches of `sampler`.

    The rate and the weight decay of a seed are drawn by ``init`` within the batch's range, so that
    the seeds of one program are the trials of a search.
    """
    learner = task_weighed(arm.model, losses)

    def init(key: jax.Array, batch: Episode) -> Params:
        key_net, key_draw = jax.random.split(key)
        low, high = batch.profile
        drawn = low + (high - low) * jax.random.uniform(key_draw, (2,))
        theta = learner.init(key_net, batch)
        num_tasks = batch.support.label.shape[1]
        own = {"theta": theta, "log_variance": jnp.zeros(num_tasks)}
        return {"own": own, "settings": drawn}

    def of_tasks(own: Params, batch: Episode) -> jax.Array:
        seen = batch.support
        scores = arm.model.apply(own["theta"]["model"]["net"], (), seen.inputs)
        return losses(scores, seen.label, seen.mask)

    def gradient(params: Params, batch: Episode, key: jax.Array):
        own, still = params["own"], jnp.zeros_like(params["settings"])
        if arm.way == "pcgrad":
            found, slope = of_tasks(own, batch), jax.jacrev(of_tasks)(own, batch)
            return {"own": slope, "settings": still}, {"loss": found.mean()}

        def loss(own: Params) -> jax.Array:
            if arm.way == "learned":
                return learner.loss(own["theta"], batch, key)[0]
            value = of_tasks(own, batch)
            sure = arm.way == "uncertainty"
            return balance.by_uncertainty(value, own["log_variance"]) if sure else value.mean()

        value, slope = jax.value_and_grad(loss)(own)
        return {"own": slope, "settings": still}, {"loss": value}

    return loop.Recipe(init, gradient, adam(arm.way == "pcgrad"))


def adam(freed: bool) -> Update:
    """Adam with decoupled weight decay, both as strong as the parameters' own settings say."""
    tx = optax.scale_by_adam()
    tx = optax.chain(balance.pcgrad(), tx) if freed else tx

    def apply(params: Params, state: Any, slope: Params) -> tuple[Params, Any]:
        step, state = tx.update(slope["own"], state, params["own"])
        rate, decay = jnp.exp(params["settings"])
        moved = jax.tree.map(lambda p, s: p - rate * (s + decay * p), params["own"], step)
        return {"own": moved, "settings": params["settings"]}, state

    return Update(lambda params: tx.init(params["own"]), apply)


def sampler(arm: Arm, batch: int) -> loop.Sampler:
    """Draws rows to train on; a fifth of them is held out where weights are learned on it.

    A batch is an episode: the settings' range, rows to learn from, and rows held out.
    """

    def sample(data: Any, key: jax.Array) -> Episode:
        rows, count = data["rows"], len(data["rows"].label)
        edge = count * 4 // 5 if arm.way == "learned" else count
        key_seen, key_held = jax.random.split(key)
        take = lambda i: jax.tree.map(lambda x: x[i], rows)
        seen = take(jax.random.randint(key_seen, (batch,), 0, edge))
        held = take(jax.random.randint(key_held, (batch,), edge, count)) if edge < count else seen
        return Episode(data["range"], seen, held)

    return sample


def logits(arm: Arm, params: Params, x: jax.Array) -> jax.Array:
    """The scores (N, T) of one seed."""
    found = arm.model.apply(params["own"]["theta"]["model"]["net"], (), x)
    return experts.chained(found) if arm.stepwise else found


def of_part(rows: labeled.Labeled, part: int) -> Examples:
    """The rows of a part: inputs (N, D), labels and masks (N, T)."""
    mine = rows.part == part
    return Examples(*(jnp.asarray(v[mine]) for v in (rows.x, rows.label, rows.known)))


@dataclasses.dataclass(frozen=True)
class Tuner:
    """What all arms are tuned with.

    Attributes:
      rows: the table; num_steps, batch, devices: of a training; trials: of each arm.
    """

    rows: labeled.Labeled
    num_steps: int
    batch: int
    trials: int
    devices: int = 1

    def tuned(self, arm: Arm) -> tuple[dict[str, Any], Params]:
        """The choices made on validation, and the parameters (S, ...) of the trials that are kept.

        A trial is a seed with a rate and a decay of its own; the better half of them on validation
        is kept, each at its best look.
        """
        losses, valid = losses_of(self.rows), of_part(self.rows, labeled.VALID)
        drawn = jnp.log(jnp.asarray([RATES, DECAYS]).T)
        data = {"rows": self.training(arm), "range": drawn}

        def error(params: Params) -> jax.Array:
            return losses(logits(arm, params, valid.inputs), valid.label, valid.mask).mean()

        keys = jax.random.split(jax.random.key(1), self.trials)
        how = on_devices(self.devices, recipe(arm, losses), split_by_compiler)
        fitted = loop.fit(
            how, sampler(arm, self.batch), data, keys, self.num_steps,
            block=BLOCK, validate=error,
        )  # fmt: skip
        score = fitted.history["valid"].min(axis=1)
        kept = np.argsort(score)[: max(1, self.trials // 2)]
        params = jax.tree.map(lambda x: x[kept], fitted.params)
        rate, decay = np.exp(np.asarray(params["settings"])).T
        told = {"rate": rate.tolist(), "decay": decay.tolist(), "trials": self.trials}
        told |= {"steps": fitted.best_step[kept].tolist(), "valid": float(score[kept].mean())}
        return told | {"parameters": size(params)}, params

    def training(self, arm: Arm) -> Examples:
        """The rows that an arm is trained on, in random order."""
        seen = of_part(self.rows, labeled.TRAIN)
        order = jax.random.permutation(jax.random.key(5), len(seen.label))
        seen = jax.tree.map(lambda x: x[order], seen)
        if arm.stepwise:  # a purchase counts only where there was a view
            before = jnp.concatenate([jnp.ones((len(order), 1)), seen.label[:, :-1]], axis=1)
            seen = seen._replace(mask=seen.mask * before)
        if arm.dealt:
            dealt = jax.random.permutation(jax.random.key(6), len(order))
            last = lambda x: x.at[:, -1].set(x[dealt, -1])
            seen = seen._replace(label=last(seen.label), mask=last(seen.mask))
        return seen


def size(params: Params) -> int:
    """How many parameters the network of a seed has."""
    net = params["own"]["theta"]["model"]["net"]
    return sum(x[0].size for x in jax.tree.leaves(net))
