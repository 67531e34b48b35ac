"""Tuning of any experiment's settings on meta-validation: TPE with pruning, resumable.

It reads the experiment's `Config` and `build`, and never evaluates test tasks. The same command
resumes a stopped search, and several processes with the same --out share it. It writes a record
with all trials, and figures: the best score by number of trials, the importance of the settings,
and parallel coordinates.

Run: python -m experiments search maml --dataset synthetic --trials 20
     --space inner_rate=log:0.01:1 inner_steps=int:1:10
     python -m experiments search --module my.experiment --dataset my.csv --space rate=log:0.01:1
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from tyro.conf import Positional

from metajax import benchmark
from metajax.benchmark import command, harness, trials
from metajax.benchmark.problem import Problem
from metajax.data.sources import named
from metajax.results import plots, records, tables
from metajax.settings import check, replace
from metajax.training import journal, progress
from metajax.tuning import search
from metajax.tuning.search import Choice, Found, Real, Whole
from metajax.types import UserError

from . import chosen


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the search."""

    experiment: Positional[str] = ""
    """The experiment to tune: maml, melu, ..."""
    _: dataclasses.KW_ONLY
    space: tuple[str, ...]
    """What to search: NAME=log:LOW:HIGH, real:LOW:HIGH, int:LOW:HIGH, logint:LOW:HIGH, of:A,B."""
    module: str = ""
    """A module of your own to tune, with ``Config`` and ``build``, such as my.experiment."""
    data: benchmark.Data = benchmark.Data(dataset="synthetic")
    training: benchmark.Training = benchmark.Training(seeds=2, num_steps=300)
    trials: int = 20
    """Number of trials of the whole search, including those of earlier calls."""
    seed: int = 0
    """Seed of the sampler."""


def parse_space(texts: Sequence[str]) -> dict[str, Real | Whole | Choice]:
    """A space from texts such as inner_rate=log:0.001:1, inner_steps=int:1:10, hidden=of:a,b.

    >>> parse_space(["rate=log:0.1:1"])
    {'rate': Real(low=0.1, high=1.0, log=True)}
    """
    space: dict[str, Real | Whole | Choice] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        kind, *ends = rest.split(":")
        try:
            if kind == "of":
                space[name] = Choice(tuple(ends[0].split(",")))
            elif kind in ("log", "real"):
                space[name] = Real(float(ends[0]), float(ends[1]), kind == "log")
            elif kind in ("int", "logint"):
                space[name] = Whole(int(ends[0]), int(ends[1]), kind == "logint")
            else:
                raise ValueError(kind)
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{text!r} is no setting with its range; write NAME=log:LOW:HIGH, real:LOW:HIGH, "
                "int:LOW:HIGH, logint:LOW:HIGH or of:A,B,C"
            ) from error
    return space


def _typed(config: Any, settings: Mapping[str, Any]) -> Any:
    """The configuration with the settings, each in the type of its field.

    Raises:
      UserError: the configuration has no such setting, or its type is not one to search.
    """
    own = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    known = {name: value for name, value in own.items() if not dataclasses.is_dataclass(value)}
    changes = {}
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"the experiment has no setting {name!r}; there are {', '.join(known)}")
        kind = type(known[name])
        if kind not in (int, float, str, bool):
            raise UserError(f"{name!r} is no number and no word; it cannot be searched")
        changes[name] = value == "True" if kind is bool else kind(value)
    return check(replace(config, **changes))


def score(
    build: Callable[[Any, Problem], Any], config: Any, problem: Problem, watch: search.Watch
) -> float:
    """The meta-validation error of a method: mean over seeds of the best step."""
    learner, tx = build(config, problem)
    return trials.trial(learner, tx, problem, config.training, watch)


def figures(found: Found, folder: pathlib.Path, metric: str) -> list[pathlib.Path]:
    """Saves the budget curve, the importance of the settings, and parallel coordinates."""
    whole = [t for t in found.trials if t.state == "complete"]
    scores = np.array([t.score for t in whole])
    paths = [folder / name for name in ("budget.png", "importance.png", "parallel.png")]
    with plots.page(paths[0]) as axes:
        count = np.arange(1, len(whole) + 1)
        axes.plot(
            count, search.expected_best(scores), label="expected best of as many", **plots.look(0)
        )
        axes.plot(count, np.minimum.accumulate(scores), label="best so far", **plots.look(1))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("complete trials")
        axes.set_ylabel(f"meta-validation {metric}")
        axes.legend(frameon=False)
    with plots.page(paths[1], 0.8 + 0.25 * max(1, len(found.importance))) as axes:
        axes.barh(list(found.importance), list(found.importance.values()), color="#555555")
        axes.set_xlabel("share of the variance of the score")
    names = list(found.best)
    columns = np.array(
        [[_place(t.settings[n], [u.settings[n] for u in whole]) for n in names] for t in whole]
    )
    shade = (scores - scores.min()) / max(float(np.ptp(scores)), 1e-12)
    with plots.page(paths[2]) as axes:
        for row, far in sorted(zip(columns.tolist(), shade, strict=True), key=lambda x: -x[1]):
            axes.plot(
                row, color=matplotlib.colormaps["Greys"](0.95 - 0.75 * far), linewidth=1.6 - far
            )
        for i, name in enumerate(names):
            ends = [f([t.settings[name] for t in whole], key=_order) for f in (min, max)]
            for place, end in zip((-0.06, 1.06), ends, strict=True):
                axes.text(i, place, _shown(end), ha="center", va="center", fontsize=6)
            axes.axvline(i, color="#bbbbbb", linewidth=0.6, zorder=0)
        axes.set_ylim(-0.12, 1.12)
        axes.set_xlim(-0.25, len(names) - 0.75)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks([])
        axes.set_title("darker: lower error")
    return paths


