"""Writes docs/gallery.md and its figures from the stored records; run by `make docs`."""

import pathlib
import sys

import numpy as np

from experiments.field.metaemb import report as metaemb_report
from metajax.results import plots, records, reliability
from metajax.types import UserError

HERE = pathlib.Path(__file__).resolve().parent
HEAD = """# Gallery

Figures that `docs/gallery.py` draws from the records in `paper/results/`. They are as wide as a
column of a paper; line styles and markers distinguish the curves without color.
"""


def section(path: pathlib.Path) -> str:
    """The Markdown of one record's figures; empty for a record that has no table of arms."""
    record = records.read(path)
    if not record.shots or not record.method:
        return ""
    folder = HERE / "gallery"
    if record.experiment == "metaemb":
        metaemb_report.plot(record, folder / f"{path.stem}-warm-up.png")
        told = "AUC over the clicks that a new item has had"
        return f"\n## {path.stem}\n\n![{told}](gallery/{path.stem}-warm-up.png){{ width=420 }}\n"
    plots.k_shot(record, "user_cold", folder / f"{path.stem}-k-shot.png")
    plots.learning(record, folder / f"{path.stem}-learning.png")
    base = record.of("user_cold", record.method, "all", "mae")
    rows = [
        (arm, records.difference(record.of("user_cold", arm, "all", "mae"), base))
        for arm in record.names()
        if arm != record.method
    ]
    curves = {arm: -record.of("user_cold", arm, "all", "mae") for arm in record.names()}
    finite = {arm: v for arm, v in curves.items() if np.isfinite(v).all()}
    plots.profile(finite, folder / f"{path.stem}-profile.png", "MAE, share below")
    costs = {c.arm: (c.training, c.quality) for c in reliability.costs({path.stem: record})}
    if costs:
        what = "task gradients of training"
        plots.pareto(costs, folder / f"{path.stem}-pareto.png", what, "MAE of new users")
    label = f"MAE of new users minus that of {record.method}"
    plots.forest(rows, folder / f"{path.stem}-forest.png", label)
    kinds = {
        "k-shot": "error of new users by the number of their ratings",
        "forest": "paired differences to the method",
        "learning": "meta-validation error while training",
        "profile": "share of seeds and users below each error",
        **({"pareto": "cost of training against error"} if costs else {}),
    }
    shown = "\n".join(
        f"![{k}: {v}](gallery/{path.stem}-{k}.png){{ width=420 }}" for k, v in kinds.items()
    )
    return f"\n## {record.experiment} on {record.dataset}\n\n{shown}\n"


def main(results: pathlib.Path = records.RESULTS) -> None:
    """Writes the page and its figures."""
    sections = [section(path) for path in records.files(results)]
    (HERE / "gallery.md").write_text(HEAD + "".join(sections))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
