"""Runs side by side: pairing, adjusted p-values, what differs, one line for what is wrong."""

import functools
import json

import in_process
import numpy as np
import pytest
from small_records import record

from metajax.results import compare, reliability, tables
from metajax.results import records as report
from metajax.training import journal


@pytest.fixture
def folders(tmp_path):
    other = record("melu", config={"inner_steps": 1, "seeds": 2, "out": "there"})
    for scores in (s for key, s in other.scores.items() if key.arm == "A6 MAML"):
        scores += 0.05
    report.write(tmp_path / "a", "maml-made", record())
    report.write(tmp_path / "b", "melu-made", other)
    return tmp_path / "a", tmp_path / "b"


def test_differences_are_paired_and_shared_arms_stand_once(folders):
    found = compare.entries(compare.find(folders), "mae", scenario="user_cold")
    assert [(e.run, e.arm) for e in found] == [
        ("maml-made", "A2 fold-in"),
        ("maml-made", "A3 joint"),
        ("maml-made", "A4 fine-tuned"),
        ("maml-made", "A6 MAML"),
        ("melu-made", "A6 MAML"),
    ]
    rows = compare.compare(found, "A6 MAML", "mae").rows
    cells = {(row[1], row[2]): row[3:] for row in rows}
    assert cells["maml-made", "A6 MAML"][1] == "reference"
    assert cells["maml-made", "A3 joint"][1:] == ["+0.5000*[+0.500, +0.500]", "0.0008", "0.00"]
    assert cells["melu-made", "A6 MAML"][1].startswith("+0.0500*")


def test_holm_multiplies_the_smallest_p_by_the_number_of_comparisons(folders):
    """10,000 draws, none on the other side: p = 2 / 10,001 each, times 4 comparisons."""
    found = compare.entries(compare.find(folders), "mae", scenario="user_cold")
    p = {row[5] for row in compare.compare(found, "A6 MAML", "mae").rows if row[5]}
    assert p == {f"{4 * 2 / 10_001:.4f}"}


def test_another_split_is_not_paired(tmp_path):
    report.write(tmp_path / "a", "maml-made", record())
    report.write(tmp_path / "b", "melu-made", record("melu", checksum="another"))
    found = compare.entries(compare.find([tmp_path / "a", tmp_path / "b"]), "ndcg@5")
    assert all(e.run == "maml-made" for e in found), "equal scores stand once"
    changed = [e._replace(run="x", tasks="another", scores=e.scores + 0.1) for e in found[:1]]
    rows = compare.compare([*found, *changed], "A6 MAML", "ndcg@5").rows
    assert next(row for row in rows if row[1] == "x")[4] == "not paired"


def test_tasks_that_are_drawn_by_a_key_are_paired_by_experiment_and_scenario(tmp_path):
    def drawn(experiment: str, scenario: str, arm: str) -> report.Record:
        arms = (report.Arm(arm),)
        return report.Record(
            experiment,
            arms,
            scenario=scenario,
            method=arm,
            scores={report.Key(scenario, arm, "test", "accuracy"): np.ones((1, 4))},
        )

    records = {"a": drawn("o", "5-way", "A"), "b": drawn("o", "5-way", "B")}
    one, two = compare.entries(records, "accuracy", "test")
    assert reliability.pairs(one, two)
    records["c"] = drawn("another", "5-way", "C")
    assert not reliability.pairs(one, compare.entries(records, "accuracy", "test")[2])


def test_errors_are_better_when_lower():
    assert tables.lower_is_better("squared error") and tables.lower_is_better("log_loss")
    assert not tables.lower_is_better("accuracy") and not tables.lower_is_better("auc")


def test_what_differs_names_the_setting_and_leaves_out_places(folders):
    rows = compare.differing(compare.find(folders)).rows
    assert rows == [["config.inner_steps", "5", "1"], ["config.num_steps", "300", "-"]]


def test_the_better_share_knows_the_direction_of_the_metric():
    a = compare.Entry("r", "a", "s", np.array([[1.0, 2.0, 3.0, 4.0]]), "t")
    b = compare.Entry("r", "b", "s", np.array([[2.0, 2.0, 2.0, 2.0]]), "t")
    assert compare._better(a, b, "mae") == pytest.approx((1 + 0.5) / 4)
    assert compare._better(a, b, "ndcg@5") == pytest.approx((2 + 0.5) / 4)


command = functools.partial(in_process.command, "metajax.results")


def test_the_command_prints_every_format_and_saves_figures(folders, tmp_path):
    done = command("compare", *folders, "--format", "latex", "--plots", tmp_path / "plots")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(r"\begin{tabular}") == 4 and "-0.2000" not in done.stdout
    names = {p.name for p in (tmp_path / "plots").iterdir()}
    assert {"forest-user_cold.png", "k-shot-maml-made.png", "learning-melu-made.png"} <= names
    assert {"profile-warm.png", "pareto-training.png", "pareto-per-user.png"} <= names


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["compare", "nowhere"], "no record nowhere"),
        (["compare", "{a}", "{a}"], "is given twice"),
        (["compare", "{a}", "--metric", "auc"], "no scores of auc under all"),
        (["compare", "{a}", "--reference", "A9"], "no arm is called 'A9'; there are A2"),
        (["check", "{a}"], "has no CHECKSUMS"),
    ],
)
def test_what_is_wrong_is_one_line(folders, args, said):
    done = command(*[a.format(a=folders[0]) for a in args])
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr
    assert done.stderr.count("\n") == 1


def test_check_finds_a_changed_record(folders):
    journal.write_checksums(folders[0])
    done = command("check", folders[0])
    assert "1 files are as they were written" in done.stdout, done.stderr
    report.write(folders[0], "maml-made", record(seconds={}))
    done = command("check", folders[0])
    assert done.returncode == 1 and "maml-made.record is not what the run wrote" in done.stderr


def test_show_prints_what_a_record_says(folders):
    told = json.loads(command("show", folders[0] / "maml-made.record").stdout)
    assert told["method"] == "A6 MAML" and told["arms"][0]["role"] == "baseline"
    assert told["scores"]["user_cold | A6 MAML | all | mae"] == [2, 50]
