"""Tables and pictures of ``private``, from its record alone."""

import pathlib

import numpy as np

from metajax.results import plots, records, tables

from .priv_arms import BIAS, FIXED, LINEAR, MAML, MEAN, UNCLIPPED

SCENARIO = "new people"
ARMS = (MEAN, BIAS, LINEAR, MAML)


def named_at(arm: str, epsilon: float) -> str:
    """The name of an arm at a level, as the record has it."""
    return f"{arm}, epsilon {epsilon:g}"


def levels_of(record: records.Record) -> list[float]:
    """The epsilons of the record, without privacy last."""
    return [*record.config["epsilons"], np.inf]


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables, the verdict and the controls, and saves the pictures."""
    title = f"{record.dataset}: {record.extra['test']} new people, {record.extra['people']:,} train"
    gaps = [f"{tables.of_differences(metric)} minus {BIAS}" for metric in tables.COMPARED]
    heads = ("RMSE [95 %]", "nDCG@5 [95 %]", "MAE", *gaps, "no support", "shuffled")
    rows, sections = [], []
    get = lambda arm, metric="mse", when=records.ALL: record.of(SCENARIO, arm, when, metric)
    for epsilon in levels_of(record):
        sections.append(len(rows))
        for arm in (*ARMS, FIXED, UNCLIPPED):
            name = named_at(arm, epsilon)
            if name not in record.names():
                continue
            mse, base = get(name), named_at(BIAS, epsilon)
            against = lambda metric, name=name, base=base: records.difference(
                get(name, metric), get(base, metric)
            )
            more = lambda when, name=name, mse=mse: (
                f"{np.mean(get(name, when=when)) - np.mean(mse):+.4f}"
            )
            rows.append([
                f"{epsilon:g}", arm,
                *(tables.with_interval(records.interval(get(name, m), m)) for m in tables.COMPARED),
                f"{np.mean(get(name, 'mae')):.4f}",
                *("" if arm == BIAS else tables.signed(against(m)) for m in tables.COMPARED),
                more(records.N0), more(records.N1),
            ])  # fmt: skip
    tables.terminal(tables.Grid(title, ("epsilon", "arm", *heads), rows, 2, sections=sections))
    names = [named_at(arm, float(epsilon)) for epsilon, arm, *_ in rows]
    places = {name: (SCENARIO, name, records.ALL) for name in names}
    tables.show_distributions(record, title, places)
    verdict(record)
    errors(record, folder / "epsilon.png")
    if record.extra["attack"]:
        attacks(record, folder / "membership.png")


def verdict(record: records.Record) -> None:
    """Prints whether the targets are met, what the attack finds, and what the controls say."""
    most = max(record.config["epsilons"])
    get = lambda arm, e: record.of(SCENARIO, named_at(arm, e), records.ALL, "mse")
    for other in (MEAN, BIAS, LINEAR):
        gap = records.difference(get(MAML, most), get(other, most))
        print(f"epsilon {most:g}, {MAML} minus {other}, both private: MSE {gap:+.4f}")
    for arm, by_level in record.extra["attack"].items():
        for level, (auc, low, high) in by_level.items():
            told_of = f"{MAML}'s item sums alone" if arm == MEAN else f"{MAML} and its sums"
            print(f"members, {told_of}, epsilon {level}: AUC {auc:.3f} [{low:.3f}, {high:.3f}]")
    gap = records.difference(get(FIXED, most), get(MAML, most))
    print(
        f"fixed cohorts with the same noise: MSE {gap:+.4f} to Poisson; as neighbors with a "
        f"person replaced they are epsilon {record.extra['fixed_epsilon']:.2f}, not {most:g}"
    )
    gap = records.difference(get(MAML, np.inf), get(UNCLIPPED, np.inf))
    print(f"clipping alone, no noise: MSE {gap:+.4f}")


def errors(record: records.Record, path: pathlib.Path) -> None:
    """Saves the error against epsilon, with intervals."""
    levels = levels_of(record)
    x = np.arange(len(levels))
    with plots.page(path, 3.0) as axes:
        for i, arm in enumerate(ARMS):
            found = [
                records.interval(record.of(SCENARIO, named_at(arm, e), records.ALL, "mse"), "mse")
                for e in levels
            ]
            mean = np.array([f.mean for f in found])
            bars = np.abs(np.array([[f.low, f.high] for f in found]).T - mean)
            axes.errorbar(x + 0.06 * i, mean, bars, label=arm, capsize=2, **plots.look(i))
        axes.set_xticks(x + 0.09, [f"{e:g}" if np.isfinite(e) else "none" for e in levels])
        plots.finish(axes, "epsilon; none: no privacy", "RMSE of new people", len(ARMS))


def attacks(record: records.Record, path: pathlib.Path) -> None:
    """Saves the AUC of the attack, by arm and level."""
    rows = [
        (
            f"{f'{MAML}, item sums' if arm == MEAN else MAML}, "
            f"{'no privacy' if level == 'inf' else f'epsilon {level}'}",
            auc,
        )
        for arm, by_level in record.extra["attack"].items()
        for level, auc in by_level.items()
    ]
    with plots.page(path, 1.8) as axes:
        for i, (_, (auc, low, high)) in enumerate(rows):
            axes.errorbar([auc], [i], xerr=[[auc - low], [high - auc]], **plots.look(0), capsize=2)
        axes.axvline(0.5, color="#666666", linewidth=0.7)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("AUC of guessing who was in the training")
        axes.grid(axis="x", alpha=0.25, linewidth=0.4)
