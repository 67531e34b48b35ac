"""People rate what they choose: do inverse propensities help a meta-learner on random items?

All arms train on ratings of items that people chose, and are tested on ratings of items drawn at
random. Propensities (how likely a pair was to be rated) are estimated by logistic regression on
features of people and items, by popularity, or by naive Bayes on a few random ratings that are set
aside. The debiased meta-learner is a ridge head whose support and outer loss are weighed by inverse
propensities; beside it stand the same learner without weights, item means, bias models, and matrix
factorization: plain, by inverse propensity scores (MF-IPS) and doubly robust (MF-DR). Every trained
arm gets a trial per seed, judged by the error of held-out chosen ratings, weighed by propensity.
Which form the debiased learner has (weights on the support, on the outer loss or on both, clipped
lightly or more) is chosen by the error of the few random ratings that are set aside. So is the
ordinal link of each arm and seed fitted on these: no other ratings are left that no arm is trained
on, for in the end all learn from all chosen ones. Every arm then knows the level of random ratings.
The control is shuffled propensities; equal ones are the learner without weights.

References: Schnabel et al., ICML 2016; Wang et al., ICML 2019.
Run: python -m experiments missing_not_at_random
     python -m experiments missing_not_at_random --from-records prints the stored tables.
Published: third_party/published.toml; all 16 random ratings of a person, row "as published".
Deviates: pairs that were trained on are left out of the test, but for the rows "as published".
"""

import dataclasses
import pathlib
import time
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from metajax import benchmark
from metajax.benchmark import belief
from metajax.data.sources import coat, named
from metajax.data.worlds import chosen as worlds
from metajax.evaluation import judge, ordinal
from metajax.results import ledger, records
from metajax.results.groups import GROUPS
from metajax.settings import Hardware, Output, Positive, Presets, Share
from metajax.training import progress
from metajax.types import Episode, MetaLearner, UserError

from . import chosen_arms as arms
from . import chosen_report as report
from . import rates

NAME = "missing_not_at_random"
NAIVE = "naive_bayes"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    dataset: str = "coat"
    """coat, synthetic, or the path of an .npz file with the same arrays."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""
    hardware: Hardware = Hardware()
    propensity: Literal["logistic", "popularity", "naive_bayes", "stored"] = "logistic"
    """How the propensities of the weighed arms are estimated; stored: those of the data set."""
    floor: Share = 0.1
    """Share of rated pairs whose low propensities are raised to the lowest of the others."""
    milder: Share = 0.4
    """The same share for the forms of the debiased learner with milder weights."""
    aside: Share = 0.1
    """Share of the random ratings for naive Bayes and the choice of a form; none is tested."""
    hidden: Share = 0.2
    """Share of the chosen ratings that settings are chosen on."""
    seeds: Positive = 5
    """Number of training seeds, and of trials of each trained arm."""
    num_steps: Positive = 200
    """Outer steps of a trial at most; validation says how many are kept."""
    num_tasks: Positive = 32
    """People per outer step."""
    rate: float = 0.02
    """Adam's rate."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "synthetic", "num_steps": 60, "seeds": 1},
        "gpu": {"num_steps": 3_000, "seeds": 10},
    }


def loaded(config: Config) -> coat.Chosen:
    """The data set, checked.

    Raises:
      UserError: it has no ratings of random items, or no stored propensities that are asked for.
    """
    if config.dataset == "synthetic":
        log = worlds.liked_first()
    elif config.dataset == "coat":
        log = coat.coat(named.data_folder(config.data_dir))
    elif config.dataset.endswith(".npz"):
        path = pathlib.Path(config.dataset)
        if not path.is_file():
            raise UserError(f"no file {path}; give coat, synthetic or the path of an .npz file")
        log = coat.read(path)
    else:
        raise UserError(
            f"{config.dataset} has no ratings of items drawn at random, without which nobody can "
            "tell whether a weight has helped; give coat, synthetic or an .npz file that has them"
        )
    if config.propensity == "stored" and log.propensity is None:
        raise UserError(f"{log.name} came without propensities; choose another --propensity")
    return log


def held_out(config: Config, log: coat.Chosen) -> tuple[np.ndarray, np.ndarray]:
    """The chosen ratings for validation, and the random ones set aside, both (U, I)."""
    rng = np.random.default_rng(0)
    rated = log.chosen > 0
    hidden = rated & (rng.random(rated.shape) < config.hidden)
    few = (rated & ~hidden).sum(axis=1) == 0
    hidden[few] = False
    fresh = (log.random > 0) & ~rated
    return hidden, fresh & (rng.random(rated.shape) < config.aside)


