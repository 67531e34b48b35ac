"""What a run prints, its record prints: scores are rounded once, before both, below their noise."""

import dataclasses

import hypothesis
import numpy as np
from hypothesis import strategies as st
from small_records import record

from experiments.streams import show
from metajax.results import compare, groups, records, reliability, rounding, tables
from metajax.results.records import Key


@hypothesis.given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 12))
@hypothesis.settings(deadline=None)
def test_sums_and_order_are_kept(num_seeds, num_tasks, bits):
    scores = np.random.default_rng(num_tasks).normal(size=(num_seeds, num_tasks))
    found, step = rounding.in_steps(scores, 2.0**-bits).astype(float), 2.0**-bits
    np.testing.assert_array_equal(found / step, np.round(found / step))
    assert np.abs(found - scores).max() <= step * (1 + 1e-6)
    assert abs((found - scores).sum()) <= step * (0.5 + 1e-6)
    assert (np.diff(found.ravel()[np.argsort(scores.ravel())]) >= 0).all()


def test_values_that_are_not_defined_stay():
    scores = np.array([[np.nan, 0.3, 0.3], [0.26, 0.3, 0.1]], np.float32)
    found = rounding.in_steps(scores, 0.25)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(scores))
    assert len(set(found[scores == np.float32(0.3)])) == 1, "equal values stay equal"


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a made-up run."""

    seeds: int = 3


def noisy() -> records.Record:
    """As computed: arms that differ by .02 and a spread of .1 over 90 users and three seeds."""
    rng, made = np.random.default_rng(3), record(num_tasks=90)
    base = 0.7 + 0.2 * rng.random((1, 90))
    made = dataclasses.replace(made, split=records.Split("melu", tasks={"user_cold": 90}))
    scores: dict[Key, np.ndarray] = {}
    for i, key in enumerate(key for key in made.scores if key.scenario == "user_cold"):
        values = base + 0.02 * (i % 7) + 0.1 * rng.normal(size=(3, 90))
        scores[key] = np.asarray(values if key.metric == "mae" else values**2, np.float32)
    kinds = {"activity": groups.terciles(rng.integers(5, 200, 90))}
    extra = {
        groups.GROUPS: dict.fromkeys(made.tasks, kinds),
        show.EVENTS_OF: rng.integers(1, 100, 90).tolist(),
    }
    config = {**made.config, "seeds": 3}
    fields = {"scores": scores, "extra": extra, "scenario": "user_cold", "config": config}
    return dataclasses.replace(made, **fields)


def as_run(exact: records.Record) -> records.Record:
    """The record that a run makes of what it computed."""
    made = records.made(exact.experiment, Config(), exact.arms, exact.scores)
    return dataclasses.replace(exact, scores=made.scores)


def told(one: records.Record, capsys) -> str:
    """Every table that reads scores in its own way: of users, groups, events, and comparisons."""
    tables.show(one)
    show.table(one, "mae", "A6 MAML", "A2 fold-in")
    for condition in ("all", "k=0"):
        found = compare.entries({"made": one}, "mae", condition, "user_cold")
        tables.terminal(compare.compare(found, "A6 MAML", "mae"))
        tables.terminal(reliability.reliability(found, "A6 MAML", "mae"))
    return capsys.readouterr().out


def test_a_record_prints_what_its_run_has_printed_and_half_the_bytes_go(tmp_path, capsys):
    exact = noisy()
    run = as_run(exact)
    path = records.publish("run", run, tmp_path)
    text = told(run, capsys)
    assert "by group" in text and "an event" in text and "P(improvement)" in text
    assert told(records.read(path), capsys) == text
    size = records.write(tmp_path, "exact", exact).stat().st_size
    assert path.stat().st_size < 0.5 * size


def test_rounding_is_far_below_the_noise():
    exact = noisy()
    run = as_run(exact)
    for key in [key for key in exact.scores if key.condition == "all"]:
        base = key._replace(arm="A3 joint")
        for other in {base, None} - {key}:
            pair = lambda r, k=key, o=other: (r.scores[k], r.scores[o] if o else 0 * r.scores[k])
            one, less = (records.difference(*pair(r)) for r in (exact, run))
            most = (one.high - one.low) / 200
            np.testing.assert_allclose(less[:3], one[:3], atol=most, rtol=0)


def test_arrays_that_are_nearly_the_same_stay_as_they_are():
    exact = dict(noisy().scores)
    some = Key("user_cold", "A3 joint", "all", "mae")
    same, near = (some._replace(condition=name) for name in ("shuffled", "k=0"))
    exact[same] = exact[some]
    exact[near] = exact[some] + np.float32(1e-6)
    less = rounding.rounded(exact)
    for key in (some, same, near):
        np.testing.assert_array_equal(less[key], exact[key])
    few = record(num_tasks=3)
    for key, values in rounding.rounded(few.scores).items():
        np.testing.assert_array_equal(values, np.float32(few.scores[key]))


def test_the_same_scores_rounded_in_two_records_stand_once():
    made = noisy()
    some = Key("user_cold", "A2 fold-in", "all", "mae")
    whole = made.scores[some]
    one, other = rounding.in_steps(whole, 2.0**-9), rounding.in_steps(whole, 2.0**-7)
    assert rounding.alike(one, other) and rounding.alike(whole, one)
    assert not rounding.alike(whole, whole + np.float32(0.001)), "another mean"
    assert not rounding.alike(whole, whole[:, ::-1]), "other tasks"
    found = compare.entries(
        {"a": made, "b": dataclasses.replace(made, scores={**made.scores, some: one})}, "mae"
    )
    assert [e.run for e in found if e.arm == "A2 fold-in" and e.scenario == "user_cold"] == ["a"]
