"""The sinusoid experiments: what arms are told, how they are judged, short runs of every arm."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.classics import memorization
from experiments.classics.sinusoid import report as sinusoid_report
from experiments.classics.sinusoid import sinusoid
from metajax.data.worlds.latent import SineTasks
from metajax.results import records
from metajax.settings import Output
from metajax.training import loop
from metajax.types import UserError

TINY = sinusoid.Config(num_steps=2, num_tasks=2, seeds=1, test_tasks=5)


def test_what_the_oracle_is_told_explains_the_labels():
    """Amplitude in [0.1, 5] and phase in [0, pi], and with them the labels come out exactly."""
    world = SineTasks(num_support=5, num_query=5)
    episodes = jax.jit(jax.vmap(lambda k: sinusoid.told(world.sample(k))))(
        jax.random.split(jax.random.key(0), 200)
    )
    x, amplitude, phase = (np.asarray(episodes.query.inputs[..., i]) for i in range(3))
    assert amplitude.min() > 0.09 and amplitude.max() < 5.01
    assert phase.min() > -0.01 and phase.max() < np.pi + 0.01
    np.testing.assert_allclose(amplitude * np.sin(x - phase), episodes.query.label, atol=1e-3)


def test_the_oracle_is_exact_from_five_points():
    """Two numbers are missing and five points without noise give them."""
    arm, world = sinusoid.oracle(TINY), SineTasks(5, 50)
    params, _ = sinusoid.untrained("oracle", TINY, arm, world)
    errors = np.asarray(sinusoid.curve(arm, params, world, jax.random.key(3), 200))
    assert np.median(errors[..., 1]) < 1e-9 and errors[..., 1].mean() < 1e-4
    assert errors[..., 0].mean() > 2.5, "before its points it knows nothing: E A^2 / 2 is 4.2"


def run_of(arm: str, value: float, **settings) -> records.Record:
    """A record of one arm at one number of steps, on three tasks."""
    config = dataclasses.asdict(dataclasses.replace(TINY, **settings))
    name = records.Key("K=5", arm, "steps=1", sinusoid_report.METRIC)
    return records.Record(
        "sinusoid",
        records.arms_of(sinusoid.ARMS, seconds={arm: value}),
        {name: np.full((1, 3), value)},
        config=records.plain(config),
        environment=records.Environment(date=f"day {value}"),
    )


def test_one_arm_joins_a_stored_record_of_the_same_settings_only(tmp_path):
    records.write(tmp_path, "stored", run_of("oracle", 1.0))
    stored = records.stored("stored", tmp_path)
    both = sinusoid_report.joined(stored, run_of("CNP", 2.0, arms=("CNP",), shots=(5,)))
    assert [(arm.name, arm.seconds) for arm in both.arms] == [("CNP", 2.0), ("oracle", 1.0)]
    assert both.extra["later"]["CNP"]["date"] == "day 2.0"
    assert both.environment.date == "day 1.0"
    assert {key.arm: v[0, 0] for key, v in both.scores.items()} == {"oracle": 1, "CNP": 2}
    with pytest.raises(UserError, match="num_tasks 2, this run 3; run all arms"):
        sinusoid_report.joined(stored, run_of("CNP", 2.0, arms=("CNP",), num_tasks=3))
    with pytest.raises(UserError, match="no arm 'CNO'; the known ones are MAML"):
        sinusoid.main(dataclasses.replace(TINY, arms=("CNO",)))


def test_the_curve_is_gradient_descent_step_by_step():
    """Ten adaptations of one step are ten steps of plain descent on the support, by hand."""
    arm, world = sinusoid.maml(TINY), SineTasks(5, 20)
    sample = jax.jit(world.sample)
    episode = sample(jax.random.key(0))
    params = jax.jit(arm.learner.init)(jax.random.key(1), episode)
    stacked = jax.tree.map(lambda v: np.asarray(v)[None], params)
    key = jax.random.key(3)
    found = np.asarray(sinusoid.curve(arm, stacked, world, key, 1))
    assert found.shape == (1, 1, sinusoid.MAX_STEPS + 1)
    task = sample(jax.random.split(key, 1)[0])
    theta = jax.tree.map(np.asarray, params["model"])

    def forward(p, x):
        for layer in p["body"].values() if isinstance(p["body"], dict) else p["body"]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None, :])
        return (x @ p["head"]["kernel"] + p["head"]["bias"][None, :])[:, 0]

    error = lambda p, e: jnp.mean((forward(p, e.inputs) - e.label) ** 2)
    both = jax.jit(lambda p: (error(p, task.query), jax.grad(error)(p, task.support)))
    by_hand = []
    for _ in range(sinusoid.MAX_STEPS + 1):
        value, grads = jax.device_get(both(theta))
        by_hand.append(float(value))
        theta = jax.tree.map(lambda p, g: p - TINY.inner_rate * g, theta, grads)
    np.testing.assert_allclose(found[0, 0], by_hand, rtol=1e-4)


def test_given_away_tasks_are_honest_in_training_and_not_at_test():
    keys = jax.random.split(jax.random.key(0), 300)
    honest = jax.jit(jax.vmap(memorization.GivenAway(10, 10, honest=True).sample))(keys)
    shown = np.asarray(honest.query.inputs[:, 0, 1:]).argmax(axis=1)
    amplitude = 0.1 + shown * (4 - 0.1) / 19
    x = np.asarray(honest.query.inputs[..., 0])
    noise = np.asarray(honest.query.label) - amplitude[:, None] * np.sin(x)
    assert abs(noise.std() - 0.1) < 0.005 and shown.max() == 15
    lying = jax.jit(jax.vmap(memorization.GivenAway(10, 10, honest=False).sample))(keys)
    shown = np.asarray(lying.query.inputs[:, 0, 1:]).argmax(axis=1)
    x, y = np.asarray(lying.query.inputs[..., 0]), np.asarray(lying.query.label)
    true = (y * np.sin(x)).sum(axis=1) / (np.sin(x) ** 2).sum(axis=1)
    assert abs(np.corrcoef(true, shown)[0, 1]) < 0.2 and true.max() > 3.5


def test_noise_falls_on_the_encoder_alone():
    config = memorization.Config()
    world = memorization.GivenAway(5, 5, honest=True)
    learner = memorization.arms(config)["MR-MAML"].learner
    params = jax.jit(learner.init)(jax.random.key(0), jax.jit(world.sample)(jax.random.key(1)))
    assert len(jax.tree.leaves(params["log_scale"])) == 4
    assert params["log_scale"]["model"]["net"] is not None
    assert not jax.tree.leaves(params["log_scale"]["model"]["net"])


def test_an_optimizer_made_anew_takes_the_full_rate_off_what_no_task_uses():
    """A price of 1e-4 on squares: kept moments leave a weight alone, forgotten ones do not."""
    price = jax.grad(lambda w: 0.5e-4 * jnp.sum(w**2))
    used, idle = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    shift = {}
    for name, make in (("kept", lambda tx: tx), ("anew", memorization.forgetful)):
        tx = make(optax.adam(1e-3, eps=1e-7))
        weight = np.array([0.5, 0.5], np.float32)
        state = tx.init(weight)
        update = jax.jit(lambda loud, state, w, tx=tx: tx.update(price(w) - loud, state, w))
        for step in range(32):
            loud = idle if step % 16 == 0 else used  # the second weight is used once in 16 steps
            updates, state = update(loud, state, weight)
            weight = weight + np.asarray(updates)
        shift[name] = float(weight[1]) - 0.5
    np.testing.assert_allclose(shift["anew"], (2 - 30) * 1e-3, rtol=0.02)
    assert shift["kept"] > 0


@pytest.mark.slow
def test_the_published_program_has_its_amplitudes_erased():
    """Weights of the shown amplitudes: gone as published, kept by either control."""
    arms, size = memorization.arms(memorization.Config()), {}
    for name in ("program", "program, beta = 0", "program, moments kept"):
        learner, tx, num_tasks = arms[name]
        sample = loop.world_sampler(memorization.GivenAway(10, 10, honest=True), num_tasks)
        keys = jax.random.split(jax.random.key(1), 3)
        params = loop.fit(loop.recipe(learner, tx), sample, (), keys, 15_000, block=15_000).params
        encoder = params.get("mean", params)["model"]["encoder"]
        (first,) = [x for x in jax.tree.leaves(encoder) if x.ndim == 3 and x.shape[1] == 21]
        size[name] = [float(jnp.sqrt(jnp.mean(first[:, i] ** 2))) for i in (slice(1), slice(1, 17))]
    assert all(of_x > 0.1 for of_x, _ in size.values())
    assert size["program"][1] < 0.01 < 0.1 < min(size[n][1] for n in size if n != "program")


@pytest.mark.slow
def test_a_short_run_of_everything_writes_and_prints(tmp_path, capsys):
    config = dataclasses.replace(TINY, shots=(5,), output=Output(tmp_path))
    sinusoid.main(config)
    printed = capsys.readouterr().out
    assert all(name in printed for name in sinusoid.ARMS)
    record = records.stored("sinusoid-k5", tmp_path)
    assert (tmp_path / "sinusoid-k5.png").stat().st_size > 10_000
    assert record.of("K=5", "CNP", "steps=1", sinusoid_report.METRIC).shape == (1, 5)
    once = [record.of("K=5", "CNP", f"steps={s}", sinusoid_report.METRIC) for s in (1, 10)]
    np.testing.assert_array_equal(*once)


@pytest.mark.slow
def test_maml_reaches_the_published_level():
    """K = 5, one step, 15,000 outer steps: at most 1.1; the learned rates do better."""
    config, world = dataclasses.replace(TINY, num_steps=15_000, num_tasks=25), SineTasks(5, 10)
    error = {}
    for name, build in (("MAML", sinusoid.maml), ("Meta-SGD", sinusoid.meta_sgd)):
        arm = build(config)
        found, _ = sinusoid.fit(name, config, arm, world)
        errors = sinusoid.curve(arm, found, SineTasks(5, 100), jax.random.key(3), 600)
        error[name] = float(errors[..., 1].mean())
    assert error["MAML"] <= 1.1 and error["Meta-SGD"] < error["MAML"]


def test_a_diverging_arm_is_named():
    config = dataclasses.replace(TINY, num_steps=4)
    arm = sinusoid.maml(config)._replace(tx=optax.sgd(1e12))
    with pytest.raises(UserError, match="K=5 MAML: the loss of seed 0 is not finite at outer step"):
        sinusoid.fit("K=5 MAML", config, arm, SineTasks(5, 5))


@pytest.mark.parametrize("shots", [5, 10, 20])
def test_no_stored_arm_is_below_the_oracle(shots: int):
    path = records.path_of(f"sinusoid-k{shots}")
    if not path.is_file():
        pytest.skip("no record is stored yet")
    record = records.read(path)
    last = lambda arm: record.of(f"K={shots}", arm, "steps=10", sinusoid_report.METRIC)
    others = [last(arm).mean() for arm in record.names() if arm != "oracle"]
    assert last("oracle").mean() < min(others) / 10 and len(others) == len(sinusoid.ARMS) - 1


def test_stored_records_hold_what_the_issue_asks():
    """The stored table: MAML at K = 5 after one step is at most 1.1, and Meta-SGD is below it."""
    path = records.path_of("sinusoid-k5")
    if not path.is_file():
        pytest.skip("no record is stored yet")
    record = records.read(path)
    score = lambda arm: record.of("K=5", arm, "steps=1", sinusoid_report.METRIC)
    assert score("MAML").shape[1] == 600 and score("MAML").mean() <= 1.1
    assert records.difference(score("Meta-SGD"), score("MAML")).high < 0
    assert records.difference(score("MAML"), score("pretrained")).high < 0


@pytest.mark.slow
def test_what_is_stored_of_memorization_is_printed_and_drawn_without_a_run(tmp_path, capsys):
    if not records.path_of("sinusoid-memorization-k5").is_file():
        pytest.skip("no record is stored yet")
    memorization.main(memorization.Config(output=Output(tmp_path, from_records=True)))
    shown = capsys.readouterr().out
    assert "program, moments kept" in shown and "CNP" not in shown
    assert (tmp_path / "sinusoid-memorization-k5.png").stat().st_size > 10_000


@pytest.mark.parametrize("shots", [5, 10])
def test_what_keeps_from_memorizing_by_the_stored_records(shots: int):
    """A price on the encoder does, under an optimizer that can pay it; noise on all is worse."""
    path = records.path_of(f"sinusoid-memorization-k{shots}")
    if not path.is_file():
        pytest.skip("no record is stored yet")
    record = records.read(path)
    scenario = record.scenario
    last = lambda arm: record.of(scenario, arm, "steps=100", sinusoid_report.METRIC)
    for better, worse in (
        ("MR-MAML", "MAML"),
        ("MR-MAML", "MR-MAML, beta = 0"),
        ("MR-MAML", "MR-MAML, all weights"),
        ("program", "program, beta = 0"),
        ("program", "program, moments kept"),
    ):
        assert records.difference(last(better), last(worse)).high < 0, (better, worse)
