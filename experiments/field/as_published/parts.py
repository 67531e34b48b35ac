"""The published learners of users as their programs have them, and how all of them are trained."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metajax import losses, tree
from metajax.benchmark import problem
from metajax.benchmark.problem import Problem
from metajax.data.episodes import Source
from metajax.learners.cold_start import lwa
from metajax.learners.cold_start.mamo import mamo, memory_optimizer
from metajax.learners.gradient.maml import gradient
from metajax.models import mlp
from metajax.models.bridge import from_nnx
from metajax.models.ctr import content_net
from metajax.models.modulated import user_features
from metajax.models.towers import melu_net
from metajax.training import journal
from metajax.training import loop as train
from metajax.training.devices import on_devices
from metajax.types import Episode, MetaLearner, Model, PyTree

from ...methods import cmml, metahin, paml, tanp

Built = tuple[MetaLearner, optax.GradientTransformation]
MELU_FIELDS = ("rated", "genre_imdb", "director", "actor")
MAMO_FIELDS = (("gender", "age", "occupation"), ("rated", "year", "genre_imdb", "director"))
ESTIMATES = (
    *("bias", "factor", "bayes", "bayes_bias", "count"),
    *("content_bias", "content_factor", "content_bayes", "content_bayes_bias"),
)


def seen(given: Problem, ids: bool = False) -> Problem:
    """The problem as the published programs meet it: categories alone, ratings as they are.

    What we estimate beforehand is 0, and so is the mean. Where tasks have 13 to 100 ratings, the
    training tasks are those of the warm users who have as many.

    Args:
      ids: whether the identifier of an item is a category, too.
    """
    table, num_items = given.table, given.table.num_items
    items, index = table.item_features, np.arange(1, num_items + 1, dtype=np.int32)[:, None]
    if ids:
        items = items.with_column("id", index, num_items + 1)

    def plain(source: Source) -> Source:
        blank = {k: jnp.zeros_like(v) for k, v in source.inputs.items() if k in ESTIMATES}
        folds = len(blank["bias"]) // num_items  # training tasks have columns for each fold
        more = {"id": jnp.asarray(np.tile(index, (folds, 1)))} if ids else {}
        return source._replace(inputs={**source.inputs, **blank, **more})

    changed = problem.with_columns(given, plain)
    train = changed.train
    if "warm" in given.split.test:
        tasks, warm = train.tasks, given.split.test["warm"].owner
        keep = np.isin(np.asarray(tasks.owner), warm)
        fewer = tasks._replace(**{k: getattr(tasks, k)[keep] for k in ("owner", "start", "length")})
        train = train._replace(tasks=fewer)
    table = dataclasses.replace(table, item_features=items)
    return dataclasses.replace(changed, table=table, train=train, mean=0.0)


with_ids = functools.partial(seen, ids=True)


def content(given: Problem, dim: int, fields: tuple[str, ...] = ()) -> Model:
    """MeLU's network over all user fields and the item fields named, where the data has them."""
    users, items = given.table.user_features.sizes, given.table.item_features.sizes
    chosen = {k: items[k] for k in fields if k in items} or items
    return melu_net(users, chosen, given.mean, dim, (64, 64))


def melu(
    given: Problem, rate: float, steps: int, second_order: bool, tx: optax.GradientTransformation
) -> Built:
    """MeLU: ``steps`` of gradient descent on its decision layers."""
    model, decision = content(given, 32, MELU_FIELDS), tree.negate(tree.under("embed"))
    inner = optax.sgd(rate)
    return gradient(model, inner, steps, adapts=decision, second_order=second_order), tx


def fomelu(given: Problem) -> Built:
    """FOMeLU of RecBole-MetaRec: item identifiers among the fields, plain gradient descent."""
    decision = tree.negate(tree.under("embed"))
    inner = optax.sgd(5e-6)
    learner = gradient(content(given, 16), inner, 1, adapts=decision, second_order=False)
    return learner, optax.sgd(5e-5)


class _Layers(nnx.Module):
    """Layers with leaky ReLU behind each."""

    def __init__(self, rngs: nnx.Rngs, *widths: int):
        self.layers = mlp.stack(rngs, widths)

    def __call__(self, x: jax.Array) -> jax.Array:
        return mlp.activate_after(self.layers, x, lambda x: jax.nn.leaky_relu(x, 0.1))


