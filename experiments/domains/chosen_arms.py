"""The learners of missing_not_at_random, their tasks, and how each is tuned."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses
from metajax.data import propensity
from metajax.data.sources.coat import Chosen
from metajax.evaluation import evaluate
from metajax.learners.closed_form import ridge
from metajax.learners.parts import of_part
from metajax.learners.pooled import all_examples
from metajax.training import loop
from metajax.training.devices import on_devices
from metajax.transforms.weigh import weighed
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

PENALTIES = (2.0, 60.0)
"""The strength of the prior on parameters is drawn between these, on a log scale."""
DIM = 8
"""Of the vectors of people and items."""
DAMPING = [(1.0, 2.0), (3.0, 2.0), (3.0, 8.0), (10.0, 8.0), (30.0, 8.0)]
"""What is tried for each bias model: as many settings."""
MIDDLE = 3.0
BLOCK = 20
"""Outer steps between two looks at validation; the best look is kept."""


class Rows(NamedTuple):
    """The ratings of each of U people, padded to R.

    Attributes:
      item: (U, R); label, mask: (U, R), mask 0 in padding.
      seen, asked: (U, R) weights of a row in a support, and in an outer loss.
    """

    item: np.ndarray
    label: np.ndarray
    mask: np.ndarray
    seen: np.ndarray
    asked: np.ndarray


class Arm(NamedTuple):
    """A trained arm: its learner, and the weights (U, I) of rated pairs that it sees.

    Attributes:
      learner: one of the few that differ; arms of one learner differ by their weights alone.
      seen, asked: see `Rows`.
    """

    learner: MetaLearner
    seen: np.ndarray
    asked: np.ndarray


def rows_of(label_UxI: np.ndarray, seen: np.ndarray, asked: np.ndarray, width: int = 0) -> Rows:
    """The rated pairs of each person, by pairs' weights (U, I); at least ``width`` rows."""
    width = max(width, int((label_UxI > 0).sum(axis=1).max()))
    item = np.argsort(label_UxI <= 0, axis=1, kind="stable")[:, :width].astype(np.int32)
    take = lambda x: np.take_along_axis(np.asarray(x, np.float32), item, 1)
    label = take(label_UxI)
    return Rows(item, label, (label > 0).astype(np.float32), take(seen), take(asked))


def examples(rows: Any, item_features: Any) -> Examples:
    """Rows with the columns that learners see."""
    inputs = {"item": rows.item, "feature": item_features[rows.item]}
    return Examples(inputs | {"seen": rows.seen, "asked": rows.asked}, rows.label, rows.mask)


def tasks(log: Chosen, support: Rows, query: Rows) -> Episode:
    """The stored task of each person (U, ...)."""
    make = lambda r: examples(jax.tree.map(jnp.asarray, r), jnp.asarray(log.item_features))
    profile = {"user": jnp.arange(len(log.chosen)), "x": jnp.asarray(log.user_features)}
    return Episode(profile, make(support), make(query))


def sampler(num_tasks: int, num_any: int = 24) -> loop.Sampler:
    """Draws people, divides their ratings into halves, and draws items that they may not know."""

    def sample(data: PyTree, key: jax.Array) -> Episode:
        key_user, key_half, key_any = jax.random.split(key, 3)
        rows, user_x, item_x = data["rows"], data["user"], data["item"]
        count = len(user_x)
        user = jax.random.permutation(key_user, count)[: min(num_tasks, count)]
        of_user = jax.tree.map(lambda x: x[user], rows)
        draw = jax.random.uniform(key_half, of_user.mask.shape) + 2 * (1 - of_user.mask)
        order = jnp.argsort(draw, axis=1)
        mixed = jax.tree.map(lambda x: jnp.take_along_axis(x, order, 1), of_user)
        half = order.shape[1] // 2
        support = examples(jax.tree.map(lambda x: x[:, :half], mixed), item_x)
        query = examples(jax.tree.map(lambda x: x[:, half:], mixed), item_x)
        anything = jax.random.randint(key_any, (len(user), num_any), 0, len(item_x))
        drawn = jnp.broadcast_to(data["penalty"], (len(user), 2))
        profile = {"user": user, "x": user_x[user], "any": anything, "penalty": drawn}
        return Episode(profile, support, query)

    return sample


