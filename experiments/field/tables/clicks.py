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
from metajax.benchmark.arm import Fitted
from metajax.benchmark.baselines import Trained
from metajax.data import split
from metajax.data.episodes import Source
from metajax.data.table import Interactions, swapped
from metajax.evaluation import evaluate
from metajax.settings import Training
from metajax.types import Episode, Examples

from ..metaemb import metaemb
from . import contenders


def scores_of(arm: Trained | Fitted, source: Source) -> metaemb.Logits:
    """The arm's scores, whatever it is made of, given the columns of a source."""
    if isinstance(arm, Trained):
        return metaemb.logits_of(arm.learner, arm.params, source)
    key = jax.random.key(2)

    def scores(tasks: Episode, shots: Sequence[int]) -> jax.Array:
        keys = jax.random.split(key, tasks.query.label.shape[0])
        cut = jax.jit(lambda k: jax.vmap(evaluate.first_shots(k))(keys, tasks))
        each = [arm.predict(source, cut(k), key) for k in jnp.asarray(shots)]
        return jnp.stack([jnp.asarray(one) for one in each], axis=1)

    return scores


@jax.jit
def calibration(score_KxTxQ: jax.Array, query: Examples) -> jax.Array:
    """Scale and shift (2,) of scores with the least log-loss, over all shots alike.

    References: Platt, "Probabilistic outputs for support vector machines", 1999.
    """
    _, label, mask = query
    mean_loss = lambda ab: jnp.mean(
        jax.lax.map(lambda s: losses.log_loss(ab[0] * s + ab[1], label, mask), score_KxTxQ)
    )
    return minimize(mean_loss, jnp.array([4.0, -2.0]), method="BFGS").x


def calibrated(
    scores: metaemb.Logits, valid_tasks: Episode, shots: Sequence[int]
) -> metaemb.Logits:
    """Logits ``scale * score + shift``, each seed's fitted on tasks of meta-validation."""
    fit = lambda of_seed: calibration(of_seed, valid_tasks.query)
    fitted_Sx2 = jax.lax.map(fit, scores(valid_tasks, shots))
    scale, shift = (x[:, None, None, None] for x in fitted_Sx2.T)
    return lambda tasks, shots: scale * scores(tasks, shots) + shift


def arms(
    methods: Sequence[str],
    table: Interactions,
    parts: split.Split,
    training: Training,
    budget: contenders.Budget,
    shots: Sequence[int],
) -> metaemb.Others:
    """The tuned and trained arms of a table, judged as `metaemb` judges; the first is the method.

    Args:
      parts: a split whose tasks are items.
    """
    ready = problem.problem_of(
        swapped(table), parts, training.num_support, losses.squared_error, tuple(shots)
    )
    made, notes = contenders.all_arms(tuple(methods), ready, training, budget, "clicks")
    source, tasks = ready.valid
    found = {}
    for name in [*methods, *(arm for arm in made if arm not in methods)]:
        arm = made[name]
        logits = calibrated(scores_of(arm, source), tasks, shots)
        found[name] = metaemb.Arm(logits, arm.settings, arm.seconds, arm.role)
    return metaemb.Others(found, notes)
