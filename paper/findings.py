"""Claims about the classics, the field's tables, and what did not work."""

import itertools

import numpy as np

from metajax.results import intervals, records
from paper.claims import counted, listed, number, sinusoid_scores
from paper.edition import PRIMARY, Results
from paper.field import accuracy, published, verdicts


def omniglot(r: Results) -> str:
    """How far the accuracies are from the published ones; empty without records."""
    quoted, near, far = published(), [], []
    for record in r.omniglot.values():
        scenario, arm, here = record.scenario, record.method, accuracy(record)
        told = quoted.get(f"{scenario}|{arm}")
        if told is None:
            continue
        value = float(told.split()[0])
        said = f"{arm}, {scenario} ({here.mean:.1f} against {value:.1f})"
        (near if here.high >= value else far).append(said)
    parts = []
    if near:
        parts.append(f"the interval reaches the published accuracy for {listed(near)}")
    if far:
        parts.append(f"the accuracy stays below the published one for {listed(far)}")
    return "; ".join(parts)


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
    found = list(verdicts(r))
    return "; ".join(found)[:1].upper() + "; ".join(found)[1:]


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


def ranking(r: Results) -> str:
    """What became of the registered claim about ranking a whole catalogue; empty without records.

    The claim: for a new user with one, three and five interactions the ridge head has a higher
    nDCG@10 than EASE and than implicit ALS.
    """
    told, holds = [], 0
    for record in r.ranking.values():
        at = lambda arm, k, of=record: of.of("user_cold", arm, f"k={k}", "ndcg@10")
        pairs = [
            records.difference(at("R5 meta ridge", k), at(rival, k))
            for rival in ("R2 EASE", "R4 iALS")
            for k in (1, 3, 5)
        ]
        ahead, behind = sum(g.low > 0 for g in pairs), sum(g.high < 0 for g in pairs)
        holds += ahead == len(pairs)
        told.append(
            f"{record.dataset}, ahead in {number(ahead)} and behind in {number(behind)} of "
            f"{number(len(pairs))} comparisons"
        )
    if not told:
        return ""
    where = "on none" if not holds else f"on {number(holds)}"
    return f"it holds {where} of {counted(len(told), 'log')} ({'; '.join(sorted(told))})"


def not_better(r: Results) -> str:
    """Methods that lose to a closed form, scenario by scenario."""
    said = {"user_cold": "for new users", "item_cold": "for new items", "both_cold": "for both"}
    parts = []
    for scenario in r.scenarios:
        worse = listed(r.against("A2 fold-in", scenario).worse) or "none"
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
        f"Meta-training buys nothing that can be told from fine-tuning the same network for "
        f"{listed(behind)}, {number(len(behind))} of {number(total)}"
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
        return "No meta-learner had its lowest validation error in the first half of its training"
    be = "had its" if len(early) == 1 else "had their"
    return (
        f"More training does not help everybody: {listed(early)} {be} lowest validation error in "
        "the first half of the outer steps"
    )


def more_points_hurt(r: Results) -> str:
    """Arms of the sinusoid whose error grows with more points; empty below two records."""
    order = sorted(r.sinusoid.values(), key=lambda rec: int(rec.scenario[2:]))
    hurt = []
    for few, many in itertools.pairwise(order):
        a, b = sinusoid_scores(few), sinusoid_scores(many)
        for arm in a.keys() & b.keys():
            low, high = (intervals.mean_interval(intervals.mean_of_seeds(x[arm])) for x in (a, b))
            if high.low > low.high:
                seeds = b[arm].mean(axis=1)
                hurt.append(
                    f"{arm} from {few.scenario[2:]} to {many.scenario[2:]} "
                    f"points ({low.mean:.2f} to {high.mean:.2f}; its seeds lie between "
                    f"{seeds.min():.2f} and {seeds.max():.2f})"
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
