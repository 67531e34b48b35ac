"""The people, labels and learners of multi_label."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses
from metajax.benchmark.problem import Problem, laid_out
from metajax.data import split
from metajax.data.episodes import Source
from metajax.data.table import Interactions
from metajax.evaluation import evaluate
from metajax.learners.closed_form import ridge
from metajax.learners.parts import linear_layer
from metajax.training import loop
from metajax.training.devices import on_devices
from metajax.transforms.per_label import per_label
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree, UserError

from .rates import best_of

SUPPORT = 20
"""Ratings of a person that may be adapted on; the labels are from all their others."""
SHOTS = (0, 1, 3, 5, 10)
DIM, HIDDEN = 16, 32
BLOCK = 50
"""Outer steps between two looks at validation; the best look is kept."""


class Rule(NamedTuple):
    """When a person likes a label: mean rating ``liked`` or more, over ``fewest`` items or more.

    Ratings of a support are told as differences from ``mean``, that of all training rows.
    """

    liked: float
    fewest: int
    mean: float


class People(NamedTuple):
    """People and what their ratings are of.

    Attributes:
      rows: item (U, R), an index of the columns; label (U, R) stars; mask (U, R).
      profile: name -> (U, width) categories of each person.
      columns: name -> (I, ...) of items; ``has`` (I, L) says which labels an item carries.
    """

    rows: Examples
    profile: dict[str, jax.Array]
    columns: dict[str, jax.Array]


def names_of(table: Interactions, column: str, labels: dict[str, list[str]]) -> list[str]:
    """The names of the labels (L,), where the data set names them."""
    size = table.item_features.sizes[column] - 1
    known = labels.get(table.name, [])
    return known if len(known) == size else [f"{column} {i + 1}" for i in range(size)]


def carried(table: Interactions, column: str) -> np.ndarray:
    """Which labels each item carries, (I, L) of 0 and 1.

    Raises:
      UserError: the table has no such column of categories.
    """
    sizes = table.item_features.sizes
    if column not in sizes:
        known = ", ".join(sorted(sizes)) or "none; name a table of the items with --items"
        raise UserError(f"{table.name} has no item column {column!r} of labels; it has {known}")
    found = np.zeros((table.num_items, sizes[column]), np.float32)
    values = table.item_features.columns[column]
    np.put_along_axis(found, values, 1.0, axis=1)
    return found[:, 1:]


def likes(rule: Rule, rows: Examples, has_RxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether a person likes each label, and whether their rows tell, both (L,) of 0 and 1."""
    weight = has_RxL * rows.mask[:, None]
    count = weight.sum(axis=0)
    mean = (weight * rows.label[:, None]).sum(axis=0) / jnp.maximum(count, 1)
    return (mean >= rule.liked) * 1.0, (count >= rule.fewest) * 1.0


def people(problem: Problem, tasks: split.Tasks, source: Source, has: np.ndarray) -> People:
    """The people of some tasks, their rows padded to the longest."""
    whole = laid_out(tasks._replace(shots=tasks.length), 0).support
    folds = len(source.inputs["bias"]) // len(has)
    columns = {k: source.inputs[k] for k in ("bias", "factor")}
    columns |= {"has": jnp.asarray(np.tile(has, (folds, 1)))}
    profile = {k: v[tasks.owner] for k, v in source.profile.items() if k != "zip"}
    rows = Examples(whole.inputs, whole.label, whole.mask)
    return People(rows, profile, columns)


def episode_of(rule: Rule, columns: Any, support: Examples, others: Examples, profile: Any):
    """One person as a learner meets them: support rows of films, query rows of labels."""
    look = lambda item: {k: columns[k][item] for k in ("bias", "factor", "has")}
    label, known = likes(rule, others, columns["has"][others.inputs])
    size = len(label)
    nothing = jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:])), look(support.inputs))
    asked = nothing | {"target": jnp.arange(size) + 1}
    seen = look(support.inputs) | {"target": jnp.zeros(len(support.label), int)}
    ratings = Examples(seen, support.label - rule.mean, support.mask)
    return Episode(profile, ratings, Examples(asked, label, known))


def halves(rows: Examples) -> tuple[Examples, Examples]:
    """The first `SUPPORT` rows, and the others."""
    first = jax.tree.map(lambda x: x[:SUPPORT], rows)
    return first, jax.tree.map(lambda x: x[SUPPORT:], rows)


def stored(rule: Rule, found: People) -> Episode:
    """The tasks (T, ...) of people whose rows are in their final order."""

    def one(given: Any) -> Episode:
        rows, profile = given
        return episode_of(rule, found.columns, *halves(rows), profile)

    return jax.jit(lambda rows, profile: jax.lax.map(one, (rows, profile)))(
        found.rows, found.profile
    )


