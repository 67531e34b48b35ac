"""People who keep their ratings: what the server may know of items, and episodes on the device.

The columns that the other experiments estimate from all ratings in one place are no choice here.
An item's mean comes from two sums over people, of ratings less the mean and of counts, which a
secure sum can add up without seeing one person's; genres and year are public. Each training person
takes their own ratings out of the sums again on their device, so that no item column knows the
ratings that it is to predict.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.benchmark import belief, splits
from metajax.benchmark.problem import laid_out
from metajax.data import episodes, split
from metajax.data.episodes import Source
from metajax.data.table import Interactions
from metajax.evaluation import judge, ordinal
from metajax.federated.simulator import Draw
from metajax.settings import Data, SplitOptions
from metajax.transforms.item_table import item_table
from metajax.types import Episode, Examples, MetaLearner, UserError

NUM_QUERY = 10


class Sums(NamedTuple):
    """What is known of items from all training people together.

    Attributes:
      total: (I,) sums of ratings less the mean.
      count: (I,) numbers of ratings; noisy sums need not be whole or positive.
      scale: (T,) what each person's part was multiplied by, 1 without privacy.
    """

    total: np.ndarray
    count: np.ndarray
    scale: np.ndarray


@dataclasses.dataclass(frozen=True)
class People:
    """Training people with their own ratings, and new people to be judged on.

    Attributes:
      table: the interactions.
      split: new people apart from the training people.
      mean: the mean training rating.
      content: (I, G) public columns of items: genres, year.
      valid: episodes of the validation people, indices of items.
      levels: the rating levels (L,) that distributions are over, see `ordinal.levels_of`.
      scale: what a record says of them, see `belief.facts`.
    """

    table: Interactions
    split: split.Split
    mean: float
    content: np.ndarray
    valid: Episode
    levels: np.ndarray
    scale: dict[str, Any]

    @property
    def num_clients(self) -> int:
        """The number of training people."""
        return self.split.train.num_tasks


def load(data: Data, seed: int, most_rows: int) -> People:
    """The people of a data set, all with 20 to ``most_rows`` ratings.

    Raises:
      UserError: the data set is missing, tells only what happened, or all its ratings are equal.
    """
    options = SplitOptions("users", seed, min_rows=20, max_rows=most_rows)
    made = splits.make(data, options)
    if made.events:
        raise UserError(f"{made.table.name} has no ratings; give a data set that has, as ml-1m")
    mean = float(made.split.train.label.mean())
    valid = laid_out(made.split.valid["user_cold"], made.split.num_query)
    labels = made.table.label[made.split.train_rows]
    levels = ordinal.levels_of(labels, made.table.scale)
    scale = belief.facts(levels, labels, made.unit)
    return People(made.table, made.split, mean, content_of(made.table), valid, levels, scale)


def links_of(
    arms: Mapping[str, judge.Judged], people: People, source: Source
) -> dict[str, ordinal.Link]:
    """Arm -> the ordinal links of its seeds or privacy levels, leaves (S, ...).

    They are fitted on all validation people, none of whom is a client.

    Args:
      source: columns for people who are not in the sums.
    """
    return judge.links_of(arms, people.valid, people.levels, fetch=episodes.fetch, source=source)


def content_of(table: Interactions) -> np.ndarray:
    """Public columns (I, G) of items: an indicator of each genre, and the year's standard score."""
    columns = []
    codes = table.item_features.columns.get("genre")
    if codes is not None:
        flags = np.zeros((table.num_items, table.item_features.sizes["genre"]), np.float32)
        np.put_along_axis(flags, codes, 1.0, axis=1)
        columns.append(flags[:, 1:])  # code 0 is "absent"
    if table.item_year is not None:
        year, known = table.item_year.astype(np.float32), table.item_year > 0
        spread = max(float(year[known].std()), 1e-6) if known.any() else 1.0
        middle = float(year[known].mean()) if known.any() else 0.0
        columns.append(np.where(known, (year - middle) / spread, 0.0)[:, None])
    return np.concatenate(columns, axis=1).astype(np.float32) if columns else _ones(table)


