"""Functions of a test under `jax.jit`: one program for each, not one for each operation."""

from typing import Any, TypeVar

import jax

Functions = TypeVar("Functions", bound=Any)
TRACED = ("init", "start", "adapt", "predict", "loss", "apply", "read", "step", "learn", "update")


def compiled(functions: Functions) -> Functions:
    """A `Model`, a `MetaLearner` or the like with its functions under `jax.jit`."""
    return functions._replace(
        **{name: jax.jit(getattr(functions, name)) for name in TRACED if hasattr(functions, name)}
    )
