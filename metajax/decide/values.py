"""Learning what a decision is worth in the long run: DQN and SlateQ, from a replay buffer.

The losses are rlax's, the buffer is flashbax's: ``pip install metajax[decide]``. Observations are
those of `ChocKale`: the C actions are slates, each with the kaleness of its items.

References: Mnih et al., Nature 2015 (DQN); van Hasselt et al., AAAI 2016 (double); Ie et al., IJCAI
2019 (SlateQ).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flashbax
import jax
import jax.numpy as jnp
import optax
import rlax

from metajax.decide import slates
from metajax.decide.choc_kale import features, with_state
from metajax.decide.environment import Environment, Observation, Policy, drawing
from metajax.types import Model, Params, PyTree


class Transition(NamedTuple):
    """One step: what was seen, done and picked, what came of it, and what was seen then.

    ``discount`` is 0 where the session ended, else that of the learner.
    """

    seen: Observation
    action: jax.Array
    picked: jax.Array
    reward: jax.Array
    discount: jax.Array
    later: Observation


class ValueLearner(NamedTuple):
    """A learner of values, as functions of one observation or transition.

    Attributes:
      init: (key, observation) -> params.
      values: (params, observation) -> (C,) the value of every action.
      error: (params, target params, transition) -> () temporal-difference error.
      discount: of the future; 0 is myopic.
    """

    init: Callable[[jax.Array, Observation], Params]
    values: Callable[[Params, Observation], jax.Array]
    error: Callable[[Params, Params, Transition], jax.Array]
    discount: float


def dqn(model: Model, discount: float) -> ValueLearner:
    """Double DQN: a slate is an action like any other.

    Args:
      model: from features (C, D) to values (C,).
    """
    values = lambda params, seen: model.apply(params, (), features(seen))

    def error(params: Params, target: Params, told: Transition) -> jax.Array:
        return rlax.double_q_learning(
            values(params, told.seen), told.action, told.reward, told.discount,
            values(target, told.later), values(params, told.later),
        )  # type: ignore[return-value]  # fmt: skip

    init = lambda key, seen: model.init(key, (), features(seen))
    return ValueLearner(init, values, error, discount)


def slate_q_error(
    now: slates.ItemValues,
    picked: jax.Array,
    reward: jax.Array,
    discount: jax.Array,
    later: slates.ItemValues,
    slates_Cxk: jax.Array,
    picks_later_Cxk1: jax.Array,
) -> jax.Array:
    """SlateQ's temporal-difference error () of the item that was picked.

    Args:
      picked: number of the item, A where none was.
      discount: 0 where the session has ended.
      later: values of the next state, of the target network; its best slate is what is shown then.
      picks_later_Cxk1: `picks` in the next state.
    """
    own = jnp.append(now.item, now.none)[picked]
    best = slates.of_slates(later.item, later.none, slates_Cxk, picks_later_Cxk1).max()
    return jnp.asarray(rlax.td_learning(own, reward, discount, best))


def slate_q(model: Model, discount: float, world: Any) -> ValueLearner:
    """SlateQ: values of items that are picked, and of picking none.

    Args:
      model: from features (A + 1, D) of the items, none last, to values.
      world: with ``slates`` (C, k) and ``picks``: kaleness (A,) -> (C, k + 1), the user model. Here
        it is the true one; in practice it is estimated from a log of what was picked.
    """
    table = world.slates

    def items(seen: Observation) -> jax.Array:
        kale_A = seen.inputs["items"][0]
        none = jnp.stack([jnp.zeros(()), jnp.ones(())])[None]
        own = jnp.stack([kale_A - 0.5, jnp.zeros_like(kale_A)], axis=1)
        own = jnp.concatenate([own, none])
        return with_state(seen, own)

    def of_items(params: Params, seen: Observation) -> slates.ItemValues:
        told = model.apply(params, (), items(seen))
        return slates.ItemValues(told[:-1], told[-1])

    def values(params: Params, seen: Observation) -> jax.Array:
        told = of_items(params, seen)
        return slates.of_slates(*told, table, world.picks(seen.inputs["items"][0]))

    def error(params: Params, target: Params, told: Transition) -> jax.Array:
        later = of_items(target, told.later)
        chance = world.picks(told.later.inputs["items"][0])
        now = of_items(params, told.seen)
        return slate_q_error(now, told.picked, told.reward, told.discount, later, table, chance)

    init = lambda key, seen: model.init(key, (), items(seen))
    return ValueLearner(init, values, error, discount)


def greedy(learner: ValueLearner, params: Params, explore: float | jax.Array = 0.0) -> Policy:
    """The policy that takes the action of the largest value, and any with chance ``explore``."""

    def chances(state: PyTree, seen: Observation, key: jax.Array) -> jax.Array:
        told = jnp.where(seen.mask > 0, learner.values(params, seen), -jnp.inf)
        any_C = explore * seen.mask / seen.mask.sum()
        return any_C.at[jnp.argmax(told)].add(1.0 - explore)

    return drawing(lambda key, seen: (), chances, lambda state, decision, key: state)


class Training(NamedTuple):
    """How values are learned.

    Attributes:
      steps: rounds in which ``people`` act side by side, each followed by one gradient.
      buffer, batch: transitions that are kept, and those of a gradient.
      rate: of Adam; copy: share of the target network that is replaced in a step.
      explore: exploring falls from 1 to this over the first half.
      scale: rewards are multiplied by it.
    """

    steps: int = 3_000
    people: int = 16
    buffer: int = 20_000
    batch: int = 64
    rate: float = 1e-3
    copy: float = 0.01
    explore: float = 0.05
    scale: float = 0.1


DEFAULT = Training()


def _renewed(done_P: jax.Array, fresh: PyTree, old: PyTree) -> PyTree:
    """The fresh leaves (P, ...) where a session has ended, the old ones elsewhere."""
    wide = lambda x: done_P.reshape(done_P.shape + (1,) * (x.ndim - 1))
    return jax.tree.map(lambda a, b: jnp.where(wide(a), a, b), fresh, old)


def train(
    environment: Environment,
    learner: ValueLearner,
    sample: Callable[[jax.Array], PyTree],
    key: jax.Array,
    training: Training = DEFAULT,
    swapped: bool = False,
    deal: Callable[[PyTree], PyTree] = lambda rows: rows,
) -> tuple[Params, jax.Array]:
    """Learned parameters, and the mean reward (steps,) of people whose sessions begin anew.

    Args:
      sample: a key -> one person.
      swapped: a control, a decision's reward is that of another one in the batch.
      deal: what is done to the batch of a step, such as `training.devices.split_over`.
    """
    P = training.people
    key_people, key_reset, key_init, key_run = jax.random.split(key, 4)
    person = jax.vmap(sample)(jax.random.split(key_people, P))
    seen, state = jax.vmap(environment.reset)(jax.random.split(key_reset, P), person)
    first_seen = jax.tree.map(lambda x: x[0], seen)
    params = learner.init(key_init, first_seen)
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(training.rate))
    size = training.buffer, training.batch, training.batch
    replay = flashbax.make_item_buffer(*size, add_batches=True)
    zero, at = jnp.zeros(()), jnp.zeros((), jnp.int32)
    kept = replay.init(Transition(first_seen, at, at, zero, zero, first_seen))

    def loss(params: Params, target: Params, batch: Transition) -> jax.Array:
        error = jax.vmap(learner.error, (None, None, 0))(params, target, batch)
        return rlax.huber_loss(error).mean()

    def round_of(carry: Any, now: tuple[jax.Array, jax.Array]):
        params, target, opt, kept, person, seen, state = carry
        i, key = now
        keys = jax.random.split(key, 5)
        explore = jnp.maximum(1.0 - 2.0 * i / training.steps, training.explore)
        policy = greedy(learner, params, explore)
        each = lambda n: jax.random.split(keys[n], P)
        action, _ = jax.vmap(policy.act, (None, 0, 0))((), seen, each(0))
        stepped = jax.vmap(environment.step)(each(1), state, action, person)
        later, after, reward, done, info = stepped
        going = learner.discount * (1.0 - done)
        line = Transition(seen, action, info["picked"], training.scale * reward, going, later)
        kept = replay.add(kept, line)
        batch = deal(replay.sample(kept, keys[2]).experience)
        if swapped:
            batch = batch._replace(reward=jnp.roll(batch.reward, 1))
        updates, opt = tx.update(jax.grad(loss)(params, target, batch), opt)
        params = optax.apply_updates(params, updates)
        target = optax.incremental_update(params, target, training.copy)
        others = jax.vmap(sample)(each(3))
        begun = jax.vmap(environment.reset)(each(4), others)
        goes_on = _renewed(done, (others, *begun), (person, later, after))
        return (params, target, opt, kept, *goes_on), reward.mean()

    first = (params, params, tx.init(params), kept, person, seen, state)
    steps = jnp.arange(training.steps), jax.random.split(key_run, training.steps)
    (params, *_), curve = jax.lax.scan(round_of, first, steps)
    return params, curve
