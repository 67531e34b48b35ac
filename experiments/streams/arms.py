"""The event learners of ``online``: how each is made, warmed up and tuned."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.evaluation import ordinal
from metajax.online import factorization as mf
from metajax.online import rows, warm
from metajax.online.events import Events, rounds
from metajax.online.prequential import Online, frozen
from metajax.online.recursive import recursive_ridge
from metajax.online.window import retrained

from . import believed
from .play import Make, Played, Player, best_rate

FROZEN, BIASES = "frozen", "biases alone, AdaGrad"
OGD, ADAGRAD, FTRL = "OGD", "AdaGrad", "FTRL-proximal"
RETRAIN, RIDGE = "retrain on a window", "recursive ridge"
EVERY = {k: f"AdaGrad, every {k}" for k in (10, 100, 1000)}
BLOCK_EVENTS = 16_384


@dataclasses.dataclass(frozen=True)
class Plan:
    """A stream with its warm-up, and the sizes of what learns it.

    Attributes:
      num_warm: events of the warm-up; the second half of them chooses rates.
      dim: factors; passes: over the warm-up.
    """

    events: Events
    num_warm: int
    dim: int
    passes: int
    implicit: bool

    @property
    def link(self) -> mf.Link:
        """Probabilities for what happened, ratings as they are."""
        return jax.nn.sigmoid if self.implicit else mf.identity

    def stretch(self, start: int, stop: int, size: int = 1) -> Any:
        """Rounds of the events [start, stop)."""
        return rounds(self.events.part(start, stop), size)


class Warm(NamedTuple):
    """Where arms begin: tables of factors and of biases alone, and the mean score."""

    tables: mf.Tables
    mean: jax.Array


def trainer(plan: Plan) -> Player:
    """What trains tables in a warm-up, in rounds of 16 events."""

    def make(rate: jax.Array, given: Warm) -> Online:
        optimizer = rows.adagrad(rate, 0.1)
        return mf.factorization(optimizer, given.tables, given.mean, link=plan.link)

    return Player("warm-up", make, BLOCK_EVENTS // 16)


def batched(plan: Plan, player: Player, begin: Warm, stop: int, rate: float = 0.1) -> Warm:
    """Tables trained by passes over the events before ``stop``, unmet items by content."""
    part, state = plan.stretch(0, stop, 16), None
    for _ in range(plan.passes):
        state = player(rate, begin, part, state).state
    assert state is not None
    tables = mf.learned(rows.adagrad(rate), state, plan.events.num_users)
    return begin._replace(tables=settled(plan, tables, stop))


def settled(plan: Plan, tables: mf.Tables, stop: int) -> mf.Tables:
    """The tables with people and items that nobody has met yet put where their kind is."""
    met_user = np.zeros(plan.events.num_users, bool)
    met_item = np.zeros(plan.events.num_items, bool)
    met_user[plan.events.user[:stop]] = True
    met_item[plan.events.item[:stop]] = True
    user = np.asarray(tables.user)
    user = np.where(met_user[:, None], user, user[met_user].mean(axis=0))
    tables = mf.Tables(jnp.asarray(user, jnp.float32), tables.item)
    return warm.by_content(tables, met_item, plan.events.content)


def first_tables(plan: Plan, seed: int, dim: int, stop: int) -> Warm:
    """Random tables, and the score of the mean label before ``stop``."""
    events = plan.events
    mean = float(events.label[:stop].mean())
    score = np.log(mean / (1 - mean)) if plan.implicit else mean
    key = jax.random.key(seed)
    tables = mf.random_tables(key, events.num_users, events.num_items, dim)
    return Warm(tables, jnp.asarray(score, jnp.float32))


def makes(plan: Plan) -> dict[str, tuple[Make, tuple[float, ...]]]:
    """Arm -> how it is made of a rate and a `Warm`, and the rates to choose from."""

    def of(optimizer: Any) -> Make:
        def make(rate: jax.Array, given: Warm) -> Online:
            return mf.factorization(optimizer(rate), given.tables, given.mean, link=plan.link)

        return make

    descent = of(rows.ogd)
    adagrad = of(lambda rate: rows.adagrad(rate, 0.1))
    ftrl = of(lambda rate: rows.ftrl(rate))
    still = lambda rate, given: frozen(descent(rate, given))
    size = max(plan.num_warm // 2, 1)

    def window(rate: jax.Array, given: Warm) -> Online:
        every = max((len(plan.events) - plan.num_warm) // 10, 1)
        return retrained(adagrad(rate, given), size, every, passes=plan.passes)

    steps = (0.005, 0.02, 0.08)
    return {
        FROZEN: (still, (0.0,)),
        OGD: (descent, steps),
        ADAGRAD: (adagrad, (0.02, 0.08, 0.3)),
        FTRL: (ftrl, (0.02, 0.08, 0.3)),
        RETRAIN: (window, (0.1,)),
    }


def ridge(plan: Plan) -> Make:
    """Recursive ridge of each user on the items' factors; the rate is what it forgets an event."""

    def make(rate: jax.Array, given: Warm) -> Online:
        item, user = given.tables.item, given.tables.user
        constant = jnp.ones((item.shape[0], 1))
        x = jnp.concatenate([constant, item[:, 1:]], axis=1)
        spread = jnp.maximum(user.var(axis=0), 1e-3)
        noise = 0.2 if plan.implicit else 0.8
        base = (lambda item: 0.5 + 0.25 * given.tables.item[item, 0]) if plan.implicit else (
            lambda index: given.mean + item[index, 0]
        )  # fmt: skip
        scale = 0.25 if plan.implicit else 1.0  # the slope of the logistic function at 0
        return recursive_ridge(
            user.shape[0], lambda index: scale * x[index], user.mean(axis=0), noise / spread,
            offset=base, forgetting=1.0 - rate,
        )  # fmt: skip

    return make


def tuned(
    plan: Plan, player: Player, rates: tuple[float, ...], begin: Warm, size: int = 1
) -> tuple[float, dict]:
    """The rate that predicts the second half of the warm-up best, from tables of the first."""
    if len(rates) == 1:
        return rates[0], {}
    half = plan.num_warm // 2
    part = plan.stretch(half, plan.num_warm, size)
    label = plan.events.label[half : plan.num_warm]

    def loss(rate: float) -> float:
        played = player(rate, begin, part)
        score = played.scores
        return float(np.mean((score - label) ** 2))

    return best_rate(rates, loss)


def link(plan: Plan, played: Played, start: int, levels: np.ndarray) -> ordinal.Link:
    """The link to the ratings (L,) of what was played from ``start`` to the end of the warm-up."""
    score, label = np.clip(played.scores, *plan.events.scale), plan.events.label
    return believed.link(score, label[start : plan.num_warm], np.ones(len(score)), levels)


def losses(
    plan: Plan, played: Played, start: int, link: ordinal.Link | None = None
) -> dict[str, np.ndarray]:
    """Losses of each event from ``start`` on, by metric; with a link to ratings, of it too."""
    label = plan.events.label[start:]
    score = played.scores.astype(float)
    low, high = plan.events.scale
    score = np.clip(score, low, high)
    if not plan.implicit:
        found = {"mae": np.abs(score - label), "mse": (score - label) ** 2}
        column = (score[:, None], label[:, None], np.ones((len(label), 1)))
        return found if link is None else found | believed.proper(link, *column)
    chance = np.clip(score, 1e-3, 1 - 1e-3)
    nll = -np.where(label > 0, np.log(chance), np.log(1 - chance))
    return {"log_loss": nll, "brier": (score - label) ** 2}
