"""Ridge head: shared features trained through a closed-form head that each user solves alone.

A user's weights are the ridge solution on the support over learned item features; the outer
gradient runs through that solution into the features, the shared offset (which sees the profile),
the prior mean and the prior precision of every feature. The features start as ALS factors beside
those of hierarchical Bayes. A network without a head, trained jointly, is blended in with a weight
that depends on the number of ratings. In a share of the training tasks (hidden tasks), the columns
of all items are replaced by what their content predicts, as for new items. Ratings are divided by
the standard deviation of their residuals after item biases, so that one setting serves any scale.

References: Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form
solvers", ICLR 2019; Harrison, Sharma, Pavone, "Meta-learning priors for efficient online Bayesian
regression", 2018.
Run: python -m experiments ridge_head --dataset ml-1m --ablations
Published: none under this protocol; the bars are the closed-form arms beside it.
Deviates: the outer loss is the squared error, as in the tables of ratings and in the registered
claims. A3 and A4 train the same network on the same loss and the same hidden tasks.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Literal

import optax

from metajax import benchmark, losses
from metajax.adapters.mixed import Compute
from metajax.data.features.represent import as_cold
from metajax.evaluation import ordinal
from metajax.learners import item_ridge, pooled
from metajax.results import records
from metajax.settings import Later, Range
from metajax.transforms.augment import hide
from metajax.transforms.committee import committee
from metajax.transforms.ordered import ordered
from metajax.types import MetaLearner, Model


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the experiment."""

    outer_rate: float = 1e-3
    """Rate of AdamW across tasks, decayed to 0 along a cosine."""
    hidden: benchmark.Positive = 32
    """Width of the features' hidden layer."""
    offset_hidden: benchmark.Positive = 64
    """Width of the offset's hidden layer."""
    extra: int = 4
    """Learned features in addition to the refined stored ones."""
    hidden_share: benchmark.Share = 0.3
    """Share of training tasks whose items are hidden behind their content."""
    penalty: float = 24.0
    """Initial prior precision of the ALS features."""
    noise: float = 2.0
    """Initial prior precision of the hierarchical Bayes features."""
    factors: bool = True
    """Start from the ALS factors and the damped bias."""
    bayes: bool = True
    """Also start from the features of hierarchical Bayes; without ALS, from its bias as well."""
    blend: bool = True
    """Blend in a network without a head."""
    loss: Literal["squared", "absolute", "ranking", "ordinal"] = "squared"
    """What is trained on; ranking is the squared error with the loss of misordered pairs, ordinal
    the log-loss of a logistic distribution around the score, over the ratings that occur."""
    width: Annotated[float, Range(0.01, 10)] = 0.5
    """Scale of that distribution, in standard deviations of a rating less its item's bias."""
    members: benchmark.Positive = 1
    """Heads trained side by side from different initializations; their scores are averaged."""
    profile: bool = True
    """Let the shared offset see the user's profile."""
    learned_features: bool = True
    """Learn features and offset; else only the prior over ALS factors is learned."""
    ablations: bool = False
    """Add an arm for each part left out."""
    compute: Annotated[Compute, Later()] = "float32"
    """Type of the networks' activations; parameters, losses, and solutions are float32 either way.
    """


LOSSES: dict[str, losses.Loss] = {
    "squared": losses.squared_error,
    "absolute": losses.absolute_error,
    "ranking": losses.squared_error,
}
"""`build` and `joint` add misordered pairs to the last."""


def loss_of(config: Config, problem: benchmark.Problem) -> losses.Loss:
    """The loss of a setting, for labels divided by the problem's scale."""
    if config.loss != "ordinal":
        return LOSSES[config.loss]
    ratings = problem.table.label[problem.split.train_rows]
    levels = ordinal.levels_of(ratings, (float(ratings.min()), float(ratings.max())))
    return losses.ordinal((levels / problem.scale).tolist(), config.width)


def recipe(config: Config, problem: benchmark.Problem) -> item_ridge.Recipe:
    """What decides the networks and the head, and the precision of every feature, at the start."""
    columns, mean = problem.table.item_features.columns, problem.mean
    width = lambda name: columns[name].shape[1]
    if not config.learned_features:
        precision = (4.0, *[config.penalty] * width("factor"))
        return item_ridge.Recipe(
            mean, ("factor",), precision, scale=problem.scale, blend=config.blend
        )
    start, precision = [], [4.0]
    for name, value in {"factor": config.penalty, "bayes": config.noise}.items():
        if config.factors if name == "factor" else config.bayes:
            start.append(name)
            precision += [value] * width(name)
    sizes = problem.table.user_features.sizes if config.profile else {}
    return item_ridge.Recipe(
        mean=mean,
        start=tuple(start),
        precision=(*precision, *[config.penalty / 2] * config.extra),
        bias="bias" if config.factors else "bayes_bias",
        learned=True,
        scale=problem.scale,
        user_sizes={name: size for name, size in sizes.items() if name != "zip"},
        extra=config.extra,
        hidden=config.hidden,
        offset_hidden=config.offset_hidden,
        blend=config.blend,
        compute=config.compute,
    )


def model(config: Config, problem: benchmark.Problem) -> Model:
    """The network of A3 and A4: the same features and offset, the head a plain parameter."""
    from metajax.models.items import linear_head

    made = recipe(config, problem)
    features, offset = item_ridge.networks(made)
    net, scale = linear_head(features, offset, len(made.precision)), made.scale
    own = functools.partial(item_ridge.rescaled, scale=scale)
    return Model(
        init=lambda key, profile, inputs: net.init(key, profile, own(inputs)),
        apply=lambda params, profile, inputs: scale * net.apply(params, profile, own(inputs)),
    )


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """The ridge head and its outer optimizer."""
    made = recipe(config, problem)
    learner = item_ridge.learner(made, loss_of(config, problem))
    if config.loss == "ranking":
        learner = ordered(learner)
    if config.members > 1:
        learner = committee(learner, config.members)
    rate = optax.cosine_decay_schedule(config.outer_rate, config.training.num_steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-4))
    return item_ridge.in_units(hide(learner, config.hidden_share, as_cold), made.scale), tx


def joint(config: Config) -> Callable[[Model], MetaLearner]:
    """Network -> the learner of A3: the same loss on the same hidden tasks, without adaptation.

    Where the head is trained on the ordinal loss, A3 is on the squared error.
    """
    loss = LOSSES.get(config.loss, losses.squared_error)
    also = ordered if config.loss == "ranking" else lambda learner: learner
    return lambda network: hide(
        also(pooled.pooled(network, loss=loss)), config.hidden_share, as_cold
    )


def without(**changes) -> Callable:
    """The build of an ablation: the same with some settings changed."""
    return lambda config, problem: build(dataclasses.replace(config, **changes), problem)


ABLATIONS = {
    "- hidden tasks": without(hidden_share=0.0),
    "- blend": without(blend=False),
    "- Bayes features": without(bayes=False),
    "- squared loss": without(loss="absolute"),
    "- profile": without(profile=False),
    "- learned feat.": without(learned_features=False),
}


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    methods = {"A6 ridge head": build} | (ABLATIONS if config.ablations else {})
    return benchmark.run_experiment(
        "ridge_head", config, model, methods, "A6 ridge head", joint(config), ablations=ABLATIONS
    )


if __name__ == "__main__":
    benchmark.cli(main, Config)
