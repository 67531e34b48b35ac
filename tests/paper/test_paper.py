"""The paper is a function of records: its numbers, its verdicts, and what makes the build fail."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import zipfile

import in_process
import numpy as np
import pytest
from small_records import BASELINES, record, split_of

from metajax.results import records as report
from metajax.types import UserError

PAPER = pathlib.Path(__file__).resolve().parents[2] / "paper"


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the records, for a test to change."""
    return shutil.copytree(written, tmp_path / "records")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Records of the small edition: MAML is best, Meta-SGD worst, FOMA and ANIL in between."""
    place = tmp_path_factory.mktemp("records")
    for name, arm, offset in (
        ("maml", "A6 MAML", 0.0),
        ("metasgd", "A6 Meta-SGD", 0.3),
        ("foma", "A6 FOMA", 0.15),
        ("anil", "A6 ANIL", 0.2),
    ):
        made = record(name, offsets=BASELINES | {arm: offset}, method=arm)
        if name == "anil":  # as far above fold-in for one half of the users as below for the other
            sign = np.where(np.arange(50) % 2 == 0, 0.05, -0.05)
            made.scores[report.Key("user_cold", "A6 ANIL", "all", "mse")] += sign
        report.write(place / name, f"{name}-synthetic", made)
    report.write(place / "sines", "sinusoid-k5", sines("K=5"))
    return place


def sines(scenario: str, worse: float = 0.0) -> report.Record:
    """MAML errs 1 after no step and .5 + ``worse`` after ten; pretraining always 2."""
    scores = {}
    for arm, last in (("MAML", 0.5 + worse), ("pretrained", 2.0)):
        for step, value in ((0, max(1.0, last)), (10, last)):
            values = np.full((2, 30), value) + np.arange(30) / 1e4
            scores[report.Key(scenario, arm, f"steps={step}", "squared error")] = values
    arms = report.arms_of(("MAML", "pretrained"))
    made = record(scenario=scenario, arms=arms, method="", split=None)
    return dataclasses.replace(made, scores=scores)


def characters(arm: str, scenario: str, correct: float) -> report.Record:
    """One seed, 100 tasks, of which a share is all right and the rest all wrong."""
    values = (np.arange(100) < 100 * correct).astype(float)[None]
    made = record(
        scenario=scenario,
        arms=(report.Arm(arm),),
        method=arm,
        seconds={"train": 600.0},
        config={},
        extra={"schedule": {"num_steps": 1234}},
    )
    return dataclasses.replace(made, scores={report.Key(scenario, arm, "test", "accuracy"): values})


@pytest.fixture
def everything(folder):
    """The records of the small edition with Omniglot and the field's tables beside them."""
    few = "5-way 1-shot"
    report.write(folder / "o", "omniglot-5w1s-maml", characters("MAML", few, 0.5))
    for arm, right in (("CACTUs-ProtoNets", 0.5), ("from scratch", 0.1), ("with labels", 0.9)):
        made = characters(arm, few + ", no labels", right)
        report.write(folder / "o", f"omniglot-unsupervised-5w1s-{arm.replace(' ', '-')}", made)
    made = record("tables", offsets=BASELINES | {"A6 MAML": 0.0}, extra={"table": "T2"})
    report.write(folder / "t", "tables-T2-ml-1m-melu", made)
    aucs = ((0, 0.6), (20, 0.7))
    scores = {}
    for k, auc in aucs:
        key = report.Key("item_cold", "MWUF", f"k={k}", "auc")
        scores[key] = np.full((2, 1), auc)
        draws = np.tile([auc - 0.1, auc + 0.1], (2, 20))
        scores[key._replace(metric="auc_draws")] = draws
    made = record(arms=(report.Arm("MWUF"),), shots=(0, 20), method="")
    made = dataclasses.replace(made, scores=scores)
    report.write(folder / "t", "tables-T4-ml-100k-ctr", made)
    for seed in (2, 1):
        report.write(folder / "f", f"fresh-synthetic-{seed}", split_of(seed))
    from paper import edition

    small = edition.editions()["small"]
    wide = dataclasses.replace(small, optional=("omniglot-*", "tables-*", "fresh-*"))
    return edition.load(wide, folder)


