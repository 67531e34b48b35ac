"""Tables and pictures of task_diversity, read from records alone."""

import pathlib
from typing import Any

from metajax.data.sources import named
from metajax.results import groups, records, tables

from . import shots

REAL, KINDS, FREQUENT, RARE = "user_cold", "kinds", "frequent kind", "rare kinds"
UNIFORM, ALIKE, DPP, HARD = "uniform", "alike", "DPP", "hard tasks"
RANDOM, BAYES = "DPP, random codes", "Bayes"
ROLES = {UNIFORM: records.BASELINE, DPP: records.METHOD, ALIKE: records.ABLATION}
ROLES |= {HARD: records.ABLATION, RANDOM: records.CONTROL, BAYES: records.BASELINE}
MARGIN = 0.01
"""Differences of MAE within it count as none, as registered."""
REGISTERED = ("ml-1m", 3301)
"""The data set and the seed of the split that the registration is about."""
SIMULATED = {"k=0": "K = 0", "k=1": "K = 1", "k=3": "K = 3", records.ALL: "K = 5"}


def name_of(config: Any) -> str:
    """The name of a run's record."""
    return f"task_diversity-{named.short_name(config.data.dataset)}"


def verdict(record: records.Record) -> tuple[str, dict[str, Any]]:
    """What the registered rule says: holds, fails, or "does not tell"; and the two differences."""
    measure = shots.per_task(record, REAL, "mae", "MAE")
    found = {c: measure.gap(DPP, UNIFORM, c) for c in ("k=5", records.ALL)}
    if all(x.low >= -MARGIN and x.high <= MARGIN for x in found.values()):
        return "holds", found
    beyond = any(x.low > MARGIN or x.high < -MARGIN for x in found.values())
    return "fails" if beyond else "does not tell", found


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables and saves the pictures."""
    arms, heads = [name for name in record.names() if name != BAYES], shots.columns(record)
    others = [(arm, UNIFORM) for arm in arms if arm != UNIFORM] + [(DPP, RANDOM)]
    real, lead = shots.per_task(record, REAL, "mae", "MAE"), shots.leading(record, REAL)
    people = record.of(REAL, UNIFORM, records.ALL, "mae").shape[1]
    title = f"{record.dataset}, {people} new users"
    shots.ratings(title, record, REAL, arms, heads, others)
    if lead != "mae":  # which the registration is about
        shots.differences(title, real, others, heads, 4)
    for scenario in (FREQUENT, RARE):
        measure = shots.per_task(record, scenario, "mse", "squared error")
        shots.table(f"simulated, {scenario}", measure, [*arms, BAYES], SIMULATED)
        shots.differences(f"simulated, {scenario}", measure, others, SIMULATED)
    name = tables.of_differences(lead)
    what = f"{record.dataset}: {name} with other support or parameters, minus with the own support"
    shots.controls(record, what, REAL, (UNIFORM, DPP), lead, "sampler")
    shown = f"{title}: {name} at K = 5"
    groups.show(record, REAL, (DPP, UNIFORM), lead, title=shown, condition="k=5")
    said, found = verdict(record)
    pairs = "; ".join(f"{c}: {shots.signed(x, 4)}" for c, x in found.items())
    own = (record.dataset, record.config["split_seed"]) == REGISTERED
    what = "Registered null" if own else "The rule of the registration, on other users"
    print(f"{what} ({DPP} minus {UNIFORM} within {MARGIN} of 0): {said}. {pairs}")
    axis = f"ratings of the new user ({record.dataset})"
    shots.curves(real, arms, heads, folder / "mae.png", axis)
    rare = shots.per_task(record, RARE, "mse", "squared error, rare kinds")
    axis = "ratings of the new user (simulated)"
    shots.curves(rare, [*arms, BAYES], SIMULATED, folder / "rare-kinds.png", axis)
    print(f"plots  {folder}/mae.png, rare-kinds.png")
