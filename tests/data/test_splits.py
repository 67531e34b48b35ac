"""Splits: who is seen when, on small logs whose parts can be counted by hand."""

import dataclasses

import numpy as np
import pytest

from metajax.data import describe, split
from metajax.data.split.users import place_in_group
from metajax.data.table import Features, Interactions, validate
from metajax.data.worlds import latent
from metajax.evaluation import leaks
from metajax.types import UserError


def log(user, item, time=None, label=None, name="log") -> Interactions:
    """A small log; labels 1..5 in turn."""
    user, item = np.asarray(user, np.int32), np.asarray(item, np.int32)
    n = len(user)
    label = np.arange(n) % 5 + 1 if label is None else label
    return validate(
        Interactions(
            name=name,
            user=user,
            item=item,
            label=np.asarray(label, np.float32),
            time=None if time is None else np.asarray(time, np.int64),
            user_ids=np.arange(user.max() + 1),
            item_ids=np.arange(item.max() + 1),
            user_features=Features(),
            item_features=Features(),
            scale=(1.0, 5.0),
        )
    )


@pytest.fixture(scope="module")
def timed() -> Interactions:
    """The synthetic log with random times, and items met by more than 200 users."""
    table = latent.rating_log(num_users=800, num_items=200)
    time = np.random.default_rng(0).permutation(len(table)).astype(np.int64)
    return dataclasses.replace(table, time=time)


def rows_of_task(tasks: split.Tasks, t: int) -> slice:
    return slice(tasks.start[t], tasks.start[t] + tasks.length[t])


@pytest.mark.parametrize("rule", describe.RULES.values(), ids=describe.RULES)
def test_every_split_is_a_function_of_its_seed_and_leaks_nothing(rule, timed):
    made = rule(timed)
    assert made.checksum() == rule(timed).checksum()
    leaks.split_is_clean(made, timed)
    for tasks in (*made.valid.values(), *made.test.values()):
        assert (made.query_size(tasks) >= 1).all()
        assert (tasks.length - made.query_size(tasks) >= 0).all()


@pytest.mark.parametrize("rule", [split.user_disjoint, split.first_k, split.melu, split.ctr_warmup])
def test_another_seed_is_another_split(rule, timed):
    assert rule(timed, 0).checksum() != rule(timed, 1).checksum()


def test_the_rows_of_a_task_are_the_users_own(timed):
    made = split.user_disjoint(timed)
    tasks = made.test["user_cold"]
    for t in range(tasks.num_tasks):
        mine = timed.user == tasks.owner[t]
        expected = sorted(zip(timed.item[mine], timed.label[mine], strict=True))
        at = rows_of_task(tasks, t)
        assert sorted(zip(tasks.other[at], tasks.label[at], strict=True)) == expected


def test_user_disjoint_rounds_its_shares_down_and_leaves_out_light_and_heavy_users():
    # 25 users with 13 rows are eligible: 2 for validation, 2 for the test, 21 to train on.
    counts = [13] * 25 + [12, 101]
    user = np.repeat(np.arange(27), counts)
    item = np.concatenate([np.arange(c) for c in counts])
    made = split.user_disjoint(log(user, item))
    assert made.train.num_tasks == 21
    assert made.valid["user_cold"].num_tasks == made.test["user_cold"].num_tasks == 2
    assert len(made.train_rows) == 21 * 13
    owners = np.concatenate(
        [t.owner for t in (made.train, *made.valid.values(), *made.test.values())]
    )
    assert sorted(owners) == list(range(25))


def test_folds_test_other_users_each_until_all_were_tested():
    """20 users with 13 rows: two are tested in each of ten folds, nobody twice."""
    table = log(np.repeat(np.arange(20), 13), np.tile(np.arange(13), 20))
    folds = [split.user_disjoint(table, fold=fold) for fold in range(10)]
    assert folds[0].checksum() == split.user_disjoint(table).checksum()
    assert sorted(np.concatenate([f.test["user_cold"].owner for f in folds])) == list(range(20))
    for made in folds:
        owners = [t.owner for t in (made.train, *made.valid.values(), *made.test.values())]
        assert sorted(np.concatenate(owners)) == list(range(20))


def test_the_first_k_rows_by_time_are_the_support():
    user = np.repeat(np.arange(20), 13)
    item = np.tile(np.arange(13), 20)
    time = np.tile(100 - np.arange(13), 20)  # the last item was met first
    made = split.first_k(log(user, item, time), num_support=3)
    tasks = made.test["user_cold"]
    assert tasks.shots.tolist() == [3, 3]
    for t in range(2):
        assert tasks.other[rows_of_task(tasks, t)].tolist() == list(range(12, -1, -1))


