"""The AUC as a mean of parts: against counting pairs, and its error against DeLong's."""

import numpy as np
import pytest

from metajax.evaluation.pooled_auc import auc_parts, in_blocks
from metajax.types import UserError

RNG = np.random.default_rng(0)
SCORE, LABEL = RNG.integers(0, 6, 60).astype(float), RNG.integers(0, 2, 60)


def pairs(score, label):
    """Ones minus zeros: 1 where the one is above, 1/2 in a tie."""
    gap = score[label == 1][:, None] - score[label == 0][None]
    return (gap > 0) + 0.5 * (gap == 0)


def test_the_mean_of_parts_is_the_share_of_pairs_in_order():
    assert auc_parts(SCORE, LABEL).mean() == pytest.approx(pairs(SCORE, LABEL).mean())


def test_the_error_of_the_mean_is_that_of_delong():
    won = pairs(SCORE, LABEL)
    ones, zeros = won.shape
    expected = won.mean(axis=1).var() / ones + won.mean(axis=0).var() / zeros
    assert auc_parts(SCORE, LABEL).var() / len(LABEL) == pytest.approx(expected)


def test_blocks_of_units_keep_the_mean_and_whole_units():
    unit = np.repeat(np.arange(20), 3)
    blocks = in_blocks(auc_parts(SCORE, LABEL), unit, 7)
    assert blocks.shape == (7,) and blocks.mean() == pytest.approx(pairs(SCORE, LABEL).mean())
    alone = in_blocks(np.eye(60)[3], unit, 20)
    assert (alone > 0).sum() == 1 and in_blocks(SCORE, unit, 500).shape == (20,)


def test_a_block_with_more_rows_is_not_thereby_higher():
    unit = np.array([0, 0, 0, 0, 0, 1])
    np.testing.assert_allclose(in_blocks(np.full(6, 0.7), unit, 2), 0.7)


def test_labels_that_are_all_alike_get_one_line():
    with pytest.raises(UserError, match="all labels are alike"):
        auc_parts(SCORE, np.ones(60))
