"""The rows of `distill`: students and their teachers, pruned and rounded models."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses, tree
from metajax.adapters import prune, quantize
from metajax.data.histories import sequences as histories
from metajax.data.histories.sequences import Sequences
from metajax.learners import in_context
from metajax.models import sequence
from metajax.settings import config_hash
from metajax.training import journal, loop, progress
from metajax.training.devices import on_devices, split_second_axis
from metajax.transforms.distill import rank_cross_entropy, soft_cross_entropy
from metajax.types import Episode, MetaLearner, Params

from ..sasrec import sasrec

TEACHER, STUDENT = "teacher", "student"
TAUGHT, RANKED = "student + teacher's softmax", "student + teacher's ranking"
MATRICES = tree.matching(r"(kernel|items)$")

Pull = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(rows (B, L), the teacher's logits (B, L, V), the student's) -> parts of the loss (B, L)."""


@dataclasses.dataclass(frozen=True)
class Made:
    """A recommender with its parameters, the bytes it is stored in, and seconds of training."""

    settings: sequence.Settings
    params: Params
    size: int
    seconds: float


def logits(settings: sequence.Settings, params: Params, rows: jax.Array, key=None) -> jax.Array:
    """The scores (B, L, V) of all items before each item of the rows."""
    catalogue = sequence.item_embeddings(params)
    read = lambda row: sequence.hidden_vectors(settings, params, catalogue, row, key)[:-1]
    return jax.vmap(read)(rows) @ catalogue.T


def softened(temperature: float) -> Pull:
    """The divergence of the student's softmax over all items from the teacher's."""

    def pull(rows: jax.Array, told: jax.Array, said: jax.Array) -> jax.Array:
        del rows
        one = lambda t, s: soft_cross_entropy(t, s, jnp.ones(len(s)), temperature)
        return jax.vmap(jax.vmap(one))(told, said)

    return pull


def ranking(top: int = 20, decay: float = 10.0) -> Pull:
    """The student's cross-entropy of the teacher's first ``top`` items, weighted by place."""

    def pull(rows: jax.Array, told: jax.Array, said: jax.Array) -> jax.Array:
        del rows
        ones = jnp.ones(said.shape[-1])
        one = lambda t, s: rank_cross_entropy(t, s, ones, min(top, len(ones)), decay)
        return jax.vmap(jax.vmap(one))(told, said)

    return pull


def smoothed(share: float) -> Pull:
    """The cross-entropy of labels of which ``share`` is spread over all items: no teacher."""

    def pull(rows: jax.Array, told: jax.Array, said: jax.Array) -> jax.Array:
        del told
        chosen = jnp.take_along_axis(said, rows[..., None], axis=-1)[..., 0]
        total = jax.nn.logsumexp(said, axis=-1)
        return total - (1 - share) * chosen - share * jnp.mean(said, axis=-1)

    return pull


def spread_of_entropy(entropy: float, num_items: int) -> float:
    """The share spread over all items at which a smoothed label has that entropy, in nats."""
    low, high = 0.0, 1.0
    for _ in range(60):
        share = 0.5 * (low + high)
        rest = share / num_items
        first = 1 - share + rest
        found = -first * np.log(first) - (num_items - 1) * rest * np.log(max(rest, 1e-300))
        low, high = (share, high) if found < entropy else (low, share)
    return 0.5 * (low + high)


def taught(
    learner: MetaLearner,
    settings: sequence.Settings,
    teacher: sequence.Settings,
    weight: float,
    pull: Pull,
) -> MetaLearner:
    """The learner of batches whose loss is its own and, by ``weight``, a pull to a teacher.

    The teacher's parameters are the episodes' profile: no part of the compiled program, so that
    another teacher needs no other one.
    """

    def outer_loss(params: Params, episodes: Episode, key: jax.Array):
        support, query = episodes.support, episodes.query
        parts = (support.inputs, support.mask, query.inputs, query.mask)
        rows, mask = jax.vmap(in_context.joined)(*parts)
        told = jax.lax.stop_gradient(logits(teacher, episodes.profile, rows))
        said = logits(settings, params, rows, key)
        chosen = jnp.take_along_axis(said, rows[..., None], axis=-1)[..., 0]
        own = jax.nn.logsumexp(said, axis=-1) - chosen
        each = (1 - weight) * own + weight * pull(rows, told, said)
        return losses.masked_mean(each, mask), {"query_loss": losses.masked_mean(own, mask)}

    return learner._replace(loss=outer_loss)


