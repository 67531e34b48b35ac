"""Claims about the classics, the field's tables, and what did not work."""

import itertools

import numpy as np

from metajax.benchmark.boosting import A8
from metajax.results import intervals, records, tables
from paper.blocks import Column
from paper.claims import counted, few, listed, number, ranged, sinusoid_scores
from paper.edition import PRIMARY, Results
from paper.few_shot import accuracy, published
from paper.field import COMPARED, tables_of, verdicts


def omniglot(r: Results) -> str:
    """How far the accuracies are from the published ones; empty without records."""
    quoted, near, short = published(), [], []
    for record in r.omniglot.values():
        told = quoted.get(f"{record.scenario}|{record.method}")
        if told is None:
            continue
        here, value = accuracy(record), float(told.split()[0])
        if here.high >= value:
            near.append(f"{record.method}, {record.scenario}")
        else:
            short.append(value - here.mean)
    if not near and not short:
        return ""
    total = counted(len(near) + len(short), "accuracy").replace("accuracys", "accuracies")
    reached = f" ({'; '.join(near)})" if near else ""
    parts = [
        f"of {total} with a published one, {number(len(near))} reach{'es' * (len(near) == 1)} it "
        f"by the upper end of the interval{reached}"
    ]
    if short:
        low, high = min(short), max(short)
        parts.append(f"the others stay {low:.1f} to {high:.1f} points below")
    return ", ".join(parts)


def unlabeled(r: Results) -> str:
    """What training without labels is worth; empty without records."""
    found = {rec.method: accuracy(rec) for rec in r.unlabeled.values()}
    if "CACTUs-ProtoNets" not in found:
        return ""
    mine = found["CACTUs-ProtoNets"]
    ranked = sorted(found.items(), key=lambda item: item[1].mean)
    below = [name for name, i in ranked if i.high < mine.low]
    above = [name for name, i in ranked if i.low > mine.high]
    return (
        f"prototypes trained on clusters of images reach {mine.mean:.1f} per cent, above "
        f"{listed(below) or 'none'} and below {listed(above) or 'none'}"
    )


def field(r: Results) -> str:
    """Where the methods of the tables are ahead; empty without records."""
    return "; ".join(verdicts(r))


def field_adapts(r: Results) -> str:
    """What the methods of the tables adapt to, by their controls; empty without records."""
    found: dict[str, dict[str, int]] = {}
    for table, told in tables_of(r).items():
        metric = COMPARED.get(table, (PRIMARY,))[0]
        for block in told.blocks if table in ("T1", "T2", "T5") else ():
            method = block.record.method
            if block.known(method, Column(records.N1, metric)):
                to = tables.adaptation(block.record, block.scenario, method, metric)
                counts = found.setdefault(records.label(method), {})
                counts[to] = counts.get(to, 0) + 1
    each = []
    for name, counts in found.items():
        total = sum(counts.values())
        parts = [f"{to} in {number(n)} of {number(total)} blocks" for to, n in counts.items()]
        each.append(f"the {name} adapts {listed(parts)}")
    return "; ".join(each)


def field_trials(r: Results) -> str:
    """How many search trials the arms of T1 to T5 had: one number, or the range."""
    found = [x.config["trials"] for x in r.tables.values() if "trials" in x.config]
    return f"{ranged(found)} search trials" if found else "no search"


def field_steps(r: Results) -> str:
    """How many outer steps the trained arms of T1 to T5 had: one number, or the range."""
    found = [x.config["num_steps"] for x in r.tables.values() if "num_steps" in x.config]
    return ranged(found) if found else "no"


def old_records(r: Results) -> str:
    """How many of the records are of older code."""
    every = r.everything()
    old = [name for name, record in every.items() if record.generation < records.GENERATION]
    if not old:
        return "All records are of the code that is here"
    be = "is" if len(old) == 1 else "are"
    return (
        f"Of {len(every)} records {number(len(old))} {be} of older code, whose numbers a run of "
        "today may not repeat; a list beside them names each"
    )


def without_boosting(r: Results) -> str:
    """Which records of rating arms were made before boosted trees were among them."""
    rated = r.ratings | r.tables
    lack = [name for name, record in rated.items() if A8 not in record.names()]
    if not lack:
        return "All records of rating arms have boosted trees among them"
    return (
        f"Boosted trees and the stack are missing from {number(len(lack))} of {len(rated)} records "
        f"of rating arms ({listed(sorted(lack))}); nothing in these is a lead over boosting"
    )


