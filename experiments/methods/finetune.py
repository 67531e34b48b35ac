"""Transfer learning: joint training on all users, then fine-tuning on the new user's support.

The baseline that a learned initialization must beat. Rate and number of steps are chosen on
meta-validation; untuned it diverges, and the whole tuning grid is kept in the record.

Reference: Dacrema et al., RecSys 2019, for why the baseline is tuned as hard as the method.
Run: python -m experiments finetune --dataset ml-1m
Published: none under this protocol.
Deviates: item factors and biases are estimated beforehand from all meta-training ratings.
"""

import optax

from metajax import benchmark
from metajax.learners.pooled import fine_tuned
from metajax.results import records

from .maml import Config, model


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """Joint training with fine-tuning at the rate and steps of the configuration, untuned."""
    inner = optax.sgd(config.inner_rate)
    learner = fine_tuned(model(config, problem), inner, config.inner_steps)
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment: fine-tuning is an arm of every table; here it is the topic."""
    return benchmark.run_experiment("finetune", config, model, {}, benchmark.A4)


if __name__ == "__main__":
    benchmark.cli(main, Config)
