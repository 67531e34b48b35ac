"""The arms of ``online_meta``: three learners, and the updaters of what their tasks share."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import optim
from metajax.learners.gradient.maml import gradient
from metajax.learners.pooled import fine_tuned
from metajax.online import anchor, buffers, leaders, updaters
from metajax.online.buffers import Kept
from metajax.online.meta import AskedTasks, meta
from metajax.online.prequential import Online
from metajax.online.updaters import Updater
from metajax.results import records
from metajax.training.devices import split_over
from metajax.types import Episode, MetaLearner, Model, Params

SCRATCH, BASE, BEST = "from scratch", "means so far", "Bayes tracker"
PLAIN_FROZEN, PLAIN, PLAIN_ALL = (
    "no meta, frozen",
    "no meta, newest tasks",
    "no meta, everything",
)
FROZEN, STEP, ANCHOR, WINDOW = (
    "meta, frozen",
    "meta, newest tasks",
    "meta, newest, anchored",
    "meta, retrain on a window",
)
FTML, ONE, FORM, MOML, LA = "FTML", "FTML, buffer of one", "FORM", "MOML", "La-MAML, replay"
ROLES = {
    BASE: records.BASELINE,
    BEST: records.BASELINE,
    PLAIN_FROZEN: records.BASELINE,
    PLAIN: records.BASELINE,
    PLAIN_ALL: records.BASELINE,
    SCRATCH: records.CONTROL,
    ONE: records.CONTROL,
}
JOINT, META, RATES = "joint", "meta", "rates"
"""What is trained in a warm-up: the model of everybody, MAML, MAML with clipped rates."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much the arms keep and do.

    Attributes:
      inner_steps: of a task's adaptation; batch: tasks of a round and of an outer step.
      buffer: tasks that FTML keeps; window: tasks of the retrain, which comes as often.
      window_steps: of each retrain.
    """

    inner_steps: int = 3
    batch: int = 16
    buffer: int = 2_000
    window: int = 500
    window_steps: int = 100


def learners(model: Model, sizes: Sizes) -> dict[str, MetaLearner]:
    """The three learners, by kind."""
    inner, steps = optim.learned_rates(0.05), sizes.inner_steps
    return {
        JOINT: fine_tuned(model, inner, steps),
        META: gradient(model, inner, steps),
        RATES: gradient(model, leaders.clipped_rates(0.05), steps, second_order=False),
    }


class Arm(NamedTuple):
    """One arm: whose learner, its updater at a rate from a start, the rates to choose from."""

    kind: str
    updater: Callable[[jax.Array, Params], Updater]
    rates: tuple[float, ...]


def arms(of: dict[str, MetaLearner], sizes: Sizes) -> dict[str, Arm]:
    """All arms by name."""
    joint, maml, learned = of[JOINT], of[META], of[RATES]
    still = lambda rate, start: updaters.frozen()
    adam = (1e-3, 1e-2)
    all_tasks, batch = buffers.reservoir(sizes.buffer), sizes.batch

    def anchored(rate: jax.Array, start: Params) -> Updater:
        tx = optax.chain(optax.adam(rate), anchor.decay_to(start, 0.01))
        return updaters.newest(maml, tx)

    def window(rate: jax.Array, start: Params) -> Updater:
        kept = buffers.newest(sizes.window)
        return updaters.retrained(
            maml, optax.adam(rate), kept, sizes.window, sizes.window_steps, batch
        )  # fmt: skip

    def la_maml(rate: jax.Array, start: Params) -> Updater:
        alone = leaders.la_maml(learned, rate)
        return updaters.with_replay(alone, buffers.reservoir(min(sizes.buffer, 500)), batch)

    newest = lambda learner: lambda rate, start: updaters.newest(learner, optax.adam(rate))
    leader = lambda learner, kept: (
        lambda rate, start: updaters.leader(learner, optax.adam(rate), kept, 1, batch)
    )
    return {
        SCRATCH: Arm(META, still, (0.0,)),
        PLAIN_FROZEN: Arm(JOINT, still, (0.0,)),
        PLAIN: Arm(JOINT, newest(joint), adam),
        PLAIN_ALL: Arm(JOINT, leader(joint, all_tasks), adam),
        FROZEN: Arm(META, still, (0.0,)),
        STEP: Arm(META, newest(maml), adam),
        ANCHOR: Arm(META, anchored, adam),
        WINDOW: Arm(META, window, adam),
        FTML: Arm(META, leader(maml, all_tasks), adam),
        ONE: Arm(META, leader(maml, buffers.newest(1)), adam),
        FORM: Arm(META, lambda r, s: leaders.regularized_leader(maml, r), (0.01, 0.1)),
        MOML: Arm(META, lambda r, s: leaders.balanced(maml, 1.0, r, 3), (0.03, 0.3)),
        LA: Arm(RATES, la_maml, (1e-3, 1e-2)),
    }  # fmt: skip


def online(arm: Arm, learner: MetaLearner, task: Episode) -> Callable[[jax.Array, Params], Online]:
    """(rate, start) -> the arm on a stream."""
    return lambda rate, start: meta(learner, arm.updater(rate, start), start, task)


def gradients(name: str, sizes: Sizes) -> float:
    """Task gradients of the outer loss for each task of the stream."""
    if name in (SCRATCH, PLAIN_FROZEN, FROZEN, BASE, BEST):
        return 0.0
    several = {MOML: 3.0, LA: 2.0, WINDOW: sizes.window_steps * sizes.batch / sizes.window}
    return several.get(name, 1.0)


class Trainer:
    """Offline training of one learner on the tasks of a warm-up, compiled once for each size.

    Args:
      devices: that the ``batch`` tasks of an outer step are split over.
    """

    def __init__(self, learner: MetaLearner, num_steps: int, batch: int, devices: int = 1):
        self.learner, tx = learner, optax.adam(optax.cosine_decay_schedule(1e-2, num_steps))
        descend = updaters.descend(learner, tx, num_steps, batch, split_over(devices))
        take = lambda params, tasks, count, key: descend(
            params, tx.init(params), Kept(tasks, count), key
        )
        self._take = jax.jit(lambda *args: take(*args)[0])

    def __call__(self, tasks: Episode, count: int, seed: int) -> Params:
        """Parameters after training on the first ``count`` of the tasks (T, ...)."""
        key_init, key = jax.random.split(jax.random.key(seed))
        params = self.learner.init(key_init, jax.tree.map(lambda x: x[0], tasks))
        padded = jax.tree.map(_to_power, tasks)
        found = self._take(params, padded, jnp.asarray(count, jnp.int32), key)
        return jax.device_put(found, jax.devices()[0])  # streams are played on one device


def _to_power(x: jax.Array) -> jax.Array:
    """Tasks padded to a power of two, so that warm-ups of similar length share a program."""
    rest = 2 ** int(np.ceil(np.log2(max(len(x), 1)))) - len(x)
    return jnp.concatenate([x, jnp.zeros((rest, *x.shape[1:]), x.dtype)])


def means_so_far(place: int, damping: float = 2.0) -> Online:
    """The closed form that must be beaten: the item's mean so far and the user's damped residual.

    Args:
      place: the column of the inputs with the item's mean so far.
    """

    def predict(state: Any, asked: AskedTasks) -> jax.Array:
        item = asked.inputs[..., place]
        known, mask = asked.support.inputs[..., place], asked.support.mask
        rest = jnp.sum((asked.support.label - known) * mask, axis=1)
        return item + (rest / (jnp.sum(mask, axis=1) + damping))[:, None]

    return Online(lambda key: jnp.zeros(()), predict, lambda state, told: state)


def inner_rate(params: Params, rate: float) -> Params:
    """Parameters of the joint learner with another rate of fine-tuning."""
    return {
        **params,
        "rates": jax.tree.map(lambda x: jnp.full_like(x, np.log(rate)), params["rates"]),
    }


def size_of(state: Any) -> int:
    """Bytes that a learner keeps."""
    return int(sum(np.asarray(x).nbytes for x in jax.tree.leaves(state)))
