"""T6: full catalogues ranked for new users and new items, by the classics and by meta-learners.

A new user shows K items, and the arm ranks the others. For new users, a random half of what they
met has to be found among all known items; for new items, what the user met of items that no arm was
trained on. Every arm scores new items by the known items with the most similar content. Arms are
fitted on training users, each searched by as many trials, from the middle of its space, and chosen
by nDCG@10 of validation users at K = 1, 5 and 20. What is trained across tasks is trained until
these users' nDCG@10 has not risen for --patience outer steps. Every arm but popularity may
discount popular items: how much is one of its settings. The stack weighs the classics, as they were
chosen, by what validation users found. Ablations leave out a part of EASE or K-shot EASE, tuned
anew.

References: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019; Ning, Karypis,
"SLIM", ICDM 2011; Rendle, Krichene, Zhang, Koren, "Revisiting the performance of iALS on item
recommendation benchmarks", RecSys 2022.
Run: python -m experiments ranking
Published: none under this protocol.
Deviates: users and items are drawn at random, not by time. A stopped run goes on: trials and
finished data sets are kept in --out.
"""

import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from metajax.benchmark import ranking
from metajax.benchmark.ranking_arms import (
    ABLATIONS,
    DISCOUNT,
    RANKERS,
    Scorer,
    Sparse,
    discount_of,
    with_content,
)
from metajax.benchmark.ranking_ials import ials_items
from metajax.benchmark.ranking_stack import stack
from metajax.results import ledger, records
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import progress
from metajax.training.devices import check_even
from metajax.tuning import search
from metajax.types import UserError

from . import meta, report, worlds

