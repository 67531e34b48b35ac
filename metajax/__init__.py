"""Meta-learning for recommender systems in JAX: learners, their parts, training and evaluation.

The names used most often are here; each is imported from its module at first use, so that
``import metajax`` is fast.

>>> import metajax
>>> metajax.ridge.__module__
'metajax.learners.closed_form'
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metajax.data.sources.named import load
    from metajax.evaluation.check import check
    from metajax.evaluation.evaluate import k_shot, predictions, shuffled_labels
    from metajax.evaluation.judge import judge
    from metajax.learners.amortized import neural_process
    from metajax.learners.closed_form import ridge
    from metajax.learners.ensemble import averaged, blended, gated, stacked
    from metajax.learners.gradient.context import cavia
    from metajax.learners.gradient.implicit import implicit
    from metajax.learners.gradient.maml import gradient
    from metajax.learners.metric import prototypes
    from metajax.learners.pooled import fine_tuned, pooled
    from metajax.models.bridge import from_linen, from_nnx
    from metajax.results.records import Record, difference, interval
    from metajax.training.loop import Recipe, fit, outer_gradient, recipe
    from metajax.transforms.augment import hide
    from metajax.transforms.multistep import multistep
    from metajax.transforms.pretrained import starting_from
    from metajax.transforms.regularize import noisy
    from metajax.transforms.reptile import reptile
    from metajax.types import Episode, Examples, MetaLearner, Model, UserError

PLACES = {
    "data.sources.named": ("load",),
    "evaluation.check": ("check",),
    "evaluation.evaluate": ("k_shot", "predictions", "shuffled_labels"),
    "evaluation.judge": ("judge",),
    "learners.amortized": ("neural_process",),
    "learners.closed_form": ("ridge",),
    "learners.gradient.context": ("cavia",),
    "learners.ensemble": ("averaged", "blended", "gated", "stacked"),
    "learners.gradient.maml": ("gradient",),
    "learners.gradient.implicit": ("implicit",),
    "learners.metric": ("prototypes",),
    "learners.pooled": ("fine_tuned", "pooled"),
    "models.bridge": ("from_linen", "from_nnx"),
    "results.records": ("Record", "difference", "interval"),
    "training.loop": ("Recipe", "fit", "outer_gradient", "recipe"),
    "transforms.augment": ("hide",),
    "transforms.multistep": ("multistep",),
    "transforms.pretrained": ("starting_from",),
    "transforms.regularize": ("noisy",),
    "transforms.reptile": ("reptile",),
    "types": ("Episode", "Examples", "MetaLearner", "Model", "UserError"),
}
"""Module -> its public names that are available here."""

__all__ = [
    "Episode",
    "Examples",
    "MetaLearner",
    "Model",
    "Recipe",
    "Record",
    "UserError",
    "averaged",
    "blended",
    "cavia",
    "check",
    "difference",
    "fine_tuned",
    "fit",
    "from_linen",
    "from_nnx",
    "gated",
    "gradient",
    "hide",
    "implicit",
    "interval",
    "judge",
    "k_shot",
    "load",
    "multistep",
    "neural_process",
    "noisy",
    "outer_gradient",
    "pooled",
    "predictions",
    "prototypes",
    "recipe",
    "reptile",
    "ridge",
    "shuffled_labels",
    "stacked",
    "starting_from",
]


def __getattr__(name: str) -> Any:
    for place, names in PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"metajax.{place}"), name)
    raise AttributeError(f"module 'metajax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
