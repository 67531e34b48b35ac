"""The ordinal link: against pencil values, brute force and scipy, on every scale."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from metajax.evaluation import evaluate, metrics, ordinal
from metajax.types import Episode, Examples, UserError

SCALES = {
    "stars": np.arange(1.0, 6.0),
    "half stars": np.arange(0.5, 5.1, 0.5),
    "ten": np.arange(1.0, 11.0),
    "jester": np.arange(-10.0, 11.0),
    "clicks": np.array([0.0, 1.0]),
}
SLOW = pytest.mark.slow
EACH = [(scale, () if scale in ("stars", "clicks") else SLOW) for scale in SCALES]
"""The scales; a program is compiled for each, and the fast tests take five levels and two."""


def world(levels: np.ndarray, rows: int = 1500, seed: int = 0):
    """Scores, and labels drawn from the link itself: slope 1.7, cuts spread over the scores."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=rows)
    cuts = np.linspace(-2, 2, len(levels) - 1)
    noise = rng.logistic(size=rows)
    label = levels[np.searchsorted(cuts, 1.7 * score + noise)]
    return score.astype(np.float32), label.astype(np.float32)


probabilities, log_loss = jax.jit(ordinal.probabilities), jax.jit(ordinal.log_loss)
mean, median, crps = jax.jit(ordinal.mean), jax.jit(ordinal.median), jax.jit(ordinal.crps)


@functools.partial(jax.jit, static_argnames="prior")
def fitted(score, label, levels, mask=1.0, **options):
    """The link of the rows, in one program for each number of rows and of levels."""
    return ordinal.fit(score, label, mask * jnp.ones_like(score), levels, **options)


def reference(score, label, levels):
    """Cuts and slope of greatest likelihood, by scipy's minimizer in float64."""
    score = np.asarray(score, np.float64)
    z = (score - score.mean()) / score.std()
    level = np.argmin(np.abs(np.asarray(label)[:, None] - levels), axis=1)

    def loss(theta):
        cuts = np.cumsum(np.append(theta[0], np.exp(theta[1:-1])))
        edges = np.concatenate([[-np.inf], cuts, [np.inf]])
        p = scipy.special.expit(edges[level + 1] - theta[-1] * z) - scipy.special.expit(
            edges[level] - theta[-1] * z
        )
        return -np.mean(np.log(np.maximum(p, 1e-300)))

    start = np.concatenate([[-2.0], np.full(len(levels) - 2, -1.0), [0.5]])
    found = scipy.optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-7})
    return np.cumsum(np.append(found.x[0], np.exp(found.x[1:-1]))), found.x[-1], found.fun


@pytest.mark.parametrize("scale", ["stars", pytest.param("half stars", marks=SLOW), "clicks"])
def test_the_fit_is_the_maximum_of_the_likelihood(scale):
    levels = SCALES[scale]
    score, label = world(levels)
    link = fitted(score, label, levels, prior=0.0)
    cuts, slope, value = reference(score, label, levels)
    np.testing.assert_allclose(link.cuts, cuts, atol=5e-3)
    np.testing.assert_allclose(link.slope, slope, rtol=3e-3)
    p = probabilities(link, score)
    found = log_loss(p, link.levels, label, np.ones_like(score))
    np.testing.assert_allclose(found, value, rtol=1e-5)


def test_a_constant_score_gets_the_shares_of_the_labels():
    levels = SCALES["stars"]
    label = np.array([1.0, 2, 2, 3, 3, 3, 4, 5, 5, 5])
    link = fitted(np.full(10, 3.7), label, levels, prior=0.0)
    assert link.slope == 0
    p = probabilities(link, np.array([3.7, -20.0]))
    np.testing.assert_allclose(p, [[0.1, 0.2, 0.3, 0.1, 0.3]] * 2, rtol=1e-5)


def test_the_prior_is_ratings_spread_evenly():
    label = np.array([1.0, 2, 2, 2])
    link = fitted(np.zeros(4), label, SCALES["stars"], prior=1.0)
    p = probabilities(link, np.zeros(1))
    np.testing.assert_allclose(p[0], np.array([1.2, 3.2, 0.2, 0.2, 0.2]) / 5, rtol=1e-5)