def made(log: coat.Chosen, own: np.ndarray, mild: np.ndarray) -> dict[str, arms.Arm]:
    """The trained arms that are tuned, by name; weights (U, I), and milder ones."""
    one = np.ones(log.chosen.shape)
    factors = arms.penalized(arms.factorization(log, arms.DIM))
    robust = arms.penalized(arms.doubly_robust(log, arms.DIM))
    head = arms.debiased(arms.head(log, arms.DIM))
    return {
        report.MF: arms.Arm(factors, one, one),
        report.IPS: arms.Arm(factors, own, own),
        report.ROBUST: arms.Arm(robust, own, own),
        report.PLAIN: arms.Arm(head, one, one),
        report.OURS: arms.Arm(head, own, own),
        report.SUPPORT: arms.Arm(head, own, one),
        report.QUERY: arms.Arm(head, one, own),
        report.OURS + report.MILDER: arms.Arm(head, mild, mild),
        report.SUPPORT + report.MILDER: arms.Arm(head, mild, one),
        report.QUERY + report.MILDER: arms.Arm(head, one, mild),
    }


def set_aside(log: coat.Chosen, seen: np.ndarray, aside: np.ndarray) -> Episode:
    """The tasks of the random ratings that are set aside (U, I), of supports with these weights."""
    ones = np.ones(log.chosen.shape)
    query = arms.rows_of(np.where(aside, log.random, 0), ones, ones)
    return arms.tasks(log, arms.rows_of(log.chosen, seen, ones), query)


def chosen_form(
    log: coat.Chosen, ready: dict[str, tuple[Any, np.ndarray]], aside: np.ndarray
) -> dict[str, float]:
    """Form -> the squared error of the random ratings that are set aside (U, I)."""
    found = {}
    for name in report.FORMS:
        one, seen = ready[name]
        tasks = set_aside(log, seen, aside)
        scores, query = judge.scored(one, tasks, jax.random.key(4)), tasks.query
        off = (np.asarray(scores) - query.label[None]) ** 2 * query.mask[None]
        found[name] = float(off.sum() / query.mask.sum() / len(off))
    return found


def links_of(
    log: coat.Chosen, ready: dict[str, tuple[Any, np.ndarray]], aside: np.ndarray
) -> dict[str, ordinal.Link]:
    """Arm -> the link of each of its seeds, on the random ratings that are set aside (U, I)."""
    own = lambda one, seen: rates.on_own(one, set_aside(log, seen, aside))
    scorers = {name: own(*given) for name, given in ready.items()}
    tasks = set_aside(log, np.ones(log.chosen.shape), aside)
    return judge.links_of(scorers, tasks, levels_of(log))


def levels_of(log: coat.Chosen) -> np.ndarray:
    """The ratings (L,) that distributions are over: those that people gave what they chose."""
    given = log.chosen[log.chosen > 0]
    return ordinal.levels_of(given, (float(given.min()), float(given.max())))


def variants(
    log: coat.Chosen, weights: dict[str, np.ndarray], main: str
) -> dict[str, tuple[str, np.ndarray]]:
    """Name -> (whose settings it takes, its weights): other propensities, and wrong ones."""
    rated = log.chosen > 0
    shuffled = np.ones(rated.shape)
    shuffled[rated] = np.random.default_rng(1).permutation(weights[main][rated])
    found = {
        f"{report.OURS}, {name.replace('_', ' ')}": (report.OURS, weight)
        for name, weight in weights.items()
        if name != main
    }
    return found | {
        report.SHUFFLED: (report.OURS, shuffled),
        report.SHUFFLED_IPS: (report.IPS, shuffled),
    }


def judged(
    log: coat.Chosen,
    arm: str,
    one: Any,
    seen: np.ndarray,
    aside: np.ndarray,
    link: ordinal.Link,
) -> dict[records.Key, np.ndarray]:
    """The scores of one arm in both scenarios; of its link in that without what is set aside."""
    ones = np.ones(log.chosen.shape)
    fresh = np.where((log.chosen > 0) | aside, 0, log.random)
    support, width = arms.rows_of(log.chosen, seen, ones), int((log.random > 0).sum(1).max())
    scenarios = {
        report.RANDOM: arms.tasks(log, support, arms.rows_of(fresh, ones, ones, width)),
        report.PUBLISHED: arms.tasks(log, support, arms.rows_of(log.random, ones, ones, width)),
    }
    found = judge.judge({arm: one}, scenarios, main="mse", links={arm: link})
    told = lambda key: key.scenario == report.PUBLISHED and key.metric in ordinal.PROPER
    return {key: values for key, values in found.items() if not told(key)}


