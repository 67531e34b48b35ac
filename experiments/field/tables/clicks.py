"""T4's arms beside the published ways to warm up: the arms of every table, with items as tasks.

The table is swapped, so that an item is adapted to as a user is elsewhere: the columns of the users
it meets are estimated from the hot items, its content is its profile. Scores of ratings become
logits by a scale and a shift fitted on meta-validation; AUC does not depend on them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.optimize import minimize

from metajax import losses
from metajax.benchmark import problem
from metajax.benchmark.baselines import Trained
from metajax.benchmark.problem import Problem
from metajax.data import episodes, split
from metajax.data.table import Interactions, swapped
from metajax.evaluation import evaluate
from metajax.learners.parts import of_part
from metajax.settings import Training
from metajax.types import MetaLearner, Params, PyTree

from ..metaemb import metaemb
from . import contenders


def as_logits(learner: MetaLearner) -> MetaLearner:
    """The learner with logits ``scale * score + shift``; its parameters are ``(params, (2,))``."""

    def predict(params: Params, state: PyTree, inputs: PyTree) -> jax.Array:
        scale, shift = params[1]
        return scale * learner.predict(params[0], state, inputs) + shift

    init = lambda key, episode: (learner.init(key, episode), jnp.array([1.0, 0.0]))
    return of_part(learner, lambda params: params[0])._replace(init=init, predict=predict)


def calibration(
    learner: MetaLearner, params: Params, ready: Problem, shots: Sequence[int]
) -> jax.Array:
    """Scale and shift (2,) with the least log-loss on meta-validation, over all shots.

    References: Platt, "Probabilistic outputs for support vector machines", 1999.
    """
    source, tasks = ready.valid
    fetch, key = episodes.fetch_from(source), jax.random.key(0)
    at = lambda k: evaluate.predictions(
        learner, params, tasks, key, fetch=fetch, alter=evaluate.first_shots(k)
    )
    score_KxTxQ = jax.lax.map(at, jnp.asarray(shots))
    _, label, mask = tasks.query
    mean_loss = lambda ab: jnp.mean(
        jax.lax.map(lambda s: losses.log_loss(ab[0] * s + ab[1], label, mask), score_KxTxQ)
    )
    return minimize(mean_loss, jnp.array([4.0, -2.0]), method="BFGS").x


def arms(
    methods: Sequence[str],
    table: Interactions,
    parts: split.Split,
    training: Training,
    budget: contenders.Budget,
    shots: Sequence[int],
) -> dict[str, metaemb.Arm]:
    """The tuned and trained arms of a table, judged as `metaemb` judges; the first is the method.

    Args:
      parts: a split whose tasks are items.
    """
    ready = problem.problem_of(
        swapped(table), parts, training.num_support, losses.squared_error, tuple(shots)
    )
    every, _ = contenders.all_arms(tuple(methods), ready, training, budget, "clicks")
    made = {name: arm for name, arm in every.items() if isinstance(arm, Trained)}  # no trees here
    order = [*methods, *(arm for arm in made if arm not in methods)]
    found = {}
    for name in order:
        learner, params, settings, _, seconds, role = made[name]
        fit = jax.jit(lambda p, learner=learner: calibration(learner, p, ready, shots))
        scales = jax.lax.map(fit, params)
        found[name] = metaemb.Arm(
            as_logits(learner), (params, scales), ready.valid[0], settings, seconds, role
        )
    return found
