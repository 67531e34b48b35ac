"""Federated rounds against what they must equal: centralized MAML, local descent, plain sums."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.data.worlds.latent import LatentUsers
from metajax.federated import compression, rounds, simulator
from metajax.learners import pooled
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_linear, vector_mlp
from metajax.training import loop
from metajax.types import UserError

WORLD, NUM = LatentUsers(num_support=6, num_query=4), 5
MAML = gradient(vector_mlp((4,)), optax.sgd(0.05), num_steps=1)
LINEAR = pooled.pooled(vector_linear())


def of_client(data, client, key):
    """The one episode of a client, whatever the key."""
    del key
    return jax.tree.map(lambda x: x[client], data)


@pytest.fixture(scope="module")
def data():
    return jax.jit(jax.vmap(WORLD.sample))(jax.random.split(jax.random.key(0), NUM))


def everyone(data):
    """The cohort of all clients in their order, one episode each."""
    tasks = jax.tree.map(lambda x: x[:, None], data)
    return simulator.Cohort(jnp.arange(NUM), tasks, jnp.ones(NUM))


def started(recipe, data):
    return jax.jit(lambda d: loop.init(recipe, jax.random.key(1), everyone(d)))(data)


def stepped(recipe, sample, state, data):
    """One round, compiled, and its info."""
    return jax.jit(lambda s, d: loop.step(recipe, sample, s, d))(state, data)


def near(a, b, tolerance=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance)


def test_one_gradient_of_every_client_is_a_step_of_centralized_maml(data):
    server = rounds.server(optax.sgd(0.1))
    recipe = simulator.simulation(MAML, rounds.meta_gradient(MAML), server, NUM)
    first = started(recipe, data)
    state, info = stepped(recipe, lambda data, key: everyone(data), first, data)
    central = loop.recipe(MAML, optax.sgd(0.1))
    same = first._replace(opt_state=central.update_fn.init(first.params))
    expected, told = stepped(central, lambda data, key: data, same, data)
    near(state.params, expected.params)
    near(info["loss"], told["loss"])


def test_one_local_step_and_full_participation_is_that_step_too(data):
    """theta - (theta - 0.1 g), averaged, is 0.1 times the mean gradient."""
    client = rounds.local_steps(MAML, optax.sgd(0.1), by_rows=False)
    recipe = simulator.simulation(MAML, client, rounds.server(optax.sgd(1.0)), NUM)
    first = started(recipe, data)
    state, _ = stepped(recipe, lambda data, key: everyone(data), first, data)
    grads, _ = jax.jit(loop.outer_gradient(MAML))(first.params, data, jax.random.key(0))
    moved = lambda p, g: np.asarray(p) - 0.1 * np.asarray(g)
    near(state.params, jax.tree.map(moved, first.params, grads))


def test_fedavg_of_one_client_is_local_descent(data):
    """A linear model from 0, three steps on x w, by hand."""
    data = jax.device_get(data)
    mine = jax.tree.map(lambda x: np.stack([x[2]] * 3), data)
    start = jax.jit(LINEAR.init)(jax.random.key(0), of_client(data, 2, None))
    client = jax.jit(rounds.local_steps(LINEAR, optax.sgd(0.1)))
    upload = client(start, mine, jax.random.key(0))
    params, _ = jax.jit(rounds.server(optax.sgd(1.0)).apply)(
        start, optax.sgd(1.0).init(start), rounds.stacked([upload])
    )
    both = pooled.all_examples(of_client(data, 2, None))
    x, y, weight = np.asarray(both.inputs), np.asarray(both.label), np.zeros(8)
    for _ in range(3):
        weight = weight - 0.1 * 2 * x.T @ (x @ weight - y) / len(y)
    np.testing.assert_allclose(params["model"]["head"]["kernel"], weight, atol=1e-5)
    assert float(upload.weight) == len(y)


def test_a_proximal_client_is_pulled_back_by_half_of_the_distance():
    tx = optax.chain(rounds.proximal(0.5), optax.sgd(1.0))
    state = tx.init({"w": jnp.array([1.0])})
    updates, _ = tx.update({"w": jnp.array([0.0])}, state, {"w": jnp.array([3.0])})
    np.testing.assert_allclose(updates["w"], [-1.0])


def test_uneven_clients_count_by_their_rows_and_silent_ones_do_not():
    uploads = rounds.Upload({"w": np.array([1.0, 5.0, 99.0])}, np.array([30.0, 10.0, 0.0]), 0)
    np.testing.assert_allclose(jax.jit(rounds.average)(uploads)["w"], 2.0)  # (30 + 50) / 40
    server = rounds.server(optax.adam(0.1))
    start = {"w": np.array(4.0)}
    silent = uploads._replace(weight=np.zeros(3))
    params, state = jax.jit(server.apply)(start, server.init(start), silent)
    assert params["w"] == 4.0
    near(state, server.init(start))


def test_a_client_of_nan_is_refused_and_the_others_go_on(data):
    recipe = simulator.simulation(
        MAML, rounds.meta_gradient(MAML), rounds.server(optax.sgd(0.1)), NUM
    )
    first = started(recipe, data)
    label = np.array(data.query.label)
    label[1] = np.nan
    sick = data._replace(query=data.query._replace(label=label))
    state, info = stepped(recipe, lambda data, key: everyone(data), first, sick)
    absent = lambda data, key: everyone(data)._replace(present=jnp.ones(NUM).at[1].set(0.0))
    expected, _ = stepped(recipe, absent, first, data)
    near(state.params, expected.params)
    assert (int(state.opt_state.refused), int(info["trouble"])) == (1, 0)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda u: u._replace(update={"w": jnp.zeros(2)}), r"w is \(2,\).*\(3,\)"),
        (lambda u: u._replace(update={"v": jnp.zeros(3)}), "w is None"),
        (lambda u: u._replace(update={"w": jnp.array([0, jnp.nan, 0])}), "w is not finite"),
        (lambda u: u._replace(loss=jnp.inf), "loss is not finite"),
    ],
)
def test_a_server_refuses_in_one_line(change, line):
    params = {"w": jnp.zeros(3)}
    upload = rounds.Upload(params, jnp.ones(()), jnp.zeros(()))
    assert rounds.accepted(params, upload, 7) is upload
    with pytest.raises(UserError, match=f"client 7: the upload is refused, {line}") as error:
        rounds.accepted(params, change(upload), 7)
    assert "\n" not in str(error.value)


TREE = {"a": jnp.zeros((12, 10)), "b": jnp.zeros(7)}
WAYS = {
    "whole": (compression.whole(), 127 * 4),
    "top-k": (compression.top_k(0.1), 13 * 8),  # 12.7 entries, rounded up
    "8 bits": (compression.eight_bits(), 127 + 4),  # one scale
    "low rank": (compression.low_rank(2), (12 + 10) * 2 * 4 + 7 * 4),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_feedback_sends_sums_to_the_truth(name):
    way, size = WAYS[name]
    assert compression.message_bytes(way, TREE) == size
    send, decode = jax.jit(compression.with_feedback(way)), jax.jit(lambda m: way.decode(m, TREE))
    memory, total, arrived = TREE, TREE, TREE
    for i in range(8):
        rng = np.random.default_rng(i)
        update = jax.tree.map(lambda x, rng=rng: rng.normal(size=x.shape), TREE)
        message, memory = send(update, memory)
        assert compression.num_bytes(message) == size
        total = jax.tree.map(np.add, total, update)
        arrived = jax.tree.map(np.add, arrived, decode(message))
    near(jax.tree.map(np.add, arrived, memory), total, 1e-4)


def test_a_byte_is_off_by_half_a_step_at_most():
    update = {"w": np.linspace(-2.0, 3.0, 300)}
    way = compression.eight_bits()
    sent = jax.jit(lambda update: way.decode(way.encode(update), update))(update)
    off = np.abs(np.asarray(sent["w"]) - update["w"])
    assert float(off.max()) <= 3.0 / 127 / 2 + 1e-6


def test_a_rank_one_matrix_arrives_whole():
    matrix = {"a": np.outer(np.arange(1.0, 13), np.linspace(-1, 1, 10))}
    way = compression.low_rank(1)
    near(jax.jit(lambda x: way.decode(way.encode(x), x))(matrix), matrix, 1e-4)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(UserError, match="above 0 and up to 1"):
        compression.top_k(0.0)


def test_cohorts_are_different_clients_and_poisson_ones_have_the_right_size(data):
    sample = jax.jit(simulator.cohorts(of_client, NUM, 4, 2, drop=0.25))
    cohort = sample(data, jax.random.key(0))
    assert len(set(cohort.client.tolist())) == 4 and cohort.present.sum() == 3
    assert cohort.tasks.query.label.shape == (4, 2, 4)
    many = jax.tree.map(lambda x: np.tile(x, (40, *[1] * (x.ndim - 1))), data)
    drawn = jax.jit(simulator.poisson(of_client, 200, 0.1))
    sizes = [float(drawn(many, jax.random.key(i)).present.sum()) for i in range(60)]
    assert abs(np.mean(sizes) - 20) < 3 * np.sqrt(200 * 0.1 * 0.9 / 60)  # three standard errors
    for size in (0, 6):
        with pytest.raises(UserError, match="give 1 to 5"):
            simulator.cohorts(of_client, NUM, size)
    with pytest.raises(UserError, match="drops all 4"):
        simulator.cohorts(of_client, NUM, 4, drop=1.0)


def test_memory_is_kept_for_those_who_answered_alone(data):
    recipe = simulator.simulation(
        LINEAR, rounds.meta_gradient(LINEAR), rounds.server(optax.sgd(0.1)), NUM,
        compression.top_k(0.2),
    )  # fmt: skip
    some = everyone(data)._replace(present=jnp.array([1.0, 0, 1, 1, 0]))
    state, _ = stepped(recipe, lambda data, key: some, started(recipe, data), data)
    memory = np.asarray(jax.tree.leaves(state.opt_state.memory)[0])
    assert [bool(np.any(row)) for row in memory] == [True, False, True, True, False]
    begun = jax.jit(LINEAR.init)(jax.random.key(0), of_client(jax.device_get(data), 0, None))
    size = compression.num_bytes(begun)
    told = simulator.traffic(state.params, 5, 0.4, compression.top_k(0.2))
    assert told == (5 * size, 3 * 2 * 8)  # two of eight entries, each with its place


def test_clients_get_a_compressed_download_and_the_server_keeps_the_whole(data):
    few = compression.top_k(0.5)
    server = rounds.server(optax.sgd(0.1))
    make = lambda **how: simulator.simulation(
        LINEAR, rounds.meta_gradient(LINEAR), server, NUM, **how
    )
    state = started(make(), data)
    apart = lambda x: np.asarray(x + np.arange(x.size, dtype=np.float32).reshape(x.shape))
    params = jax.tree.map(apart, jax.device_get(state.params))
    given = jax.jit(lambda x: few.decode(few.encode(x), x))(params)
    all_of_them = lambda data, key: everyone(data)
    at = lambda recipe, params: stepped(recipe, all_of_them, state._replace(params=params), data)
    ours, theirs = at(make(download=few), params)[0], at(make(), given)[0]
    moved = lambda after, before: jax.tree.map(np.subtract, after.params, before)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        moved(ours, params), moved(theirs, given),
    )  # fmt: skip
    assert simulator.traffic(params, 5, 0.4, None, few).down == 5 * compression.message_bytes(
        few, params
    )


def test_a_server_that_died_goes_on_from_its_last_checkpoint(data, tmp_path):
    client = rounds.local_steps(LINEAR, optax.sgd(0.05))
    recipe = simulator.simulation(
        LINEAR, client, rounds.server(optax.adam(0.1)), NUM, compression.eight_bits()
    )
    sample, keys = simulator.cohorts(of_client, NUM, 3, 2), jax.random.split(jax.random.key(0), 2)
    run = lambda steps, where: loop.fit(
        recipe, sample, data, keys, steps, block=3, checkpoint=where
    )
    run(3, tmp_path / "died")
    again, straight = run(6, tmp_path / "died"), run(6, None)
    near(again.state.params, straight.state.params, 0.0)
    near(again.state.opt_state.memory, straight.state.opt_state.memory, 0.0)
