"""Splits that were registered before they were opened: tables, and what became of the claims."""

from collections.abc import Sequence

import numpy as np

from metajax.benchmark.mixture import MIXED
from metajax.results import records, registered, tables
from metajax.results.registered import Comparison
from paper.claims import counted, listed, number
from paper.edition import Results

WHO = {
    "user_cold": "new users",
    "item_cold": "new items",
    "both_cold": "both",
    "warm": "known ones",
}
MEASURE = {"mse": "squared error", "mae": "absolute error", "ndcg@5": "nDCG@5"}


def measure(metric: str) -> str:
    """A metric in words."""
    return MEASURE.get(metric, metric)


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
            grid = _grid(group, metric, splits_of(group[0], r))
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
        f"The {method} minus the arm over {number(len(first.splits))} fresh splits (number of "
        "tasks in parentheses), with the 95 % interval of a two-way bootstrap. Star: ahead, p "
        "below .05 after Holm over the arms of the column."
    )
    title = f"{method} on fresh splits of {splits}: difference in {measure(metric)}"
    return tables.Grid(title, ["arm", *heads], rows, 1, [note])


def fresh_splits(r: Results) -> str:
    """How many splits, and how many new users they have; empty without records."""
    drawn: dict[str, dict[str, int]] = {}
    for found in r.registered:
        users = {one.split.checksum: one.tasks["user_cold"] for one in found.splits if one.split}
        drawn.setdefault(found.told["dataset"], {}).update(users)
    draws = [
        f"{number(len(users))} of {dataset} ({sum(users.values()):,} new users in all)"
        for dataset, users in drawn.items()
    ]
    return listed(draws)


def claims_table(found: Sequence[Comparison]) -> tables.Grid:
    """Of each registration, where its claim holds, and what the mixture is made of."""
    metrics = list(dict.fromkeys(metric for one in found for metric in one.told["primary"]))
    rows = []
    for one in found:
        label, seeds = records.label(one.record.method), one.told["split_seeds"]
        cells = [label, one.told["dataset"], f"{seeds[0]} to {seeds[-1]}", _everywhere(one)]
        cells += [_held(one, metric) if metric in one.told["primary"] else "" for metric in metrics]
        rows.append([*cells, *(_weights(one, kind) for kind in ("rated", "unrated"))])
    note = (
        "A claim holds where the method is ahead of every arm that is no meta-learner and did not "
        "diverge. Weights: those of the meta-learner and of all boosting arms together, for items "
        "with and without ratings, mean over the splits."
    )
    heads = ["method", "data set", "splits", "claimed for"]
    heads += [f"holds in {measure(metric)} for" for metric in metrics]
    heads += ["weights, rated", "weights, unrated"]
    title = "What was registered, and what became of it"
    return tables.Grid(title, heads, rows, len(heads) - 2, [note])


def _everywhere(found: Comparison) -> str:
    """All that a registration is about: for whom, and after how many ratings."""
    who = listed([WHO[s] for s in found.told["scenarios"]])
    shots = [when.removeprefix("k=") for _, when in found.places() if when != records.ALL]
    return f"{who}, {listed(list(dict.fromkeys(shots)))} ratings" if shots else who


def _held(found: Comparison, metric: str) -> str:
    """For whom the method is ahead of every arm that is no meta-learner, in a measure."""
    places = found.places()
    held = [place for place in places if not found.not_beaten(place[0], metric, place[1])]
    if len(held) in (0, len(places)):
        return "all" if held else "none"
    return listed([_whom(*place) for place in held])


def _whom(scenario: str, when: str) -> str:
    """The tasks of a scenario, and how many of their ratings are shown if not all are."""
    ratings = registered.place(scenario, when).partition(", ")[2]
    return f"{WHO[scenario]} with {ratings}" if ratings else WHO[scenario]


def _weights(found: Comparison, kind: str) -> str:
    """How much of the mixture is the meta-learner and how much boosting; empty if it is none."""
    if found.record.method != MIXED:
        return ""
    each = [one.arm(MIXED).settings.get(f"weights, items {kind}", {}) for one in found.splits]
    of = lambda what: np.mean([sum(v for arm, v in one.items() if what in arm) for one in each])
    return f"{of('A6'):.2f} and {of('A8'):.2f}"


def splits_of(found: Comparison, r: Results) -> str:
    """The data set; with its seeds, where another registration is about other splits of it."""
    dataset, seeds = found.told["dataset"], found.told["split_seeds"]
    others = [one.told for one in r.registered if one.told["dataset"] == dataset]
    if all(told["split_seeds"] == seeds for told in others):
        return dataset
    return f"{dataset} (splits {seeds[0]} to {seeds[-1]})"


def at_home(r: Results) -> str:
    """In how many registered places of the edition's data the mixture is ahead; or empty."""
    of = [found for found in r.registered if found.told["dataset"] == r.edition.dataset]
    of = [found for found in of if found.record.method == MIXED]
    return _places(of) if of else ""


def ridge_alone(r: Results) -> str:
    """Where methods that are no mixture are ahead of all that are no meta-learners; or empty."""
    of = [found for found in r.registered if found.record.method != MIXED]
    return _places(of) if of else ""


def elsewhere(r: Results) -> str:
    """Where the mixture is ahead on other data than the edition's; empty without."""
    of = [found for found in r.registered if found.record.method == MIXED]
    of = [found for found in of if found.told["dataset"] != r.edition.dataset]
    if not of:
        return ""
    logs = dict.fromkeys(found.told["dataset"] for found in of)
    return f"{counted(len(logs), 'other log')} ({listed(list(logs))}), {_places(of)}"


def _places(of: Sequence[Comparison]) -> str:
    """In how many of the places of some registrations the claim holds, measure by measure."""
    won: dict[str, list[bool]] = {}
    for found in of:
        for metric in found.told["primary"]:
            held = [not found.not_beaten(s, metric, when) for s, when in found.places()]
            won.setdefault(measure(metric), []).extend(held)
    totals = {len(each) for each in won.values()}
    if len(totals) > 1:
        return listed(
            [f"in {number(sum(w))} of {counted(len(w), 'place')} in {m}" for m, w in won.items()]
        )
    places = counted(max(totals), "place")
    if not any(map(any, won.values())):
        return f"in none of {places}, in {' or '.join(won)}"
    (first, held), *others = won.items()
    rest = [f"in {number(sum(w))} of them in {m}" for m, w in others]
    return listed([f"in {number(sum(held))} of {places} in {first}", *rest])


def holds_on(r: Results) -> str:
    """Of each registration of the mixture on the edition's data, in which places of its first
    measure it holds; empty without."""
    parts = []
    for found in r.registered:
        if found.record.method != MIXED or found.told["dataset"] != r.edition.dataset:
            continue
        metric, seeds, places = found.told["primary"][0], found.told["split_seeds"], found.places()
        won = [_whom(*p) for p in places if not found.not_beaten(p[0], metric, p[1])]
        share = f"{number(len(won))} of {number(len(places))}"
        if len(won) == len(places):
            share = f"all {number(len(places))}"
        who = f" ({listed(won)})" if won else ""
        parts.append(f"{seeds[0]} to {seeds[-1]} in {share}{who}")
    return "; on ".join(parts)