def ablations(r: Results) -> str:
    """What each part of the ridge head is worth to new users and new items; empty without it."""
    record = next((x for n, x in r.ratings.items() if n.startswith("ridge_head-")), None)
    if record is None:
        return ""
    told = []
    for scenario, who in (("user_cold", "new users"), ("item_cold", "new items")):
        if scenario not in record.tasks:
            continue
        method = record.of(scenario, record.method, "all", PRIMARY)
        helps, not_told, hurts = [], [], []
        for arm in record.names(records.ABLATION):
            gap = records.difference(record.of(scenario, arm, "all", PRIMARY), method)
            side = helps if gap.low > 0 else hurts if gap.high < 0 else not_told
            side.append(f"{arm.removeprefix('- ')} ({gap.mean:+.4f})")
        parts = [f"without it the squared error is higher for {listed(helps) or 'none'}"]
        parts += [f"lower for {listed(hurts)}"] if hurts else []
        parts += [f"and the interval touches 0 for {listed(not_told)}"] if not_told else []
        told.append(f"{who}: {', '.join(parts)}")
    return "; ".join(told)


def not_better(r: Results) -> str:
    """Methods that lose to a closed form, scenario by scenario."""
    said = {"user_cold": "for new users", "item_cold": "for new items", "both_cold": "for both"}
    parts = []
    for scenario in r.scenarios:
        worse = few(r.against("A2 fold-in", scenario).worse) or "none"
        parts.append(f"{worse} {said.get(scenario, 'where both are known')}")
    total = counted(len(r.methods()), "meta-learner")
    return f"Of {total}, worse than fold-in after Holm are: {'; '.join(parts)}"


def no_meta_gain(r: Results) -> str:
    """Methods that meta-training does not put ahead of fine-tuning their own network."""
    sides = r.against("A4 fine-tuned")
    behind = [*sides.worse, *sides.open]
    total = sum(map(len, sides))
    if not behind:
        return "Every meta-learner is ahead of fine-tuning its own network"
    return (
        "Meta-training buys nothing that can be told from fine-tuning the same network for "
        f"{number(len(behind))} of {number(total)} ({listed(behind)})"
    )


def overfits(r: Results) -> str:
    """Arms whose validation error was lowest well before the last step."""
    early = []
    for record in r.ratings.values():
        steps = record.config["num_steps"]
        for arm in record.arms:
            best = arm.settings.get("best_step")
            if arm.role == records.METHOD and best and np.mean(best) <= steps / 2:
                early.append(arm.label)
    if not early:
        return "No meta-learner had its lowest validation error in the first half of its steps"
    be = "had its" if len(early) == 1 else "had their"
    return (
        f"More training does not help everybody: {listed(early)} {be} lowest validation error in "
        "the first half of the outer steps that were allowed"
    )


def more_points_hurt(r: Results) -> str:
    """Arms of the sinusoid whose error grows with more points; empty below two records."""
    order = sorted(r.sinusoid.values(), key=lambda rec: int(rec.scenario[2:]))
    hurt = []
    for less, more in itertools.pairwise(order):
        a, b = sinusoid_scores(less), sinusoid_scores(more)
        for arm in a.keys() & b.keys():
            low, high = (intervals.mean_interval(intervals.mean_of_seeds(x[arm])) for x in (a, b))
            if high.low > low.high:
                seeds = b[arm].mean(axis=1)
                hurt.append(
                    f"{arm} from {less.scenario[2:]} to {more.scenario[2:]} "
                    f"points ({low.mean:.2g} to {high.mean:.2g}; its seeds lie between "
                    f"{seeds.min():.2g} and {seeds.max():.2g})"
                )
    if len(order) < 2:
        return ""
    if not hurt:
        return "On the sinusoid no learner gets worse with more points"
    return (
        "On the sinusoid more points can hurt, by intervals that do not touch: "
        f"{listed(sorted(hurt))}"
    )


def seed_noise(r: Results) -> str:
    """How much the seeds of one arm differ, beside the interval over users."""
    widest = (0.0, "", 0.0)
    for name, record in r.ratings.items():
        for m in (m for m in r.methods() if m.record == name):
            scores = record.of("user_cold", m.arm, "all", PRIMARY)
            if len(scores) < 2:
                continue
            spread = float(np.ptp(np.sqrt(np.nanmean(scores, axis=1))))
            i = records.interval(scores, PRIMARY)
            widest = max(widest, (spread, m.name, i.high - i.low))
    spread, name, width = widest
    if not name:
        return "Each record has one seed"
    return (
        f"Between its seeds the RMSE of {name} differs by up to {spread:.3f}, more than any other "
        f"method's; its interval over users is {width:.3f} wide"
    )
