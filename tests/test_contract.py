"""The contract battery: each property is tried on each row of `learner_rows` and `field_rows`.

A property is a plain function of a `Trial`, so that planted bugs can be handed to it too: one that
a bug of its name passes is worth nothing.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_trial import (
    Trial,
    at,
    gradients_counted,
    tasks_of,
    traced_once,
)
from field_rows import FIELD_ROWS
from learner_rows import ROWS as CORE_ROWS
from learner_rows import Row, World

from metajax import losses, tree
from metajax.evaluation import check
from metajax.evaluation.trial import key
from metajax.learners.gradient.maml import gradient
from metajax.learners.pooled import all_examples
from metajax.models.towers import vector_linear
from metajax.types import Episode, Examples, PyTree, UserError

ROWS = [*CORE_ROWS, *FIELD_ROWS]


def order_does_not_matter(t: Trial) -> None:
    """A permutation of the support leaves the predictions as they are."""
    order = np.random.default_rng(0).permutation(len(t.episode.support.label))
    shuffled = jax.tree.map(lambda x: x[order], t.episode.support)
    warm = t.one(t.params, t.episode._replace(support=shuffled), key()).warm
    assert t.equal(warm, t.clean.warm)


def support_moves_predictions(t: Trial) -> None:
    """Adapting on a support changes the predictions: else the properties above hold for nothing."""
    played = t.one(t.fitted, t.episode, key())
    moved = float(np.max(np.abs(np.asarray(played.warm) - np.asarray(played.cold))))
    assert (moved > 1e-2) == t.row.adapts, f"the support moved predictions by {moved:.2g}"


def the_outer_loss_is_that_of_the_warm_predictions(t: Trial) -> None:
    """Predictions are the same whatever the query labels, and the outer loss is made of them."""
    query = t.episode.query
    for label in (query.label, -query.label, query.label + 3.0):
        played = t.one(t.params, t.episode._replace(query=query._replace(label=label)), key())
        assert t.equal(played.warm, t.clean.warm)
        if t.row.outer is not None:
            assert t.equal(played.loss, t.row.outer(t.clean.warm, label, query.mask))


def num_gradients_is_what_adapt_takes(t: Trial) -> None:
    """The stated cost is the number of gradients that are evaluated in one call of ``adapt``."""
    params, episode = t.params, t.episode
    state = jax.jit(t.row.learner.start)(params, episode.profile)
    with gradients_counted() as count:
        t.row.learner.adapt(params, state, episode.support, key())
        jax.effects_barrier()
    assert sum(count) == t.row.learner.num_gradients


def gradients_reach_every_parameter(t: Trial) -> None:
    """A parameter has a meta-gradient on some of six tasks, or is known to be unlearned."""
    tasks = tasks_of(t.row.world, 13)[0]
    keys = {i: jax.random.fold_in(key(), i) for i in (2, 5)}  # dropout must not meet all six
    of = [t.gradients(t.params, at(tasks, slice(i, i + 3)), key) for i, key in keys.items()]
    grads = jax.tree.map(lambda *x: np.concatenate(x), *of)
    learned, unlearned = tree.partition(grads, tree.negate(t.row.unlearned))
    for path, leaf in jax.tree_util.tree_leaves_with_path(learned):
        assert np.any(leaf != 0), f"no meta-gradient reaches {tree.path_name(path)}"
    assert not any(np.any(leaf != 0) for leaf in jax.tree.leaves(unlearned))


def a_second_call_does_not_retrace(t: Trial) -> None:
    """Other values of the same shapes run the program that is there (`Trial.one` counts)."""
    other = at(tasks_of(t.row.world, 13)[0], 99)
    t.one(t.params, t.episode, key())
    again = t.one(t.params, t.episode._replace(query=other.query), jax.random.key(98))
    t.one(jax.tree.map(lambda x: x + 0 * x, t.params), other, key())
    adapt = traced_once(t.row.learner.adapt)
    state = adapt(t.params, again.before, t.episode.support, key())
    adapt(t.params, state, other.support, key())


def _errors_below(first: np.ndarray, second: np.ndarray) -> float:
    """By how many standard errors of the paired differences the first mean is below the second."""
    gap = second - first
    return float(gap.mean() / (gap.std(ddof=1) / np.sqrt(len(gap)) + 1e-12))


def training_improves(t: Trial) -> None:
    """Meta-training lowers the loss after adapting on tasks never seen."""
    assert _errors_below(t.scores["warm"], t.scores["untrained"]) > 3, "training does not help"


def adapting_beats_the_cold_start(t: Trial) -> None:
    """The trained learner is better after its support; one without adaptation is as it was."""
    if t.row.adapts:
        assert _errors_below(t.scores["warm"], t.scores["cold"]) > 3, "adapting does not help"
    else:
        np.testing.assert_allclose(t.scores["warm"], t.scores["cold"], rtol=1e-5)


def never_below_the_bayes_floor(t: Trial) -> None:
    """No learner beats Bayes over the same tasks by more than chance."""
    assert _errors_below(t.scores["warm"], t.scores["bayes"]) < 4, "better than Bayes: a leak"


MAML = next(row for row in ROWS if row.outer is not None and row.adapts)
"""The row that bugs are planted in."""

PROPERTIES = [
    *check.PROPERTIES,
    support_moves_predictions,
    the_outer_loss_is_that_of_the_warm_predictions,
    num_gradients_is_what_adapt_takes,
    gradients_reach_every_parameter,
    a_second_call_does_not_retrace,
    training_improves,
    adapting_beats_the_cold_start,
    never_below_the_bayes_floor,
]
"""Those that `check` tries on any learner, and those that need a world, a training or a row."""

DEAR = {
    check.empty_support_stays_cold,
    check.nothing_in_a_state_is_shared,
    check.params_stay_untouched,
    check.jit_is_eager,
    support_moves_predictions,
    num_gradients_is_what_adapt_takes,
    a_second_call_does_not_retrace,
    training_improves,
    adapting_beats_the_cold_start,
    never_below_the_bayes_floor,
}
"""Those that train the row, or run it uncompiled; the others share two small programs."""

FAST = {
    *("maml", "maml_dual", "anil", "meta_sgd", "reptile", "pooled", "committee", "ridge", "bias"),
    *("imaml", "cavia", "neural_process", "history", "prototypes", "joint_prior"),
    *("lora", "tanp", "mamo", "meta_embedding", "dropout_net", "gate", "metahin"),
}
"""The rows on which the fast tests try `DEAR` too: one of each kind of state and of outer loss."""


@functools.cache
def trial(index: int) -> Trial:
    """The trial of a row, with its programs compiled once for all properties."""
    return Trial(ROWS[index])


def test_rows_have_names_of_their_own():
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))


def _cost(row: Row, holds: Callable) -> tuple:
    """`pytest.mark.slow` where a property is dear and the row is like another one."""
    return (pytest.mark.slow,) if holds in DEAR and row.name not in FAST else ()


def _battery() -> list:
    """Each property of each row as parameters, property by property."""
    return [
        pytest.param(i, holds, id=f"{holds.__name__}-{row.name}", marks=_cost(row, holds))
        for holds in PROPERTIES
        for i, row in enumerate(ROWS)
    ]


def test_fast_rows_are_rows():
    assert {row.name for row in ROWS} >= FAST


@pytest.mark.parametrize(("index", "holds"), _battery())
def test_contract(index: int, holds):
    """The property, which asserts what it says, holds for the row."""
    holds(trial(index))


@pytest.mark.parametrize(
    "index", [pytest.param(i, id=row.name) for i, row in enumerate(ROWS) if row.order_free]
)
def test_order(index: int):
    order_does_not_matter(trial(index))


def _ignores_the_mask() -> Row:
    mse = lambda score, label, mask: jnp.mean((score - label) ** 2)
    return MAML._replace(learner=gradient(vector_linear(), optax.sgd(0.4), 3, loss=mse))


def _detaches_the_adapted_state() -> Row:
    learner = MAML.learner

    def loss(params: PyTree, episode: Episode, key: jax.Array):
        state = learner.adapt(params, learner.start(params, episode.profile), episode.support, key)
        score = learner.predict(params, jax.lax.stop_gradient(state), episode.query.inputs)
        return losses.squared_error(score, episode.query.label, episode.query.mask), {}

    return MAML._replace(learner=learner._replace(loss=loss))


def _adapts_on_the_query() -> Row:
    learner = MAML.learner
    leak = lambda params, episode, key: learner.loss(
        params, episode._replace(support=all_examples(episode)), key
    )
    return MAML._replace(learner=learner._replace(loss=leak))


@dataclasses.dataclass(frozen=True)
class _LeakyWorld:
    """Tasks whose support is the query, labels and all; Bayes has the support it should have."""

    world: World

    def sample(self, key: jax.Array) -> Episode:
        episode = self.world.sample(key)
        return episode._replace(support=episode.query)

    def bayes(self, episode: Episode) -> jax.Array:
        empty = episode.support._replace(mask=jnp.zeros_like(episode.support.mask))
        return self.world.bayes(episode._replace(support=empty))


def _draws_the_query_as_support() -> Row:
    return MAML._replace(world=_LeakyWorld(MAML.world))


def _decays_on_an_empty_support() -> Row:
    learner = MAML.learner

    def adapt(params: PyTree, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        state = learner.adapt(params, state, examples, key)
        return state._replace(fast=jax.tree.map(lambda x: 0.9 * x, state.fast))

    return MAML._replace(learner=learner._replace(adapt=adapt))


def _weighs_later_rows_more() -> Row:
    weighted = lambda s, y, m: jnp.sum((s - y) ** 2 * m * jnp.arange(len(m))) / jnp.sum(m + 1e-9)
    return MAML._replace(learner=gradient(vector_linear(), optax.sgd(0.02), 3, loss=weighted))


def _counts_calls_in_python_numbers() -> Row:
    learner = MAML.learner

    def adapt(params: PyTree, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        return learner.adapt(params, state, examples, key)._replace(moments=0)

    return MAML._replace(learner=learner._replace(adapt=adapt))


def _keeps_the_model_in_the_state() -> Row:
    learner = MAML.learner
    start = lambda params, profile: (learner.start(params, profile), params["model"])
    adapt = lambda params, state, *given: (learner.adapt(params, state[0], *given), state[1])
    predict = lambda params, state, inputs: learner.predict(params, state[0], inputs)
    return MAML._replace(learner=learner._replace(start=start, adapt=adapt, predict=predict))


def _states_a_cost_of_one() -> Row:
    return MAML._replace(learner=MAML.learner._replace(num_gradients=1))


def _never_adapts() -> Row:
    return MAML._replace(
        learner=MAML.learner._replace(adapt=lambda params, state, examples, key: state)
    )


PLANTED = [
    (_ignores_the_mask, check.padding_is_invisible),
    (_ignores_the_mask, check.padding_has_no_gradient),
    (_detaches_the_adapted_state, gradients_reach_every_parameter),
    (_adapts_on_the_query, check.query_labels_cannot_move_predictions),
    (_adapts_on_the_query, the_outer_loss_is_that_of_the_warm_predictions),
    (_draws_the_query_as_support, never_below_the_bayes_floor),
    (_decays_on_an_empty_support, check.empty_support_stays_cold),
    (_weighs_later_rows_more, order_does_not_matter),
    (_counts_calls_in_python_numbers, check.adapt_keeps_the_state),
    (_counts_calls_in_python_numbers, a_second_call_does_not_retrace),
    (_keeps_the_model_in_the_state, check.nothing_in_a_state_is_shared),
    (_states_a_cost_of_one, num_gradients_is_what_adapt_takes),
    (_never_adapts, support_moves_predictions),
    (_never_adapts, adapting_beats_the_cold_start),
]


@pytest.mark.parametrize(
    ("plant", "holds"), PLANTED, ids=[f"{a.__name__[1:]}-{b.__name__}" for a, b in PLANTED]
)
def test_a_planted_bug_fails_the_property_that_names_it(plant, holds):
    with pytest.raises((AssertionError, UserError)):
        holds(Trial(plant()))