@pytest.mark.parametrize(
    ("scale", "factor", "shift"),
    [
        *(pytest.param(scale, 37.0, -5.0, marks=mark) for scale, mark in EACH),
        ("stars", 0.01, 0.0),
        ("stars", 1.0, 1000.0),
    ],
)
def test_shifted_and_scaled_scores_give_the_same_distribution(scale, factor, shift):
    levels = SCALES[scale]
    score, label = world(levels, rows=300)
    p = probabilities(fitted(score, label, levels), score)
    other = factor * score + shift
    q = probabilities(fitted(other, label, levels), other)
    np.testing.assert_allclose(p, q, atol=2e-3 if shift == 1000.0 else 2e-4)


@pytest.mark.parametrize("scale", [pytest.param(scale, marks=mark) for scale, mark in EACH])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_few_rows_leave_every_level_some_probability(scale, rows):
    levels = SCALES[scale]
    score, label = world(levels, rows=8)
    link = fitted(score, label, levels, np.arange(8) < rows)
    p = np.asarray(probabilities(link, np.array([-3.0, 0.0, 3.0])))
    assert np.isfinite(p).all() and (p > 1e-9).all()
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)


def test_labels_in_perfect_order_do_not_make_the_slope_infinite():
    levels = SCALES["stars"]
    score = np.linspace(1, 5, 200, dtype=np.float32)
    link = fitted(score, np.round(score), levels)
    assert 5 < link.slope < 1e3
    p = probabilities(link, score)
    np.testing.assert_allclose(median(p, link.levels), np.round(score), atol=1)
    assert np.mean(np.asarray(median(p, link.levels)) == np.round(score)) > 0.95


def test_scores_in_reverse_order_get_slope_0_and_the_shares():
    levels = SCALES["stars"]
    score, label = world(levels)
    link = fitted(-score, label, levels, prior=0.0)
    assert link.slope == 0
    p = probabilities(link, score[:3])
    shares = [np.mean(label == v) for v in levels]
    np.testing.assert_allclose(p, [shares] * 3, rtol=1e-4)


def test_padding_is_invisible():
    levels = jnp.asarray(SCALES["stars"])
    score, label = world(SCALES["stars"], rows=60)
    link = fitted(score, label, levels)
    padded = jax.jit(ordinal.fit)(
        np.append(score, [np.nan, 1e30]).reshape(2, 31),
        np.append(label, [0.0, 77.0]).reshape(2, 31),
        np.append(np.ones(60), np.zeros(2)).reshape(2, 31),
        levels,
    )
    for a, b in zip(link, padded, strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-4, atol=1e-5)


def test_seeds_are_fitted_side_by_side():
    levels = jnp.asarray(SCALES["stars"])
    score, label = world(SCALES["stars"], rows=200)
    both = np.stack([score, -score])
    link = jax.vmap(lambda s: fitted(s, label, levels))(both)
    assert link.slope[0] > 1 and link.slope[1] == 0


def random_p(levels: np.ndarray, rows: int = 7) -> np.ndarray:
    p = np.random.default_rng(3).dirichlet(np.full(len(levels), 0.7), rows)
    return p.astype(np.float32)


@pytest.mark.parametrize("scale", SCALES)
def test_median_and_mean_are_best_in_their_errors(scale):
    levels = SCALES[scale]
    p = np.asarray(random_p(levels), np.float64)
    anywhere = np.linspace(levels[0], levels[-1], 2001)
    for q in p:
        absolute = (q * np.abs(anywhere[:, None] - levels)).sum(1)
        at_median = (q * np.abs(float(median(q, levels)) - levels)).sum()
        assert at_median <= absolute.min() + 1e-5
        squared = (q * (anywhere[:, None] - levels) ** 2).sum(1)
        best = anywhere[squared.argmin()]
        spacing = anywhere[1] - anywhere[0]
        assert abs(float(mean(q, levels)) - best) <= spacing


@pytest.mark.parametrize("scale", SCALES)
def test_crps_is_the_integral_of_the_squared_distance_of_distributions(scale):
    levels = SCALES[scale]
    p = random_p(levels)
    label = np.random.default_rng(0).choice(levels, len(p))
    label[0] = levels[0] + 0.3 * (levels[-1] - levels[0])  # between levels, as in a stream
    x = np.linspace(levels[0] - 1, levels[-1] + 1, 400_001)
    spacing = x[1] - x[0]
    each = []
    for q, y in zip(np.asarray(p, np.float64), label, strict=True):
        cumulated = np.append(0, np.cumsum(q))[np.searchsorted(levels, x, side="right")]
        each.append(np.sum((cumulated - (x >= y)) ** 2) * spacing)
    found = crps(p, levels, label, np.ones(len(p)))
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-3)