def sampler(rule: Rule, num_tasks: int, permuted: bool = False) -> loop.Sampler:
    """Draws people, shuffles their rows and hides all but the first few of the support.

    Args:
      permuted: each label's column is dealt anew among the people of a batch: the control.
    """

    def sample(data: People, key: jax.Array) -> Episode:
        key_user, key_rows, key_deal = jax.random.split(key, 3)
        user = jax.random.randint(key_user, (num_tasks,), 0, len(data.rows.label))

        def one(user: jax.Array, key: jax.Array) -> Episode:
            key_order, key_full, key_shots = jax.random.split(key, 3)
            rows = jax.tree.map(lambda x: x[user], data.rows)
            draw = jax.random.uniform(key_order, rows.mask.shape) + 2 * (1 - rows.mask)
            rows = jax.tree.map(lambda x: x[jnp.argsort(draw)], rows)
            support, others = halves(rows)
            few = jax.random.randint(key_shots, (), 0, SUPPORT)
            shots = jnp.where(jax.random.bernoulli(key_full), SUPPORT, few)
            support = support._replace(mask=support.mask * (jnp.arange(SUPPORT) < shots))
            profile = jax.tree.map(lambda x: x[user], data.profile)
            return episode_of(rule, data.columns, support, others, profile)

        batch = jax.vmap(one)(user, jax.random.split(key_rows, num_tasks))
        if not permuted:
            return batch
        keys = jax.random.split(key_deal, batch.query.label.shape[1])
        order = jax.vmap(lambda k: jax.random.permutation(k, num_tasks))(keys).T
        deal = lambda x: jnp.take_along_axis(x, order, axis=0)
        query = batch.query
        return batch._replace(query=query._replace(label=deal(query.label), mask=deal(query.mask)))

    return sample


def shares(rule: Rule, found: People) -> tuple[np.ndarray, np.ndarray]:
    """How many people each label is known of, and the share of them who like it, both (L,)."""
    each = lambda rows: likes(rule, rows, found.columns["has"][rows.inputs])
    label, known = map(np.asarray, jax.jit(lambda r: jax.lax.map(each, r))(found.rows))
    count = known.sum(axis=0)
    return count, (label * known).sum(axis=0) / np.maximum(count, 1)


def checked(rule: Rule, found: People, names: list[str]) -> np.ndarray:
    """The share (L,) of training people who like each label.

    Raises:
      UserError: a label is constant: liked by all of whom it is known, by none, or known of none.
    """
    count, share = shares(rule, found)
    for name, n, p in zip(names, count, share, strict=True):
        if n == 0 or p in (0.0, 1.0):
            what = "liked by all" if p == 1 else "liked by none" if n else "known of none"
            raise UserError(
                f"the label {name!r} is constant: {what} of {int(n)} training people; give another "
                "--liked or --fewest, or a --column whose labels differ between people"
            )
    return share


