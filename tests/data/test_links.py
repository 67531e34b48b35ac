"""Friends and paths: columns by hand, PAML's and MetaHIN's equations by hand, their controls."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp
from compiled import compiled
from field_rows import FriendlyUsers, LinkedUsers, friendly, named, pathwise

from experiments.methods import metahin as metahin_experiment
from experiments.methods import paml as paml_experiment
from metajax.benchmark import problem
from metajax.data import split
from metajax.data.features import links
from metajax.data.worlds import latent
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.cold_start.metahin import metahin
from metajax.learners.cold_start.paml import attended, paml
from metajax.training import loop
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree, UserError

KEY = jax.random.key(0)
FAST_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def test_links_are_between_users_of_the_table():
    table = latent.rating_log(num_users=20, num_items=30)
    table = dataclasses.replace(table, user_ids=np.arange(20)[::-1] * 10)
    pairs = np.array([[190, 180], [190, 180], [0, 50], [7, 0], [0, 500], [30, 30]])
    found = links.known_links(pairs, table)
    np.testing.assert_array_equal(found, [[0, 1], [19, 14]])


def test_friends_are_the_most_active_of_those_trusted():
    trusts = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [2, 0], [3, 4]])
    found = links.friends(trusts, np.array([3, 5, 9, 5, 0]), num_friends=2)
    np.testing.assert_array_equal(found, [[3, 2], [0, 0], [1, 0], [0, 0], [0, 0]])


def test_shuffled_friends_keep_every_degree():
    found = np.array([[1, 2, 3], [4, 0, 0], [0, 0, 0], [1, 5, 0]], np.int32)
    dealt = links.shuffled(found, 0)
    np.testing.assert_array_equal(dealt > 0, found > 0)
    np.testing.assert_array_equal(np.sort(dealt, axis=None), np.sort(found, axis=None))
    assert (dealt != found).any()


def small_log():
    """Three users, three items of the genres {1}, {2} and {1, 2}; the last row is hidden."""
    table = latent.rating_log(num_users=3, num_items=3)
    genre = np.array([[1, 0], [2, 0], [1, 2]], np.int32)
    return dataclasses.replace(
        table,
        user=np.array([0, 0, 1, 2], np.int32),
        item=np.array([0, 2, 1, 1], np.int32),
        label=np.array([5.0, 3.0, 1.0, 5.0], np.float32),
        item_features=dataclasses.replace(
            table.item_features, columns={"genre": genre}, sizes={"genre": 3}
        ),
    )


def test_taste_by_hand_and_from_the_given_rows_alone():
    """Mean 3: residuals 2 and 0 of user 0, -2 of user 1; damped by 1."""
    told = links.user_statistics(small_log(), np.arange(3), "genre", damping=1.0)
    expected = [
        [np.log(3), 2 / 3, 2 / 3, 0.0],
        [np.log(2), -2 / 2, 0.0, -2 / 2],
        [0.0, 0.0, 0.0, 0.0],
    ]
    np.testing.assert_allclose(told, expected, rtol=1e-6)
    values, known = links.friend_features(np.array([[2, 1], [0, 0], [1, 0]]), told)
    np.testing.assert_array_equal(known, [[1, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(values[0], told[[1, 0]])
    np.testing.assert_array_equal(values[1], np.zeros((2, 4)))


def test_paths_by_hand():
    """Items 0 and 2 share value 1, items 1 and 2 share value 2; item 3 has none."""
    shared = links.same_value(np.array([[1, 0], [2, 0], [1, 2], [0, 0]]), 3)
    expected = np.array([[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(shared.toarray(), expected)
    vectors = np.array([[1.0, 10.0, 100.0, 1000.0], [2.0, 20.0, 200.0, 0.0]])[:, :, None]
    own = sp.csr_matrix(sp.identity(4))
    found = links.path_sums([own, shared], vectors)
    assert found.shape == (2, 4, 2, 2)
    np.testing.assert_array_equal(found[0, :, 0], [[1, 1], [10, 1], [100, 1], [1000, 1]])
    np.testing.assert_array_equal(found[0, :, 1], [[100, 1], [100, 1], [11, 2], [0, 0]])
    np.testing.assert_array_equal(found[1, :, 1, 0], [200, 200, 22, 0])


def test_attention_in_numpy():
    own, matrix = np.array([1.0, -2.0]), np.array([[1.0, 2.0], [0.5, -1.0]])
    codes = np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    logit = np.array([own @ matrix @ c for c in codes[:2]]) / np.sqrt(2)
    share = np.exp(logit) / np.exp(logit).sum()
    attend = jax.jit(attended)
    got = attend(own, codes, np.array([1.0, 1.0, 0.0]), matrix)
    np.testing.assert_allclose(got, share @ codes[:2], rtol=1e-5)
    nobody = attend(own, codes, np.zeros(3), matrix)
    np.testing.assert_array_equal(nobody, np.zeros(2))


X = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]], np.float32)
LABEL = np.array([1.0, 2.0, -1.0], np.float32)
"""Two real rows and one of padding."""
EXAMPLES = Examples(X, LABEL, np.array([1.0, 1.0, 0.0], np.float32))


def summed() -> Model:
    """The score ``w . x``."""
    init = lambda key, profile, inputs: {"w": jnp.array([0.5, -0.5])}
    return Model(init, lambda params, profile, x: x @ params["w"])


def test_paml_in_numpy():
    """Gates from own and friends' codes, then one step of rate .1 on the mean squared error."""
    encode = Model(lambda k, p, x: {}, lambda params, p, x: x[1][:, None] * jnp.ones((1, 2)))
    learner = paml(
        summed(),
        lambda params, profile, inputs: inputs,
        encode,
        lambda profile: profile,
        optax.sgd(0.1),
        1,
        num_code=2,
    )
    learner = compiled(learner)
    profile = (np.array([[0.3, -0.4, 1.0], [9.0, 9.0, 9.0]]), np.array([1.0, 0.0]))
    params = learner.init(KEY, Episode(profile, EXAMPLES, EXAMPLES))
    p = jax.tree.map(np.asarray, params)

    def gated(own: np.ndarray) -> np.ndarray:
        friend = np.tanh(np.array([0.3, -0.4, 1.0]) @ p["friend"]["kernel"])
        logit = np.concatenate([own, friend]) @ p["gate"]["kernel"]
        return np.array([0.5, -0.5]) / (1 + np.exp(-logit))

    cold = learner.start(params, profile)
    np.testing.assert_allclose(learner.predict(params, cold, X), X @ gated(np.zeros(2)), rtol=1e-5)
    w, x, y = gated(np.full(2, 1.5)), X[:2], LABEL[:2]
    w = w - 0.1 * 2 * x.T @ (x @ w - y) / 2
    warm = learner.adapt(params, cold, EXAMPLES, KEY)
    np.testing.assert_allclose(learner.predict(params, warm, X), X @ w, rtol=1e-4, atol=1e-6)


