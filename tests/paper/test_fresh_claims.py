"""What the paper says of splits that were registered before they were opened."""

import dataclasses

import pytest
from small_records import BASELINES, split_of

from metajax.benchmark.mixture import A10, A11, MIXED
from metajax.results import records as report
from metajax.results import registered
from metajax.results.intervals import Interval
from paper import edition, fresh, mixture
from paper.build import CLAIMS
from paper.edition import Results


@pytest.fixture
def two_splits() -> Results:
    """A paper of two fresh splits alone."""
    splits = {f"fresh-synthetic-{seed}": split_of(seed) for seed in (2, 1)}
    return Results(edition.editions()["small"], {}, {}, fresh=splits)


def test_each_registration_of_fresh_splits_has_its_table_and_its_verdict(two_splits):
    grids = fresh.fresh_tables(two_splits)
    assert list(grids) == ["fresh-1-synthetic-maml-mae"], "the two stand side by side"
    (grid,) = grids.values()
    assert grid.headings == ["arm", *["user-cold (50)", "warm (50)"] * 2]
    cells = {row[0]: row[1:] for row in grid.rows}
    assert cells["A2 fold-in"][0] == "-0.2000 [-0.2000, -0.2000]*"
    gap = "+0.1000 [+0.1000, +0.1000]"
    assert cells["A7 hier. Bayes"] == [gap, gap, "", ""], "the second was not asked about it"
    assert [row[0] for row in grid.rows] == list(BASELINES)
    assert CLAIMS["fresh-splits"](two_splits) == ("two of synthetic (50 new users in all)")
    told = fresh.claims_table(two_splits.registered)
    assert told.headings[:5] == [
        *("method", "data set", "splits", "claimed for", "holds in absolute error for")
    ]
    who = ["MAML", "synthetic", "1 to 2", "new users and known ones"]
    assert told.rows == [[*who, "none", "", ""], [*who, "all", "", ""]]
    assert CLAIMS["ridge-alone"](two_splits) == "in two of four places in absolute error"
    name = next(iter(two_splits.fresh))
    half = dataclasses.replace(two_splits, fresh={name: two_splits.fresh[name]})
    assert half.registered == [] and fresh.fresh_tables(half) == {}


def test_what_a_meta_learner_adds_to_a_mixture_is_told_with_its_weights(two_splits):
    """The mixture is ahead of the one without MAML by .1 for every user of both splits."""
    weights = {
        "weights, items rated": {"A8 boosting": 0.5, "A8 boosting alone": 0.2, "A6 MAML": 0.3}
    }
    weights |= {"weights, items unrated": {"A8 boosting": 1.0, "A6 MAML": 0.0}}
    each = {name: mixed(one, weights) for name, one in two_splits.fresh.items()}
    r = dataclasses.replace(two_splits, fresh=each)
    assert [found.record.names()[-2:] for found in r.registered] == [[A10, MIXED]] * 2
    tables = fresh.fresh_tables(r).values()
    behind = [cell for grid in tables for row in grid.rows if row[0] == A10 for cell in row[1:]]
    assert set(behind) == {"-0.1000 [-0.1000, -0.1000]*"}
    assert mixture.further_table(r) is None, "A11 is not among the arms"
    told = fresh.claims_table(r.registered)
    assert [row[5:] for row in told.rows] == [["0.30 and 0.70", "0.00 and 1.00"]] * 2


def test_after_which_ratings_a_mixture_is_ahead_is_told(two_splits):
    """It is ahead of the one without MAML by .1 after no rating, and behind it after five."""

    def changed(one: report.Record) -> report.Record:
        one = mixed(one, {})
        worse = lambda key: 0.3 * (key.arm == MIXED and key.condition == "k=5")
        return dataclasses.replace(one, scores={k: v + worse(k) for k, v in one.scores.items()})

    r = dataclasses.replace(
        two_splits, fresh={name: changed(one) for name, one in two_splits.fresh.items()}
    )
    assert CLAIMS["by-ratings"](two_splits) == "", "there is no mixture"
    assert CLAIMS["by-ratings"](r) == "in absolute error in two of four columns on synthetic"
    (grid,) = mixture.by_ratings_tables(r).values()
    assert grid.headings == ["minus", "0 ratings", "5 ratings"]
    better, worse = "-.100 [-.100, -.100]*", "+.200 [+.200, +.200]†"
    assert grid.rows[:3] == [
        ["synthetic, 50 new users", "", ""],
        ["A10 mixture", better, worse],
        ["every arm", "ahead", "not ahead"],
    ]


