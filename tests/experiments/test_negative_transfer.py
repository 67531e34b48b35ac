"""Negative transfer: the laws of its arms, its controls, what it refuses, its stored records."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.domains import negative_transfer as experiment
from experiments.domains import transfer_arms as arms
from experiments.domains import transfer_report as report
from metajax.results import intervals, records
from metajax.settings import Output
from metajax.types import UserError

RHO, NOISE, DIM = 0.6, 0.25, 3


def user(seed: int = 0, shots: int = 4) -> arms.People:
    """One user of two domains."""
    rng = np.random.default_rng(seed)
    there, here, asked = (rng.normal(size=(n, DIM)) for n in (8, 4, 5))
    y_there, y_here, y_asked = (rng.normal(size=n) for n in (8, 4, 5))
    given = (np.arange(4) < shots).astype(float)
    rows = (here, y_here, given, asked, y_asked, np.ones(5))
    return arms.People(*(jnp.float32(x) for x in (there.T @ there, there.T @ y_there, *rows)))


def known() -> arms.Known:
    """The true joint prior of `TwoDomains`, in units of its noise, and some items."""
    covariance = np.kron([[1.0, RHO], [RHO, 1.0]], np.eye(DIM)) / NOISE
    pool = np.random.default_rng(3).normal(size=(arms.POOL, DIM))
    made = (pool, np.zeros(2 * DIM), np.linalg.inv(covariance))
    return arms.Known(*(jnp.float32(x) for x in made))


def settings(*values: float) -> jax.Array:
    return jnp.float32(values)


def test_the_joint_prior_is_the_bayes_predictor_of_the_world():
    """Before any target rating: rho times the posterior mean of the source weights."""
    one = user(shots=0)
    there = arms.ridge(one.gram, one.moment, jnp.float32(NOISE))
    found = arms.joint(one, settings(0, 0, 0), known())
    np.testing.assert_allclose(found, RHO * there, atol=1e-4)


def test_every_cure_can_fall_back_to_scratch():
    one, alone = user(), arms.scratch(user(), settings(NOISE, 0, 0), known())
    for arm, how in (
        (arms.reweighted, (NOISE, 0.0, 0.0)),  # no weight
        (arms.distilled, (NOISE, 0.0, experiment.ANYWHERE)),  # no weight
        (arms.distilled, (NOISE, 1.0, 0.0)),  # no item that the teacher is sure of
    ):
        np.testing.assert_allclose(arm(one, settings(*how), known()), alone, atol=1e-5)


def test_a_heavy_student_is_its_teacher_and_plain_transfer_pools_all_rows():
    one, teacher = user(), arms.ridge(user().gram, user().moment, jnp.float32(1.0))
    student = arms.distilled(one, settings(1.0, 1e5, experiment.ANYWHERE), known())
    np.testing.assert_allclose(student, teacher, atol=1e-3)
    gram, moment = arms.sums(one)
    pooled = np.linalg.solve(one.gram + gram + 2.0 * np.eye(DIM), one.moment + moment)
    plain = arms.reweighted(one, settings(2.0, 1.0, 0.0), known())
    np.testing.assert_allclose(plain, pooled, atol=1e-5)


def test_the_control_gives_nobody_their_own_source():
    people = arms.People(*(np.stack([user(i)[j] for i in range(5)]) for j in range(8)))
    other = arms.of_other_people(people, 4)
    assert all(not np.allclose(other.gram[i], people.gram[i]) for i in range(4))
    np.testing.assert_array_equal(other.gram[4], people.gram[4])  # padding
    np.testing.assert_array_equal(other.asked_y, people.asked_y)


@pytest.mark.parametrize(
    ("shift", "said"), [(0.0, "yes"), (-0.1, "no"), (-0.01, "unclear"), (0.1, "yes")]
)
def test_a_cure_is_safe_if_its_whole_interval_is_above_minus_eps(shift, said):
    rng = np.random.default_rng(0)
    base, noise = 1.0 + 0.1 * rng.random((1, 200)), 0.02 * rng.normal(size=(1, 200))
    noise = noise - noise.mean()
    scores = {
        records.Key("x", report.SCRATCH, "k=1", "mse"): base,
        records.Key("x", report.GATED, "k=1", "mse"): base - shift + noise * (shift != 0),
    }
    named = records.arms_of((report.SCRATCH, report.GATED))
    record = records.made("x", experiment.Config(), named, scores, opened=())
    found = report.gain(record, "x", report.GATED, "k=1")
    assert isinstance(found, intervals.Interval) and found.mean == pytest.approx(shift, abs=1e-6)
    assert report.safe(record, "x", "k=1") == said


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"dataset": "coat"}, "coat is not cut into domains here"),
        ({"dataset": "ml-100k", "domains": ("Drama",)}, "one domain has nothing to transfer"),
        ({"dataset": "ml-100k", "domains": ("Drama", "Jazz")}, "no genre 'Jazz' in ml-100k"),
        ({"dataset": "amazon-four-domains", "domains": ("toys",)}, "no domain 'toys'"),
        ({"rhos": ()}, "no correlation is told"),
        ({"shots": ()}, "no number of ratings is told"),
    ],
)
def test_what_cannot_be_compared_gets_one_line(told, said, monkeypatch, tmp_path):
    monkeypatch.setattr("metajax.data.sources.named.load", lambda *_: pytest.fail("was read"))
    with pytest.raises(UserError, match=said):
        experiment.loaded(experiment.Config(data_dir=tmp_path, **told))


@pytest.mark.slow
def test_in_the_world_opposite_tastes_close_the_gate_and_like_tastes_open_it(tmp_path):
    config = experiment.Config(Output(out=tmp_path), rhos=(-0.8, 0.8), shots=(1,), most=200)
    record = experiment.main(config)
    hurts = report.gain(record, "rho -0.8", report.TRANSFER, "k=1")
    assert hurts.high < 0 and not report.opened(record, "rho -0.8", "k=1")
    assert report.gain(record, "rho -0.8", report.GATED, "k=1").mean == 0
    assert report.gain(record, "rho 0.8", report.GATED, "k=1").low > 0
    assert not report.opened(record, "rho 0.8", "k=1", report.GATED_WRONG)


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("dataset", ["synthetic", "ml-100k"])
def test_a_stored_record_prints_its_tables_and_draws(dataset, tmp_path, capsys):
    config = experiment.Config(Output(from_records=True, out=tmp_path), dataset)
    if not records.path_of(experiment.name_of(config)).is_file():
        pytest.skip("no record is stored")
    experiment.main(config)
    said = capsys.readouterr().out
    assert "gated >= -eps" in said and "plain transfer hurts in" in said
    assert (tmp_path / "gain.png").is_file()
