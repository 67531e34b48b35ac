"""Writes the tables of docs/decisions.md from the records, between marks in the page.

Run: python -m experiments decision_tables
"""

import argparse
import re

from metajax import places
from metajax.results import records, tables

from ..decisions import arms, feedback_loop

PAGE = places.documents() / "decisions.md"


def bandit(record: records.Record) -> str:
    """Rewards of each arm in each world."""
    first, out = record.extra["first"], []
    for world, told in record.extra["worlds"].items():
        people = record.of(world, arms.META, "first 5", "reward").shape[1]
        heads = (f"{world}, {told['unit']}", *(f"first {n} rounds" for n in first))
        rows = []
        for arm in record.arms:
            mean = [record.of(world, arm.name, f"first {n}", "reward").mean() for n in first]
            rows.append((arm.name, *(f"{m:.3f}" for m in mean)))
        told = f"{people} new users, {record.config['seeds']} seeds: mean reward of a round.\n\n"
        out.append(told + tables.markdown(tables.Grid("", heads, rows)))
    return "\n".join(out)


def loop(record: records.Record) -> str:
    """Chances of a click in the loop, whole and cut."""
    parts = ("first 100", records.ALL, "last quarter")
    get = lambda arm, part: record.of(feedback_loop.WORLD, arm, part, "reward")
    rows = []
    for arm in record.arms:
        own = get(arm.name, records.ALL)
        gap = records.difference(get(feedback_loop.WHOLE, records.ALL), own)
        told = f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
        means = (f"{get(arm.name, p).mean():.4f}" for p in parts)
        rows.append((arm.name, *means, "" if arm.name == feedback_loop.WHOLE else told))
    heads = ("chance of a click", "first 100 rounds", "all", "last quarter", "whole loop minus it")
    people, rounds = get(feedback_loop.WHOLE, records.ALL).shape[1], record.config["rounds"]
    waits = "; ".join(f"{v:,.0f} us for {n}" for n, v in record.extra["latency_us"].items())
    head = f"{people} new users, {rounds:,} rounds each. A round takes {waits} user(s).\n\n"
    return head + tables.markdown(tables.Grid("", heads, rows))


def filled(text: str) -> str:
    """The page with the tables of the records that are stored."""
    for name, make in (("bandit", bandit), ("feedback_loop", loop)):
        if records.path_of(name).is_file():
            body = make(records.stored(name))
            mark = rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end of {name} -->)"
            text = re.sub(mark, lambda m, b=body: m[1] + b + m[2], text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    argparse.ArgumentParser("decision_tables", description=__doc__).parse_args()
    PAGE.write_text(filled(PAGE.read_text()))
    print(f"wrote {PAGE}")
