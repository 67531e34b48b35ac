"""Tables of ratings by every measure; what an arm adapts to; arms that diverged."""

import dataclasses
import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from small_records import record

from metajax.results import records, tables

PROPER = {"mae_calibrated": 0.7, "mse_calibrated": 0.8, "log_loss": 1.25, "crps": 0.5}


def measured(extra: Mapping[str, Any] | None = None, **fields: Any) -> records.Record:
    """The small record with proper scores, which are the same for all users."""
    made = record(**fields)
    scores = dict(made.scores)
    for key in made.scores:
        if key.condition == records.ALL and key.metric == "mae":
            for metric, value in PROPER.items():
                scores[key._replace(metric=metric)] = np.full_like(made.scores[key], value)
    told = {"ordinal": {"levels": 5, "even": False, "step": 1.0}, **(extra or {})}
    return dataclasses.replace(made, scores=scores, extra=told)


def shown(made: records.Record, width: int = 200) -> str:
    screen = io.StringIO()
    tables.show(made, Console(file=screen, width=width, force_terminal=True, no_color=True))
    return screen.getvalue()


def test_a_table_of_ratings_leads_with_rmse_and_ndcg_then_mae_then_proper_scores():
    grid = tables.grid_of(measured())
    assert grid.headings == [
        "arm",
        "RMSE [95 %]",
        "nDCG@5 [95 %]",
        "MAE",
        "MAE cal.",
        "RMSE cal.",
        "log-loss",
        "CRPS",
        "MSE: MAML - arm",
        "nDCG@5: MAML - arm",
    ]
    assert grid.rows[0][0] == "user-cold (50)" and grid.sections == [0, 5]
    row = dict(zip(grid.headings, grid.rows[1], strict=True))
    assert row["arm"] == "  A2 fold-in"
    # MAE 1 + t / 1000 + 0.2, two seeds 0.01 apart from their mean: squared, plus 0.0001
    base = 1.0 + np.arange(50) / 1000
    rmse = np.sqrt(np.mean((base + 0.2) ** 2) + 1e-4)
    assert row["RMSE [95 %]"].startswith(f"{rmse:.4f} [")
    assert row["MAE"] == "1.2245" and row["MAE cal."] == "0.7000"
    assert row["RMSE cal."] == "0.8944", "the root of 0.8"
    assert row["log-loss"] == "1.2500" and row["CRPS"] == "0.5000"
    gap = np.mean(base**2 - (base + 0.2) ** 2)
    assert row["MSE: MAML - arm"].startswith(f"{gap:+.4f}*[")
    assert row["nDCG@5: MAML - arm"].startswith("+0.0")
    assert grid.bold == [4, 9] and grid.rows[4][-2:] == ["", ""]


@pytest.mark.parametrize("width", [80, tables.RATED_WIDE - 1, tables.RATED_WIDE])
def test_every_measure_is_readable_at_any_width(width):
    text = shown(measured(), width)
    assert "…" not in text and "A4 fine-tuned" in text and "user-cold (50)" in text
    assert ("RMSE [95 %]" in text) == (width >= tables.RATED_WIDE)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= width


def test_a_scale_that_is_not_of_stars_is_told():
    stars = " ".join(tables.grid_of(measured()).notes)
    assert "a distribution over 5 ratings" in stars and "continuous" not in stars
    jester = {"ordinal": {"levels": 41, "even": True, "step": 0.5}}
    told = " ".join(tables.grid_of(measured(jester)).notes)
    assert "41 evenly spaced levels stand for them" in told and "at most 0.25 away" in told


def test_an_arm_that_could_not_be_made_has_a_line_below_the_table(capsys):
    line = "A8 boosting is left out: boosting needs scikit-learn: pip install metajax[boosting]."
    grid = tables.grid_of(measured({"notes": [line]}))
    assert line in grid.notes
    tables.terminal(grid)
    assert line in capsys.readouterr().out, "brackets are no markup"


