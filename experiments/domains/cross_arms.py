"""The learners of cross_domain, and how each is tuned: the same number of trials for all."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.evaluation import evaluate
from metajax.learners.cold_start import cross_domain as crossing
from metajax.learners.parts import of_part
from metajax.training import loop
from metajax.training.devices import dealt, on_devices, split_by_compiler
from metajax.training.outer_gradient import GradientFn
from metajax.types import Episode, MetaLearner, Model, Params, PyTree

from . import cross_data as data
from .cross_factors import column
from .cross_report import START, TRAINED

RATES = (1e-3, 5e-2)
"""A trial's rate of Adam is drawn between these, on a log scale."""
PENALTIES = (1e-6, 1e-1)
"""So is the strength of the L2 penalty on a bridge, or on the distance from the first prior."""
PRECISIONS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Ridge penalties around a bridge's mean that are tried."""
BLOCK = 25
"""Outer steps between two looks at validation; the best look is kept."""
JUDGED_AT = (0, 5)
"""Shots of the validation score, the mean of the two."""


def square(params: Params) -> jax.Array:
    """The sum () of squares of all parameters."""
    return sum((jnp.sum(x**2) for x in jax.tree.leaves(params)), jnp.zeros(()))


class Arm(NamedTuple):
    """A trained arm.

    Attributes:
      learner: trained by its own outer loss.
      gradient: in place of that loss' gradient.
      distance: params -> () what the penalty of a trial multiplies.
      bridge: whether it has a ridge penalty that is chosen afterwards.
    """

    learner: MetaLearner
    gradient: Callable[[MetaLearner], GradientFn] | None = None
    distance: Callable[[Params], jax.Array] = lambda params: square(params["prior"]["bridge"])
    bridge: bool = True


def learner(prior: crossing.Prior, names: tuple[str, str] = data.PLAIN) -> MetaLearner:
    """The ridge head on an item's stored columns, with this prior."""
    embed = lambda params, profile, inputs: data.embedded(inputs, profile, names)
    features = Model(lambda key, profile, inputs: {}, embed)
    return crossing.profile_ridge(features, column(names[1]), prior)


def bridged(bridge: Model) -> MetaLearner:
    """The ridge head around the mean that a bridge gives."""
    return learner(crossing.bridge_prior(bridge))


