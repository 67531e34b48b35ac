"""The experiment on clustered starts: its clusters, what it refuses, its stored record."""

import numpy as np
import pytest

from experiments.domains import clusters as experiment
from experiments.domains import clusters_arms as arms
from experiments.domains import clusters_report as report
from metajax.data.split import Tasks
from metajax.data.worlds.modes import UserModes
from metajax.results import records
from metajax.settings import Output, check
from metajax.types import UserError

pytest.importorskip("sklearn")
from sklearn.metrics import normalized_mutual_info_score


def test_partitions_that_differ_by_names_alone_agree_and_random_ones_do_not():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 4, 400)
    assert arms.agreement([one, 3 - one]) == pytest.approx(1.0)
    assert abs(arms.agreement([one, rng.integers(0, 4, 400)])) < 0.05


def test_k_means_finds_groups_that_lie_apart_and_too_few_users_get_one_line():
    rng = np.random.default_rng(0)
    places = np.array([[0.0, 9.0], [9.0, 0.0], [-9.0, -9.0]])
    code = np.repeat(places, 20, axis=0) + rng.normal(size=(60, 2))
    label, centers = arms.k_means(code, 3, 0)
    assert arms.agreement([label, np.repeat(np.arange(3), 20)]) == pytest.approx(1.0)
    assert sorted(np.round(centers[:, 0] / 9)) == [-1, 0, 1]
    with pytest.raises(UserError, match="make no 70 clusters; ask for fewer"):
        arms.k_means(code, 70, 0)


def test_four_kinds_of_users_are_found_from_their_ratings_and_not_from_permuted_ones():
    """The codes of k-means are ridge regressions of 20 ratings of a world with four kinds."""
    world, rng = UserModes(), np.random.default_rng(0)
    centers = np.asarray(world.centers)
    kind = np.repeat(np.arange(len(centers)), 50)
    w = centers[kind] + world.tau * rng.normal(size=(len(kind), world.dim))
    x = rng.normal(size=(len(kind), 20, world.dim)) / world.dim**0.5
    y = np.einsum("tnd,td->tn", x, w) + world.sigma * rng.normal(size=x.shape[:2])
    normal = np.einsum("tnd,tne->tde", x, x) + 0.5 * np.eye(world.dim)
    code = lambda y: np.linalg.solve(normal, np.einsum("tnd,tn->td", x, y)[..., None])[..., 0]
    agree = lambda y: normalized_mutual_info_score(kind, arms.k_means(code(y), 4, 0)[0])
    assert agree(y) > 0.9
    assert agree(rng.permutation(y.ravel()).reshape(y.shape)) < 0.1


def test_lift_tells_what_a_cluster_likes_and_is_1_where_clusters_are_dealt():
    """Two users of each cluster; a cluster's ratings above the mean are all of its own genre."""
    has, item = np.eye(2)[np.arange(40) % 2], np.tile(np.arange(40), 4)
    user = np.repeat(np.arange(4), 40)
    label = np.where(item % 2 == user // 2, 5.0, 1.0)
    tasks = Tasks(np.arange(4), 40 * np.arange(4), np.full(4, 40), item, label)
    np.testing.assert_allclose(arms.lift(np.array([0, 0, 1, 1]), tasks, has), 2 * np.eye(2))
    mixed = arms.lift(np.array([0, 1, 0, 1]), tasks, has)
    np.testing.assert_allclose(mixed, 1.0)
    assert arms.unevenness(mixed) == 0.0


def test_one_cluster_is_refused():
    with pytest.raises(UserError, match="--clusters must be 2 to 1000"):
        check(experiment.Config(clusters=1))


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("metric", ["mae", "mse"])
def test_the_worst_cluster_is_the_one_of_the_largest_error(metric):
    error = np.repeat([[1.0, 3.0, 2.0]], 2, axis=0).repeat(12, axis=1)
    scores = {records.Key(report.SCENARIO, report.ONE, records.ALL, metric): error}
    groups = {"groups": np.repeat([0, 1, 2], 12).tolist()}
    record = records.made("x", experiment.Config(), (), scores, opened=(), extra=groups)
    value, mine = report.worst(record, report.ONE, records.ALL)
    assert value == 3.0 and mine.nonzero()[0].tolist() == list(range(12, 24))
    apart = report.worst_measure(record)
    named, mean = {"mae": ("MAE", 3.0), "mse": ("RMSE", 3.0**0.5)}[metric]
    assert apart.name.startswith(named)
    assert apart.of(report.ONE, records.ALL).mean == pytest.approx(mean)


@pytest.mark.usefixtures("few_draws")
def test_the_stored_record_prints_its_tables_and_draws(tmp_path, capsys):
    config = experiment.Config(output=Output(from_records=True, out=tmp_path))
    if not records.path_of(report.name_of(config)).is_file():
        pytest.skip("no record of clusters is stored")
    experiment.main(config)
    assert report.GATE in capsys.readouterr().out
    assert (tmp_path / "error.png").is_file() and (tmp_path / "differences.png").is_file()
