"""When does transfer from another domain hurt, and which cure never does?

The transfer gain is G = L(scratch) - L(transfer), paired by person, for every ordered pair of
domains; transfer is negative where the interval of G is below 0. Scratch is a ridge regression on
K target ratings, plain transfer one on source and target ratings together. Cures: distillation from
a teacher that saw the source alone, gated (a teacher labels only items that it is sure of, and only
if the student beats scratch on validation people beyond doubt; else scratch stays); source ratings
with a smaller weight; a shared expert and one per domain, decorrelated; PCGrad; and the joint prior
of cross_domain. With --dataset synthetic the domains are those of `TwoDomains`, whose tastes have
the correlation rho. Every arm but the joint prior has 20 trials on training people. Controls: no
gate, a gate dealt at random, and a random second task (the source ratings of somebody else).

References: Wang et al., CVPR 2019 (negative transfer); Yu et al., NeurIPS 2020 (PCGrad); Tang et
al., RecSys 2020 (experts per task).
Run: python -m experiments negative_transfer
     python -m experiments negative_transfer --dataset ml-100k
     python -m experiments negative_transfer --dataset ml-100k --from-records prints stored tables.
Published: on other data.
Deviates: models are linear in item vectors, which were fitted to the rows of other people in both
logs for all arms, scratch too: G is what a person's own source ratings bring.
"""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np

from metajax import benchmark
from metajax.results import records
from metajax.results.groups import GROUPS
from metajax.settings import Output, Positive, Presets, Range, Share
from metajax.training import progress
from metajax.types import UserError

from . import transfer_report as report

