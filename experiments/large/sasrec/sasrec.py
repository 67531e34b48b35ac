"""Sequence recommendation: what does a person take next, ranked among all items?

A causal Transformer over the history, trained with the full softmax, beside popularity, untrained
transitions, item-kNN and BPR matrix factorization, tuned on the validation items; and a weighted
sum of its logarithms with those of transitions and item-kNN, the weights chosen on validation. With
--also, other published recipes beside it: gBCE, eSASRec (gated residuals, sampled softmax corrected
for popular draws) and HSTU (pointwise attention, full softmax), and two larger sizes.

References: Kang, McAuley, ICDM 2018; Klenitskiy, Vasilev, RecSys 2023; Petrov, Macdonald, RecSys
2023 (gBCE); Tikhonovich et al., RecSys 2025 (eSASRec); Zhai et al., ICML 2024 (HSTU).
Run: python -m experiments sasrec                     (ml-1m, the order of SASRec's authors)
     python -m experiments sasrec --dataset ml-100k --seeds 3 --also gbce esasrec hstu
     python -m experiments sasrec --dataset amazon-four-domains --people 2000 --window 32
     python -m experiments sasrec --split time        trained before a moment, tested after it
     python -m experiments sasrec --only esasrec      makes and keeps one part of the table; with
                                                      --publish, a record of that part alone
     experiments/large/sasrec/card.sh                 all recipes at once on a graphics card
     python -m experiments sasrec --from-records prints the stored table.
Published: full ranking on ML-1M, SASRec with full cross-entropy HR@10 .315, NDCG@10 .182; with its
original loss .25/.13; eSASRec .3133/.1772, HSTU-large .3294/.1893; .82/.59 is the sampled-100
protocol, which no conclusion rests on.
Deviates: rotary positions, RMS norms and gated MLPs; windows of 64 items (128 on a card) instead of
200 (beyond 50 items of context little is left to gain here); one cosine schedule instead of early
stopping. All histories of a batch share their draws, half of eSASRec's are items of the batch; HSTU
has rotary positions and no times.
"""

import pathlib

import numpy as np

from metajax.data.histories import sequences as histories
from metajax.data.histories.sequences import Sequences
from metajax.data.sources import crossdomain, named
from metajax.data.table import Interactions
from metajax.evaluation import next_item
from metajax.results import intervals, records, tables
from metajax.settings import replace
from metajax.training.devices import check_even

from .. import report as large_report
from . import blend, parts, recipes
from .recipes import RECIPES, SASREC, Config, build, recipe_of
from .training import fit, kept, scorer

__all__ = ["RECIPES", "SASREC", "Config", "build", "fit", "kept", "main", "recipe_of", "scorer"]

COLUMNS = [
    (condition, metric)
    for condition in (next_item.FULL, next_item.UNMASKED, next_item.SAMPLED)
    for metric in ("hit@10", "ndcg@10")
]
POPULARITY = "popularity of the list"


def load(config: Config) -> Sequences:
    """The histories of the data set."""
    data = _histories(config)
    return histories.asking(data, config.people) if config.people else data


def _histories(config: Config) -> Sequences:
    if config.split == "time":
        return histories.by_time(_log(config))
    if config.data.dataset == "ml-1m":
        return histories.read_sasrec(named.data_folder(config.data.data_dir))
    return histories.of_table(_log(config))


def _log(config: Config) -> Interactions:
    if config.data.dataset == crossdomain.ALL_FOUR:
        return crossdomain.four_domains(named.data_folder(config.data.data_dir))
    return named.chosen(config.data)


def name_of(config: Config) -> str:
    """The name of the record; that of a few parts alone ends in their names."""
    short = named.short_name(config.data.dataset)
    split = () if config.split == "leave-one-out" else (config.split,)
    return "-".join(("sasrec", short, *split, *config.only))


def folder_of(config: Config) -> pathlib.Path:
    """Where the parts lie, and what is made of all or of some of them."""
    return config.output.folder(name_of(replace(config, only=())))


def scores_of(scenario: str, arm: parts.Judged) -> dict[records.Key, np.ndarray]:
    """What the record keeps of an arm: of all its seeds, under the sampled protocol of one."""
    key = lambda condition, metric: records.Key(scenario, arm.name, condition, metric)
    found = {key(next_item.FULL, POPULARITY): arm.popularity[:1]}
    together = arm.name.endswith(parts.TOGETHER)
    for condition in (next_item.FULL,) if together else arm.ranks:
        ranks = arm.ranks[condition]
        told = next_item.rank_metrics(ranks[:1] if condition == next_item.SAMPLED else ranks)
        found |= {key(condition, metric): told[metric] for metric in ("hit@10", "ndcg@10")}
    return found


