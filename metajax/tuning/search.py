"""Hyperparameter search on meta-validation by Optuna's TPE, with pruning.

`tune` minimizes any objective; it can be killed and resumed, and several processes may share one
study.

References: Akiba et al., "Optuna", KDD 2019; Dodge et al., "Show your work", EMNLP 2019.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metajax.types import UserError


@dataclasses.dataclass(frozen=True)
class Real:
    """A real setting between ``low`` and ``high``, searched on a log scale if ``log``."""

    low: float
    high: float
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Whole:
    """An integer setting from ``low`` to ``high``, both included; on a log scale if ``log``."""

    low: int
    high: int
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """A categorical setting: one of several values."""

    values: tuple[Any, ...]


INTERRUPTED = "interrupted"
"""The mark of a trial that a person stopped; it is no part of the budget."""
Space = Mapping[str, Real | Whole | Choice]
Watch = Callable[[int, Mapping[str, float]], None]


def middle(space: Space) -> dict[str, Any]:
    """The middle of a space, on a log scale where it is logarithmic, and the first of choices.

    >>> middle({"rate": Real(0.01, 1.0, log=True), "width": Whole(2, 8), "net": Choice(("a", "b"))})
    {'rate': 0.1, 'width': 5, 'net': 'a'}
    """
    found: dict[str, Any] = {}
    for name, setting in space.items():
        if isinstance(setting, Choice):
            found[name] = setting.values[0]
            continue
        low, high = setting.low, setting.high
        value = math.sqrt(low * high) if setting.log else (low + high) / 2
        found[name] = round(value) if isinstance(setting, Whole) else float(f"{value:.6g}")
    return found


class Trial(NamedTuple):
    """One trial: its ``settings``, its validation ``score`` or NaN, and Optuna's ``state``, or
    `INTERRUPTED`."""

    settings: dict[str, Any]
    score: float
    state: str


class Found(NamedTuple):
    """The result of `tune`.

    Attributes:
      best: the settings with the lowest validation score.
      score: that score.
      trials: all trials of the study, including those of earlier calls.
      importance: setting -> its share of the variance of the scores; empty below 4 scores.
    """

    best: dict[str, Any]
    score: float
    trials: list[Trial]
    importance: dict[str, float]

    @property
    def spent(self) -> int:
        """How many trials ended; one that was interrupted is not part of the budget."""
        return sum(trial.state in ("complete", "pruned", "fail") for trial in self.trials)


def tune(
    objective: Callable[[dict[str, Any], Watch], float],
    space: Space,
    num_trials: int,
    *,
    folder: pathlib.Path | None = None,
    name: str = "search",
    seed: int = 0,
    first: Mapping[str, Any] | None = None,
) -> Found:
    """The settings with the lowest score after ``num_trials`` trials, by TPE with pruning.

    Args:
      objective: (settings, watch) -> the validation score, lower is better. If it calls
        ``watch(step, metrics)`` with ``valid`` in the metrics, a trial that is worse than the
        median of the earlier ones at that step is stopped. A `UserError`, as a diverged run raises
        it, means no score.
      folder: where the study is stored: a later call, or another process, continues it. A trial
        that was interrupted is not one of ``num_trials``.
      name, seed: of the study, and of its sampler.
      first: settings to try first, such as those that were used before.

    Raises:
      UserError: optuna is missing, or no trial has a score.

    References: Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011 (TPE).
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("the search needs optuna; pip install 'metajax[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name, storage=_storage(folder), load_if_exists=True, direction="minimize"
    )
    count = lambda: len(_spent(study))
    tried = [t.system_attrs.get("fixed_params") for t in _spent(study)]
    if first is not None and dict(first) not in tried and count() < num_trials:
        study.enqueue_trial(dict(first))
    study.sampler = optuna.samplers.TPESampler(seed=seed + count(), n_startup_trials=8)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=5)

    def one(trial: Any) -> float:
        def watch(step: int, metrics: Mapping[str, float]) -> None:
            if "valid" in metrics:
                trial.report(metrics["valid"], step)
                if trial.should_prune():
                    raise optuna.TrialPruned

        try:
            score = objective({k: _suggest(trial, k, s) for k, s in space.items()}, watch)
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED, True)
            raise
        return score if math.isfinite(score) else math.nan

    stop = lambda study, trial: study.stop() if count() >= num_trials else None
    if count() < num_trials:
        study.optimize(one, n_trials=num_trials - count(), callbacks=[stop], catch=(UserError,))
    return _found(study)


def _spent(study: Any) -> list[Any]:
    """The trials that are part of the budget: those that ended, but for what a person stopped."""
    ended = [trial for trial in study.get_trials() if trial.state.is_finished()]
    return [trial for trial in ended if INTERRUPTED not in trial.user_attrs]


def _storage(folder: pathlib.Path | None) -> Any:
    if folder is None:
        return None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(folder / "study.journal")))


def _suggest(trial: Any, name: str, setting: Real | Whole | Choice) -> Any:
    if isinstance(setting, Choice):
        return trial.suggest_categorical(name, setting.values)
    suggest = trial.suggest_int if isinstance(setting, Whole) else trial.suggest_float
    return suggest(name, setting.low, setting.high, log=setting.log)


def _found(study: Any) -> Found:
    import optuna

    last = lambda t: t.value if t.value is not None else math.nan
    state = lambda t: INTERRUPTED if INTERRUPTED in t.user_attrs else t.state.name.lower()
    trials = [Trial(dict(t.params), last(t), state(t)) for t in study.get_trials()]
    whole = [t for t in trials if t.state == "complete"]
    if not whole:
        raise UserError("no trial has a score: every run diverged; narrow the ranges")
    best = min(whole, key=lambda t: t.score)
    importance: dict[str, float] = {}
    if len(whole) >= 4 and len({t.score for t in whole}) > 1:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importance = dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    return Found(best.settings, best.score, trials, importance)


def expected_best(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """The expected lowest score (N,) of 1, 2, ... N trials, drawn with replacement from N scores.

    It is the budget curve: what a search with fewer trials would find on average.

    References: Dodge, Gururangan, Card, Schwartz, Smith, EMNLP 2019, equation 3.
    """
    ascending = np.sort(np.asarray(scores, np.float64))
    n = ascending.size
    at_least = (n - np.arange(n + 1)) / n  # the chance that a draw is the i-th lowest or higher
    chances = at_least[None] ** np.arange(1, n + 1)[:, None]
    return (chances[:, :-1] - chances[:, 1:]) @ ascending
