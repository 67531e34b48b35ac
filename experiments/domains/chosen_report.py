"""Tables and pictures of missing_not_at_random, read from records alone."""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from metajax.data.sources.coat import Chosen
from metajax.results import grid, groups, intervals, plots, records, tables

from ..classics.few_shot import published

RANDOM, PUBLISHED = "random items", "as published"
ITEM, BIAS, WEIGHED = "item mean", "bias model", "bias model, weighed"
MF, IPS, ROBUST = "MF", "MF-IPS", "MF-DR"
PLAIN, OURS = "ridge head", "debiased ridge head"
SUPPORT, QUERY = "debiased, support only", "debiased, outer loss only"
CHOSEN = "debiased, form chosen"
MILDER = ", milder"
FORMS = (OURS, SUPPORT, QUERY, OURS + MILDER, SUPPORT + MILDER, QUERY + MILDER)
"""What `CHOSEN` is one of, by the error of the random ratings that were set aside."""
SHUFFLED, SHUFFLED_IPS = "debiased, shuffled", "MF-IPS, shuffled"
METRICS = ("mse", "ndcg@5", "mae")
GROUPED = (MF, IPS, WEIGHED, PLAIN, OURS)
OF_ASIDE = (
    "Meta-validation of the link is the few random ratings that are set aside, so that every arm "
    "knows the level of random ratings."
)
FEWEST = 15
"""A group of fewer people has no row."""


def closed(one: np.ndarray, own: np.ndarray) -> Iterator[tuple[str, np.ndarray, bool]]:
    """(name, weights, whether people have biases) of the arms in closed form."""
    yield ITEM, one, False
    yield BIAS, one, True
    yield WEIGHED, own, True


def roles(names: Iterable[str]) -> dict[str, str]:
    """The role of each arm."""
    found = dict.fromkeys(names, records.ABLATION)
    found |= dict.fromkeys((ITEM, BIAS, WEIGHED, MF, IPS, ROBUST), records.BASELINE)
    found |= dict.fromkeys((SHUFFLED, SHUFFLED_IPS), records.CONTROL)
    return found | {OURS: records.METHOD, CHOSEN: records.METHOD}


def ours(record: records.Record) -> str:
    """The debiased learner that a record is about: older ones have no form that was chosen."""
    return CHOSEN if CHOSEN in record.names() else OURS


def groups_of(log: Chosen) -> groups.Kinds:
    """The groups of people, for a record.

    By each feature named ``kind:value``, by how many ratings they chose to give, and, in quarters,
    by how popular the items are that they chose.
    """
    rated = log.chosen > 0
    given = rated.sum(axis=1)
    found = groups.of_tasks(np.arange(len(given)), {"ratings given": given})
    for kind in dict.fromkeys(n.partition(":")[0] for n in log.user_names):
        columns = [i for i, n in enumerate(log.user_names) if n.startswith(f"{kind}:")]
        names = [log.user_names[i].partition(":")[2] for i in columns]
        place = log.user_features[:, columns].argmax(axis=1)
        found[kind] = groups.numbered([names[i] for i in place])
    taste = (rated * rated.mean(axis=0)).sum(axis=1) / given
    if len(np.unique(taste)) >= 4:
        quarter = np.searchsorted(np.quantile(taste, [0.25, 0.5, 0.75]), taste, side="left")
        found["popularity of choices"] = groups.numbered([f"quarter {i + 1}" for i in quarter])
    return found


def kinds_of(record: records.Record) -> groups.Kinds:
    """The groups of a record's people; older ones have a name for each person."""
    named = record.extra.get("groups", {})
    return groups.stored(record, RANDOM) or {k: groups.numbered(v) for k, v in named.items()}