def conditioned() -> Model:
    """The score ``w . [x, code]``."""
    init = lambda key, profile, x: {"w": jnp.array([0.5, -0.5, 1.0])}

    def apply(params: PyTree, profile: tuple, x: jax.Array) -> jax.Array:
        code = jnp.broadcast_to(profile[1], (len(x), 1))
        return jnp.concatenate([x, code], axis=1) @ params["w"]

    return Model(init, apply)


def test_metahin_in_numpy():
    """Both steps along both paths and their fusion, the gradients by finite differences."""
    reach = np.array([[[2.0, 1.0], [0.0, 0.0]], [[4.0, 1.0], [3.0, 2.0]], [[7.0, 9.0], [7.0, 9.0]]])
    inputs = {"x": X, "reach": reach}
    learner = metahin(
        named("x"), named("reach"), conditioned(),
        num_paths=2, num_code=1, path_rate=0.02, task_rate=0.03,
    )  # fmt: skip
    learner, examples = compiled(learner), EXAMPLES._replace(inputs=inputs)
    params = learner.init(KEY, Episode((), examples, examples))
    warm = learner.adapt(params, learner.start(params, ()), examples, KEY)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    x, label = np.asarray(X, np.float64), LABEL[:2]
    omega, gate = p["decide"]["w"], p["gate"]["kernel"][0]

    def user(aggregate: np.ndarray, mean: float) -> float:
        z = mean * aggregate[0] + aggregate[1]
        return max(z, 0.01 * z)

    def error(w: np.ndarray, u: float) -> float:
        return float(np.mean((x[:2] @ w[:2] + u * w[2] - label) ** 2))

    def slope(f, at: np.ndarray) -> np.ndarray:
        h = 1e-6 * np.eye(len(at))
        return np.array([(f(at + d) - f(at - d)) / 2e-6 for d in h])

    users, weights, errors = [], [], []
    for mean in (6 / 2, 3 / 2):
        a = np.array([p["aggregate"]["kernel"][0, 0], 0.0])
        a = a - 0.02 * slope(lambda v, m=mean: error(omega, user(v, m)), a)
        u = user(a, mean)
        w = omega / (1 + np.exp(-u * gate))
        w = w - 0.03 * slope(lambda v, u=u: error(v, u), w)
        users, weights, errors = [*users, u], [*weights, w], [*errors, error(w, u)]
    share = np.exp(-np.array(errors)) / np.exp(-np.array(errors)).sum()
    u, w = share @ users, share @ np.array(weights)
    expected = x @ w[:2] + u * w[2]
    np.testing.assert_allclose(
        learner.predict(params, warm, inputs), expected, rtol=1e-4, atol=1e-5
    )