def head(
    num_labels: int, share: np.ndarray, sizes: dict[str, int], fixed: jax.Array | None = None
) -> MetaLearner:
    """The matrix head: a person's ratings give weights in closed form, a matrix all labels.

    A ridge regression whose support rows are rated items and whose query rows are labels. The
    features (1 + `DIM`,) of an item are a small network of its factors and labels, those of label
    l are row l of a learned matrix, so that one solution scores all labels.

    Args:
      num_labels: rows of the matrix.
      share: (num_labels,) of people who like each label, where the scores start.
      sizes: name -> categories of the profile, which move the scores before any rating.
      fixed: (num_labels, 1 + F) a label's features, with item factors as those of items: fold-in.
    """
    width = DIM + 1 if fixed is None else fixed.shape[1]
    first = jnp.log(jnp.asarray(share) / (1 - jnp.asarray(share)))

    def init_embed(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        if fixed is not None:
            return {"slope": jnp.ones(())}
        key_film, key_label = jax.random.split(key)
        num = inputs["factor"].shape[-1] + inputs["has"].shape[-1] + 1
        start = jnp.concatenate([jnp.ones((num_labels, 1)), jnp.zeros((num_labels, DIM))], axis=1)
        noise = 0.3 * jax.random.normal(key_label, start.shape)
        key_body, key_last = jax.random.split(key_film)
        film = [linear_layer(key_body, num, HIDDEN), linear_layer(key_last, HIDDEN, DIM)]
        return {"film": film, "label": start + noise}

    def embed(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        ones = jnp.ones((len(inputs["target"]), 1))
        if fixed is not None:
            films, labels = inputs["factor"], params["slope"] * fixed
        else:
            seen = [inputs["factor"], inputs["has"], inputs["bias"][:, None]]
            body, last = params["film"]
            hidden = jax.nn.relu(_layer(body, jnp.concatenate(seen, axis=1)))
            films, labels = _layer(last, hidden), params["label"]
        target = inputs["target"]
        of_label = _of_labels(target, labels)
        return jnp.where(target[:, None] > 0, of_label, jnp.concatenate([ones, films], axis=1))

    def init_offset(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        of_people = {k: jnp.zeros((size, num_labels)) for k, size in sizes.items()}
        return {"level": jnp.zeros(()), "label": first, "people": of_people}

    def offset(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        of_labels = params["label"] + sum(
            (table[profile[k]].sum(axis=0) for k, table in params["people"].items()), jnp.zeros(())
        )
        target = inputs["target"]
        told = _of_labels(target, of_labels[:, None])[:, 0]
        return jnp.where(target > 0, told, params["level"] + inputs["bias"])

    models = Model(init_embed, embed), Model(init_offset, offset)
    return ridge(*models, width, precision=3.0, loss=losses.log_loss)


def _layer(layer: Params, x_NxD: jax.Array) -> jax.Array:
    return x_NxD @ layer["kernel"] + layer["bias"][None]


def _of_labels(target_N: jax.Array, table_LxD: jax.Array) -> jax.Array:
    """The row (N, D) of the label that each row asks for; the one row there is, if it is one."""
    if len(table_LxD) == 1:
        return jnp.broadcast_to(table_LxD, (len(target_N), table_LxD.shape[1]))
    return jax.nn.one_hot(target_N - 1, len(table_LxD)) @ table_LxD


def label_features(columns: dict[str, jax.Array], count: np.ndarray, num_items: int) -> jax.Array:
    """The mean (L, 1 + F) of 1 and the factors of the items that carry a label, by popularity."""
    has, factor = columns["has"][:num_items], columns["factor"][:num_items]
    weight = has * jnp.asarray(count, jnp.float32)[:, None]
    mean = weight.T @ factor / jnp.maximum(weight.sum(axis=0), 1e-9)[:, None]
    return jnp.concatenate([jnp.ones((len(mean), 1)), mean], axis=1)


class Tuner(NamedTuple):
    """What every arm is tuned with: as many rates, steps and people for each.

    Attributes:
      rule: what a label is; train: training people; valid: stored validation tasks.
      rates: of Adam, one trial each; num_steps, num_tasks, seeds, devices: of a training.
    """

    rule: Rule
    train: People
    valid: Episode
    rates: tuple[float, ...]
    num_steps: int
    num_tasks: int
    seeds: int
    devices: int = 1

    def fit(self, learner: MetaLearner, rate: float, permuted: bool) -> loop.Fitted:
        """The learner trained at a rate; the best look at validation is kept."""

        def error(params: Params) -> jax.Array:
            return valid_loss(learner, params, self.valid)

        sample = sampler(self.rule, self.num_tasks, permuted)
        keys = jax.random.split(jax.random.key(1), self.seeds)
        tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        recipe = on_devices(self.devices, loop.recipe(learner, tx))
        return loop.fit(
            recipe, sample, self.train, keys, self.num_steps, block=BLOCK, validate=error
        )

    def tuned(self, learner: MetaLearner, permuted: bool = False) -> tuple[dict[str, Any], Params]:
        """What was chosen on validation, and the parameters (S, ...)."""

        def of(rate: float) -> tuple[float, dict[str, Any], Params]:
            found = self.fit(learner, rate, permuted)
            valid = float(found.history["valid"].min(axis=1).mean())
            return valid, {"best_step": found.best_step.tolist()}, found.params

        return best_of(self.rates, of)


def at_shots(learner: MetaLearner, params: Params, tasks: Episode) -> jax.Array:
    """Scores (K, T, L) of one seed after each number of ratings, all of the support included."""

    def of(shots: jax.Array) -> jax.Array:
        alter = evaluate.first_shots(shots)
        return evaluate.predictions(learner, params, tasks, jax.random.key(4), alter=alter)

    return jax.lax.map(of, jnp.asarray((*SHOTS, SUPPORT)))


def valid_loss(learner: MetaLearner, params: Params, tasks: Episode) -> jax.Array:
    """The log loss over people, labels and numbers of ratings: what arms are chosen by."""
    scores = at_shots(learner, params, tasks)
    of = lambda s: losses.log_loss(s, tasks.query.label, tasks.query.mask)
    return jax.vmap(of)(scores).mean()


def target_of(inputs: PyTree) -> jax.Array:
    """The label that each row asks for, from 0; a row of an item, which asks for none, gets 0."""
    return jnp.maximum(inputs["target"] - 1, 0)


def relevance(num_labels: int, share: np.ndarray, sizes: dict[str, int]) -> MetaLearner:
    """Binary relevance: a head, features and a ridge regression of its own for each label."""
    one = per_label(head(1, np.full(1, 0.5), sizes), num_labels, target_of)
    first = jnp.log(jnp.asarray(share) / (1 - jnp.asarray(share)))

    def init(key: jax.Array, episode: Episode) -> Params:
        params = one.init(key, episode)
        return {**params, "offset": {**params["offset"], "label": first[:, None]}}

    return one._replace(init=init)
