"""T6 in the paper: whole catalogues ranked for new users and new items."""

import numpy as np

from metajax.results import intervals, records, tables
from paper.blocks import Block, Column, ahead, grid_of
from paper.claims import counted, listed, number
from paper.edition import ALPHA, Results

METRICS = {"ndcg@10": "nDCG@10", "recall@20": "Recall@20"}
WHO = {"user_cold": "new users", "item_cold": "new items"}
RIVALS, REGISTERED = ("R2 EASE", "R4 iALS"), (1, 3, 5)
"""The claim: for a new user with one, three and five interactions the method of a record has a
higher nDCG@10 than each rival."""
FIRST = "R5 meta ridge"
METHODS = {
    FIRST: "a meta-learned ridge head over factors of implicit feedback",
    "R7 K-shot EASE": "K-shot EASE, a ridge regression over episodes of so many shown items,",
}
"""What was registered, in words; `FIRST` was on a draw of its own and held on no log."""
NOTE = (
    "K is the number of interactions that are shown of each user. Means over users with their 95 % "
    "intervals. A star: the arm in bold is better, paired by user, after Holm over the arms of the "
    "column of a block. What was registered is nDCG@10 of new users at one, three and five, "
    "against EASE and iALS alone."
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
        told.append(f"on {record.dataset} it is {listed(parts) or 'level with both'}")
    if not told:
        return ""
    return f"it {ranking_verdict(r)}: {'; '.join(sorted(told))}"


def ranking_method(r: Results) -> str:
    """The methods of the registered claim, in words; empty without records."""
    names = dict.fromkeys(record.method for record in r.ranking.values())
    return listed([METHODS.get(name, name.partition(" ")[2]) for name in names])


def ranking_before(r: Results) -> str:
    """What was registered before the claim that is told, if it was not the first."""
    if not r.ranking or any(record.method == FIRST for record in r.ranking.values()):
        return ""
    return (
        f"An earlier claim, for {METHODS[FIRST]} on another draw, held on no log (docs/audit.md)."
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
    at = lambda arm, k: record.of("user_cold", arm, f"k={k}", "ndcg@10")
    pairs = [(rival, k) for rival in RIVALS for k in REGISTERED]
    gaps = [records.difference(at(record.method, k), at(rival, k)) for rival, k in pairs]
    adjusted = intervals.holm(np.array([gap.p for gap in gaps]))
    won, lost = {rival: [] for rival in RIVALS}, {rival: [] for rival in RIVALS}
    for (rival, k), gap, p in zip(pairs, gaps, adjusted, strict=True):
        if ahead(gap, p, "ndcg@10"):
            won[rival].append(k)
        elif p < ALPHA and gap.high < 0:
            lost[rival].append(k)
    return won, lost


def _said(of: dict[str, list[int]]) -> list[str]:
    """Of each rival with any, its name and the numbers of interactions."""
    name = {rival: rival.partition(" ")[2] for rival in of}
    return [f"{name[rival]} at {listed([number(k) for k in ks])}" for rival, ks in of.items() if ks]
