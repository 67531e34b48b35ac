"""The mixture on fresh splits: what the ridge head adds, ratings by ratings, and all measures."""

from collections.abc import Sequence

from metajax.benchmark.boosting import A8
from metajax.benchmark.mixture import A10, A11, MIXED
from metajax.results import records, registered, tables
from metajax.results.registered import Comparison
from paper.blocks import shown
from paper.claims import counted, listed, number
from paper.edition import Results
from paper.field import MEASURES
from paper.fresh import WHO, measure, splits_of

NEAREST = (A8, A10, A11)
"""The arms that the tables by number of ratings show: the strongest one, and the two controls."""


def mixtures(r: Results) -> list[Comparison]:
    """The registered comparisons whose method is the mixture."""
    return [found for found in r.registered if found.record.method == MIXED]


def further_table(r: Results) -> tables.Grid | None:
    """The mixture minus the same without the meta-learner, and with further trees in its place."""
    others, rows, measures = (A10, A11), [], []
    for found in mixtures(r):
        metric = found.told["primary"][0]
        for scenario, when in found.places():
            gaps = found.gaps(scenario, metric, when)
            if A11 in gaps:
                where = [splits_of(found, r), registered.place(scenario, when)]
                cells = [_marked(gaps[arm], metric) if arm in gaps else "" for arm in others]
                rows.append([*where, f"{found.size(scenario):,}", *cells])
                measures.append(measure(metric))
    note = (
        f"The mixture minus the arm in {listed(list(dict.fromkeys(measures)))}, on the scale of "
        "each data set's ratings, with the 95 % interval of a two-way bootstrap over splits and "
        "tasks. A star: the mixture is better; a dagger: the arm is; p is below .05 after Holm "
        "over the arms of the place, not over places."
    )
    heads = ["data set", "tasks", "number of tasks", *(f"minus {arm}" for arm in others)]
    title = "What the ridge head adds to the mixture, and what it adds beyond further trees"
    return tables.Grid(title, heads, rows, 2, [note]) if rows else None


def _marked(gap: registered.Gap, metric: str, digits: int = 4) -> str:
    """A difference with its interval, and who is ahead if that stands after Holm."""
    ahead, behind = (bool(arms) for arms in registered.told_apart({"arm": gap.found}, metric))
    mark = "*" if ahead else "†" if behind else ""
    return f"{gap.found:+.{digits}f}" + (mark if gap.p < registered.ALPHA else "")


def by_ratings_tables(r: Results) -> dict[str, tables.Grid]:
    """ "by-ratings-mse" -> the mixture minus the nearest arms, by the ratings that are shown."""
    kept = with_curves(r)
    found = {}
    for metric in dict.fromkeys(m for one in kept for m in one.told["primary"]):
        heads, rows, sections = [], [], []
        for one in (x for x in kept if metric in x.told["primary"]):
            shots = list(one.by_ratings("user_cold", metric))
            gaps = [one.gaps("user_cold", metric, f"k={k}") for k in shots]
            heads = ["minus", *(f"{k} rating{'s' * (k != '1')}" for k in shots)]
            sections.append(len(rows))
            size = one.size("user_cold")
            rows.append([f"{splits_of(one, r)}, {size:,} new users", *[""] * len(shots)])
            for arm in (a for a in NEAREST if any(a in of for of in gaps)):
                cells = [_marked(of[arm], metric, 3) if arm in of else "diverged" for of in gaps]
                rows.append([arm, *(cell.replace("0.", ".") for cell in cells)])
            every = [not one.not_beaten("user_cold", metric, f"k={k}") for k in shots]
            rows.append(["every arm", *("ahead" if won else "not ahead" for won in every)])
        note = (
            f"The mixture minus the arm in {measure(metric)}, with the 95 % interval "
            "of a two-way bootstrap over splits and new users. A star: the mixture is better; a "
            "dagger: the arm is; p is below .05 after Holm over the arms of the column. Every arm: "
            "whether the mixture is ahead of each that is no meta-learner. Registered are the "
            "claims of the table of registrations, not each of these columns."
        )
        title = f"The mixture by the number of ratings shown, {measure(metric)}"
        name = f"by-ratings-{metric.replace('@', '-')}"
        found[name] = tables.Grid(title, heads, rows, 1, [note], sections)
    return found


def with_curves(r: Results) -> list[Comparison]:
    """The comparisons of the mixture on tasks as they are that have scores of fewer ratings."""
    return [
        found
        for found in mixtures(r)
        if found.conditions == [records.ALL]
        if found.by_ratings("user_cold", found.told["primary"][0])
    ]


def last_at_home(r: Results) -> Comparison | None:
    """The last registered comparison of the mixture on the edition's data that has curves."""
    found = [one for one in with_curves(r) if one.told["dataset"] == r.edition.dataset]
    return found[-1] if found else None


def measures_table(r: Results) -> tables.Grid | None:
    """Every arm on the last fresh splits of each data set, new users, by all measures."""
    last = {one.told["dataset"]: one for one in mixtures(r) if one.conditions == [records.ALL]}
    rows, sections, bold = [], [], []
    for one in last.values():
        sections.append(len(rows))
        heading = f"{splits_of(one, r)}, {one.size('user_cold'):,} new users"
        rows.append([heading, *[""] * len(MEASURES)])
        own = _levels(one)
        bold += [len(rows) + i for i, row in enumerate(own) if row[0] == MIXED]
        rows += own
    note = (
        "New users of all splits together, with the 95 % interval of a two-way bootstrap over "
        "splits and users. In bold: the mixture. Which differences stand is told by the tables of "
        "differences, not by these."
    )
    title, heads = "Every arm on fresh splits by all measures", ["arm", *MEASURES.values()]
    return tables.Grid(title, heads, rows, 1, [note], sections, bold) if rows else None