def _place(value: Any, among: list[Any]) -> float:
    """Where a value stands among others, from 0 to 1, by rank."""
    known = sorted(set(among), key=_order)
    return known.index(value) / max(1, len(known) - 1)


def _order(value: Any) -> tuple[str, Any]:
    return str(type(value)), value


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _tunable(config: Config) -> tuple[chosen.Experiment, Callable[[Any, Problem], Any], Any]:
    """The experiment, its `build`, and its configuration with the data and training of the search.

    Raises:
      UserError: there is none, or it is no rating experiment.
    """
    if bool(config.experiment) == bool(config.module):
        raise UserError(
            "name one experiment to tune: search maml, or search --module my.experiment"
        )
    found = chosen.own(config.module) if config.module else chosen.experiment(config.experiment)
    shared = {"data": config.data, "split": config.split, "training": config.training}
    try:
        base = dataclasses.replace(found.config(), **shared)
    except TypeError as error:
        raise UserError(f"experiment {found.name!r} cannot be tuned ({error})") from error
    if found.build is None:
        raise UserError(f"experiment {found.name!r} cannot be tuned: it has no function build")
    return found, found.build, base


def main(config: Config) -> None:
    """Searches, writes the record, prints the trials and saves the figures."""
    experiment, build, base = _tunable(config)
    space = parse_space(config.space)
    _typed(base, {name: _any_of(setting) for name, setting in space.items()})
    name = f"search-{experiment.name}-{named.short_name(config.data.dataset)}"
    folder = config.output.folder(name)
    if config.output.from_records:
        record = records.stored(name, otherwise=folder)
        told, (key,) = record.extra, record.scores
        trials = [search.Trial(**trial) for trial in told["trials"]]
        _show(Found(told["best"], told["score"], trials, told["importance"]), name, key.metric)
        return
    problem = benchmark.load(config.data, config.split, config.training.num_support)
    metric = "misordered" if problem.events else "mse"
    with progress.bar("trials", config.trials) as update:
        done = 0

        def objective(settings: dict[str, Any], watch: search.Watch) -> float:
            nonlocal done
            value = score(build, _typed(base, settings), problem, watch)
            done += 1
            update(done, {"valid": value})
            return value

        study = f"{experiment.name}-{records.config_hash(base)}-{'-'.join(sorted(space))}"
        found = search.tune(
            objective, space, config.trials, folder=folder, name=study, seed=config.seed
        )
    whole = np.array([[t.score for t in found.trials if t.state == "complete"]])
    record = records.made(
        f"search of {experiment.name}",
        config,
        [records.Arm(experiment.name, settings=found.best)],
        {records.Key("search", experiment.name, "valid", metric): whole},
        data=harness.data_of(problem),
        extra={
            "best": found.best,
            "score": found.score,
            "importance": found.importance,
            "trials": [t._asdict() for t in found.trials],
        },
    )
    records.write(folder, name, record, config.output.publish)
    _show(found, name, metric)
    for path in figures(found, folder, metric):
        print(f"plot {path}")
    journal.write_checksums(folder)


def _any_of(setting: Real | Whole | Choice) -> Any:
    return setting.values[0] if isinstance(setting, Choice) else setting.low


def _show(found: Found, name: str, metric: str) -> None:
    names = list(found.best)
    ranked = sorted((t for t in found.trials if t.state == "complete"), key=lambda t: t.score)
    rows = [[f"{t.score:.4f}", *(_shown(t.settings[n]) for n in names)] for t in ranked[:10]]
    pruned = sum(t.state == "pruned" for t in found.trials)
    note = (
        f"{len(ranked)} complete trials, {pruned} pruned, "
        f"{len(found.trials) - len(ranked) - pruned} without a score. Importance: "
        + ", ".join(f"{k} {v:.2f}" for k, v in found.importance.items())
    )
    tables.terminal(tables.Grid(name, [f"valid {metric}", *names], rows, 0, [note], bold=[0]))


if __name__ == "__main__":
    command.cli(main, Config)
