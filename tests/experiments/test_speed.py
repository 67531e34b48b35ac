"""The benchmark: what it prints follows from what was measured, and unlike losses stop it."""

import jax
import numpy as np
import optax
import pytest

from experiments.speed import (
    benchmark,
    choices,
    curves,
    measure,
    ours,
    page,
    problems,
    profile,
    searches,
)
from metajax import losses, tree
from metajax.learners.gradient.maml import gradient
from metajax.models import conv
from metajax.results import records
from metajax.settings import Stored
from metajax.training import outer_gradient
from metajax.types import UserError


def worker(variant: str, seconds: float, gflops: float, **facts) -> measure.Worker:
    told = {"compile_seconds": 1.5, "peak_mb": 300.0, "loss": 2.0, **facts}
    return measure.Worker(variant, None, told, [seconds, seconds, 9.0], [2 * seconds] * 3, [gflops])


def test_figures_and_ratios_by_hand():
    """20 tasks in 10 ms are 2,000 a second; 1e8 operations in it are 10 GFLOP/s, of 100."""
    ours_, theirs = worker("metajax", 0.01, 100.0, flops=1e8), worker("torch loop", 0.05, 50.0)
    rows = [measure.row(w, 20) for w in (ours_, theirs)]
    assert rows[0]["tasks_per_second"] == pytest.approx(2000)
    assert rows[0]["share_of_peak"] == pytest.approx(0.1)
    assert rows[0]["wall_over_cpu"] == pytest.approx(2.0) and rows[1]["share_of_peak"] is None
    rows.append(measure.row(measure.Worker("torch.func compiled", skipped="too long"), 20))
    record = records.Record("speed", scenario="W9", extra={"title": "a", "rows": rows})
    assert list(page.ratios(record)) == ["5.00x as fast as torch loop (1024 x 1024 product: 2.00x)"]
    text = page.markdown(record)
    assert "| metajax | 2,000 | 10.00 | 1.5 | 300 | 10 % | 100 |" in text
    assert "skipped: too long" in text


def test_the_trials_of_a_search_by_hand():
    """30 trials of 10 s are 300 s; one of 12 s and 29 of 2 s are 70 s."""
    of = lambda way: records.Key("A6 LWA", way, "trial", "cpu_seconds")
    scores = {
        of(searches.CONSTANTS): np.array([[9.0, 11.0, 10.0]]),
        of(searches.ARGUMENTS): np.array([[12.0, 1.0, 3.0]]),
    }
    record = records.Record(
        "speed",
        config={"arms": ["A6 LWA"], "trial_steps": 150, "dataset": "ml-100k"},
        extra={"largest difference of errors": {"A6 LWA": 0.0}},
        scores=scores,
    )
    assert searches.cells(record) == [["A6 LWA", "10.0", "12.0", "2.0", "4.3x", "0"]]
    assert "| A6 LWA | 10.0 | 12.0 | 2.0 | 4.3x | 0 |" in searches.markdown(record)
    with pytest.raises(UserError, match="there is no A6 XYZ; there are A6 ridge head"):
        searches.main(searches.Config(arms=("A6 XYZ",)))


def test_ways_that_compute_another_loss_stop_the_run():
    ways = [worker("metajax", 1, 1), worker("plain", 1, 1, loss=2.0001)]
    measure._agree(ways)
    ways.append(worker("torch.func", 1, 1, loss=2.01))
    with pytest.raises(UserError, match=r"torch.func has the loss 2.01, metajax 2.0"):
        measure._agree(ways)


def test_what_is_not_there_is_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no workload 'W7'; the known ones are W1, W2"):
        benchmark.main(benchmark.Config(workload=("W7",)))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="no records"):
        benchmark.main(benchmark.Config(output=Stored(from_records=True)))
    with pytest.raises(UserError, match="no record"):
        curves.main(curves.Config(output=Stored(from_records=True)))


