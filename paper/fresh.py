"""Splits that were registered before they were opened: tables, and what became of the claims."""

from collections.abc import Sequence

import numpy as np

from metajax.benchmark.mixture import A10, A11, MIXED
from metajax.results import records, registered, tables
from metajax.results.registered import Comparison
from paper.claims import listed, number
from paper.edition import Results

WHO = {
    "user_cold": "new users",
    "item_cold": "new items",
    "both_cold": "both",
    "warm": "known ones",
}
MEASURE = {"mse": "squared error", "mae": "absolute error", "ndcg@5": "nDCG@5"}


def fresh_tables(r: Results) -> dict[str, tables.Grid]:
    """Name -> a method minus each arm, in one measure, in every place that was registered.

    Registrations of the same method and splits stand side by side.
    """
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in r.registered:
        key = (one.record.method, one.told["dataset"], repr(one.told["split_seeds"]))
        groups.setdefault(key, []).append(one)
    found = {}
    for place, group in enumerate(groups.values(), 1):
        told, label = group[0].told, records.label(group[0].record.method)
        for metric in told["primary"]:
            name = f"fresh-{place}-{told['dataset']}-{label}-{metric}".lower()
            grid = _grid(group, metric, _splits(group[0], r))
            found[name.replace(" ", "-").replace("@", "-")] = grid
    return found


def _grid(group: Sequence[Comparison], metric: str, splits: str) -> tables.Grid:
    first, method = group[0], records.label(group[0].record.method)
    places = [(one, *place) for one in group for place in one.places()]
    rows = []
    for arm in dict.fromkeys(a for one in group for a in one.record.names(records.BASELINE)):
        cells = [arm]
        for found, scenario, when in places:
            gap = found.gaps(scenario, metric, when).get(arm)
            star = "*" if gap and found.ahead(scenario, metric, arm, when) else ""
            missing = "diverged" if arm in found.record.names() else ""
            cells.append(f"{gap.found:+.4f}{star}" if gap else missing)
        rows.append(cells)
    heads = [f"{registered.place(s, when)} ({found.size(s):,})" for found, s, when in places]
    note = (
        f"The {method} minus the arm, over {number(len(first.splits))} fresh splits and "
        "all their tasks (number in parentheses), with the 95 % interval of a two-way bootstrap. "
        "A star: the method is ahead, and p is below .05 after Holm over the arms of the column."
    )
    title = f"{method} on fresh splits of {splits}: difference in {MEASURE.get(metric, metric)}"
    return tables.Grid(title, ["arm", *heads], rows, 1, [note])


def fresh_splits(r: Results) -> str:
    """How many splits, and how many new users they have; empty without records."""
    drawn: dict[str, dict[str, int]] = {}
    for found in r.registered:
        users = {one.split.checksum: one.tasks["user_cold"] for one in found.splits if one.split}
        drawn.setdefault(found.told["dataset"], {}).update(users)
    draws = [
        f"{number(len(users))} new draws of the split of {dataset} "
        f"({sum(users.values()):,} new users in all)"
        for dataset, users in drawn.items()
    ]
    return listed(draws)


def claims_table(found: Sequence[Comparison]) -> tables.Grid:
    """Of each registration, where its claim holds, and what the mixture is made of."""
    metrics = list(dict.fromkeys(metric for one in found for metric in one.told["primary"]))
    heads = [f"holds in {MEASURE.get(metric, metric)} for" for metric in metrics]
    rows = []
    for one in found:
        label, seeds = records.label(one.record.method), one.told["split_seeds"]
        cells = [f"{label}, {one.told['dataset']}", f"{seeds[0]} to {seeds[-1]}"]
        for metric in metrics:
            held = _where(one, metric) or f"none of {listed([_whom(*p) for p in one.places()])}"
            cells.append(held if metric in one.told["primary"] else "")
        rows.append([*cells, *(_weights(one, kind) for kind in ("rated", "unrated"))])
    note = (
        "A claim holds where the method is ahead of every arm that is no meta-learner. Weights: "
        "those of the meta-learner and of the boosting arms together, mean over the splits."
    )
    heads = ["claim", "splits", *heads, "weights, rated items", "weights, unrated items"]
    return tables.Grid("what was registered, and what became of it", heads, rows, 2, [note])


def _weights(found: Comparison, kind: str) -> str:
    """How much of the mixture is the meta-learner and how much boosting; empty if it is none."""
    if found.record.method != MIXED:
        return ""
    each = [one.arm(MIXED).settings.get(f"weights, items {kind}", {}) for one in found.splits]
    of = lambda what: np.mean([sum(v for arm, v in one.items() if what in arm) for one in each])
    return f"{of('A6'):.2f} and {of('A8'):.2f}"


