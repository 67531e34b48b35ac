"""Writes the tables of docs/decisions.md and off_policy.md from the records, between marks.

Run: python -m experiments decision_tables
"""

import argparse
import re

from metajax import places
from metajax.results import records, tables

from ..decisions import (
    arms,
    feedback_loop,
    long_term_report,
    meta_rl_report,
    off_policy_report,
    show,
)

PAGE = places.documents() / "decisions.md"
VALUES = places.documents() / "off_policy.md"


def bandit(record: records.Record) -> str:
    """Rewards of each arm in each world, and what the target says of them."""
    first, out = record.extra["first"], []
    for world, told in record.extra["worlds"].items():
        get = lambda arm, n, w=world: record.of(w, arm, f"first {n}", "reward")
        heads = ("policy", *(f"first {n}" for n in first))
        heads += ("META minus policy, first 10", "META minus policy, first 50")
        rows = []
        for arm in record.arms:
            means = (f"{get(arm.name, n).mean():.3f}" for n in first)
            gaps = [records.difference(get(arms.META, n), get(arm.name, n)) for n in (10, 50)]
            own = arm.name == arms.META
            rows.append((arm.name, *means, *(("", "") if own else (f"{gap:+.3f}" for gap in gaps))))
        people = get(arms.META, 5).shape[1]
        title = f"{world}: mean reward of a round, in {told['unit']}; {people} new users, "
        title += f"{record.config['seeds']} seeds; META is the meta-learned prior with Thompson"
        verdicts = [f"- {show.verdict(record, world, own)}." for own in (arms.META, arms.META_UCB)]
        out.append(tables.markdown(tables.Grid(title, heads, rows)) + "\n" + "\n".join(verdicts))
    return "\n\n".join(out) + "\n"


def loop(record: records.Record) -> str:
    """Chances of a click in the loop, whole and cut."""
    parts = ("first 100", records.ALL, "last quarter")
    get = lambda arm, part: record.of(feedback_loop.WORLD, arm, part, "reward")
    rows = []
    for arm in record.arms:
        own = get(arm.name, records.ALL)
        gap = records.difference(get(feedback_loop.WHOLE, records.ALL), own)
        told = f"{gap:+.4f}"
        means = (f"{get(arm.name, p).mean():.4f}" for p in parts)
        rows.append((arm.name, *means, "" if arm.name == feedback_loop.WHOLE else told))
    heads = (
        "loop",
        "first 100 rounds",
        "all rounds",
        "last quarter",
        "all: whole loop minus this one",
    )
    people, rounds = get(feedback_loop.WHOLE, records.ALL).shape[1], record.config["rounds"]
    told = record.extra["latency_us"].items()
    waits = ", ".join(f"{v:,.0f} us for {n} user{'' if int(n) == 1 else 's'}" for n, v in told)
    title = f"Mean chance of a click: {people} new users, {rounds:,} rounds each. "
    title += f"Computing a round takes {waits}"
    return tables.markdown(tables.Grid(title, heads, rows))


MAKERS = (
    ("bandit", bandit),
    ("bandit-sushi10", bandit),
    ("feedback_loop", loop),
    (meta_rl_report.NAME, meta_rl_report.markdown),
    (long_term_report.NAME, long_term_report.markdown),
    (off_policy_report.NAME, off_policy_report.markdown),
)
"""Record -> its part of a page."""


DECISIONS = tuple(name for name, _ in MAKERS)
TRUST = (
    "explain-ml-100k", "adversarial-ml-100k-lies", "adversarial-ml-1m-lies",
    "adversarial-ml-100k-moved",
    "adversarial-ml-100k-embeddings", "adversarial-ml-100k-hostile", "adversarial-ml-100k-shares",
    "adversarial-domains",
    "federated-ml-1m", "private-ml-1m",
)  # fmt: skip
STREAMS = (
    "online-ml-100k", "online-ml-1m", "online-movietweetings-100k", "online-online-retail",
    "online-retailrocket-multibehavior", "online-peer", "online_meta-drift", "online_meta-ml-100k",
    "online_meta-ml-1m", "online_meta-movietweetings-100k", "online_meta-online-retail",
    "update_rule",
)  # fmt: skip
DOMAINS = (
    "clusters-ml-1m", "cross_domain-amazon-cloth-to-amazon-sport",
    "cross_domain-douban-book-to-douban-music", "cross_domain-douban-music-to-douban-book",
    "hybrid-ml-100k", "knowledge_graph-ml-100k", "missing_not_at_random-coat",
    "multi_label-ml-1m", "multi_task", "multi_task-census-income", "multi_task-ml-1m",
    "multi_task-plateau", "multi_task-retailrocket-multibehavior", "negative_transfer",
    "negative_transfer-amazon-four-domains", "negative_transfer-ml-100k",
    "new_task-amazon-four-domains", "new_task-census-income",
    "new_task-retailrocket-multibehavior", "task_diversity-ml-1m",
)  # fmt: skip
"""The records of four rooms, of which each is to take no longer than a person waits."""


def minutes(names: tuple[str, ...]) -> dict[str, float]:
    """The minutes by the clock of the records that are stored, as they tell."""
    there = [name for name in names if records.path_of(name).is_file()]
    return {name: records.stored(name).seconds["total"] / 60 for name in there}


def times() -> str:
    """How long the tables of decisions took, in a sentence."""
    told = minutes(DECISIONS)
    each = ", ".join(f"`{name}` {value:.0f}" for name, value in told.items())
    whole = f"By the clock, on two cores, the stored records took {sum(told.values()):.0f} minutes"
    return f"{whole} together: {each}.\n"


def filled(text: str) -> str:
    """The page with the tables of the records that are stored."""
    mark = r"(<!-- minutes: [^\n]* -->\n).*?(<!-- end of minutes -->)"
    text = re.sub(mark, lambda m: m[1] + times() + m[2], text, flags=re.DOTALL)
    for name, make in MAKERS:
        if records.path_of(name).is_file():
            body = make(records.stored(name))
            mark = rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end of {name} -->)"
            text = re.sub(mark, lambda m, b=body: m[1] + b + m[2], text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    argparse.ArgumentParser("decision_tables", description=__doc__).parse_args()
    for page in (PAGE, VALUES):
        page.write_text(filled(page.read_text()))
        print(f"wrote {page}")
