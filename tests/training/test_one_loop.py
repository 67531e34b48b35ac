"""There is one training loop: who else applies updates is named here, with the reason."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOOP = "metajax/training/updates.py"
OTHERS = {
    "metajax/learners/gradient/maml.py": "the inner loop, within a task",
    "metajax/learners/gradient/implicit.py": "the inner loop, within a task",
    "metajax/online/updaters.py": "outer steps within the scan over a stream, which has no end",
    "metajax/adapters/prune.py": "an optax transformation that must see the parameters one step on",
    "metajax/decide/actor.py": "actor and critic learn within the scan in which they act",
    "metajax/decide/values.py": "Q learns within the scan in which it acts and fills its buffer",
    "experiments/decisions/rl_arms.py": "a step's data are drawn by the parameters of that step",
    "experiments/decisions/ask_bandit.py": "the exact gradient of an enumerated bandit, in a scan",
    "experiments/speed/ours.py": "the comparison: what one writes first, without this library",
}
SIGNS = ("apply_updates(", "optax.incremental_update(")


def updaters() -> set[str]:
    """The files of the library, the experiments and the paper that apply updates themselves."""
    files = [f for top in ("metajax", "experiments", "paper") for f in (ROOT / top).rglob("*.py")]
    return {
        f.relative_to(ROOT).as_posix()
        for f in files
        if any(sign in f.read_text() for sign in SIGNS)
    }


def test_parameters_are_updated_in_one_place():
    found = updaters() - OTHERS.keys()
    assert found == {LOOP}, f"{found - {LOOP}}: train by metajax.training.loop.fit"


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_no_exception_outlives_its_reason(name):
    assert name in updaters(), f"{name} applies no updates any more: take it off the list"
