"""Which way of adapting a shared model to a new person is best, and after how many ratings?

It predicts ratings of people never seen in training, from K = 0 to 50 of their ratings, on frozen
text features of a language model and shared weights (the trunk). Rows: no adaptation, item means,
hierarchical Bayes, the history read in context, full fine-tuning, LoRA fine-tuning, a closed-form
head on the frozen trunk, and the trunk trained through its adaptation (ridge head, last layer,
LoRA).

References: Bertinetto et al., ICLR 2019; Hu et al., ICLR 2022; Raghu et al., ICLR 2020; Garnelo et
al., ICML 2018; Buffelli et al., 2023 (is meta-learning the right approach?).
Run: python -m experiments adapt_large          (needs the extra `text`)
     python -m experiments adapt_large --from-records prints the stored table.
Published: none under this protocol; the bars are the closed-form rows. The table's RMSE is that of
all ratings together; the mean over people of each one's own, which is smaller, is printed below it.
Deviates: title vectors are cut to their first principal components; people with fewer than 70
ratings are left out, as 20 are judged and 50 adapted on.
"""

import dataclasses
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, losses, optim, tree
from metajax.adapters.lora import lora
from metajax.benchmark import baselines, belief
from metajax.benchmark.baselines import Trained
from metajax.benchmark.harness import data_of
from metajax.benchmark.problem import Problem, problem_of
from metajax.data import episodes, split
from metajax.data.sources import named
from metajax.evaluation import evaluate, ordinal
from metajax.learners import closed_form, pooled
from metajax.learners.amortized import neural_process
from metajax.learners.gradient.maml import gradient
from metajax.models import towers
from metajax.results import records
from metajax.settings import replace
from metajax.transforms.residual import residual, unchanged
from metajax.types import Model, Params, PyTree

from .. import report as large_report
from ..titles import record_name
from .parts import clipped, evidence, perceptron, shortened, with_text

SHOTS = (0, 1, 3, 5, 10, 20, 50)
NUM_QUERY = 20
NO_ADAPTATION, FULL, LORA = "no adaptation", "full fine-tuning", "LoRA fine-tuning"
FROZEN_HEAD = "ridge head, frozen trunk"
RIDGE, LAST, META_LORA = "through ridge head", "through last layer", "through LoRA"
CONTEXT = "in context"


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the experiment."""

    training: benchmark.Training = benchmark.Training(
        seeds=5, num_steps=400, num_tasks=16, num_support=50
    )
    text_model: pathlib.Path | None = None
    """A folder of a BERT-like encoder, or a language model (smollm2, a GGUF file, a folder); by
    default the packaged MiniLM."""
    text_dim: benchmark.Positive = 64
    """Principal components kept of the title vectors."""
    hidden: benchmark.Positive = 64
    """Width of the hidden layers."""
    extra: int = 8
    """Features beside the refined ALS factors."""
    rank: benchmark.Positive = 2
    """Rank of the LoRA adapters."""
    inner_rate: float = 0.05
    """Initial inner rate; it is learned per parameter."""
    inner_steps: int = 5
    """Inner steps of the arms trained through gradient steps."""
    outer_rate: float = 2e-3
    """AdamW's rate across tasks, decayed to 0 along a cosine."""


def load(config: Config, folder: pathlib.Path) -> Problem:
    """People in three groups, without overlap, and item columns estimated on the first."""
    table = named.chosen(config.data)
    table = with_text(table, config.text_model, config.text_dim, folder)
    most = SHOTS[-1] + NUM_QUERY
    parts = split.user_disjoint(
        table, config.split.split_seed, shares=(0.1, 0.15), min_rows=most, max_rows=None,
        num_query=NUM_QUERY,
    )  # fmt: skip
    cut = lambda tasks: {name: shortened(t, most) for name, t in tasks.items()}
    parts = dataclasses.replace(parts, valid=cut(parts.valid), test=cut(parts.test))
    return problem_of(table, parts, config.training.num_support, losses.squared_error)


def parts(config: Config, problem: Problem) -> tuple[Model, Model, int]:
    """The trunk's features, its score without a person, and the number of features."""
    dim = problem.table.item_features.columns["factor"].shape[1]

    def features(learned: jax.Array, inputs: PyTree) -> jax.Array:
        start = jnp.pad(inputs["factor"], ((0, 0), (0, config.extra)))
        ones = jnp.ones((learned.shape[0], 1), learned.dtype)
        return jnp.concatenate([ones, start + learned], axis=1)

    embed = perceptron(config.hidden, features, dim + config.extra)
    score = lambda learned, inputs: problem.mean + inputs["bias"] + learned[:, 0]
    return embed, perceptron(config.hidden, score, 1), dim + config.extra + 1


