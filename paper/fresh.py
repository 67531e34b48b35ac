"""Splits that were registered before they were opened: tables, and what became of the claims."""

import numpy as np

from metajax.benchmark.mixture import A10, MIXED
from metajax.results import records, tables
from metajax.results.registered import REGISTERED, Comparison
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
    """Name -> the method of a registration minus each arm, in each scenario, in one measure."""
    found = {}
    for place, one in enumerate(r.registered, 1):
        for metric in one.told["primary"]:
            name = f"fresh-{place}-{records.label(one.record.method)}-{metric}".lower()
            found[name.replace(" ", "-").replace("@", "-")] = _grid(one, metric, _splits(one, r))
    return found


def _grid(found: Comparison, metric: str, splits: str) -> tables.Grid:
    told, method = found.told, records.label(found.record.method)
    rows = []
    for arm in found.record.names(records.BASELINE):
        cells = [arm]
        for scenario in told["scenarios"]:
            gap = found.gaps(scenario, metric).get(arm)
            star = "*" if gap and found.ahead(scenario, metric, arm) else ""
            cells.append(f"{gap.found:+.4f}{star}" if gap else "diverged")
        rows.append(cells)
    places = told["scenarios"]
    heads = ["arm", *(f"{s.replace('_', '-')} ({found.size(s):,})" for s in places)]
    note = (
        f"The {method} minus the arm, over {number(len(told['split_seeds']))} fresh splits and "
        "all their tasks (number in parentheses), with the 95 % interval of a two-way bootstrap. "
        "A star: the method is ahead, and p is below .05 after Holm over the arms of the column."
    )
    title = f"{method} on fresh splits of {splits}: difference in {MEASURE.get(metric, metric)}"
    return tables.Grid(title, heads, rows, 1, [note])


def fresh_splits(r: Results) -> str:
    """How many splits, and how many new users they have; empty without records."""
    first = {_splits(found, r): found for found in reversed(r.registered)}
    draws = [
        f"{number(len(one.sizes))} new draws of the split of {splits} "
        f"({one.size('user_cold'):,} new users in all)"
        for splits, one in reversed(first.items())
    ]
    return listed(draws)


def fresh_verdicts(r: Results) -> str:
    """Where each registered claim holds, in each measure; empty without records."""
    told = []
    for found in r.registered:
        each = [
            f"in {MEASURE.get(metric, metric)} {_for(_where(found, metric))}"
            for metric in found.told["primary"]
        ]
        told.append(f"that of {_who(found, r)} holds {listed(each)}")
    return "; ".join(told)


def _for(who: str) -> str:
    return f"for {who}" if who else "for nobody"


def _where(found: Comparison, metric: str) -> str:
    """For whom the method is ahead of every arm that is no meta-learner, in a measure."""
    scenarios = found.told["scenarios"]
    return listed([WHO[s] for s in scenarios if not found.not_beaten(s, metric)])


def _who(found: Comparison, r: Results) -> str:
    return f"the {records.label(found.record.method)} on {_splits(found, r)}"


def _splits(found: Comparison, r: Results) -> str:
    """The data set; with its seeds, where another registration is about other splits of it."""
    dataset, seeds = found.told["dataset"], found.told["split_seeds"]
    others = [one.told for one in r.registered if one.told["dataset"] == dataset]
    if all(told["split_seeds"] == seeds for told in others):
        return dataset
    return f"{dataset} (splits {seeds[0]} to {seeds[-1]})"


def fresh_headline(r: Results) -> str:
    """In how many of the registered places the claims hold, and where; empty without records."""
    counts = []
    for found in r.registered:
        primary, scenarios = found.told["primary"], found.told["scenarios"]
        won = sum(not found.not_beaten(s, m) for s in scenarios for m in primary)
        holds = [(MEASURE.get(m, m), _where(found, m)) for m in primary]
        where = "; ".join(f"{measure} of {who}" for measure, who in holds if who)
        told = f"{number(won)} of {number(len(primary) * len(scenarios))} places"
        counts.append(
            f"{_who(found, r)} is ahead of every such arm in {told}{f' ({where})' if where else ''}"
        )
    return listed(counts)


def fresh_added(r: Results) -> str:
    """What a meta-learner adds to the mixture of all other arms; empty without such a mixture."""
    told = []
    for found in r.registered:
        if found.record.method != MIXED:
            continue
        for metric in found.told["primary"]:
            gaps = [(s, found.gaps(s, metric)[A10].found) for s in found.told["scenarios"]]
            each = [f"{g.mean:+.4f} [{g.low:+.4f}, {g.high:+.4f}] for {WHO[s]}" for s, g in gaps]
            told.append(f"{MEASURE.get(metric, metric)}, {_splits(found, r)}: {listed(each)}")
    return "; ".join(told)


def fresh_weights(r: Results) -> str:
    """How much of the mixture is the meta-learner and how much boosting; empty without records."""
    told = []
    for found in r.registered:
        splits = [one for one in r.fresh.values() if found.told in one.extra[REGISTERED]]
        settings = [one.arm(MIXED).settings for one in splits if found.record.method == MIXED]
        for kind, where in (("rated", "items with ratings"), ("unrated", "items without")):
            weights = [one[f"weights, items {kind}"] for one in settings]
            if weights:
                of = lambda what, weights=weights: np.mean(
                    [sum(v for arm, v in one.items() if what in arm) for one in weights]
                )
                told.append(f"{of('A6'):.2f} and {of('A8'):.2f} for {where}, {_splits(found, r)}")
    return "; ".join(told)
