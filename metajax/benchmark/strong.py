"""The strongest arms of every rating table: A8, boosted trees, and A9, a stack of closed forms.

Both are tuned on meta-validation, and fitted on no more training tasks than a trained arm sees.
"""

from collections.abc import Callable, Mapping

from metajax.benchmark import boosting, stacking
from metajax.benchmark.arm import Fitted
from metajax.benchmark.baselines import A2, A7, Trained, as_baselines
from metajax.benchmark.boosting import A8, A8_ALONE
from metajax.benchmark.problem import Problem
from metajax.benchmark.stacking import A9
from metajax.evaluation import evaluate
from metajax.settings import Training
from metajax.training import progress
from metajax.types import UserError

NAMES = (A8, A8_ALONE, A9)
MOST_DRAWS, DRAWS_PER_TASK = 20_000, 4
Maker = Callable[[int], Callable[[boosting.Settings, boosting.Backend], Fitted]]
"""Number of training tasks drawn -> ((settings, backend) -> boosted trees fitted on them)."""
Tuned = Callable[[str, Maker, int], Fitted]
"""(arm, maker, tasks that may be drawn) -> the arm at the settings that were chosen."""


def as_set(arm: str, make: Maker, draws: int) -> Fitted:
    """The arm at the default settings of boosting; only the number of trees is chosen."""
    del arm
    return make(draws)(boosting.DEFAULT, "sklearn")


def num_draws(training: Training, num_train: int) -> int:
    """How many training tasks are drawn to fit an arm: as many as a trained arm sees.

    They are at most 20,000, and at most four for each of the ``num_train`` training tasks: on ML-1M
    both bounds are about the same, and on a small log more draws of the same tasks add nothing.
    """
    most = min(MOST_DRAWS, DRAWS_PER_TASK * num_train)
    return min(most, training.num_steps * training.num_tasks)


def combined(
    problem: Problem,
    closed_forms: Mapping[str, Trained],
    training: Training,
    tuned: Tuned = as_set,
    stacked: Callable[[Mapping[str, Trained], int], Trained] | None = None,
) -> tuple[dict[str, Trained | Fitted], list[str]]:
    """The arms A8, with and without the predictions of A2 and A7, and A9, ready for the test.

    Args:
      closed_forms: the arms A0, A1, A2 and A7, tuned.
      problem: gives training and validation tasks.
      training: how much a trained arm sees, which bounds the draws.
      tuned: chooses the settings of boosting; by default they stay as declared.
      stacked: (arms, draws) -> A9, tuned; by default by a grid of penalties.

    Returns:
      The arms, and a message for each that could not be made.
    """
    draws = num_draws(training, problem.split.train.num_tasks)
    shown = training.num_support
    with progress.bar(A9, 1) as update:
        some = max(1, draws // 2)
        by_grid = lambda arms, some: stacking.stack_arm(problem, arms, some, shown)
        stack = (stacked or by_grid)(closed_forms, some)
        update(1, {"valid": stack.settings["valid"]})
    arms: dict[str, Trained | Fitted] = {}
    notes: list[str] = []
    variants = {A8: {name: closed_forms[name] for name in (A2, A7)}, A8_ALONE: None}
    for name, seen in variants.items():
        if problem.predict is evaluate.prequential:
            notes.append(f"{name} is left out: trees do not learn from one row after the other.")
            continue

        try:
            with progress.bar(name, 1) as update:
                made = lambda some, seen=seen: boosting.booster(
                    problem, seen, some, num_support=shown
                )
                arms[name] = tuned(name, made, draws)
                update(1, {"valid": arms[name].settings["valid"]})
        except UserError as missing:
            notes.append(f"{name} is left out: {missing}.")
    arms |= as_baselines({A9: stack})
    return arms, notes
