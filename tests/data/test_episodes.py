"""From a table to episodes: sampling, the MeLU split, and the item columns estimated before it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from metajax.data import episodes, split
from metajax.data.features import factors, represent
from metajax.data.sources import movielens
from metajax.data.split import Split, Tasks
from metajax.data.table import Features
from metajax.data.worlds import latent
from metajax.types import UserError

LENGTHS = np.array([4, 9, 20, 3], np.int32)
OWNERS = np.array([7, 3, 5, 0], np.int32)


def tasks_of_own_rows() -> Tasks:
    """Four tasks whose ``other`` is 100 x task + place, and whose label is place / 10."""
    place = np.concatenate([np.arange(n) for n in LENGTHS])
    task = np.repeat(np.arange(4), LENGTHS)
    start = (np.cumsum(LENGTHS) - LENGTHS).astype(np.int32)
    label = (place / 10).astype(np.float32)
    return Tasks(OWNERS, start, LENGTHS, (100 * task + place).astype(np.int32), label)


def source_of(tasks: Tasks) -> episodes.Source:
    return episodes.Source(
        *jax.device_put((tasks, {"owner": np.arange(8)}, {"ten": np.arange(400) * 10}))
    )


@functools.cache
def drawn(num_support: int, num_query: int, full_share: float, num_tasks: int = 3):
    """8,000 draws out of the first tasks, on the host."""
    tasks = tasks_of_own_rows()
    tasks = tasks._replace(owner=tasks.owner[:num_tasks], start=tasks.start[:num_tasks])
    source = source_of(tasks._replace(length=tasks.length[:num_tasks]))
    draw = lambda key: episodes.draw(key, source, num_support, num_query, full_share)
    keys = jax.random.split(jax.random.key(0), 8000)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))


def test_support_and_query_are_different_rows_of_the_tasks_own():
    batch = drawn(6, 5, 0.5)
    for t in range(0, 8000, 8):
        task = list(OWNERS).index(batch.profile["owner"][t])
        rows = [e.inputs["item"][t][e.mask[t] > 0] for e in (batch.support, batch.query)]
        every = np.concatenate(rows)
        assert len(set(every)) == len(every)
        assert set(every // 100) == {task} and (every % 100 < LENGTHS[task]).all()


def test_inputs_profile_and_labels_are_those_of_the_drawn_rows():
    batch = drawn(6, 5, 0.5)
    for examples in (batch.support, batch.query):
        item, real = examples.inputs["item"], examples.mask > 0
        np.testing.assert_array_equal(examples.inputs["ten"], 10 * item)
        np.testing.assert_allclose(examples.label[real], (item[real] % 100) / 10, rtol=1e-6)


def test_the_query_is_as_large_as_asked_but_at_most_half_of_a_task():
    batch = drawn(6, 5, 0.5)
    for owner, length in zip(OWNERS[:3], LENGTHS, strict=False):
        of_owner = batch.profile["owner"] == owner
        assert set(batch.query.mask[of_owner].sum(axis=1)) == {min(5, length // 2)}


def test_the_number_of_shots_covers_zero_to_the_maximum():
    """Tasks of 4, 9 and 20 rows have 2, 4 and 5 query rows: supports go to 2, 5 and (asked) 6."""
    batch = drawn(6, 5, 0.5)
    shots = batch.support.mask.sum(axis=1)
    for owner, most in zip(OWNERS[:3], (2, 5, 6), strict=True):
        assert set(shots[batch.profile["owner"] == owner]) == set(range(most + 1))


def test_full_supports_have_their_share():
    """Every draw is full with ``full_share=1``; with 0.5 at least half are."""
    batch = drawn(6, 5, 1.0)
    most = {7: 2, 3: 5, 5: 6}
    shots = batch.support.mask.sum(axis=1)
    np.testing.assert_array_equal(shots, [most[o] for o in batch.profile["owner"]])
    batch = drawn(6, 5, 0.5)
    full = batch.support.mask.sum(axis=1) == [most[o] for o in batch.profile["owner"]]
    assert 0.5 < full.mean() < 0.8


def test_draws_are_uniform_over_tasks_and_over_rows():
    """Chi-square tests of the task, of its first query row and of its first support row."""
    batch = drawn(6, 5, 1.0)
    owners = [np.sum(batch.profile["owner"] == o) for o in OWNERS[:3]]
    assert stats.chisquare(owners).pvalue > 1e-3
    of_owner = batch.profile["owner"] == 5
    for examples in (batch.query, batch.support):
        first = examples.inputs["item"][of_owner, 0] - 200
        assert stats.chisquare(np.bincount(first, minlength=20)).pvalue > 1e-3


def test_a_draw_is_determined_by_its_key():
    source = source_of(tasks_of_own_rows())
    draw = jax.jit(lambda key: episodes.draw(key, source, 6, 5))
    twice = [[draw(jax.random.key(k)) for k in range(5)] for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *twice)
    queries = {tuple(np.asarray(e.query.inputs["item"]).tolist()) for e in twice[0]}
    assert len(queries) > 1


def test_fixed_episodes_have_their_last_rows_as_query():
    batch = episodes.fixed(tasks_of_own_rows(), num_query=2)
    np.testing.assert_array_equal(batch.profile, OWNERS)
    np.testing.assert_array_equal(batch.query.inputs, [[2, 3], [107, 108], [218, 219], [301, 302]])
    np.testing.assert_array_equal(batch.support.mask.sum(axis=1), [2, 7, 18, 1])
    assert batch.support.inputs.shape == (4, 18)
    np.testing.assert_array_equal(batch.support.inputs[0, :2], [0, 1])
    np.testing.assert_array_equal(batch.support.inputs[2], np.arange(200, 218))
    np.testing.assert_array_equal(batch.support.inputs[3], [300] + 17 * [0])
    np.testing.assert_allclose(batch.query.label[1], [0.7, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(batch.query.mask, np.ones((4, 2)))


def test_fixed_episodes_with_stored_shots_keep_them():
    tasks = tasks_of_own_rows()._replace(shots=np.array([1, 9, 5, 0], np.int32))
    batch = episodes.fixed(tasks, num_query=2, num_support=6)
    np.testing.assert_array_equal(batch.support.mask.sum(axis=1), [1, 6, 5, 0])
    np.testing.assert_array_equal(batch.query.mask.sum(axis=1), [3, 0, 15, 3])
    np.testing.assert_array_equal(batch.query.inputs[3, :3], [300, 301, 302])


@functools.cache
def table():
    return latent.rating_log(num_users=300, num_items=200, seed=1)


def owners(tasks: Tasks) -> set[int]:
    return set(np.asarray(tasks.owner).tolist())


def pairs(tasks: Tasks, last: int | None = None) -> set[tuple[int, int]]:
    """The (user, item) pairs of tasks, or of their last rows only."""
    owner = np.repeat(tasks.owner, tasks.length)
    if last is None:
        return set(zip(owner.tolist(), tasks.other.tolist(), strict=True))
    at = (tasks.start + tasks.length)[:, None] - 1 - np.arange(last)
    return set(zip(owner[at].ravel().tolist(), tasks.other[at].ravel().tolist(), strict=True))


def users_of_two_phases(parts: Split) -> set[int]:
    """The users of training who are validated or tested on as new, and those of both."""
    cold = owners(parts.test["user_cold"]) | owners(parts.test["both_cold"])
    valid = owners(parts.valid["user_cold"])
    return owners(parts.train) & (cold | valid) | valid & cold


def fitted_queries(parts: Split, log) -> dict[str, set[tuple[int, int]]]:
    """Per test and validation set, the query rows that were fitted on; of cold sets, any row."""
    rows = parts.train_rows
    fitted = set(zip(log.user[rows].tolist(), log.item[rows].tolist(), strict=True))
    assert pairs(parts.train) <= fitted
    found = {f"valid {k}": pairs(t, last=parts.num_query) for k, t in parts.valid.items()}
    for name, tasks in parts.test.items():
        cold = name in ("user_cold", "item_cold", "both_cold")
        found[name] = pairs(tasks) if cold else pairs(tasks, last=parts.num_query)
    return {name: fitted & judged for name, judged in found.items() if fitted & judged}


def test_the_melu_split_leaks_nothing():
    parts = split.melu(table(), min_rows=11)
    assert users_of_two_phases(parts) == set()
    assert fitted_queries(parts, table()) == {}


def test_a_split_with_warm_queries_in_training_leaks():
    """The planted bug: "test on train", as a widespread port of MeLU does."""
    parts = split.melu(table(), min_rows=11, hold_out=False)
    assert "warm" in fitted_queries(parts, table())


def test_cold_items_of_the_melu_split_are_in_no_training_row():
    parts, log = split.melu(table(), min_rows=11), table()
    assert log.item_year is not None
    new = set(np.flatnonzero(log.item_year > 1990).tolist())
    assert not set(log.item[parts.train_rows].tolist()) & new
    assert set(parts.test["item_cold"].other.tolist()) <= new
    assert set(parts.test["both_cold"].other.tolist()) <= new
    assert not set(parts.test["user_cold"].other.tolist()) & new


def test_the_checksum_is_of_the_seed():
    one, same, other = (split.melu(table(), seed, min_rows=11) for seed in (0, 0, 1))
    assert one.checksum() == same.checksum() != other.checksum()
    np.testing.assert_array_equal(one.train.other, same.train.other)


def test_a_log_too_small_is_refused_in_one_line():
    small = latent.rating_log(num_users=4, num_items=30)
    with pytest.raises(
        UserError,
        match=r"larger log, other bounds \(--min-rows, --max-rows\) or another",
    ):
        split.melu(small, min_rows=28)


@pytest.mark.parametrize(
    ("scenario", "num_tasks"), [("user_cold", 668), ("item_cold", 2863), ("both_cold", 723)]
)
def test_melu_tasks_of_movielens_1m_are_as_many_as_published(scenario, num_tasks, data_dir):
    assert movielens_split(data_dir).test[scenario].num_tasks == num_tasks


def test_warm_tasks_of_movielens_1m_are_as_many_as_published(data_dir):
    """2,653 eligible warm users, of which our meta-validation takes a part."""
    parts = movielens_split(data_dir)
    num_warm = parts.test["warm"].num_tasks
    assert num_warm + parts.valid["user_cold"].num_tasks == 2653
    lengths = parts.test["warm"].length
    assert lengths.min() >= 13 and lengths.max() <= 100


@functools.cache
def movielens_split(data_dir) -> Split:
    if not (data_dir / "ml-1m").is_dir():
        pytest.skip("no ml-1m in the data folder")
    return split.melu(movielens.ml_1m(data_dir / "ml-1m"))


def test_one_side_of_als_is_numpys_ridge():
    rng = np.random.default_rng(0)
    ratings = sp.csr_matrix(rng.normal(size=(5, 7)) * (rng.random((5, 7)) < 0.5))
    present = ratings.copy()
    present.data[:] = 1.0
    other = rng.normal(size=(7, 3))
    solved = factors.solve_side(ratings, present, other, 0.7)
    for row in range(5):
        rated = np.flatnonzero(present[row].toarray()[0])
        x, y = other[rated], ratings[row].toarray()[0][rated]
        expected = np.linalg.solve(x.T @ x + 0.7 * np.eye(3), x.T @ y)
        np.testing.assert_allclose(solved[row], expected, rtol=1e-9, atol=1e-12)


def test_als_recovers_a_matrix_of_low_rank():
    """Of a rank-2 residual with little noise, half the cells seen: the unseen half is predicted."""
    rng = np.random.default_rng(1)
    user, item = (index.ravel() for index in np.mgrid[:60, :50])
    full = (rng.normal(size=(60, 2)) @ rng.normal(size=(2, 50)) + rng.normal(size=(60, 1))).ravel()
    seen = rng.random(3000) < 0.5
    found = factors.als(user[seen], item[seen], full[seen], (60, 50), dim=2, penalty=0.1)
    fitted = found.user[user, 0] + np.sum(found.user[user, 1:] * found.item[item], axis=1)
    assert np.mean((fitted - full)[~seen] ** 2) < 0.02 * np.mean(full[~seen] ** 2)


def test_als_lowers_the_error_that_biases_leave_on_held_out_rows():
    log = latent.rating_log()
    rng = np.random.default_rng(0)
    held = rng.random(len(log)) < 0.1
    mean = log.label[~held].mean()
    residual = (log.label - mean).astype(np.float64)
    for index, size in ((log.item, log.num_items), (log.user, log.num_users)):
        total = np.bincount(index[~held], residual[~held], minlength=size)
        count = np.bincount(index[~held], minlength=size)
        residual = residual - (total / (count + 5))[index]
    shape = (log.num_users, log.num_items)
    rows = (log.user[~held], log.item[~held], residual[~held])
    found = factors.als(*rows, shape, dim=6, penalty=10.0)
    user, item = found.user[log.user[held]], found.item[log.item[held]]
    error = residual[held] - user[:, 0] - np.sum(user[:, 1:] * item, axis=1)
    assert np.mean(error**2) < 0.95 * np.mean(residual[held] ** 2)


def test_content_prediction_recovers_a_planted_linear_model():
    """Targets that are sums of the effects of two categories, the unknown rows included."""
    rng = np.random.default_rng(2)
    index = np.column_stack([rng.integers(1, 5, 400), rng.integers(1, 4, 400)]).astype(np.int32)
    effects = [np.array([0, 1.0, -1.0, 0.5, 2.0]), np.array([0, -0.5, 0.5, 1.5])]
    y = (effects[0][index[:, 0]] + effects[1][index[:, 1]])[:, None]
    columns = {"first": index[:, :1], "second": index[:, 1:]}
    x = represent.content_matrix(Features(columns, {"first": 5, "second": 4}), 400)
    weight = (rng.random(400) < 0.5).astype(float)
    garbage = np.where(weight[:, None] > 0, y, 99.0)
    predicted, penalty = represent.content_prediction(x, garbage, weight)
    assert penalty == 1.0
    unknown = weight == 0
    assert np.mean((predicted - y)[unknown] ** 2) < 0.005 * y.var()


def test_the_weighted_ridge_is_numpys():
    rng = np.random.default_rng(3)
    x, y, weight = rng.normal(size=(30, 4)), rng.normal(size=(30, 2)), rng.random(30)
    actual = represent._weighted_ridge(sp.csr_matrix(x), y, weight, 1.3)
    normal = x.T @ (weight[:, None] * x) + 1.3 * np.eye(4)
    expected = np.linalg.solve(normal, x.T @ (weight[:, None] * y))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_item_columns_come_from_the_given_rows_alone():
    """Labels outside of ``rows`` move nothing; items without rows of one genre are all alike."""
    log = table()
    rows = split.melu(log, min_rows=11).train_rows
    spoiled = log.label.copy()
    spoiled[np.setdiff1d(np.arange(len(log)), rows)] = 5.0
    first, mean, *_ = represent.represent(log, rows, dim=3)
    second, same_mean, *_ = represent.represent(
        dataclasses.replace(log, label=spoiled), rows, dim=3
    )
    assert mean == same_mean
    np.testing.assert_allclose(mean, log.label[rows].mean(), rtol=1e-6)
    for name in ("bias", "factor"):
        columns = [t.item_features.columns[name] for t in (first, second)]
        np.testing.assert_array_equal(columns[0], columns[1])
        unrated = np.bincount(log.item[rows], minlength=log.num_items) == 0
        assert unrated.any() and np.isfinite(columns[0]).all()
        genre = log.item_features.columns["genre"][unrated, 0]
        values = columns[0][unrated]
        for g in set(genre):
            assert np.ptp(values[genre == g], axis=0).max() < 1e-5


def test_a_training_task_sees_columns_that_do_not_know_its_ratings():
    """Count and bias by hand; with every rating of its fold spoiled, a task sees the same."""
    log = latent.rating_log()
    rows = np.arange(len(log))
    known = represent.represent(log, rows, dim=3, num_folds=4)
    theirs = known.fold[log.user] == 2
    n = np.bincount(log.item[~theirs], minlength=log.num_items)
    np.testing.assert_allclose(known.held_out["count"][2], np.log1p(n), rtol=1e-6)
    total = np.bincount(log.item[~theirs], log.label[~theirs] - known.mean, minlength=log.num_items)
    content = known.table.item_features.columns["content_bias"]
    np.testing.assert_allclose(
        known.held_out["bias"][2], (total + 5 * content) / (n + 5), rtol=1e-4, atol=1e-5
    )

    split_ = split.melu(log)
    known = represent.represent(log, split_.train_rows)
    source = episodes.source_of_folds(split_.train, known.table, known.fold, known.held_out)
    draw = jax.jit(episodes.draw, static_argnums=(2, 3))
    episode = draw(jax.random.key(0), source, 20, 10)
    index = np.asarray(episode.query.inputs["item"])
    owner = [u for u in split_.train.owner if set(index) <= set(log.item[log.user == u])]
    fold = known.fold[owner[0]]
    for name in ("count", "bias", "factor"):
        np.testing.assert_array_equal(episode.query.inputs[name], known.held_out[name][fold][index])
    every = known.table.item_features.columns
    np.testing.assert_array_equal(
        episode.query.inputs["content_bias"], every["content_bias"][index]
    )


def test_held_out_factors_are_a_ridge_on_the_other_users_and_keep_their_coordinates():
    """They correlate with the full ones feature by feature: no rotation between folds."""
    log = latent.rating_log()
    known = represent.represent(log, np.arange(len(log)), dim=2)
    full = known.table.item_features.columns["factor"]
    many = known.table.item_features.columns["count"] > np.log(20)
    for held in known.held_out["factor"]:
        for d in range(2):
            assert np.corrcoef(held[many, d], full[many, d])[0, 1] > 0.9
