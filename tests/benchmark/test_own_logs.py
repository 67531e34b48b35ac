"""Logs of one's own, of every kind: what is learned from them, and what is refused at the door."""

import dataclasses
import importlib
import math

import jax
import numpy as np
import pytest

from experiments.field.metaemb import metaemb
from experiments.large.sasrec import sasrec
from metajax.benchmark import harness, problem
from metajax.data import negatives
from metajax.data.histories import sequences
from metajax.data.sources import named
from metajax.data.table import Features, Interactions
from metajax.evaluation import evaluate, leaks, protocols
from metajax.settings import Data, SplitOptions
from metajax.types import Episode, Examples, UserError

RNG = np.random.default_rng(0)
ROWS = [
    (user, item, int(np.clip(round(3.2 + math.sin(user + 0.37 * item) + RNG.normal()), 1, 5)), n)
    for user in range(40)
    for n, item in enumerate(RNG.permutation(50)[: 22 + user % 12])
]
KINDS = {
    "stars": lambda s: s,
    "per cent": lambda s: 20 * s,
    "units": lambda s: (s - 1) / 4,
    "tens": lambda s: 5 * (s - 3),
    "half stars": lambda s: s / 2,
}


def log(folder, name: str, label=None, header: str = "rating", time: bool = True) -> str:
    """The path of a log that holds the rows with a label, or none."""
    columns = ["user", "item", *([header] if label else []), *(["time"] if time else [])]
    lines = [",".join(columns)]
    for user, item, stars, n in ROWS:
        cells = [user, item, *([label(stars)] if label else []), *([10**9 + n] if time else [])]
        lines.append(",".join(map(str, cells)))
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_unit_of_the_ratings_decides_nothing(kind, tmp_path):
    """All that is learned and chosen on is the same, so every verdict is; errors are told back."""
    one = problem.load(Data(log(tmp_path, "stars", KINDS["stars"])), SplitOptions(), 8)
    other = problem.load(Data(log(tmp_path, "other", KINDS[kind])), SplitOptions(), 8)
    span = KINDS[kind](5) - KINDS[kind](1)
    assert (one.table.scale, other.table.scale, other.unit) == ((1, 5), (1, 5), span / 4)
    assert not one.events and not other.events
    for a, b in zip(jax.tree.leaves(one.train), jax.tree.leaves(other.train), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    scores = {k: t.label for k, t in other.split.test.items()}
    np.testing.assert_allclose(scores["warm"], one.split.test["warm"].label, atol=1e-6)


@pytest.mark.parametrize("counted", [True, False])
def test_events_are_learned_among_items_that_nobody_met(counted, tmp_path):
    """Listening counts from 1 to 100,000, and clicks: labels stay small, lists are judged."""
    label = (lambda s: int(10**s)) if counted else None
    ready = problem.load(Data(log(tmp_path, "own", label, "plays")), SplitOptions(), 8)
    low, high = ready.table.scale
    assert ready.events and high <= 5 and set(ready.split.test) == {"warm", "user_cold"}
    met = {(user, item) for user, item, *_ in ROWS}
    is_event = ready.table.label > low
    pairs = list(zip(ready.table.user.tolist(), ready.table.item.tolist(), strict=True))
    assert {pair for pair, yes in zip(pairs, is_event, strict=True) if yes} == met
    assert not met & {pair for pair, yes in zip(pairs, is_event, strict=True) if not yes}
    assert len(set(pairs)) == len(pairs) and 0.5 < is_event.mean() < 0.8
    notes = harness.notes_of(ready)
    assert notes[0].startswith("Events stand among items drawn at random")
    assert "item-cold: left out, no user has enough rows for it." in notes


def test_an_event_and_what_is_drawn_beside_it_have_one_time_and_no_order():
    user, item = (x.ravel().astype(np.int32) for x in np.indices((30, 4)))
    time = np.arange(120)
    table = Interactions(
        "clicks", user, item, np.ones(120, np.float32), time, np.arange(30), np.arange(200),
        Features(), Features(), (0.0, 1.0),
    )  # fmt: skip
    grown = negatives.ratings_from_events(table)
    assert grown.time is not None and (np.diff(grown.time) >= 0).all() and len(grown) > 230
    second = grown.label[1:][np.diff(grown.time) == 0]
    assert 0.3 < second.mean() < 0.7, "an event stands first as often as second"
    assert not negatives.is_implicit(grown) and negatives.is_implicit(table)


def test_events_are_judged_by_their_order():
    score = np.array([[3.0, 2.0, 1.0, 9.0]])
    rows = Examples((), np.array([[4.0, 1.0, 2.0, 1.0]]), np.ones((1, 4)))
    found = jax.jit(evaluate.event_metrics(1.0))(score, Episode((), rows, rows), jax.random.key(0))
    assert float(found["auc"][0]) == pytest.approx(1 / 4)  # of 2 x 2 pairs one stands right
    ideal = 1 + 1 / math.log2(3)
    gained = 1 / math.log2(3) + 1 / math.log2(5)  # the events stand second and last
    assert float(found["ndcg@10"][0]) == pytest.approx(gained / ideal, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("melu", "knows users and items by their categories alone.* --users and --items"),
        ("metahin", "links items that share a value.* --paths, of a table that --items names"),
        ("paml", "reads who trusts whom.* take --dataset ciaodvd or synthetic"),
    ],
)
def test_what_an_experiment_needs_is_told_before_it_trains(name, told, tmp_path):
    path = log(tmp_path, "plain", KINDS["stars"], time=False)
    module = importlib.import_module(f"experiments.methods.{name}")
    config = dataclasses.replace(module.Config(), data=Data(path))
    ready = problem.load(config.data, config.split, 8)
    with pytest.raises(UserError, match=told):
        module.model(config, getattr(module, "prepare", lambda _, same: same)(config, ready))


