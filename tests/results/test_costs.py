"""What tables of version 0 left out of their costs."""

from metajax.results import version0


def facts(experiment: str, **gradients: tuple[int, int]) -> dict:
    told = {f"A6 {arm}": {"training": a, "per_user": b} for arm, (a, b) in gradients.items()}
    return {"experiment": experiment, "gradients": told}


def test_inner_gradients_that_a_table_left_out_are_counted_and_marked():
    """MAML takes five inner gradients and the outer one: 100 tasks are 600 gradients, not 100."""
    found = version0.with_true_costs(facts("tables", MAML=(100, 0), ANIL=(10, 0), CNP=(100, 0)))
    assert found["gradients"] == {
        "A6 MAML": {"training": 600, "per_user": 5},
        "A6 ANIL": {"training": 210, "per_user": 20},
        "A6 CNP": {"training": 100, "per_user": 0},
    }
    assert "inner_steps" in found["gradients_corrected"]


def test_records_that_counted_right_stay_as_they_are():
    for right in (facts("maml", MAML=(600, 5)), facts("tables", CNP=(100, 0)), {"experiment": "x"}):
        assert version0.with_true_costs(right) == right
