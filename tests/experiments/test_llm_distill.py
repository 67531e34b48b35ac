"""The student of title vectors: letters, ridge regression, and that its teacher taught it."""

import pathlib

import numpy as np
import pytest
from proper import assert_proper

from experiments.large import text_cold
from experiments.large.llm_distill import llm_distill, served, student
from experiments.large.llm_uses import content, llm_uses
from metajax.commands import recommend
from metajax.data.sources import named
from metajax.data.table import Interactions
from metajax.models.language import bert, pretrained, vectors
from metajax.serving import model, store
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


@pytest.fixture(scope="module")
def small() -> tuple[Interactions, content.Draw, served.Reader, llm_uses.split.Split]:
    """A draw of hidden items of a simulated log, whose one text arm is a student's."""
    table = named.load("synthetic")
    config = llm_distill.Config(data=Data("synthetic"), shots=(0, 5), dim=3)
    names = llm_distill.names_of(table)
    rng = np.random.default_rng(5)
    teacher = student.hashed(names) @ rng.normal(size=(student.PLACES, 3))
    made: dict[str, list[student.Taught]] = {}
    told = llm_distill.students(config, names, teacher, made)
    parts = llm_uses.people_of(config, table)
    told = {llm_distill.TAUGHT: told[llm_distill.TAUGHT]}
    draw = content.draw(table, parts, told, 0, 0.2, 4)
    return table, draw, llm_distill.reader_of(draw, made[llm_distill.TAUGHT][0]), parts


def test_the_served_model_scores_as_the_table_does_and_takes_a_new_title(small, tmp_path, capsys):
    table, draw, reader, parts = small
    arm = llm_distill.arm(llm_distill.TAUGHT)
    assert served.milliseconds(table, parts, draw, arm, 5, 3) > 0
    folder = tmp_path / "served"
    films = served.save(folder, table, parts, draw, arm, reader, {"log": {"name": table.name}})
    person = content.people_of(parts)[:1]
    seen = draw.order[~draw.hidden[table.item[draw.order]]]
    rows = seen[table.user[seen] == person[0]][:5]
    own = content.people_vectors(
        table, person, seen, 5, draw.mean + draw.bias, draw.factor.astype(float)
    )
    asked = np.isin(np.arange(len(table)), draw.order) & draw.hidden[table.item]
    asked &= table.user == person[0]
    by_table = draw.mean + content.scored(table, asked, person, own, draw.told[arm], draw.size)
    items, scores = films.ranked(table.item[rows], table.label[rows], table.num_items)
    place = np.zeros(table.num_items)
    place[items] = scores
    expected = np.clip(by_table[asked], *table.scale)
    assert asked.sum() > 3
    np.testing.assert_allclose(place[table.item[asked]], expected, atol=2e-4)
    assert not draw.hidden[films.known.item].any()
    again = served.added(folder, ["A Title Unheard Of"])
    assert len(again.catalogue) == table.num_items + 1
    (bias,), _ = reader(["A Title Unheard Of"])
    told = dict(zip(*again.ranked(rows[:0], table.label[:0], table.num_items + 1), strict=True))
    assert told[table.num_items] == pytest.approx(np.clip(draw.mean + bias, *table.scale), abs=1e-4)
    title = again.catalogue.title(int(table.item[rows[0]]))
    recommend.main(recommend.Config(folder, ratings=f"title:{title}=5", top=3))
    assert len(capsys.readouterr().out.splitlines()) >= 6
    with pytest.raises(UserError, match="in the catalogue already"):
        served.added(folder, ["A Title Unheard Of"])


def test_a_new_title_is_read_as_a_hidden_one_without_genres(small):
    """What the reader says is what the regression says of the student's vector alone."""
    _, draw, reader, _ = small
    bias, factor = reader(["Heat"])
    x = text_cold.TEXT_SCALE * (reader.student(["Heat"]) - reader.center) / reader.size
    fit = draw.fits[llm_distill.arm(llm_distill.TAUGHT)]
    padded = np.hstack([np.zeros((1, len(fit.kernel) - x.shape[1])), x])
    np.testing.assert_allclose(bias, fit(padded)[:, 0] / 3, rtol=1e-6)
    np.testing.assert_allclose(factor, fit(padded)[:, 1:] * draw.size, rtol=1e-6)


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
    monkeypatch.setattr(vectors, "last_token_reader", lambda model, layers=None: read)
    monkeypatch.setattr(bert, "reader", missing)
    config = llm_distill.Config(
        output=Output(tmp_path / "out"), data=Data("synthetic"), checkpoint=pathlib.Path("tiny"),
        dim=8, shots=(0, 5), seeds=1, factors=4, timed=8,
    )  # fmt: skip
    record = llm_distill.main(config)
    assert record is not None
    assert_proper(record, "k=5")
    assert not any(k.metric == "crps" for k in record.scores if k.condition != "k=5")
    said = "".join(capsys.readouterr())  # a missing encoder is told on standard error
    rows = {llm_distill.arm(x) for x in (llm_distill.TAUGHT, llm_distill.OTHERS, content.LARGE)}
    assert rows | {content.GENRES} <= set(record.names())
    assert "ms of processor time, 8 bytes" in said and "is left out" in said
    assert (tmp_path / "out" / "quality-latency.png").is_file()
    assert set(record.extra["answer"]) == {content.CONSTANT, content.GENRES} | {
        llm_distill.arm(x) for x in (content.LARGE, llm_distill.TAUGHT)
    }
    web = pytest.importorskip("metajax.serving.web", reason="pip install metajax[serve]")
    films = model.load(tmp_path / "out" / "served")
    events = store.Store(tmp_path / "events.sqlite", films)
    about = web.Service(films, events).about()
    events.close()
    assert about["arm"] == llm_distill.arm(llm_distill.TAUGHT) and len(films.recommend(top=3)) == 3
    assert student.load(tmp_path / "out" / "student.npz")(["Heat"]).shape == (1, 8)
