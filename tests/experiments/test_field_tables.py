"""The field's tables: who is ahead, by hand; equal trials; and one whole table, small."""

import dataclasses

import numpy as np
import pytest
from small_records import record

from experiments.field.tables import contenders, report, tables
from experiments.pages import index
from metajax.benchmark.baselines import A0, A1, A2, A3, A4, A7
from metajax.benchmark.boosting import A8, A8_ALONE
from metajax.benchmark.stacking import A9
from metajax.results import records
from metajax.settings import Output, Training
from metajax.types import UserError

SETTINGS = {arm: {"trials": 5} for arm in ("A2 fold-in", "A3 joint", "A4 fine-tuned", "A6 MAML")}


def test_ahead_is_method_minus_arm_and_its_sign_follows_the_metric():
    made = record(extra={"table": "T5"}, settings=SETTINGS)
    gaps = report.ahead(made, "user_cold", "all", "mae")
    assert {arm: round(float(gap.mean), 6) for arm, (gap, _) in gaps.items()} == {
        "A2 fold-in": -0.2,
        "A3 joint": -0.5,
        "A4 fine-tuned": -0.1,
    }
    gap, p = gaps["A4 fine-tuned"]
    assert report.better(gap, p, "mae")
    assert not report.better(gap, p, "ndcg@5"), "lower is not better there"
    assert not report.better(gap, 0.2, "mae"), "Holm says no"
    assert "ahead of every non-meta arm" in report.verdicts(made, "user_cold", "all", "mae")


def test_an_arm_that_is_better_is_named_in_the_verdict():
    offsets = {"A2 fold-in": -0.2, "A3 joint": 0.5, "A4 fine-tuned": 0.0, "A6 MAML": 0.0}
    made = record(extra={"table": "T5"}, settings=SETTINGS, offsets=offsets)
    told = report.verdicts(made, "user_cold", "all", "mae")
    assert "NOT ahead of A2 fold-in +0.2000" in told and "A4 fine-tuned +0.0000" in told
    assert "A3 joint" not in told


def test_pooled_folds_have_the_users_of_all():
    """Two folds with MAML ahead of fold-in by .2 and by .4 of as many users each: .3 together."""
    facts = {"extra": {"table": "T5"}, "settings": SETTINGS}
    fold = lambda ahead: record(**facts, offsets={"A2 fold-in": ahead, "A6 MAML": 0.0})
    one, two = fold(0.2), fold(0.4)
    made = tables.pooled([one, two])
    count = one.tasks["user_cold"]
    assert made.tasks["user_cold"] == 2 * count
    assert made.of("user_cold", "A6 MAML", "all", "mae").shape[1] == 2 * count
    gap, _ = report.ahead(made, "user_cold", "all", "mae")["A2 fold-in"]
    np.testing.assert_allclose(gap.mean, -0.3, atol=1e-6)
    assert made.arm("A6 MAML").settings == {"trials": 5, "folds": [{"trials": 5}] * 2}


def test_a_record_of_folds_names_them_all_and_has_a_hash_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "one_fold", lambda *_: record(settings=SETTINGS))
    monkeypatch.setattr(tables.tables_report, "save_figures", lambda *_: None)
    config = tables.Config("T1", output=Output(tmp_path), folds=(0, 1))
    part = tables.TABLES["T1"].parts[0]
    made = tables.run_part(tables.RATING, config, part)
    assert made.config["folds"] == [0, 1]
    alone = dataclasses.replace(config, folds=(0,))
    assert made.config_hash == records.config_hash(config) != records.config_hash(alone)


@pytest.mark.parametrize(
    "options", [{"table": "T2", "folds": (1,)}, {"table": "T1", "folds": (0, 10)}]
)
def test_folds_are_tenths_of_the_users_of_the_first_table(options):
    with pytest.raises(UserError, match="--folds is for T1, from 0 to 9"):
        tables.main(tables.Config(**options))


def test_p_values_are_adjusted_over_the_arms_of_a_scenario():
    """Holm by hand: three comparisons with the smallest possible p each, times 3, 2 and 1."""
    gaps = report.ahead(record(), "user_cold", "all", "mae")
    raw = [gap.p for gap, _ in gaps.values()]
    adjusted = [p for _, p in gaps.values()]
    assert max(raw) == min(raw)
    np.testing.assert_allclose(adjusted, 3 * raw[0])


def test_printed_tables_name_arms_trials_and_shots(capsys, tmp_path):
    made = record(extra={"table": "T5"}, settings=SETTINGS)
    name = "tables-T5-made-users"
    report.show_scenarios("T5", name, made)
    report.show_curves("T3", name, made)
    told = capsys.readouterr().out
    # squared errors (1 + t / 1000) ** 2 and (1.5 + t / 1000) ** 2: -0.25 - 1.0245 on average
    expected = ("A3 joint", "-1.2745*", "K=5", "MAML - arm, nDCG@5", "K=0", "RMSE [95 %]")
    for words in (*expected, "N1 gap of MAML, MSE: +0.7047*", "adapts to taste", "T3 MAE"):
        assert words in told, words
    report.save_figures(name, made, tmp_path)
    assert {p.name for p in tmp_path.glob("*.png")} == {"k_shot.png", "learning.png", "forest.png"}


