"""Serving: the exported programs answer as the learner does, without its source."""

import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax import tree
from metajax.adapters.conditions import last_layer
from metajax.learners.closed_form import ridge
from metajax.learners.gradient.maml import gradient
from metajax.models.features import vector_features
from metajax.models.towers import identity, vector_linear
from metajax.serving import service as serve
from metajax.types import Episode, Examples, UserError

pytest.importorskip("flatbuffers", reason="exported programs: pip install metajax[serve]")

D = 3


def examples(n: int, seed: int) -> Examples:
    x = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return Examples(x, x @ np.array([1.0, -2.0, 0.5], np.float32), np.ones(n, np.float32))


EPISODE = Episode((), examples(4, 0), examples(6, 1))
LEARNERS = {
    "ridge": ridge(identity(), vector_linear(), D),
    "last layer": gradient(
        last_layer(vector_features((8,))), optax.sgd(0.1), 2, adapts=tree.under("adapter")
    ),
}


@pytest.fixture(scope="module", params=LEARNERS)
def exported(request, tmp_path_factory):
    learner = LEARNERS[request.param]
    params = compiled(learner).init(jax.random.key(2), EPISODE)
    folder = tmp_path_factory.mktemp("served")
    serve.export(learner, params, EPISODE, folder)
    return learner, params, folder


def test_the_service_answers_as_the_learner_after_each_event(exported):
    learner, params, folder = exported
    learner, service = compiled(learner), serve.Service(folder)
    key = jax.random.key(0)
    state = learner.start(params, ())
    cold = service.scores(42, [EPISODE.query.inputs])
    np.testing.assert_allclose(
        cold, learner.predict(params, state, EPISODE.query.inputs), atol=1e-6
    )
    x, y, _ = EPISODE.support
    for rows in (slice(0, 3), slice(3, 4)):
        missing = len(y) - len(y[rows])
        fill = lambda v, r=rows, n=missing: np.concatenate([v[r], np.zeros_like(v[:n])])
        padded = Examples(*map(fill, EPISODE.support))
        state = learner.adapt(params, state, padded, key)
        service.observe(42, [x[rows]], y[rows])
    warm = service.scores(42, [EPISODE.query.inputs])
    expected = learner.predict(params, state, EPISODE.query.inputs)
    np.testing.assert_allclose(warm, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(warm - cold).max() > 0.1
    np.testing.assert_array_equal(service.scores(7, [EPISODE.query.inputs]), cold)


def test_only_what_is_the_users_own_is_stored(exported):
    learner, _, folder = exported
    service = serve.Service(folder)
    service.observe(1, [np.ones((1, D), np.float32)], np.ones(1))
    kept = sum(x.nbytes for x in service.store.get(1) or [])
    own = {LEARNERS["ridge"]: 4 * (D * D + D), LEARNERS["last layer"]: 4 * (8 + 1)}
    assert kept == own[learner] == service.about["bytes_per_user"]


def test_a_store_survives_a_restart(exported, tmp_path):
    service = serve.Service(exported[2])
    service.observe(5, [np.ones((2, D), np.float32)], np.array([1.0, 2.0]))
    service.store.save(tmp_path / "states.npz")
    again = serve.Service(exported[2], serve.Store.read(tmp_path / "states.npz"))
    query = [EPISODE.query.inputs]
    assert len(again.store) == 1
    np.testing.assert_array_equal(again.scores(5, query), service.scores(5, query))


def test_the_programs_run_without_the_source_of_the_library(exported, tmp_path):
    """In an isolated interpreter that cannot import metajax, flax or optax."""
    _, _, folder = exported
    np.save(tmp_path / "query.npy", EPISODE.query.inputs)
    script = textwrap.dedent("""
        import sys
        for name in ("metajax", "flax", "optax", "chex", "orbax"):
            sys.modules[name] = None
        import jax, jax.export, numpy as np
        folder, query, out = sys.argv[1:]
        read = lambda p: jax.export.deserialize(open(f"{folder}/{p}.stablehlo", "rb").read()).call
        start, adapt, predict = (read(p) for p in ("start", "adapt", "predict"))
        with np.load(f"{folder}/params.npz") as z:
            params = [z[name] for name in sorted(z.files)]
        x = np.load(query)
        state = adapt(params, start(params, []), [x[:4]], x[:4, 0], np.ones(4, np.float32))
        np.save(out, predict(params, state, [x]))
    """)
    arguments = [str(p) for p in (folder, tmp_path / "query.npy", tmp_path / "out.npy")]
    code = [sys.executable, "-P", "-c", script, *arguments]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    service = serve.Service(folder)
    x = EPISODE.query.inputs
    service.observe(3, [x[:4]], x[:4, 0])
    expected = service.scores(3, [x])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5, atol=1e-6)


def test_a_wrong_folder_or_too_many_events_get_one_line(exported, tmp_path):
    with pytest.raises(UserError, match=r"has no about\.json; write it with"):
        serve.Service(tmp_path)
    service = serve.Service(exported[2])
    with pytest.raises(UserError, match="5 events at once, and the program takes 4"):
        service.observe(1, [np.ones((5, D), np.float32)], np.ones(5))
    with pytest.raises(UserError, match="no states at"):
        serve.Store.read(pathlib.Path(tmp_path / "none.npz"))


