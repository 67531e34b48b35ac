"""First-order meta-learning, FOMAML and Reptile: "fast adaptation on multiple tasks" (FOMA).

Both learn an initialization without second derivatives. FOMAML drops the derivative of the inner
steps from MAML's outer gradient; Reptile moves the initialization toward the parameters at which
each task's inner steps end. The file is called after "Fast Adaptation on Multiple Tasks", a name
for adapting a shared initialization to many tasks by plain gradient steps; these two are the
published methods that do so.

References: Finn et al., ICML 2017, section 5.2 (FOMAML); Nichol, Achiam, Schulman, "On first-order
meta-learning algorithms", 2018 (Reptile).
Run: python -m experiments foma --dataset ml-1m
Published: none under this protocol.
Deviates: Reptile's outer step is Adam on its pseudo-gradient; item factors and biases are estimated
beforehand from all meta-training ratings.
"""

import optax

from metajax import benchmark
from metajax.learners.gradient.maml import gradient
from metajax.results import records

from . import reptile
from .maml import Config, inner, model


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """FOMAML and its outer optimizer."""
    steps = config.inner_steps
    learner = gradient(model(config, problem), inner(config), steps, second_order=False)
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    methods = {"A6 FOMAML": build, "A6 Reptile": reptile.build}
    return benchmark.run_experiment("foma", config, model, methods, "A6 FOMAML")


if __name__ == "__main__":
    benchmark.cli(main, Config)
