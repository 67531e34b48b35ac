"""Every protocol of ``--protocol``, from the option to the scores of its test tasks."""

import dataclasses
import typing

import numpy as np
import pytest

from metajax import benchmark, settings
from metajax.benchmark import baselines, harness, problem, splits
from metajax.data import split
from metajax.data.sources import named
from metajax.data.worlds import latent
from metajax.settings import Data, SplitOptions
from metajax.types import UserError

LOG = latent.rating_log(240, 120)
OPTIONS: dict[str, dict[str, typing.Any]] = {
    "time": {"support_rows": 15, "query_rows": 8},
    "stream": {"support_rows": 15, "query_rows": 8},
    "leave-one-out": {"support_rows": 10},
    "items": {"min_rows": 120, "support_rows": 8},
    "first-k": {"support_rows": 6},
    "tanp": {"min_rows": 25, "support_rows": 15},
    "domains": {"source_domain": "synthetic", "support_rows": 15, "query_rows": 8},
}
EXPECTED = {
    "melu": set(split.SCENARIOS),
    "time": {"warm", "user_cold"},
    "stream": {"warm", "user_cold"},
    "leave-one-out": {"warm"},
    "items": {"item_cold"},
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(named, "load", lambda *_: LOG)


def options(protocol: str, folder) -> SplitOptions:
    given = dict(OPTIONS.get(protocol, {}))
    if protocol == "file":
        given["tasks"] = split.save(folder / "tasks.npz", split.user_disjoint(LOG), LOG)
    return SplitOptions(protocol=protocol, **given)  # pyright: ignore[reportArgumentType]


def test_every_protocol_has_a_rule_and_its_options_exist():
    assert set(splits.RULES) == set(typing.get_args(settings.Protocol))
    known = {field.name for field in dataclasses.fields(SplitOptions)}
    assert all(set(rule.options) <= known for rule in splits.RULES.values())


FAST = ("melu",)
"""All four scenarios at once; the other protocols are learned by the slow tests."""


@pytest.mark.parametrize(
    "protocol",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in typing.get_args(settings.Protocol)
    ],
)
def test_a_protocol_is_learned_and_judged(protocol, tmp_path):
    """The baselines that need no training are tuned on its validation and judged on its test."""
    ready = problem.load(Data("synthetic"), options(protocol, tmp_path), num_support=16)
    made = {baselines.A1: baselines.closed_form_arms(ready)[baselines.A1]}
    _, opened = ready.open_test(benchmark.freeze(harness.Config(), {}), "splits")
    assert opened.keys() == EXPECTED.get(protocol, {"user_cold"})
    scores = harness.judge(made, ready, opened)
    for scenario, tasks in opened.items():
        own = scores[scenario, baselines.A1, "all", "mae"]
        assert own.shape == (1, len(tasks.query.label)) and np.isfinite(own).all()
        assert (scores[scenario, baselines.A1, "untrained", "mse"] >= 0).all()
    (curve,) = harness.curves_of(opened)
    assert (curve, baselines.A1, "k=0", "mse") in scores


def test_supports_and_queries_are_as_long_as_asked(tmp_path):
    for protocol, support, query in (("time", 15, 8), ("leave-one-out", 10, 1), ("first-k", 6, 94)):
        ready = problem.load(Data("synthetic"), options(protocol, tmp_path), num_support=16)
        _, opened = ready.open_test(benchmark.freeze(harness.Config(), {}), "splits")
        for tasks in opened.values():
            assert tasks.support.mask.sum(axis=1).max() <= support, protocol
            assert 1 <= tasks.query.mask.sum(axis=1).max() <= query, protocol


def test_a_stream_is_scored_by_what_it_has_seen_so_far():
    """The mean of a user's labels so far: recomputed here row by row."""
    ready = problem.load(Data("synthetic"), options("stream", None), num_support=16)
    assert ready.predict is splits.evaluate.prequential
    assert ready.split.protocol == "prequential"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"protocol": "time", "min_rows": 5},
            "--min-rows says nothing to --protocol time; its own",
        ),
        ({"protocol": "melu", "tasks": "x.npz"}, "--tasks says nothing to --protocol melu"),
        ({"protocol": "file"}, "--protocol file needs --tasks"),
        ({"protocol": "domains"}, "--protocol domains needs --source-domain"),
        (
            {"protocol": "users", "min_rows": 10_000, "max_rows": 20_000},
            "give a larger log or other",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(given, told):
    with pytest.raises(UserError, match=told) as error:
        problem.load(Data("synthetic"), SplitOptions(**given))
    assert "\n" not in str(error.value)


def test_a_split_without_validation_is_refused():
    parts = split.melu(LOG, valid_users=0.0)
    with pytest.raises(UserError, match="no meta-validation tasks"):
        problem.problem_of(LOG, parts)
