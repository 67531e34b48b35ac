"""A trial of a row of the contract battery: its world, its training, and what they are tried on."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learner_rows import BATCH, Row, World

from metajax import losses
from metajax.evaluation import check
from metajax.evaluation.trial import FAST_TO_COMPILE, key, masked, play
from metajax.training import loop
from metajax.types import Episode, PyTree

NUM_TASKS = 2000
SHOTS = 7  # real support rows of the episode that the single-task properties use


@functools.cache
def _draw(world: World) -> Callable:
    """The compiled program that draws tasks of a world, with the squared error of Bayes on each."""

    def sample(key: jax.Array):
        episode = world.sample(key)
        label, mask = episode.query.label, episode.query.mask
        return episode, losses.squared_error(world.bayes(episode), label, mask)

    return jax.jit(jax.vmap(sample), compiler_options=FAST_TO_COMPILE)


@functools.cache
def tasks_of(world: World, seed: int) -> tuple[Episode, jax.Array]:
    """`NUM_TASKS` tasks of a world and the squared error of Bayes on each."""
    return jax.device_get(_draw(world)(jax.random.split(jax.random.key(seed), NUM_TASKS)))


def _from_pool(pool: Episode, key: jax.Array) -> Episode:
    """A batch of tasks out of a pool: cheaper to compile than a world."""
    chosen = jax.random.randint(key, (BATCH,), 0, NUM_TASKS)
    return jax.tree.map(lambda x: x[chosen], pool)


def at(episodes: Episode, index: int | slice) -> Episode:
    """Some of a batch of episodes."""
    return jax.tree.map(lambda x: x[index], episodes)


def traced_once(function: Callable) -> Callable:
    """The function compiled, with an assertion that it is traced a single time.

    `chex.assert_max_traces` tells functions apart by their source text, so that the closures of two
    learners made by one factory would share a counter.
    """
    traces = []

    def counted(*arguments):
        traces.append(1)
        assert len(traces) == 1, f"{function} is traced a second time"
        return function(*arguments)

    return jax.jit(counted, compiler_options=FAST_TO_COMPILE)


@contextlib.contextmanager
def gradients_counted() -> Iterator[list[int]]:
    """A list that gets a 1 for every gradient evaluated inside, in loops and mapped tasks too.

    Programs that were compiled before do not count.
    """
    count: list[int] = []

    def counted(transform: Callable) -> Callable:
        def made(*arguments, **options):
            function = transform(*arguments, **options)

            def called(*given):
                out = function(*given)
                one = sum(jnp.sum(x) for x in jax.tree.leaves(out))  # mapped where the gradient is
                jax.debug.callback(lambda _: count.append(1), one)
                return out

            return called

        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "grad", counted(jax.grad))
        patch.setattr(jax, "value_and_grad", counted(jax.value_and_grad))
        yield count


class Trial(check.Trial):
    """A row with its compiled programs, each traced once, and its trained parameters."""

    def __init__(self, row: Row):
        self.row = row
        super().__init__(row.learner, _short(row.world), row.tolerance, traced_once)
        self.many = traced_once(jax.vmap(functools.partial(judge, row), (None, 0, None)))

    @property
    def trained(self) -> list[PyTree]:
        """The first parameters and the trained ones."""
        return [self.params, self.fitted]

    @functools.cached_property
    def fitted(self) -> PyTree:
        """Meta-parameters after the trial's outer steps."""
        row, (pool, _) = self.row, tasks_of(self.row.world, 7)

        def run(params: PyTree, pool: Episode) -> PyTree:
            zero = jnp.zeros((), jnp.int32)
            state = loop.TrainState(params, row.tx.init(params), jax.random.key(7), zero)
            advance = loop.steps(loop.recipe(row.learner, row.tx), _from_pool, row.num_steps)
            return advance(state, pool)[0].params

        return traced_once(run)(self.params, pool)

    @functools.cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Losses (`NUM_TASKS`,) over the same tasks: untrained, cold, warm and of Bayes."""
        episodes, bayes = tasks_of(self.row.world, 13)
        fitted = self.many(self.fitted, episodes, key())
        untrained = self.many(self.params, episodes, key())["warm"]
        scores = {**fitted, "untrained": untrained, "bayes": bayes}
        return {name: np.asarray(value) for name, value in scores.items()}


def _short(world: World) -> Episode:
    """One task with `SHOTS` support rows, the rest of the support being zeros, masked."""
    episode = at(tasks_of(world, 13)[0], 0)
    whole = episode.support._replace(mask=np.ones_like(episode.support.mask))
    return episode._replace(support=masked(whole, SHOTS, 0.0))


def judge(row: Row, params: PyTree, episode: Episode, key: jax.Array) -> dict[str, jax.Array]:
    """The query losses of one task."""
    played = play(row.learner, params, episode, key)
    mse = lambda s: losses.squared_error(s, episode.query.label, episode.query.mask)
    return {
        "cold": mse(played.cold),
        "warm": mse(played.warm),
        "loss": played.loss,
    }
