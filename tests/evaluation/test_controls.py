"""Controls, curves, streams, groups and full rankings, on learners whose answers are known."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data import episodes, split
from metajax.data.episodes import Source
from metajax.evaluation import catalogue as ranking
from metajax.evaluation import evaluate, judge
from metajax.learners.closed_form import ridge
from metajax.learners.pooled import pooled
from metajax.models import towers
from metajax.results import intervals, records
from metajax.types import Episode, Examples, MetaLearner, Model

DIM, NUM_ITEMS, NUM_USERS, SUPPORT, QUERY = 4, 60, 80, 12, 8


@functools.cache
def world() -> tuple[Source, Episode]:
    """Users with latent tastes over 60 items: 12 support and 8 query rows each, different items."""
    rng = np.random.default_rng(0)
    vector = rng.normal(size=(NUM_ITEMS, DIM)) / np.sqrt(DIM)
    taste = rng.normal(size=(NUM_USERS, DIM)) * 2
    item = np.stack([rng.permutation(NUM_ITEMS)[: SUPPORT + QUERY] for _ in range(NUM_USERS)])
    label = 3 + np.einsum("tnd,td->tn", vector[item], taste) + 0.2 * rng.normal(size=item.shape)
    n = np.full(NUM_USERS, SUPPORT + QUERY, np.int32)
    owner = np.arange(NUM_USERS, dtype=np.int32)
    tasks = split.Tasks(
        owner, (owner * n).astype(np.int32), n, item.ravel().astype(np.int32), label.ravel()
    )
    source = Source(tasks, {}, {"factor": jax.device_put(vector)})
    return source, jax.device_put(episodes.fixed(tasks, QUERY))


def three() -> Model:
    """The score 3 for everything."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, x: 3.0 + 0.0 * x["item"])


def fold_in() -> MetaLearner:
    """Ridge over the true item vectors: it learns the user's taste from the support."""
    return ridge(towers.column("factor"), three(), DIM, precision=0.05)


def params_of(learner: MetaLearner):
    source, tasks = world()
    first = jax.tree.map(lambda x: np.asarray(x)[0], tasks)
    begun = lambda task, source: learner.init(jax.random.key(0), episodes.fetch(task, source))
    return jax.jit(begun)(first, source)


@functools.cache
def predicts(learner: MetaLearner) -> Callable:
    """The program that predicts tasks of the world."""
    fetch = episodes.fetch_from(world()[0])
    return jax.jit(
        lambda params, tasks: evaluate.predictions(
            learner, params, tasks, jax.random.key(9), fetch=fetch
        )
    )


@functools.cache
def controlled(build, metrics=evaluate.rating_metrics, trained=None) -> dict[str, np.ndarray]:
    """The scores (1, T) of a learner by condition, in the judge's one program."""
    learner, (source, tasks) = build(), world()
    params = params_of(learner)
    if trained is not None:
        params = jax.tree.map(lambda x: np.full_like(x, trained), params)
    arms = {"x": (learner, jax.tree.map(lambda x: np.asarray(x)[None], params))}
    found = judge.judge(arms, {"s": tasks}, fetch=episodes.fetch, source=source, metrics=metrics)
    return {key.condition: values for key, values in found.items() if key.metric == "mae"}


def gaps_of(scores: dict[str, np.ndarray]) -> dict[str, intervals.Interval]:
    """What each control costs."""
    controls = (records.N0, records.N1, records.N2, records.N3)
    return {name: records.difference(scores[name], scores[records.ALL]) for name in controls}


def test_a_mixture_is_made_of_the_scores_that_the_judge_has():
    source, tasks = world()
    calls = []

    def constant(value: float) -> judge.Scorer:
        def scores(source: Source, tasks: Episode, key: jax.Array) -> np.ndarray:
            calls.append(value)
            return np.full((1, *tasks.query.label.shape), value, np.float32)

        return scores

    scorers = {"two": constant(2.0), "five": constant(5.0)}
    mean = judge.Mixture(scorers, lambda source, tasks, each: np.mean(each, axis=0))
    options = {"fetch": episodes.fetch, "source": source}
    together = judge.judge({**scorers, "mean": mean}, {"s": tasks}, **options)
    assert calls.count(2.0) == calls.count(5.0) == len(calls) / 2
    once = len(calls)
    alone = judge.judge({"mean": mean}, {"s": tasks}, **options)
    assert len(calls) == 2 * once, "without the others it asks for their scores"
    error = np.abs(np.asarray(tasks.query.label) - 3.5).mean(axis=1)
    for key in alone:
        np.testing.assert_array_equal(together[key], alone[key])
    np.testing.assert_allclose(alone[records.Key("s", "mean", "all", "mae")][0], error, rtol=1e-5)


def test_controls_tell_a_learner_that_adapts():
    gaps = gaps_of(controlled(fold_in))
    for name in (records.N0, records.N1, records.N2):
        assert gaps[name].low > 0.2, name
    # its prior is all it has, and the prior is not random
    assert gaps[records.N3].mean == pytest.approx(0.0, abs=1e-6)


