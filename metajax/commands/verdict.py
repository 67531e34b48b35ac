"""Which arm serves newcomers best: the served arrays themselves, judged on validation users.

Each arm adapts on the first 0, 1, 3 and 10 events of a validation user and on all, and is asked for
the query. Ratings: the root mean squared error of the ratings a person would be shown; the absolute
error would favor an arm that predicts the median. Events: nDCG@10 of the whole catalogue without
what the user's support holds.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from metajax.data.split import Split, Tasks
from metajax.data.table import Interactions
from metajax.results import intervals, plots, tables
from metajax.serving import linear
from metajax.serving.catalogue import Labels
from metajax.serving.index import highest

SHOTS = (0, 1, 3, 10, None)
"""Events that an arm adapts on; None is all of a user's support."""
RANKED = 2e9  # scores of a catalogue that one arm is judged by, at most
TOP = 10


class Verdict(NamedTuple):
    """The comparison of the arms.

    Attributes:
      metric: its name, as a table has it.
      error: whether it is an error, of which less is better.
      scores: arm -> (K, T) of each number of events and validation user; squared errors of ratings.
      chosen: the arm with the best mean; method: the one that is meta-learned.
      notes: sentences to stand below the table.
    """

    metric: str
    error: bool
    scores: dict[str, np.ndarray]
    chosen: str
    method: str
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """What is kept of it in ``model.json``."""
        curve = {arm: self.curve(arm).round(5).tolist() for arm in self.scores}
        users = next(iter(self.scores.values())).shape[1]
        return {
            "metric": self.metric,
            "events": ["all" if k is None else k for k in SHOTS],
            "users": users,
            "arms": curve,
        }

    def curve(self, arm: str) -> np.ndarray:
        """The metric (K,) of an arm after each number of events."""
        return self._shown(self.scores[arm].mean(axis=1))

    def mean(self, arm: str) -> float:
        """The metric of an arm over all numbers of events."""
        return float(self._shown(self.scores[arm].mean()))

    def _shown(self, mean: Any) -> Any:
        return np.sqrt(mean) if self.error else mean


def compare(
    forms: Mapping[str, linear.Form],
    table: Interactions,
    parts: Split,
    labels: Labels,
    method: str,
) -> Verdict:
    """Judges every arm on the validation users of a split, and chooses.

    Args:
      forms: arm -> its arrays.
      table: the log, with its items.
      parts: the split that the arms were trained with.
      method: the arm that is meta-learned.
    """
    (tasks,) = parts.valid.values()
    judged = _ranking if labels.events else _errors
    scores = {arm: judged(form, table, tasks, labels) for arm, form in forms.items()}
    sign = -1.0 if labels.events else 1.0
    mean = {arm: sign * float(values.mean()) for arm, values in scores.items()}
    chosen = min(mean, key=lambda arm: mean[arm])
    metric = f"nDCG@{TOP}" if labels.events else "root mean squared error"
    made = Verdict(metric, not labels.events, scores, chosen, method, [])
    return made._replace(notes=_sentences(made, mean))


def _sentences(made: Verdict, mean: Mapping[str, float]) -> list[str]:
    """What the comparison says: the arm saved, and whether meta-learning was worth it."""
    others = {arm: value for arm, value in mean.items() if arm != made.method}
    if made.method not in mean:
        return [f"saved: {made.chosen}; no meta-learner was trained"]
    best = min(others, key=lambda arm: others[arm])
    gap = (made.scores[made.method] - made.scores[best]).mean(axis=0)
    found = intervals.mean_interval(gap)
    what = "squared error, " if made.error else ""
    told = (
        f"{made.method} less {best}, {what}mean over all columns: {found.mean:+.4f} "
        f"[{found.low:+.4f}, {found.high:+.4f}] on {found.num_units} users, "
        f"{'below' if made.error else 'above'} 0 is better"
    )
    if made.chosen == made.method:
        clear = found.high < 0 if made.error else found.low > 0
        sure = "" if clear else ", but the interval holds 0: more users would tell"
        return [f"saved: {made.method}, meta-learned{sure}", told]
    return [
        f"saved: {made.chosen}: on this log an arm without meta-learning is better or as good",
        told,
    ]


def _shot(tasks: Tasks, i: int, shots: int | None) -> tuple[np.ndarray, ...]:
    """Support items and labels, query items and labels, and all support items, of a task."""
    assert tasks.shots is not None
    begin, kept = int(tasks.start[i]), int(tasks.shots[i])
    end, cut = begin + int(tasks.length[i]), kept if shots is None else min(kept, shots)
    other, label = tasks.other, tasks.label
    rows, query = slice(begin, begin + cut), slice(begin + kept, end)
    return other[rows], label[rows], other[query], label[query], other[begin : begin + kept]