class Workshop:
    """Trains and compresses.

    Args:
      config: of `distill`.
    """

    def __init__(self, config: Any, data: Sequences):
        self.config, self.data = config, data
        self.folder = config.output.folder("distill") / config_hash(config)
        shape = sequence.small(config.student_width, config.student_layers)
        self.little = sequence.Settings(data.num_items, shape, dropout=0.05)
        self.base = in_context.sequence_learner(self.little, config.window)
        self.windows = histories.windows(data, config.window)

    def fit(
        self,
        name: str,
        learner: MetaLearner,
        tx: optax.GradientTransformation,
        steps: int,
        seed: int,
        start: Params | None = None,
        told: Params | None = None,
        windows: histories.Windows | None = None,
    ) -> tuple[Params, float]:
        """Parameters after training, from ``start`` if it is given, and seconds; resumed.

        Args:
          name: of what is trained, for its checkpoints.
          told: the teacher's parameters.
          windows: to train on; else those of the histories.
        """
        began = time.perf_counter()
        draw = histories.sampler(self.config.window, self.config.batch)

        def sample(data: tuple[histories.Windows, Params], key: jax.Array) -> Episode:
            told = jax.tree.map(lambda x: x[None], data[1])
            return draw(data[0], key)._replace(profile=told)

        if start is not None:
            learner = learner._replace(init=lambda key, episode: start)
        source = (self.windows if windows is None else windows, told or ())
        keys = jax.random.key(seed)[None]
        devices = self.config.hardware.devices
        recipe = on_devices(devices, loop.recipe(learner, tx), split_second_axis)
        kept = self.folder / f"{journal.slug(name)}-{seed}"
        found = loop.fit(recipe, sample, source, keys, steps, checkpoint=kept)
        params = jax.tree.map(lambda x: x[0], found.params)
        return params, time.perf_counter() - began

    def teacher(self, seed: int) -> Made:
        """The recommender of `sasrec`: trained, or read where it stands trained."""
        config = self.config.teacher()
        settings = sasrec.build(config, self.data.num_items)
        params, took = sasrec.kept(config, self.data, seed, self.config.teacher_folder())
        return Made(settings, params, 4 * tree.size(params), took)

    def ignorant(self, teacher: Made, seed: int) -> tuple[Params, Params]:
        """Two teachers of the same size: one trained on shuffled histories, one not at all."""
        order = np.random.default_rng(seed).permutation(len(self.data.items))
        mixed = self.windows._replace(items=self.windows.items[order])
        learner = in_context.sequence_learner(teacher.settings, self.config.window)
        learner = in_context.in_batches(learner, teacher.settings)
        steps = max(self.config.num_steps // 4, 1)
        found, _ = self.fit("shuffled histories", learner, adam(steps), steps, seed, windows=mixed)
        return found, sequence.init(jax.random.key(seed + 99), teacher.settings)

    def entropy(self, teacher: Made) -> float:
        """The mean entropy of the teacher's softmax on training windows, in nats."""
        draw = functools.partial(histories.draw, self.windows, width=self.config.window)
        support = jax.vmap(draw)(jax.random.split(jax.random.key(7), 64)).support
        said = jax.nn.log_softmax(logits(teacher.settings, teacher.params, support.inputs))
        each = -jnp.sum(jnp.exp(said) * said, axis=-1)
        return float(losses.masked_mean(each, support.mask))

    def students(self, teacher: Made, seed: int) -> dict[str, Made]:
        """The student alone, taught in two ways, and by the controls."""
        config, big = self.config, teacher.settings
        shuffled, fresh = self.ignorant(teacher, seed)
        spread = spread_of_entropy(self.entropy(teacher), self.data.num_items)
        soft = softened(config.temperature)
        lessons: dict[str, tuple[Pull, Params]] = {
            TAUGHT: (soft, teacher.params),
            RANKED: (ranking(), teacher.params),
            "student + teacher of shuffled histories": (soft, shuffled),
            "student + untrained teacher": (soft, fresh),
            "student + smoothed labels": (smoothed(spread), teacher.params),
        }
        alone, steps = in_context.in_batches(self.base, self.little), config.num_steps
        found, took = self.fit(STUDENT, alone, adam(steps, config.rate), steps, seed)
        made = {STUDENT: Made(self.little, found, 4 * tree.size(found), took)}
        for name, (pull, told) in lessons.items():
            learner = taught(self.base, self.little, big, config.weight, pull)
            tx = adam(steps, config.rate)
            found, took = self.fit(name, learner, tx, steps, seed, told=told)
            made[name] = Made(self.little, found, 4 * tree.size(found), took)
            progress.say(f"{name}: {took:.0f} s")
        return made

    def pruned(self, teacher: Made, seed: int) -> dict[str, Made]:
        """The teacher with ever more of its kernels' weights at zero, by size and at random."""
        further = self.config.prune_steps
        learner = in_context.sequence_learner(teacher.settings, self.config.window)
        learner = in_context.in_batches(learner, teacher.settings)
        made = {}
        for share in self.config.shares:
            schedule = prune.cubic(share, 0, int(0.8 * further))
            for name, importance in {
                f"teacher, {share:.0%} pruned": prune.magnitude,
                f"teacher, {share:.0%} pruned at random": prune.at_random(jax.random.key(seed)),
            }.items():
                tx = prune.pruned(adam(further, 5e-4), schedule, prune.KERNELS, importance)
                found, took = self.fit(name, learner, tx, further, seed, teacher.params)
                made[name] = Made(teacher.settings, found, prune.nonzero_bytes(found), took)
        return made

    def recommenders(self, seed: int) -> dict[str, Made]:
        """Every row of the table."""
        teacher = self.teacher(seed)
        students = self.students(teacher, seed)
        made = {TEACHER: teacher, **students, **self.pruned(teacher, seed)}
        for name in (TEACHER, STUDENT, TAUGHT):
            for bits in (8, 2):
                made[f"{name}, {bits} bits"] = in_bits(made[name], bits)
        rounded = quantize.in_eight_bits(teacher.params, tree.matching("kernel$"))
        stored = quantize.integer_bytes(teacher.params, MATRICES, 8)
        name = f"{TEACHER}, 8 bits, activations too"
        return made | {name: Made(teacher.settings, rounded, stored, 0.0)}


def in_bits(made: Made, bits: int) -> Made:
    """The recommender with its matrices, item embeddings too, rounded to integers."""
    stored = quantize.integer_bytes(made.params, MATRICES, bits)
    return Made(made.settings, quantize.quantized(made.params, MATRICES, bits), stored, 0.0)


def adam(steps: int, rate: float = 2e-3) -> optax.GradientTransformation:
    """Adam along a cosine, after a short rise."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20 + 1, steps)
    return optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule, b2=0.98))