NAME = "negative_transfer"
GENRES = ("Drama", "Comedy", "Action", "Romance")
COARSE = (0.25, 1.0, 4.0, 16.0)
"""Ridge penalties of arms that have a knob of their own; the others try 20."""
STOPS = (10, 20, 40, 80, 160)
"""Steps of PCGrad that are tried."""
ANYWHERE = 1e9
"""A limit on the teacher's variance that every item keeps."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    dataset: str = "synthetic"
    """synthetic, ml-100k, ml-1m, or amazon-four-domains."""
    domains: tuple[str, ...] = ()
    """Genres, or domains of amazon-four-domains; every ordered pair is judged. By default Drama,
    Comedy, Action and Romance, or all four."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""
    hidden: Share = 0.3
    """Share of the people of both domains who are judged."""
    shots: tuple[Annotated[int, Range(0, 10)], ...] = (1, 10)
    """Numbers K of target ratings, 0 to 10."""
    rhos: tuple[Annotated[float, Range(-1, 1)], ...] = (-0.8, -0.4, 0.0, 0.4, 0.8)
    """Correlations of the two tastes in the world."""
    source_rows: Positive = 30
    """Source ratings of a person of the world."""
    most: Annotated[int, Range(10)] = 300
    """People for training, for validation and for the test, at most."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"rhos": (-0.8, 0.0, 0.8), "most": 100},
        "gpu": {"rhos": (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9), "most": 3_000},
    }


def name_of(config: Config) -> str:
    """The name of the record."""
    from metajax.data.sources import named

    world = config.dataset == "synthetic"
    return NAME if world else f"{NAME}-{named.short_name(config.dataset)}"


def pairs(config: Config) -> dict[str, tuple[str, str]]:
    """Scenario -> the names of source and target.

    Raises:
      UserError: the data set has no domains, or fewer than two are told.
    """
    from metajax.data.sources.crossdomain import FOUR_DOMAINS

    if config.dataset in ("ml-100k", "ml-1m"):
        names = {g: f"{config.dataset}:{g}" for g in config.domains or GENRES}
    elif config.dataset == "amazon-four-domains":
        names = {d: d for d in config.domains or FOUR_DOMAINS}
        for unknown in set(names) - set(FOUR_DOMAINS):
            raise UserError(f"no domain {unknown!r}; the domains are {', '.join(FOUR_DOMAINS)}")
    else:
        raise UserError(
            f"{config.dataset} is not cut into domains here; give --dataset synthetic, ml-100k, "
            "ml-1m or amazon-four-domains (cross_domain takes two logs of your own)"
        )
    if len(names) < 2:
        raise UserError("one domain has nothing to transfer; give two or more --domains")
    return {f"{a} to {b}": (names[a], names[b]) for a, b in itertools.permutations(names, 2)}


def loaded(config: Config) -> tuple[dict[str, Any], records.Data | None]:
    """Scenario -> what makes its domains; all are read, so that bad input is refused first."""
    from metajax.results import ledger

    from . import cross_data as data
    from . import transfer_arms as arms

    if not config.shots:
        raise UserError("no number of ratings is told; give one or more --shots")
    if config.dataset == "synthetic":
        if not config.rhos:
            raise UserError("no correlation is told; give one or more --rhos")
        rows, most = config.source_rows, config.most
        return {f"rho {r:g}": lambda r=r: arms.of_world(r, rows, most) for r in config.rhos}, None
    found, checks, size = {}, [], [0, 0, 0]
    for scenario, (source, target) in pairs(config).items():
        pair = data.loaded(source, target, config.data_dir)
        data.split(pair, config.hidden)
        table = pair.target
        checks.append(table.checksum())
        of_table = (table.num_users, table.num_items, len(table))
        size = [max(a, b) for a, b in zip(size, of_table, strict=True)]
        found[scenario] = lambda p=pair: arms.of_pair(p, config.hidden, config.most)
    return found, records.Data(config.dataset, ledger.checksum(*checks), *size)


def trials(name: str, limits: tuple[float, ...], penalty: float) -> np.ndarray:
    """The settings (N, 3) that an arm tries: 20, but for the joint prior, which has none.

    Args:
      limits: four on the teacher's variance; penalty: that of scratch, for the gated cure.
    """
    weights = (0.03, 0.1, 0.3, 1.0, 3.0)
    fine = tuple(np.geomspace(0.125, 64.0, 20))
    of = {
        report.SCRATCH: (fine, (0.0,), (0.0,)),
        report.TRANSFER: (fine, (1.0,), (0.0,)),
        report.UNGATED: (COARSE, weights, (ANYWHERE,)),
        report.GATED: ((penalty,), weights, limits),
        report.REWEIGHTED: (COARSE, (0.0, 0.03, 0.1, 0.3, 1.0), (0.0,)),
        report.EXPERTS: (COARSE, weights, (0.0,)),
        report.PCGRAD: (COARSE, STOPS, (0.0,)),
        report.JOINT: ((0.0,), (0.0,), (0.0,)),
    }[name]
    return np.stack([x.ravel() for x in np.meshgrid(*of, indexing="ij")], axis=1)


class Chosen(NamedTuple):
    """Of an arm: settings (3,), whether it is used at all, and what a record tells of them."""

    settings: np.ndarray
    opened: bool
    told: dict[str, Any]


def chosen(of: Any, shots: int) -> dict[str, Chosen]:
    """The best settings of every arm on training people; validation people decide on the gate."""
    from . import transfer_arms as arms

    found: dict[str, Chosen] = {}
    for name in report.TUNED:
        penalty = found[report.SCRATCH].settings[0] if found else 1.0
        limits = (ANYWHERE,)
        if name == report.GATED:
            unsure = np.asarray(arms.unsure(of.people["train"], penalty, of.known.pool))
            limits = (*np.quantile(unsure, (0.25, 0.5, 0.75)).tolist(), ANYWHERE)
        tried = trials(name, limits, penalty)
        error = arms.errors(name, tried, of, "train", shots).mean(axis=1)
        best = tried[np.nanargmin(error)]
        told = {"settings": best.tolist(), "trials": len(tried), "train": float(np.nanmin(error))}
        found[name] = Chosen(best, True, told)
    for name in report.GATES:
        found[name] = gate(of, found, name, shots)
    return found


def gate(of: Any, found: Mapping[str, Chosen], name: str, shots: int) -> Chosen:
    """The gated cure, used where it beats scratch on validation people beyond doubt."""
    from . import transfer_arms as arms

    best, donors = found[report.GATED].settings, of
    if name == report.GATED_WRONG:
        donors = arms.mismatched(of, "valid")
    base = arms.errors(report.SCRATCH, found[report.SCRATCH].settings, of, "valid", shots)
    gain = records.difference(base, arms.errors(report.GATED, best, donors, "valid", shots))
    opened = bool(gain.low > 0)
    told = {"settings": best.tolist(), "open": opened, "valid": [gain.mean, gain.low, gain.high]}
    return Chosen(best, opened, found[report.GATED].told | told)


def judged(of: Any, found: Mapping[str, Chosen], shots: int) -> dict[str, np.ndarray]:
    """Arm -> the errors (1, people) of test people; a closed gate leaves those of scratch."""
    from . import transfer_arms as arms

    wrong = arms.mismatched(of, "test")
    base = arms.errors(report.SCRATCH, found[report.SCRATCH].settings, of, "test", shots)
    scores = {}
    for name in report.SHOWN:
        form, like = report.SAME.get(name, (name, name))
        there = wrong if name in report.WRONG else of
        pick = found[like]
        opened = pick.opened or name not in report.GATES
        scores[name] = arms.errors(form, pick.settings, there, "test", shots) if opened else base
    return scores


def measured(config: Config) -> records.Record:
    """Chooses the settings of all arms in every pair of domains, judges them, writes a record."""
    from metajax.results import ledger

    began = time.perf_counter()
    makers, given = loaded(config)
    ready: dict[str, Any] = {}
    choices: dict[str, dict[str, Any]] = {}
    with progress.bar(NAME.replace("_", " "), len(makers)) as update:
        for scenario, make in makers.items():
            of = make()
            picked = {k: chosen(of, k) for k in config.shots}
            ready[scenario] = of, picked
            for k, found in picked.items():
                for name, pick in found.items():
                    choices.setdefault(name, {})[f"{scenario}, k={k}"] = pick.told
            base = picked[config.shots[0]][report.SCRATCH].told["train"]
            update(len(ready), {"scratch": base})
            progress.say(f"{scenario}: settings chosen")
    tests = [of.people["test"].asked_y for of, _ in ready.values()]
    opened = records.open_tests(config, choices, NAME, ledger.checksum(NAME, *tests))
    scores = {
        records.Key(scenario, name, f"k={k}", "mse"): error
        for scenario, (of, picked) in ready.items()
        for k, found in picked.items()
        for name, error in judged(of, found, k).items()
    }
    fields = {} if given is None else {"data": given}
    extra = {
        "scenarios": list(makers),
        "conditions": [f"k={k}" for k in config.shots],
        "rhos": list(config.rhos) if given is None else [],
        GROUPS: {scenario: of.groups for scenario, (of, _) in ready.items() if of.groups},
    }
    made = records.arms_of(report.SHOWN, roles=report.ROLES, settings=choices)
    return benchmark.kept(
        name_of(config),
        NAME,
        config,
        made,
        scores,
        scenario=next(iter(makers)),
        opened=(opened,),
        began=began,
        extra=extra,
        **fields,
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its picture."""
    return benchmark.shown(name_of(config), config, measured, report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