USERS = LatentUsers(dim=4, num_support=12, num_query=8, random_shots=True, reveals=True)


def dealt_anew(path: str, key: jax.Array, batch: Episode) -> Episode:
    """A batch of tasks, each with the friends, or neighbors, of another one."""
    order = jax.random.permutation(key, batch.query.label.shape[0])
    if path == "friend":
        return batch._replace(profile=jax.tree.map(lambda v: v[order], batch.profile))
    inputs = batch.support.inputs
    inputs = {**inputs, "reach": inputs["reach"][order]}
    return batch._replace(support=batch.support._replace(inputs=inputs))


@functools.cache
def errors_of(path: str, shuffle: bool) -> dict[str, np.ndarray]:
    """Squared errors (2000,) under true and dealt links, of a learner trained on one of them."""
    learner: MetaLearner = friendly() if path == "friend" else pathwise()
    world = FriendlyUsers(USERS) if path == "friend" else LinkedUsers(USERS)
    tx = optax.adam(0.02)
    change = functools.partial(dealt_anew, path)

    def drawn(key: jax.Array, size: int, dealt: bool) -> Episode:
        key_task, key_deal = jax.random.split(key)
        batch = jax.vmap(world.sample)(jax.random.split(key_task, size))
        return change(key_deal, batch) if dealt else batch

    def judge(params: PyTree, episode: Episode) -> jax.Array:
        state = learner.adapt(params, learner.start(params, episode.profile), episode.support, KEY)
        return jnp.mean(
            (learner.predict(params, state, episode.query.inputs) - episode.query.label) ** 2
        )

    def play(key: jax.Array) -> dict[str, jax.Array]:
        key_init, key_train, key_test = jax.random.split(key, 3)
        params = learner.init(key_init, world.sample(key_init))
        state = loop.TrainState(params, tx.init(params), key_train, jnp.zeros((), jnp.int32))
        sample = lambda _, key: drawn(key, 16, shuffle)
        params = loop.steps(loop.recipe(learner, tx), sample, 300)(state, ())[0].params
        score = lambda dealt: jax.vmap(judge, (None, 0))(params, drawn(key_test, 2000, dealt))
        return {"true": score(False), "dealt": score(True)}

    found = jax.jit(play, compiler_options=FAST_TO_COMPILE)(KEY)
    return jax.tree.map(np.asarray, found)


