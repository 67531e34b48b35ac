"""T6 in the paper: whole catalogues ranked for new users and new items."""

from collections.abc import Iterable, Sequence

import numpy as np

from metajax.results import intervals, records, tables
from paper.blocks import Block, Column, ahead, grid_of
from paper.claims import counted, listed, number
from paper.edition import ALPHA, Results

METRICS = {"ndcg@10": "nDCG@10", "recall@20": "Recall@20"}
WHO = {"user_cold": "new users", "item_cold": "new items"}
RIVALS, REGISTERED = ("R2 EASE", "R4 iALS", "R8 EDLAE"), (1, 3, 5)
"""The claim: for a new user with one, three and five interactions the method of a record has a
higher nDCG@10 than each rival."""
FIRST = "R5 meta ridge"
METHODS = {
    FIRST: "a meta-learned ridge head over factors of implicit feedback",
    "R7 K-shot EASE": "K-shot EASE, a ridge regression over episodes of so many shown items,",
}
"""What was registered, in words; `FIRST` was on a draw of its own and held on no log."""
PARTS = {
    "R2a EASE, no discount": "beside EASE without the discount",
    "R7a K-shot EASE, half shown": "beside half of a user's items shown in place of K",
    "R7b K-shot EASE, K = 5 alone": "beside the regression of five items for every number",
    "R7c K-shot EASE, no intercept": "beside no intercept",
    "R7d K-shot EASE, no discount": "beside no discount of popular items",
}
"""What an arm leaves out, in words."""
NOTE = (
    "K is the number of interactions that are shown of each user. Means over users with their 95 % "
    "intervals. A star: the arm in bold is better, paired by user, after Holm over the arms of the "
    "column of a block. What was registered is nDCG@10 of new users at one, three and five, "
    "against EASE, iALS and EDLAE alone."
)


def _block(record: records.Record, scenario: str, metric: str) -> Block:
    items = record.extra.get("candidates", {}).get(scenario, 0)
    heading = f"{record.dataset} ({record.tasks[scenario]:,} users, {items:,} items to rank)"
    columns = [Column(f"k={k}", metric) for k in record.shots]
    return Block(heading, record, scenario, columns, metric)


def catalogue_tables(r: Results) -> dict[str, tables.Grid]:
    """ "T6-users-ndcg" and so on -> a table; none without records."""
    found = {}
    for scenario, who in WHO.items():
        for metric, name in METRICS.items():
            known = {key[::3] for record in r.ranking.values() for key in record.scores}
            kept = [x for x in r.ranking.values() if scenario in x.tasks]
            if not kept or (scenario, metric) not in known:
                continue
            heads = ["arm", *(f"K = {k}" for k in kept[0].shots)]
            blocks = [_block(record, scenario, metric) for record in kept]
            title = f"T6: a whole catalogue ranked, {who}, {name}"
            key = f"T6-{who.split()[1]}-{metric.partition('@')[0]}"
            found[key] = grid_of(title, heads, blocks, NOTE)
    return found


def ranking(r: Results) -> str:
    """What became of the registered claim about ranking a whole catalogue; empty without records.

    p-values are adjusted by Holm over the comparisons of a log.
    """
    told = []
    for record in r.ranking.values():
        won, lost = _judged(record)
        parts = [
            f"{side} {said}"
            for side, of in (("ahead of", won), ("behind", lost))
            for said in _said(of)
        ]
        told.append(f"on {record.dataset} it is {listed(parts) or 'level with all three'}")
    if not told:
        return ""
    return f"it {ranking_verdict(r)}: {'; '.join(sorted(told))}"


def ranking_parts(r: Results) -> str:
    """At how many logs and numbers of items the method is ahead of it without a part, and behind.

    p-values are adjusted by Holm over all of a log; empty without such arms.
    """
    return _counted(r, PARTS)


def ranking_stack(r: Results) -> str:
    """The same of the stack of the other arms in closed form; empty without it."""
    return _counted(r, {"R9 stack": "beside this stack"})


def _counted(r: Results, words: dict[str, str]) -> str:
    """At how many logs and numbers of items the method is ahead of arms, in words, and behind."""
    won, lost, asked = {}, {}, {}
    for record in r.ranking.values():
        pairs = [(arm, k) for arm in words if arm in record.names() for k in REGISTERED]
        for (arm, _), gap, p in _gaps(record, pairs):
            asked[arm] = asked.get(arm, 0) + 1
            won[arm] = won.get(arm, 0) + ahead(gap, p, "ndcg@10")
            lost[arm] = lost.get(arm, 0) + bool(p < ALPHA and gap.high < 0)
    told = [
        f"{words[arm]}, it is ahead in {number(won[arm])} and behind in {number(lost[arm])} of "
        f"{number(asked[arm])} comparisons"
        for arm in asked
    ]
    return "; ".join(told)


def ranking_method(r: Results) -> str:
    """The methods of the registered claim, in words; empty without records."""
    names = dict.fromkeys(record.method for record in r.ranking.values())
    return listed([METHODS.get(name, name.partition(" ")[2]) for name in names])


def ranking_before(r: Results) -> str:
    """What was registered before the claim that is told, if it was not the first."""
    if not r.ranking or any(record.method == FIRST for record in r.ranking.values()):
        return ""
    return (
        f"Of three earlier claims on other draws, one for {METHODS[FIRST]} held on no log, and two "
        "for K-shot EASE against EASE and iALS alone on three of four, one where every arm could "
        "discount popular items and one where K-shot EASE alone could (docs/audit.md)."
    )


def ranking_verdict(r: Results) -> str:
    """On how many logs the registered claim holds; empty without records."""
    if not r.ranking:
        return ""
    every = len(RIVALS) * len(REGISTERED)
    won = [_judged(record)[0] for record in r.ranking.values()]
    holds = sum(sum(map(len, of.values())) == every for of in won)
    return f"holds on {number(holds)} of {counted(len(won), 'log')}"


def _judged(record: records.Record) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Rival -> the numbers of interactions at which the method is ahead of it, and behind it."""
    pairs = [(rival, k) for rival in RIVALS for k in REGISTERED]
    won, lost = {rival: [] for rival in RIVALS}, {rival: [] for rival in RIVALS}
    for (rival, k), gap, p in _gaps(record, pairs):
        if ahead(gap, p, "ndcg@10"):
            won[rival].append(k)
        elif p < ALPHA and gap.high < 0:
            lost[rival].append(k)
    return won, lost


def _gaps(record: records.Record, pairs: Sequence[tuple[str, int]]) -> Iterable[tuple]:
    """((arm, K), method minus the arm in nDCG@10 of new users, p after Holm over all pairs)."""
    at = lambda arm, k: record.of("user_cold", arm, f"k={k}", "ndcg@10")
    gaps = [records.difference(at(record.method, k), at(arm, k)) for arm, k in pairs]
    adjusted = intervals.holm(np.array([gap.p for gap in gaps]))
    return zip(pairs, gaps, adjusted, strict=True)


def _said(of: dict[str, list[int]]) -> list[str]:
    """Of each rival with any, its name and the numbers of interactions."""
    name = {rival: rival.partition(" ")[2] for rival in of}
    return [f"{name[rival]} at {listed([number(k) for k in ks])}" for rival, ks in of.items() if ks]