def test_tanp_has_ragged_queries_of_items_that_training_knows():
    rng = np.random.default_rng(0)
    counts = rng.integers(40, 80, 30)
    user = np.repeat(np.arange(30), counts)
    item = np.concatenate([rng.permutation(150)[:c] for c in counts])
    item[0] = 150  # an item that user 0 alone has
    made = split.tanp(log(user, item))
    assert [made.train.num_tasks, made.valid["user_cold"].num_tasks] == [21, 3]
    tasks = made.test["user_cold"]
    assert tasks.num_tasks == 6 and set(tasks.shots) == {20}
    assert len(set(made.query_size(tasks))) > 1
    assert np.isin(tasks.other, made.train.other).all()


def test_the_global_cut_puts_the_past_in_the_support_and_the_future_in_the_query():
    # Rows 0..99 in time order. User 0 is there all along, user 1 from row 82 on, user 2 from 91 on.
    user = np.zeros(100, int)
    user[82::2], user[91::2], user[80] = 1, 2, 0
    made = split.global_time(log(user, np.arange(100), np.arange(100)), cold_shots=1)
    assert made.train_rows.tolist() == list(range(80))
    warm, cold = made.test["warm"], made.test["user_cold"]
    assert warm.owner.tolist() == [1] and cold.owner.tolist() == [2]
    assert warm.other.tolist() == [82, 84, 86, 88, 90, 92, 94, 96, 98]
    assert warm.shots.tolist() == [4]  # 82, 84, 86, 88 come before the cut at 90
    assert cold.other.tolist() == [91, 93, 95, 97, 99] and cold.shots.tolist() == [1]
    assert made.valid["warm"].owner.tolist() == [0]
    # of user 0 the last 20 rows of the past are the support
    first = rows_of_task(made.valid["warm"], 0)
    assert made.valid["warm"].other[first].tolist() == [*range(60, 80), 80, 81, 83, 85, 87, 89]


def test_a_stream_begins_cold_for_new_users():
    user = np.zeros(100, int)
    user[70:] = 1
    made = split.prequential(log(user, np.arange(100), np.arange(100)), max_support=5)
    cold = made.test["user_cold"]
    assert cold.owner.tolist() == [1] and cold.shots.tolist() == [0]
    assert cold.other.tolist() == list(range(70, 100))
    assert made.valid["warm"].shots.tolist() == [5]


def test_leave_one_out_takes_the_last_and_the_one_before():
    user = np.repeat([0, 1, 2], [5, 6, 4])
    time = np.r_[4, 3, 2, 1, 0, np.arange(6), np.arange(4)]
    made = split.leave_one_out(log(user, np.arange(15), time))
    test, valid = made.test["warm"], made.valid["warm"]
    assert test.owner.tolist() == [0, 1]  # user 2 has 4 rows and 5 are needed
    assert test.other[test.start + test.shots].tolist() == [0, 10]
    assert valid.other[valid.start + valid.shots].tolist() == [1, 9]
    assert made.train_rows.tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_items_warm_up_in_phases_by_time():
    # Item 0 is hot (8 rows), items 1 and 2 are cold with 7 and 4 rows, item 3 has 3 rows: too few.
    item = np.repeat([0, 1, 2, 3], [8, 7, 4, 3])
    time = np.arange(22)[::-1]
    user = np.arange(22)
    made = split.ctr_warmup(log(user, item, time), hot=7, per_phase=1, valid_items=0.0)
    tasks = made.test["item_cold"]
    assert made.side == "item" and made.train.owner.tolist() == [0]
    assert tasks.owner.tolist() == [1, 2] and tasks.shots.tolist() == [3, 3]
    assert made.query_size(tasks).tolist() == [4, 1]
    assert tasks.other[:7].tolist() == [14, 13, 12, 11, 10, 9, 8]  # the oldest first
    assert made.train_rows.tolist() == list(range(8))


def test_cold_users_and_items_by_time_are_those_that_come_last():
    table = log([0, 1, 2, 3, 0], [0, 1, 1, 2, 3], [10, 20, 30, 40, 50])
    assert split.newest_users(table, 0.25).tolist() == [False, False, False, True]
    assert split.newest_items(table, 0.5).tolist() == [False, False, True, True]
    state = split.quadrants(table, split.newest_users(table, 0.25), split.newest_items(table, 0.5))
    assert state.tolist() == [0, 0, 0, 3, 2]


def test_codes_that_are_not_melus_are_not_taken_for_them(timed):
    halves = dataclasses.replace(timed, state=(timed.user % 2).astype(np.int8))
    assert split.melu(halves).protocol == "melu-redrawn"