def test_controls_find_no_adaptation_in_a_learner_without():
    for name, gap in gaps_of(controlled(constant)).items():
        assert gap.mean == 0.0 == gap.low == gap.high, name


def constant() -> MetaLearner:
    return pooled(three())


def test_zero_steps_are_the_cold_start():
    _, tasks = world()
    expected = np.abs(np.asarray(tasks.query.label) - 3.0).mean(axis=1)
    np.testing.assert_allclose(controlled(fold_in)[records.N0][0], expected, rtol=1e-5)


def prior_of_three() -> MetaLearner:
    """A learner whose parameter is the score itself: 3 once trained, anything at first."""
    guess = Model(
        lambda key, profile, inputs: {"score": 10.0 * jax.random.normal(key)},
        lambda params, profile, x: params["score"] + 0.0 * x["item"],
    )
    return pooled(guess)


def test_random_initialization_costs_a_learner_that_knows_something():
    gaps = gaps_of(controlled(prior_of_three, trained=3.0))
    assert gaps[records.N3].low > 0
    assert gaps[records.N1].mean == gaps[records.N2].mean == 0.0


def test_the_judge_has_every_scenario_condition_and_metric_asked_for():
    """Two scenarios of unlike widths, a curve for one of them, controls in one metric alone."""
    learner, (source, tasks) = fold_in(), world()
    params = jax.tree.map(lambda x: np.stack([x, x]), params_of(learner))
    short = jax.tree.map(lambda x: x[:10, :5] if x.ndim > 1 else x[:10], tasks)
    scenarios = {"new": tasks, "old": short}
    options = {"fetch": episodes.fetch, "source": source, "curves": ["old"], "main": "mae"}
    found = judge.judge({"x": (learner, params)}, scenarios, **options)
    both = {"all", "shuffled", "no support", "another's support", "untrained"}
    of = lambda scenario, metric: {k[2] for k in found if (k[0], k[3]) == (scenario, metric)}
    assert of("new", "mae") == both and of("old", "mae") == both | {"k=0", "k=1", "k=3"}
    assert of("new", "mse") == {"all", "shuffled"}
    assert found["old", "x", "all", "mae"].shape == (2, 10)
    alone = judge.judge({"x": (learner, params)}, {"old": short}, **options)
    for key, values in alone.items():
        if key.metric == "mae" and key.condition not in ("shuffled", "another's support"):
            np.testing.assert_allclose(values, found[key], rtol=2e-4, err_msg=str(key))
    cold = found["old", "x", "k=0", "mae"]
    np.testing.assert_array_equal(cold, found["old", "x", "no support", "mae"])
    direct = np.asarray(predicts(learner)(params_of(learner), tasks))
    expected = np.abs(direct - np.asarray(tasks.query.label)).mean(axis=1)
    np.testing.assert_allclose(found["new", "x", "all", "mae"][0], expected, rtol=1e-4)


def test_every_adaptation_is_measured_in_turn():
    """The mean of the labels seen: 0 before any, then the support's mean, however often read."""
    support = Examples({"item": np.zeros((2, 2))}, np.array([[2.0, 4.0], [5.0, 0.0]]), None)
    support = support._replace(mask=np.array([[1.0, 1.0], [1.0, 0.0]]))
    tasks = Episode((), support, support)
    score = lambda state, episode: state[0] / jnp.maximum(state[1], 1)
    found = evaluate.while_adapting(running_mean(), {}, tasks, jax.random.key(0), score, 2)
    np.testing.assert_allclose(found, [[0.0, 3.0, 3.0], [0.0, 5.0, 5.0]])


def test_tasks_may_be_keys_that_episodes_are_drawn_from():
    keys = jax.random.split(jax.random.key(4), 3)

    def drawn(key):
        label = jax.random.normal(key, (4,))
        examples = Examples({"item": jnp.zeros(4)}, label, jnp.ones(4))
        return Episode((), examples, examples)

    scores = evaluate.predictions(running_mean(), {}, keys, jax.random.key(0), fetch=drawn)
    expected = [float(jax.random.normal(key, (4,)).mean()) for key in keys]
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-5)


def test_nobody_keeps_their_own_support():
    _, tasks = world()
    others_support = jax.jit(judge.others_support)
    for seed in range(5):
        donated = others_support(jax.random.key(seed), tasks)
        own = np.asarray(tasks.support.inputs)
        given = np.asarray(donated.support.inputs)
        assert not (own == given).all(axis=1).any()
        np.testing.assert_array_equal(np.sort(own, axis=0), np.sort(given, axis=0))
        np.testing.assert_array_equal(tasks.query.label, donated.query.label)