def _ones(table: Interactions) -> np.ndarray:
    return np.ones((table.num_items, 1), np.float32)


def rows_of(people: People) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every training rating: the person's number, the item, the rating less the mean."""
    tasks = people.split.train
    person = np.repeat(np.arange(tasks.num_tasks), tasks.length)
    return person, tasks.other, tasks.label - people.mean


def exact_sums(people: People, chosen: np.ndarray | None = None) -> Sums:
    """The sums without noise, over all training people or those ``chosen`` (T,) of them."""
    person, item, value = rows_of(people)
    scale = np.ones(people.num_clients, np.float32)
    scale = scale if chosen is None else chosen.astype(np.float32)
    add = lambda what: np.bincount(item, what, people.table.num_items).astype(np.float32)
    return Sums(add(value * scale[person]), add(scale[person]), scale)


def bias(total: Any, count: Any, damping: Any) -> Any:
    """An item's mean less the mean of all, drawn toward 0 by ``damping`` ratings of 0."""
    return total / (jnp.maximum(count, 0.0) + damping)


def judged_source(people: People, sums: Sums, damping: float) -> Source:
    """Columns for people who are not in the sums: ``bias`` (I,) and ``factor`` (I, G)."""
    columns = {
        "bias": bias(jnp.asarray(sums.total), jnp.asarray(sums.count), damping),
        "factor": jnp.asarray(people.content),
    }
    tasks = jax.tree.map(jnp.asarray, people.split.train)
    return Source(tasks, {}, columns)


class OwnData(NamedTuple):
    """What the clients of a simulation hold: their rows, and the sums they were sent.

    Attributes:
      source: their tasks with the columns ``total``, ``count`` (I,) and ``factor`` (I, G).
      scale: (T,) of `Sums`.
    """

    source: Source
    scale: jax.Array


def own_data(people: People, sums: Sums) -> OwnData:
    """The training people's side."""
    columns = {
        "total": jnp.asarray(sums.total),
        "count": jnp.asarray(sums.count),
        "factor": jnp.asarray(people.content),
    }
    tasks = jax.tree.map(jnp.asarray, people.split.train)
    return OwnData(Source(tasks, {}, columns), jnp.asarray(sums.scale))


def drawer(
    people: People, damping: float | jax.Array, num_support: int, full_share: float = 0.5
) -> Draw:
    """`simulator.Draw`: an episode of a client, whose own ratings are out of the item columns."""

    def draw(data: OwnData, client: jax.Array, key: jax.Array) -> Episode:
        episode = episodes.draw(key, data.source, num_support, NUM_QUERY, full_share, task=client)
        return without_own(episode, data.scale[client], people.mean, damping)

    return draw


def without_own(
    episode: Episode, scale: jax.Array, mean: float, damping: float | jax.Array
) -> Episode:
    """The episode with ``bias`` from the sums less the person's own part."""

    def of(examples: Examples) -> Examples:
        columns = dict(examples.inputs)
        total = columns.pop("total") - scale * (examples.label - mean)
        count = columns.pop("count") - scale
        return examples._replace(inputs=columns | {"bias": bias(total, count, damping)})

    return episode._replace(support=of(episode.support), query=of(episode.query))


def with_table(learner: MetaLearner, num_items: int) -> MetaLearner:
    """The learner with the items' column ``bias`` among its parameters: ``learner`` and ``bias``.

    Parameters of several privacy levels, each with sums of its own, are then judged as seeds are.
    """
    seen = lambda bias, inputs: inputs | {"bias": bias[inputs["item"]]}
    return item_table(learner, "bias", (num_items,), seen)


def example(people: People, sums: Sums) -> Episode:
    """One episode, for shapes."""
    data = own_data(people, sums)
    draw = drawer(people, 1.0, 8)
    return draw(data, jnp.zeros((), jnp.int32), jax.random.key(0))
