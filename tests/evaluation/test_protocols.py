"""Protocols: what they say of lists that can be judged by hand, and their published quirks."""

import ast
import dataclasses
import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from proper import assert_proper

from experiments.field import protocols as reproduced
from metajax.benchmark import splits
from metajax.data import split
from metajax.data.sources import named
from metajax.data.worlds import latent
from metajax.evaluation import protocols
from metajax.results import records
from metajax.types import Examples, MetaLearner


def queries(labels, mask=None) -> Examples:
    """Query rows (T, Q) of the given labels."""
    label = jnp.atleast_2d(jnp.asarray(labels, jnp.float32))
    mask = jnp.ones_like(label) if mask is None else jnp.asarray(mask, jnp.float32)
    return Examples(jnp.zeros(label.shape, jnp.int32), label, mask)


def judged(protocol: protocols.Protocol, scores, query: Examples, seed: int = 0):
    return jax.jit(protocol.judge)(
        jnp.atleast_2d(jnp.asarray(scores, jnp.float32)), query, jax.random.key(seed)
    )


STARS = [5, 5, 5, 4, 4, 4, 3, 3, 2, 1]


def test_ratings_the_five_highest_are_to_be_found():
    # Best five by score: rows 0, 1, 2, 6, 7. Of the five highest-rated, 0, 1, 2 and two of 3, 4, 5,
    # three are found whichever two it is.
    scores = [10, 9, 8, 1, 2, 3, 7, 6, 5, 4]
    found = judged(protocols.metarec_rating(), scores, queries(STARS))
    assert found["precision@5"][0] == pytest.approx(3 / 5)
    assert found["recall@5"][0] == pytest.approx(3 / 5)
    assert found["hit@5"][0] == 1 and found["mrr@5"][0] == 1
    ideal = sum(1 / np.log2(i + 2) for i in range(5))
    assert found["ndcg@5"][0] == pytest.approx(sum(1 / np.log2(i + 2) for i in range(3)) / ideal)


def test_a_constant_scorer_gets_chance_and_the_quirk_makes_it_look_informed():
    num = 4000
    rng = np.random.default_rng(0)
    query = queries(rng.integers(1, 6, (num, 10)))
    zeros = np.zeros((num, 10))
    # chance: 5 of 10 drawn, precision 1/2; hit 1 - C(5,5)/C(10,5) = 251/252
    honest = judged(protocols.metarec_rating(), zeros, query)
    error = 0.1667 / np.sqrt(num)  # sd of a hypergeometric share, sqrt(5/36)/sqrt(5)
    assert abs(honest["precision@5"].mean() - 0.5) < 4 * error
    assert abs(honest["hit@5"].mean() - 251 / 252) < 4 * np.sqrt(1 / 252 / num)
    legacy = judged(protocols.metarec_rating(legacy=True), zeros, query)
    # ties by row put rows 0..4 on top of the scores, and of equal labels the first rows
    expected = np.mean(
        [
            np.isin(np.argsort(-row, kind="stable")[:5], range(5)).mean()
            for row in np.asarray(query.label)
        ]
    )
    assert legacy["precision@5"].mean() == pytest.approx(expected, abs=1e-6)
    assert expected > 0.5 + 10 * error


def test_clicks_are_ratings_above_the_middle_of_the_scale():
    table = latent.rating_log(num_users=60, num_items=100)
    clicks = protocols.clicks(table)
    np.testing.assert_array_equal(clicks.label, table.label >= 4)
    assert clicks.scale == (0.0, 1.0)


@pytest.mark.parametrize("first", [1.0, 5.0])
def test_the_published_polarity_depends_on_the_first_row(first):
    table = latent.rating_log(num_users=60, num_items=100)
    table.label[0] = first
    legacy = protocols.clicks_by_first_row(table).label
    honest = protocols.clicks(table).label
    np.testing.assert_array_equal(legacy, honest if first == 1.0 else 1 - honest)


