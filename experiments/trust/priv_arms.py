"""The arms of ``private``: what is released of people, at several privacy levels side by side."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.data import episodes
from metajax.evaluation import evaluate
from metajax.federated import accountant, private, rounds, simulator
from metajax.learners import closed_form, pooled
from metajax.learners.gradient.maml import gradient
from metajax.models import towers
from metajax.training import loop, progress
from metajax.types import Episode, MetaLearner, Params, PyTree

from . import fed_arms, own_data
from .own_data import OwnData, People

MEAN, BIAS = "item mean", "bias"
LINEAR, MAML = "linear start", "MAML"
FIXED, UNCLIPPED = "MAML, fixed cohorts", "MAML, not clipped"
DAMPINGS = (5.0, 10.0, 30.0, 100.0, 300.0)
PRECISIONS = (1.0, 3.0, 10.0, 30.0, 100.0)
NO_CLIP = 1e6


class Budget(NamedTuple):
    """How one arm spends its epsilon.

    Attributes:
      epsilon: in all.
      sums: noise multiplier of the item sums.
      rest: noise multiplier of the other release, or of each round.
    """

    epsilon: float
    sums: float
    rest: float


class Levels(NamedTuple):
    """Item sums at L privacy levels.

    Attributes:
      sums: leaves (L, ...).
      damping: (L,) chosen on validation.
    """

    sums: private.ItemSums
    damping: jax.Array


def budget(epsilon: float, share: float, num_rounds: int, rate: float, delta: float) -> Budget:
    """The noise of sums that take a share of epsilon, and of rounds that take what is left.

    Args:
      num_rounds: 1 round at a ``rate`` of 1 is a single release.
    """
    sums = accountant.noise_once(share * epsilon, delta)
    once = (sums,) if sums else ()
    return Budget(epsilon, sums, accountant.noise_for(epsilon, num_rounds, rate, delta, once=once))


def released(
    people: People, clip: float, noises: list[float], key: jax.Array, chosen: Any = None
) -> Levels:
    """The item sums at each noise multiplier (L,); without noise they are exact, nobody clipped.

    Args:
      chosen: (L, T) who takes part; None for all.
    """
    rows = tuple(map(jnp.asarray, own_data.rows_of(people)))
    shape = (people.num_clients, people.table.num_items)

    @jax.jit
    def one(rows: tuple, noise: jax.Array, clip: jax.Array, key: jax.Array, who: jax.Array):
        person, item, value = rows
        return private.item_sums(person, item, value, shape, clip, noise, key, who)

    who = jnp.ones((len(noises), shape[0])) if chosen is None else jnp.asarray(chosen, float)
    made = [
        one(rows, noise, clip if noise else NO_CLIP, jax.random.fold_in(key, i), who[i])
        for i, noise in enumerate(noises)
    ]
    sums = jax.tree.map(lambda *x: jnp.stack(x), *made)
    return Levels(sums, jnp.asarray([damping_of(people, one) for one in made]))


def damping_of(people: People, sums: private.ItemSums) -> float:
    """The damping whose item means are best on validation people."""
    item, label, real = (
        np.asarray(x) for x in (people.valid.query.inputs, people.valid.query.label,
                                people.valid.query.mask)
    )  # fmt: skip
    total, count = np.asarray(sums.total), np.asarray(sums.count)
    error = lambda d: ((label - people.mean - _bias(total, count, d)[item]) ** 2 * real).sum()
    return min(DAMPINGS, key=error)


def _bias(total: np.ndarray, count: np.ndarray, damping: float) -> np.ndarray:
    return total / (np.maximum(count, 0.0) + damping)


def tables(levels: Levels) -> jax.Array:
    """The column ``bias`` (L, I) that new people's devices get."""
    sums = levels.sums
    return jax.vmap(own_data.bias)(sums.total, sums.count, levels.damping)


