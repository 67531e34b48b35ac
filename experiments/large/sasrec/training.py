"""The training of `sasrec`: one recommender, several seeds side by side, kept as they are ready."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import tree
from metajax.data.histories import sequences as histories
from metajax.data.histories.sequences import Sequences
from metajax.evaluation import next_item
from metajax.learners import in_context
from metajax.models import sequence
from metajax.training import loop
from metajax.training.average import averaged, averages
from metajax.training.devices import on_devices, split_second_axis
from metajax.types import Params, UserError

from . import recipes
from .recipes import Config

JUDGED = 2048
"""People on whose validation items the best moment of the training is chosen, at most."""


class Trained(NamedTuple):
    """A recommender of one seed.

    Attributes:
      params: the best on the validation items.
      seconds: of its training, shared among the seeds that were trained with it.
      best_step: the step they are of.
      valid: nDCG@10 on the validation items after each block of steps.
    """

    params: Params
    seconds: float
    best_step: int
    valid: list[float]


def scorer(settings: sequence.Settings, params: Params) -> next_item.Scorer:
    """Scores of all items for a batch of histories."""
    model = sequence.next_item(settings)
    return lambda person, history, length: model.apply(params, (), (history, length))


def steps_of(config: Config, data: Sequences) -> tuple[histories.Windows, int, int]:
    """The windows to train on, the steps of a pass over them, and the steps in all."""
    windows = histories.windows(data, config.window)
    per_epoch = -(-len(windows.end) // config.batch)
    return windows, per_epoch, -(-config.epochs * per_epoch // 100) * 100


def recipe_for(config: Config, settings: sequence.Settings, num_steps: int) -> loop.Recipe:
    """How the recommender is trained; with a running mean, its parameters are `averaged`."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.rate, max(num_steps // 20, 1), num_steps
    )
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule, b2=0.98))
    learner = in_context.sequence_learner(settings, config.window)
    recipe = loop.recipe(in_context.in_batches(learner, settings), tx)
    recipe = on_devices(config.hardware.devices, recipe, split_second_axis)
    return averaged(recipe, config.average) if config.average else recipe


def fit(
    config: Config,
    data: Sequences,
    seeds: list[int],
    out: pathlib.Path,
    settings: sequence.Settings,
    name: str = "",
) -> list[Trained]:
    """The recommender trained with each seed; resumed, if it was killed. Kept as ``seed-N.npz``.

    Args:
      seeds: trained side by side.
      name: of another recipe.
    """
    windows, per_epoch, num_steps = steps_of(config, data)
    held = histories.held_out(data, config.window, 2)
    some = np.random.default_rng(0).permutation(len(held.target))[:JUDGED]
    valid = held.only(some)
    now = averages if config.average else lambda params: params

    def validate(params: Params) -> jax.Array:
        score = scorer(settings, now(params))
        rank = next_item.ranks(score, valid, data.num_items, jax.random.key(3))[next_item.FULL]
        return -jnp.mean(jnp.where(rank < 10, 1.0 / jnp.log2(rank + 2.0), 0.0))

    called = [f"{name}-seed-{seed}" if name else f"seed-{seed}" for seed in seeds]
    fitted = loop.fit(
        recipe_for(config, settings, num_steps),
        histories.sampler(config.window, config.batch),
        windows,
        jnp.stack([jax.random.key(seed) for seed in seeds]),
        num_steps,
        title=f"{name or 'SASRec'} seed {', '.join(map(str, seeds))}",
        block=per_epoch // 100 * 100 or 100,
        validate=validate,
        checkpoint=out / "checkpoints" / "+".join(called),
        seconds=60.0 * config.minutes or float("inf"),
    )
    params, found = now(fitted.params), []
    for place, file in enumerate(called):
        mine = jax.tree.map(lambda x, place=place: x[place], params)
        leaves = jax.tree_util.tree_leaves_with_path(mine)
        arrays = {tree.path_name(path): np.asarray(leaf) for path, leaf in leaves}
        np.savez(out / f"{file}.npz", allow_pickle=False, **arrays)
        history = np.round(-fitted.history["valid"][place], 5).tolist()
        seconds = fitted.seconds / len(seeds)
        found.append(Trained(mine, seconds, int(fitted.best_step[place]), history))
    return found


def kept(config: Config, data: Sequences, seed: int, out: pathlib.Path) -> tuple[Params, float]:
    """The recommender of one seed and its seconds of training: read where it stands, or trained.

    Other experiments start from it.

    Raises:
      UserError: the file is of another recommender.
    """
    path = out / f"seed-{seed}.npz"
    settings = recipes.build(config, data.num_items)
    like = jax.eval_shape(lambda: sequence.init(jax.random.key(0), settings))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    names = [tree.path_name(path) for path, _ in leaves]
    if not path.is_file():
        (made,) = fit(config, data, [seed], out, settings)
        return made.params, made.seconds
    with np.load(path) as stored:
        found = {name: stored[name] for name in stored.files}
    if {n: x.shape for n, x in found.items()} != dict(
        zip(names, (x.shape for _, x in leaves), strict=True)
    ):
        raise UserError(f"{path} holds another recommender; remove it, or give another folder")
    return jax.tree.unflatten(treedef, [jnp.asarray(found[name]) for name in names]), 0.0
