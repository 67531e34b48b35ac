"""The feedback loop of a service: feedback, learn, adjust, commit, in one scan, with its log.

Many users are served at once. Every round each of them is shown an item by the *live* model; a
*working* copy learns from the feedback that has come in; the *strategy*, how wide to explore, is
common to all and is adjusted to what feedback says of it; and the working model goes live where it
has predicted feedback no worse than the live one. Each stage is a pure function that can be
exchanged, or cut.

    parts = stages(beliefs, widths=(0.0, 0.3, 1.0))
    state, log = run(environment, beliefs, parts, users, key, rounds=2_000)

Reference: Auer, Cesa-Bianchi, Freund, Schapire, SIAM J. Computing 2002: the strategy is their Exp4,
whose experts are upper confidence bounds of different widths.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.decide.beliefs import Beliefs
from metajax.decide.environment import Decision, Environment, Log, Observation, draw
from metajax.decide.policies import best_of
from metajax.types import PyTree, UserError

FLOOR = 0.02
"""Share of the strategy that is spread over all widths, so that none is given up for ever."""
MEMORY = 0.95
"""How much of a model's mean error stays after one more feedback."""


class Told(NamedTuple):
    """Decisions of one round, of B users, and what is known about how they came to be.

    Attributes:
      decision: leaves (B, ...).
      advice: (B, W) the chance of the action under each of the strategy's widths.
      mask: (B,) 1 where the reward has come in.
    """

    decision: Decision
    advice: jax.Array
    mask: jax.Array


class Models(NamedTuple):
    """Of each of B users: the live and the working state, and the mean squared errors of both."""

    live: PyTree
    working: PyTree
    live_error: jax.Array
    working_error: jax.Array


class Strategy(NamedTuple):
    """Logarithms of the widths' weights (W,), and the mean reward so far ()."""

    weight: jax.Array
    level: jax.Array


class Stages(NamedTuple):
    """The four stages.

    Attributes:
      feedback: (waiting, told just sent) -> (waiting, told that comes in now).
      learn: (models, told, keys (B,)) -> models, with the working states changed.
      adjust: (strategy, told) -> strategy.
      commit: (models, round) -> models, with the live states changed.
      wait: an example of a told -> waiting, where nothing is on its way.
      widths: (W,) the strategy's experts, in units of the reward.
    """

    feedback: Callable[[PyTree, Told], tuple[PyTree, Told]]
    learn: Callable[[Models, Told, jax.Array], Models]
    adjust: Callable[[Strategy, Told], Strategy]
    commit: Callable[[Models, jax.Array], Models]
    wait: Callable[[Told], PyTree]
    widths: jax.Array