IALS, RIDGE, PROTOTYPES, KSHOT = "R4 iALS", "R5 meta ridge", "R6 prototypes", "R7 K-shot EASE"
STACK = "R9 stack"
HEADS: dict[str, meta.Head] = {RIDGE: "ridge", PROTOTYPES: "mean"}
METHODS = {*HEADS, KSHOT}
CLASSICS = RANKERS | ABLATIONS
"""Arms that are no training across tasks by gradients."""
SEEDED = {IALS}
"""Arms besides the trained ones whose scores depend on a seed."""
LONGEST = 64
"""Length of the vectors of R5 and R6 at most; they start from those of implicit ALS."""
CHOSEN_AT = (1, 5, 20)
MOST_VALID = 400
"""Validation users that settings are chosen by, at most."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    dataset: tuple[str, ...] = ("msweb", "ml-1m", "online-retail", "amazon-grocery")
    """The logs, by name or path; ratings of more than 3.5 of 5 stars count as interactions."""
    data_dir: pathlib.Path | None = None
    """Folder of the named data sets; by default METAJAX_DATA, else ./data."""
    split_seed: int = 0
    """Seed of who is new."""
    trials: Positive = 30
    """Settings tried for every arm, on meta-validation."""
    trial_steps: Positive = 100
    """Outer steps of a trial of a meta-learner that is trained."""
    seeds: Positive = 5
    """Seeds of every arm that depends on one."""
    num_steps: Positive = 2_000
    """Outer steps of a meta-learner, at most."""
    patience: Positive = 200
    """Outer steps without a higher nDCG@10 of validation users after which a training ends."""
    num_tasks: Positive = 64
    """Users per outer step."""

    PRESETS: ClassVar[Presets] = {
        "quick": {
            "dataset": ("synthetic",),
            "trials": 2,
            "trial_steps": 20,
            "seeds": 2,
            "num_steps": 60,
            "patience": 40,
            "num_tasks": 16,
        },
        "gpu": {"num_tasks": 256, "num_steps": 5_000},
    }


class Made(NamedTuple):
    """An arm, ready: a scorer for each seed, what was chosen, and the seconds it took."""

    scorers: list[Scorer]
    settings: dict[str, Any]
    seconds: float


def run(name: str, config: Config) -> records.Record:
    """The record of one log: arms tuned on validation users, then its test users opened once."""
    began = time.perf_counter()
    config = dataclasses.replace(config, dataset=(name,))
    check_even(config.hardware.devices, config.num_tasks)
    world = worlds.load(name, config.data_dir)
    lists = ranking.ranking_of(world.table, config.split_seed, threshold=world.threshold)
    folder = config.output.folder("ranking") / _slug(name) / records.config_hash(config)
    met, valid = fitted_on(lists)
    arms = {arm: classic(arm, met, valid, config, folder) for arm in CLASSICS}
    arms[STACK] = stacked([arms[arm] for arm in RANKERS if arm not in METHODS], valid)
    begin = start_of(arms[IALS], met)
    arms |= {arm: meta_learned(arm, begin, met, valid, config, folder) for arm in HEADS}
    arms = {arm: arms[arm] for arm in sorted(arms)}
    choices = {arm: made.settings for arm, made in arms.items()}
    tests = checksum(lists.test)
    opening = records.open_tests(config, choices, "ranking", tests)
    since = time.perf_counter()
    scores = judged(arms, lists, world)
    tasks = {s: at[1].history.shape[0] for s, at in lists.test.items() if _is_told(s, world)}
    roles = dict.fromkeys(arms, records.BASELINE) | dict.fromkeys(METHODS, records.METHOD)
    roles |= dict.fromkeys(ABLATIONS, records.ABLATION)
    listed = {s: int(at[1].candidates.sum()) for s, at in lists.test.items() if s in tasks}
    return records.made(
        "ranking",
        config,
        [records.Arm(arm, roles[arm], made.settings, made.seconds) for arm, made in arms.items()],
        scores,
        method=KSHOT,
        protocol="new users, random halves",
        data=records.data_of(world.table),
        split=records.Split(
            "ranking", config.split_seed, tests, tasks, int((lists.met.sum(axis=1) > 0).sum())
        ),
        shots=ranking.SHOTS,
        seconds={"test": time.perf_counter() - since, "total": time.perf_counter() - began},
        opened=(opening,),
        extra={"table": "T6", "candidates": listed},
    )


def _slug(name: str) -> str:
    return pathlib.Path(name).stem


def _is_told(scenario: str, world: worlds.World) -> bool:
    """New items can be told apart only by their content."""
    return scenario != "item_cold" or world.content is not None


def fitted_on(lists: ranking.Ranking) -> tuple[Sparse, list[ranking.Lists]]:
    """What arms see: interactions (U, J) of the J known items, and validation lists of these."""
    met = lists.met[:, lists.known]
    met = met[np.diff(met.indptr) > 0]
    first = slice(0, MOST_VALID)  # users are in no order
    valid = []
    for shots in CHOSEN_AT:
        every = ranking.among(lists.valid["user_cold"][shots], lists.known)
        some = every._replace(history=every.history[first], relevant=every.relevant[first])
        valid.append(some)
    return met, valid


def checksum(test: Mapping[str, Mapping[int, ranking.Lists]]) -> str:
    """A digest of the test lists."""
    parts = [
        (matrix.indptr, matrix.indices)
        for at in test.values()
        for lists in at.values()
        for matrix in (lists.history, lists.relevant)
    ]
    return ledger.checksum(
        parts, [lists.candidates for at in test.values() for lists in at.values()]
    )


def classic(
    arm: str, met: Sparse, valid: list[ranking.Lists], config: Config, folder: pathlib.Path
) -> Made:
    """One of `CLASSICS`, searched, and fitted by each seed if it depends on one."""
    began, (prepare, space) = time.perf_counter(), CLASSICS[arm]
    with progress.bar(arm, config.trials) as update:
        done = itertools.count(1)
        found = ranking.tuned(
            prepare,
            space,
            met,
            valid,
            config.trials,
            folder=folder / "trials" / arm.replace(" ", "-"),
            report=lambda quality: update(next(done), {"nDCG@10": quality}),
        )
    chosen, scorers = {name: found.settings[name] for name in space}, [found.score]
    if arm in SEEDED:
        scorers += [found.fit(**chosen, seed=seed) for seed in range(1, config.seeds)]
    return Made(scorers, found.settings, time.perf_counter() - began)


def stacked(arms: list[Made], valid: list[ranking.Lists]) -> Made:
    """The plain stack of arms, each by its first seed."""
    began = time.perf_counter()
    scorer = stack([made.scorers[0] for made in arms], valid, CHOSEN_AT)
    settings = {"valid": ranking.quality(scorer, valid)}
    return Made([scorer], settings, time.perf_counter() - began)


def start_of(ials: Made, met: Sparse) -> meta.Start:
    """What meta-learners start from: vectors by the settings of the tuned implicit ALS."""
    known = {k: ials.settings[k] for k in ("unobserved", "penalty")}
    vectors = ials_items(met, **known, dim=min(LONGEST, ials.settings["dim"]))
    # a new user's penalty is per interaction and pair; few interactions leave that of the pairs
    penalty = known["penalty"] * (10 + known["unobserved"] * met.shape[1])
    return meta.Start(vectors, known["unobserved"], penalty, np.ones(met.shape[1], bool))


def meta_learned(
    arm: str,
    begin: meta.Start,
    met: Sparse,
    valid: list[ranking.Lists],
    config: Config,
    folder: pathlib.Path,
) -> Made:
    """A meta-learner: its rate is searched by short trainings, then it trains to a plateau."""
    began, divide = time.perf_counter(), discount_of(met)
    fit = functools.partial(
        meta.fit,
        met,
        begin,
        HEADS[arm],
        valid=valid,
        num_tasks=config.num_tasks,
        devices=config.hardware.devices,
    )

    with progress.bar(arm, config.trials) as update:
        done = itertools.count(1)

        def objective(settings: dict[str, Any], watch: search.Watch) -> float:
            trained = fit(settings["rate"], seeds=1, num_steps=config.trial_steps)
            scorer = divide(trained.scorers[0], settings["discount"])
            found = ranking.quality(scorer, valid)
            update(next(done), {"nDCG@10": found})
            return -found

        space: search.Space = {
            "rate": search.Real(1e-4, 3e-2, log=True),
            "discount": DISCOUNT,
        }
        found = search.tune(
            objective,
            space,
            config.trials,
            folder=folder / "trials" / arm.replace(" ", "-"),
            name="ranker",
            first=search.middle(space),
        )
    trained = fit(
        found.best["rate"],
        seeds=config.seeds,
        num_steps=config.num_steps,
        patience=config.patience,
        title=arm,
        checkpoint=folder / "checkpoints" / arm.replace(" ", "-"),
    )
    scorers = [divide(scorer, found.best["discount"]) for scorer in trained.scorers]
    settings = found.best | {
        "valid": float(np.mean([ranking.quality(scorer, valid) for scorer in scorers])),
        "trials": found.spent,
        "best steps": trained.best_step.tolist(),
    }
    return Made(scorers, settings, time.perf_counter() - began)


def judged(
    arms: Mapping[str, Made], lists: ranking.Ranking, world: worlds.World
) -> dict[records.Key, np.ndarray]:
    """Per-task scores (S, T) of every arm at every number of shots."""
    scores: dict[records.Key, np.ndarray] = {}
    for scenario, at in lists.test.items():
        if not _is_told(scenario, world):
            continue
        for (arm, made), (shots, tests) in itertools.product(arms.items(), at.items()):
            scorers = made.scorers
            if scenario == "item_cold":
                content = functools.partial(with_content, content=world.content, known=lists.known)
                scorers = [content(scorer) for scorer in scorers]
            else:
                tests = ranking.among(tests, lists.known)
            each = [ranking.list_metrics(s, tests, jax.random.key(7)) for s in scorers]
            for metric in each[0]:
                key = records.Key(scenario, arm, f"k={shots}", metric)
                scores[key] = np.stack([found[metric] for found in each]).astype(np.float32)
    return scores


def record_name(dataset: str) -> str:
    """The name of the record of a log."""
    return f"ranking-{_slug(dataset)}"


def one(name: str, config: Config) -> records.Record | None:
    """The record of one log: stored, finished before in the folder, or made now."""
    kept = config.output.folder("ranking")
    if config.output.from_records:
        published = records.path_of(record_name(name))
        return records.read(published) if published.is_file() else None
    path, wanted = (
        records.path_of(record_name(name), kept),
        dataclasses.replace(config, dataset=(name,)),
    )
    if path.is_file() and records.read(path).config_hash == records.config_hash(wanted):
        progress.say(f"{name}: done before, {path}")
        record = records.read(path)
    else:
        record = run(name, config)
        path = records.write(kept, record_name(name), record)
        print(f"record {path}")
    if config.output.publish:
        records.publish(record_name(name), record)
    report.plot(record, kept / f"{record_name(name)}.png")
    print(f"plot   {kept / f'{record_name(name)}.png'}")
    return record


def main(config: Config) -> list[records.Record]:
    """The records of all logs, made or read, and their tables printed."""
    found = {name: one(name, config) for name in config.dataset}
    made = [record for record in found.values() if record]
    if not made:
        raise UserError(
            "no record of the ranking is stored; run python -m experiments ranking --publish first"
        )
    for record in made:
        report.show(record)
    missing = [name for name, record in found.items() if record is None]
    if missing:
        print(f"Not run: {', '.join(missing)}.")
    return made
