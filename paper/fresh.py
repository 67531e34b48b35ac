"""Splits that were registered before they were opened: tables, and what became of the claims."""

from metajax.results import records, registered, tables
from paper.claims import listed, number
from paper.edition import Results

WHO = {
    "user_cold": "new users",
    "item_cold": "new items",
    "both_cold": "both",
    "warm": "known ones",
}
MEASURE = {"mse": "squared error", "mae": "absolute error", "ndcg@5": "nDCG@5"}


def _views(r: Results) -> list[records.Record]:
    """The fresh splits as each of their registrations is about them."""
    return [
        registered.view(record, place)
        for record in r.fresh.values()
        for place in range(len(record.extra["registrations"]))
    ]


def fresh_tables(r: Results) -> dict[str, tables.Grid]:
    """Name -> the method of a registration minus each arm, in each scenario, in one measure."""
    found = {}
    for place, view in enumerate(_views(r), 1):
        for metric in view.extra["registration"]["primary"]:
            name = f"fresh-{place}-{records.label(view.method)}-{metric}".lower()
            found[name.replace(" ", "-").replace("@", "-")] = _grid(view, metric)
    return found


def _grid(view: records.Record, metric: str) -> tables.Grid:
    told, method = view.extra["registration"], records.label(view.method)
    each = {scenario: registered.gaps(view, scenario, metric) for scenario in told["scenarios"]}
    rows = []
    for arm in view.names(records.BASELINE):
        cells = [arm]
        for gaps in each.values():
            gap = gaps.get(arm)
            star = "*" if gap and registered.ahead(gap, metric) else ""
            i = gap and gap.found
            cells.append(f"{i.mean:+.4f} [{i.low:+.4f}, {i.high:+.4f}]{star}" if i else "diverged")
        rows.append(cells)
    size = lambda scenario: sum(sizes[scenario] for sizes in view.extra["tasks"])
    heads = ["arm", *(f"{s.replace('_', '-')} ({size(s):,})" for s in told["scenarios"])]
    splits = len(told["split_seeds"])
    note = (
        f"The {method} minus the arm, over {splits} fresh splits and all their tasks (number in "
        "parentheses), with the 95 % interval of a two-way bootstrap. A star: the method is ahead, "
        "and p is below .05 after Holm over the arms of the column."
    )
    title = f"{method} on fresh splits: difference in {MEASURE.get(metric, metric)}"
    return tables.Grid(title, heads, rows, 1, [note])


def fresh_splits(r: Results) -> str:
    """How many splits, and how many new users they have; empty without records."""
    record = next(iter(r.fresh.values()), None)
    if record is None:
        return ""
    sizes = [size["user_cold"] for size in record.extra["tasks"]]
    return f"{number(len(sizes))} new draws of the split ({sum(sizes):,} new users in all)"


def fresh_verdicts(r: Results) -> str:
    """What became of each registered claim; empty without records."""
    told = []
    for view in _views(r):
        said = view.extra["registration"]
        for metric in said["primary"]:
            left = {s: registered.not_beaten(view, s, metric) for s in said["scenarios"]}
            holds = [WHO[s] for s, arms in left.items() if not arms]
            fails = [f"{WHO[s]} (not ahead of {listed(arms)})" for s, arms in left.items() if arms]
            parts = [f"holds for {listed(holds)}"] if holds else []
            parts += [f"does not hold for {listed(fails)}"] if fails else []
            name = f"the {records.label(view.method)}, {MEASURE.get(metric, metric)}"
            told.append(f"{name}: the claim {' and '.join(parts)}")
    return "; ".join(told)


def fresh_headline(r: Results) -> str:
    """In how many of the registered places the claims hold; empty without records."""
    counts = []
    for view in _views(r):
        said = view.extra["registration"]
        places = [(s, m) for s in said["scenarios"] for m in said["primary"]]
        won = sum(not registered.not_beaten(view, s, m) for s, m in places)
        name = records.label(view.method)
        won_of = f"{number(won)} of {number(len(places))}"
        counts.append(f"the {name} is ahead of every such arm in {won_of} places")
    return listed(counts)