def test_proper_scores_by_pencil():
    levels = np.array([1.0, 2.0, 4.0])
    p = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    label, mask = np.array([4.0, 4.0]), np.array([1.0, 0.0])
    np.testing.assert_allclose(log_loss(p, levels, label, mask), np.log(4), rtol=1e-6)
    # F is 1/2 on [1, 2), 3/4 on [2, 4): 1/4 + 2 * 9/16
    np.testing.assert_allclose(crps(p, levels, label, mask), 1.375, rtol=1e-6)
    # a point: its absolute error
    point = crps(p[1:], levels, label[1:], np.ones(1))
    np.testing.assert_allclose(point, 2.0, rtol=1e-6)
    assert np.isnan(crps(p, levels, label, np.zeros(2)))
    p[0, 0] = np.nan
    assert np.isnan(log_loss(p, levels, label, mask))
    np.testing.assert_array_equal(np.isnan(median(p, levels)), [True, False])


def test_the_true_distribution_has_the_best_proper_scores():
    levels = jnp.asarray(SCALES["stars"])
    score, label = world(SCALES["stars"], rows=4000)
    link = fitted(score, label, SCALES["stars"])
    right = np.asarray(probabilities(link, score))
    sharper = probabilities(link._replace(slope=3 * link.slope), score)
    flat = np.broadcast_to(right.mean(0), right.shape)
    for proper in (log_loss, crps):
        values = [proper(p, levels, label, np.ones(4000)) for p in (right, sharper, flat)]
        assert values[0] < values[1] and values[0] < values[2]


def tasks_of(label: np.ndarray, width: int = 10) -> Episode:
    labels = label.reshape(-1, width)
    rows = Examples((), labels, np.ones_like(labels))
    return Episode((), rows, rows)


def test_calibration_helps_every_error_and_keeps_the_order():
    levels = SCALES["stars"]
    score, label = world(levels, rows=4000)
    link = fitted(score, label, levels)
    tasks, scores = tasks_of(label), score.reshape(-1, 10)
    p = probabilities(link, scores)
    found = jax.jit(ordinal.metrics_of)(p, link.levels, tasks, jax.random.key(0))
    found = jax.device_get(found)
    raw = 3 + score  # on the scale, but neither median nor mean
    assert found["mae_calibrated"].mean() < np.abs(raw - label).mean()
    assert found["mse_calibrated"].mean() < np.mean((raw - label) ** 2)
    keys = jax.random.split(jax.random.key(0), 400)
    ndcg = jax.jit(jax.vmap(lambda *a: metrics.ndcg(*a, k=5)))
    by_score = ndcg(scores, tasks.query.label, tasks.query.mask, keys)
    np.testing.assert_allclose(found["ndcg@5_calibrated"], by_score, atol=1e-6)
    assert {k: v.shape for k, v in found.items()} == dict.fromkeys(found, (400,))
    rated = jax.jit(evaluate.rating_metrics)
    plain, linked = (rated(scores, tasks, jax.random.key(0), *x) for x in ((), (link,)))
    assert [*linked] == sorted({*plain, *ordinal.PROPER})
    for name in ordinal.PROPER:
        np.testing.assert_allclose(linked[name], found[name], atol=1e-6)


def test_levels_are_those_that_occur_or_a_grid():
    scale = (1.0, 5.0)
    np.testing.assert_array_equal(ordinal.levels_of(np.array([5, 1, 3, 3]), scale), [1, 3, 5])
    many = ordinal.levels_of(np.random.default_rng(0).uniform(-10, 10, 500), (-10.0, 10.0))
    np.testing.assert_allclose(many, np.arange(-10, 10.5, 0.5))
    near = jax.jit(ordinal.nearest)(np.array([-11.0, -9.8, 0.2, 0.26, 10.0]), many)
    np.testing.assert_array_equal(near, [0, 0, 20, 21, 40])
    with pytest.raises(UserError, match="all ratings are the same"):
        ordinal.levels_of(np.ones(5), scale)