def domains() -> tuple[Interactions, Interactions]:
    """Thirty people in both domains, five only in the source; items 0..9 in each."""
    grid = lambda users: (np.repeat(np.arange(users), 10), np.tile(np.arange(10), users))
    target, source = log(*grid(30), name="music"), log(*grid(35), name="book")
    ids = np.r_[np.arange(30), np.arange(30, 35) + 1000]
    return dataclasses.replace(source, user_ids=ids), target


def test_hidden_users_bring_the_source_domain_and_are_judged_in_the_target():
    source, target = domains()
    table, made = split.domain_transfer(source, target, hidden=0.2, valid=0.1)
    tasks = made.test["user_cold"]
    assert tasks.num_tasks == 6 and made.valid["user_cold"].num_tasks == 3
    hidden = np.concatenate([tasks.owner, made.valid["user_cold"].owner])
    trained = made.train_rows[np.isin(table.user[made.train_rows], hidden)]
    assert (table.item[trained] >= 10).all()  # the source domain alone
    for t in range(6):
        at = tasks.other[rows_of_task(tasks, t)]
        assert (at[: tasks.shots[t]] >= 10).all() and (at[tasks.shots[t] :] < 10).all()
    leaks.split_is_clean(made, table)


def test_domains_must_share_users_and_scales():
    source, target = domains()
    strangers = dataclasses.replace(source, user_ids=np.arange(35) + 5000)
    with pytest.raises(UserError, match="share no users"):
        split.domain_transfer(strangers, target)
    with pytest.raises(UserError, match="scale"):
        split.domain_transfer(dataclasses.replace(source, scale=(0.0, 10.0)), target)


@pytest.mark.parametrize("rule", [split.tanp, split.ctr_warmup, split.melu])
def test_a_task_file_brings_the_split_back(rule, timed, tmp_path):
    made = rule(timed)
    path = split.save(tmp_path / "tasks.npz", made, timed)
    loaded = split.load(path, timed)
    assert loaded.checksum() == made.checksum()
    assert (loaded.protocol, loaded.seed, loaded.side) == (made.protocol, made.seed, made.side)
    for scenario, tasks in made.test.items():
        np.testing.assert_array_equal(loaded.test[scenario].other, tasks.other)
        np.testing.assert_array_equal(loaded.test[scenario].shots, tasks.shots)


def test_a_task_file_of_other_data_is_refused(timed, tmp_path):
    path = split.save(tmp_path / "tasks.npz", split.melu(timed), timed)
    other = dataclasses.replace(timed, label=timed.label[::-1].copy())
    with pytest.raises(UserError, match="load the data that the tasks were made from"):
        split.load(path, other)


def test_a_changed_or_cut_task_file_is_refused(timed, tmp_path):
    path = split.save(tmp_path / "tasks.npz", split.melu(timed), timed)
    arrays = dict(np.load(path))
    arrays["test/warm/other"][:2] = arrays["test/warm/other"][1::-1]
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(UserError, match="not those it was written with"):
        split.load(tmp_path / "changed.npz", timed)
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="not a whole task file"):
        split.load(tmp_path / "cut.npz", timed)
    del arrays["test/warm/other"]
    np.savez(tmp_path / "less.npz", **arrays)
    with pytest.raises(UserError, match="not a whole task file"):
        split.load(tmp_path / "less.npz", timed)
    with pytest.raises(UserError, match="no such task file"):
        split.load(tmp_path / "none.npz", timed)


def test_what_cannot_be_split_is_told_in_one_line():
    thin = log([0, 1, 2], [0, 1, 2])
    for rule in describe.RULES.values():
        with pytest.raises(UserError) as told:
            rule(thin)
        assert "\n" not in str(told.value)


def test_places_in_groups():
    assert place_in_group(np.array([4, 4, 7, 7, 7, 9])).tolist() == [0, 1, 0, 1, 2, 0]


def test_real_counts_of_the_published_protocols(data_dir):
    from metajax.data.sources import named

    table = named.load_named("ml-1m", data_dir)
    if table.state is None:
        pytest.skip("needs the published states")
    melu = split.melu(table, valid_users=0.0)
    counts = {k: t.num_tasks for k, t in melu.test.items()}
    assert counts == {"warm": 2653, "user_cold": 668, "item_cold": 2863, "both_cold": 723}
    metarec = split.user_disjoint(table)
    assert metarec.test["user_cold"].num_tasks == 313
    warm_up = split.ctr_warmup(table, valid_items=0.0)
    assert len(warm_up.train_rows) == 854_530
    assert warm_up.query_size(warm_up.test["item_cold"]).sum() == 58_409
