"""Who was in the training? Shadow models with and without privacy, and a likelihood-ratio attack.

The attacker gets what is released: the item sums and MAML's parameters. The statistic is the mean
squared error of all ratings of a person, before adapting.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data import episodes
from metajax.evaluation import judge
from metajax.federated import membership
from metajax.training import progress
from metajax.types import Episode, MetaLearner, Params

from . import own_data, priv_arms
from .own_data import People
from .priv_arms import MAML, MEAN, Rounds


def run(config: Any, people: People) -> dict[str, dict[str, list[float]]]:
    """Arm -> level -> the AUC of the attack and its interval, at the largest epsilon and without.

    Raises:
      UserError: the number of shadow models is odd, or below 4.
    """
    few = first_people(people, config.shadow_people)
    levels = [max(config.epsilons), math.inf]
    member = membership.halves(config.shadows, few.num_clients, config.split_seed)
    spent = [
        priv_arms.budget(e, config.share, config.rounds, config.shadow_rate, config.delta)
        for e in levels
    ]
    each = [b for b in spent for _ in range(config.shadows)]
    members = np.tile(member, (len(levels), 1))
    key = jax.random.key(config.split_seed + 2)
    sums = priv_arms.released(few, config.sums_clip, [b.sums for b in each], key, members)
    rate, half = config.shadow_rate, few.num_clients / 2
    how = Rounds(config.rounds, rate, config.clip, rate * half)
    noises = [b.rest for b in each]
    params = priv_arms.train_maml(few, config, sums, how, noises, "shadow models", members)
    mean = priv_arms.repeated({"model": {"mu": few.mean}, "rates": ()}, len(each))
    tabled = lambda learner: own_data.with_table(learner, few.table.num_items)
    arms = {
        MEAN: (tabled(priv_arms.mean_learner(few)), priv_arms.judged(sums, mean)),
        MAML: (tabled(priv_arms.maml_of(few, config)), priv_arms.judged(sums, params)),
    }
    found: dict[str, dict[str, list[float]]] = {}
    for arm, (learner, given) in arms.items():
        errors = statistic(learner, given, few).reshape(len(levels), config.shadows, -1)
        found[arm] = {}
        for epsilon, error in zip(levels, errors, strict=True):
            score = membership.likelihood_ratio(np.log(error + 1e-6), member)
            told = membership.auc_interval(score, member)
            found[arm][f"{epsilon:g}"] = [told.mean, told.low, told.high]
            progress.say(f"attack on {arm}, epsilon {epsilon:g}: AUC {told.mean:.3f}")
    return found


def first_people(people: People, count: int) -> People:
    """The same data with only the first training people."""
    tasks = people.split.train
    count = min(count, tasks.num_tasks)
    rows = int(tasks.start[count - 1] + tasks.length[count - 1])
    few = tasks._replace(
        owner=tasks.owner[:count], start=tasks.start[:count], length=tasks.length[:count],
        other=tasks.other[:rows], label=tasks.label[:rows],
    )  # fmt: skip
    return dataclasses.replace(people, split=dataclasses.replace(people.split, train=few))


def statistic(learner: MetaLearner, params: Params, people: People) -> np.ndarray:
    """The mean squared error (M, T) of each person's ratings under M models, before adapting."""
    tasks = people.split.train
    none = tasks._replace(shots=np.zeros_like(tasks.length))
    asked: Episode = jax.tree.map(jnp.asarray, episodes.fixed(none, 0, 1))
    scores = judge.scored(
        (learner, params), asked, jax.random.key(0), fetch=episodes.fetch,
        source=priv_arms.plain_source(people),
    )  # fmt: skip
    real = np.asarray(asked.query.mask)
    gap = (np.asarray(scores) - np.asarray(asked.query.label)) ** 2 * real
    return gap.sum(axis=2) / np.maximum(real.sum(axis=1), 1)
