"""The experiment on models of several tasks: its worlds, its recipes, its stored records."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.domains import multi_task, task_arms, task_report, task_rows, task_world
from metajax.data.sources import labeled
from metajax.models import experts
from metajax.results import groups, records
from metajax.settings import Output
from metajax.types import UserError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)
VIEW = (X[:, 0] > 0).astype(np.float32)
LABEL = np.column_stack([VIEW, VIEW * (X[:, 1] > -0.5)])
ROWS = labeled.Labeled(
    "own", X, LABEL, np.ones_like(LABEL), ("view", "buy"), np.arange(60, dtype=np.int32),
    np.repeat(np.arange(3, dtype=np.int8), 20), (False, False), chain=True,
)  # fmt: skip


def test_a_random_task_keeps_its_labels_and_loses_their_places():
    world = task_world.worlds()[task_world.RANDOM]
    drawn = jax.jit(task_world.drawn, static_argnums=2)
    _, dealt = jax.device_get(drawn(world, jax.random.key(0), 50))
    _, plain = jax.device_get(drawn(world | {"random": jnp.asarray(0.0)}, jax.random.key(0), 50))
    np.testing.assert_array_equal(dealt[:, 0], plain[:, 0])
    np.testing.assert_array_equal(np.sort(dealt[:, 1]), np.sort(plain[:, 1]))
    assert (dealt[:, 1] != plain[:, 1]).any()


@pytest.mark.parametrize("way", ["mean", "uncertainty", "pcgrad", "learned"])
def test_every_balance_moves_the_network_and_leaves_its_settings(way):
    arm = task_arms.Arm(experts.shared_bottom(2, 3, 2), way)
    tuner = task_arms.Tuner(ROWS, 1, 8, 2)
    made = task_arms.recipe(arm, task_arms.losses_of(ROWS))
    data = {"rows": tuner.training(arm), "range": np.log([[0.01, 0.1], [0.01, 0.1]])}

    @jax.jit
    def moved(key):
        batch = task_arms.sampler(arm, 8)(data, key)
        params = made.init(key, batch)
        slope, info = made.gradient_fn(params, batch, key)
        after, _ = made.update_fn.apply(params, made.update_fn.init(params), slope)
        return params, after, info["loss"]

    before, after, loss = jax.device_get(moved(jax.random.key(0)))
    assert np.isfinite(loss)
    np.testing.assert_allclose(np.exp(after["settings"]), [0.01, 0.1], rtol=1e-6)
    own = lambda p: p["own"]["theta"]["model"]
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), own(before), own(after))
    assert changed["net"]["bottom"]["kernel"]
    assert changed["log_weight"] == (way == "learned")


def test_a_constant_has_a_loss_of_one_and_what_is_not_known_does_not_count():
    losses = task_arms.losses_of(ROWS)
    train = task_arms.of_part(ROWS, labeled.TRAIN)
    share = train.label.mean(axis=0)
    constant = jnp.broadcast_to(jnp.log(share / (1 - share))[None], train.label.shape)
    np.testing.assert_allclose(losses(constant, train.label, train.mask), 1.0, rtol=1e-5)
    far = constant.at[0].set(50.0)
    mask = train.mask.at[0].set(0.0)
    known = losses(constant, train.label, mask)
    np.testing.assert_allclose(losses(far, train.label, mask), known, rtol=1e-6)


def test_steps_count_where_the_step_before_happened():
    tuner = task_arms.Tuner(ROWS, 1, 8, 2)
    stepwise = tuner.training(task_arms.Arm(experts.shared_bottom(2, 3, 2), stepwise=True))
    np.testing.assert_array_equal(stepwise.mask[:, 1], stepwise.label[:, 0])
    dealt = tuner.training(task_arms.Arm(experts.shared_bottom(2, 3, 2), dealt=True))
    plain = tuner.training(task_arms.Arm(experts.shared_bottom(2, 3, 2)))
    np.testing.assert_array_equal(dealt.label[:, 0], plain.label[:, 0])
    assert dealt.label[:, 1].sum() == plain.label[:, 1].sum()


def test_the_right_order_has_an_auc_of_one_and_a_purchase_is_judged_after_a_view():
    test = ROWS.part == labeled.TEST
    right = np.where(LABEL[test] > 0, 3.0, -3.0)[None]
    found = task_rows.judged(ROWS, "a", right)
    mean = {(k.scenario, k.metric): v.mean() for k, v in found.items()}
    assert mean["view", "auc"] == mean["buy", "auc"] == mean["buy after view", "auc"] == 1.0
    assert mean["view", "log_loss"] == pytest.approx(np.log1p(np.exp(-3.0)))


def test_a_number_is_judged_by_the_variance_that_is_left():
    test = ROWS.part == labeled.TEST
    rows = dataclasses.replace(ROWS, numbers=(False, True), chain=False)
    constant = np.full((1, int(test.sum()), 2), LABEL[test, 1].mean())
    found = task_rows.judged(rows, "a", constant)
    place = records.Key("buy", "a", records.ALL, task_rows.ERROR)
    assert found[place].mean() == pytest.approx(1.0)


def test_the_group_that_is_harder_is_told_from_the_other(capsys):
    label = np.tile([0.0, 1.0], 600)[:, None]
    hard = np.repeat([True, False], 600)
    score = np.where(hard, np.tile([0.0, 1.0, 2.0, 1.0], 300), label[:, 0])  # AUC 1/2, and 1
    own = labeled.Labeled(
        "own", score[:, None], label, np.ones_like(label), ("view",), np.arange(1200) // 2,
        np.full(1200, labeled.TEST), (False,),
        about={"sex": np.where(hard, "men", "women"), "events": np.where(hard, 1, 5)},
    )  # fmt: skip
    found, told = task_rows.by_group(own, task_arms.MANY, score[None, :, None])
    (key, values), *_ = found.items()
    assert key.condition == groups.APART and told["view"]["sex"]["names"][0] == "men, 600 rows"
    for kind in ("sex", "events"):
        of = np.array(told["view"][kind]["of"])
        means = [values[0, of == i].mean() for i in np.unique(of[of >= 0])]
        np.testing.assert_allclose(means, [0.5, 1.0])  # men, few events; women, more events
    same = {k._replace(arm=arm): v for k, v in found.items() for arm in task_report.GROUPED}
    record = records.Record("own", scores=same, extra={groups.GROUPS: told})
    task_report.by_group(record, "view", task_rows.AUC)
    assert "men, 600 rows" in capsys.readouterr().out


def test_a_group_whose_labels_are_alike_has_no_score():
    own = dataclasses.replace(ROWS, part=np.full(60, labeled.TEST), chain=False)
    own = dataclasses.replace(own, about={"view": np.where(VIEW > 0, "seen", "not")})
    found, told = task_rows.by_group(own, "a", np.zeros((1, 60, 2)))
    assert {v.size for v in found.values()} == {0} and told["view"]["view"]["of"] == []


def test_what_cannot_be_read_gets_one_line(tmp_path):
    with pytest.raises(UserError, match="ml-100k has no rows with several labels"):
        task_rows.loaded(multi_task.Config(dataset="ml-100k"))
    with pytest.raises(UserError, match="no file"):
        task_rows.loaded(multi_task.Config(dataset=str(tmp_path / "none.npz")))
    path = tmp_path / "own.npz"
    np.savez(path, x=X, label=np.column_stack([VIEW, np.ones(60)]))
    with pytest.raises(UserError, match="label column task 2 is always 1"):
        task_rows.loaded(multi_task.Config(dataset=str(path)))


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("dataset", ["synthetic", *multi_task.DATASETS])
def test_the_stored_record_prints_its_tables_and_draws(dataset, tmp_path, capsys):
    name = multi_task.NAME if dataset == "synthetic" else f"{multi_task.NAME}-{dataset}"
    if not records.path_of(name).is_file():
        pytest.skip(f"no record {name} is stored")
    multi_task.main(multi_task.Config(Output(from_records=True, out=tmp_path), dataset))
    assert task_arms.PLE in capsys.readouterr().out
    assert list(tmp_path.rglob("*.png"))


def test_the_stored_record_of_long_trainings_prints_and_draws(tmp_path, capsys):
    if not records.path_of(f"{multi_task.NAME}-plateau").is_file():
        pytest.skip("no record is stored")
    output = Output(from_records=True, out=tmp_path)
    multi_task.main(multi_task.Config(output, plateau=True))
    assert task_arms.MANY in capsys.readouterr().out


def test_without_a_record_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"no record .*; run the experiment first"):
        multi_task.main(multi_task.Config(output=Output(from_records=True)))