def test_the_version_of_sources_on_the_path_is_unknown(tmp_path, monkeypatch):
    (tmp_path / "only_sources.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(benchmark.worker, "PACKAGES", ("only_sources", "not_there"))
    found = benchmark._versions([worker("torch loop", 1.0, 1.0)])
    assert found["only_sources"] == "unknown" and "not_there" not in found


def test_the_users_of_w3_fall_into_the_sizes_that_are_counted():
    """Every chunk is counted once, and none is larger than its size."""
    how, problem = choices.how("W3", "cpu"), problems.users()
    shares = ours.branch_shares(how, problem)
    assert shares is not None and sum(shares.values()) == pytest.approx(1.0)
    sizes = np.sort(problem.support.mask.sum(axis=1)).reshape(-1, 4).max(axis=1)
    first = how.lengths[0]
    assert shares[0] == np.mean(sizes <= first)


@pytest.mark.parametrize("name", ["W2", "W3", "W4"])
def test_the_networks_of_both_libraries_are_the_same(name):
    """The scores of one support; the adapted weights are moved off their special values first."""
    torch = pytest.importorskip("torch", reason="PyTorch: pip install metajax[peers]")
    from experiments.speed import peers

    problem = problems.PROBLEMS[name]()
    rng = np.random.default_rng(1)
    moved = lambda x: (x + 0.1 * rng.standard_normal(x.shape)).astype(np.float32)
    weights = jax.tree.map(moved, problem.weights)
    inputs = problem.support.inputs[0]
    mine = jax.jit(ours.WORKLOADS[name].network)(weights, (), inputs)
    theirs = peers.flatten(weights)
    seen = torch.from_numpy(inputs)
    seen = seen if seen.is_floating_point() else seen.long()
    workload = peers.WORKLOADS[name]
    scores = workload.network(theirs, workload.features(theirs, seen))
    np.testing.assert_allclose(mine, scores.numpy(), rtol=2e-4, atol=2e-4)


def test_a_span_counts_without_what_is_inside():
    """A loop of 10 s holds 4 s of a product and 1 s of a sum: 5 are its own."""
    spans = [("while", 0.0, 10.0), ("dot", 1.0, 5.0), ("add", 6.0, 7.0), ("dot", 11.0, 12.0)]
    assert profile.own_seconds(spans) == {"while": [5.0], "dot": [4.0, 1.0], "add": [1.0]}


PROGRAM = """HloModule m

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %e = f32[8]{0} exponential(%p)
}

%summed (p: f32[8]) -> f32[] {
  %q = f32[8]{0} parameter(0)
  %twice = f32[8]{0} add(%q, %q)
  ROOT %r = f32[] reduce(%twice, %zero), dimensions={0}, to_apply=%plus
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %product = f32[8]{0} dot(%a, %a), lhs_contracting_dims={0}
  %sum = f32[] fusion(%a), kind=kLoop, calls=%summed
  %moved = f32[8]{0} copy(%a)
  ROOT %out = f32[8]{0} fusion(%product), kind=kLoop, calls=%fused
}
"""


def test_operations_are_told_apart_by_what_they_hold():
    kinds = profile.kinds_of(PROGRAM)
    assert [kinds[k] for k in ("product", "sum", "moved", "out", "a")] == [
        "matrix products",
        "reductions",
        "moving data",
        "elementwise",
        "other",
    ]


def test_the_page_of_a_profile_and_of_tables_by_hand():
    rows = [
        {"variant": "plain", "milliseconds": 5.0, "kinds": {"matrix products": 4.0, "other": 1.0}},
        {"variant": "metajax", "milliseconds": 2.0, "kinds": {"matrix products": 2.0}},
    ]
    text = page.profile(records.Record("speed", scenario="W9", extra={"rows": rows}))
    assert "| other | 1.00 | 0.00 |" in text and "| all | 5.00 | 2.00 |" in text
    facts = {
        "milliseconds": {"touched rows, 100": 1.0, "touched rows, 2000": 1.5, "dense, 100": 9.0},
        "growth": 1.5,
        "ahead_of_torch": 2.0,
    }
    text = page.tables(records.Record("speed", extra=facts))
    assert "| rows | touched rows | dense |" in text and "| 2,000 | 1.50 |  |" in text


def test_a_second_core_is_told_by_wall_time():
    rows = [measure.row(worker(v, 0.01, 50.0), 20) for v in ("metajax", "metajax, 2 cores")]
    rows[1]["fastest_wall_ms"] = rows[0]["fastest_wall_ms"] / 1.6
    record = records.Record("speed", extra={"rows": rows})
    assert list(page.ratios(record)) == ["1.60x with a second core (fastest steps, wall time)"]


@pytest.mark.slow
@pytest.mark.parametrize("num_tasks", [8, 32])
def test_twenty_inner_steps_of_w2_fit_into_twenty_megabytes(num_tasks):
    """Whatever the number of tasks: the whole batch is an argument, no temporary."""
    problem = problems.characters()
    learner = gradient(
        conv.conv4(5),
        optax.sgd(0.1),
        20,
        adapts=tree.negate(tree.matching("offset")),
        loss=losses.class_cross_entropy,
    )
    episodes = jax.tree.map(lambda x: x[:num_tasks], ours.episodes_of(problem))
    params = {"model": problem.weights, "rates": ()}
    run = lambda p, e: outer_gradient.outer_gradient(learner, 1)(p, e, jax.random.key(0))
    memory = jax.jit(run).lower(params, episodes).compile().memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 20e6
