"""Short trainings whose validation error a search makes small."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.benchmark.baselines import best_error, sampler
from metajax.benchmark.problem import Problem, valid_error
from metajax.settings import Training
from metajax.training import arguments, loop
from metajax.training.devices import on_devices
from metajax.tuning.search import Watch
from metajax.types import MetaLearner


def trial(
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    problem: Problem,
    training: Training,
    watch: Watch,
) -> float:
    """The validation error of a training run whose parameters are thrown away.

    The error is the lowest of each seed's blocks, averaged over the seeds; infinite if a seed never
    had a finite one.

    Args:
      tx: the outer optimizer.
      watch: called three times or more; it may raise to end the trial, as a pruner does.
    """
    return trials(lambda settings: (learner, tx), problem, training)({}, watch)


def trials(
    build: Callable[[Mapping[str, Any]], tuple[MetaLearner, optax.GradientTransformation]],
    problem: Problem,
    training: Training,
    numbers: Collection[str] = (),
) -> Callable[[Mapping[str, Any], Watch], float]:
    """(settings, watch) -> `trial` of the learner that they build.

    Args:
      build: settings -> a learner and its outer optimizer.
      numbers: the settings that are arguments of the compiled program, see `training.arguments`:
        one program serves all their values, for each choice of the other settings. ``build`` may
        compute with them, and cannot look at their values. As an argument a number may be rounded
        otherwise than as a constant: MAML's inner rate is.
    """

    @functools.lru_cache(maxsize=8)
    def prepared(others: tuple[tuple[str, Any], ...]) -> Callable[..., loop.Fitted]:
        built = lambda given: build({**dict(others), **given})
        of = lambda given: on_devices(training.devices, loop.recipe(*built(given)))
        recipe, sample = arguments.recipe(of), arguments.sampler(sampler(problem, training))
        judge = lambda at: valid_error(built(at.numbers)[0], at.params, problem)
        compiled = loop.programs(recipe, sample, judge)
        return functools.partial(loop.fit, recipe, sample, validate=judge, compiled=compiled)

    def run(settings: Mapping[str, Any], watch: Watch) -> float:
        given = {name: jnp.asarray(settings[name], float) for name in numbers}
        others = tuple((name, value) for name, value in settings.items() if name not in given)
        fitted = prepared(others)(
            (given, problem.train),
            jax.random.split(jax.random.key(1), training.seeds),
            training.num_steps,
            block=max(1, min(100, training.num_steps // 3)),
            report=watch,
        )
        return best_error(fitted)

    return run
