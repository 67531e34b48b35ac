"""Memory of one outer step when adapters of a large frozen backbone are meta-learned.

The model is a sequence recommender of 50 million parameters; the outer gradient is of second order
and computed in chunks of tasks. Measured are the bytes that the compiled step plans for, with 16
and with 256 tasks, and the largest memory of the process after one step of each. In the control
every parameter adapts, so that the plan must grow with tasks times backbone. The table also gives
the bytes that a service would store for a person.

References: Hu et al., ICLR 2022 (LoRA); Zintgraf et al., ICML 2019 (CAVIA).
Run: python -m experiments adapt_large_memory
     python -m experiments adapt_large_memory --from-records prints the stored table.
Published: none.
Deviates: random weights and items, which no size depends on; histories of eight items. The plan is
what the step needs beside its arguments: temporaries and results. The results hold a gradient for
the frozen backbone too, of zeros.
"""

import dataclasses
import functools
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from metajax import benchmark, losses, tree
from metajax.adapters.conditions import film_context, soft_prompt
from metajax.adapters.lora import lora
from metajax.benchmark.baselines import state_bytes
from metajax.learners.gradient.maml import gradient
from metajax.models import sequence
from metajax.models.transformer import Shape
from metajax.results import records, tables
from metajax.settings import Output, Positive, Presets, replace
from metajax.training import journal, outer_gradient, progress
from metajax.types import Episode, Examples, MetaLearner, Params

from . import report as large_report

LORA, CONTEXT, PROMPT = "LoRA", "context", "soft prompt"
WHOLE = "control: the whole model adapts"
LOW = tree.matching("attention/(query|value)/kernel")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    num_layers: Positive = 12
    """Blocks of the backbone."""
    width: Positive = 512
    """Width of the backbone; its gated MLPs have four times as much."""
    num_items: Positive = 1000
    """Items, embedded beside the blocks."""
    rank: Positive = 2
    """Rank of LoRA on queries and values."""
    context: Positive = 32
    """Numbers of the context, which is mapped to scales and shifts of every layer."""
    prompt: int = 4
    """Vectors of the soft prompt."""
    few: Positive = 16
    """Tasks of the smaller outer step."""
    many: Positive = 256
    """Tasks of the larger outer step."""
    chunk: Positive = 4
    """Number of tasks computed at a time."""
    rows: Positive = 2
    """Histories of eight items in the support, and as many in the query."""
    inner_steps: int = 1
    """Inner steps."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"num_layers": 2, "width": 64, "few": 8, "many": 64},
        "gpu": {"num_layers": 24, "width": 1024, "many": 1024, "chunk": 32, "few": 64},
    }

    def shape(self) -> Shape:
        """The backbone, whose layers are computed anew in the backward pass."""
        heads = max(1, self.width // 64)
        return Shape(self.num_layers, self.width, heads, heads, 4 * self.width, remat=True)


def learners(config: Config) -> dict[str, MetaLearner]:
    """Every way to adapt the backbone, the control last."""
    shape = config.shape()
    model = sequence.next_item(sequence.Settings(config.num_items, shape, dropout=0.0))
    wrapped = {
        LORA: lora(model, config.rank, LOW),
        CONTEXT: film_context(model, shape, config.context),
        PROMPT: soft_prompt(model, shape, config.prompt),
    }
    make = functools.partial(
        gradient,
        inner=optax.sgd(0.1),
        num_steps=config.inner_steps,
        loss=losses.class_cross_entropy,
    )
    made = {name: make(m, adapts=tree.under("adapter")) for name, m in wrapped.items()}
    return made | {WHOLE: make(model)}


def episode(config: Config) -> Episode:
    """A task: histories and the items that follow them."""
    rows = (jnp.zeros((config.rows, 8), jnp.int32), jnp.full(config.rows, 8))
    part = Examples(rows, jnp.zeros(config.rows), jnp.ones(config.rows))
    return Episode((), part, part)


def batch(one: Episode, num_tasks: int) -> Episode:
    """So many copies of a task, leaves (T, ...)."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_tasks, *jnp.shape(x))), one)


def compiled(
    learner: MetaLearner, one: Episode, num_tasks: int, chunk: int | None, **options: Any
) -> jax.stages.Compiled:
    """The outer gradient of so many tasks like one, for arguments of their shapes alone.

    Args:
      options: of the compiler.
    """
    params = jax.eval_shape(lambda: learner.init(jax.random.key(0), one))
    tasks = jax.eval_shape(lambda: batch(one, num_tasks))
    step = outer_gradient.outer_gradient(learner, chunk)
    return jax.jit(step, compiler_options=options).lower(params, tasks, jax.random.key(0)).compile()


