"""Sums over earlier events, against a look at every event."""

import numpy as np

from metajax.data.features import running


def test_sums_and_waits_are_those_of_a_look_at_every_earlier_event():
    rng = np.random.default_rng(0)
    key, time, value = rng.integers(0, 4, 50), rng.integers(100, 120, 50), rng.random((50, 2))
    asked, when = rng.integers(0, 6, 30), rng.integers(95, 125, 30)
    sums = running.before(key, time, value, asked, when)
    waits = running.since(key, time, asked, when)
    for i in range(30):
        mine = (key == asked[i]) & (time < when[i])
        np.testing.assert_allclose(sums[i], value[mine].sum(axis=0), atol=1e-9)
        assert waits[i] == (when[i] - time[mine].max() if mine.any() else np.inf)
