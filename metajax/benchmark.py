"""From a method to its table: the same data, arms, controls and statistics for every experiment.

The arms that stand in every table: A0 item mean, A1 bias, A2 fold-in, A3 joint training without
adaptation, A4 the same fine-tuned, A7 closed-form hierarchical Bayes. Every choice is made on
meta-validation; the test tasks are opened once, after the last choice, and the record says when.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from metajax import evaluate, plots, progress, report, tables, train
from metajax.data import episodes, pretrain, sources, split
from metajax.data.table import Interactions
from metajax.learners import closed_form, pooled
from metajax.models import towers
from metajax.types import Episode, MetaLearner, Model, Params, UserError

A0, A1, A2, A3 = "A0 item mean", "A1 bias", "A2 fold-in", "A3 joint"
A4, A7 = "A4 fine-tuned", "A7 hier. Bayes"
EVERY_SHOT = 10**6

Joint = Callable[[Model], MetaLearner]


@dataclasses.dataclass(frozen=True)
class Run:
    """What every experiment can be told."""

    dataset: str = "ml-1m"
    """synthetic, ml-100k, ml-1m, another named data set, or the path of your own log."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; else METAJAX_DATA, else ../shared/data."""
    seeds: int = 3
    """Number of training seeds; they train side by side in one program."""
    split_seed: int = 0
    """Seed of the split: meta-validation users, query rows, states where none are published."""
    redraw: bool = False
    """Draw the cold users and items anew even where a published split exists."""
    num_steps: int = 2000
    """Outer steps of every trained arm."""
    num_tasks: int = 32
    """Tasks per outer step."""
    num_support: int = 64
    """Support ratings of a training task, at most."""
    out: pathlib.Path | None = None
    """Folder for record and plots; else out/EXPERIMENT-DATASET."""
    publish: bool = False
    """Store the record in paper/results too."""
    from_records: bool = False
    """Print the table of the stored record, without running anything."""


class Frozen(NamedTuple):
    """What was fixed before the test tasks were opened: the ticket that `Problem.open_test` wants.

    Attributes:
      config_hash: of the resolved configuration.
      settings_hash: of every choice made on meta-validation.
      frozen: when, in UTC.
    """

    config_hash: str
    settings_hash: str
    frozen: str


