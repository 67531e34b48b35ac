"""How arms of this room are tuned (every rate, all seeds, the best is kept) and judged."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from metajax.benchmark import belief
from metajax.benchmark.problem import Problem
from metajax.data import episodes
from metajax.evaluation import judge
from metajax.results import records
from metajax.settings import Training
from metajax.types import Episode, Params, UserError


def training_of(config: Any) -> Training:
    """How an experiment of this room trains, by its own settings; supports have 32 ratings."""
    return Training(
        seeds=config.seeds,
        num_steps=config.num_steps,
        num_tasks=config.num_tasks,
        num_support=32,
        devices=config.hardware.devices,
    )


def best_of(
    rates: tuple[float, ...], fit: Callable[[float], tuple[float, dict[str, Any], Params]]
) -> tuple[dict[str, Any], Params]:
    """What is told of the best rate, and its parameters (S, ...).

    Args:
      rates: each is a trial with all seeds; as many for every arm of an experiment.
      fit: rate -> (the mean validation error of its seeds, what is told of it, parameters).

    Raises:
      UserError: there is no rate.
    """
    if not rates:
        raise UserError("no rate is told; give one or more --rates")
    tried = {rate: fit(rate) for rate in rates}
    rate = min(tried, key=lambda r: tried[r][0])
    valid, told, params = tried[rate]
    errors = {f"{r:g}": round(found[0], 6) for r, found in tried.items()}
    return {**told, "rate": rate, "trials": len(tried), "valid": valid, "tried": errors}, params


def rated(
    ready: Mapping[str, Any],
    problem: Problem,
    tests: dict[str, Episode],
    scenario: str,
    source: episodes.Source | None = None,
    main: str = "mse",
) -> dict[records.Key, np.ndarray]:
    """The scores of arms on open test tasks, by every measure of ratings, at every K.

    Squared and absolute errors and nDCG@5; for tasks as they are also what an ordinal link tells,
    which is fitted to each arm's scores on the problem's meta-validation (see `benchmark.belief`).

    Args:
      ready: name -> learner and parameters (S, ...).
      problem: with the columns that the arms were trained on.
      scenario: what the scenario of ``tests`` is called in the record.
      source: of the test's columns, where they are not the problem's.
      main: the only metric that is kept of controls; empty keeps all.
    """
    levels = belief.levels_of(problem)
    links = {} if levels is None else belief.links_of(ready, problem, levels)
    found = judge.judge(
        ready,
        tests,
        fetch=episodes.fetch,
        source=source or problem.valid[0],
        curves=list(tests),
        main=main,
        links=links,
    )
    return {k._replace(scenario=scenario): v for k, v in found.items()}


def on_own(one: judge.Judged, own: Episode) -> judge.Scorer:
    """An arm that scores its own tasks in place of those given: the same rows, other columns."""
    return lambda source, tasks, key: judge.scored(one, own, key)