FAR = {"A0 item mean": 0.3, "A2 fold-in": 0.2, "A4 fine-tuned": 2.0, "A6 MAML": 0.0}


def test_nobody_is_ahead_of_an_arm_that_diverged(capsys):
    made = record(extra={"table": "T5"}, offsets=FAR)
    report.show_scenarios("T5", "tables-T5-made-users", made)
    report.show_curves("T3", "tables-T2-made-melu", made)
    told = capsys.readouterr().out
    rows = [line for line in told.splitlines() if "A4 fine-tuned (diverged)" in line]
    assert len(rows) == 2 and all(row.count("│ diverged") or "diverged │" in row for row in rows)
    assert "all, RMSE: ahead of every non-meta arm (A4 fine-tuned diverged and is left out)" in told
    below = [i for i, line in enumerate(told.splitlines()) if "│ A4 fine-tuned " in line][2:]
    assert [told.splitlines()[i + 1].count("diverged") for i in below] == [3, 3, 3]
    lost = record(extra={"table": "T5"}, offsets=FAR | {"A6 MAML": 2.0})
    assert report.verdicts(lost, "user_cold", "all", "mse").endswith(
        "diverged, and is ahead of nobody"
    )


def test_the_first_table_is_judged_by_the_order_of_lists(capsys):
    """Its scores are there to be ordered: a large error is no divergence, and no lead."""
    made = record(extra={"table": "T1"}, offsets=FAR)
    scores = {}
    for key, values in made.scores.items():
        scores[key] = values
        if key.metric == "ndcg@5":
            scores |= {key._replace(metric=m): values for m in ("precision@5", "mrr@5")}
    made = dataclasses.replace(made, scores=scores)
    report.show_scenarios("T1", "tables-T1-made-rating", made)
    told = capsys.readouterr().out
    assert "diverged" not in told and "RMSE" not in told and "MAML - arm, nDCG@5" in told
    assert "N1 gap of MAML, nDCG@5: +0.0000 " in told and "adapts not at all" in told
    (row,) = [
        row for row in index.rows(made) if row["arm"] == "A6 MAML" and row["scenario"] == "warm"
    ]
    assert list(row)[3] == "nDCG@5 [95 %]" and "RMSE [95 %]" not in row
    assert row["N1 gap"].startswith("+0.0000 [") and row["adapts"] == "not at all"


def test_without_records_and_with_unknown_parts_one_line_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no record of T2 has such a name; there are tables-T2"):
        tables.main(tables.Config("T2", parts=("nothing",)))
    monkeypatch.setattr(tables.report, "RESULTS", tmp_path)
    with pytest.raises(
        UserError, match=r"no record of T1 in .* run python -m experiments tables T1"
    ):
        tables.main(tables.Config("T1", output=Output(from_records=True)))


@pytest.mark.slow
def test_a_table_is_tuned_by_equal_trials_and_goes_on_where_it_stood(tmp_path, monkeypatch, capsys):
    part = tables.rated("synthetic", tables.RATING, "A6 ridge head", "A6 LWA")
    monkeypatch.setitem(tables.TABLES, "T1", tables.Table((part,)))
    training = Training(seeds=2, num_steps=20, num_tasks=8, num_support=16)
    config = tables.Config(
        "T1", output=Output(tmp_path), training=training, trials=2, trial_steps=6
    )
    (first,) = tables.main(config)
    told = capsys.readouterr().out
    assert "ridge head - arm" in told and "precision@5" in told
    arms = {arm.name: arm.settings for arm in first.arms}
    assert {a: s["trials"] for a, s in arms.items() if a != A0} == {
        a: 2 for a in (A1, A2, A3, A4, A7, A8, A8_ALONE, A9, "A6 ridge head", "A6 LWA")
    }
    assert first.opened[0].times_opened == 1
    (second,) = tables.main(config)
    for name, values in first.scores.items():
        np.testing.assert_array_equal(values, second.scores[name])
    written = tables.report.stored(
        "tables-T1-synthetic-rating", tmp_path / "tables-T1-synthetic-rating"
    )
    assert written.names() == list(arms)


def test_every_contender_is_tuned_over_settings_it_has():
    for arm, contender in contenders.CONTENDERS.items():
        config = contender.module.Config()
        for name in (*contender.space, *[k for v in contender.further.values() for k in v]):
            assert hasattr(config, name), f"{arm} has no setting {name}"
