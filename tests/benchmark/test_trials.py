"""A search compiles a training once, and finds what it would find with constants."""

import pytest

from experiments.field.tables import contenders
from metajax.benchmark import problem
from metajax.benchmark.trials import trials
from metajax.data import split
from metajax.data.worlds import latent
from metajax.settings import Training
from metajax.tuning.search import middle

TRAINING = Training(seeds=1, num_steps=6, num_tasks=4, num_support=16)


@pytest.fixture(scope="module")
def ready():
    table = latent.rating_log(num_users=120, num_items=60)
    return problem.problem_of(table, split.melu(table, valid_users=0.3), 16)


def compared(arm, ready):
    """The settings that two trials build from, with numbers as arguments and as constants.

    The trials differ in their numbers alone, and their errors must be those of constants, but for
    what another order of the compiler's rounding does: the suite compiles with options of its own.
    """
    module, numbers = (
        contenders.CONTENDERS[arm].module,
        contenders.CONTENDERS[arm].numbers("ratings"),
    )
    first = middle(contenders.CONTENDERS[arm].space)
    second = first | {name: 1.3 * first[name] for name in numbers}
    built = []

    def build(settings):
        built.append(settings)
        return module.build(module.Config(training=TRAINING, **settings), ready)

    def errors(numbers):
        run, watched = trials(build, ready, TRAINING, numbers), []
        found = [run(x, lambda step, told: watched.append(told)) for x in (first, second)]
        return found, watched, len(built)

    (found, watched, once), (alone, watched_alone, _) = errors(numbers), errors(())
    assert found == pytest.approx(alone, rel=1e-6) and found[0] != found[1], arm
    for told, told_alone in zip(watched, watched_alone, strict=True):
        assert told == pytest.approx(told_alone, rel=1e-6), arm
    return built[:once], built[once:]


def test_one_program_serves_all_values_of_its_numbers(ready):
    together, alone = compared("A6 LWA", ready)
    assert len(alone) == 2 * len(together), "each constant has a program of its own"
    values = [settings["outer_rate"] for settings in alone]
    assert len(set(values)) == 2 and all(isinstance(value, float) for value in values)


@pytest.mark.slow
@pytest.mark.parametrize("arm", contenders.CONTENDERS)
def test_a_search_finds_for_every_arm_what_constants_would_give(arm, ready):
    together, alone = compared(arm, ready)
    assert len(together) < len(alone)


def test_a_choice_has_a_program_of_its_own(ready):
    rates, asked = {"low": 1e-4, "high": 1e-2}, []

    def build(settings):
        asked.append(settings["rate"])
        config = contenders.lwa.Config(training=TRAINING, outer_rate=rates[settings["rate"]])
        return contenders.lwa.build(config, ready)

    run = trials(build, ready, TRAINING)
    assert run({"rate": "low"}, print) != run({"rate": "high"}, print)
    assert set(asked) == set(rates)
