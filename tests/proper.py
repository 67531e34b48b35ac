"""What a record of ratings holds beside squared errors, wherever it has these."""

import numpy as np

from metajax.evaluation import ordinal
from metajax.results import records


def assert_proper(record: records.Record, condition: str) -> None:
    """Every arm with squared errors under a condition has nDCG@5, MAE and the proper scores.

    They are defined for the same tasks (S, T). An arm that only ranks is left alone.
    """
    having = [k for k in record.scores if k.metric == "mse" and k.condition == condition]
    assert having
    for key in having:
        defined = np.isfinite(record.scores[key])
        assert defined.any()
        for metric in ("ndcg@5", "mae", *ordinal.PROPER):
            found = record.scores[key._replace(metric=metric)]
            np.testing.assert_array_equal(np.isfinite(found), defined, err_msg=f"{key} {metric}")