def test_controls_are_compared_in_the_first_measure():
    assert tables.gap(measured(), "user_cold", "A6 MAML").mean == pytest.approx(0.3**2 + 0.6, 0.05)
    gap = tables.gap(record(), "user_cold", "A6 MAML", metric="mae")
    assert gap.mean == pytest.approx(0.3)


def with_others(worse: float) -> records.Record:
    """The measured record of A3, whom shuffled labels do not hurt; another's support may."""
    made = measured(method="A3 joint")
    scores = dict(made.scores)
    for scenario in ("user_cold", "warm"):
        mine = made.of(scenario, "A3 joint", records.ALL, "mse")
        scores[records.Key(scenario, "A3 joint", records.N2, "mse")] = mine + worse
    return dataclasses.replace(made, scores=scores)


def test_what_an_arm_adapts_to_is_what_its_controls_show():
    assert tables.adaptation(measured(), "warm", "A6 MAML") == tables.TASTE
    assert tables.adaptation(with_others(0.1), "warm", "A3 joint") == tables.LEVEL
    assert tables.adaptation(with_others(0.0), "warm", "A3 joint") == tables.NOTHING
    cold = {k: v for k, v in record().scores.items() if k.condition != "k=0"}
    untried = dataclasses.replace(record(), scores=cold)
    assert tables.adaptation(untried, "warm", "A3 joint") == tables.UNTASTED
    assert tables.adaptation(record(), "warm", "A3 joint") == tables.NOTHING
    key = records.Key("warm", "A3 joint", "k=0", "mse")
    level = dataclasses.replace(record(), scores={**cold, key: record().scores[key] + 0.1})
    assert tables.adaptation(level, "warm", "A3 joint") == tables.LEVEL
    assert "A3 joint on warm adapts to the level only: it is as good with shuffled" in shown(
        with_others(0.1)
    )
    assert "A3 joint on warm adapts not at all: it is as good with shuffled" in shown(
        with_others(0.0)
    )
    assert "adapts" not in shown(measured())


def test_nobody_is_ahead_of_an_arm_that_diverged():
    far = {"A0 item mean": 0.3, "A2 fold-in": 0.2, "A4 fine-tuned": 2.0, "A6 MAML": 0.0}
    made = measured(offsets=far)
    assert tables.diverged(made, "warm", "A4 fine-tuned")
    assert not tables.diverged(made, "warm", "A2 fold-in")
    said = {"A2 fold-in": {"diverged": ["seed 0 at step 3"]}}
    assert tables.diverged(measured(settings=said), "warm", "A2 fold-in")
    rows = {row[0].strip(): row for row in tables.grid_of(made).rows}
    assert rows["A4 fine-tuned (diverged)"][-2:] == ["diverged", "diverged"]
    assert "*" in rows["A2 fold-in"][-2]


def test_an_arm_that_is_only_there_to_order_may_have_any_error():
    """What is judged by nDCG@5 has diverged if its scores are no numbers, not if they are large."""
    far = {"A0 item mean": 0.3, "A4 fine-tuned": 2.0, "A6 MAML": 0.0}
    made = measured(offsets=far)
    assert tables.diverged(made, "warm", "A4 fine-tuned", metric="mse")
    assert not tables.diverged(made, "warm", "A4 fine-tuned", metric="ndcg@5")
    assert tables.named(made, "warm", "A4 fine-tuned", "all", "ndcg@5") == "A4 fine-tuned"
    lost = {k: np.full_like(v, -np.inf) for k, v in made.scores.items() if k.metric == "ndcg@5"}
    none = dataclasses.replace(made, scores={**made.scores, **lost})
    assert tables.diverged(none, "warm", "A4 fine-tuned", metric="ndcg@5")


def test_controls_can_be_read_in_the_order_of_lists():
    """Shuffled labels raise the errors of A6 here, and do not change its lists."""
    made = record()
    assert tables.adaptation(made, "warm", "A6 MAML") == tables.TASTE
    assert tables.adaptation(made, "warm", "A6 MAML", "ndcg@5") == tables.NOTHING