def test_clicks_alone_are_no_lesson_in_clicking(tmp_path):
    config = metaemb.Config(data=Data(log(tmp_path, "clicks")))
    with pytest.raises(UserError, match="every row is a click"):
        metaemb.load(config, protocols.ctr_warmup())


def test_heads_share_the_width():
    with pytest.raises(UserError, match="--width 64 must be a multiple of twice --num-heads 3"):
        sasrec.build(sasrec.Config(num_heads=3), 10)


def test_an_order_needs_times(tmp_path):
    path = log(tmp_path, "plain", KINDS["stars"], time=False)
    with pytest.raises(UserError, match="name its column with --time"):
        sasrec.load(sasrec.Config(data=Data(path)))
    for protocol in ("first-k", "time", "stream", "leave-one-out"):
        with pytest.raises(UserError, match=r"by time|no time"):
            problem.load(Data(path), SplitOptions(protocol))


def test_people_with_too_few_items_are_left_out_of_an_order_and_counted(tmp_path, capsys):
    path = tmp_path / "a.csv"
    rows = [f"{u},{i},{10 * i}" for u in range(3) for i in range(2 if u == 1 else 4)]
    path.write_text("\n".join(["user,item,time", *rows]) + "\n")
    found = sasrec.load(sasrec.Config(data=Data(str(path))))
    assert found.owners.tolist() == [0, 2]
    assert "1 people with fewer than 3 items are left out" in capsys.readouterr().out
    path.write_text("\n".join(["user,item,time", *rows[4:6], *rows[0:2]]) + "\n")
    with pytest.raises(UserError, match="nobody has 3 items"):
        sequences.of_table(named.load(str(path)))


def test_repeats_and_ties_are_counted_below_the_table(tmp_path):
    path = tmp_path / "again.csv"
    lines = [
        f"{u},{i % 20},{1 + (u + i) % 5},{5 * (i // 10)}" for u in range(40) for i in range(30)
    ]
    path.write_text("\n".join(["user,item,rating,time", *lines]) + "\n")
    ready = problem.load(Data(str(path)), SplitOptions("first-k"), 8)
    told = leaks.counted(ready.split, ready.table)
    tasks = ready.split.test["user_cold"]  # rows 6 to 30 of 30: rows 21 to 25 repeat the first five
    assert f"user-cold: {5 * tasks.num_tasks} of {25 * tasks.num_tasks} query rows" in told[0]
    assert "100.0% of the rows share their time" in told[1] and "first-5" in told[1]
    random = problem.load(Data(str(path)), SplitOptions("users"), 8)
    assert not any("share their time" in line for line in harness.notes_of(random))
