"""The recipes of `sasrec`: each trains, learns what comes next, and stands in the table."""

import numpy as np
import pytest

from experiments.large.sasrec import sasrec
from metajax.data.histories import sequences as histories
from metajax.evaluation import next_item
from metajax.settings import Output


def walkers() -> histories.Sequences:
    """People who walk around a circle of twelve items, one step at a time."""
    place = np.arange(40)[:, None] * 5 + np.arange(8)[None, :]
    return histories.assemble("circle", np.repeat(np.arange(40), 8), (place % 12).reshape(-1))


def test_each_recipe_is_what_it_says():
    config = sasrec.Config(drawn=500)
    of = lambda name: sasrec.recipe_of(name, config, 90)
    assert of("gbce").num_negatives == 90 and of("gbce").shape == sasrec.build(config, 90).shape
    assert of("esasrec").shape.gated_residual and of("esasrec").popular == 0.5
    assert of("hstu").shape.pointwise and of("hstu").num_negatives == 0


@pytest.mark.slow
def test_every_recipe_learns_to_walk(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sasrec, "load", lambda config: walkers())
    options = {"window": 6, "width": 16, "num_layers": 1, "epochs": 200, "dropout": 0.0}
    options |= {"drawn": 8, "rate": 0.01}
    config = sasrec.Config(Output(tmp_path / "out"), also=("gbce", "esasrec", "hstu"), **options)
    record = sasrec.main(config)
    for arm in (sasrec.SASREC, *sasrec.RECIPES.values()):
        hit = record.of("leave-one-out", arm, next_item.UNMASKED, "hit@5")
        assert hit.mean() > 0.9, arm
    assert record.of("leave-one-out", "popularity", next_item.UNMASKED, "hit@5").mean() < 0.8