def optimizer(config: Config) -> optax.GradientTransformation:
    """The outer optimizer of every trained row."""
    rate = optax.cosine_decay_schedule(config.outer_rate, config.training.num_steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-4))


def meta_trained(config: Config, problem: Problem) -> dict[str, Trained]:
    """The rows whose shared weights are trained through their adaptation, and in context."""
    from metajax.models import items

    embed, offset, width = parts(config, problem)
    network = items.linear_head(embed, offset, width)
    rates = clipped(optim.learned_rates(config.inner_rate))
    steps = config.inner_steps
    low = lora(network, config.rank, frozen=False)
    codes = centered_codes(config, problem)
    learners = {
        RIDGE: closed_form.ridge(embed, offset, width, precision=[2.0] + [12.0] * (width - 1)),
        LAST: gradient(network, rates, steps, adapts=tree.under("head")),
        META_LORA: gradient(low, rates, steps, adapts=tree.under("adapter")),
        CONTEXT: codes,
    }
    return {
        name: baselines.trained_arm(
            name, learner, optimizer(config), problem, config.training, config.output.out
        )
        for name, learner in learners.items()
    }


def centered_codes(config: Config, problem: Problem):
    """A conditional neural process over the same evidence."""
    from metajax.models import modulated as nets
    from metajax.models.features import conditioned_mlp, labeled_features

    plain = Model(lambda key, profile, inputs: {}, lambda params, profile, x: evidence(x))
    encode = nets.centered_labels(labeled_features((config.hidden, 32)), problem.mean)
    decode = conditioned_mlp((config.hidden, config.hidden))
    learner = neural_process(encode, decode, 32, embed=plain)
    return residual(learner, towers.stored_mean(problem.mean), shown=unchanged)


def jointly_trained(config: Config, problem: Problem) -> dict[str, Trained]:
    """The rows that start from the trunk trained on everyone's ratings without adaptation."""
    from metajax.models import items

    embed, offset, width = parts(config, problem)
    network = items.linear_head(embed, offset, width)
    joint = baselines.trained_arm(
        NO_ADAPTATION,
        pooled.pooled(network),
        optimizer(config),
        problem,
        config.training,
        config.output.out,
    )
    low = lora(network, config.rank)
    adapters = jax.vmap(lambda key: low.init(key, *_first(problem)))(
        jax.random.split(jax.random.key(9), config.training.seeds)
    )["adapter"]
    wrapped = {**joint.params, "model": {"base": joint.params["model"], "adapter": adapters}}
    rates = (0.01, 0.03, 0.1, 0.3)
    head = closed_form.ridge(embed, offset, width)
    return {
        NO_ADAPTATION: joint,
        FULL: baselines.fine_tuned_arm(network, joint, problem, rates),
        LORA: baselines.fine_tuned_arm(low, joint._replace(params=wrapped), problem, rates),
        FROZEN_HEAD: frozen_head(head, joint, problem, width),
    }


def _first(problem: Problem) -> tuple[PyTree, PyTree]:
    return problem.example.profile, problem.example.support.inputs


def frozen_head(learner, joint: Trained, problem: Problem, width: int) -> Trained:
    """Ridge regression over the features of the jointly trained trunk, its prior chosen."""
    began = time.perf_counter()
    base = joint.params["model"]
    grid = [(damping, penalty) for damping in (1.0, 2.0, 4.0) for penalty in (3.0, 6.0, 12.0, 25.0)]

    def params_of(precision: tuple[float, float]) -> Params:
        each = jnp.log(jnp.asarray([precision[0]] + [precision[1]] * (width - 1)))
        seeds = base["head"].shape[0]
        stack = lambda x: jnp.broadcast_to(x, (seeds, *x.shape))
        prior = {"mean": base["head"], "log_precision": stack(each)}
        return {"embed": base["embed"], "offset": base["offset"], **prior}

    error = jax.jit(jax.vmap(lambda p: _valid(learner, p, problem)))
    found = {precision: float(error(params_of(precision)).mean()) for precision in grid}
    best = min(found, key=lambda precision: found[precision])
    settings = {"precision": best, "valid": found[best], "trials": len(grid)}
    return Trained(learner, params_of(best), settings, {}, time.perf_counter() - began)


def _valid(learner, params: Params, problem: Problem) -> jax.Array:
    source, tasks = problem.valid
    fetch = episodes.fetch_from(source)
    scores = evaluate.predictions(learner, params, tasks, jax.random.key(0), fetch=fetch)
    return problem.error(scores, tasks.query.label, tasks.query.mask)