def test_a_user_without_a_click_has_no_value_and_counts_zero_in_the_published_code():
    lists = [[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0] * 10, [1] * 10]
    scores = np.tile(np.arange(10, 0, -1), (3, 1))
    honest = judged(protocols.metarec_click(), scores, queries(lists))
    np.testing.assert_allclose(honest["precision@5"], [0.2, np.nan, 1.0], rtol=1e-6)
    legacy = judged(protocols.metarec_click(legacy=True), scores, queries(lists))
    # the smallest label is subtracted: of a list full of clicks nothing is left
    np.testing.assert_allclose(legacy["precision@5"], [0.2, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(legacy["hit@5"], [1.0, 0.0, 0.0])


def test_melu_metrics_by_hand():
    found = judged(protocols.melu(), [3.0, 2.0, 1.0], queries([4.0, 5.0, 1.0]))
    assert found["mae"][0] == pytest.approx((1 + 3 + 0) / 3)
    assert found["mse"][0] == pytest.approx((1 + 9) / 3, rel=1e-5)
    assert found["ndcg@1"][0] == pytest.approx(15 / 31)
    log = np.log2([2, 3, 4])
    ideal = np.sum(np.array([31, 15, 1]) / log)
    assert found["ndcg@3"][0] == pytest.approx(
        np.sum(np.array([15, 31, 1]) / log) / ideal, rel=1e-5
    )


def test_only_the_published_melu_tests_on_training_rows():
    table = latent.rating_log(num_users=300)
    honest, legacy = (protocols.melu(legacy=flag).split(table, 0) for flag in (False, True))
    assert honest.valid and not legacy.valid

    def known(made: split.Split) -> float:
        warm = made.test["warm"]
        pair = lambda u, i: u.astype(np.int64) * table.num_items + i
        trained = pair(table.user[made.train_rows], table.item[made.train_rows])
        mine = pair(np.repeat(warm.owner, warm.length), warm.other)
        is_query = np.arange(len(mine)) - np.repeat(warm.start, warm.length) >= np.repeat(
            warm.length - 10, warm.length
        )
        return float(np.isin(mine[is_query], trained).mean())

    assert known(honest) == 0.0 and known(legacy) == 1.0


def by_counting(score, label, k):
    """P and AP at k with labels matched by value, by taking labels out of a list one at a time."""
    ranked = [label[i] for i in np.argsort(-np.asarray(score), kind="stable")[:k]]
    left, hits, total = sorted(label, reverse=True)[:k], 0, 0.0
    for position, value in enumerate(ranked, start=1):
        if value in left:
            left.remove(value)
            hits += 1
            total += hits / position
    return hits / k, total / k


def test_matching_by_value_equals_counting_by_hand():
    rng = np.random.default_rng(1)
    matched = jax.jit(protocols.matched_values, static_argnums=3)
    for _, k in itertools.product(range(20), (1, 3, 5)):
        label, score = rng.integers(1, 5, 8).astype(float), rng.random(8)
        p, ap = matched(jnp.asarray(score), jnp.asarray(label), jnp.ones(8), k)
        assert (float(p), float(ap)) == pytest.approx(by_counting(score, list(label), k))


def test_matching_by_value_is_perfect_where_the_list_has_k_rows():
    label = jnp.array([1.0, 0.0, 0.0, 0.0, 0.0])
    worst = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0])
    found = judged(protocols.tanp(0.5, legacy=True, ks=(5,)), worst, queries(label))
    assert found["precision@5"][0] == 1.0
    honest = judged(protocols.tanp(0.5, ks=(5,)), worst, queries(label))
    assert honest["precision@5"][0] == pytest.approx(0.2)
    assert honest["map@5"][0] == pytest.approx(0.2)


def test_ragged_queries_have_equal_weight_and_padding_is_invisible():
    label = [[1, 0, 1, 0], [1, 1, 0, 0]]
    mask = [[1, 1, 1, 1], [1, 1, 1, 0]]
    scores = [[4, 3, 2, 1], [1, 2, 3, 9]]
    found = judged(protocols.tanp(0.5, ks=(2,)), scores, queries(label, mask))
    np.testing.assert_allclose(found["precision@2"], [0.5, 0.5])
    other = judged(
        protocols.tanp(0.5, ks=(2,)), scores, queries([[1, 0, 1, 0], [1, 1, 0, 1]], mask)
    )
    for metric, values in found.items():
        np.testing.assert_array_equal(values, other[metric])