def freeze(config: Any, settings: Mapping[str, Any]) -> Frozen:
    """The ticket for the test tasks: nothing may be chosen after it.

    Args:
      config: the resolved configuration, a dataclass.
      settings: what was chosen on meta-validation, by arm.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return Frozen(report.config_hash(config), digest, report.now())


@dataclasses.dataclass(frozen=True)
class Problem:
    """A data set that is ready to be learned: represented, split, on the device.

    Attributes:
      table: the interactions, with item columns ``bias`` and ``factor``.
      split: who is seen when.
      mean: the mean training rating.
      train: source of meta-training tasks.
      valid: source and episodes of meta-validation.
      example: one episode, for shapes.
      opened: the tickets that the test tasks were opened with, at most one.
    """

    table: Interactions
    split: split.Split
    mean: float
    train: episodes.Source
    valid: tuple[episodes.Source, Episode]
    example: Episode
    opened: list[Frozen] = dataclasses.field(default_factory=list)

    def open_test(self, ticket: Frozen) -> tuple[episodes.Source, dict[str, Episode]]:
        """Columns and episodes of each test scenario, once everything is `freeze`-d.

        Raises:
          UserError: no ticket, or the tasks were opened before with another choice.
        """
        if not isinstance(ticket, Frozen):
            raise UserError("test tasks are closed: call benchmark.freeze after the last choice")
        if self.opened and self.opened[0][:2] != ticket[:2]:
            raise UserError(
                f"test tasks were opened for configuration {self.opened[0].config_hash} with other "
                "settings; a new choice needs a new split: give another --split-seed"
            )
        self.opened.append(ticket)
        tests = self.split.test
        widest = max(int(tasks.length.max()) for tasks in tests.values()) - self.split.num_query
        ready = {
            name: jax.tree.map(jnp.asarray, episodes.fixed(tasks, self.split.num_query, widest))
            for name, tasks in tests.items()
        }
        return self.train, ready


class Trained(NamedTuple):
    """An arm that is ready for the test.

    Attributes:
      learner: the learner, with the settings that were chosen.
      params: its parameters, leaves (S, ...).
      settings: what was chosen on meta-validation.
      history: name -> (S, blocks), empty for an arm that was not trained.
      seconds: time taken to train and choose.
    """

    learner: MetaLearner
    params: Params
    settings: dict[str, Any]
    history: dict[str, np.ndarray]
    seconds: float


def _ready(tasks: split.Tasks, problem: Problem) -> tuple[episodes.Source, Episode]:
    fixed = episodes.fixed(tasks, problem.split.num_query)
    return episodes.source_of_users(tasks, problem.table), jax.tree.map(jnp.asarray, fixed)


def load(run: Run) -> Problem:
    """Reads, splits and represents the data set of a run.

    Raises:
      UserError: the data set is missing or damaged, or too small for the protocol.
    """
    table = sources.load(run.dataset, run.data_dir)
    parts = split.melu(table, run.split_seed, redraw=run.redraw)
    table, mean = pretrain.represent(table, parts.train_rows)
    source = episodes.source_of_users(parts.train, table)
    example = episodes.draw(jax.random.key(0), source, run.num_support, parts.num_query)
    problem = Problem(table, parts, mean, source, (source, example), example)
    return dataclasses.replace(problem, valid=_ready(parts.valid["user_cold"], problem))


def valid_mae(learner: MetaLearner, params: Params, problem: Problem) -> jax.Array:
    """The mean absolute error on meta-validation: the one score that choices are made by."""
    source, tasks = problem.valid
    scores = evaluate.predictions(learner, params, source, tasks, jax.random.key(0))
    return jnp.mean(jnp.abs(scores - tasks.query.label))


def closed_form_arm(
    learner: MetaLearner, problem: Problem, precisions: Mapping[str, list[float]]
) -> Trained:
    """A ridge learner with the prior precisions that are best on meta-validation.

    Args:
      precisions: setting -> candidates; the first setting is the precision of the first feature,
        the second that of all others. All combinations are tried, in one program.
    """
    began = time.perf_counter()
    params = learner.init(jax.random.key(0), problem.example)
    grid = np.stack(np.meshgrid(*precisions.values(), indexing="ij"), -1).reshape(
        -1, len(precisions)
    )
    width = params["log_precision"].shape[0]
    columns = np.minimum(np.arange(width), grid.shape[1] - 1)
    candidates = jnp.log(jnp.asarray(grid[:, columns], jnp.float32))
    judge = lambda p: valid_mae(learner, {**params, "log_precision": p}, problem)
    score = np.asarray(jax.jit(lambda c: jax.lax.map(judge, c))(candidates))
    best = int(np.argmin(score))
    chosen = {**params, "log_precision": candidates[best]}
    settings = dict(zip(precisions, grid[best].tolist(), strict=True))
    settings |= {"valid_mae": float(score[best]), "trials": len(grid)}
    stacked = jax.tree.map(lambda x: x[None], chosen)
    return Trained(learner, stacked, settings, {}, time.perf_counter() - began)


def trained_arm(
    name: str,
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    problem: Problem,
    run: Run,
) -> Trained:
    """A learner meta-trained on the training tasks, its best step chosen on meta-validation."""
    began = time.perf_counter()
    draw = functools.partial(
        episodes.draw, num_support=run.num_support, num_query=problem.split.num_query
    )
    sample = lambda source, key: jax.vmap(draw, (0, None))(
        jax.random.split(key, run.num_tasks), source
    )
    with progress.bar(name, run.num_steps) as update:
        fitted = train.fit(
            learner,
            tx,
            sample,
            problem.train,
            jax.random.split(jax.random.key(1), run.seeds),
            run.num_steps,
            block=min(100, run.num_steps),
            validate=lambda params: valid_mae(learner, params, problem),
            report=update,
        )
    settings = {
        "best_step": fitted.best_step.tolist(),
        "valid_mae": float(fitted.history["valid"].min(axis=1).mean()),
    }
    return Trained(learner, fitted.params, settings, fitted.history, time.perf_counter() - began)


def fine_tuned_arm(
    model: Model,
    joint: Trained,
    problem: Problem,
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.2, 0.3),
    steps: tuple[int, ...] = (1, 3, 5, 10, 20),
) -> Trained:
    """Joint training, then fine-tuning at the rate and steps best on meta-validation."""
    began = time.perf_counter()
    grid: dict[tuple[float, int], float] = {}
    for n in steps:
        over_rates = jax.jit(functools.partial(_valid_by_rate, model, problem, n))
        scores = np.asarray(over_rates(joint.params, jnp.asarray(rates))).mean(axis=0)
        grid |= {(rate, n): float(score) for rate, score in zip(rates, scores, strict=True)}
    rate, n = min(grid, key=lambda setting: np.nan_to_num(grid[setting], nan=np.inf))
    settings = {"rate": rate, "steps": n, "valid_mae": grid[rate, n], "trials": len(grid)}
    settings["grid"] = {f"{r:g} x {k}": v for (r, k), v in grid.items()}
    chosen = pooled.fine_tuned(model, optax.sgd(rate), n)
    return Trained(chosen, joint.params, settings, {}, time.perf_counter() - began)


def _valid_by_rate(model: Model, problem: Problem, steps: int, params: Params, rates: jax.Array):
    """Validation error (S, R) of fine-tuning by ``steps`` at each of R rates."""
    fine_tuned = lambda rate: pooled.fine_tuned(model, optax.sgd(rate), steps)
    of_seed = lambda p: jax.lax.map(lambda rate: valid_mae(fine_tuned(rate), p, problem), rates)
    return jax.vmap(of_seed)(params)


def baselines(
    problem: Problem, model: Model, run: Run, outer_rate: float, joint: Joint
) -> dict[str, Trained]:
    """The arms A0 to A4 and A7, tuned; A3 and A4 use the model of the method they stand beside."""
    offset = towers.stored_mean(problem.mean)
    item_mean = pooled.pooled(offset)
    params = item_mean.init(jax.random.key(0), problem.example)
    arms = {A0: Trained(item_mean, jax.tree.map(lambda x: x[None], params), {}, {}, 0.0)}
    bias = closed_form.ridge(towers.ones(), offset, 1)
    damping = [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]
    arms[A1] = closed_form_arm(bias, problem, {"damping": damping})
    fold_in, grid = fold_in_learner(problem)
    arms[A2] = closed_form_arm(fold_in, problem, grid)
    width = problem.table.item_features.columns["bayes"].shape[1]
    bayes = closed_form.ridge(
        towers.column("bayes"), towers.stored_mean(problem.mean, "bayes_bias"), width
    )
    arms[A7] = closed_form_arm(bayes, problem, {"noise": [0.5, 0.7, 1.0, 1.4, 2.0]})
    arms[A3] = trained_arm(A3, joint(model), optax.adam(outer_rate), problem, run)
    arms[A4] = fine_tuned_arm(model, arms[A3], problem)
    return arms


def fold_in_learner(problem: Problem) -> tuple[MetaLearner, dict[str, list[float]]]:
    """ALS fold-in, ridge on the support over frozen item factors, and the grid it is tuned on."""
    dim = problem.table.item_features.columns["factor"].shape[1]
    embed = towers.column("factor", constant=True)
    learner = closed_form.ridge(embed, towers.stored_mean(problem.mean), dim + 1)
    return learner, {
        "damping": [1.0, 2.0, 4.0, 8.0],
        "penalty": [1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0],
    }


def judge(
    arms: dict[str, Trained], problem: Problem, ticket: Frozen
) -> tuple[dict[str, np.ndarray], list]:
    """Per-task test scores of every arm, scenario and condition; opens the test tasks.

    Returns:
      The scores as `report.Record` names them, and the shots of the k-shot curve.
    """
    source, opened = problem.open_test(ticket)
    everything = jax.tree.map(lambda *x: jnp.concatenate(x), *opened.values())
    ends = np.cumsum([tasks.query.label.shape[0] for tasks in opened.values()])
    curve = [k for k in evaluate.SHOTS if k < everything.support.mask.shape[1]]
    whole = jnp.array([[EVERY_SHOT, 0], [EVERY_SHOT, 1]])
    by_shots = jnp.array([[k, 0] for k in curve])
    scores: dict[str, np.ndarray] = {}

    def keep(scenario: str, arm: str, condition: str, found: dict[str, np.ndarray]) -> None:
        for metric, values in found.items():
            scores[report.score_name(scenario, arm, condition, metric)] = values

    with progress.bar("test", len(arms)) as update:
        for i, (arm, trained) in enumerate(arms.items()):
            run = jax.jit(functools.partial(_scores, trained.learner))
            found = jax.tree.map(np.asarray, run(trained.params, source, everything, whole))
            for scenario, end in zip(opened, ends, strict=True):
                rows = slice(end - opened[scenario].query.label.shape[0], end)
                for j, condition in enumerate(("all", "shuffled")):
                    keep(scenario, arm, condition, {m: v[:, j, rows] for m, v in found.items()})
            found = jax.tree.map(
                np.asarray, run(trained.params, source, opened["user_cold"], by_shots)
            )
            for j, k in enumerate(curve):
                keep("user_cold", arm, f"k={k}", {m: v[:, j] for m, v in found.items()})
            update(i + 1, {})
    return scores, curve


def _scores(learner: MetaLearner, params: Params, source, tasks: Episode, conditions: jax.Array):
    """Metrics (S, C, T) under C conditions, each (shots, whether to shuffle support labels)."""
    key_predict, key_ties = jax.random.split(jax.random.key(2))

    def under(params: Params, condition: jax.Array) -> dict[str, jax.Array]:
        shots, shuffle = condition
        alter = evaluate.first_shots(shots, evaluate.when(shuffle > 0, evaluate.shuffled_labels))
        found = evaluate.predictions(learner, params, source, tasks, key_predict, alter)
        return evaluate.rating_metrics(found, tasks, key_ties)

    return jax.lax.map(lambda p: jax.lax.map(lambda c: under(p, c), conditions), params)


def run_experiment(
    name: str,
    config: Any,
    model: Callable[[Any, Problem], Model],
    methods: Mapping[str, Callable[[Any, Problem], tuple[MetaLearner, Any]]],
    method: str,
    joint: Joint = pooled.pooled,
) -> report.Record:
    """Trains every arm, opens the test, writes the record, prints the table, saves the plot.

    Args:
      name: the experiment.
      config: its configuration, with ``run`` and ``outer_rate``.
      model: (config, problem) -> the model that A3, A4 and the methods share.
      methods: arm name -> build(config, problem) -> (learner, outer optimizer).
      method: the arm that the table is about.
      joint: model -> the learner of A3, where the methods train on another loss or on altered
        tasks: A3 and A4 then do so too.
    """
    run: Run = config.run
    short = sources.short_name(run.dataset)
    if run.from_records:
        record = report.read(report.RESULTS / f"{name}-{short}.json")
        tables.show(record)
        return record
    began = time.perf_counter()
    problem = load(run)
    seconds = {"data": time.perf_counter() - began}
    arms = baselines(problem, model(config, problem), run, config.outer_rate, joint)
    for arm, build in methods.items():
        learner, tx = build(config, problem)
        arms[arm] = trained_arm(arm, learner, tx, problem, run)
    seconds |= {arm: trained.seconds for arm, trained in arms.items()}
    settings = {arm: trained.settings for arm, trained in arms.items()}
    ticket = freeze(config, settings)
    opened = time.perf_counter()
    scores, shots = judge(arms, problem, ticket)
    seconds |= {"test": time.perf_counter() - opened, "total": time.perf_counter() - began}
    facts = {
        "experiment": name,
        "method": method,
        "arms": list(arms),
        "config": dataclasses.asdict(config),
        "config_hash": report.config_hash(config),
        "environment": report.environment(),
        "data": {
            "name": problem.table.name,
            "checksum": problem.table.checksum(),
            "users": problem.table.num_users,
            "items": problem.table.num_items,
            "interactions": len(problem.table),
        },
        "split": {
            "protocol": problem.split.protocol,
            "seed": problem.split.seed,
            "checksum": problem.split.checksum(),
            "tasks": {k: t.num_tasks for k, t in problem.split.test.items()},
            "meta_train_tasks": problem.split.train.num_tasks,
            "meta_valid_tasks": problem.split.valid["user_cold"].num_tasks,
        },
        "settings": settings,
        "test": ticket._asdict() | {"times_opened": len(problem.opened)},
        "history": {arm: t.history for arm, t in arms.items() if t.history},
        "shots": shots,
        "seconds": seconds,
    }
    record = report.Record(facts, scores)
    folder = run.out or pathlib.Path("out") / f"{name}-{short}"
    path = report.write(folder, f"{name}-{short}", record)
    if run.publish:
        report.write(report.RESULTS, f"{name}-{short}", record)
    plots.k_shot(record, "user_cold", folder / "k_shot.png")
    tables.show(record)
    print(f"record {path}\nplot   {folder / 'k_shot.png'}")
    return record


def cli(main: Callable[[Any], Any], config: type) -> None:
    """Runs ``main`` on a configuration from the command line.

    What the user can mend is told in one line on standard error, with exit status 1.
    """
    cache = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    settings = _parse(config, sys.modules[main.__module__].__doc__)
    try:
        main(settings)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped by the user; nothing was written")


def _parse(config: type, description: str | None) -> Any:
    """The configuration from the command line; a wrong option is told in one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(config, description=description, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()[1:]]
        told = " ".join(itertools.takewhile(bool, lines))
        sys.exit(f"error: {told or 'the options are not understood'} (see --help)")
