"""Streams of events and tasks: order, ties, leaks, what the user can mend, logs on disk."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.table import Features, Interactions
from metajax.data.worlds import latent
from metajax.online import disk, events, rows, scores, tasks, warm
from metajax.online import factorization as mf
from metajax.types import UserError


def table_of(user, time, label=None) -> Interactions:
    n = len(user)
    return Interactions(
        "log", np.asarray(user, np.int32), np.arange(n, dtype=np.int32),
        np.asarray(np.zeros(n) if label is None else label, np.float32),
        None if time is None else np.asarray(time, np.int64),
        np.arange(max(user) + 1), np.arange(n), Features(), Features(), (0.0, 5.0),
    )  # fmt: skip


def test_events_come_in_order_of_time_and_ties_as_the_log_has_them():
    found = events.in_time(table_of([0, 1, 0, 0], [30, 10, 10, 30]))
    assert found.item.tolist() == [1, 2, 0, 3]
    assert found.ties == 2  # the two events of user 0 at 30


@pytest.mark.parametrize(
    ("time", "told"),
    [
        (None, "needs times and the log has none"),
        ([1_000_000_000, 1_000_000_000_000], "row 2 is not in seconds .* write all times in one"),
    ],
)
def test_a_log_without_sound_times_gets_one_line(time, told):
    with pytest.raises(UserError, match=told) as error:
        events.in_time(table_of([0, 0], time))
    assert "\n" not in str(error.value)


def test_a_stream_shorter_than_its_warm_up_gets_one_line():
    found = events.in_time(table_of([0], [1]))
    with pytest.raises(UserError, match="too short for a warm-up"):
        events.warm_up(found, 0.5)


def test_what_is_drawn_beside_an_event_was_known_by_then():
    rng = np.random.default_rng(0)
    log = events.in_time(table_of(rng.integers(0, 9, 200).tolist(), np.arange(200)))
    log = dataclasses.replace(log, item=rng.integers(0, 40, 200).astype(np.int32), num_items=40)
    both = events.with_drawn(log, 0)
    label = both.label.reshape(-1, 2)
    assert (label.sum(axis=1) == 1).all() and 60 < label[:, 0].sum() < 140
    first = np.full(40, 400)
    np.minimum.at(first, both.item[both.label == 1], np.arange(200))
    event = np.arange(400) // 2
    assert (first[both.item] <= event).all()


def test_rounds_of_one_and_of_many_hold_the_same_events():
    log = events.in_time(table_of([0, 1, 2, 0, 1], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]))
    for size in (1, 2):
        found = events.rounds(log, size)
        real = np.asarray(found.mask).reshape(-1) > 0
        assert np.asarray(found.label).reshape(-1)[real].tolist() == [1, 2, 3, 4, 5]


def stream() -> events.Events:
    return events.in_time(latent.rating_log(60, 40))


def test_tasks_adapt_on_what_came_just_before_their_query():
    log = stream()
    found = tasks.cut(log, 5, 3, first=2, most=4)
    for t in range(len(found)):
        support, query = (x[t][x[t] >= 0] for x in (found.support, found.query))
        assert (log.user[support] == found.user[t]).all() and (
            log.user[query] == found.user[t]
        ).all()
        assert support.max() < query.min() and len(support) == min(5, 2 + 3 * found.nth[t])
        assert (found.asked[t], found.ended[t]) == (query[0], query[-1])
    assert (np.diff(found.asked) > 0).all()


def test_no_task_is_told_before_it_ended_and_the_future_in_a_buffer_is_refused():
    found = tasks.cut(stream(), 5, 3, first=2, most=4)
    schedule = tasks.scheduled(found, 4)
    tasks.check_order(found, schedule)
    told = schedule.told[schedule.told >= 0]
    assert len(set(told.tolist())) == len(told) == len(found) - schedule.left
    early = schedule.told.copy()
    early[0, 0] = len(found) - 1
    with pytest.raises(UserError, match="the future is in the buffer"):
        tasks.check_order(found, dataclasses.replace(schedule, told=early))


def test_what_is_known_of_an_event_is_what_came_before_it():
    log = stream()
    known = warm.before(log)
    later = dataclasses.replace(log, label=np.where(np.arange(len(log)) < 900, log.label, 9.0))
    np.testing.assert_array_equal(known[:901], warm.before(later)[:901])
    row = 700
    earlier = np.flatnonzero(log.item[:row] == log.item[row])
    mean = log.label[earlier].sum() - len(earlier) * log.label[:row].mean()
    np.testing.assert_allclose(known[row, 0], mean / (len(earlier) + 5.0), rtol=1e-4)


def test_items_nobody_met_start_as_their_kind():
    start = mf.Tables(jnp.zeros((1, 2)), jnp.array([[1.0, 0], [3, 0], [9, 9], [9, 9]]))
    content = np.eye(2)[[0, 1, 0, 1]]
    met = np.array([True, True, False, False])
    found = warm.by_content(start, met, content, damping=1e-6).item
    np.testing.assert_allclose(found, [[1, 0], [3, 0], [1, 0], [3, 0]], atol=1e-4)
    alone = warm.by_content(start, met, np.zeros((4, 0))).item
    np.testing.assert_allclose(alone[2:], [[2, 0], [2, 0]], atol=1e-6)


def columns(n: int) -> disk.Columns:
    rng = np.random.default_rng(0)
    ids = lambda: rng.integers(0, 5, n)
    return disk.Columns(ids(), ids(), rng.normal(size=n), np.arange(n))


def on_disk(folder, n: int = 50) -> disk.Blocks:
    whole = columns(n)
    part = lambda a, b: disk.Columns(*(x[a:b] for x in whole))
    assert disk.write(iter([part(0, 20), part(20, n)]), folder) == n
    return disk.Blocks(folder, 2, 4)


LEARNER = mf.factorization(rows.adagrad(0.1), mf.random_tables(jax.random.key(0), 5, 5, 2), 0.0)


class Killed(Exception):
    pass


def test_a_stream_that_is_killed_goes_on_and_ends_with_the_same_bits(tmp_path):
    blocks = on_disk(tmp_path / "log")
    assert len(blocks) == 7
    whole: dict[int, np.ndarray] = {}
    end = disk.run(LEARNER, blocks.read, lambda n, s: whole.update({n: np.asarray(s)}))
    found: dict[int, np.ndarray] = {}

    def until_the_fifth(number, recorded):
        found[number] = np.asarray(recorded)
        if number == 4:
            raise Killed

    where = {"folder": tmp_path / "saved", "identity": "log and learner", "every": 2}
    with pytest.raises(Killed):
        disk.run(LEARNER, blocks.read, until_the_fifth, **where)
    starts = []

    def read(start):
        starts.append(start)
        return blocks.read(start)

    again = disk.run(LEARNER, read, lambda n, s: found.update({n: np.asarray(s)}), **where)
    assert starts == [4]
    assert all(map(np.array_equal, jax.tree.leaves(end), jax.tree.leaves(again)))
    assert all(np.array_equal(whole[n], found[n]) for n in range(7))
    with pytest.raises(UserError, match="belongs to another run"):
        disk.run(LEARNER, blocks.read, lambda n, s: None, **where | {"identity": "other"})


def test_a_log_on_disk_is_refused_where_it_is_not_whole_or_not_in_order(tmp_path):
    back = disk.Columns(*(x[::-1] for x in columns(4)))
    with pytest.raises(UserError, match="sort the log by time"):
        disk.write([back], tmp_path / "back")
    with pytest.raises(UserError, match="write it first"):
        disk.Blocks(tmp_path / "back", 1, 1)
    on_disk(tmp_path / "log")
    with (tmp_path / "log" / "label.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="not as long as it was written"):
        disk.Blocks(tmp_path / "log", 1, 1)


def test_scores_by_hand():
    users = scores.by_user(np.array([1.0, 3.0, 5.0]), np.array([7, 7, 9]))
    assert users.total.tolist() == [4.0, 5.0] and users.count.tolist() == [2, 1]
    assert scores.mean_of_events(users).mean == 3.0
    same = scores.fitness(np.array([0.4, 2.0]), np.array([0.4, 2.0]))
    assert (same.geometric, same.of_means, same.below) == (1.0, 1.0, 0.0)
    scaled = scores.fitness(np.array([8.0, 1.0]), np.array([4.0, 4.0]))
    assert scaled == scores.fitness(np.array([2.0, 0.25]), np.array([1.0, 1.0]))
    excess, jumps = np.arange(6.0)[None], np.array([[0, 1, 0, 0, 1, 0]], bool)
    assert scores.recovery(excess, jumps, 2).tolist() == [2.5, 3.5]