def _levels(found: Comparison) -> list[list[str]]:
    """Arms by measures, of new users: means over all splits with their intervals."""
    rows = []
    for arm in found.record.names():
        known = lambda m, a=arm: records.Key("user_cold", a, records.ALL, m) in found.record.scores
        means = {m: found.mean("user_cold", m, arm) for m in MEASURES if known(m)}
        cells = {m: shown(mean) if mean else "diverged" for m, mean in means.items()}
        rows.append([arm, *(cells.get(m, "") for m in MEASURES)])
    return rows


def share_of_trees(r: Results) -> str:
    """How much of the lead over A10 further trees bring as well, on the edition's data."""
    shares, of = [], lambda gap: gap.found.mean
    for found, scenario, when, gaps in _beside_trees(r):
        if of(gaps[A10]) < 0 and found and scenario and when:
            shares.append(1 - of(gaps[A11]) / of(gaps[A10]))
    if not shares:
        return ""
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return f"{low} per cent" if low == high else f"between {low} and {high} per cent"


def beyond_trees(r: Results) -> str:
    """For whom the mixture is ahead of the one with further trees, and for whom it is not."""
    won, left = [], []
    for found, scenario, when, _ in _beside_trees(r):
        metric = found.told["primary"][0]
        (won if found.ahead(scenario, metric, A11, when) else left).append(WHO[scenario])
    parts = [f"it is still ahead for {listed(won) or 'nobody'}"] if won or left else []
    parts += [f"not for {listed(left)}"] if left else []
    return ", but ".join(parts)


def _beside_trees(r: Results) -> list[tuple[Comparison, str, str, dict[str, registered.Gap]]]:
    """The places of the edition's data where both controls stand, in the first measure."""
    places = []
    for found in mixtures(r):
        if found.told["dataset"] == r.edition.dataset:
            for scenario, when in found.places():
                gaps = found.gaps(scenario, found.told["primary"][0], when)
                if A10 in gaps and A11 in gaps:
                    places.append((found, scenario, when, gaps))
    return places


def without_trees(r: Results) -> str:
    """The registrations of the mixture in which A11 was no arm; empty if it always was one."""
    found = [one for one in mixtures(r) if A11 not in one.record.names()]
    seeds = [one.told["split_seeds"] for one in found]
    return listed([f"{of[0]} to {of[-1]}" for of in seeds])


def beside_controls(r: Results) -> str:
    """In how many registered places the mixture is ahead of each control, and behind it."""
    counts: dict[str, dict[str, list[int]]] = {}
    for found in mixtures(r):
        for metric in found.told["primary"]:
            for scenario, when in found.places():
                gaps = found.gaps(scenario, metric, when)
                for arm in (a for a in (A10, A11) if a in gaps):
                    said = measure(metric)
                    each = counts.setdefault(arm.partition(" ")[0], {}).setdefault(said, [])
                    each.append(_side(gaps[arm], metric))
    told = []
    for arm, of in counts.items():
        parts = []
        for said, sides in of.items():
            behind = f" (and behind in {number(sides.count(1))})" if 1 in sides else ""
            won = f"{number(sides.count(0))} of {number(len(sides))}"
            parts.append(f"{won} in {said}{behind}")
        told.append(f"ahead of {arm} in {listed(parts)}")
    return "; ".join(told)


def level_in_order(r: Results) -> str:
    """In how many places the mixture is level with A10 in nDCG@5, after Holm; empty without."""
    sides = [
        _side(found.gaps(scenario, "ndcg@5", when)[A10], "ndcg@5")
        for found in mixtures(r)
        if "ndcg@5" in found.told["primary"]
        for scenario, when in found.places()
        if A10 in found.gaps(scenario, "ndcg@5", when)
    ]
    return f"{number(sides.count(2))} of {counted(len(sides), 'place')}" if sides else ""


def _side(gap: registered.Gap, metric: str) -> int:
    """0 where the mixture is ahead after Holm, 1 where the arm is, else 2."""
    ahead, behind = registered.told_apart({"arm": gap.found}, metric)
    return 2 if gap.p >= registered.ALPHA else 0 if ahead else 1 if behind else 2


def by_ratings(r: Results) -> str:
    """After how many numbers of ratings the mixture is ahead of every arm; empty without."""
    parts = []
    for metric in dict.fromkeys(m for one in with_curves(r) for m in one.told["primary"]):
        home, away = _ahead_by_ratings(r, metric, at_home=True), _ahead_by_ratings(r, metric)
        told = [
            f"{number(sum(won))} of {number(len(won))} columns {where}"
            for won, where in ((home, f"on {r.edition.dataset}"), (away, "on the other logs"))
            if won
        ]
        parts.append(f"in {measure(metric)} in {listed(told)}")
    return "; ".join(parts)


def _ahead_by_ratings(r: Results, metric: str, *, at_home: bool = False) -> Sequence[bool]:
    return [
        not one.not_beaten("user_cold", metric, f"k={k}")
        for one in with_curves(r)
        if (one.told["dataset"] == r.edition.dataset) == at_home and metric in one.told["primary"]
        for k in one.by_ratings("user_cold", metric)
    ]