def planned(program: jax.stages.Compiled) -> int:
    """The bytes that a program holds beside its arguments: temporaries and results."""
    plan = program.memory_analysis()
    assert plan is not None, "this backend does not tell"
    return plan.temp_size_in_bytes + plan.output_size_in_bytes


def sizes(config: Config) -> dict[str, int]:
    """Bytes: of the backbone, and of a person's state, by learner."""
    one = episode(config)

    def of(learner: MetaLearner) -> int:
        params = jax.eval_shape(lambda: learner.init(jax.random.key(0), one))
        return state_bytes(learner, params, one.profile)

    found = {name: of(learner) for name, learner in learners(config).items()}
    return {"backbone": found[WHOLE], **found}


def executed(config: Config, programs: dict[int, jax.stages.Compiled], params: Params):
    """Seconds of a step, and the process at its largest so far in MB, before them and after."""
    seconds, peak = {}, {"before": journal.peak_memory()["host_mb"]}
    for num_tasks, program in sorted(programs.items()):
        tasks = jax.block_until_ready(batch(episode(config), num_tasks))
        began = time.perf_counter()
        jax.block_until_ready(program(params, tasks, jax.random.key(1)))
        seconds[f"{num_tasks} tasks"] = time.perf_counter() - began
        peak[f"{num_tasks} tasks"] = journal.peak_memory()["host_mb"]
    return seconds, peak


def run(config: Config) -> records.Record:
    """Compiles and measures; writes the record."""
    name = "adapt_large_memory"
    config = replace(config, out=config.output.folder(name))
    made = learners(config)
    ways = {
        f"{config.few} tasks": (config.few, config.chunk),
        f"{config.many} tasks": (config.many, config.chunk),
        f"{config.chunk} tasks at once": (config.chunk, None),
        f"{config.few} tasks at once": (config.few, None),
    }
    plans: dict[str, dict[str, int]] = {}
    compiling, kept = {}, {}
    for arm, learner in made.items():
        began = time.perf_counter()
        for way, (num_tasks, chunk) in ways.items():
            program = compiled(learner, episode(config), num_tasks, chunk)
            plans.setdefault(arm, {})[way] = planned(program)
            progress.say(f"{arm}, {way}: {plans[arm][way] / 1e6:.0f} MB")
            if arm == LORA and chunk is not None:
                kept[num_tasks] = program
        compiling[arm] = time.perf_counter() - began
    params = jax.jit(made[LORA].init)(jax.random.key(0), episode(config))
    seconds, peak = executed(config, kept, jax.block_until_ready(params))
    return large_report.written(
        name, name, "one outer step", list(made), config, {}, compiling,
        opened=(), data=records.Data("random"),
        extra={
            "planned": plans, "ways": list(ways), "stored": sizes(config),
            "step_seconds": seconds, "peak_after": peak,
        },
    )  # fmt: skip


def show(record: records.Record) -> None:
    """Prints what is planned and stored, the ratios that the claim rests on, and the peaks."""
    facts, config = record.extra, record.config
    ways, backbone = facts["ways"], facts["stored"]["backbone"]
    title = f"One outer step, a backbone of {backbone / 4e6:.1f} M parameters, MB"
    rows = []
    for arm in record.names():
        plan = facts["planned"][arm]
        cells = [f"{plan[way] / 1e6:,.1f}" for way in ways]
        ratio = plan[ways[1]] / plan[ways[0]]
        rows.append([arm, *cells, f"{ratio:.3f}", f"{facts['stored'][arm]:,}"])
    tables.terminal(tables.Grid(title, ["adapts", *ways, "many / few", "bytes per user"], rows))
    for arm in record.names():
        plan = facts["planned"][arm]
        more = (plan[ways[3]] - plan[ways[2]]) / (config["few"] - config["chunk"])
        print(f"{arm}: a further task at once {more / 1e6:.1f} MB, {more / backbone:.3f} backbones")
    peak = facts["peak_after"]
    print(f"{LORA}: the process at its largest before any step: {peak['before']:,.0f} MB")
    for tasks in ways[:2]:
        took = facts["step_seconds"][tasks]
        print(f"{LORA}, one step of {tasks}: {took:.1f} s; at its largest: {peak[tasks]:,.0f} MB")


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, and its table."""
    stored = "adapt_large_memory"
    record = records.stored(stored) if config.output.from_records else run(config)
    show(record)
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