def spread(weight: np.ndarray) -> dict[str, float]:
    """How uneven weights of mean 1 are: the largest, and the effective share of the rows."""
    effective = weight.sum() ** 2 / (weight**2).sum() / len(weight)
    return {"largest": float(weight.max()), "effective": float(effective)}


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables and saves the pictures."""
    for scenario in (RANDOM, PUBLISHED):
        grid.terminal(table(record, scenario))
        if scenario == RANDOM:
            title = f"{record.dataset}, {scenario}"
            rows = {arm: (scenario, arm, records.ALL) for arm in record.names()}
            tables.show_distributions(record, title, rows, [OF_ASIDE])
    if found := by_group(record):
        grid.terminal(found)
    for line in notes(record):
        print(line)
    picture(record, folder / "mse.png")
    group_picture(record, folder / "groups.png")
    print(f"plots  {folder}/mse.png, groups.png")


def table(record: records.Record, scenario: str) -> grid.Grid:
    """Each arm: errors, ranking, and differences paired by person."""
    get = lambda arm, metric: record.of(scenario, arm, records.ALL, metric)
    quoted = published(record.experiment) if record.dataset == "coat" else {}
    compared = [(metric, other) for other in (PLAIN, IPS) for metric in tables.COMPARED]
    heads = ["arm", *(f"{tables.heading(metric)} [95 %]" for metric in METRICS)]
    heads += [f"{tables.of_differences(metric)} minus {other}" for metric, other in compared]
    if scenario == PUBLISHED:
        heads += ["MAE / MSE", "published MAE / MSE"]
    rows = []
    for arm in record.arms:
        if records.Key(scenario, arm.name, records.ALL, "mse") not in record.scores:
            continue
        cells = [f"{records.interval(get(arm.name, m), m):.3f}" for m in METRICS]
        for metric, other in compared:
            gap = records.difference(get(arm.name, metric), get(other, metric))
            cells.append("" if arm.name == other else f"{gap:+.3f}")
        if scenario == PUBLISHED:
            both = [np.mean(get(arm.name, metric)) for metric in ("mae", "mse")]
            cells.append(" / ".join(f"{mean:.3f}" for mean in both))
            cells.append(quoted.get(f"{scenario}|{arm.name}", ""))
        rows.append([arm.name, *cells])
    if scenario == PUBLISHED and quoted:
        names = {arm.name for arm in record.arms}
        for place, value in quoted.items():
            if (arm := place.partition("|")[2]) not in names:
                rows.append([arm, *[""] * (len(heads) - 2), value])
    title = f"{record.dataset}, {scenario}: {get(OURS, 'mse').shape[1]} people"
    return grid.Grid(title, heads, rows)


def by_group(record: records.Record) -> grid.Grid | None:
    """The MSE of some arms in each group of people."""
    main = ours(record)
    return groups.table(
        record,
        RANDOM,
        tuple(dict.fromkeys((*GROUPED, main))),
        "mse",
        title=f"{record.dataset}, {RANDOM}: MSE by group of people",
        pair=(main, PLAIN),
        kinds=kinds_of(record),
        fewest=FEWEST,
    )


def notes(record: records.Record) -> list[str]:
    """What stands below the tables."""
    lines = [
        f"{RANDOM}: without pairs that were trained on, and without {record.extra['aside']} set "
        f"aside for naive Bayes and the choice of a form; {PUBLISHED}: all random ratings. "
        "Intervals are over people, seeds averaged first; a row with another propensity takes "
        "the settings of its base."
    ]
    for name, told in record.extra["weights"].items():
        lines.append(
            f"weights, {name}: largest {told['largest']:.1f} of a mean of 1, effective share of "
            f"rows {told['effective']:.2f}"
        )
    for arm in record.arms:
        if "form" in arm.settings:
            each = ", ".join(f"{k} {v:.3f}" for k, v in arm.settings["aside_mse"].items())
            lines.append(f"{arm.name} is {arm.settings['form']}; MSE of ratings set aside: {each}")
    for arm in (PLAIN, ours(record)):
        get = lambda condition, a=arm: record.of(RANDOM, a, condition, "mse")
        for condition in (records.N0, records.N1, records.N2):
            gap = records.difference(get(condition), get(records.ALL))
            lines.append(f"{arm}, {condition}: MSE {gap:+.3f}")
    return lines


def picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves the MSE of every arm on random items."""
    rows = [
        (arm.name, intervals.mean_interval(intervals.mean_of_seeds(
            record.of(RANDOM, arm.name, records.ALL, "mse"))))
        for arm in record.arms
    ]  # fmt: skip
    plots.arms(rows, path, f"MSE on {RANDOM}, {record.dataset}")


def group_picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves what the weights change in each group."""
    get = lambda arm, mine: record.of(RANDOM, arm, records.ALL, "mse")[:, mine]
    main = ours(record)
    rows = [
        (f"{kind}: {group}", records.difference(get(main, mine), get(PLAIN, mine)))
        for kind, group, mine in groups.parts(kinds_of(record), FEWEST)
    ]
    plots.forest(rows, path, f"MSE: {main} minus {PLAIN}")
