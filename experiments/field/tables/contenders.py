"""Who stands in a table: every arm with the settings that are tuned for it, all by equal trials.

A trial of a trained arm is a short training with one seed; of boosting it is trees fitted on as
many tasks as such a training sees, by LightGBM if it is installed; the settings that are found are
then fitted by scikit-learn as well, and the better of the two on meta-validation is kept. A closed
form and fine-tuning are judged in full. Every search is of the same number of trials and begins in
the middle of its space: nobody begins with a setting that was found by hand on the same users.
"""

import dataclasses
import functools
import pathlib
import time
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.benchmark import baselines, boosting, mixture, stacking, strong, trials
from metajax.benchmark.arm import Fitted
from metajax.benchmark.baselines import A0, A1, A2, A3, A4, A7, Trained
from metajax.benchmark.boosting import A8, A8_REDRAWN
from metajax.benchmark.mixture import A10, A11, MIXED
from metajax.benchmark.problem import Problem, valid_error
from metajax.results import records
from metajax.settings import Training
from metajax.training import progress
from metajax.transforms.ordered import ordered
from metajax.tuning import search
from metajax.tuning.search import Choice, Real, Space, Whole
from metajax.types import MetaLearner, Model

from ...methods import anil, cmml, cnp, lwa, maml, metasgd, ridge_head, tanp

Goal = Literal["ratings", "lists", "clicks"]
"""What is judged: the error of ratings, the order of a list, the probability of a click."""


class Budget(NamedTuple):
    """What every arm may spend.

    Attributes:
      trials: settings tried.
      trial_steps: outer steps of a trial.
      folder: where the trials and the trained arms are kept: a later call goes on from there.
    """

    trials: int
    trial_steps: int
    folder: pathlib.Path


class Contender(NamedTuple):
    """A meta-learner with what is tuned: settings of its experiment's `Config`.

    Attributes:
      module: the experiment, with ``Config`` and ``build``.
      space: the settings to search.
      further: goal -> more of them where it is the goal.
      constant: the numbers among them that each trial compiles a program for: as an argument of
        one program for all trials (`benchmark.trials`) they would be rounded otherwise.
    """

    module: types.ModuleType
    space: Space
    further: Mapping[Goal, Space] = {}
    constant: frozenset[str] = frozenset()

    def space_of(self, goal: Goal) -> Space:
        """All that is searched."""
        return {**self.space, **self.further.get(goal, {}), **ORDER.get(goal, {})}


OUTER = Real(3e-4, 3e-3, log=True)
INNER = Real(0.02, 0.3, log=True)
INNER_RATE = frozenset({"inner_rate"})
HIDDEN: Space = {"hidden_share": Choice((0.3, 0.0))}
ORDER: Mapping[Goal, Space] = {"lists": {"ordered": Choice((False, True))}}
"""Goal -> whether an arm that is trained is also trained to order, see `transforms.ordered`."""
CONTENDERS: dict[str, Contender] = {
    "A6 ridge head": Contender(
        ridge_head,
        {
            "outer_rate": OUTER,
            "noise": Real(1.0, 6.0, log=True),
        },
        {
            "lists": HIDDEN | {"factors": Choice((True, False)), "hidden": Choice((32, 8))},
            "clicks": HIDDEN,
        },
    ),
    "A6 MAML": Contender(maml, {"inner_rate": INNER, "outer_rate": OUTER}, constant=INNER_RATE),
    "A6 ANIL": Contender(anil, {"inner_rate": INNER, "outer_rate": OUTER}, constant=INNER_RATE),
    "A6 Meta-SGD": Contender(metasgd, {"inner_rate": INNER, "outer_rate": OUTER}),
    "A6 CNP": Contender(cnp, {"outer_rate": OUTER, "code": Choice((32, 64))}),
    "A6 TaNP": Contender(tanp, {"outer_rate": OUTER, "divergence": Real(1e-3, 0.1, log=True)}),
    "A6 CMML": Contender(cmml, {"outer_rate": OUTER, "hyper": Choice((128, 256))}),
    "A6 LWA": Contender(lwa, {"outer_rate": Real(3e-4, 1e-2, log=True)}),
}


RIDGE = "A6 ridge head"
METHODS = (*CONTENDERS, MIXED)
"""What may stand in a table beside the baselines."""

TREES: Space = {
    "rate": Real(0.02, 0.2, log=True),
    "leaves": Whole(8, 64, log=True),
    "min_rows": Whole(20, 200, log=True),
    "l2": Real(0.1, 100.0, log=True),
}
PENALTY: Space = {"penalty": Real(0.1, 10_000.0, log=True)}