def penalized(learner: MetaLearner) -> MetaLearner:
    """The learner with a Gaussian prior on all parameters but the level.

    How strong it is, ``init`` draws within the profile's range: each seed is a trial.
    """

    def init(key: jax.Array, episode: Episode) -> Params:
        key_model, key_draw = jax.random.split(key)
        low, high = episode.profile.get("penalty", jnp.zeros(2))  # none where nobody trains
        strength = low + (high - low) * jax.random.uniform(key_draw)
        return {"model": learner.init(key_model, episode), "log_penalty": strength}

    def loss(params: Params, episode: Episode, key: jax.Array):
        value, info = learner.loss(params["model"], episode, key)
        flat = jax.tree_util.tree_flatten_with_path(params["model"])[0]
        free = [x for path, x in flat if "level" not in jax.tree_util.keystr(path)]
        strength = jnp.exp(jax.lax.stop_gradient(params["log_penalty"]))
        return value + strength * sum(jnp.sum(x**2) for x in free), info

    return of_part(learner, lambda params: params["model"])._replace(init=init, loss=loss)


def head(log: Chosen, dim: int) -> MetaLearner:
    """The ridge head: what all share comes from features, what is a person's own in closed form."""
    known, (items, features) = log.user_features.shape[1], log.item_features.shape

    def init_embed(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        key_item, key_feature = jax.random.split(key)
        table = 0.1 * jax.random.normal(key_item, (items, dim))
        return {"item": table, "kernel": 0.3 * jax.random.normal(key_feature, (features, dim))}

    def embed(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        x_NxD = params["item"][inputs["item"]] + inputs["feature"] @ params["kernel"]
        return jnp.concatenate([jnp.ones((len(x_NxD), 1)), x_NxD], axis=1)

    def init_offset(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        zeros = {"item": (items,), "feature": (features,), "user": (known,)}
        zeros |= {"cross": (known, features)}
        return {k: jnp.zeros(shape) for k, shape in zeros.items()} | {"level": jnp.asarray(MIDDLE)}

    def offset(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        of_all = params["level"] + params["item"][inputs["item"]]
        likes = params["feature"] + profile["x"] @ params["cross"]
        return of_all + inputs["feature"] @ likes + profile["x"] @ params["user"]

    return ridge(Model(init_embed, embed), Model(init_offset, offset), dim + 1, precision=3.0)


def debiased(learner: MetaLearner) -> MetaLearner:
    """The learner with each row weighed: in supports as they are seen, in losses as asked."""
    seen = weighed(learner, lambda inputs: inputs["seen"], query=False)
    return penalized(weighed(seen, lambda inputs: inputs["asked"], support=False))


def _tables(log: Chosen, dim: int, key: jax.Array) -> Params:
    users, items = log.chosen.shape
    key_user, key_item = jax.random.split(key)
    return {
        "user": 0.1 * jax.random.normal(key_user, (users, dim)),
        "item": 0.1 * jax.random.normal(key_item, (items, dim)),
        "user_bias": jnp.zeros(users),
        "item_bias": jnp.zeros(items),
        "level": jnp.asarray(MIDDLE),
    }


def _product(params: Params, user: jax.Array, item: jax.Array) -> jax.Array:
    bias = params["level"] + params["user_bias"][user] + params["item_bias"][item]
    return bias + params["item"][item] @ params["user"][user]


def factorization(log: Chosen, dim: int) -> MetaLearner:
    """Matrix factorization with biases, as a learner that does not adapt: it knows its users."""

    def loss(params: Params, episode: Episode, key: jax.Array):
        rows = all_examples(episode)
        score = _product(params, episode.profile["user"], rows.inputs["item"])
        weight = rows.mask * rows.inputs["asked"]
        value = losses.squared_error(score, rows.label, weight)
        return value, {"query_loss": value}

    return MetaLearner(
        lambda key, episode: _tables(log, dim, key),
        lambda params, profile: profile["user"],
        lambda params, state, examples, key: state,
        lambda params, state, inputs: _product(params, state, inputs["item"]),
        loss,
    )


def doubly_robust(log: Chosen, dim: int) -> MetaLearner:
    """Matrix factorization with a second one that imputes errors (Wang et al., ICML 2019).

    The loss is the mean imputed error of random items, corrected by the weighed difference to the
    true error where there is a rating; the imputation learns that difference away at the same time.
    """
    base = factorization(log, dim)

    def init(key: jax.Array, episode: Episode) -> Params:
        key_main, key_error = jax.random.split(key)
        return {"main": _tables(log, dim, key_main), "imputed": _tables(log, dim, key_error)}

    def loss(params: Params, episode: Episode, key: jax.Array):
        user, rows, fixed = episode.profile["user"], all_examples(episode), jax.lax.stop_gradient
        item, anything = rows.inputs["item"], episode.profile["any"]
        weight = rows.mask * rows.inputs["asked"]
        score = lambda who, items: _product(params[who], user, items)
        error = (score("main", item) - rows.label) ** 2
        guess = (score("main", item) - fixed(score("imputed", item))) ** 2
        everywhere = jnp.mean((score("main", anything) - fixed(score("imputed", anything))) ** 2)
        main = everywhere + losses.masked_mean(error - guess, weight)
        own = (fixed(score("main", item)) - score("imputed", item)) ** 2
        imputation = losses.masked_mean((own - fixed(error)) ** 2, weight)
        return main + imputation, {"query_loss": main}

    return base._replace(
        init=init,
        predict=lambda params, state, inputs: base.predict(params["main"], state, inputs),
        loss=loss,
    )


def table_of(params: Params) -> np.ndarray:
    """The scores (S, U, I) of a factorization, of the main one of two."""
    model = {k: np.asarray(v) for k, v in params["model"].get("main", params["model"]).items()}
    bias = model["user_bias"][:, :, None] + model["item_bias"][:, None, :]
    return (
        model["level"][:, None, None]
        + bias
        + np.einsum("sud,sid->sui", model["user"], model["item"])
    )


def weighed_error(scores: jax.Array, query: Examples) -> jax.Array:
    """The squared error () of scores (U, Q), each row by its weight: what arms are chosen by."""
    weight = query.mask * query.inputs["asked"]
    return jnp.sum(weight * (scores - query.label) ** 2) / jnp.sum(weight)


class Tuner(NamedTuple):
    """What all arms are tuned with.

    Attributes:
      log: the data; hidden: (U, I) the chosen ratings that are for validation.
      judged: (U, I) weights of validation ratings, the same for all arms.
      num_steps, num_tasks, rate, devices: of the training; seeds: of it, and as many trials.
    """

    log: Chosen
    hidden: np.ndarray
    judged: np.ndarray
    num_steps: int
    num_tasks: int
    rate: float
    seeds: int
    devices: int = 1

    def fit(self, arm: Arm, label: np.ndarray, penalties: tuple, steps: int) -> loop.Fitted:
        """The arm trained on these labels (U, I), at penalties between two."""
        log, width = self.log, int((self.log.chosen > 0).sum(axis=1).max())
        rows = rows_of(label, arm.seen, arm.asked, width)
        known = np.where(self.hidden, 0, log.chosen)
        hidden = rows_of(np.where(self.hidden, log.chosen, 0), self.judged, self.judged)
        valid = tasks(log, rows_of(known, arm.seen, arm.asked, width), hidden)
        parts = {"rows": rows, "user": log.user_features, "item": log.item_features}
        drawn = jnp.log(jnp.asarray(penalties) / (log.chosen > 0).sum())
        data = jax.tree.map(jnp.asarray, parts) | {"penalty": drawn}

        def error(params: Params) -> jax.Array:
            scores = evaluate.predictions(arm.learner, params, valid, jax.random.key(4))
            return weighed_error(scores, valid.query)

        recipe = on_devices(self.devices, loop.recipe(arm.learner, optax.adam(self.rate)))
        keys = jax.random.split(jax.random.key(1), self.seeds)
        draw = sampler(self.num_tasks)
        return loop.fit(recipe, draw, data, keys, steps, block=BLOCK, validate=error)

    def tuned(self, arm: Arm) -> tuple[dict[str, Any], Params]:
        """The choices made on validation, and the parameters (S, ...) of the arm with them."""
        known = np.where(self.hidden, 0, self.log.chosen)
        tried = self.fit(arm, known, PENALTIES, self.num_steps)
        valid = tried.history["valid"].min(axis=1)
        best = int(valid.argmin())
        count = (self.log.chosen > 0).sum()
        strength = float(np.exp(tried.params["log_penalty"][best]) * count)
        told = {"penalty": strength, "steps": int(tried.best_step[best]), "trials": self.seeds}
        return told | {"valid_mse": float(valid[best])}, self.trained(arm, told)

    def trained(self, arm: Arm, settings: dict[str, Any]) -> Params:
        """The parameters (S, ...) of an arm at given settings, from all chosen ratings."""
        penalties = (settings["penalty"], settings["penalty"])
        return self.fit(arm, self.log.chosen, penalties, settings["steps"]).state.params

    def biases(self, weight: np.ndarray, of_users: bool = True) -> tuple[dict, np.ndarray]:
        """The choices for a bias model, and its scores (U, I) of all pairs."""
        known = np.where(self.hidden, 0, self.log.chosen)
        off = lambda table: (table - self.log.chosen) ** 2
        mean = lambda table: np.average(off(table)[self.hidden], weights=self.judged[self.hidden])
        score, damping = min((mean(bias_table(known, weight, d, of_users)), d) for d in DAMPING)
        told = {"damping": list(damping), "trials": len(DAMPING), "valid_mse": float(score)}
        return told, bias_table(self.log.chosen, weight, damping, of_users)


def bias_table(
    label: np.ndarray, weight: np.ndarray, damping: tuple[float, float], of_users: bool
) -> np.ndarray:
    """Mean plus damped biases of items, and of users, for each pair (U, I)."""
    w = np.where(label > 0, weight, 0.0)
    level = (w * label).sum() / w.sum()
    item = (w * (label - level)).sum(axis=0) / (w.sum(axis=0) + damping[0])
    base = level + item[None, :]
    left = (w * (label - base)).sum(axis=1) / (w.sum(axis=1) + damping[1])
    return base + (left[:, None] if of_users else np.zeros((len(label), 1)))


def propensities(log: Chosen, random_label: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> propensity (U, I) of the rated pairs, by each way of estimating it.

    Args:
      random_label: labels of random pairs that were set aside for it; only naive Bayes uses them.
    """
    rated = log.chosen > 0
    bayes = np.ones(rated.shape)
    bayes[rated] = propensity.naive_bayes(log.chosen[rated], random_label, float(rated.mean()))
    found = {
        "logistic": propensity.logistic(rated, log.user_features, log.item_features),
        "popularity": propensity.popularity(rated),
        "naive_bayes": bayes,
    }
    return found | ({} if log.propensity is None else {"stored": log.propensity})


def weights_of(rated: np.ndarray, propensity_UxI: np.ndarray, floor: float) -> np.ndarray:
    """Inverse propensities (U, I) of the rated pairs, 1 elsewhere."""
    weight = np.ones(rated.shape)
    weight[rated] = propensity.weights(propensity_UxI[rated], floor)
    return weight
