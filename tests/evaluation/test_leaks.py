"""Leaks: each is built on purpose here, and the test that names it must fail it."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.benchmark import problem
from metajax.data import split
from metajax.data.features import factors, represent
from metajax.data.worlds import latent
from metajax.evaluation import leaks
from metajax.types import Episode, Examples, UserError


@pytest.fixture(scope="module")
def table():
    return latent.rating_log(num_users=300, num_items=150)


@pytest.fixture(scope="module")
def made(table):
    return split.melu(table)


def tasks_of(num: int = 6) -> Episode:
    rng = np.random.default_rng(0)
    examples = lambda n: Examples(
        jnp.asarray(rng.normal(size=(num, n))),
        jnp.asarray(rng.integers(1, 6, (num, n)), jnp.float32),
        jnp.ones((num, n)),
    )
    return Episode((), examples(8), examples(5))


def honest(tasks: Episode) -> jax.Array:
    """The support's mean plus the input."""
    return jnp.mean(tasks.support.label, axis=1, keepdims=True) + tasks.query.inputs


# 1. query labels


def test_an_honest_prediction_does_not_see_query_labels():
    leaks.query_labels(honest, tasks_of(), jax.random.key(0))


@pytest.mark.parametrize(
    "leaky",
    [
        lambda t: honest(t) + 1e-3 * t.query.label,
        lambda t: honest(t) + jnp.mean(t.query.label, axis=1, keepdims=True),
        # weights from the query loss, as a published method has them
        lambda t: honest(t) * jax.nn.softmax(-((honest(t) - t.query.label) ** 2), axis=0),
        # the labels' order alone
        lambda t: honest(t) + jnp.argsort(t.query.label, axis=1),
    ],
    ids=["labels", "mean", "query loss", "order"],
)
def test_query_labels_in_a_prediction_are_found(leaky):
    with pytest.raises(leaks.Leak, match="query labels move the predictions of 6 of 6 tasks"):
        leaks.query_labels(leaky, tasks_of(), jax.random.key(0))


# 2. query items in the support, 3. test rows and users among the training rows


def test_the_splits_of_the_library_are_clean(table, made):
    leaks.split_is_clean(made, table)


def test_a_query_item_in_the_support_is_found(table, made):
    tasks = made.test["user_cold"]
    other = tasks.other.copy()
    last = tasks.start[0] + tasks.length[0] - 1
    other[tasks.start[0]] = other[last]
    leaky = dataclasses.replace(made, test={**made.test, "user_cold": tasks._replace(other=other)})
    with pytest.raises(leaks.Leak, match="test user_cold: 1 query items are in the support"):
        leaks.split_is_clean(leaky, table)


def test_query_rows_in_training_are_found(table):
    leaky = split.melu(table, hold_out=False)
    with pytest.raises(leaks.Leak, match=r"test warm: .* query rows are in the training rows"):
        leaks.split_is_clean(leaky, table)


@pytest.mark.parametrize(
    ("state", "message"), [(1, "cold user is trained on"), (2, "cold item is trained on")]
)
def test_a_cold_side_in_training_is_found(table, made, state, message):
    # One row of the cold side that is in no task: the pair itself is not looked up.
    states = split.melu_states(table, 0)
    scenario = split.SCENARIOS[state]
    tasks = made.test[scenario]
    owners = table.user if state == 1 else table.item
    tasked = np.unique(tasks.owner if state == 1 else tasks.other)
    rest = np.flatnonzero((states != state) & (states != 0) & np.isin(owners, tasked))
    leaky = dataclasses.replace(made, train_rows=np.append(made.train_rows, rest[:1]))
    test = {scenario: tasks}
    with pytest.raises(leaks.Leak, match=message):
        leaks.split_is_clean(dataclasses.replace(leaky, test=test, valid={}), table)


# 4. what is fitted beforehand


def test_the_items_columns_read_training_rows_alone(table, made):
    columns = lambda t, rows: represent.represent(t, rows).table.item_features.columns
    leaks.reads_only(columns, table, made.train_rows)


def popularity(table, rows):
    """How often each item will have been met, by everyone."""
    return np.bincount(table.item, minlength=table.num_items)


def factors_of_everyone(table, rows):
    """Factors of all users, the test users among them."""
    shape = (table.num_users, table.num_items)
    return factors.als(table.user, table.item, table.label - 3, shape, dim=2, num_sweeps=1)


def mean_of_everyone(table, rows):
    return {"mean": table.label.mean()}


@pytest.mark.parametrize("leaky", [popularity, factors_of_everyone, mean_of_everyone])
def test_what_reads_held_out_rows_is_found(table, made, leaky):
    with pytest.raises(leaks.Leak, match="depend on rows that are held out"):
        leaks.reads_only(leaky, table, made.train_rows)


# 5. selection on test tasks


@pytest.fixture()
def ready(table, made):
    """A problem without its representation: enough to open the test."""
    nothing = types.SimpleNamespace()
    return problem.Problem(table, made, 3.0, nothing, (nothing, nothing), nothing)  # pyright: ignore


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1


def test_test_tasks_stay_closed_until_the_configuration_is_frozen(ready):
    for not_a_ticket in (None, "open", Config(), ("a", "b", "c")):
        with pytest.raises(UserError, match="test tasks are closed"):
            ready.open_test(not_a_ticket, "mine")
    assert ready.opened == []
    ticket = problem.freeze(Config(), {"arm": {"steps": 5}})
    _, opened = ready.open_test(ticket, "mine")
    assert opened.keys() == set(split.SCENARIOS)
    (line,) = ready.opened
    assert line == dataclasses.replace(
        ticket, split=ready.split.checksum(), experiment="mine", times_opened=1, configurations=1
    )


@pytest.mark.parametrize("other", [(Config(0.2), {"steps": 5}), (Config(), {"steps": 10})])
def test_no_other_choice_is_judged_once_the_test_is_open(ready, other):
    first = problem.freeze(Config(), {"steps": 5})
    ready.open_test(first, "choosy")
    ready.open_test(
        problem.freeze(Config(), {"steps": 5}), "choosy"
    )  # the same choice may be judged again
    with pytest.raises(UserError, match="a new choice needs a new split"):
        ready.open_test(problem.freeze(*other), "choosy")
    copied = dataclasses.replace(ready, mean=0.0)
    with pytest.raises(UserError, match="a new choice needs a new split"):
        copied.open_test(problem.freeze(*other), "choosy")


def test_choosing_the_best_on_test_is_refused(ready):
    def select_on_test() -> float:
        best = 0.0
        for rate in (0.1, 0.2):
            ready.open_test(problem.freeze(Config(rate), {}), "greedy")
            best = rate
        return best

    with pytest.raises(UserError, match="test tasks were opened for configuration"):
        select_on_test()


def test_the_ticket_is_of_the_configuration_and_of_every_choice():
    base = problem.freeze(Config(), {"a": {"x": 1}})
    again = problem.freeze(Config(), {"a": {"x": 1}})
    assert dataclasses.replace(again, frozen=base.frozen) == base
    assert base.config_hash != problem.freeze(Config(0.3), {"a": {"x": 1}}).config_hash
    assert base.settings_hash != problem.freeze(Config(), {"a": {"x": 2}}).settings_hash
    assert base.frozen.endswith("Z") and len(base.frozen) == 20