def first_prior(
    found: data.Crossing, with_source: bool = True, mismatched: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and precision of the joint prior by EM on training users, see `joint`."""
    train, size = found.parts["train"], found.profile["moment"].shape[-1]
    scale, names = (1.0, data.TRANSFERRED) if with_source else (0.0, data.PLAIN)
    donor = np.roll(train, 1) if mismatched else train
    theirs = {k: v[donor] for k, v in found.profile.items()}
    mine, right, _ = data.target_sums(found.rows, train, names, theirs)
    both = size + right.shape[-1]
    gram = np.zeros((len(train), both, both))
    gram[:, :size, :size] = scale * theirs["gram"]
    gram[:, size:, size:] = mine
    moment = np.concatenate([scale * theirs["moment"], right], axis=1)
    mean, precision = crossing.estimated_prior(gram, moment, found.noise)
    return mean.astype(np.float32), precision.astype(np.float32)


def joint(found: data.Crossing, with_source: bool = True) -> Arm:
    """Ours: the joint prior, from its estimate by EM (``profile["first"]``), then meta-learned.

    Args:
      found: the data, for their sizes.
      with_source: False leaves out the source, in training and afterwards.
    """
    names = data.TRANSFERRED if with_source else data.PLAIN
    size = found.profile["moment"].shape[-1]
    sizes = size, size + (names == data.TRANSFERRED)  # the score of CMF is one more
    scale = 1.0 if with_source else 0.0
    source = lambda profile: (scale * profile["gram"], scale * profile["moment"])
    prior = crossing.joint_prior(sizes, source, lambda profile: profile.get("first"))
    distance = lambda params: square(params["prior"]["moved"])
    return Arm(learner(prior, names), None, distance, bridge=False)


def trial(arm: Arm) -> MetaLearner:
    """The learner with a rate and a penalty that ``init`` draws: each seed is a trial."""
    inner = arm.learner

    def init(key: jax.Array, episode: Episode) -> Params:
        key_model, key_draw = jax.random.split(key)
        low, high = episode.profile["settings"]
        drawn = low + (high - low) * jax.random.uniform(key_draw, (2,))
        return {"model": inner.init(key_model, episode), "log_settings": drawn}

    def loss(params: Params, episode: Episode, key: jax.Array):
        value, info = inner.loss(params["model"], episode, key)
        strength = jnp.exp(jax.lax.stop_gradient(params["log_settings"][1]))
        return value + strength * arm.distance(params["model"]), info

    return of_part(inner, lambda params: params["model"])._replace(init=init, loss=loss)


def at_drawn_rate() -> optax.GradientTransformation:
    """Adam's steps times the trial's own rate; the settings themselves stay."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None):
        rate = jnp.exp(params["log_settings"][0])
        moved = jax.tree.map(lambda u: -rate * u, updates["model"])
        return {"model": moved, "log_settings": jnp.zeros(2)}, state

    scaled = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(optax.scale_by_adam(), scaled)


def shown(tasks: Episode, shots: int) -> Episode:
    """The tasks with their first support rows alone."""
    kept = tasks.support.mask * (jnp.arange(tasks.support.mask.shape[1]) < shots)
    return tasks._replace(support=tasks.support._replace(mask=kept))


def error(learner: MetaLearner, params: Params, tasks: Episode) -> jax.Array:
    """The mean squared error () over users, of the shots that settings are chosen at."""
    return errors(learner, params, tasks).mean()


def errors(learner: MetaLearner, params: Params, tasks: Episode) -> jax.Array:
    """The mean squared error (T,) of each user, of the shots that settings are chosen at."""
    found = []
    for shots in JUDGED_AT:
        given = shown(tasks, shots)
        scores = evaluate.predictions(learner, params, given, jax.random.key(4), batch_size=None)
        off = (scores - given.query.label) ** 2 * given.query.mask
        found.append(off.sum(axis=1) / given.query.mask.sum(axis=1))
    return jnp.stack(found).mean(axis=0)


def gained(start: np.ndarray, trained: np.ndarray) -> dict[str, Any]:
    """What training gains over its start on the same users, and which of the two is kept.

    The start stays unless the mean of the paired differences is above their standard error: the
    one-standard-error rule, of which the start is the simpler choice. That the trained one is the
    best of several trials and looks on the same users is not counted.

    Args:
      start, trained: (T,) errors of each user.

    References: Breiman, Friedman, Olshen, Stone, "Classification and regression trees", 1984.
    """
    gap = np.asarray(start, np.float64) - np.asarray(trained, np.float64)
    gain, unsure = float(gap.mean()), float(gap.std(ddof=1) / len(gap) ** 0.5)
    kept = TRAINED if gain > unsure else START
    return {"gain": gain, "standard_error": unsure, "users": len(gap), "kept": kept}


class Tuner(NamedTuple):
    """What all arms are tuned with; see `Config` of cross_domain."""

    found: data.Crossing
    valid: Episode
    num_steps: int
    num_tasks: int
    trials: int
    devices: int = 1

    def fit(
        self, arm: Arm, settings: np.ndarray, count: int, mismatched: bool, first: Any
    ) -> loop.Fitted:
        """The arm, trained ``count`` times at settings (2, 2) between lowest and highest."""
        one = trial(arm)
        given = data.training_data(self.found, settings, mismatched, first)
        gradient = arm.gradient(one) if arm.gradient else None
        deal = split_by_compiler if arm.gradient else dealt
        recipe = on_devices(self.devices, loop.recipe(one, at_drawn_rate(), gradient), deal)
        keys = jax.random.split(jax.random.key(1), count)
        judge = lambda params: error(one, params, self.valid)
        draw, steps = data.sampler(self.num_tasks), self.num_steps
        return loop.fit(recipe, draw, given, keys, steps, block=BLOCK, validate=judge, go_on=True)

    def tuned(
        self,
        arm: Arm,
        told: dict[str, Any] | None = None,
        mismatched: bool = False,
        first: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[dict[str, Any], MetaLearner, Params]:
        """What was chosen on validation users, and the learner with parameters (1, ...).

        Args:
          told: the settings of a control's base, which the control then takes.
          mismatched: see `data.training_data`.
          first: what a joint prior starts from, see `first_prior`; it is kept as it is unless
            training is better by more than a standard error, see `gained`.
        """
        low, high = (RATES[0], PENALTIES[0]), (RATES[1], PENALTIES[1])
        if told is not None:
            low = high = (told["rate"], told["penalty"])
        tried = self.fit(arm, np.log([low, high]), self.trials, mismatched, first)
        valid = tried.history["valid"].min(axis=1)
        best = int(np.nanargmin(valid)) if told is None else 0
        params = jax.tree.map(lambda x: x[best][None], tried.params["model"])
        drawn = np.asarray(tried.params["log_settings"])[best]
        found = {"rate": float(np.exp(drawn[0])), "penalty": float(np.exp(drawn[1]))}
        found |= {"steps": int(tried.best_step[best]), "trials": self.trials if told is None else 0}
        if arm.bridge:
            given = None if told is None else told["precision"]
            params, found["precision"] = self.sure(arm.learner, params, given)
        reached = errors(arm.learner, jax.tree.map(lambda x: x[0], params), self.valid)
        if first is not None:
            untrained = self.untrained(arm, first)
            before = errors(arm.learner, untrained, self.valid)
            found |= gained(np.asarray(before), np.asarray(reached))
            found |= {} if told is None else {"kept": told["kept"]}
            if found["kept"] == START:
                params, reached = of_one_seed(untrained), before
                found["steps"] = 0
        return found | {"valid_mse": float(reached.mean())}, arm.learner, params

    def untrained(self, arm: Arm, first: tuple[np.ndarray, np.ndarray]) -> Params:
        """The parameters of a joint prior that starts from ``first``."""
        example = jax.tree.map(lambda x: x[0], self.valid)
        given = example._replace(profile=example.profile | {"first": first})
        return arm.learner.init(jax.random.key(0), given)

    def sure(
        self, learner: MetaLearner, params: Params, precision: float | None
    ) -> tuple[Params, float]:
        """The bridge with the ridge penalty that is best on validation, and that penalty."""
        count = jax.tree.leaves(params)[0].shape[0]
        judge = jax.jit(jax.vmap(lambda p: error(learner, p, self.valid)))

        def at(value: float) -> Params:
            strength = jnp.full(count, jnp.log(value))
            return params | {"prior": params["prior"] | {"log_precision": strength}}

        tried = PRECISIONS if precision is None else (precision,)
        best = min(tried, key=lambda value: float(judge(at(value)).mean()))
        return at(best), best


def of_one_seed(params: Params) -> Params:
    """Parameters (1, ...) of a closed form."""
    return jax.tree.map(lambda x: jnp.asarray(x)[None], params)


def fold_in(tuner: Tuner) -> tuple[dict[str, Any], MetaLearner, Params]:
    """Target-only fold-in: the ridge head around 0."""
    one = bridged(crossing.no_bridge(tuner.found.rows.inputs["x"].shape[-1]))
    start = {"embed": {}, "offset": {}, "prior": {"bridge": {}, "log_precision": jnp.zeros(())}}
    params, precision = tuner.sure(one, of_one_seed(start), None)
    valid = float(error(one, jax.tree.map(lambda x: x[0], params), tuner.valid))
    return {"precision": precision, "trials": len(PRECISIONS), "valid_mse": valid}, one, params
