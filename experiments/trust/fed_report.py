"""Table and pictures of ``federated``, from its record alone."""

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from metajax.results import plots, records, tables

from . import fed_arms
from .fed_arms import BIAS, DITTO, FEDADAM, FEDAVG, MAML, SWAPPED

TUNED = (FEDAVG, FEDADAM)
"""The arms whose best validation error is the target: FedAvg with either server."""


class Reached(NamedTuple):
    """When an arm's validation error is first the target or below: None if it never is."""

    rounds: int | None
    bytes: float | None


def curve(arm: records.Arm) -> np.ndarray:
    """Validation errors (blocks,), seeds averaged."""
    values = np.asarray(arm.history["valid"], float)
    return np.where(np.isfinite(values), values, np.inf).mean(axis=0)


def block(record: records.Record) -> int:
    """Rounds between two validations."""
    return max(1, record.config["rounds"] // 20)


def target(record: records.Record) -> float:
    """The best validation error of FedAvg with fine-tuning, the better of its two servers."""
    return min(float(curve(record.arm(name)).min()) for name in there(record, TUNED))


def there(record: records.Record, names: Iterable[str]) -> list[str]:
    """The names that the record has an arm of."""
    return [name for name in names if name in record.names()]


def reached(record: records.Record, name: str) -> Reached:
    """When an arm is at the target."""
    arm = record.arm(name)
    if "valid" not in arm.history:
        return Reached(None, None)
    at = np.flatnonzero(curve(arm) <= target(record))
    if not len(at):
        return Reached(None, None)
    done = int(min((at[0] + 1) * block(record), record.config["rounds"]))
    return Reached(done, done * (arm.settings["down"] + arm.settings["up"]))


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the table, the verdict and the controls, and saves the pictures."""
    at, clients = record.scenario, record.extra["clients"]
    title = f"{record.dataset}: {record.extra['test']} new people, {clients:,} clients"
    gaps = [f"{tables.of_differences(metric)} minus {FEDAVG}" for metric in tables.COMPARED]
    heads = ("RMSE [95 %]", "nDCG@5 [95 %]", "MAE", *gaps, "no support", "shuffled")
    heads, rows = ("arm", *heads, "KB a round", "rounds to target", "MB to target"), []
    for arm in record.arms:
        get = lambda metric, when=records.ALL, a=arm.name: record.of(at, a, when, metric)
        mse = get("mse")
        against = lambda metric, get=get: records.difference(
            get(metric), record.of(at, FEDAVG, records.ALL, metric)
        )
        more = lambda when, get=get, mse=mse: f"{np.mean(get('mse', when)) - np.mean(mse):+.4f}"
        when = reached(record, arm.name)
        rows.append([
            arm.name, *(tables.with_interval(records.interval(get(m), m)) for m in tables.COMPARED),
            f"{np.mean(get('mae')):.4f}",
            *("" if arm.name == FEDAVG else tables.signed(against(m)) for m in tables.COMPARED),
            more(records.N0), more(records.N1),
            f"{(arm.settings['down'] + arm.settings['up']) / 1e3:.1f}",
            "" if when.rounds is None else f"{when.rounds}",
            "" if when.bytes is None else f"{when.bytes / 1e6:.2f}",
        ])  # fmt: skip
    tables.terminal(tables.Grid(title, heads, rows))
    places = {arm: (at, arm, records.ALL) for arm in record.names()}
    tables.show_distributions(record, title, places)
    verdict(record)
    pictures(record, folder)


def verdict(record: records.Record) -> None:
    """Prints who is at the target with how many of FedAvg's bytes, and what the controls say."""
    print(f"target: validation MSE {target(record):.4f}, the best of {' and '.join(TUNED)}")
    base = min((reached(record, name).bytes or np.inf) for name in there(record, TUNED))
    tried = (MAML, *fed_arms.SMALLER, fed_arms.MEANS, fed_arms.MEANS_BOTH, fed_arms.ADAM_BOTH)
    for name in there(record, (*tried, fed_arms.META_SGD, fed_arms.PER)):
        when = reached(record, name)
        if when.bytes is None:
            print(f"{name} never is at the target")
        else:
            print(f"{name} is there with {when.bytes / base:.2f} of the bytes")
    get = lambda arm: record.of(record.scenario, arm, records.ALL, "mse")
    for name in there(record, (SWAPPED,)):
        print(f"{name}: MSE minus {BIAS} {records.difference(get(name), get(BIAS)):+.4f}")
    refused = sum(arm.settings.get("refused", 0) for arm in record.arms)
    total = record.extra["sums_bytes"] / 1e3
    print(f"{refused} uploads were refused; item sums, once: {total:.0f} KB a client and direction")


def pictures(record: records.Record, folder: pathlib.Path) -> None:
    """Saves validation errors over bytes."""
    names = [a.name for a in record.arms if "valid" in a.history and a.name not in (DITTO, SWAPPED)]
    with plots.page(folder / "bytes.png", 3.4) as axes:
        for i, name in enumerate(names):
            arm = record.arm(name)
            each = (arm.settings["down"] + arm.settings["up"]) * block(record) / 1e6
            values = curve(arm)
            x = each * np.arange(1, len(values) + 1)
            axes.plot(x, values, label=name, markevery=4, **plots.look(i))
        best = target(record)
        axes.axhline(best, color="#666666", linewidth=0.7)
        axes.set_ylim(best - 0.003, best + 0.025)
        axes.set_xscale("log")
        plots.finish(axes, "megabytes, down and up", "validation MSE", len(names))
