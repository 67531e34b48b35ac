"""The experiment on models of several tasks: its worlds, its recipes, its stored record."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.domains import multi_task
from metajax.models import experts
from metajax.results import records
from metajax.settings import Output
from metajax.types import UserError


def test_a_random_task_keeps_its_labels_and_loses_their_places():
    world = multi_task.worlds()[multi_task.RANDOM]
    _, dealt = multi_task.drawn(world, jax.random.key(0), 50)
    _, plain = multi_task.drawn(world | {"random": jnp.asarray(0.0)}, jax.random.key(0), 50)
    np.testing.assert_array_equal(dealt[:, 0], plain[:, 0])
    np.testing.assert_array_equal(np.sort(dealt[:, 1]), np.sort(plain[:, 1]))
    assert (dealt[:, 1] != plain[:, 1]).any()


@pytest.mark.parametrize("way", multi_task.WAYS)
def test_every_balance_gives_a_gradient_that_its_optimizer_takes(way):
    arm = multi_task.Arm(experts.shared_bottom(2, 3, 2), way)
    made = multi_task.recipe(arm, 0.01)
    batch = (jnp.ones((4, 3)), jnp.ones((4, 2)))
    params = made.init(jax.random.key(0), batch)
    slope, info = made.gradient_fn(params, batch, jax.random.key(1))
    moved, _ = made.update_fn.apply(params, made.update_fn.init(params), slope)
    assert np.isfinite(info["loss"])
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, params)


def test_the_stored_record_prints_its_tables_and_draws(tmp_path, capsys):
    if not records.path_of(multi_task.NAME).is_file():
        pytest.skip("no record of multi_task is stored")
    multi_task.main(multi_task.Config(output=Output(from_records=True, out=tmp_path)))
    assert multi_task.PLE in capsys.readouterr().out
    assert (tmp_path / "rho.png").is_file()


def test_without_a_record_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"no record .*; run the experiment first"):
        multi_task.main(multi_task.Config(output=Output(from_records=True)))
