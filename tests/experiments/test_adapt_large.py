"""`adapt_large`: every row, from a table with titles to the record, on a world without a model."""

import pathlib

import numpy as np
import pytest
from proper import assert_proper

from experiments.large.adapt_large import adapt_large
from metajax.models.language import vectors
from metajax.settings import Data, Output, Training


@pytest.mark.slow
def test_every_row_stands_in_a_record_that_is_named_after_the_text_model(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    draw = lambda texts, model, path: np.random.default_rng(5).normal(size=(len(texts), 6))
    monkeypatch.setattr(vectors, "cached", draw)
    config = adapt_large.Config(
        output=Output(tmp_path / "out"),
        data=Data("synthetic"),
        training=Training(seeds=2, num_steps=2, num_tasks=2, num_support=10),
        text_model=pathlib.Path("models/Some-1B.Q8_0.gguf"),
        text_dim=4,
        hidden=4,
        extra=2,
    )
    record = adapt_large.main(config)
    assert (tmp_path / "out" / "adapt_large-some-1b.q8_0-synthetic.record").is_file()
    rows = {adapt_large.RIDGE, adapt_large.LAST, adapt_large.META_LORA, adapt_large.CONTEXT}
    rows |= {adapt_large.NO_ADAPTATION, adapt_large.FULL, adapt_large.LORA, adapt_large.FROZEN_HEAD}
    assert rows <= set(record.names())
    for row in rows:
        found = record.of("new people", row, "k=5", "ndcg@5")
        assert found.shape[0] == 2 and np.isfinite(found).any()
    assert_proper(record, "k=50")
    assert record.extra["ordinal"]["levels"] > 1
    kept = {arm.name: arm.bytes_per_task for arm in record.arms}
    assert kept[adapt_large.NO_ADAPTATION] == 0 and kept[adapt_large.LORA]
    assert set(record.extra["milliseconds"]) == set(record.names())