def gap(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The mean of first - second and its standard error."""
    difference = first - second
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["friend", "reach"])
def test_links_help_and_shuffled_ones_do_not(path: str):
    """Control: once trained without information in the links, it is all the same which they are."""
    with_links, without = errors_of(path, False), errors_of(path, True)
    gain, spread = gap(without["dealt"], with_links["true"])
    assert gain > 4 * spread, f"true links gain {gain:.3f} +- {spread:.3f}"
    hurt, spread = gap(with_links["dealt"], with_links["true"])
    assert hurt > 4 * spread, "a learner that relies on links must suffer from wrong ones"
    rest, _ = gap(without["dealt"], without["true"])
    assert abs(rest) < 0.25 * gain, f"links without information still move the error by {rest:.3f}"


@pytest.mark.parametrize("path", ["friend", "reach"])
def test_query_labels_and_the_order_of_query_items_change_no_prediction(path: str):
    learner = friendly() if path == "friend" else pathwise()
    world = FriendlyUsers(USERS) if path == "friend" else LinkedUsers(USERS)
    episode = jax.device_get(jax.jit(world.sample)(jax.random.key(3)))
    params = jax.jit(learner.init)(KEY, episode)

    @jax.jit
    def scores(episode: Episode) -> jax.Array:
        state = learner.adapt(params, learner.start(params, episode.profile), episode.support, KEY)
        return learner.predict(params, state, episode.query.inputs)

    play = lambda episode: np.asarray(scores(episode))
    before, query = play(episode), episode.query
    relabeled = episode._replace(query=query._replace(label=query.label[::-1] + 1.0))
    np.testing.assert_array_equal(play(relabeled), before)
    backwards = jax.tree.map(lambda v: v[::-1], query)
    np.testing.assert_allclose(
        play(episode._replace(query=backwards))[::-1], before, rtol=1e-5, atol=1e-6
    )
    # one query item exchanged for another: the others' scores stay
    other = jax.tree.map(lambda v: np.concatenate([v[1:2] * 3.0, v[1:]]), query.inputs)
    swapped = play(episode._replace(query=query._replace(inputs=other)))
    np.testing.assert_allclose(swapped[1:], before[1:], rtol=1e-5, atol=1e-6)


@functools.cache
def small() -> problem.Problem:
    """Four hundred users and two hundred items."""
    table = latent.rating_log(num_users=400, num_items=200)
    return problem.problem_of(table, split.melu(table, 0), num_support=16)


EXPERIMENTS = {
    "paml": (paml_experiment, {"hidden": (8,), "inner_steps": 1, "embedding": 4, "code": 4}),
    "metahin": (metahin_experiment, {"hidden": (8,), "embedding": 4, "code": 4}),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_experiment_learns_and_its_support_and_links_count(name: str):
    module, settings = EXPERIMENTS[name]
    config = module.Config(**settings)
    prepared = module.prepare(config, small())
    learner, tx = module.build(config, prepared)
    episode, key = jax.device_get(prepared.example), jax.random.key(0)
    episode = episode._replace(support=episode.support._replace(mask=np.ones(16)))
    unlinked = without_links(name, episode)

    def step(key: jax.Array):
        params = learner.init(key, episode)
        grads, _ = jax.grad(learner.loss, has_aux=True)(params, episode, key)
        updates, _ = tx.update(grads, tx.init(params), params)
        return grads, optax.apply_updates(params, updates)

    def play(params, of: Episode):
        cold = learner.start(params, of.profile)
        warm = learner.adapt(params, cold, of.support, key)
        return [learner.predict(params, state, episode.query.inputs) for state in (cold, warm)]

    grads, params = jax.jit(step, compiler_options=FAST_TO_COMPILE)(key)
    play = jax.jit(play, compiler_options=FAST_TO_COMPILE)
    (cold, warm), (_, other) = jax.device_get((play(params, episode), play(params, unlinked)))
    chex.assert_tree_all_finite((grads, cold, warm, other))
    assert np.abs(warm - cold).mean() > 1e-5, "the support does not count"
    assert np.abs(warm - other).mean() > 1e-6, "the links do not count"
    assert np.abs(warm - prepared.mean).max() < 3.0, "far off the scale"


def without_links(name: str, episode: Episode) -> Episode:
    """The episode of a user without friends, or whose items lead nowhere."""
    if name == "paml":
        gone = {k: 0.0 * v for k, v in episode.profile.items() if k.startswith("friend")}
        return episode._replace(profile={**episode.profile, **gone})
    inputs = episode.support.inputs
    inputs = {**inputs, "reach": 0.0 * inputs["reach"]}
    return episode._replace(support=episode.support._replace(inputs=inputs))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_model_beside_it_takes_plain_profiles(name: str):
    module, settings = EXPERIMENTS[name]
    model = module.model(module.Config(**settings), small())
    episode = small().example
    init = jax.eval_shape(model.init, KEY, episode.profile, episode.support.inputs)
    scores = jax.eval_shape(model.apply, init, episode.profile, episode.support.inputs)
    assert scores.shape == episode.support.label.shape


def test_no_judged_rating_enters_what_is_told_of_friends():
    """Other labels in all rows but the training ones leave every friend's column as it is."""
    given, config = small(), paml_experiment.Config()
    rows = given.split.train_rows
    label = np.full_like(given.table.label, 1.0)
    label[rows] = given.table.label[rows]
    altered = dataclasses.replace(given, table=dataclasses.replace(given.table, label=label))
    before = paml_experiment.prepare(config, given).valid[0].profile
    after = paml_experiment.prepare(config, altered).valid[0].profile
    assert before.keys() > given.valid[0].profile.keys()
    chex.assert_trees_all_equal(before, after)
    label[rows] = 6.0 - label[rows]
    moved = paml_experiment.prepare(config, altered).valid[0].profile
    assert (moved["friend"] != before["friend"]).any()


def test_paths_of_a_training_task_see_its_own_block_of_item_vectors():
    given = small()
    prepared = metahin_experiment.prepare(metahin_experiment.Config(), given)
    inputs, num_items = prepared.train.inputs, given.table.num_items
    genre = given.table.item_features.columns["genre"][:, 0]
    block = slice(num_items, 2 * num_items)
    factor, reach = (np.asarray(inputs[k][block]) for k in ("factor", "reach"))
    others = (genre == genre[5]) & (np.arange(num_items) != 5)
    np.testing.assert_allclose(reach[5, 1, :-2], factor[others].sum(axis=0), rtol=1e-3, atol=1e-4)
    assert reach[5, 1, -1] == others.sum()
    np.testing.assert_allclose(reach[5, 0, :-2], factor[5], rtol=1e-6)


def test_a_data_set_without_links_is_told_so():
    table = dataclasses.replace(small().table, name="mine")
    with pytest.raises(UserError, match="who trusts whom, and the log does not tell"):
        paml_experiment.trust(paml_experiment.Config(), table)
    config = metahin_experiment.Config(paths=("actor",))
    with pytest.raises(UserError, match="no item column actor; name some with --paths, of genre"):
        metahin_experiment.columns_of(config, table)
