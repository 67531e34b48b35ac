"""The field's tables T1 to T5 in the paper, and who is ahead in them, from their records."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from metajax.results import records, tables
from paper.blocks import AUC, Block, Column, ahead, grid_of
from paper.claims import counted, listed, number
from paper.edition import PRIMARY, SCENARIOS, Results

MEASURES = {
    PRIMARY: "RMSE",
    "ndcg@5": "nDCG@5",
    "mae": "MAE, raw",
    "mae_calibrated": "MAE, calibrated",
    "log_loss": "log-loss",
    "crps": "CRPS",
}
"""What a table of ratings shows, in this order."""
OF_ORDER = {"ndcg@5": "nDCG@5", "precision@5": "precision@5", "mrr@5": "MRR@5"}
"""What T1 shows, whose lists are judged by their order."""
COMPARED = {"T1": ("ndcg@5",), "T4": (AUC,)}
"""The measures in which arms are compared in the text; RMSE and nDCG@5 in the other tables."""
STAR = (
    "Means over test tasks with their 95 % intervals. A star: the arm in bold is better, paired by "
    "task, after Holm over the arms of the column of a block. Diverged arms are not compared."
)
EMPTY = (
    "MAE is that of the scores as they are, and of the median of the distribution that the ordinal "
    "link gives; log-loss and CRPS judge that distribution. Records of older code have not got "
    "them: their cells are empty."
)


class Table(NamedTuple):
    """A table: its title, its columns' headings, its blocks, and what is said below it."""

    title: str
    heads: Sequence[str]
    blocks: Sequence[Block]
    note: str


@functools.lru_cache(maxsize=2)
def tables_of(r: Results) -> dict[str, Table]:
    """ "T1" -> its table, for those that have records."""
    parts = [(*name.split("-", 2)[1:], record) for name, record in r.tables.items()]
    of = lambda table: [(rest, record) for kept, rest, record in parts if kept == table]
    made = {
        "T1": _ordered(of("T1")),
        "T2": _scenarios(of("T2")),
        "T3": _by_ratings(of("T2")),
        "T4": _warming_up(of("T4")),
        "T5": _cross_sets(of("T5")),
    }
    return {name: table for name, table in made.items() if table.blocks}


def _sized(what: str, record: records.Record, scenario: str) -> str:
    return f"{what} ({record.tasks[scenario]:,} test tasks)"


def _ordered(found: Sequence[tuple[str, records.Record]]) -> Table:
    """T1; the lists of ranking losses have no errors to diverge by."""
    columns = [Column(records.ALL, metric) for metric in OF_ORDER]
    named = lambda rest: rest.replace("-folds-0-1-2-3-4", ", five folds").replace(
        "-click", " clicks"
    )
    blocks = [
        Block(
            _sized(named(rest).replace("-rating", " ratings"), x, "user_cold"),
            x,
            "user_cold",
            columns,
            "ndcg@5",
        )
        for rest, x in found
    ]
    title = "T1: the order of a new user's ratings and clicks"
    return Table(title, list(OF_ORDER.values()), blocks, STAR)


def _rated(heading: str, record: records.Record, scenario: str) -> Block:
    columns = [Column(records.ALL, metric) for metric in MEASURES]
    return Block(_sized(heading, record, scenario), record, scenario, columns)


def _scenarios(found: Sequence[tuple[str, records.Record]]) -> Table:
    blocks = [
        _rated(scenario.replace("_", "-"), record, scenario)
        for _, record in found
        for scenario in SCENARIOS
        if scenario in record.tasks
    ]
    return Table("T2: four scenarios", list(MEASURES.values()), blocks, f"{STAR} {EMPTY}")


def _by_ratings(found: Sequence[tuple[str, records.Record]]) -> Table:
    blocks, heads = [], []
    for _, record in found:
        heads = [*map(str, record.shots), "all"]
        when = [*(f"k={k}" for k in record.shots), records.ALL]
        blocks += [
            Block(MEASURES[metric], record, "user_cold", [Column(c, metric) for c in when])
            for metric in (PRIMARY, "ndcg@5")
        ]
    title = "T3: new users by the number of their ratings that are shown"
    return Table(title, heads, blocks, f"{STAR} The other measures, with all ratings, are in T2.")


def _warming_up(found: Sequence[tuple[str, records.Record]]) -> Table:
    blocks, heads = [], []
    for rest, record in found:
        heads = [f"{k} clicks" for k in record.shots]
        columns = [Column(f"k={k}", AUC) for k in record.shots]
        what = f"{rest.removesuffix('-ctr')} ({record.extra.get('test_items', 0):,} new items)"
        blocks.append(Block(what, record, "item_cold", columns, AUC))
    note = (
        "AUC over all test rows, mean of the seeds, with the 95 % interval of a bootstrap over "
        "items. A star: the arm in bold is better after Holm over the arms of the column of a "
        "block."
    )
    return Table("T4: new items warming up, AUC after so many clicks", heads, blocks, note)


def _cross_sets(found: Sequence[tuple[str, records.Record]]) -> Table:
    blocks = [_rated(rest.removesuffix("-users"), x, "user_cold") for rest, x in found]
    title = "T5: the same learners on other data, new users"
    return Table(title, list(MEASURES.values()), blocks, f"{STAR} {EMPTY}")


@functools.lru_cache(maxsize=2)
def field_tables(r: Results) -> dict[str, tables.Grid]:
    """ "T2" -> the table as it is shown, for those that have records."""
    return {
        name: grid_of(table.title, ["arm", *table.heads], table.blocks, table.note)
        for name, table in tables_of(r).items()
    }


def verdicts(r: Results) -> Iterator[str]:
    """Of each table and method: in how many places it is ahead of all that are no meta-learners."""
    for table, told in tables_of(r).items():
        methods = dict.fromkeys(m for b in told.blocks for m in (b.record.method, b.method) if m)
        for method in methods:
            blocks = [b for b in told.blocks if method in b.record.names()]
            parts = []
            for metric in COMPARED.get(table, (PRIMARY, "ndcg@5")):
                won = [_won(b, c, method) for b in blocks for c in b.columns if c.metric == metric]
                where = f"{number(sum(won))} of {counted(len(won), 'place')}"
                parts.append(f"{where} by {tables.heading(metric)}")
            yield f"in {table} the {records.label(method)} in {listed(parts)}"


def _won(block: Block, column: Column, method: str) -> bool:
    """Whether a method is ahead of all arms of a block that are no meta-learners."""
    plain = set(block.record.names(records.BASELINE))
    gaps = {arm: g for arm, g in block.gaps(column, method).items() if arm in plain}
    return bool(gaps) and all(ahead(*g, column.metric) for g in gaps.values())


def curves(r: Results) -> records.Record | None:
    """The record of T2 and T3, whose curves are drawn."""
    table = tables_of(r).get("T3")
    return table.blocks[0].record if table else None
