"""Whether a learner keeps the contract of `metajax.types`, tried on one task.

`check` is to be called before training. Each property below is a function of a `Trial` that returns
nothing, or raises a one-line `UserError` that names the part at fault.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metajax import losses, precision, tree
from metajax.evaluation.door import (
    first_line,
    refuse_infinite,
    refuse_other_state,
    refuse_shapes,
    refuse_strangers,
)
from metajax.evaluation.trial import GARBAGE, Trial, key, masked, stacked
from metajax.learners.parts import QueryLoss
from metajax.types import Episode, MetaLearner, UserError


def padding_is_invisible(t: Trial) -> None:
    """What stands in masked rows moves neither predictions nor loss nor state."""
    query = t.episode.query
    mask = np.asarray(query.mask) > 0
    real = np.cumsum(mask) <= max(mask.sum() - 3, 1)
    short = t.episode._replace(query=query._replace(mask=query.mask * real))
    shorter = t.one(t.params, short, key())
    for garbage in GARBAGE:
        support = masked(t.episode.support, len(t.episode.support.label), garbage)
        spoiled = t.one(t.params, t.episode._replace(support=support), key())
        if not t.equal((spoiled.after, spoiled.warm), (t.clean.after, t.clean.warm)):
            raise UserError(
                "`adapt` learns from rows whose mask is 0: multiply by examples.mask, or use "
                "losses.masked_mean"
            )
        unread = query._replace(label=jnp.where(short.query.mask > 0, query.label, garbage))
        tail = t.one(
            t.params, short._replace(query=short.query._replace(label=unread.label)), key()
        )
        if not t.equal((spoiled.loss, tail.loss), (t.clean.loss, shorter.loss)):
            raise UserError(
                "`loss` counts rows whose mask is 0: take the mean over the rows of the mask, as "
                "losses.masked_mean does"
            )


def padding_has_no_gradient(t: Trial) -> None:
    """Garbage in masked rows leaves the meta-gradient as it is."""
    width = len(t.episode.support.label)
    tasks = [t.episode._replace(support=masked(t.episode.support, width, g)) for g in (0.0, 9.0)]
    grads = t.gradients(t.params, stacked(*tasks, tasks[1]), key())
    first, second = (jax.tree.map(lambda x, i=i: x[i], grads) for i in (0, 1))
    if not t.equal(first, second):
        raise UserError("the gradient of `loss` depends on rows whose mask is 0")


def empty_support_stays_cold(t: Trial) -> None:
    """Adapting on nothing changes no prediction, of trained parameters too."""
    empty = t.episode._replace(support=masked(t.episode.support, 0, 7.0))
    for params in t.trained:
        played = t.one(params, empty, key())
        if not t.equal(played.warm, played.cold):
            raise UserError(
                "`adapt` on examples that are all masked changes what `predict` gives: an empty "
                "support must leave a person cold"
            )


def query_labels_cannot_move_predictions(t: Trial) -> None:
    """The outer loss is not that of predictions which have adapted on the query."""
    query = t.episode.query
    if isinstance(t.learner.loss, QueryLoss):
        return  # made of `adapt` on the support, by construction
    support = t.episode.support
    joined = jax.tree.map(lambda s, q: np.concatenate([s, q]), support, query)
    real = joined.mask > 0
    order = np.argsort(~real, stable=True)
    as_wide = real.sum() <= len(support.label)  # then nothing is compiled again
    if as_wide:
        order = order[: len(support.label)]
    both = jax.tree.map(lambda x: x[order], joined)
    alone = both._replace(mask=both.mask * (order >= len(support.label)))
    for examples in (both, alone):
        if as_wide:
            leaked = t.one(t.params, t.episode._replace(support=examples), key()).warm
        else:
            adapted = t.learner.adapt(t.params, t.clean.before, examples, key())
            leaked = t.learner.predict(t.params, adapted, query.inputs)
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
    refuse_other_state(t.clean.before, t.clean.after)


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
        same = lambda x, before=before: np.array_equal(before, x)
        if same(after) and not same(under_other) and same(of_profile):
            name = tree.path_name(path) or "all of it"
            raise UserError(
                f"`start` puts shared parameters into the state ({name}): a state is what one "
                "person has of their own; read them from params in `adapt` and `predict`"
            )


def values_are_finite(t: Trial) -> None:
    """Parameters, states, scores and loss are finite numbers."""
    refuse_infinite("init", t.params)
    for part, value in (
        ("start", t.clean.before),
        ("predict", t.clean.cold),
        ("adapt", t.clean.after),
        ("predict", t.clean.warm),
        ("loss", t.clean.loss),
    ):
        refuse_infinite(part, value)


def gradients_are_finite(t: Trial) -> None:
    """Outer gradients are finite, without a support and without a query, too."""
    grads = t.slopes
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
    leaves = jax.tree.leaves(t.slopes)
    if leaves and not any(np.any(x != 0) for x in leaves):
        raise UserError(
            "no gradient of `loss` reaches any parameter: look for stop_gradient, argmax or round "
            "on the way"
        )


def params_stay_untouched(t: Trial) -> None:
    """Playing a task with the parameters leaves every one of their bits."""
    _ = t.eager  # played with the parameters themselves, which nothing may write to
    same = lambda a, b: np.array_equal(a, np.asarray(b), equal_nan=True)
    if not all(jax.tree.leaves(jax.tree.map(same, t.bits, t.params))):
        raise UserError("the functions of the learner write into params; return new arrays instead")


def vmap_is_loop(t: Trial) -> None:
    """A batch of tasks gets the outer losses that its tasks get one at a time."""
    query = t.episode.query
    other = t.episode._replace(query=query._replace(label=query.label[::-1]))
    (together, _), _ = t.batch(t.params, stacked(t.episode, other, other), key())
    alone = [t.clean.loss, t.one(t.params, other, key()).loss]
    if not t.equal(together[:2], np.stack(alone)):
        raise UserError("`loss` of tasks under jax.vmap is not that of the tasks one at a time")


def jit_is_eager(t: Trial) -> None:
    """Compiled and uncompiled programs agree, the support trimmed of its padding in the latter."""
    eager = t.eager
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


@precision.highest
def check(learner: MetaLearner, episode: Episode, *, quick: bool = False) -> None:
    """Returns nothing if the learner keeps the contract on this task.

    First every function is traced for its shapes, then each of `PROPERTIES` is tried, with exact
    products: where a platform rounds factors, two programs of one number differ.

    Args:
      learner: the learner, before training.
      episode: one task without a batch axis, such as ``problem.example``.
      quick: try `QUICK` only, which takes a second or two.

    Raises:
      UserError: one line that names the function at fault, what it gave and what it should give.
    """
    refuse_strangers(learner, episode)
    episode = _with_padding(jax.tree.map(jnp.asarray, episode))
    refuse_shapes(learner, episode)
    trial = Trial(learner, episode)
    for holds in QUICK if quick else PROPERTIES:
        try:
            holds(trial)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{_sentence(holds)} cannot be tried: {first_line(error)}") from error


def _with_padding(episode: Episode) -> Episode:
    """The episode with as many masked rows after its support as its query has rows."""
    wide = jax.tree.map(lambda s, q: jnp.concatenate([s, q]), episode.support, episode.query)
    return episode._replace(support=masked(wide, len(episode.support.label), 0.0))


def _sentence(holds: Callable) -> str:
    return "'" + holds.__name__.replace("_", " ") + "'"
