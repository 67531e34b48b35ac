"""From a method to its table: the names that an experiment needs, each imported when asked for."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metajax.benchmark.baselines import A2, A4, fold_in_learner
    from metajax.benchmark.command import FROM_START, cli, kept, shown
    from metajax.benchmark.harness import Built, Config, Metrics, judge, judged, run_experiment
    from metajax.benchmark.problem import Problem, freeze, groups_of, load
    from metajax.settings import Data, Output, Positive, Share, SplitOptions, Training

PLACES = {
    "benchmark.baselines": ("A2", "A4", "fold_in_learner"),
    "benchmark.command": ("FROM_START", "cli", "kept", "shown"),
    "benchmark.harness": ("Built", "Config", "Metrics", "judge", "judged", "run_experiment"),
    "benchmark.problem": ("Problem", "freeze", "groups_of", "load"),
    "settings": ("Data", "Output", "Positive", "Share", "SplitOptions", "Training"),
}
"""Module -> its names that are available here."""

__all__ = [
    "A2",
    "A4",
    "FROM_START",
    "Built",
    "Config",
    "Data",
    "Metrics",
    "Output",
    "Positive",
    "Problem",
    "Share",
    "SplitOptions",
    "Training",
    "cli",
    "fold_in_learner",
    "freeze",
    "groups_of",
    "judge",
    "judged",
    "kept",
    "load",
    "run_experiment",
    "shown",
]


def __getattr__(name: str) -> Any:
    for place, names in PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"metajax.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
