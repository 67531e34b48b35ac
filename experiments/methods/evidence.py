"""Evidence candidates: the items whose rating would tell MeLU most about a new user.

MeLU is meta-trained. Each support rating of the meta-training users is scored by the norm of the
gradient that it alone gives to the decision layers, with its loss set to 1. The score of an item is
the mean norm over its ratings times its popularity, each divided by the largest value.

Reference: Lee, Im, Jang, Cho, Chung, "MeLU: meta-learned user preference estimator for cold-start
recommendation", KDD 2019, section 3.4.
Run: python -m experiments evidence --dataset ml-1m
Published: a list of films, drawn with random seeds that were not published.
Deviates: MeLU with five inner steps, as experiments/methods/melu.py has it.
"""

import dataclasses

import jax
import numpy as np

from metajax import benchmark, tree
from metajax.benchmark import baselines
from metajax.data import episodes
from metajax.evaluation.evidence import evidence_candidates, evidence_scores, gradient_norms

from . import melu


@dataclasses.dataclass(frozen=True)
class Config(melu.Config):
    """Settings of the experiment."""

    training: benchmark.Training = benchmark.Training(seeds=1)
    num_candidates: benchmark.Positive = 20
    """How many items to name."""


def scores(config: Config, problem: benchmark.Problem) -> np.ndarray:
    """The score (num_items,) of every item, by MeLU after meta-training."""
    learner, tx = melu.build(config, problem)
    trained = baselines.trained_arm(
        "MeLU", learner, tx, problem, config.training, config.output.out
    )
    params = jax.tree.map(lambda x: x[0], trained.params)["model"]
    decision = tree.negate(tree.under("embed"))
    norms = gradient_norms(melu.model(config, problem), params, decision)
    tasks = episodes.fixed(problem.split.train, 0)
    of_task = lambda index: norms(episodes.fetch(index, problem.valid[0]))
    found = jax.jit(lambda t: jax.lax.map(of_task, t))(tasks)
    support = tasks.support
    return np.asarray(evidence_scores(found, support.inputs, support.mask, problem.table.num_items))


def main(config: Config) -> list[str]:
    """The names of the best items, best first, which it prints with their scores."""
    problem = benchmark.load(config.data, config.split, config.training.num_support)
    found = scores(config, problem)
    best = np.asarray(evidence_candidates(found, config.num_candidates))
    table = problem.table
    names = table.item_ids if table.item_titles is None else table.item_titles
    for item in best:
        print(f"{found[item]:.3f}  {names[item]}")
    return [str(names[item]) for item in best]


if __name__ == "__main__":
    benchmark.cli(main, Config)
