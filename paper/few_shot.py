"""Omniglot in the paper: accuracies beside the published ones."""

import re
import tomllib

from metajax.results import intervals, records, tables
from paper.edition import HERE, Results

PUBLISHED = HERE.parent / "third_party" / "published.toml"


def published() -> dict[str, str]:
    """ "setting|arm" -> the number of the literature for Omniglot."""
    rows = tomllib.loads(PUBLISHED.read_text()).get("omniglot", [])
    return {f"{row['scenario']}|{row['arm']}": row["value"] for row in rows}


def accuracy(record: records.Record) -> intervals.Interval:
    """The accuracy of a record of Omniglot, in per cent."""
    scores = record.of(record.scenario, record.method, "test", "accuracy")
    i = records.interval(scores, "accuracy")
    return i._replace(mean=100 * i.mean, low=100 * i.low, high=100 * i.high)


def omniglot(r: Results) -> tables.Grid:
    """Accuracies beside the published ones, and what they took."""
    quoted = published()
    order = lambda record: [int(n) for n in re.findall(r"\d+", record.scenario)]
    rows = []
    for record in sorted(r.omniglot.values(), key=order):
        i, scenario, arm = accuracy(record), record.scenario, record.method
        rows.append(
            [
                *(scenario, arm, f"{i.mean:.1f} [{i.low:.1f}, {i.high:.1f}]"),
                quoted.get(f"{scenario}|{arm}", ""),
                f"{record.extra['schedule']['num_steps']:,}",
                f"{record.total_seconds / 60:.0f}",
            ]
        )
    sections = [i for i, row in enumerate(rows) if i == 0 or row[0] != rows[i - 1][0]]
    note = (
        "Accuracy in per cent with its 95 % interval over test tasks, beside the published number; "
        "outer steps and minutes of training on the device of the record."
    )
    heads = ["setting", "arm", "here", "published", "steps", "min."]
    return tables.Grid("Omniglot", heads, rows, 2, [note], sections)


def unlabeled(r: Results) -> tables.Grid:
    """Accuracies of learners that were trained without labels, and the bounds around them."""
    found = sorted(r.unlabeled.values(), key=lambda record: -accuracy(record).mean)
    rows = []
    for record in found:
        i = accuracy(record)
        rows.append([record.method, f"{i.mean:.1f} [{i.low:.1f}, {i.high:.1f}]"])
    title = f"Omniglot, {found[0].scenario}"
    return tables.Grid(title, ["arm", "accuracy"], rows, 1, ["95 % intervals over test tasks."])