def load(folder: pathlib.Path):
    from paper import edition

    return edition.load(edition.editions()["small"], folder)


def test_numbers_and_verdicts_follow_from_the_scores(folder):
    """The error of user t is 1 + t / 1000 plus the arm's offset; the mean of t / 1000 is .0245."""
    from paper.build import CLAIMS

    r = load(folder)
    assert float(CLAIMS["fold-in-error"](r)) == pytest.approx(1.2245, abs=0.0006)
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
    assert "A7 hier. Bayes (RMSE 0.92" in CLAIMS["best"](r)
    assert CLAIMS["adapt"](r).endswith("adapt to taste")
    assert CLAIMS["taste-costs"](r) == "between 0.705 and 0.885"
    assert "none is better" in CLAIMS["against-bayes"](r)
    assert CLAIMS["users"](r) == "100" and CLAIMS["seeds"](r) == "2"


def test_the_tables_of_the_field_star_what_the_method_is_ahead_of(everything):
    """MAML is ahead of all but A7, which is better by .1 for every user."""
    from paper import field

    grids = field.field_tables(everything)
    assert list(grids) == ["T2", "T3", "T4"]
    assert grids["T2"].headings == ["arm", *field.MEASURES.values()]
    heads = [grids["T2"].rows[i] for i in grids["T2"].sections]
    assert [row[0] for row in heads] == ["user-cold (50 test tasks)", "warm (50 test tasks)"]
    cells = {row[0]: row[1:] for row in grids["T2"].rows[:8]}
    # The mean of t / 1000 is .0245, which a table rounds to .024 or .025.
    assert cells["A2 fold-in"][0][:5] in ("1.224", "1.225") and cells["A2 fold-in"][0][-1] == "*"
    assert cells["A7 hier. Bayes"][0][:5] in ("0.924", "0.925")
    assert cells["A7 hier. Bayes"][0][-1] == "]" and cells["A6 MAML"][3:] == ["", "", ""]
    assert [grids["T2"].rows[i][0] for i in grids["T2"].bold] == ["A6 MAML"] * 2
    assert grids["T3"].headings == ["arm", "0", "5", "all"]
    assert grids["T4"].rows[1] == ["MWUF", "0.600 [0.500, 0.700]", "0.700 [0.600, 0.800]"]
    said = list(field.verdicts(everything))
    assert said[0] == (
        "in T2 the MAML in none of two places by RMSE and none of two places by nDCG@5"
    )


def test_an_arm_that_diverged_says_so_and_nobody_is_ahead_of_it(everything):
    """Fold-in and then the method, with four times the squared error of the item mean."""
    from paper import field

    name, made = next((n, x) for n, x in everything.tables.items() if "T2" in n)
    for arm in ("A2 fold-in", "A6 MAML"):
        worse = lambda key, a=arm: 4 * 1.6**2 if (key.arm, key.metric) == (a, "mse") else 0.0
        scores = {key: value + worse(key) for key, value in made.scores.items()}
        changed = dataclasses.replace(made, scores=scores)
        r = dataclasses.replace(everything, tables={name: changed})
        grid = field.field_tables(r)["T2"]
        rows = [row for row in grid.rows if row[0] == arm]
        assert len(rows) == 2 and set(rows[0][1:]) == {"diverged", ""}
        stars = sum(cell.endswith("*") for row in grid.rows for cell in row[1:])
        assert (len(grid.bold), stars > 0) == ((0, False) if arm == "A6 MAML" else (2, True))


def test_a_mixture_leads_its_table_and_other_methods_are_not_judged_by_its_controls():
    """The mixture is ahead of A10 by .1 and of MAML by .2, which is ahead of fold-in alone."""
    from paper import blocks

    offsets = {"A2 fold-in": 0.5, "A10 mixture": 0.1, "A6 MAML": 0.2, "A6 mixture": 0.0}
    made = record("tables", offsets=offsets)
    roles = {name: report.BASELINE for name in ("A2 fold-in", "A10 mixture")}
    arms = [dataclasses.replace(a, role=roles.get(a.name, report.METHOD)) for a in made.arms]
    column = blocks.Column(report.ALL, "mse")
    block = blocks.Block("b", dataclasses.replace(made, arms=tuple(arms)), "user_cold", [column])
    rows, bold = blocks.rows_of(block, short=False)
    assert [row[0] for row in rows if row[1].endswith("*")] == list(offsets)[:3]
    assert bold == 3 and block.method == "A6 mixture"
    assert list(block.gaps(column, "A6 MAML")) == ["A2 fold-in", "A6 mixture"]


