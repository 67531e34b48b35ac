"""Checks of a learner's shapes, structures and types by tracing, before anything is computed.

Every ``refuse_`` function raises a `UserError` that names the part at fault.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax import tree
from metajax.evaluation.trial import key
from metajax.types import Episode, MetaLearner, PyTree, UserError


def refuse_strangers(learner: Any, episode: Any) -> None:
    """Refuses a learner that is no `MetaLearner`, and an episode that is not one task.

    Raises:
      UserError: either of them.
    """
    if not isinstance(learner, MetaLearner):
        raise UserError(f"a learner is a metajax.MetaLearner, not a {type(learner).__name__}")
    for name, part in learner._asdict().items():
        if name not in ("num_gradients", "adapted") and not callable(part):
            raise UserError(f"`{name}` is a {type(part).__name__}, not a function")
    if not isinstance(episode, Episode):
        raise UserError(f"an episode is a metajax.Episode, not a {type(episode).__name__}")
    for name in ("support", "query"):
        examples = getattr(episode, name)
        shape, mask = jnp.shape(examples.label), jnp.shape(examples.mask)
        if len(shape) != 1:
            raise UserError(
                f"episode.{name}.label is {shape}, not (N,): give one task, without a batch axis"
            )
        if mask != shape:
            raise UserError(f"episode.{name}.mask is {mask}, and its label {shape}")
        for path, x in jax.tree_util.tree_leaves_with_path(examples.inputs):
            if jnp.shape(x)[:1] != shape:
                where = "/".join(filter(None, ("inputs", tree.path_name(path))))
                raise UserError(f"episode.{name}.{where} is {jnp.shape(x)}, and its label {shape}")


def refuse_shapes(learner: MetaLearner, episode: Episode) -> None:
    """Traces every function of a learner and compares shapes and structures; nothing is computed.

    Raises:
      UserError: a function fails, or its result has another shape or type than the contract's.
    """
    params = _traced("init", learner.init, key(), episode)
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise UserError(
                f"`init` gave the parameter {tree.path_name(path)} of type {x.dtype}: a "
                "meta-parameter is a floating-point array"
            )
    state = _traced("start", learner.start, params, episode.profile)
    num_rows = len(episode.query.label)
    for examples in (episode.support, episode.query):
        after = _traced("adapt", learner.adapt, params, state, examples, key())
        refuse_other_state(state, after)
    for now in (state, after):
        score = _traced("predict", learner.predict, params, now, episode.query.inputs)
        _score_shape(score, episode.query.label)
    out = _traced("loss", learner.loss, params, episode, key())
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], dict)):
        what = "a scalar alone" if hasattr(out, "shape") else f"a {type(out).__name__}"
        raise UserError(f"`loss` gave {what}, not (scalar, info): return value, {{}}")
    value, info = out
    if getattr(value, "shape", None) != ():
        raise UserError(
            f"`loss` gave {getattr(value, 'shape', type(value).__name__)}, not a scalar: take the "
            f"mean over the {num_rows} rows, as losses.masked_mean does"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise UserError(f"`loss` gave a number of type {value.dtype}, which has no gradient")
    for name, x in info.items():
        if getattr(x, "shape", None) != ():
            shape = getattr(x, "shape", type(x).__name__)
            raise UserError(f"`loss` gave {shape} as info[{name!r}], not a scalar")


def _traced(name: str, function: Callable, *arguments: Any) -> Any:
    """The shapes of what a function of the learner gives.

    Raises:
      UserError: the function raises, whatever it is.
    """
    try:
        return jax.eval_shape(function, *arguments)
    except UserError:
        raise
    except jax.errors.ConcretizationTypeError as error:
        raise UserError(
            f"`{name}` asks for the value of an array (float(), if, while or numpy) where it is "
            "compiled: use jax.numpy, jnp.where or jax.lax"
        ) from error
    except Exception as error:
        raise UserError(f"`{name}` fails: {first_line(error)}") from error


def refuse_other_state(before: PyTree, after: PyTree) -> None:
    """Refuses a state of ``adapt`` whose structure, shapes or types are not those of ``start``.

    Raises:
      UserError: they are not.
    """
    if after is None and before is not None:
        raise UserError("`adapt` gave None, not a state: return the adapted state")
    one, other = jax.tree.structure(before), jax.tree.structure(after)
    if one != other:
        raise UserError(
            f"`adapt` gave a state of another structure than `start`: {other}, not {one}"
        )
    leaves = jax.tree_util.tree_leaves_with_path(before)
    for (path, x), y in zip(leaves, jax.tree.leaves(after), strict=True):
        kinds = [f"{jnp.result_type(a)}{list(jnp.shape(a))}" for a in (x, y)]
        if kinds[0] != kinds[1]:
            where = tree.path_name(path) or "the state"
            raise UserError(f"`adapt` gave {where} as {kinds[1]}, and `start` as {kinds[0]}")


def _score_shape(score: Any, label: jax.Array) -> None:
    """Refuses scores that are not (N,); (N, C) is right where labels are classes below C."""
    shape, wanted = getattr(score, "shape", None), jnp.shape(label)
    if shape is None:
        raise UserError(f"`predict` gave a {type(score).__name__}, not an array {wanted}")
    classes = np.asarray(label)
    if len(shape) == 2 and shape[:1] == wanted and shape[1] > 1:
        known = (classes == np.floor(classes)) & (classes >= 0) & (classes < shape[1])
        if known.all():
            return
    if shape != wanted:
        raise UserError(f"`predict` gave {shape}, not {wanted}")
    if not jnp.issubdtype(score.dtype, jnp.floating):
        raise UserError(f"`predict` gave scores of type {score.dtype}, not floating-point numbers")


def refuse_infinite(part: str, value: PyTree) -> None:
    """Refuses results of a learner's function ``part`` that are not finite.

    Raises:
      UserError: a number is NaN or infinite.
    """
    for path, x in jax.tree_util.tree_leaves_with_path(value):
        is_number = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
        if is_number and not np.isfinite(np.asarray(x, float)).all():
            where = f" in {tree.path_name(path)}" if path else ""
            raise UserError(f"`{part}` gave numbers that are not finite{where}")


def first_line(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