def _tuned(
    arm: str,
    objective: Callable[[dict[str, Any], search.Watch], float],
    space: Space,
    budget: Budget,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The best settings, and what the record says of the search."""
    slug = arm.lower().replace(" ", "-").replace(".", "")
    found = search.tune(
        objective,
        space,
        budget.trials,
        folder=budget.folder / "trials" / slug,
        name=slug,
        first=search.middle(space),
    )
    told = {"trials": len(found.trials), "valid_of_trials": round(found.score, 5)}
    return found.best, found.best | told


def closed_forms(problem: Problem, budget: Budget) -> dict[str, Trained]:
    """The arms A0, A1, A2 and A7."""
    ready = baselines.closed_form_arms(problem)
    spaces: dict[str, dict[str, search.Real]] = {
        A1: {"damping": Real(0.3, 20.0, log=True)},
        A2: {"damping": Real(0.5, 10.0, log=True), "penalty": Real(1.0, 40.0, log=True)},
        A7: {"noise": Real(0.3, 8.0, log=True)},
    }
    for arm, space in spaces.items():
        began = time.perf_counter()
        learner, params = ready[arm].learner, ready[arm].params
        start = jax.tree.map(lambda x: x[0], params)
        width = start["log_precision"].shape[0]

        def at(settings: Mapping[str, float], start=start, width=width) -> dict[str, Any]:
            ends = list(settings.values())
            each = jnp.log(jnp.asarray([ends[0]] + [ends[-1]] * (width - 1), jnp.float32))
            return {**start, "log_precision": each}

        judge = jax.jit(lambda p, learner=learner: valid_error(learner, p, problem))
        objective = lambda settings, watch, at=at, judge=judge: float(judge(at(settings)))
        best, told = _tuned(arm, objective, space, budget)
        chosen = jax.tree.map(lambda x: x[None], at({k: best[k] for k in space}))
        ready[arm] = Trained(learner, chosen, told, {}, time.perf_counter() - began)
    return ready


def to_order(learner: MetaLearner, chosen: Mapping[str, Any]) -> MetaLearner:
    """The learner, trained to order if that is chosen."""
    return ordered(learner) if chosen.get("ordered") else learner


def joint(problem: Problem, training: Training, budget: Budget, goal: Goal) -> dict[str, Trained]:
    """The arms A3 and A4: of two networks the one that is better on meta-validation."""
    more = CONTENDERS[RIDGE].further.get(goal, {})

    def config_of(chosen: Mapping[str, Any]) -> ridge_head.Config:
        return ridge_head.Config(training=training, **{name: chosen[name] for name in more})

    def network_of(chosen: Mapping[str, Any]) -> Model:
        if chosen["network"] == "perceptron":
            return maml.model(maml.Config(), problem)
        return ridge_head.model(config_of(chosen), problem)

    def build(chosen: Mapping[str, Any], steps: int):
        learner = ridge_head.joint(config_of(chosen))(network_of(chosen))
        rate = optax.cosine_decay_schedule(chosen["outer_rate"], steps)
        return to_order(learner, chosen), optax.adamw(rate, weight_decay=1e-4)

    short = dataclasses.replace(training, num_steps=budget.trial_steps, seeds=1)
    of_short = lambda chosen: build(chosen, short.num_steps)
    objective = trials.trials(of_short, problem, short, {"outer_rate"})
    space: Space = {"network": Choice(("item and profile", "perceptron")), "outer_rate": OUTER}
    space = {**space, **more, **ORDER.get(goal, {})}
    best, told = _tuned(A3, objective, space, budget)
    found = {
        A3: baselines.trained_arm(
            A3, *build(best, training.num_steps), problem, training, budget.folder
        )
    }
    found[A3] = found[A3]._replace(settings=told | found[A3].settings)
    tuning = baselines.fine_tuning(network_of(best), found[A3], problem)
    of_rate = lambda settings, watch: tuning((settings["rate"],)).settings["valid"]
    rates: Space = {"rate": Real(0.003, 0.1, log=True)}
    best, told = _tuned(A4, of_rate, rates, budget)
    found[A4] = tuning((best["rate"],))
    settings = {k: v for k, v in found[A4].settings.items() if k not in ("rates", "grid")}
    found[A4] = found[A4]._replace(settings=settings | told)
    return found


def meta_trained(
    arm: str, problem: Problem, training: Training, budget: Budget, goal: Goal
) -> Trained:
    """One of the `CONTENDERS`, tuned and trained."""
    module = CONTENDERS[arm].module
    short = dataclasses.replace(training, num_steps=budget.trial_steps, seeds=1)

    def build(chosen: Mapping[str, Any], training: Training):
        settings = {name: value for name, value in chosen.items() if name != "ordered"}
        learner, tx = module.build(module.Config(training=training, **settings), problem)
        return to_order(learner, chosen), tx

    space = CONTENDERS[arm].space_of(goal)
    real = {name for name, values in space.items() if isinstance(values, Real)}
    numbers = real - CONTENDERS[arm].constant
    objective = trials.trials(lambda chosen: build(chosen, short), problem, short, numbers)
    best, told = _tuned(arm, objective, space, budget)
    learner, tx = build(best, training)
    trained = baselines.trained_arm(arm, learner, tx, problem, training, budget.folder)
    return trained._replace(settings=told | trained.settings)


def combined(
    ready: Mapping[str, Trained], problem: Problem, training: Training, budget: Budget
) -> tuple[dict[str, Trained | Fitted], list[str]]:
    """A8 with and without arms' predictions, and A9, each tuned; and what could not be made."""
    tuned = functools.partial(boosted, training, budget)

    def stacked(closed_forms: Mapping[str, Trained], draws: int) -> Trained:
        at = stacking.stacker(problem, closed_forms, draws, training.num_support)
        objective = lambda settings, watch: at(settings["penalty"]).settings["valid"]
        best, told = _tuned(stacking.A9, objective, PENALTY, budget)
        made = at(best["penalty"])
        return made._replace(settings=made.settings | told)

    closed_forms = {arm: ready[arm] for arm in (A0, A1, A2, A7)}
    return strong.combined(problem, closed_forms, training, tuned, stacked)


def boosted(training: Training, budget: Budget, arm: str, make: strong.Maker, draws: int) -> Fitted:
    """Trees whose settings are searched, fitted by each library; the better ones."""
    fastest = boosting.installed()[0]
    tried = make(min(draws, budget.trial_steps * training.num_tasks))
    at = lambda settings: boosting.DEFAULT._replace(**settings)
    objective = lambda settings, watch: tried(at(settings), fastest).settings["valid"]
    best, told = _tuned(arm, objective, TREES, budget)
    made = boosting.better(make(draws), at(best))
    return made._replace(settings=made.settings | told)


def unasked(method: str) -> tuple[str, ...]:
    """The arms that stand in a table for the sake of another method than this one."""
    return () if method == MIXED else (A10, A11, MIXED)


def mixtures(
    arms: Mapping[str, Trained | Fitted], problem: Problem, training: Training, budget: Budget
) -> dict[str, Fitted]:
    """A10, of all baselines that adapt; A11, of these and further trees; that with the ridge head.

    A11 is left out where A8 is.
    """
    bases = {name: arms[name] for name in (A1, A2, A3, A4, A7, *strong.NAMES) if name in arms}
    further: dict[str, dict[str, Trained | Fitted]] = {A10: {}}
    if A8 in arms:
        draws = strong.num_draws(training, problem.split.train.num_tasks)
        make = functools.partial(
            boosting.booster,
            problem,
            {arm: arms[arm] for arm in (A2, A7)},
            num_support=training.num_support,
            seed=1,
        )
        further[A11] = {A8_REDRAWN: boosted(training, budget, A8_REDRAWN, make, draws)}
    further[MIXED] = {RIDGE: arms[RIDGE]}
    made = {}
    with progress.bar(A10, len(further)) as update:
        for done, (name, more) in enumerate(further.items(), 1):
            role = records.METHOD if name == MIXED else records.BASELINE
            arm = mixture.mixture_arm(problem, bases | more, role=role)
            alone = {part: more[part].settings for part in more.keys() - arms.keys()}
            made[name] = arm._replace(settings=arm.settings | alone)
            update(done, {"valid": made[name].settings["valid"]})
    return made


def all_arms(
    names: tuple[str, ...], problem: Problem, training: Training, budget: Budget, goal: Goal
) -> tuple[dict[str, Trained | Fitted], list[str]]:
    """The arms that every table carries, then the named `METHODS`; and what is left out."""
    ready = closed_forms(problem, budget)
    ready |= joint(problem, training, budget, goal)
    made: dict[str, Trained | Fitted] = {}
    made |= baselines.as_baselines({arm: ready[arm] for arm in (A0, A1, A2, A3, A4, A7)})
    more, notes = combined(ready, problem, training, budget)
    made |= more
    trained = dict.fromkeys(RIDGE if name == MIXED else name for name in names)
    for arm in trained:
        made[arm] = meta_trained(arm, problem, training, budget, goal)
    if MIXED in names:
        made |= mixtures(made, problem, training, budget)
    return made, notes
