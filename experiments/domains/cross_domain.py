"""New in one domain, known in another: what does the source tell of the target?

Some users of two domains are hidden in the target: their source behaviour is known, and K of their
target ratings. Arms: item means, target-only fold-in, CMF, a bridge between the vectors of both
domains (EMCDR, linear and MLP; TMCDR, meta-learned over users; PTUPCDR, a bridge per user), and
ours: one joint Gaussian prior over the weights of both domains, on which the cold start conditions
by the source ratings; target ratings update it in closed form. It starts from an estimate by EM,
and keeps it unless meta-learning is better on validation people by more than a standard error of
the paired difference: with few of them the lowest error means little. Its item vectors are fitted
to both domains, and the score of CMF is one more feature; bridges connect the vectors of each
domain's own factorization, as in their papers. Every trained arm has the same number of trials on
validation users, on whom the ordinal link of each arm is fitted too. Controls: training on
mismatched pairs of users.

References: Man et al., IJCAI 2017; Zhu et al., SIGIR 2021; Zhu et al., WSDM 2022; Singh and Gordon,
KDD 2008.
Run: python -m experiments cross_domain --source douban-book --dataset douban-music
     python -m experiments cross_domain --from-records prints the stored tables.
Published: on other data, in other units.
Deviates: the vectors that bridges connect are ridge weights on Bayesian item vectors, beside item
means; after K ratings all bridge arms are updated by ridge regression around the bridge's mean. The
rule of one standard error was added after a test in which meta-learning was behind its start.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np

from metajax import benchmark
from metajax.benchmark import belief
from metajax.data.shared_users import Pair
from metajax.data.sources import named
from metajax.evaluation import evaluate, judge, ordinal
from metajax.learners.cold_start import cross_domain as learners
from metajax.results import ledger, records
from metajax.results.groups import GROUPS
from metajax.results.partial import Partial
from metajax.settings import Hardware, Output, Positive, Presets, Share, config_hash
from metajax.training import progress
from metajax.types import Episode, Params, UserError

from . import cross_arms as arms
from . import cross_data as data
from . import cross_factors as factors
from . import cross_report as report
from . import rates

NAME = "cross_domain"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    source: str = "douban-book"
    """The domain in which people are known: a data set, a file of your own, one of amazon-beauty,
    amazon-electronics, amazon-grocery4 and amazon-home, or a genre such as ml-1m:Drama."""
    dataset: str = "douban-music"
    """The domain in which they are new."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""
    hardware: Hardware = Hardware()
    hidden: tuple[Share, ...] = (0.2, 0.5, 0.8)
    """Shares of the people of both domains who are hidden in the target."""
    trials: Positive = 4
    """Rates and penalties that are tried of each trained arm; the best on validation is judged."""
    num_steps: Positive = 200
    """Outer steps at most; validation says how many are kept."""
    num_tasks: Positive = 24
    """People per outer step."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"source": "ml-100k:Drama", "dataset": "ml-100k:Comedy", "hidden": (0.2,),
                  "num_steps": 50, "trials": 2},
        "gpu": {"num_steps": 2_000, "trials": 30, "num_tasks": 128},
    }  # fmt: skip


def name_of(config: Config) -> str:
    """The name of the record."""
    short = [named.short_name(x).replace(":", "-").lower() for x in (config.source, config.dataset)]
    return f"{NAME}-{short[0]}-to-{short[1]}"


Columns = Callable[[Episode, np.ndarray], Episode]
"""(the tasks of people, these people (n,)) -> the tasks with the columns of an arm."""
Ready = tuple[dict[str, Any], judge.Judged, Columns]
"""What was chosen of an arm, what is judged, and what gives its tasks their columns."""


def restored(value: Any) -> tuple[dict[str, Any], Params]:
    """What was chosen of an arm and its parameters, as `Partial` keeps them."""
    told, params = value
    array = lambda x: np.asarray(x, np.float32)
    return told, jax.tree.map(array, params, is_leaf=lambda x: isinstance(x, list))


def trained(
    tuner: arms.Tuner, kept: Partial, scenario: str
) -> Iterator[tuple[str, Callable[[], Ready]]]:
    """(name, its tuning and training) of the arms that learn by gradients; those kept are read."""
    size = tuner.found.rows.inputs["x"].shape[-1]
    linear, deep = (arms.bridged(learners.mlp_bridge(size, hidden)) for hidden in ((), (32,)))
    own = arms.bridged(learners.personal_bridge(size))
    made = {
        report.EMCDR: arms.Arm(learners.mapping_loss(linear)),
        report.EMCDR_MLP: arms.Arm(learners.mapping_loss(deep)),
        report.TMCDR: arms.Arm(learners.cold_loss(linear), learners.over_users),
        report.PTUPCDR: arms.Arm(learners.cold_loss(own)),
        report.NO_SOURCE: arms.joint(tuner.found, with_source=False),
        report.OURS: arms.joint(tuner.found),
    }
    first = {
        report.NO_SOURCE: partial(arms.first_prior, tuner.found, with_source=False),
        report.OURS: partial(arms.first_prior, tuner.found),
        report.WRONG_OURS: partial(arms.first_prior, tuner.found, mismatched=True),
    }
    chosen: dict[str, dict[str, Any]] = {}

    def run(name: str, arm: arms.Arm, **how: Any) -> Ready:
        place = f"{scenario}: {name}"
        if place not in kept:
            start = first[name]() if name in first else None
            told, _, params = tuner.tuned(arm, first=start, **how)
            kept.add(place, [told, params])
        chosen[name], params = restored(kept[place])
        return chosen[name], (arm.learner, params), lambda tasks, users: tasks

    for name, arm in made.items():
        yield name, partial(run, name, arm)
    for name, base in ((report.WRONG_EMCDR, report.EMCDR), (report.WRONG_OURS, report.OURS)):
        yield name, lambda n=name, b=base: run(n, made[b], told=chosen[b], mismatched=True)


def closed(pair: Pair, tuner: arms.Tuner) -> Iterator[tuple[str, Callable[[], Ready]]]:
    """(name, its tuning) of the arms in closed form; their tasks get columns of their own."""
    same: Columns = lambda tasks, users: tasks
    mean = lambda source, tasks, key: np.asarray(tasks.query.inputs["offset"])[None]
    yield report.ITEM, lambda: ({"trials": 1}, mean, same)

    def folded() -> Ready:
        told, one, params = arms.fold_in(tuner)
        return told, (one, params), same

    def collective() -> Ready:
        found, parts = [], tuner.found.parts
        known = np.flatnonzero(~np.isin(pair.target.user, parts["unseen"]))
        params: Params = {"embed": {}, "offset": {}, "prior": {}}
        for penalty in factors.PENALTIES:
            one, fit = factors.learner(penalty), factors.collective(pair, known, penalty)
            tasks = factors.with_columns(fit, pair, tuner.valid, parts["valid"])
            found.append((float(arms.error(one, params, tasks)), penalty, one, fit))
        valid, penalty, one, fit = min(found, key=lambda f: f[0])
        told = {"penalty": penalty, "trials": len(found), "valid_mse": valid}
        mine = lambda tasks, users: factors.with_columns(fit, pair, tasks, users)
        return told, (one, params), mine

    def estimated() -> Ready:
        arm = arms.joint(tuner.found)
        one, params = arm.learner, tuner.untrained(arm, arms.first_prior(tuner.found))
        told = {"trials": 1, "valid_mse": float(arms.error(one, params, tuner.valid))}
        return told, (one, arms.of_one_seed(params)), same

    yield report.FOLD_IN, folded
    yield report.CMF, collective
    yield report.BY_EM, estimated


def begun(config: Config, pair: Pair) -> Partial:
    """The trained arms of this run that are there already, if it was stopped."""
    about = {
        "config": config_hash(config),
        "data": [pair.source.checksum(), pair.target.checksum()],
        "commit": records.environment().commit,
    }
    return Partial(config.output.folder(name_of(config)) / "arms.jsonl", about)


def measured(config: Config) -> records.Record:
    """Tunes and trains all arms for every share of hidden people, judges them, writes a record."""
    began = time.perf_counter()
    if not config.hidden:
        raise UserError("no share of hidden people is told; give one or more --hidden")
    pair = data.loaded(config.source, config.dataset, config.data_dir)
    for share in config.hidden:
        data.split(pair, share)  # what cannot be judged is refused before anything is trained
    partial = begun(config, pair)
    of_source = data.side(pair.source, np.arange(len(pair.source)))
    ready: dict[tuple[str, str], Ready] = {}
    crossings = {}
    with progress.bar(NAME.replace("_", " "), 12 * len(config.hidden)) as update:
        for share in config.hidden:
            scenario = f"{share:.0%} hidden"
            found = crossings[scenario] = data.crossing(pair, share, of_source)
            valid = data.tasks(found, found.parts["valid"])
            sizes = (config.num_steps, config.num_tasks, config.trials, config.hardware.devices)
            tuner = arms.Tuner(found, valid, *sizes)
            for name, make in (*closed(pair, tuner), *trained(tuner, partial, scenario)):
                ready[scenario, name] = make()
                told = ready[scenario, name][0]
                update(len(ready), {"valid": told.get("valid_mse", float("nan"))})
                progress.say(f"{scenario}: {name} {told}")
    names = list(dict.fromkeys(name for _, name in ready))
    choices = {n: {s: ready[s, n][0] for s in crossings} for n in names}
    users = [crossings[s].parts["test"] for s in crossings]
    tests = ledger.checksum(NAME, pair.target.label, pair.target.item, *users)
    links = links_of(ready, crossings, pair.target.scale)
    opened = partial.opening(config, lambda: records.open_tests(config, choices, NAME, tests))
    scores: dict[records.Key, np.ndarray] = {}
    for (scenario, name), (_, one, columns) in ready.items():
        link = links.get((scenario, name))
        scores |= judged(crossings[scenario], scenario, name, one, columns, link)
    target = pair.target
    record = benchmark.kept(
        name_of(config),
        NAME,
        config,
        records.arms_of(names, roles=report.roles(names), settings=choices),
        scores,
        scenario=next(iter(crossings)),
        opened=(opened,),
        data=records.data_of(target),
        began=began,
        extra={
            **scale_of(next(iter(crossings.values())), target.scale),
            "scenarios": list(crossings),
            "shared": pair.shared,
            "implicit": bool(crossings[scenario].implicit),
            GROUPS: {s: data.groups_of(pair, c.parts["test"]) for s, c in crossings.items()},
        },
    )
    partial.path.unlink()
    return record


def rated(found: data.Crossing) -> np.ndarray:
    """The ratings (n,) of the target that training people gave."""
    train = found.parts["train"]
    return np.asarray(found.rows.label)[train][np.asarray(found.rows.mask)[train] > 0]


def scale_of(found: data.Crossing, scale: tuple[float, float]) -> dict[str, Any]:
    """What a record says of the rating levels; nothing of events."""
    if found.implicit:
        return {}
    return belief.facts(belief.levels_in(rated(found), scale), rated(found), 1.0)


def links_of(
    ready: dict[tuple[str, str], Ready],
    crossings: dict[str, data.Crossing],
    scale: tuple[float, float],
) -> dict[tuple[str, str], ordinal.Link]:
    """(scenario, arm) -> its link to ratings, on validation people; none where rows are events."""
    links = {}
    for scenario, found in crossings.items():
        levels = None if found.implicit else belief.levels_in(rated(found), scale)
        if levels is None:
            continue
        of = {
            name: rates.on_own(one, tasks_of(found, "valid", columns))
            for (where, name), (_, one, columns) in ready.items()
            if where == scenario
        }
        own = judge.links_of(of, data.tasks(found, found.parts["valid"]), levels)
        links |= {(scenario, name): link for name, link in own.items()}
    return links


def tasks_of(found: data.Crossing, part: str, columns: Columns) -> Episode:
    """The tasks of the people of a part, with the columns of an arm."""
    users = found.parts[part]
    return columns(data.tasks(found, users), users)


def judged(
    found: data.Crossing,
    scenario: str,
    name: str,
    one: judge.Judged,
    columns: Columns,
    link: ordinal.Link | None = None,
) -> dict[records.Key, np.ndarray]:
    """The scores of an arm after K ratings of hidden people; after all, of its link too."""
    tasks = tasks_of(found, "test", columns)
    metrics = evaluate.event_metrics(0.0) if found.implicit else evaluate.rating_metrics
    scorer = lambda source, given, key: judge.scored(one, given, key)  # no fresh parameters: N3
    given = {"curves": (scenario,), "links": {} if link is None else {name: link}}
    scores = judge.judge({name: scorer}, {scenario: tasks}, metrics=metrics, **given)
    kept = (*report.SHOWN, records.N1)
    return {k: v for k, v in scores.items() if k.condition in kept}


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(name_of(config), config, measured, report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config)
