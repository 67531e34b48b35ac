"""The paper is a function of records: its numbers, its verdicts, and what makes the build fail."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from small_records import record

from metajax import report
from metajax.types import UserError

PAPER = pathlib.Path(__file__).resolve().parent.parent / "paper"
OFFSETS = {
    "A0 item mean": 0.6,
    "A1 bias": 0.4,
    "A2 fold-in": 0.2,
    "A7 hier. Bayes": -0.1,
    "A3 joint": 0.5,
    "A4 fine-tuned": 0.1,
}


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(PAPER))


@pytest.fixture
def folder(tmp_path):
    """Records of the small edition: MAML is best, Meta-SGD worst, FOMA and ANIL in between."""
    for name, arm, offset in (
        ("maml", "A6 MAML", 0.0),
        ("metasgd", "A6 Meta-SGD", 0.3),
        ("foma", "A6 FOMA", 0.15),
        ("anil", "A6 ANIL", 0.2),
    ):
        made = record(name, offsets=OFFSETS | {arm: offset}, method=arm)
        if name == "anil":  # as far above fold-in for one half of the users as below for the other
            sign = np.where(np.arange(50) % 2 == 0, 0.05, -0.05)
            made.scores["user_cold|A6 ANIL|all|mae"] += sign
        report.write(tmp_path / "records" / name, f"{name}-synthetic", made)
    return tmp_path / "records"


def load(folder: pathlib.Path):
    import records

    return records.load(records.editions()["small"], folder)


def test_numbers_and_verdicts_follow_from_the_scores(folder):
    """MAE of user t is 1 + t / 1000 plus the arm's offset; the mean of t / 1000 is .0245."""
    from claims import CLAIMS

    r = load(folder)
    assert float(CLAIMS["fold-in-mae"](r)) == pytest.approx(1.2245, abs=0.0006)
    assert sorted(re.split(", | and ", CLAIMS["methods"](r))) == [
        "ANIL",
        "FOMA",
        "MAML",
        "Meta-SGD",
    ]
    sides = r.against("A2 fold-in")
    assert (sorted(sides.better), sides.worse, sides.open) == (
        ["FOMA", "MAML"],
        ["Meta-SGD"],
        ["ANIL"],
    )
    assert CLAIMS["headline"](r).startswith("two of four meta-learners are better than ridge")
    assert "A7 hier. Bayes (MAE 0.92" in CLAIMS["best"](r)
    assert "between 0.300 and 0.300 MAE" in CLAIMS["adapt"](r)
    assert "none is better" in CLAIMS["against-bayes"](r)
    assert CLAIMS["users"](r) == "100" and CLAIMS["seeds"](r) == "2"


def test_a_method_that_does_not_adapt_is_named(folder):
    from claims import CLAIMS

    made = record("foma", offsets=OFFSETS | {"A6 FOMA": 0.1}, method="A6 FOMA")
    made.scores["user_cold|A6 FOMA|shuffled|mae"] = made.scores["user_cold|A6 FOMA|all|mae"]
    report.write(folder / "foma", "foma-synthetic", made)
    assert CLAIMS["adapt"](load(folder)).startswith("For FOMA the interval of the cost touches 0")


def test_sentences_of_each_outcome():
    from claims import _sides
    from records import Against

    assert _sides(Against(["a"], ["b", "c"], []), "X") == (
        "Of three meta-learners, compared with X, one is better (a), two are worse (b and c) and "
        "none cannot be told apart from it"
    )
    assert _sides(Against([], [], ["a"]), "X").endswith(
        "none is better, none is worse and one cannot be told apart from it (a)"
    )


def build(folder: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
    arguments = [
        "--edition",
        "small",
        "--results",
        str(folder),
        "--out",
        str(folder.parent / "built"),
    ]
    return subprocess.run(
        [sys.executable, str(PAPER / "build.py"), *arguments, *options],
        capture_output=True,
        text=True,
    )


def test_the_pdf_builds_and_verify_finds_a_changed_number(folder):
    pytest.importorskip("typst")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    built = folder.parent / "built"
    assert (built / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert {p.name for p in (built / "figures").iterdir()} == {
        *("forest.svg", "k-shot.svg", "learning.svg", "pareto.svg")
    }
    assert r"\begin{tabular}" in (built / "tables" / "quality.tex").read_text()
    assert "- [x] per-task scores: " in (built / "checklist.md").read_text()
    assert "equal" in build(folder, "--verify").stdout
    numbers = json.loads((built / "numbers.json").read_text())
    (built / "numbers.json").write_text(json.dumps(numbers | {"users": "101"}))
    done = build(folder, "--verify")
    assert done.returncode == 1 and "numbers.json is not what the records say" in done.stderr


def test_a_changed_score_is_found(folder):
    path = folder / "maml" / "maml-synthetic.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["user_cold|A6 MAML|all|mae"] += 0.001
    np.savez_compressed(path, allow_pickle=False, **changed)
    done = build(folder, "--verify")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "is not the file that maml-synthetic.json was written with" in done.stderr


def test_a_missing_record_fails_the_build_by_name(folder):
    (folder / "anil" / "anil-synthetic.json").unlink()
    done = build(folder)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the paper needs the record anil-synthetic.json" in done.stderr


def test_records_of_two_splits_are_refused(folder):
    made = record("foma", offsets=OFFSETS | {"A6 FOMA": 0.1}, method="A6 FOMA")
    made.facts["split"]["checksum"] = "another"
    report.write(folder / "foma", "foma-synthetic", made)
    with pytest.raises(UserError, match="different splits"):
        load(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('say("headline")', 'say("no-such-claim")', "asks for no-such-claim"),
        ("@holm1979,", "@nobody2031,", "holm1979, nobody2031"),
    ],
)
def test_a_claim_or_a_reference_that_is_not_there_fails(
    folder, tmp_path, monkeypatch, old, new, said
):
    import build as paper

    for name in ("paper.typ", "refs.bib"):
        (tmp_path / name).write_text((PAPER / name).read_text().replace(old, new))
    monkeypatch.setattr(paper, "HERE", tmp_path)
    with pytest.raises(UserError, match=said):
        paper.contents(load(folder))


def test_no_number_is_typed_into_the_prose():
    """Digits stand in settings, citations, labels and names of arms only."""
    prose = (PAPER / "paper.typ").read_text().partition("[Abstract]")[2]
    prose = re.sub(
        r"@\w+|<[\w-]+>|#\w+\([^)]*\)?|`[^`]*`|A\d|N1|\.05|95 %|100%|exclude 0|MovieLens 1M",
        "",
        prose,
    )
    assert len(prose) > 4000 and not re.findall(r"\d+", prose)


def test_every_reference_has_authors_title_year_and_place():
    entries = re.split(r"\n(?=@)", (PAPER / "refs.bib").read_text())
    for entry in entries:
        for field in ("author", "title", "year"):
            assert re.search(rf"\b{field} = ", entry), entry[:40]
        assert re.search(r"(booktitle|journal|publisher|url) = ", entry), entry[:40]
