"""The arms of a table: tuned baselines that are not meta-learners, and meta-trained learners.

A0 item mean, A1 bias, A2 fold-in, A3 joint training without adaptation, A4 the same fine-tuned, A7
closed-form hierarchical Bayes stand in every table; A6 are the methods. Every choice is made on
meta-validation.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import tree
from metajax.benchmark.arm import Fitted
from metajax.benchmark.problem import Problem, valid_error
from metajax.data import episodes
from metajax.evaluation import evaluate
from metajax.learners import closed_form, pooled
from metajax.models import towers
from metajax.results import records
from metajax.settings import Training
from metajax.training import journal, loop
from metajax.training.devices import on_devices
from metajax.types import Episode, MetaLearner, Model, Params, PyTree, UserError

A0, A1, A2, A3 = "A0 item mean", "A1 bias", "A2 fold-in", "A3 joint"
A4, A7 = "A4 fine-tuned", "A7 hier. Bayes"

Joint = Callable[[Model], MetaLearner]


class Trained(NamedTuple):
    """A learner that is trained and tuned, and not yet tested.

    Attributes:
      learner: the learner, with the settings that were chosen.
      params: its meta-parameters for S seeds, leaves (S, ...).
      settings: what was chosen on meta-validation.
      history: name -> (S, blocks), empty for an arm that was not trained.
      seconds: time taken to train and choose.
      role: what it is in a table, one of `metajax.results.schema.ROLES`.
    """

    learner: MetaLearner
    params: Params
    settings: dict[str, Any]
    history: dict[str, np.ndarray]
    seconds: float
    role: str = records.METHOD


def closed_form_arm(
    learner: MetaLearner, problem: Problem, precisions: Mapping[str, list[float]]
) -> Trained:
    """A ridge learner with the prior precisions that are best on meta-validation.

    Args:
      learner: of `closed_form.ridge`; a prior precision is the penalty on a squared weight.
      problem: gives the meta-validation tasks and the error to minimize.
      precisions: setting -> candidates; the first setting is the precision of the first feature's
        weight, the second that of all other weights. All combinations are tried, in one program.

    Raises:
      UserError: no combination has a finite error.
    """
    began = time.perf_counter()
    params = learner.init(jax.random.key(0), problem.example)
    grid = np.stack(np.meshgrid(*precisions.values(), indexing="ij"), -1).reshape(
        -1, len(precisions)
    )
    width = params["log_precision"].shape[0]
    columns = np.minimum(np.arange(width), grid.shape[1] - 1)
    candidates = jnp.log(jnp.asarray(grid[:, columns], jnp.float32))
    judge = lambda p: valid_error(learner, {**params, "log_precision": p}, problem)
    score = np.asarray(jax.jit(lambda c: jax.lax.map(judge, c))(candidates))
    best = int(_lowest(score, "a closed-form arm"))
    chosen = {**params, "log_precision": candidates[best]}
    settings = dict(zip(precisions, grid[best].tolist(), strict=True))
    settings |= {"valid": float(score[best]), "trials": len(grid)}
    stacked = jax.tree.map(lambda x: x[None], chosen)
    return Trained(learner, stacked, settings, {}, time.perf_counter() - began)


def _lowest(score: np.ndarray, arm: str) -> np.intp:
    """The flat index of the lowest validation score that is a finite number.

    Raises:
      UserError: there is none.
    """
    finite = np.where(np.isfinite(score), score, np.inf)
    if np.isinf(finite).all():
        raise UserError(
            f"no setting of {arm} of the {score.size} tried has a finite error on meta-validation, "
            "so what it predicts from is not finite; look at the ratings and the item columns"
        )
    return np.argmin(finite)


def sampler(problem: Problem, training: Training) -> loop.Sampler:
    """Draws batches of ``num_tasks`` training tasks with at most ``num_support`` support rows."""
    draw = functools.partial(
        episodes.draw, num_support=training.num_support, num_query=problem.split.num_query
    )
    return loop.sampler(draw, training.num_tasks)


def best_error(fitted: loop.Fitted) -> float:
    """The lowest validation score of each seed, averaged; infinite if a seed never had one."""
    valid = fitted.history["valid"]
    return float(np.where(np.isfinite(valid), valid, np.inf).min(axis=1).mean())


def trained_arm(
    name: str,
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    problem: Problem,
    training: Training,
    folder: pathlib.Path | None = None,
    drawn: tuple[loop.Sampler, PyTree] | None = None,
) -> Trained:
    """A learner meta-trained on the training tasks, its best step chosen on meta-validation.

    A seed that diverges keeps its best parameters from before, and the arm's setting ``diverged``
    says at which step and why.

    Args:
      name: of the arm, for the progress bar and the files.
      tx: the outer optimizer.
      training: number of seeds, steps, tasks per step and devices.
      folder: where metrics and checkpoints are kept; a later call with the same folder continues
        an interrupted training. None keeps nothing.
      drawn: a sampler of batches and what it draws from, such as of `data.diversity`; by default
        `sampler` and the problem's training tasks.
    """
    began = time.perf_counter()
    sample, data = drawn or (sampler(problem, training), problem.train)
    keys = jax.random.split(jax.random.key(1), training.seeds)
    at_once = training.seeds_at_once or training.seeds
    groups = [keys[i : i + at_once] for i in range(0, training.seeds, at_once)]
    parts = []
    for i, group in enumerate(groups):
        title = name if len(groups) == 1 else f"{name} group {i + 1}"
        with journal.opened(folder, title) as keep:
            fitted = loop.fit(
                on_devices(training.devices, loop.recipe(learner, tx)),
                sample,
                data,
                group,
                training.num_steps,
                title=title,
                validate=lambda params: valid_error(learner, params, problem),
                report=keep,
                checkpoint=folder and folder / "checkpoints" / journal.slug(title),
                go_on=True,
                patience=training.patience,
            )
        parts.append(fitted)
    fitted = _together(parts)
    settings: dict[str, Any] = {"best_step": fitted.best_step.tolist(), "valid": best_error(fitted)}
    if training.patience:
        settings["num_steps"] = int(np.max(fitted.state.step))
    if fitted.diverged:
        settings["diverged"] = [str(seed) for seed in fitted.diverged]
    seconds = max(fitted.seconds, time.perf_counter() - began)
    return Trained(learner, fitted.params, settings, fitted.history, seconds)


def _together(parts: list[loop.Fitted]) -> loop.Fitted:
    """The outcomes of groups of seeds as that of all of them."""
    if len(parts) == 1:
        return parts[0]
    joined = lambda *x: (np if isinstance(x[0], np.ndarray) else jnp).concatenate(x)
    most = max(len(v.T) for part in parts for v in part.history.values())
    longer = lambda history: {name: _lengthened(v, most) for name, v in history.items()}
    parts = [part._replace(history=longer(part.history)) for part in parts]
    first = [jax.tree.map(joined, *field) for field in list(zip(*parts, strict=True))[:4]]
    before = np.cumsum([0, *(len(part.best_step) for part in parts)])
    diverged = tuple(
        seed._replace(seed=seed.seed + int(n))
        for n, part in zip(before[:-1], parts, strict=True)
        for seed in part.diverged
    )
    seconds = sum(part.seconds for part in parts)
    return loop.Fitted(*first, seconds=seconds, diverged=diverged)


def _lengthened(values: np.ndarray, length: int) -> np.ndarray:
    """Values (S, B) of blocks as (S, length), not a number after the plateau where one ended."""
    return np.pad(values, [(0, 0), (0, length - values.shape[1])], constant_values=np.nan)


def gradients(
    arms: Mapping[str, Trained | Fitted], training: Training
) -> dict[str, records.Gradients]:
    """Arm -> how many gradients of a task's loss it took, as its learner states them.

    ``training`` counts all outer steps of one seed (the longest, where training ends at a plateau):
    for each task, one gradient of the outer loss and those of ``adapt``. It is 0 for an arm that
    was not trained.
    """
    counts: dict[str, records.Gradients] = {}
    for arm, trained in arms.items():
        whole = trained if isinstance(trained, Fitted) else trained.learner
        inner = whole.num_gradients
        steps = trained.settings.get("num_steps", training.num_steps) if trained.history else 0
        tasks = steps * training.num_tasks
        counts[arm] = records.Gradients(tasks * (1 + inner), inner)
    return counts


def unfinished(arms: Mapping[str, Trained | Fitted], training: Training) -> list[str]:
    """A line for each arm that was still getting better on meta-validation at its last step."""
    found = []
    for name, arm in arms.items():
        best = np.atleast_1d(arm.settings.get("best_step", 0))
        if np.median(best) >= 0.98 * training.num_steps > 0:
            found.append(
                f"{name} was still getting better at its last step, {training.num_steps}: with "
                "more steps its row may be better."
            )
    return found


def state_bytes(learner: MetaLearner, params: Params, profile: PyTree) -> int:
    """The bytes of one user's state, which is what a service stores of a user.

    They follow from shapes; nothing is computed.

    Args:
      params: the parameters of one seed.
      profile: the profile of one user.
    """
    state = jax.eval_shape(learner.start, params, profile)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def fine_tuned_arm(
    model: Model,
    joint: Trained,
    problem: Problem,
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.2, 0.3),
    most_steps: int = 20,
    adapts: tree.Filter = tree.everything,
) -> Trained:
    """A jointly trained model, fine-tuned on each task at the best rate and number of steps.

    Every rate and every number of gradient steps from 1 to ``most_steps`` is tried on
    meta-validation, in one program.

    Args:
      model: the model of ``joint``.
      joint: the jointly trained arm (A3).
      rates: learning rates to try.
      most_steps: the largest number of steps to try.
      adapts: which parameters are fine-tuned.

    Raises:
      UserError: no setting has a finite error.
    """
    return fine_tuning(model, joint, problem, most_steps, adapts)(rates)


def fine_tuning(
    model: Model,
    joint: Trained,
    problem: Problem,
    most_steps: int = 20,
    adapts: tree.Filter = tree.everything,
) -> Callable[[tuple[float, ...]], Trained]:
    """rates -> `fine_tuned_arm`, compiled once for all calls with equally many rates."""
    tune = functools.partial(pooled.fine_tuned, model, adapts=adapts)
    by_step = jax.jit(functools.partial(_valid_by_step, tune, problem, most_steps))

    def best(rates: tuple[float, ...]) -> Trained:
        began = time.perf_counter()
        score_RxN = np.asarray(by_step(joint.params, jnp.asarray(rates))).mean(axis=0)
        row, column = np.unravel_index(_lowest(score_RxN, A4), score_RxN.shape)
        rate, steps = rates[row], int(column) + 1
        settings = {"rate": rate, "steps": steps, "valid": float(score_RxN[row, column])}
        grid = score_RxN.astype(float).round(5).tolist()
        settings |= {"trials": score_RxN.size, "rates": rates, "grid": grid}
        chosen = tune(optax.sgd(rate), steps)
        return Trained(chosen, joint.params, settings, {}, time.perf_counter() - began)

    return best


def _valid_by_step(
    tune: Callable[[optax.GradientTransformation, int], MetaLearner],
    problem: Problem,
    num_steps: int,
    params: Params,
    rates: jax.Array,
) -> jax.Array:
    """Validation error (S, R, N) of fine-tuning at R rates after each of N steps."""
    source, tasks = problem.valid
    fetch, key = episodes.fetch_from(source), jax.random.key(0)

    def of_rate(params: Params, rate: jax.Array) -> jax.Array:
        learner = tune(optax.sgd(rate), 1)

        def error(state: PyTree, episode: Episode) -> jax.Array:
            scores = learner.predict(params, state, episode.query.inputs)
            return problem.error(scores, episode.query.label, episode.query.mask)

        found_TxN = evaluate.while_adapting(
            learner, params, tasks, key, error, num_steps, fetch=fetch
        )
        return found_TxN.mean(axis=0)[1:]

    return jax.vmap(lambda p: jax.lax.map(functools.partial(of_rate, p), rates))(params)


def baselines(
    problem: Problem,
    model: Model,
    training: Training,
    outer_rate: float,
    joint: Joint,
    folder: pathlib.Path | None = None,
) -> dict[str, Trained]:
    """The arms A0 to A4 and A7, tuned; A3 and A4 use the model of the method they stand beside.

    A4 does not fine-tune tables of embeddings (``embed``), as MeLU does not: a copy of them for
    each task would take most of its memory and time.

    Args:
      model: the network of A3 and A4.
      training: of A3.
      outer_rate: Adam's rate in the training of A3.
      joint: model -> the learner of A3.
      folder: for checkpoints, see `trained_arm`.
    """
    arms = closed_form_arms(problem)
    arms[A3] = trained_arm(A3, joint(model), optax.adam(outer_rate), problem, training, folder)
    arms[A4] = fine_tuned_arm(model, arms[A3], problem, adapts=tree.negate(tree.under("embed")))
    return as_baselines(arms)


def as_baselines(arms: Mapping[str, Trained]) -> dict[str, Trained]:
    """The arms with the role of baselines."""
    return {name: arm._replace(role=records.BASELINE) for name, arm in arms.items()}


def closed_form_arms(problem: Problem) -> dict[str, Trained]:
    """The arms A0, A1, A2 and A7, tuned on meta-validation."""
    offset = towers.stored_mean(problem.mean)
    item_mean = pooled.pooled(offset)
    params = item_mean.init(jax.random.key(0), problem.example)
    arms = {A0: Trained(item_mean, jax.tree.map(lambda x: x[None], params), {}, {}, 0.0)}
    bias = closed_form.ridge(towers.constant_feature(), offset, 1)
    damping = [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]
    arms[A1] = closed_form_arm(bias, problem, {"damping": damping})
    fold_in, grid = fold_in_learner(problem)
    arms[A2] = closed_form_arm(fold_in, problem, grid)
    width = problem.table.item_features.columns["bayes"].shape[1]
    bayes = closed_form.ridge(
        towers.column("bayes"), towers.stored_mean(problem.mean, "bayes_bias"), width
    )
    arms[A7] = closed_form_arm(bayes, problem, {"noise": [0.5, 0.7, 1.0, 1.4, 2.0]})
    return as_baselines(arms)


def fold_in_learner(problem: Problem) -> tuple[MetaLearner, dict[str, list[float]]]:
    """ALS fold-in (ridge regression of the support on frozen item factors), and its tuning grid."""
    dim = problem.table.item_features.columns["factor"].shape[1]
    embed = towers.column("factor", constant=True)
    learner = closed_form.ridge(embed, towers.stored_mean(problem.mean), dim + 1)
    return learner, {
        "damping": [1.0, 2.0, 4.0, 8.0],
        "penalty": [1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0],
    }
