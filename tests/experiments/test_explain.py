"""The experiment on explanations: it runs without data, is read back, and refuses a stranger."""

import jax
import numpy as np
import pytest

from experiments.trust import explain, explain_arms, explain_person, explain_report
from metajax.benchmark import command
from metajax.data.worlds.causes import Interests
from metajax.results import records
from metajax.types import UserError

KEY = jax.random.key(0)


def test_a_stranger_is_refused_before_training():
    with pytest.raises(UserError, match="no user 'nobody' in synthetic") as error:
        config = command.parse(explain.Config, ["--preset", "quick", "--user", "nobody"])
        explain.main(config)
    assert "\n" not in str(error.value)
    assert explain_person.place_of("7", np.array([3, 7]), "x") == 1


def test_attention_is_what_its_weights_say():
    """The score is the offset's, plus the weights times what the offset leaves of the labels."""
    world = Interests(num_interests=2, dim=2, num_support=5, num_query=3)
    made = explain_arms.attentive(lambda x: x, explain_arms.vector_linear(), 8)
    episode = world.sample(KEY)
    params = made.learner.init(KEY, episode)
    state = made.learner.adapt(params, made.learner.start(params, ()), episode.support, KEY)
    scores = made.learner.predict(params, state, episode.query.inputs)
    weights = made.weights(params, episode)
    np.testing.assert_allclose(scores, episode.support.label @ weights, atol=1e-5)
    assert (weights >= 0).all() and (weights.sum(0) < 1).all()


def test_what_is_judged_is_stored_and_printed(tmp_path, capsys):
    world = explain.WORLD_TASKS
    made = explain_arms.attentive(lambda x: x, explain_arms.vector_linear(), 8)
    example = world.sample(KEY)
    params = made.learner.init(KEY, example)
    arm = explain_arms.Explained(made.learner, params, {}, params, made.weights)
    drawn = jax.jit(jax.vmap(world.sample))(jax.random.split(KEY, 6))
    own = lambda episode: episode
    values, curves = explain.judge(arm, drawn, own, own, world.causes)
    np.testing.assert_allclose(
        values["sanity"][explain_report.LEFT_OUT], 1.0
    )  # nothing random here
    np.testing.assert_allclose(values["agreement"][explain_report.LEFT_OUT], 1.0, atol=1e-5)
    name = f"{explain_report.WORLD}, attention"
    scores = explain.keyed(name, values)
    record = records.made(
        "explain", explain.Config(), records.arms_of({key.arm for key in scores}), scores,
        opened=(), extra={"curves": {name: curves}, "features": {}},
    )  # fmt: skip
    explain_report.report(records.read(records.write(tmp_path, "explain", record)), tmp_path)
    said = capsys.readouterr().out
    assert "leave-one-out" in said and "causes found" in said
    assert (tmp_path / "curves-interests-attention.png").stat().st_size > 10_000
