"""The experiment `attention`: known sharpness is found, and another person's focus is another's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.large.attention import arms, attention
from metajax import optim
from metajax.data.worlds.interest import SharpOrFlat
from metajax.learners.history import reader
from metajax.models.attention import focused
from metajax.settings import Output, replace


def test_another_users_focus_is_that_of_the_person_before():
    """With all histories alike, focus is alike, too, and the control scores as the arm does."""
    world = SharpOrFlat(num_support=6, num_query=3)
    learner = reader(
        focused(4), 6, 3, adapts=arms.FOCUS, inner=optim.learned_rates(0.5), num_steps=1
    )
    one = jax.random.key(5)
    params = learner.init(one, world.sample(one))
    own, control = jax.jit(
        lambda keys: (
            arms.focus_of(learner, params, keys, world.sample, arms.evaluate.unaltered).temperature,
            arms.with_focus_of_another(
                learner, params, keys, world.sample, arms.evaluate.unaltered
            ),
        )
    )(jnp.stack([one, one]))
    np.testing.assert_allclose(own[0], own[1])
    np.testing.assert_allclose(control[0], control[1], rtol=1e-5)


def test_rank_correlation_by_hand():
    up = np.array([1.0, 2.0, 3.0, 4.0])
    assert arms.rank_correlation(up, up**3) == pytest.approx(1.0)
    assert arms.rank_correlation(up, np.array([2.0, 1, 3, 4])) == pytest.approx(0.8)
    assert arms.rank_correlation(up, np.ones(4)) == 0.0


@pytest.mark.slow
def test_the_adapted_temperature_tells_sharp_from_flat(tmp_path, monkeypatch):
    """Rank correlation with the truth above .6, about 0 on shuffled ratings; and a lower loss."""
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    config = replace(
        attention.Config(Output(tmp_path / "out")), dataset="world", seeds=1, num_steps=150,
        people=300,
    )  # fmt: skip
    record = attention.main(config)
    told = record.extra["temperature"]
    assert told["truth"][0] > 0.6 and abs(told["truth, shuffled"][0]) < 0.3
    last = f"k={attention.SHOTS[-1]}"
    loss = lambda arm: record.of(attention.SCENARIO, arm, last, "mse").mean()
    assert loss(arms.ADAPTED) < loss(arms.GLOBAL) < loss(arms.OTHERS)