def judged(
    trained: dict[str, Trained],
    problem: Problem,
    ticket: records.Opening,
    links: dict[str, ordinal.Link],
) -> dict[records.Key, np.ndarray]:
    """Per-person test scores (S, T) of every row and K; after all ratings also by the links."""
    source, opened = problem.open_test(ticket, "adapt_large")
    tasks, fetch = opened["user_cold"], episodes.fetch_from(source)
    scores = {}
    for name, arm in trained.items():
        curve = jax.jit(
            lambda params, learner=arm.learner: jax.lax.map(
                lambda p: evaluate.k_shot(learner, p, tasks, jax.random.key(3), SHOTS, fetch=fetch),
                params,
            )
        )
        for metric, values in curve(arm.params).items():
            for i, k in enumerate(SHOTS):
                key = records.Key("new people", name, f"k={k}", metric)
                scores[key] = np.asarray(values)[:, i]
    arms = {name: (arm.learner, arm.params) for name, arm in trained.items()}
    where = ("new people", f"k={SHOTS[-1]}")
    return scores | large_report.believed(arms, links, source, tasks, where)


def links_of(trained: dict[str, Trained], problem: Problem) -> dict[str, ordinal.Link]:
    """Row -> the ordinal links of its seeds, fitted on the people of meta-validation."""
    levels = belief.levels_of(problem)
    arms = {name: (arm.learner, arm.params) for name, arm in trained.items()}
    return {} if levels is None else belief.links_of(arms, problem, levels)


def cost(trained: dict[str, Trained], problem: Problem) -> tuple[dict[str, int], dict[str, float]]:
    """Bytes that must be kept of a person, and milliseconds to adapt to their 50 ratings."""
    size, milliseconds = {}, {}
    example = problem.example
    for name, arm in trained.items():
        params = jax.tree.map(lambda x: x[0], arm.params)
        start = jax.jit(arm.learner.start)(params, example.profile)
        adapt = jax.jit(arm.learner.adapt)
        size[name] = baselines.state_bytes(arm.learner, params, example.profile)
        took = []
        for _ in range(30):
            began = time.perf_counter()
            jax.block_until_ready(adapt(params, start, example.support, jax.random.key(0)))
            took.append(time.perf_counter() - began)
        milliseconds[name] = 1e3 * float(np.median(took))
    return size | {NO_ADAPTATION: 0, baselines.A0: 0}, milliseconds


def run(config: Config) -> records.Record:
    """Trains and tests every row; writes the record."""
    name = record_name("adapt_large", config.text_model, config.data.dataset)
    out = config.output.folder(name)
    config = replace(config, out=out)
    began = time.perf_counter()
    problem = load(config, out)
    trained = baselines.closed_form_arms(problem)
    trained |= jointly_trained(config, problem) | meta_trained(config, problem)
    chosen = {name: arm.settings for name, arm in trained.items()}
    links = links_of(trained, problem)
    scores = judged(trained, problem, benchmark.freeze(config, chosen), links)
    size, milliseconds = cost(trained, problem)
    about = {
        "split": problem.split.checksum(),
        "test people": problem.split.test["user_cold"].num_tasks,
        **belief.scale_of(problem),
    }
    seconds = {name: arm.seconds for name, arm in trained.items()}
    seconds["total"] = time.perf_counter() - began
    return large_report.written(
        name, "adapt_large", "new people", list(trained), config, scores, seconds,
        opened=problem.opened, data=data_of(problem), settings=chosen, size=size,
        extra=about | {"milliseconds": milliseconds},
    )  # fmt: skip


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, and its tables."""
    name = record_name("adapt_large", config.text_model, config.data.dataset)
    record = records.stored(name) if config.output.from_records else run(config)
    conditions = [f"k={k}" for k in SHOTS]
    large_report.rated(record, conditions, f"New people, {name[12:]}: after K ratings")
    squared = partial(record.of, "new people", condition="k=50", metric="mse")
    for arm in record.names():
        own = records.interval(np.sqrt(squared(arm=arm)), "rmse")
        print(f"mean over people of each one's RMSE at 50 ratings: {arm}: {own:.4f}")
    pairs = [(RIDGE, arm) for arm in record.names()]
    for metric in ("mse", "ndcg@5"):
        large_report.differences(record, f"{metric} at 50", ("k=50", metric), pairs)
    print("milliseconds to adapt:", record.extra["milliseconds"])
    if not config.output.from_records:
        large_report.finished(record, name, config, (f"k={SHOTS[-1]}", "ndcg@5"))
    return record