def judged(levels: Levels, params: Params) -> PyTree:
    """Parameters of `own_data.with_table`; leaves (L, ...)."""
    return {"learner": params, "bias": tables(levels)}


def repeated(params: Params, levels: int) -> Params:
    """The same parameters for every level."""
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * levels), params)


def maml_of(people: People, config: Any) -> MetaLearner:
    """MAML of the small network that ``federated`` trains too, its last layer 0 at first.

    It then starts at the items' means: no round is spent on forgetting what a random layer says.
    """
    model = towers.factor_mlp(people.mean, (config.hidden,))
    learner = gradient(model, optax.sgd(config.inner_rate), config.inner_steps)
    return fed_arms.from_the_means(learner)


class Rounds(NamedTuple):
    """How MAML is trained privately.

    Attributes:
      num: rounds; rate: the chance of a client to be in one.
      clip: of an upload; expected: clients of a round, on average.
      fixed: whether cohorts have a fixed size, a control.
    """

    num: int
    rate: float
    clip: float
    expected: float
    fixed: bool = False


def train_maml(
    people: People,
    config: Any,
    levels: Levels,
    how: Rounds,
    noises: list[float],
    title: str,
    members: np.ndarray | None = None,
) -> Params:
    """MAML's parameters (L, ...), trained at L levels of noise side by side.

    Args:
      noises: (L,) noise multipliers of a round.
      members: (L, T) who takes part; None for all.
    """
    learner, num = maml_of(people, config), people.num_clients
    client, adam = rounds.meta_gradient(learner), optax.adam(config.outer_rate)
    block = max(1, how.num // 10)
    data = own_data.own_data(people, _first(levels))

    def parts(level: Any, tasks: Any, content: Any):
        sums, damping, noise, member, key = level
        columns = {"total": sums.total, "count": sums.count, "factor": content}
        mine = OwnData(episodes.Source(tasks, {}, columns), sums.scale)
        draw = own_data.drawer(people, damping, config.num_support)
        size = max(1, round(how.rate * num))
        drawn = (
            simulator.cohorts(draw, num, size) if how.fixed
            else simulator.poisson(draw, num, how.rate)
        )  # fmt: skip

        def sample(data: Any, key: jax.Array) -> simulator.Cohort:
            cohort = drawn(data, key)
            return cohort._replace(present=cohort.present * member[cohort.client])

        server = private.server(adam, how.clip, noise, how.expected, jax.random.fold_in(key, 1))
        return simulator.simulation(learner, client, server, num), sample, mine

    def begin(level: Any, tasks: Any, content: Any) -> loop.TrainState:
        recipe, sample, mine = parts(level, tasks, content)
        key = level[-1]
        return loop.init(recipe, key, sample(mine, key))

    def advance(state: loop.TrainState, level: Any, tasks: Any, content: Any):
        recipe, sample, mine = parts(level, tasks, content)
        return loop.steps(recipe, sample, block)(state, mine)[0]

    count = len(noises)
    member = np.ones((count, num)) if members is None else members
    keys = jax.random.split(jax.random.key(config.split_seed + 7), count)
    level = (levels.sums, levels.damping, jnp.asarray(noises), jnp.asarray(member, float), keys)
    shared = (data.source.tasks, data.source.inputs["factor"])
    state = jax.jit(jax.vmap(begin, (0, None, None)))(level, *shared)
    step = jax.jit(jax.vmap(advance, (0, 0, None, None)))
    with progress.bar(title, how.num) as update:
        for done in range(0, how.num, block):
            state = step(state, level, *shared)
            update(done + block, {})
    return state.params


def _first(levels: Levels) -> own_data.Sums:
    return own_data.Sums(*(np.asarray(x[0]) for x in levels.sums))


def features() -> Any:
    """A constant and the public columns: what linear weights multiply."""
    return towers.column("factor", constant=True)


def linear_learner(people: People) -> MetaLearner:
    """Ridge on a person's ratings, drawn toward the released weights."""
    width = people.content.shape[1] + 1
    return closed_form.ridge(features(), towers.stored_mean(people.mean), width)


def whole_rows(people: People) -> Episode:
    """Every rating of the training people as a support (T, N), indices of items."""
    tasks = people.split.train
    return jax.tree.map(jnp.asarray, episodes.fixed(tasks._replace(shots=tasks.length), 0))


def linear_start(
    people: People, levels: Levels, noises: list[float], clip: float, key: jax.Array
) -> jax.Array:
    """Released weights (L, D), from noisy sums of what people have computed on their devices."""
    given = whole_rows(people).support, jnp.asarray(people.content)

    @jax.jit
    def one(given: tuple, sums: Any, damping: jax.Array, noise: jax.Array, key: jax.Array):
        rows, content = given
        scale = sums.scale[:, None]
        total = sums.total[rows.inputs] - scale * (rows.label - people.mean)
        known = own_data.bias(total, sums.count[rows.inputs] - scale, damping)
        y = rows.label - people.mean - known
        x = content[rows.inputs]
        x = jnp.concatenate([jnp.ones((*x.shape[:2], 1)), x], axis=2)
        gram, moment = private.gram_sums(x, y, rows.mask, clip, noise, key)
        floor = 3 * noise * clip * x.shape[2] ** 0.5 + 1e-3 * len(rows.label)
        return private.linear_start(gram, moment, floor)

    keys = jax.random.split(key, len(noises))
    take = lambda i: jax.tree.map(lambda x: x[i], levels.sums)
    made = [
        one(given, take(i), levels.damping[i], noise, keys[i]) for i, noise in enumerate(noises)
    ]
    return jnp.stack(made)


def plain_source(people: People) -> episodes.Source:
    """Columns without ``bias``, which is among the parameters."""
    tasks = jax.tree.map(jnp.asarray, people.split.train)
    return episodes.Source(tasks, {}, {"factor": jnp.asarray(people.content)})


def valid_errors(learner: MetaLearner, params: Params, people: People, some: int) -> jax.Array:
    """Validation errors (L,) of the first people."""
    tasks = jax.tree.map(lambda x: x[:some], people.valid)
    fetch = functools.partial(episodes.fetch, source=plain_source(people))

    def one(params: Params) -> jax.Array:
        scores = evaluate.predictions(learner, params, tasks, jax.random.key(0), fetch=fetch)
        return fed_arms.mean_square(scores, tasks)

    return jax.lax.map(one, params)


def tuned_ridge(
    learner: MetaLearner, levels: Levels, mean: jax.Array, people: People, some: int
) -> tuple[PyTree, list[float]]:
    """A ridge arm's parameters (L, ...), its precision the best on validation at each level.

    Args:
      mean: (L, D) released weights.
    """
    width, count = mean.shape[1], len(mean)
    made = {"embed": {}, "offset": {"mu": jnp.full(count, people.mean)}, "mean": mean}
    at = lambda p: judged(levels, made | {"log_precision": jnp.full((count, width), math.log(p))})
    of = jax.jit(functools.partial(valid_errors, learner, people=people, some=some))
    error = np.stack([np.asarray(of(at(p))) for p in PRECISIONS])
    chosen = [PRECISIONS[i] for i in np.argmin(error, axis=0)]
    precision = jnp.log(jnp.asarray(chosen))[:, None] * jnp.ones((1, width))
    return judged(levels, made | {"log_precision": precision}), chosen


def constant_learner(people: People) -> MetaLearner:
    """The bias arm: how far a person rates above the items' means, shrunk."""
    return closed_form.ridge(towers.constant_feature(), towers.stored_mean(people.mean), 1)


def mean_learner(people: People) -> MetaLearner:
    """The item mean."""
    return pooled.pooled(towers.stored_mean(people.mean))
