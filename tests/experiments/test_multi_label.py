"""The experiment on several labels: its labels, its heads, what it refuses, its stored record."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.domains import label_arms as arms
from experiments.domains import label_report as report
from experiments.domains import multi_label as experiment
from metajax.data.worlds.latent import rating_log
from metajax.results import records
from metajax.settings import Output
from metajax.types import Examples, UserError

RULE = arms.Rule(4.0, 2, 3.5)
HAS = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def episode(num_labels: int = 2):
    rows = lambda *x: Examples(jnp.arange(len(x)), jnp.array(x), jnp.ones(len(x)))
    columns = {"bias": jnp.zeros(4), "factor": jnp.eye(4, 3), "has": HAS[:, :num_labels]}
    return arms.episode_of(RULE, columns, rows(5.0, 2.0), rows(5.0, 3.0, 1.0, 5.0), {})


def test_a_label_is_liked_from_its_mean_on_and_known_from_enough_rows_on():
    rows = Examples(jnp.arange(4), jnp.array([5.0, 3.0, 1.0, 5.0]), jnp.ones(4))
    label, known = arms.likes(RULE, rows, HAS)
    np.testing.assert_array_equal(label, [1, 0])  # means 13 / 3 and 3
    np.testing.assert_array_equal(known, [1, 1])
    hidden = rows._replace(mask=jnp.array([0.0, 1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(arms.likes(RULE, hidden, HAS)[1], [0, 0])


def test_before_any_rating_the_head_says_how_many_like_a_label():
    learner = arms.head(2, np.array([0.2, 0.7]), {})

    @jax.jit
    def first(one):
        params = learner.init(jax.random.key(0), one)
        return jax.nn.sigmoid(learner.predict(params, learner.start(params, {}), one.query.inputs))

    np.testing.assert_allclose(first(episode()), [0.2, 0.7], rtol=1e-5)


def test_fold_in_scores_a_label_by_the_mean_factors_of_its_items():
    """Pencil: features (1, f), residual y on unit factors, penalty 3: w = (X'X + 3)^-1 X'y."""
    fixed = jnp.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]])
    learner = arms.head(2, np.full(2, 0.5), {}, fixed)

    @jax.jit
    def scores(one):
        params = learner.init(jax.random.key(0), one)
        state = learner.adapt(params, learner.start(params, {}), one.support, jax.random.key(1))
        return learner.predict(params, state, one.query.inputs)

    x, y = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0]]), np.array([1.5, -1.5])
    w = np.linalg.solve(x.T @ x + 3 * np.eye(4), x.T @ y)
    found = scores(episode())
    np.testing.assert_allclose(found, np.asarray(fixed) @ w, rtol=1e-4, atol=1e-6)


def test_heads_of_binary_relevance_share_nothing():
    one = episode()
    learner = arms.relevance(2, np.array([0.2, 0.7]), {})
    params = jax.jit(learner.init)(jax.random.key(0), one)
    alone = one._replace(query=one.query._replace(mask=jnp.array([1.0, 0.0])))
    slope = jax.jit(jax.grad(lambda p: learner.loss(p, alone, jax.random.key(1))[0]))(params)
    assert all(np.abs(x[1]).max() == 0 for x in jax.tree.leaves(slope))
    assert any(np.abs(x[0]).max() > 0 for x in jax.tree.leaves(slope))


def test_a_constant_label_and_a_missing_column_get_one_line():
    table = rating_log(num_users=30, num_items=20)
    with pytest.raises(UserError, match="no item column 'mood' of labels; it has genre"):
        arms.carried(table, "mood")
    has = arms.carried(table, "genre")
    assert (has.sum(axis=1) == 1).all()
    rows = Examples(jnp.zeros((3, 25), int), jnp.full((3, 25), 5.0), jnp.ones((3, 25)))
    found = arms.People(rows, {}, {"has": jnp.asarray(has)})
    name = [f"genre {i + 1}" for i in range(8)]
    with pytest.raises(UserError, match=r"is constant: (liked by all|known of none)"):
        arms.checked(RULE, found, name)


def test_permuted_labels_are_the_same_labels_of_other_people():
    rng = np.random.default_rng(0)
    rows = Examples(
        rng.integers(0, 4, (6, 25)), rng.integers(1, 6, (6, 25)) * 1.0, np.ones((6, 25))
    )
    columns = {"bias": jnp.zeros(4), "factor": jnp.eye(4, 3), "has": HAS}
    data = arms.People(jax.tree.map(jnp.asarray, rows), {}, columns)
    plain, dealt = (
        jax.jit(arms.sampler(RULE, 16, deal))(data, jax.random.key(0)) for deal in (False, True)
    )
    np.testing.assert_array_equal(plain.query.label.sum(axis=0), dealt.query.label.sum(axis=0))
    assert (plain.query.label != dealt.query.label).any()


@pytest.mark.usefixtures("few_draws")
@pytest.mark.slow
def test_the_stored_record_prints_its_tables_and_draws(tmp_path, capsys):
    config = experiment.Config(output=Output(from_records=True, out=tmp_path))
    if not records.path_of(report.name_of(config)).is_file():
        pytest.skip("no record of multi_label is stored")
    experiment.main(dataclasses.replace(config))
    assert report.EACH in capsys.readouterr().out
    assert (tmp_path / "ap.png").is_file() and (tmp_path / "micro-f1.png").is_file()