def test_each_data_set_is_described_once_with_where_it_stands(everything):
    from paper.data_sets import data_table

    (row, *others) = [row for row in data_table(everything).rows if row[2]]
    assert row[2:6] == ["100", "20", "999", "10.0"] and not others
    assert row[-1] == "T2, T3, T4, fresh splits, methods"


def test_findings_about_the_classics_follow_from_the_records(everything, folder):
    from paper import findings
    from paper.build import CLAIMS

    assert CLAIMS["omniglot"](everything).endswith("the others stay 48.7 to 48.7 points below")
    assert CLAIMS["unlabeled"](everything).endswith("above from scratch and below with labels")
    assert findings.more_points_hurt(everything) == ""
    worse = dataclasses.replace(
        everything, sinusoid={"b": sines("K=10", worse=1.0), "a": sines("K=5")}
    )
    assert "MAML from 5 to 10 points (0.5 to 1.5; its seeds lie between 1.5 and 1.5)" in (
        findings.more_points_hurt(worse)
    )
    small = load(folder)
    assert CLAIMS["omniglot"](small) == CLAIMS["unlabeled"](small) == CLAIMS["field"](small) == ""


def test_a_method_is_compared_with_boosting_where_its_record_has_it(folder):
    from paper.build import CLAIMS

    assert CLAIMS["against-boosting"](load(folder)) == ""
    offsets = BASELINES | {"A6 FOMA": 0.15, "A8 boosting": -0.2}
    made = record("foma", offsets=offsets, method="A6 FOMA")
    arms = [
        dataclasses.replace(arm, role=report.BASELINE) if arm.name == "A8 boosting" else arm
        for arm in made.arms
    ]
    report.write(folder / "foma", "foma-synthetic", dataclasses.replace(made, arms=tuple(arms)))
    assert CLAIMS["against-boosting"](load(folder)) == (
        "Of one meta-learner compared with boosted trees (A8), none is better and one is worse "
        "(FOMA)"
    )


def test_negative_results_are_named(folder):
    """FOMA and Meta-SGD are behind their own A4 at .1, ANIL too; MAML is ahead."""
    from paper.build import CLAIMS

    r = load(folder)
    said = CLAIMS["no-meta-gain"](r)
    assert "ANIL" in said and "FOMA" in said and "MAML," not in said and "three of four" in said
    assert "Meta-SGD for new users" in CLAIMS["not-better"](r)
    assert "differs by up to 0.020" in CLAIMS["seed-noise"](r), "two seeds, .01 to either side"


def test_a_plateau_is_told_where_every_record_has_one(folder):
    from paper.build import CLAIMS

    r = load(folder)
    (limit,) = {x.config["num_steps"] for x in r.ratings.values()}
    assert CLAIMS["steps"](r) == f"{limit:,} outer steps"
    with_wait = lambda x, wait: dataclasses.replace(x, config=x.config | {"patience": wait})
    told = lambda *waits: CLAIMS["steps"](
        dataclasses.replace(
            r,
            ratings={
                name: with_wait(x, wait)
                for (name, x), wait in zip(r.ratings.items(), waits, strict=True)
            },
        )
    )
    assert told(2, 2, 2, 2).startswith(f"at most {limit:,} outer steps, and ends where no seed")
    assert told(2, 3, 2, 2).endswith("for 2 to 3 of them")
    assert told(2, 0, 2, 2) == told(2, limit, 2, 2) == f"{limit:,} outer steps"


def test_a_paper_with_every_section_compiles(everything, tmp_path):
    pytest.importorskip("typst")
    from paper import build as paper

    for name, text in paper.contents(everything).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    paper.figures(everything, tmp_path / "figures")
    assert paper.compile_pdf(tmp_path).read_bytes().startswith(b"%PDF")
    assert {"T2.tex", "T3.csv", "omniglot.typ", "unlabeled.tex"} <= {
        p.name for p in (tmp_path / "tables").iterdir()
    }