def _errors(form: linear.Form, table: Interactions, tasks: Tasks, labels: Labels) -> np.ndarray:
    """Mean squared errors (K, T) of the ratings that would be shown."""
    del table
    out = np.zeros((len(SHOTS), tasks.num_tasks))
    for k, shots in enumerate(SHOTS):
        for i in range(tasks.num_tasks):
            items, label, asked, true, _ = _shot(tasks, i, shots)
            state = linear.adapt(form, linear.start(form), items, label)
            score = np.clip(linear.predict(form, state, asked), labels.low, labels.high)
            out[k, i] = ((score - true) ** 2).mean()
    return out


def _ranking(form: linear.Form, table: Interactions, tasks: Tasks, labels: Labels) -> np.ndarray:
    """nDCG@10 (K, T) of the catalogue, without the support, for the events of the query."""
    del labels
    most = max(20, int(RANKED / (table.num_items * max(form.x.shape[1], 1) * len(SHOTS))))
    num = min(tasks.num_tasks, most)
    gain = 1 / np.log2(np.arange(TOP) + 2)
    out = np.zeros((len(SHOTS), num))
    for k, shots in enumerate(SHOTS):
        for i in range(num):
            items, label, asked, true, hidden = _shot(tasks, i, shots)
            state = linear.adapt(form, linear.start(form), items, label)
            score = linear.predict(form, state)
            score[hidden] = -np.inf
            right = np.isin(highest(score, TOP), asked[true > 0])
            out[k, i] = (right * gain[: len(right)]).sum() / gain[: int((true > 0).sum())].sum()
    return out


def grid(made: Verdict, name: str) -> tables.Grid:
    """The comparison as a table: a row for each arm, the chosen one in bold."""
    arms = list(made.scores)
    users = made.scores[arms[0]].shape[1]
    heads = ["all" if k is None else f"{k}" for k in SHOTS]
    rows = [
        [
            arm,
            *(f"{v:.4f}" for v in made.curve(arm)),
            f"{made.mean(arm):.4f}",
        ]
        for arm in arms
    ]
    better = "lower" if made.error else "higher"
    return tables.Grid(
        f"{name}: {made.metric} after so many events, {users} validation users",
        ["arm", *heads, "mean"],
        rows,
        notes=[*made.notes, f"{better} is better; choices were made on these users"],
        bold=[arms.index(made.chosen)],
    )


def plotted(made: Verdict, path: pathlib.Path) -> pathlib.Path:
    """The picture of the comparison: a curve for each arm over the number of events."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with plots.page(path) as axes:
        for i, arm in enumerate(made.scores):
            name = f"{arm} (saved)" if arm == made.chosen else arm
            axes.plot(range(len(SHOTS)), made.curve(arm), label=name, **plots.look(i))
        axes.set_xticks(range(len(SHOTS)), ["all" if k is None else str(k) for k in SHOTS])
        users = next(iter(made.scores.values())).shape[1]
        axes.set_xlabel(f"events of a new person ({users:,} validation users)")
        axes.set_ylabel(made.metric)
        plots.legend(axes, len(made.scores))
    return path


CARD = """# {name}

A recommender for new people, written by `metajax train`: **{arm}**.

- Log: {users:,} users, {items:,} items, {rows:,} rows; {what}.
- Use: `metajax recommend FOLDER --ratings "{first}"`, `metajax serve FOLDER`.
- Unknown people start as the average person does and adapt with each event; what they have met is
  left out of their list.

{table}
![k-shot curves](k_shot.png)

## Limits

- Item estimates are of the training users' events alone; a newer log needs a new training.
- The arm was chosen on the users of the table, so that its own row is a little too good.
- The folder holds the events of the log's users (`users.npz`): treat it as you treat the log.
"""


def card(about: Mapping[str, Any], made: Verdict, labels: Labels) -> str:
    """The text of a model folder's README.md."""
    log = about["log"]
    what = {
        "ratings": f"ratings on the scale {labels.low:g} to {labels.high:g}",
        "counts": "counts of events, met as log(1 + count)",
        "clicks": "events without a rating",
    }[labels.kind]
    first = "ITEM" if labels.events else f"ITEM={labels.high:g}"
    table = tables.markdown(grid(made, log["name"]))
    return CARD.format(arm=about["arm"], what=what, first=first, table=table, **log)
