"""Whether a learner keeps the contract of `metajax.types`, tried on one task.

`check` is to be called before training. Each property below is a function of a `Trial` that returns
nothing, or raises a one-line `UserError` that names the part at fault.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import losses, tree
from metajax.learners.parts import QueryLoss
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree, UserError

FAST_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
KEY = jax.random.key(1)
GARBAGE = (9.0, -1e3)
"""What is written into masked rows."""


def compiled(function: Callable) -> Callable:
    """The function compiled in little time: it is run on one task only."""
    return jax.jit(function, compiler_options=FAST_TO_COMPILE)


class Played(NamedTuple):
    """All that a learner does with one task.

    Attributes:
      before: the state of a cold start.
      after: the state after adapting on the support.
      cold: the scores of the query in the first state.
      warm: those in the second.
      loss: the outer loss.
      info: what the loss tells beside it.
    """

    before: PyTree
    after: PyTree
    cold: jax.Array
    warm: jax.Array
    loss: jax.Array
    info: dict[str, jax.Array]


def play(learner: MetaLearner, params: Params, episode: Episode, key: jax.Array) -> Played:
    """Everything that a learner does with one task."""
    before = learner.start(params, episode.profile)
    after = learner.adapt(params, before, episode.support, key)
    cold = learner.predict(params, before, episode.query.inputs)
    warm = learner.predict(params, after, episode.query.inputs)
    return Played(before, after, cold, warm, *learner.loss(params, episode, key))


class Trial:
    """A learner with its compiled programs, its first parameters and a task to try them on.

    Args:
      learner: what is tried.
      episode: one task; some of its rows should be masked, or padding cannot be tried.
      tolerance: how far two ways of computing the same number may be apart, relative and absolute.
      compiled: what compiles a function.
    """

    def __init__(
        self,
        learner: MetaLearner,
        episode: Episode,
        tolerance: float = 2e-4,
        compiled: Callable[[Callable], Callable] = compiled,
    ):
        self.learner, self.episode, self.tolerance = learner, episode, tolerance
        self.init = compiled(learner.init)
        self.one = compiled(functools.partial(play, learner))
        of_task = jax.grad(learner.loss, has_aux=True)
        self.gradients = compiled(jax.vmap(of_task, (None, 0, None)))

    @functools.cached_property
    def params(self) -> Params:
        """The first parameters."""
        return self.init(jax.random.key(0), self.episode)

    @property
    def trained(self) -> list[Params]:
        """The parameters that predictions are tried with."""
        return [self.params]

    @functools.cached_property
    def clean(self) -> Played:
        """What is done with the task as it is, by the first parameters."""
        return self.one(self.params, self.episode, KEY)

    @functools.cached_property
    def slopes(self) -> PyTree:
        """The outer gradients of the task as it is, without support and without query."""
        episode = self.episode
        none = lambda e: e._replace(mask=jnp.zeros_like(e.mask))
        tasks = [
            episode,
            episode._replace(support=none(episode.support)),
            episode._replace(query=none(episode.query)),
        ]
        return jax.device_get(self.gradients(self.params, _stacked(*tasks), KEY))

    def equal(self, actual: PyTree, expected: PyTree) -> bool:
        """Whether two trees of the same structure hold the same numbers, up to the tolerance."""
        t = self.tolerance
        same = lambda a, b: np.allclose(np.asarray(a), np.asarray(b), t, t, equal_nan=True)
        return all(jax.tree.leaves(jax.tree.map(same, actual, expected)))


def masked(examples: Examples, count: int | jax.Array, garbage: float) -> Examples:
    """The examples with at most their first ``count`` rows real, and garbage behind them.

    Numbers of masked rows become the garbage, indices those of the first row.
    """
    real = (jnp.arange(len(examples.label)) < count) & (examples.mask > 0)

    def spoil(x: jax.Array) -> jax.Array:
        keep = real.reshape(-1, *(1,) * (x.ndim - 1))
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.where(keep, x, jnp.asarray(garbage, x.dtype) if is_float else x[:1])

    inputs = jax.tree.map(spoil, examples.inputs)
    return Examples(inputs, spoil(examples.label), real.astype(examples.mask.dtype))


def padding_is_invisible(t: Trial) -> None:
    """What stands in masked rows moves neither predictions nor loss nor state."""
    query = t.episode.query
    mask = np.asarray(query.mask) > 0
    real = np.cumsum(mask) <= max(mask.sum() - 3, 1)
    short = t.episode._replace(query=query._replace(mask=query.mask * real))
    shorter = t.one(t.params, short, KEY)
    for garbage in GARBAGE:
        support = masked(t.episode.support, len(t.episode.support.label), garbage)
        spoiled = t.one(t.params, t.episode._replace(support=support), KEY)
        if not t.equal((spoiled.after, spoiled.warm), (t.clean.after, t.clean.warm)):
            raise UserError(
                "`adapt` learns from rows whose mask is 0: multiply by examples.mask, or use "
                "losses.masked_mean"
            )
        unread = query._replace(label=jnp.where(short.query.mask > 0, query.label, garbage))
        tail = t.one(t.params, short._replace(query=short.query._replace(label=unread.label)), KEY)
        if not t.equal((spoiled.loss, tail.loss), (t.clean.loss, shorter.loss)):
            raise UserError(
                "`loss` counts rows whose mask is 0: take the mean over the rows of the mask, as "
                "losses.masked_mean does"
            )


def padding_has_no_gradient(t: Trial) -> None:
    """Garbage in masked rows leaves the meta-gradient as it is."""
    width = len(t.episode.support.label)
    tasks = [t.episode._replace(support=masked(t.episode.support, width, g)) for g in (0.0, 9.0)]
    grads, _ = t.gradients(t.params, _stacked(*tasks, tasks[1]), KEY)
    first, second = (jax.tree.map(lambda x, i=i: x[i], grads) for i in (0, 1))
    if not t.equal(first, second):
        raise UserError("the gradient of `loss` depends on rows whose mask is 0")


def empty_support_stays_cold(t: Trial) -> None:
    """Adapting on nothing changes no prediction, of trained parameters too."""
    empty = t.episode._replace(support=masked(t.episode.support, 0, 7.0))
    for params in t.trained:
        played = t.one(params, empty, KEY)
        if not t.equal(played.warm, played.cold):
            raise UserError(
                "`adapt` on examples that are all masked changes what `predict` gives: an empty "
                "support must leave a person cold"
            )


def query_labels_cannot_move_predictions(t: Trial) -> None:
    """The outer loss is not that of predictions which have adapted on the query."""
    query, learner = t.episode.query, t.learner
    if isinstance(learner.loss, QueryLoss):
        return  # made of `adapt` on the support, by construction
    both = jax.tree.map(lambda s, q: jnp.concatenate([s, q]), t.episode.support, query)
    for examples in (both, query):
        adapted = learner.adapt(t.params, t.clean.before, examples, KEY)
        leaked = learner.predict(t.params, adapted, query.inputs)
        if leaked.ndim != 1:
            continue
        for loss in (losses.squared_error, losses.absolute_error, losses.huber, losses.log_loss):
            honest = loss(t.clean.warm, query.label, query.mask)
            leaky = loss(leaked, query.label, query.mask)
            if t.equal(t.clean.loss, leaky) and not t.equal(honest, leaky):
                raise UserError(
                    "`loss` adapts on the query's labels: adapt on episode.support alone"
                )


def adapt_keeps_the_state(t: Trial) -> None:
    """The state after adapting has the structure, shapes and types of the state before."""
    _same_state(t.clean.before, t.clean.after)


def nothing_in_a_state_is_shared(t: Trial) -> None:
    """What adapting hands through unchanged is the same under other parameters.

    So a state holds no parameter, and nothing that is made of parameters alone. What is made of
    the profile, too, is the task's own.
    """
    shift = lambda x: 1.3 * x + 0.1 if jnp.issubdtype(x.dtype, jnp.floating) else x
    elsewhere = jax.jit(t.learner.start)(jax.tree.map(shift, t.params), t.episode.profile)
    other = lambda x: shift(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.maximum(x - 1, 0)
    of_other = jax.jit(t.learner.start)(t.params, jax.tree.map(other, t.episode.profile))
    paths = jax.tree_util.tree_leaves_with_path(t.clean.before)
    leaves = (jax.tree.leaves(x) for x in (t.clean.after, elsewhere, of_other))
    for (path, before), after, under_other, of_profile in zip(paths, *leaves, strict=True):
        same = lambda x, before=before: bool(jnp.all(before == x))
        if same(after) and not same(under_other) and same(of_profile):
            name = tree.path_name(path) or "all of it"
            raise UserError(
                f"`start` puts shared parameters into the state ({name}): a state is what one "
                "person has of their own; read them from params in `adapt` and `predict`"
            )


def values_are_finite(t: Trial) -> None:
    """Parameters, states, scores and loss are finite numbers."""
    _finite("init", t.params)
    for part, value in (
        ("start", t.clean.before),
        ("predict", t.clean.cold),
        ("adapt", t.clean.after),
        ("predict", t.clean.warm),
        ("loss", t.clean.loss),
    ):
        _finite(part, value)


def gradients_are_finite(t: Trial) -> None:
    """Outer gradients are finite, without a support and without a query, too."""
    grads, _ = t.slopes
    cases = ("", " of a task whose support is empty", " of a task whose query is empty")
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        for i, case in enumerate(cases):
            if not np.isfinite(leaf[i]).all():
                raise UserError(
                    f"the gradient of `loss`{case} is not finite (parameter "
                    f"{tree.path_name(path)}): look for a root or a quotient at 0"
                )


def a_gradient_reaches_the_parameters(t: Trial) -> None:
    """Some parameter has an outer gradient."""
    leaves = jax.tree.leaves(t.slopes[0])
    if leaves and not any(np.any(x != 0) for x in leaves):
        raise UserError(
            "no gradient of `loss` reaches any parameter: look for stop_gradient, argmax or round "
            "on the way"
        )


def params_stay_untouched(t: Trial) -> None:
    """Playing a task with the parameters leaves every one of their bits."""
    before = jax.tree.map(np.array, t.params)
    play(t.learner, t.params, t.episode, KEY)
    same = lambda a, b: np.array_equal(a, np.asarray(b), equal_nan=True)
    if not all(jax.tree.leaves(jax.tree.map(same, before, t.params))):
        raise UserError("the functions of the learner write into params; return new arrays instead")


def vmap_is_loop(t: Trial) -> None:
    """A batch of tasks gets the outer losses that its tasks get one at a time."""
    query = t.episode.query
    other = t.episode._replace(query=query._replace(label=query.label[::-1]))
    batch = _stacked(t.episode, other)
    together, _ = compiled(jax.vmap(t.learner.loss, (None, 0, None)))(t.params, batch, KEY)
    alone = jnp.stack([t.clean.loss, t.one(t.params, other, KEY).loss])
    if not t.equal(together, alone):
        raise UserError("`loss` of tasks under jax.vmap is not that of the tasks one at a time")


def jit_is_eager(t: Trial) -> None:
    """Compiled and uncompiled programs agree, the support trimmed of its padding in the latter."""
    real = np.flatnonzero(np.asarray(t.episode.support.mask) > 0)
    trimmed = jax.tree.map(lambda x: x[real], t.episode.support)
    eager = play(t.learner, t.params, t.episode._replace(support=trimmed), KEY)
    if not t.equal((eager.cold, eager.warm), (t.clean.cold, t.clean.warm)):
        raise UserError(
            "`predict` gives other scores under jax.jit than without it, or for a support without "
            "its padding"
        )


QUICK = (
    values_are_finite,
    adapt_keeps_the_state,
    padding_is_invisible,
    query_labels_cannot_move_predictions,
    gradients_are_finite,
)
"""What is tried before each training: two small programs."""
PROPERTIES = (
    *QUICK,
    padding_has_no_gradient,
    empty_support_stays_cold,
    nothing_in_a_state_is_shared,
    a_gradient_reaches_the_parameters,
    params_stay_untouched,
    vmap_is_loop,
    jit_is_eager,
)
"""All that one task can tell of a learner."""


def check(learner: MetaLearner, episode: Episode, *, quick: bool = False) -> None:
    """Returns nothing if the learner keeps the contract on this task.

    First every function is traced for its shapes, then each of `PROPERTIES` is tried.

    Args:
      learner: the learner, before training.
      episode: one task without a batch axis, such as ``problem.example``.
      quick: try `QUICK` only, which takes a second or two.

    Raises:
      UserError: one line that names the function at fault, what it gave and what it should give.
    """
    _at_the_door(learner, episode)
    episode = _with_padding(jax.tree.map(jnp.asarray, episode))
    _shapes(learner, episode)
    trial = Trial(learner, episode)
    for holds in QUICK if quick else PROPERTIES:
        try:
            holds(trial)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{_sentence(holds)} cannot be tried: {_first_line(error)}") from error


def _with_padding(episode: Episode) -> Episode:
    """The episode with a quarter of its support rows masked at the end, at least one of two."""
    width = len(episode.support.label)
    count = width - max(1, width // 4) if width > 1 else width
    return episode._replace(support=masked(episode.support, count, 0.0))


def _at_the_door(learner: Any, episode: Any) -> None:
    """Refuses what is no learner or not one task."""
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


def _shapes(learner: MetaLearner, episode: Episode) -> None:
    """Traces every function and compares shapes and structures; nothing is computed."""
    params = _traced("init", learner.init, KEY, episode)
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise UserError(
                f"`init` gave the parameter {tree.path_name(path)} of type {x.dtype}: a "
                "meta-parameter is a floating-point array"
            )
    state = _traced("start", learner.start, params, episode.profile)
    num_rows = len(episode.query.label)
    for examples in (episode.support, episode.query):
        after = _traced("adapt", learner.adapt, params, state, examples, KEY)
        _same_state(state, after)
    for now in (state, after):
        score = _traced("predict", learner.predict, params, now, episode.query.inputs)
        _score_shape(score, episode.query.label)
    out = _traced("loss", learner.loss, params, episode, KEY)
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
        raise UserError(f"`{name}` fails: {_first_line(error)}") from error


def _same_state(before: PyTree, after: PyTree) -> None:
    """Refuses a state after adapting of another structure, shape or type."""
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


def _stacked(*episodes: Episode) -> Episode:
    """Episodes as a batch, put together on the host, where nothing is compiled."""
    return jax.tree.map(lambda *x: np.stack([np.asarray(one) for one in x]), *episodes)


def _finite(part: str, value: PyTree) -> None:
    for path, x in jax.tree_util.tree_leaves_with_path(value):
        is_number = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
        if is_number and not np.isfinite(np.asarray(x, float)).all():
            where = f" in {tree.path_name(path)}" if path else ""
            raise UserError(f"`{part}` gave numbers that are not finite{where}")


def _first_line(error: Exception) -> str:
    """The kind of an error with the first line of its text."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _sentence(holds: Callable) -> str:
    return "'" + holds.__name__.replace("_", " ") + "'"
