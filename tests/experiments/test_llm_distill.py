"""The student of title vectors: letters, ridge regression, and that its teacher taught it."""

import pathlib

import numpy as np
import pytest

from experiments.large.llm_distill import llm_distill, student
from experiments.large.llm_uses import content
from metajax.models.language import bert, pretrained, vectors
from metajax.settings import Data, Output
from metajax.types import UserError

RNG = np.random.default_rng(3)
NAMES = ["".join(RNG.choice(list("abcdefgh"), 7)) for _ in range(240)]


def test_letters_have_norm_one_and_nothing_is_nothing():
    rows = student.hashed(["Heat", "heat", "", "Alien"])
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 1], rtol=1e-6)
    assert abs(rows[0] @ rows[3]) < 0.3


def test_the_ridge_solution_by_pencil():
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0], [5.0]])
    # Columns do not meet: x y / (x^2 + penalty) in each.
    np.testing.assert_allclose(student.solved(x, y, 2.0), [[3 / 3], [10 / 6]])


def planted() -> np.ndarray:
    """Vectors that letters tell: a linear map of them."""
    return student.hashed(NAMES) @ RNG.normal(size=(student.PLACES, 3)).astype(np.float32)


def test_a_student_learns_what_letters_tell_and_nothing_of_a_permuted_teacher():
    teacher, seen = planted(), np.arange(240) < 200
    found = student.taught(NAMES, teacher, seen, 3)
    assert found.explained > 0.15
    center = teacher[seen].mean(axis=0)
    basis = np.linalg.svd(teacher[seen] - center, full_matrices=False)[2]
    true = (teacher[~seen] - center) @ basis.T
    left = np.sum((found.told[~seen] - true) ** 2) / np.sum(true**2)
    assert left < 0.9
    np.testing.assert_allclose(found.told[~seen], found.student(NAMES[200:]), atol=1e-4)
    permuted = student.taught(NAMES, teacher[RNG.permutation(240)], seen, 3)
    assert permuted.explained < 0.05


def test_what_is_told_of_a_taught_title_did_not_see_it():
    teacher, seen = planted(), np.ones(240, bool)
    found = student.taught(NAMES, teacher, seen, 3)
    seen_error = np.sum((found.student(NAMES) - found.told) ** 2)
    assert seen_error > 1e-3  # the student itself has seen them, and says something else


def test_a_stored_student_says_the_same(tmp_path):
    found = student.taught(NAMES[:50], planted()[:50], np.ones(50, bool), 2).student
    again = student.load(found.save(tmp_path / "student.npz"))
    np.testing.assert_array_equal(again(["Heat"]), found(["Heat"]))
    assert again.size == 4 * 2 * (student.PLACES + 1)


@pytest.mark.slow
def test_teacher_student_and_controls_stand_in_one_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"12345678")

    def read(texts):
        return np.stack([student.hashed([t])[0, :40] for t in texts]) + 0.01

    def missing():
        raise UserError("no text encoder")

    monkeypatch.setattr(pretrained, "load", lambda checkpoint: None)
    monkeypatch.setattr(pretrained, "folder_of", lambda checkpoint: tmp_path / "model")
    monkeypatch.setattr(vectors, "last_token_reader", lambda model: read)
    monkeypatch.setattr(bert, "reader", missing)
    config = llm_distill.Config(
        output=Output(tmp_path / "out"), data=Data("synthetic"), checkpoint=pathlib.Path("tiny"),
        dim=8, shots=(0, 5), seeds=1, factors=4, timed=8,
    )  # fmt: skip
    record = llm_distill.main(config)
    said = capsys.readouterr().out
    rows = {llm_distill.arm(x) for x in (llm_distill.TAUGHT, llm_distill.OTHERS, content.LARGE)}
    assert rows | {content.GENRES} <= set(record.names())
    assert "ms of processor time, 8 bytes" in said and "is left out" in said
    assert (tmp_path / "out" / "quality-latency.png").is_file()
    assert student.load(tmp_path / "out" / "student.npz")(["Heat"]).shape == (1, 8)