def where(chosen: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """The new leaves where chosen (), or (B,) for leaves (B, ...); else the old ones."""
    ranked = lambda x: chosen.reshape(chosen.shape + (1,) * (x.ndim - chosen.ndim))
    return jax.tree.map(lambda a, b: jnp.where(ranked(a), a, b), new, old)


def chances(strategy: Strategy) -> jax.Array:
    """The share (W,) of each width."""
    return (1 - FLOOR) * jax.nn.softmax(strategy.weight) + FLOOR / strategy.weight.shape[0]


def _mail(delay: int | jax.Array, size: int):
    """The functions ``wait`` and ``feedback`` of rewards that are ``delay`` < size rounds late."""

    def wait(example: Told) -> PyTree:
        blank = lambda x: jnp.zeros((size, *x.shape), x.dtype)
        return jax.tree.map(blank, example), jnp.zeros((), jnp.int32)

    def feedback(waiting: PyTree, sent: Told) -> tuple[PyTree, Told]:
        queue, count = waiting
        put = lambda x, y: x.at[count % size].set(jnp.asarray(y, x.dtype))
        queue = jax.tree.map(put, queue, sent)
        due = jax.tree.map(lambda x: x[(count - delay) % size], queue)
        return (queue, count + 1), due._replace(mask=due.mask * (count >= delay))

    return wait, feedback


def stages(
    beliefs: Beliefs,
    widths: Sequence[float] | jax.Array,
    *,
    delay: int | jax.Array = 0,
    longest: int = 0,
    rate: float | jax.Array = 0.1,
    every: int | jax.Array = 10,
) -> Stages:
    """The stages as this module's docstring tells them.

    Args:
      widths: of the upper confidence bounds that the strategy chooses among, in reward units.
      delay: rounds that a reward is on its way; at most ``longest``.
      rate: of the strategy's weights; 0 leaves it as it is.
      every: rounds between two commits.

    Raises:
      UserError: no width; a delay that is longer than the longest.
    """
    if not isinstance(delay, jax.Array) and not 0 <= delay <= longest:
        raise UserError(f"a delay of {delay} rounds: give 0 to {longest}, or a longer `longest`")
    if len(widths) == 0:
        raise UserError("a strategy without a width: give at least one, 0 for greedy")

    wait, feedback = _mail(delay, longest + 1)

    def learn(models: Models, told: Told, keys: jax.Array) -> Models:
        seen, action = told.decision.observation, told.decision.action

        def error(states: PyTree, old: jax.Array) -> jax.Array:
            mean = jax.vmap(lambda s, o, a: beliefs.believe(s, o).mean[a])(states, seen, action)
            new = MEMORY * old + (1 - MEMORY) * (told.decision.reward - mean) ** 2
            return jnp.where(told.mask > 0, new, old)

        after = jax.vmap(beliefs.update)(models.working, told.decision, keys)
        return Models(
            models.live,
            where(told.mask > 0, after, models.working),
            error(models.live, models.live_error),
            error(models.working, models.working_error),
        )

    def adjust(strategy: Strategy, told: Told) -> Strategy:
        chance = jnp.where(told.mask > 0, told.decision.propensity, 1.0)
        # the mean is the same for every width, and taking it off makes the estimates vary less
        gain = told.decision.reward - strategy.level
        worth_BxW = (told.mask * gain / chance)[:, None] * told.advice
        shift = jnp.sum(told.mask * gain) / jnp.maximum(told.mask.sum(), 1)
        level = strategy.level + (1 - MEMORY) * shift
        return Strategy(strategy.weight + rate * worth_BxW.mean(axis=0), level)

    def commit(models: Models, number: jax.Array) -> Models:
        better = (models.working_error <= models.live_error) & ((number + 1) % every == 0)
        return models._replace(
            live=where(better, models.working, models.live),
            live_error=jnp.where(better, models.working_error, models.live_error),
        )

    return Stages(feedback, learn, adjust, commit, wait, jnp.asarray(widths))


def cut(parts: Stages, kept: Sequence[bool] | jax.Array) -> Stages:
    """The stages without those that are not kept, (4,) of feedback, learn, adjust, commit.

    Without feedback no reward ever comes in; the other stages hand on what they are given.
    """
    keep = jnp.asarray(kept, bool)

    def feedback(waiting: PyTree, sent: Told) -> tuple[PyTree, Told]:
        waiting, told = parts.feedback(waiting, sent)
        return waiting, told._replace(mask=told.mask * keep[0])

    return parts._replace(
        feedback=feedback,
        learn=lambda models, told, keys: where(keep[1], parts.learn(models, told, keys), models),
        adjust=lambda strategy, told: where(keep[2], parts.adjust(strategy, told), strategy),
        commit=lambda models, number: where(keep[3], parts.commit(models, number), models),
    )


def shown(
    beliefs: Beliefs, widths: jax.Array, strategy: Strategy, state: PyTree, seen: Observation,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """One user's action, its propensity, and its chance (W,) under each width alone."""
    mean, root = beliefs.believe(state, seen)
    doubt = jnp.linalg.norm(root, axis=1)
    chance_WxA = jax.vmap(lambda w: best_of(mean + w * doubt, seen.mask))(widths)
    chance_A = jnp.matmul(chances(strategy), chance_WxA, precision="highest")
    action, propensity = draw(chance_A, key)
    return action, propensity, chance_WxA[:, action]


def run(
    environment: Environment,
    beliefs: Beliefs,
    parts: Stages,
    users: PyTree,
    key: jax.Array,
    rounds: int,
) -> tuple[Any, Log]:
    """Serves B users for T rounds.

    Args:
      users: params of the environment, leaves (B, ...).

    Returns:
      (models, strategy) at the end, and the log, leaves (T, B); ``info`` has ``strategy`` too,
      (T, W), the share of each width.
    """
    count = jax.tree.leaves(users)[0].shape[0]
    key_reset, key_init, key_rounds = jax.random.split(key, 3)
    seen, world = jax.vmap(environment.reset)(jax.random.split(key_reset, count), users)
    known = jax.vmap(beliefs.init)(jax.random.split(key_init, count), seen)
    models = Models(known, known, jnp.zeros(count), jnp.zeros(count))
    blank, zero = jnp.zeros(count), jnp.zeros(count, jnp.int32)
    example = Told(Decision(seen, zero, blank, blank), jnp.zeros((count, len(parts.widths))), blank)
    strategy = Strategy(jnp.zeros(len(parts.widths)), jnp.zeros(()))
    begin = (seen, world, models, strategy, parts.wait(example))
    act = jax.vmap(
        lambda strategy, s, o, k: shown(beliefs, parts.widths, strategy, s, o, k),
        in_axes=(None, 0, 0, 0),
    )

    def one(carry: Any, at: tuple[jax.Array, jax.Array]):
        seen, world, models, strategy, waiting = carry
        number, key = at
        key_act, key_step, key_learn = (
            jax.random.split(k, count) for k in jax.random.split(key, 3)
        )
        action, propensity, advice = act(strategy, models.live, seen, key_act)
        later, world, reward, _, info = jax.vmap(environment.step)(key_step, world, action, users)
        sent = Told(Decision(seen, action, propensity, reward), advice, jnp.ones(count))
        waiting, told = parts.feedback(waiting, sent)
        models = parts.learn(models, told, key_learn)
        new = parts.adjust(strategy, told)
        models = parts.commit(models, number)
        line = Log(action, propensity, reward, sent.mask, info | {"strategy": chances(strategy)})
        return (later, world, models, new, waiting), line

    steps = (jnp.arange(rounds), jax.random.split(key_rounds, rounds))
    (_, _, models, strategy, _), log = jax.lax.scan(one, begin, steps)
    return (models, strategy), log