def asked(data: Sequences) -> dict[str, float]:
    """How many people are asked for their next item, and the share of those items never trained on.

    No recommender here can rank the latter but by chance; leave-one-out has next to none of them.
    """
    target = histories.held_out(data, 1).target
    return {"asked": len(target), "untrained": float(np.mean(parts.met(data)[target] == 0))}


def run(config: Config) -> records.Record | None:
    """Trains and tests every arm; writes the record. Parts alone have one if it is published."""
    name, out = name_of(config), folder_of(config)
    config = replace(config, out=out)
    check_even(config.hardware.devices, config.batch, "windows")
    data = load(config)
    wanted = config.only or (recipes.SIMPLE, recipes.OWN, *config.also)
    for part in set(wanted) - {recipes.SIMPLE}:
        recipe_of(part, config, data.num_items)  # a size that cannot be is refused here
    arms, opened = [], []
    for part in wanted:
        found, opening = parts.made(config, data, part, out)
        arms += found
        opened.append(opening)
    if config.only and not config.output.publish:
        print(f"kept {', '.join(config.only)} in {out / 'parts'}")
        return None
    scores = {key: value for arm in arms for key, value in scores_of(config.split, arm).items()}
    settings = {key: value for arm in arms for key, value in arm.settings.items()}
    sizes = len(data.length), data.num_items, len(data.items)
    return large_report.written(
        name,
        "sasrec",
        config.split,
        [arm.name for arm in arms],
        config,
        scores,
        {arm.name: arm.seconds for arm in arms},
        opened=opened,
        data=records.Data(data.name, data.digest(), *sizes),
        settings=settings,
        extra={
            "coverage": {arm.name: np.round(arm.coverage, 4).tolist() for arm in arms},
            **asked(data),
        },
    )


PAIRS = [
    (blend.BLENDED, "transitions"),
    (blend.BLENDED, SASREC),
    (blend.BLENDED, blend.TABLES),
    (SASREC, "transitions"),
]
"""What the tables and the sequence model are worth to each other."""


def compared(record: records.Record) -> None:
    """Prints differences to the SASRec here, and what the lists are made of."""
    coverage = record.extra.get("coverage")
    if not coverage or SASREC not in record.names():
        return  # a record of before, or of other parts alone
    get = lambda arm: record.of(record.scenario, arm, next_item.FULL, "ndcg@10")
    rows = []
    for arm in record.names():
        gap = records.difference(get(arm), get(SASREC))
        popular = record.of(record.scenario, arm, next_item.FULL, POPULARITY)
        share = records.interval(popular, POPULARITY)
        both = intervals.crossed_bootstrap(get(arm))
        rows.append(
            [
                arm,
                f"{both:.4f}",
                f"{gap:+.4f}" if arm != SASREC else "",
                f"{np.mean(coverage[arm]):.3f}",
                f"{share.mean:.3f}",
            ]
        )
    heads = ["arm", "ndcg@10", f"minus {SASREC}", "coverage@10", "popularity of a list"]
    notes = (
        []
        if "untrained" not in record.extra
        else [f"{record.extra['untrained']:.3f} of the items asked for were never trained on"]
    )
    floor = "popularity"
    below = lambda arm: arm != floor and not records.difference(get(arm), get(floor)).low > 0
    if floor in record.names():
        notes += [f"{arm}: not ahead of {floor}" for arm in record.names() if below(arm)]
    notes += [
        "ndcg@10: full, with an interval over people and seeds",
        "coverage@10: the share of the catalogue that is on anybody's list of ten",
        "popularity of a list: the mean percentile of its items among all items",
    ]
    tables.terminal(
        tables.Grid("Accuracy against coverage and popularity", heads, rows, notes=notes)
    )


def main(config: Config) -> records.Record | None:
    """The record of the experiment, run or read, and its table."""
    name = name_of(config)
    record = records.stored(name) if config.output.from_records else run(config)
    if record is None:
        return None
    users = record.data.users if record.data else "?"
    people = record.extra.get("asked", users)
    title = f"Next item, {record.scenario}, {record.dataset}, {people} people"
    published = config.data.dataset == "ml-1m" and record.scenario == "leave-one-out"
    large_report.show(record, COLUMNS, title, quoted=published)
    compared(record)
    large_report.differences(record, "ndcg@10", (next_item.FULL, "ndcg@10"), PAIRS)
    if not config.output.from_records:
        large_report.finished(record, name, replace(config, out=folder_of(config)), COLUMNS[1])
    return record
