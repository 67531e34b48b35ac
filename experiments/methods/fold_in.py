"""ALS fold-in: a new user's factors by ridge regression on the support over frozen item factors.

The closed-form baseline that most gradient-based learners of this field do not beat. Its two
penalties, of the user's constant and of the factors, are tuned on meta-validation.

References: Koren, Bell, Volinsky, "Matrix factorization techniques for recommender systems", 2009;
Zhou et al., "Large-scale parallel collaborative filtering for the Netflix prize", 2008.
Run: python -m experiments fold_in --dataset ml-1m
Published: none under this protocol.
Deviates: cold items get factors and biases that a ridge regression predicts from their content.
"""

from metajax import benchmark
from metajax.results import records
from metajax.types import MetaLearner

from .maml import Config, model


def build(config: Config, problem: benchmark.Problem) -> tuple[MetaLearner, None]:
    """Fold-in before tuning; it has no outer optimizer."""
    del config
    return benchmark.fold_in_learner(problem)[0], None


def main(config: Config) -> records.Record:
    """The record of the experiment: fold-in is an arm of every table; here it is the topic."""
    return benchmark.run_experiment("fold_in", config, model, {}, benchmark.A2)


if __name__ == "__main__":
    benchmark.cli(main, Config)