def test_a_method_that_does_not_adapt_is_named(folder):
    from paper.build import CLAIMS

    made = record("foma", offsets=BASELINES | {"A6 FOMA": 0.1}, method="A6 FOMA")
    at = lambda condition: report.Key("user_cold", "A6 FOMA", condition, "mse")
    made.scores[at("shuffled")] = made.scores[at("k=0")] = made.scores[at("all")]
    report.write(folder / "foma", "foma-synthetic", made)
    assert CLAIMS["adapt"](load(folder)).endswith("and FOMA adapts not at all")
    made.scores[at("k=0")] = made.scores[at("all")] + 0.1
    report.write(folder / "foma", "foma-synthetic", made)
    assert CLAIMS["adapt"](load(folder)).endswith("and FOMA adapts to the level only")


def build(folder: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
    where = ["--results", folder, "--out", folder.parent / "built"]
    return in_process.command("paper.build", "--edition", "small", *where, *options)


def test_the_pdf_builds_and_verify_finds_a_changed_number(folder):
    pytest.importorskip("typst")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    built = folder.parent / "built"
    assert (built / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert {p.name for p in (built / "figures").iterdir()} == {
        *("forest.svg", "k-shot.svg", "learning.svg", "cost.svg", "sinusoid.svg")
    }
    assert r"\begin{tabular}" in (built / "tables" / "quality.tex").read_text()
    assert "- [x] per-task scores: " in (built / "checklist.md").read_text()
    assert "equal" in build(folder, "--verify").stdout
    numbers = json.loads((built / "numbers.json").read_text())
    (built / "numbers.json").write_text(json.dumps(numbers | {"users": "101"}))
    done = build(folder, "--verify")
    assert done.returncode == 1 and "numbers.json is not what the records say" in done.stderr


def test_a_changed_score_is_found(folder):
    path = folder / "maml" / "maml-synthetic.record"
    made = report.read(path)
    made.scores[report.Key("user_cold", "A6 MAML", "all", "mse")][0, 0] += 0.001
    with zipfile.ZipFile(path) as old:
        facts = old.read("record.json")
    report.write(path.parent, "maml-synthetic", made)
    with zipfile.ZipFile(path) as new:
        packed = new.read("scores.bin")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("record.json", facts)
        archive.writestr("scores.bin", packed)
    done = build(folder, "--verify")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "does not have the scores that it was written with" in done.stderr


def test_a_missing_record_fails_the_build_by_name(folder):
    (folder / "anil" / "anil-synthetic.record").unlink()
    done = build(folder)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the paper needs the record anil-synthetic and" in done.stderr


def test_records_of_two_splits_are_refused(folder):
    offsets = BASELINES | {"A6 FOMA": 0.1}
    made = record("foma", offsets=offsets, method="A6 FOMA", checksum="another")
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
    from paper import build as paper

    for name in ("paper.typ", "refs.bib"):
        (tmp_path / name).write_text((PAPER / name).read_text().replace(old, new))
    monkeypatch.setattr(paper, "HERE", tmp_path)
    with pytest.raises(UserError, match=said):
        paper.contents(load(folder))


def test_parts_of_the_ridge_head_are_told_by_what_leaving_them_out_costs(folder):
    from paper.build import CLAIMS

    offsets = BASELINES | {"A6 ridge head": 0.0, "- blend": 0.2, "- profile": -0.2}
    made = record("ridge_head", offsets=offsets, method="A6 ridge head")
    r = load(folder)
    said = CLAIMS["ablations"](
        dataclasses.replace(r, ratings=r.ratings | {"ridge_head-synthetic": made})
    )
    assert said.startswith("new users: without it the squared error is higher for blend (+0.4")
    assert "lower for profile (-0.3" in said and "new items" not in said


def test_every_reference_has_authors_title_year_and_place():
    remark, *entries = re.split(r"\n(?=@)", (PAPER / "refs.bib").read_text())
    assert "looked up" in remark and len(entries) > 25
    for entry in entries:
        for field in ("author", "title", "year"):
            assert re.search(rf"\b{field} = ", entry), entry[:40]
        assert re.search(r"\b(booktitle|journal|publisher|url) = ", entry), entry[:40]