def test_the_curve_is_judging_with_the_support_cut():
    learner, (source, tasks) = fold_in(), world()
    params = params_of(learner)
    fetch, key = episodes.fetch_from(source), jax.random.key(0)
    curve = jax.jit(lambda t: evaluate.k_shot(learner, params, t, key, (0, 5, 12), fetch=fetch))(
        tasks
    )
    for k, found in zip((0, 5, 12), curve["mae"], strict=True):
        mask = np.asarray(tasks.support.mask) * (np.arange(SUPPORT) < k)[None, :]
        cut = tasks.support._replace(mask=mask)
        scores = np.asarray(predicts(learner)(params, tasks._replace(support=cut)))
        expected = np.abs(scores - np.asarray(tasks.query.label)).mean(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert curve["mae"][2].mean() < curve["mae"][1].mean() < curve["mae"][0].mean()


def running_mean() -> MetaLearner:
    """A learner that scores the mean of all labels seen, 0 before any."""

    def adapt(params, state, examples: Examples, key):
        return state + jnp.stack([jnp.sum(examples.label * examples.mask), jnp.sum(examples.mask)])

    return MetaLearner(
        init=lambda key, episode: {},
        start=lambda params, profile: jnp.zeros(2),
        adapt=adapt,
        predict=lambda params, state, inputs: jnp.full(
            inputs["item"].shape, state[0] / jnp.maximum(state[1], 1)
        ),
        loss=lambda params, episode, key: (jnp.zeros(()), {}),
    )


def test_a_stream_is_predicted_before_it_is_learned_from():
    tasks = Episode(
        jnp.arange(2),
        Examples(jnp.zeros((2, 1), int), jnp.array([[6.0], [0.0]]), jnp.array([[1.0], [0.0]])),
        Examples(
            jnp.zeros((2, 3), int),
            jnp.array([[2.0, 4.0, 8.0], [1.0, 3.0, 99.0]]),
            jnp.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
        ),
    )
    source = Source(split.Tasks(*[np.zeros(1)] * 5), {}, {})
    fetch = episodes.fetch_from(source)
    scores = evaluate.prequential(running_mean(), {}, tasks, jax.random.key(0), fetch=fetch)
    # task 0: 6, then (6+2)/2, then (6+2+4)/3; task 1 has no support: 0, then 1, then (1+3)/2
    np.testing.assert_allclose(scores, [[6.0, 4.0, 4.0], [0.0, 1.0, 2.0]])


def scores_of(table: np.ndarray) -> MetaLearner:
    """A learner whose score of an item is stored: it learns nothing."""
    fixed = jnp.asarray(table, jnp.float32)
    return MetaLearner(
        init=lambda key, episode: {},
        start=lambda params, profile: (),
        adapt=lambda params, state, examples, key: state,
        predict=lambda params, state, inputs: fixed[inputs["item"]],
        loss=lambda params, episode, key: (jnp.zeros(()), {}),
    )


def one_task(support, query, label) -> Episode:
    row = lambda x, kind: np.asarray([x], kind)
    ones = lambda x: np.ones((1, len(x)))
    return Episode(
        np.zeros(1, int),
        Examples(row(support, int), np.zeros((1, len(support))), ones(support)),
        Examples(row(query, int), row(label, float), ones(query)),
    )


def rank(table, task: Episode, candidates, **options):
    source = Source(split.Tasks(*[np.zeros(1)] * 5), {}, {})
    learner = scores_of(table)
    return ranking.full(learner, {}, source, task, jax.random.key(0), candidates, **options)


def test_the_full_catalogue_without_the_support():
    # scores fall with the item number; item 0 is in the support; 2 and 4 are relevant, 1 is not
    table = np.arange(6)[::-1]
    task = one_task([0], [2, 4, 1], [1.0, 1.0, 0.0])
    found = rank(table, task, np.arange(6), k=2)
    # the list is 1, 2: one hit at position 2 of 2 relevant
    assert found["recall@2"][0] == 0.5 and found["mrr@2"][0] == 0.5 and found["hit@2"][0] == 1
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg@2"][0] == pytest.approx(1 / np.log2(3) / ideal)
    back = rank(table, task, np.arange(6), k=2, repeats=True)
    assert back["hit@2"][0] == 0.0  # the list is 0, 1


def test_cold_items_are_ranked_among_themselves():
    table = np.arange(6)[::-1]
    task = one_task([0], [4, 2], [1.0, 1.0])
    found = rank(table, task, np.array([5, 3, 4]), k=1)
    assert found["hit@1"][0] == 0.0  # 3 stands first; 2 is no candidate
    assert rank(table, task, np.array([5, 3, 4]), k=2)["recall@2"][0] == 1.0
    nothing = rank(table, one_task([0], [2], [1.0]), np.array([5, 3, 4]), k=2)
    assert np.isnan(nothing["recall@2"][0])


def test_a_constant_scorer_gets_chance_in_the_full_catalogue():
    num, catalogue, k = 400, 50, 10
    rng = np.random.default_rng(0)
    item = np.stack([rng.permutation(catalogue)[:6] for _ in range(num)])
    ones = lambda n: np.ones((num, n))
    tasks = Episode(
        np.zeros(num, int),
        Examples(item[:, :4], ones(4), ones(4)),
        Examples(item[:, 4:], ones(2), ones(2)),
    )
    found = rank(np.zeros(catalogue), tasks, np.arange(catalogue), k=k)
    chance = k / (catalogue - 4)
    assert abs(float(found["recall@10"].mean()) - chance) < 4 * np.sqrt(chance / (2 * num))