def test_warm_up_is_judged_over_all_rows():
    # scores and labels of two items; pairs (click, no click): .9>.8 .9>.1 .4<.8 .4>.1 -> 3 of 4
    scores, label = [[0.9, 0.8], [0.4, 0.1]], [[1, 0], [1, 0]]
    found = judged(protocols.ctr_warmup(), scores, queries(label))
    assert found["auc"].tolist() == [0.75]
    # yes above 1/2: .9 (right), .8 (wrong): f1 = 2 / (2 + 2)
    assert found["f1"].tolist() == pytest.approx([0.5])
    # yes above the mean .55: the same rows here; with one more row of score .05 the mean is .45
    more = queries([[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [1, 1, 0]])
    with_row = [[0.9, 0.8, 0.05], [0.48, 0.1, 9.0]]
    legacy = judged(protocols.ctr_warmup(legacy=True), with_row, more)
    assert legacy["f1"].tolist() == pytest.approx(
        [2 * 2 / (3 + 2)]
    )  # mean .466: .9, .8, .48 are in
    honest = judged(protocols.ctr_warmup(), with_row, more)
    assert honest["f1"].tolist() == pytest.approx([2 * 1 / (2 + 2)])


def test_names_say_which_is_which():
    made = [f(legacy) for f in (protocols.metarec_rating, protocols.metarec_click, protocols.melu,
                                protocols.ctr_warmup) for legacy in (False, True)]  # fmt: skip
    made += [protocols.tanp(0.5), protocols.tanp(0.5, legacy=True)]
    names = [p.name for p in made]
    assert len(set(names)) == 10
    assert all(p.name.endswith("-legacy") == p.legacy for p in made)


def record_of(scores: np.ndarray, drawing: np.ndarray | None = None) -> records.Record:
    found = {
        records.Key("s", "a", "all", "mae"): scores,
        records.Key("s", "a", "all", "hit@5"): scores,
        records.Key("s", "a", "all", "ndcg@5"): scores,
    }
    if drawing is not None:
        found[records.Key("s", "a", "all", f"{reproduced.DRAW}")] = drawing
    return records.Record("protocols", (), found)


def test_the_distance_to_another_program_is_in_standard_errors():
    # split means .5 and .7: variance .02; errors over 2 of ours and 4 of theirs, and rounding
    scores = np.array([[0.4, 0.6], [0.6, 0.8]])
    mean, z = reproduced.compare(record_of(scores), ("s", "a", "ndcg@5"), 0.5, 4)
    assert mean == pytest.approx(0.6)
    assert z == pytest.approx(0.1 / np.sqrt(0.02 / 2 + 0.02 / 4 + 1e-6 / 12))
    # a hit rate without any spread between splits is still a proportion of 2 users
    hits = np.ones((2, 2))
    _, z = reproduced.compare(record_of(hits), ("s", "a", "hit@5"), 0.9, 2)
    assert z == pytest.approx(0.1 / np.sqrt(0.95 * 0.05 / 2 + 1e-6 / 12))
    # absolute errors: drawing the query rows gives (.3 + .5) / 2 / 2 users = .2
    drawing = np.array([[0.3, 0.5], [0.3, 0.5]])
    _, z = reproduced.compare(record_of(scores, drawing), ("s", "a", "mae"), 0.5, 2)
    assert z == pytest.approx(0.1 / np.sqrt(0.2 + 1e-6 / 12))


def test_the_damped_item_mean_by_hand():
    table = latent.rating_log(num_users=60, num_items=100)
    two = np.flatnonzero(table.item == table.item[0])[:2]
    other = np.flatnonzero(table.item != table.item[0])[:1]
    bias, mean = reproduced.damped_item_mean(table, np.r_[two, other], damping=5.0)
    a, b, c = (float(x) for x in table.label[np.r_[two, other]])
    assert mean == pytest.approx((a + b + c) / 3)
    assert bias[table.item[0]] == pytest.approx((a + b - 2 * mean) / 7)
    assert np.count_nonzero(bias) <= 2


def test_the_stored_rows_agree_with_the_independent_program():
    record = records.stored("protocols")
    outside = reproduced.show(record)
    assert outside <= 6  # of 75: 3.4 are expected by chance, more than 6 with probability 5 %


def test_real_rows_of_ml_100k(data_dir):
    table = named.load("ml-100k", data_dir)
    record = records.Record("protocols", (), reproduced.metarec(table, 8))
    for scenario in ("ml-100k rating", "ml-100k click"):
        for arm, expected in reproduced.METAREC[scenario].items():
            _, z = reproduced.compare(
                record, (scenario, arm, "precision@5"), expected.values[0], expected.num_splits
            )
            assert abs(z) < 3, (scenario, arm)
    rated = {k: v for k, v in record.scores.items() if k.scenario == "ml-100k rating"}
    assert_proper(records.Record("protocols", (), rated), "all")
    guess, mean = (
        np.mean(rated[records.Key("ml-100k rating", arm, "all", "log_loss")])
        for arm in (reproduced.RANDOM, reproduced.ITEM_MEAN)
    )
    assert mean < guess, "who knows the items predicts their ratings better than who does not"


def test_every_row_of_melu_has_squared_errors_and_ndcg_beside_its_absolute_errors():
    found = reproduced.melu(latent.rating_log(num_users=150, num_items=60), 1)
    rows = [key for key in found if key.metric == "mae"]
    assert {key.arm for key in rows} == {*reproduced.MELU}
    for key in rows:
        squared, ndcg = (found[key._replace(metric=m)] for m in ("mse", "ndcg@5"))
        assert squared.shape == found[key].shape == ndcg.shape
        assert (squared >= found[key] ** 2 - 1e-5).all() and ((ndcg > 0) & (ndcg <= 1.001)).all()


CLASSES = ("Config", "Stored", "Output", "SplitOptions", "Training")


def settings_of(tree: ast.Module) -> list[str]:
    """The fields of every class of settings (`Config` and its parts) in a file."""
    return [
        field.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name in CLASSES
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if not re.search("ClassVar|KW_ONLY", ast.unparse(field.annotation))
    ]


def unread(sources_: dict[str, str]) -> list[str]:
    """The settings that no file reads as an attribute."""
    trees, read = [], set()
    for text in sources_.values():
        tree = ast.parse(text)
        read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if any(f"class {name}" in text for name in CLASSES):
            trees.append(tree)
    read |= {"preset"}  # the command line reads it by name, and so do the rules of protocols
    read |= {name for rule in splits.RULES.values() for name in rule.options}
    return [name for tree in trees for name in settings_of(tree) if name not in read]


def test_every_option_is_read_by_something():
    root = pathlib.Path(protocols.__file__).parents[2]
    files = [*root.glob("experiments/**/*.py"), *root.glob("metajax/**/*.py")]
    assert unread({str(f): f.read_text() for f in files}) == []


def test_an_option_that_nothing_reads_is_found():
    dead = "class Config:\n    rate: float = 0.1\n    width: int = 3\n\nuse = lambda c: c.width\n"
    assert unread({"dead": dead}) == ["rate"]


def mean_of_support() -> MetaLearner:
    """A learner that scores the mean support label, 0.25 before any."""
    add = lambda x, m: jnp.stack([jnp.sum(x * m), jnp.sum(m)])
    mean = lambda s: jnp.where(s[1] > 0, s[0] / jnp.maximum(s[1], 1), 0.25)
    return MetaLearner(
        init=lambda key, episode: {},
        start=lambda params, profile: jnp.zeros(2),
        adapt=lambda params, state, examples, key: state + add(examples.label, examples.mask),
        predict=lambda params, state, inputs: jnp.full(inputs["item"].shape, mean(state)),
        loss=lambda params, episode, key: (jnp.zeros(()), {}),
    )


def test_a_learner_is_run_through_the_phases_of_warm_up():
    # Items 1 and 2 are cold with phases of one row each; the mean click rate tells them apart.
    clicks = [[5, 5, 5, 5, 5], [1, 1, 1, 5, 1]]
    item = np.repeat([0, 1, 2], [9, 5, 5]).astype(np.int32)
    label = np.r_[np.ones(9), *clicks].astype(np.float32)
    order = np.arange(19)
    table = dataclasses.replace(
        latent.rating_log(num_users=60, num_items=100),
        user=order.astype(np.int32),
        item=item,
        label=label,
        time=order.astype(np.int64),
    )
    protocol = protocols.ctr_warmup(legacy=True, hot=8, per_phase=1)
    table = protocol.prepare(table)
    made = protocol.split(table, 0)
    found = protocols.run(protocol, mean_of_support(), {}, table, made, jax.random.key(0))
    # test rows: item 1 clicks 1, 1; item 2 clicks 1, 0. Cold, all scores are equal: AUC 1/2. From
    # one shot on, item 1 scores 1 and item 2 scores 0: pairs 1>0, 1>0 and the tie: 2.5 of 3.
    np.testing.assert_allclose(
        found["item_cold"]["auc"][:, 0], [0.5, 2.5 / 3, 2.5 / 3, 2.5 / 3], rtol=1e-6
    )


def test_a_learner_is_run_through_the_four_quadrants():
    table = latent.rating_log(num_users=300)
    protocol = protocols.melu()
    made = protocol.split(table, 0)
    found = protocols.run(protocol, mean_of_support(), {}, table, made, jax.random.key(0))
    assert found.keys() == set(split.SCENARIOS)
    for scenario, tasks in made.test.items():
        t = tasks.num_tasks - 1
        rows = tasks.label[tasks.start[t] : tasks.start[t] + tasks.length[t]]
        expected = np.abs(rows[-10:] - rows[:-10].mean()).mean()
        assert found[scenario]["mae"].shape == (1, tasks.num_tasks)
        assert float(found[scenario]["mae"][0, t]) == pytest.approx(expected, rel=1e-5)