class _Body(nnx.Module):
    """MAMO's two towers: 100 numbers of the user, 100 of each item, side by side."""

    def __init__(self, rngs: nnx.Rngs, users: Mapping[str, int], items: Mapping[str, int]):
        table = lambda size: nnx.Embed(size, 100, rngs=rngs)
        self.tables = nnx.Dict(
            {f"user_{k}": table(n) for k, n in users.items()}
            | {f"item_{k}": table(n) for k, n in items.items()}
        )
        wide = 100 * max(len(users), 1), 100 * len(items)
        self.user = _Layers(rngs, wide[0], wide[0] // 2, 100)
        self.item = _Layers(rngs, wide[1], wide[1] // 2, 100)
        self.users, self.items = tuple(users), tuple(items)

    def __call__(self, profile: Mapping, inputs: Mapping) -> jax.Array:
        own = [mlp.mean_embedding(self.tables[f"user_{k}"], profile[k]) for k in self.users]
        met = [mlp.mean_embedding(self.tables[f"item_{k}"], inputs[k]) for k in self.items]
        user = self.user(jnp.concatenate(own) if own else jnp.zeros(100))
        item_NxD = self.item(jnp.concatenate(met, axis=1))
        return jnp.concatenate([jnp.broadcast_to(user, item_NxD.shape), item_NxD], axis=1)


class _Classes(nnx.Module):
    """MAMO's head: the probability (N, C) of each number of stars."""

    def __init__(self, rngs: nnx.Rngs, width: int, classes: int):
        self.layers, self.out = _Layers(rngs, width, 100), nnx.Linear(100, classes, rngs=rngs)

    def __call__(self, profile: PyTree, x_NxD: jax.Array) -> jax.Array:
        del profile
        return jax.nn.softmax(self.out(self.layers(x_NxD)))


def mamo_as_given(given: Problem) -> Built:
    """MAMO over five classes: Adam on the user's tower, matrix and head; one summed outer step."""
    known = given.table.user_features.sizes, given.table.item_features.sizes
    users, items = (
        {k: sizes[k] for k in names if k in sizes} or dict(sizes)
        for names, sizes in zip(MAMO_FIELDS, known, strict=True)
    )
    low, high = given.table.scale
    stars = jnp.arange(low, high + 1)
    learner = mamo(
        from_nnx(lambda rngs, profile, inputs: _Body(rngs, users, items)),
        from_nnx(lambda rngs, profile, x: _Classes(rngs, x.shape[-1], len(stars))),
        user_features(users, 100),
        optax.chain(optax.clip_by_global_norm(5.0), optax.adam(0.01)),
        9,
        num_features=200,
        num_description=100 * max(len(users), 1),
        personal=lambda path: path.startswith("user"),
        loss=lambda p_NxC, label, mask: losses.class_cross_entropy(p_NxC, label - low, mask),
    )
    expected = lambda params, state, inputs: learner.predict(params, state, inputs) @ stars
    return learner._replace(predict=expected), memory_optimizer(optax.sgd(0.05 * 100))


def metahin_as_given(given: Problem) -> Built:
    """MetaHIN: a step on the aggregator and one on the decision weights, both of 5e-3."""
    config = metahin.Config(
        path_rate=5e-3, task_rate=5e-3, outer_rate=5e-4, embedding=32, code=32, hidden=(64, 64)
    )
    return metahin.build(config, given)


def tanp_as_given(given: Problem) -> Built:
    """TaNP with both divergences at weight 1."""
    return tanp.build(tanp.Config(outer_rate=1e-4, divergence=1.0, cluster=1.0), given)


def cmml_as_given(given: Problem) -> Built:
    """CMML with embeddings of 32 and Adam at 3e-4."""
    learner, _ = cmml.build(cmml.Config(embedding=32), given)
    return learner, optax.chain(optax.add_decayed_weights(1e-5), optax.adam(3e-4))


def paml_as_given(given: Problem) -> Built:
    """PAML with one step of 1e-3."""
    config = paml.Config(inner_rate=1e-3, inner_steps=1, embedding=32, code=32, hidden=(64, 64))
    learner, _ = paml.build(config, given)
    return learner, optax.chain(optax.add_decayed_weights(3e-3), optax.adam(1e-3))


def item_vectors(given: Problem, dim: int, hidden: int) -> Model:
    """Item vectors (N, ``dim``): a layer over the embedded categories, then a linear one."""
    sizes = given.table.item_features.sizes
    net = content_net(sizes, dim, dim=dim, hidden=(hidden,))
    fields = lambda inputs: {k: inputs[k] for k in sizes}
    first = lambda inputs: {k: v[0] for k, v in fields(inputs).items()}
    return Model(
        init=lambda key, profile, inputs: net.init(key, first(inputs), ()),
        apply=lambda params, profile, inputs: jax.vmap(lambda row: net.apply(params, row, ()))(
            fields(inputs)
        ),
    )


def probability_twice(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """The cross-entropy of the softmax of (1 - p, p), p itself being a sigmoid, as published."""
    return losses.log_loss(2.0 * jax.nn.sigmoid(score) - 1.0, label, mask)


def lwa_or_nlba(given: Problem, dim: int, hidden: int, biases: bool) -> Built:
    """LWA or, with ``biases``, NLBA of RecBole-MetaRec: class sums, normal starts."""
    settings = {"pool": lwa.by_sum, "loss": probability_twice}
    parts = item_vectors(given, dim, hidden), dim
    own = lwa.nlba(*parts, (hidden,), **settings) if biases else lwa.lwa(*parts, **settings)

    def init(key: jax.Array, episode: Episode) -> PyTree:
        params = own.init(key, episode)
        kept = {"embed": params.pop("embed")}
        leaves, shape = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return kept | jax.tree.unflatten(shape, drawn)

    click = lambda params, state, inputs: jax.nn.sigmoid(own.predict(params, state, inputs))
    return own._replace(init=init, predict=click), optax.sgd(0.01 * 8)


def fitted(
    name: str,
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    sample: train.Sampler,
    source: Source,
    num_steps: int,
    block: int,
    folder: pathlib.Path,
    seeds: int = 1,
    devices: int = 1,
) -> train.Fitted:
    """The last parameters (S, ...) after so many steps, from the last checkpoint of the folder."""
    keys = jax.random.split(jax.random.key(1), seeds)
    with journal.opened(folder, name) as keep:
        return train.fit(
            on_devices(devices, train.recipe(learner, tx)),
            sample,
            source,
            keys,
            num_steps,
            title=name,
            block=block,
            report=keep,
            checkpoint=folder / "checkpoints" / journal.slug(name),
        )