def test_the_best_items_are_those_of_a_full_sort():
    scores = np.random.default_rng(0).normal(size=50_001).astype(np.float32)
    scores[[17, 49_999]] = 9.0
    found, place = jax.jit(serve.best, static_argnums=1)(scores, 20)
    order = np.argsort(-scores, kind="stable")[:20]
    np.testing.assert_array_equal(place, order)
    np.testing.assert_array_equal(found, scores[order])


@pytest.mark.parametrize(("size", "k"), [(1000, 7), (4321, 40), (90, 90), (250, 120)])
def test_the_best_are_found_wherever_they_lie(size, k):
    find = jax.jit(serve.best, static_argnums=(1, 2))
    for seed in range(3):
        score = np.random.default_rng(seed).normal(size=size).astype(np.float32)
        score[:50] += 3.0 * (seed == 1)  # the best side by side in one block
        np.testing.assert_array_equal(find(score, k, 50)[1], np.argsort(-score)[:k])


def test_a_recommendation_is_the_best_of_the_scores(exported):
    items = EPISODE.query.inputs
    service = serve.Service(exported[2], catalogue=[items])
    service.observe(1, [np.ones((1, D), np.float32)], np.ones(1))
    places, scores = service.recommend(1, 2)
    every = np.asarray(service.scores(1, [items]))
    np.testing.assert_array_equal(places, np.argsort(-every)[:2])
    np.testing.assert_allclose(scores, np.sort(every)[::-1][:2], rtol=1e-5)


ITEMS = EPISODE.query.inputs


def observed(folder) -> serve.Service:
    service = serve.Service(folder, catalogue=[ITEMS])
    service.observe("alice", [np.asarray(ITEMS[:2])], np.array([1.0, 2.0]), items=[0, 1])
    return service


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_label_that_is_no_number_is_refused_and_the_state_stays(exported, bad):
    service = observed(exported[2])
    before = service.recommend("alice", 3)
    with pytest.raises(UserError, match="not a finite number; nothing was learned"):
        service.observe("alice", [np.asarray(ITEMS[:2])], np.array([bad, 1.0]))
    for one, other in zip(before, service.recommend("alice", 3), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="new state of user 'alice' is not finite"):
        service.observe("alice", [np.full((1, D), np.nan, np.float32)], np.ones(1))
    np.testing.assert_array_equal(before[0], service.recommend("alice", 3)[0])


def test_more_than_the_catalogue_is_all_of_it_and_what_was_met_is_left_out(exported):
    service = observed(exported[2])
    assert sorted(service.recommend("alice", 99)[0]) == [2, 3, 4, 5]
    assert sorted(service.recommend("bob", 99)[0]) == [0, 1, 2, 3, 4, 5]


def test_users_called_by_text_are_read_back(exported, tmp_path):
    service = observed(exported[2])
    service.observe(7, [np.asarray(ITEMS[:1])], np.ones(1))
    service.observe("7", [np.asarray(ITEMS[:1])], -np.ones(1))
    service.store.save(tmp_path / "states.npz")
    again = serve.Service(exported[2], serve.Store.read(tmp_path / "states.npz"), [ITEMS])
    for user in ("alice", 7, "7"):
        np.testing.assert_array_equal(again.recommend(user, 3)[0], service.recommend(user, 3)[0])
    with pytest.raises(UserError, match="by a whole number or a text"):
        service.observe(1.5, [np.asarray(ITEMS[:1])], np.ones(1))
    (tmp_path / "states.npz").write_bytes((tmp_path / "states.npz").read_bytes()[:-30])
    with pytest.raises(UserError, match="cut or altered"):
        serve.Store.read(tmp_path / "states.npz")


def test_states_of_other_parameters_or_another_catalogue_are_refused(exported, tmp_path):
    learner, params, folder = exported
    service = observed(folder)
    serve.export(learner, jax.tree.map(lambda x: x + 1, params), EPISODE, tmp_path / "b")
    with pytest.raises(UserError, match="stored states are of the model"):
        serve.Service(tmp_path / "b", service.store, [ITEMS])
    with pytest.raises(UserError, match="stored states are of the model"):
        serve.Service(folder, service.store, [ITEMS + 1])
    old = serve.Store()
    old.put(7, service.store.get("alice") or [])
    with pytest.raises(UserError, match="model without a name"):
        serve.Service(folder, old, [ITEMS])


def test_a_cut_folder_is_told_in_one_line(exported, tmp_path):
    learner, params, _ = exported
    serve.export(learner, params, EPISODE, tmp_path)
    for name in (*serve.FILES, "about.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-30])
        with pytest.raises(UserError, match="cut or altered"):
            serve.load(tmp_path)
        (tmp_path / name).write_bytes(whole)
    broken = jax.tree.map(lambda x: x * np.nan, params)
    with pytest.raises(UserError, match="a parameter is not finite"):
        serve.export(learner, broken, EPISODE, tmp_path)