def test_two_registrations_of_a_data_set_are_told_apart_by_their_splits(two_splits):
    later = {
        f"{name}-later": dataclasses.replace(
            one,
            split=dataclasses.replace(one.split, seed=one.split.seed + 10, checksum=name),
            extra={
                "registrations": [
                    told | {"split_seeds": [11, 12]} for told in one.extra["registrations"][1:]
                ]
            },
        )
        for name, one in two_splits.fresh.items()
    }
    r = dataclasses.replace(two_splits, fresh=two_splits.fresh | later)
    assert len(r.registered) == 3
    assert [row[2] for row in fresh.claims_table(r.registered).rows] == ["1 to 2"] * 2 + [
        "11 to 12"
    ]
    assert any("splits 11 to 12" in grid.title for grid in fresh.fresh_tables(r).values())
    assert "four of synthetic (100 new users" in CLAIMS["fresh-splits"](r)


def mixed(one: report.Record, weights: dict) -> report.Record:
    """A split in which the mixture stands for MAML, and A10 is .1 behind it."""
    scores = {k: v for k, v in one.scores.items() if k.arm != "A6 MAML"}
    for key, value in one.scores.items():
        if key.arm == "A6 MAML":
            scores |= {key._replace(arm=MIXED): value, key._replace(arm=A10): value + 0.1}
    named = {"method": MIXED, "arms": [A10, MIXED]}
    said = [told | named for told in one.extra["registrations"]]
    arms = (report.Arm(A10, report.BASELINE), report.Arm(MIXED, report.METHOD, weights))
    return dataclasses.replace(
        one, method=MIXED, arms=arms, scores=scores, extra={"registrations": said}
    )


def test_what_the_meta_learner_adds_beside_further_trees_is_told(two_splits):
    """Beside the mixture A11 is .1 behind for new users and .1 ahead for known ones, A10 behind."""

    def further(one: report.Record) -> report.Record:
        one = mixed(one, {})
        own = {k: v for k, v in one.scores.items() if k.arm == MIXED}
        worse = lambda key: 0.1 if key.scenario == "user_cold" else -0.1
        scores = one.scores | {k._replace(arm=A11): v + worse(k) for k, v in own.items()}
        said = [told | {"arms": [A10, A11, MIXED]} for told in one.extra["registrations"][:1]]
        arms = (*one.arms, report.Arm(A11, report.BASELINE))
        return dataclasses.replace(one, arms=arms, scores=scores, extra={"registrations": said})

    each = {name: further(one) for name, one in two_splits.fresh.items()}
    found = mixture.further_table(dataclasses.replace(two_splits, fresh=each))
    assert found is not None and "in absolute error" in found.notes[0]
    r = dataclasses.replace(two_splits, fresh=each)
    assert CLAIMS["beyond-trees"](r) == "it is still ahead for new users, but not for known ones"
    assert CLAIMS["share-of-trees"](r) == "between 0 and 200 per cent"
    assert CLAIMS["beside-controls"](r) == (
        "ahead of A10 in two of two in absolute error; ahead of A11 in one of two in absolute "
        "error (and behind in one)"
    )
    assert found.headings[3:] == [f"minus {arm}" for arm in (A10, A11)]
    better, worse = "-0.1000 [-0.1000, -0.1000]*", "+0.1000 [+0.1000, +0.1000]†"
    assert found.rows == [
        ["synthetic", "user-cold", "50", better, better],
        ["synthetic", "warm", "50", better, worse],
    ]


def test_a_difference_that_holm_takes_away_has_no_mark():
    apart = Interval(-0.1, -0.2, -0.01, 0.03, 50, 0)
    assert mixture._marked(registered.Gap(apart, 0.03), "mse").endswith("]*")
    assert mixture._marked(registered.Gap(apart, 0.03), "ndcg@5").endswith("]†")
    assert mixture._marked(registered.Gap(apart, 0.09), "mse").endswith("]")