def scorer(table: np.ndarray) -> judge.Scorer:
    """An arm that looks its scores up in a table (S, U, I)."""

    def scores(source: Any, tasks: Any, key: Any) -> np.ndarray:
        user = np.asarray(tasks.profile["user"])
        return table[:, user[:, None], np.asarray(tasks.query.inputs["item"])]

    return scores


def data_of(log: coat.Chosen) -> records.Data:
    """What the record says of the data."""
    (users, items), count = log.chosen.shape, int((log.chosen > 0).sum())
    return records.Data(log.name, ledger.checksum(log.chosen, log.random), users, items, count)


def judgeable(name: str, learner: MetaLearner, params: Any) -> judge.Judged:
    """What the judge takes: a factorization is a table of scores, for it does not adapt."""
    factors = name in (report.MF, report.IPS, report.ROBUST)
    return scorer(arms.table_of(params)) if factors else (learner, params)


def measured(config: Config) -> records.Record:
    """Tunes and trains all arms, judges them and writes the record."""
    began, log = time.perf_counter(), loaded(config)
    hidden, aside = held_out(config, log)
    found = arms.propensities(log, log.random[aside])
    rated = log.chosen > 0
    weights = {k: arms.weights_of(rated, p, config.floor) for k, p in found.items()}
    own = weights[config.propensity]
    settings = (config.num_steps, config.num_tasks, config.rate, config.seeds)
    settings += (config.hardware.devices,)
    tuner = arms.Tuner(log, hidden, own, *settings)
    ready: dict[str, tuple[Any, np.ndarray]] = {}
    choices: dict[str, dict[str, Any]] = {}
    for name, weight, of_users in report.closed(np.ones(rated.shape), own):
        choices[name], table = tuner.biases(weight, of_users)
        ready[name] = (scorer(table[None]), weight)
    tried = made(log, own, arms.weights_of(rated, found[config.propensity], config.milder))
    other = variants(log, weights, config.propensity)
    with progress.bar(NAME.replace("_", " "), len(tried) + len(other)) as update:
        for name, arm in tried.items():
            choices[name], params = tuner.tuned(arm)
            ready[name] = (judgeable(name, arm.learner, params), arm.seen)
            update(len(ready) - 3, {"valid": choices[name]["valid_mse"]})
            progress.say(f"{name}: {choices[name]['valid_mse']:.3f} on validation")
        for name, (base, weight) in other.items():
            choices[name], learner = dict(choices[base]), tried[base].learner
            params = tuner.trained(arms.Arm(learner, weight, weight), choices[base])
            ready[name] = (judgeable(base, learner, params), weight)
            update(len(ready) - 3, {})
    errors = chosen_form(log, ready, aside)
    form = min(errors, key=lambda name: errors[name])
    ready[report.CHOSEN] = ready[form]
    choices[report.CHOSEN] = choices[form] | {"form": form, "aside_mse": errors}
    name = f"{NAME}-{log.name}"
    links = links_of(log, ready, aside)
    test = ledger.checksum(NAME, log.random, aside)
    opened = records.open_tests(config, choices, NAME, test)
    scores: dict[records.Key, np.ndarray] = {}
    for arm, (one, seen) in ready.items():
        scores |= judged(log, arm, one, seen, aside, links[arm])
    used = {k for k in scores if NAIVE.replace("_", " ") in k.arm and k.scenario != report.RANDOM}
    scores = {k: v for k, v in scores.items() if k not in used}  # it has seen some of these
    return benchmark.kept(
        name,
        NAME,
        config,
        records.arms_of(ready, roles=report.roles(ready), settings=choices),
        scores,
        scenario=report.RANDOM,
        opened=(opened,),
        data=data_of(log),
        began=began,
        extra={
            **belief.facts(levels_of(log), log.chosen[rated], 1.0),
            GROUPS: {report.RANDOM: report.groups_of(log)},
            "aside": int(aside.sum()),
            "weights": {k: report.spread(w[rated]) for k, w in weights.items()},
        },
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(
        f"{NAME}-{named.short_name(config.dataset)}", config, measured, report.report
    )


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
