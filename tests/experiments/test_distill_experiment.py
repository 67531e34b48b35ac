"""The rows of the distillation table on a made-up log, and the parts by pencil."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.large.distill import distill, judge, parts
from experiments.large.sasrec import sasrec
from metajax.data.histories import sequences as histories
from metajax.results import records
from metajax.settings import Data, Output
from metajax.types import UserError


def circle(num_people: int = 60, num_items: int = 12, length: int = 14) -> histories.Sequences:
    """People who walk around a circle of items, each from their own place."""
    place = np.arange(num_people)[:, None] * 5 + np.arange(length)[None, :]
    user = np.repeat(np.arange(num_people), length)
    return histories.assemble("circle", user, (place % num_items).reshape(-1))


def test_a_smoothed_label_has_the_entropy_asked_for():
    share = parts.spread_of_entropy(math.log(2), 1000)
    p = np.full(1000, share / 1000)
    p[0] += 1 - share
    np.testing.assert_allclose(-np.sum(p * np.log(p)), math.log(2), rtol=1e-6)
    assert parts.spread_of_entropy(math.log(7), 7) == pytest.approx(1.0, abs=1e-4)


def test_pulls_by_pencil():
    rows, said = np.array([[1]]), np.log([[[0.2, 0.3, 0.5]]])
    told = np.log([[[0.7, 0.1, 0.2]]])
    pairs = ((0.7, 0.2), (0.1, 0.3), (0.2, 0.5))
    divergence = sum(p * math.log(p / q) for p, q in pairs)
    found = jax.jit(parts.softened(1.0))(rows, told, said)
    np.testing.assert_allclose(found, [[divergence]], rtol=1e-5)
    # Half of the label stays on item 1, half is spread over three items.
    logs = [math.log(x) for x in (0.2, 0.3, 0.5)]
    expected = -(0.5 * logs[1] + 0.5 * sum(logs) / 3)
    found = jax.jit(parts.smoothed(0.5))(rows, told, said)
    np.testing.assert_allclose(found, [[expected]], rtol=1e-5)
    # The teacher puts item 0 first and item 2 second; weights 1 and exp(-1/2), over their sum.
    first = 1 / (1 + math.exp(-0.5))
    expected = -(first * logs[0] + (1 - first) * logs[2])
    found = jax.jit(parts.ranking(2, 2.0))(rows, told, said)
    np.testing.assert_allclose(found, [[expected]], rtol=1e-5)


def test_who_was_passed_over_is_not_judged():
    first, second = (judge.judged(50, over, 20) for over in (0, 20))
    assert len(set(first) | set(second)) == 40 and len(judge.judged(50, 40, 20)) == 10
    with pytest.raises(UserError, match="none is left"):
        judge.judged(50, 50, 20)


def test_parameters_of_another_recommender_are_refused(tmp_path):
    np.savez(tmp_path / "seed-0.npz", items=np.zeros((3, 4)))
    with pytest.raises(UserError, match="another recommender"):
        sasrec.kept(sasrec.Config(), circle(), 0, tmp_path)


@pytest.mark.slow
def test_the_whole_table_on_a_circle(tmp_path, monkeypatch):
    pytest.importorskip("qwix")
    monkeypatch.setattr(sasrec, "load", lambda config: circle())
    config = distill.Config(
        data=Data("circle"), window=8, student_width=8, epochs=30, num_steps=60, prune_steps=20,
        batch=8, shares=(0.5,), people=20, passed_over=20, adapted=6, output=Output(tmp_path),
        teacher_out=tmp_path / "t",
    )  # fmt: skip
    record = distill.run(config)
    get = lambda arm: record.of("leave-one-out", arm, "as it is", "hit@10")
    assert get("teacher").shape == (1, 20)
    assert record.extra["stored"]["teacher, 8 bits"] < 0.4 * record.extra["stored"]["teacher"]
    assert record.extra["stored"]["student"] < record.extra["stored"]["teacher"]
    assert all(np.isfinite(v).all() for v in record.scores.values())
    again, _ = sasrec.kept(config.teacher(), circle(), 0, tmp_path / "t")
    assert jax.tree.leaves(again)[0].dtype == jnp.float32
    distill.picture(records.stored("distill-circle", tmp_path), tmp_path / "bytes.png")
    assert (tmp_path / "bytes.png").stat().st_size > 1000