def _where(found: Comparison, metric: str) -> str:
    """For whom the method is ahead of every arm that is no meta-learner, in a measure."""
    held = [(s, when) for s, when in found.places() if not found.not_beaten(s, metric, when)]
    return listed([_whom(*place) for place in held])


def _whom(scenario: str, when: str) -> str:
    """The tasks of a scenario, and how many of their ratings are shown if not all are."""
    ratings = registered.place(scenario, when).partition(", ")[2]
    return f"{WHO[scenario]} with {ratings}" if ratings else WHO[scenario]


def _splits(found: Comparison, r: Results) -> str:
    """The data set; with its seeds, where another registration is about other splits of it."""
    dataset, seeds = found.told["dataset"], found.told["split_seeds"]
    others = [one.told for one in r.registered if one.told["dataset"] == dataset]
    if all(told["split_seeds"] == seeds for told in others):
        return dataset
    return f"{dataset} (splits {seeds[0]} to {seeds[-1]})"


def fresh_headline(r: Results) -> str:
    """In how many of the registered places each method is ahead; empty without records."""
    counts: dict[tuple[str, str], dict[str, list[bool]]] = {}
    for found in r.registered:
        who = records.label(found.record.method), found.told["dataset"]
        for metric in found.told["primary"]:
            won = [not found.not_beaten(s, metric, when) for s, when in found.places()]
            counts.setdefault(who, {}).setdefault(MEASURE.get(metric, metric), []).extend(won)
    each = [
        f"the {method} on {dataset} in "
        + listed([f"{number(sum(w))} of {number(len(w))} places in {m}" for m, w in won.items()])
        for (method, dataset), won in counts.items()
    ]
    return "; ".join(each)


def further_table(r: Results) -> tables.Grid | None:
    """The mixture minus the same without the meta-learner, and with further trees in its place."""
    others, rows, measures = (A10, A11), [], []
    for found in r.registered:
        metric = found.told["primary"][0]
        for scenario, when in found.places():
            gaps = found.gaps(scenario, metric, when)
            if found.record.method == MIXED and A11 in gaps:
                where = [_splits(found, r), registered.place(scenario, when)]
                cells = [_marked(gaps[arm], metric) if arm in gaps else "" for arm in others]
                rows.append([*where, f"{found.size(scenario):,}", *cells])
                measures.append(MEASURE.get(metric, metric))
    note = (
        f"The mixture minus the arm in {listed(list(dict.fromkeys(measures)))}, on the scale of "
        "each data set's ratings, with the 95 % interval of a two-way bootstrap over splits and "
        "tasks. A star: the mixture is better; a dagger: the arm is; p is below .05 after Holm "
        "over the arms of the place, not over places."
    )
    heads = ["data set", "tasks", "number of tasks", *(f"minus {arm}" for arm in others)]
    title = "what the ridge head adds to the mixture, and what it adds beyond further trees"
    return tables.Grid(title, heads, rows, 2, [note]) if rows else None


def _marked(gap: registered.Gap, metric: str) -> str:
    """A difference with its interval, and who is ahead if that stands after Holm."""
    ahead, behind = (bool(arms) for arms in registered.told_apart({"arm": gap.found}, metric))
    mark = "*" if ahead else "†" if behind else ""
    return f"{gap.found:+.4f}" + (mark if gap.p < registered.ALPHA else "")


def fresh_by_ratings(r: Results) -> str:
    """After which numbers of ratings the mixture is ahead of, or behind, an arm; or empty."""
    ahead, behind, shots = [], [], []
    for found in mixtures_by_ratings(r):
        for metric in found.told["primary"]:
            where = f"in {MEASURE.get(metric, metric)} on {_splits(found, r)}"
            each = found.by_ratings("user_cold", metric)
            apart = {k: registered.told_apart(gaps, metric) for k, gaps in each.items()}
            shots = list(each)
            won = listed([k for k, (less, _) in apart.items() if len(less) == len(each[k])])
            lost = listed([k for k, (_, more) in apart.items() if more])
            ahead.append(f"after {won or 'none of these'} {where}")
            behind += [f"after {lost} {where}"] if lost else []
    if not ahead:
        return ""
    others = (
        f"an arm is ahead of it {listed(behind)}" if behind else "nowhere is an arm ahead of it"
    )
    each = "; ".join(ahead)
    return f"of {listed(shots)} ratings it is ahead of every such arm {each}; {others}"


def mixtures_by_ratings(r: Results) -> list[Comparison]:
    """The comparisons of the mixture on tasks as they are that have scores of fewer ratings."""
    return [
        found
        for found in r.registered
        if found.record.method == MIXED and found.conditions == [records.ALL]
        if found.by_ratings("user_cold", found.told["primary"][0])
    ]
