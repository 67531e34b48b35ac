"""The world of two tasks that are as alike as one wishes."""

import jax
import numpy as np
import pytest

from metajax.data.worlds.correlated import CorrelatedTasks


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_rho_is_the_cosine_of_the_weights(rho):
    one, two = np.asarray(CorrelatedTasks(rho=rho).weights)
    assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) == pytest.approx(rho, abs=1e-5)


def test_labels_correlate_the_more_the_more_alike_tasks_are():
    found = []
    for rho in (0.0, 0.5, 1.0):
        _, label = CorrelatedTasks(rho=rho).sample(jax.random.key(0), 4_000)
        found.append(np.corrcoef(np.asarray(label).T)[0, 1])
    assert abs(found[0]) < 0.1 and found[0] < found[1] < found[2] and found[2] > 0.95
