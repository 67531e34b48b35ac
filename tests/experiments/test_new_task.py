"""The experiment on a new task with few labels: its tasks, its heads, its stored records."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from experiments.domains import new_task, new_task_arms, new_task_report
from metajax.data.sources import labeled
from metajax.evaluation import judge
from metajax.results import records
from metajax.settings import Output
from metajax.types import UserError

STORED = ("census-income", "retailrocket-multibehavior", "amazon-four-domains")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 3)).astype(np.float32)
LABEL = (X[:, :2] > 0).astype(np.float32)
ROWS = labeled.Labeled(
    "own", X, LABEL, np.ones_like(LABEL), ("old", "new"), np.arange(240, dtype=np.int32),
    np.repeat(np.arange(3, dtype=np.int8), 80), (False, False),
)  # fmt: skip


def test_supports_are_training_rows_half_of_them_a_yes_and_queries_share_no_row():
    tasks = new_task_arms.drawn(ROWS, 1, labeled.TEST, 10, 5, seed=0)
    support, query = (np.asarray(p.inputs["row"]) for p in (tasks.support, tasks.query))
    assert (ROWS.part[support] == labeled.TRAIN).all() and (ROWS.part[query] == labeled.TEST).all()
    np.testing.assert_array_equal(tasks.support.label.sum(axis=1), 5.0)
    np.testing.assert_array_equal(ROWS.label[query, 1], tasks.query.label)
    assert len(set(query.ravel())) == query.size


def test_too_few_rows_get_one_line():
    with pytest.raises(UserError, match="too few rows of new for 50 tasks of 10 labels; lower"):
        new_task_arms.drawn(ROWS, 1, labeled.TEST, 10, 50, seed=0)


def test_a_single_label_column_or_a_number_is_refused(tmp_path):
    for label in (LABEL[:, :1], np.column_stack([LABEL[:, 0], X[:, 0]])):
        np.savez(tmp_path / "own.npz", x=X, label=label)
        with pytest.raises(UserError, match="needs two label columns or more, all of 0 and 1"):
            new_task_arms.loaded(new_task.Config(dataset=str(tmp_path / "own.npz")))


@pytest.mark.slow
def test_a_head_of_raw_inputs_learns_a_linear_task_and_not_from_permuted_labels():
    tasks = {"K=30": new_task_arms.drawn(ROWS, 1, labeled.TEST, 30, 4, seed=0)}
    arm = (new_task_arms.raw_head(3), new_task_arms.head_params({}, 4, 1.0, 1))
    metrics = new_task_arms.evaluate.event_metrics(0.5)
    found = judge.judge(
        {"raw": arm}, tasks, fetch=new_task_arms.fetch, source=jnp.asarray(X), metrics=metrics,
        main="auc",
    )  # fmt: skip
    get = lambda condition: found[records.Key("K=30", "raw", condition, "auc")].mean()
    assert get(records.ALL) > 0.9 > get(records.N1) + 0.1


def test_a_network_scores_a_new_task_alike_before_it_has_a_label():
    learner = compiled(new_task_arms.fine_tuned(0.1))
    example = jax.tree.map(
        lambda v: np.asarray(v)[0], new_task_arms.drawn(ROWS, 1, labeled.TEST, 10, 5, 0)
    )
    example = jax.jit(new_task_arms.fetch)(example, X)
    params = learner.init(jax.random.key(0), example)
    state = learner.start(params, ())
    np.testing.assert_array_equal(learner.predict(params, state, example.query.inputs), 0.0)


def test_the_group_whose_labels_are_noise_is_told_from_the_other():
    x = RNG.normal(size=1_200)
    label, hard = np.column_stack([x > 0, x > 0]) * 1.0, np.arange(1_200) % 2 > 0
    about = {"sex": np.where(hard, "men", "women"), "new": np.where(x > 0, "yes", "no")}
    rows = labeled.Labeled(
        "own", x[:, None], label, np.ones_like(label), ("old", "new"), np.arange(1_200),
        np.repeat(np.arange(3), 400), (False, False), about=about,
    )  # fmt: skip
    tasks = {"K=10": new_task_arms.drawn(rows, 1, labeled.TEST, 10, 12, seed=0)}
    score = np.where(hard, 0.0, x).astype(np.float32)  # right of women, all alike of men
    arm = lambda source, drawn, key: score[np.asarray(drawn.query.inputs["row"])][None]
    ready = dict.fromkeys(new_task_report.GROUPED, arm)
    found, told = new_task_arms.by_group(rows, jnp.asarray(rows.x), ready, tasks)
    assert {k.arm for k in found} == set(ready)
    values, of = next(iter(found.values()))[0], np.array(told["K=10"]["sex"]["of"])
    assert [values[of == i].mean() for i in (0, 1)] == [0.5, 1.0]
    assert not (np.array(told["K=10"]["new"]["of"]) >= 0).any()  # a group of one label has no AUC


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("dataset", STORED)
def test_the_stored_record_prints_its_tables_and_draws(dataset, tmp_path, capsys):
    if not records.path_of(f"{new_task.NAME}-{dataset}").is_file():
        pytest.skip("no record is stored")
    new_task.main(new_task.Config(Output(from_records=True, out=tmp_path), dataset))
    assert new_task_arms.SHARED in capsys.readouterr().out
    assert list(tmp_path.rglob("shots.png"))
