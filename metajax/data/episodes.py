"""From stored tasks to episodes: sampled on the device for training, or padded for evaluation."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.split import Tasks
from metajax.data.table import Interactions
from metajax.types import Episode, Examples, UserError

# Large primes are coprime with every possible task length, so j -> (a j + b) mod n visits n
# different rows: a random order of a task's rows without sorting anything.
_PRIMES = np.array(
    [1048583, 1048589, 1048601, 1048609, 1048613, 1048627, 1048633, 1048661, 1048681, 1048703,
     1048709, 1048717, 1048721, 1048759, 1048783, 1048793, 1048799, 1048807, 1048829, 1048837,
     1048847, 1048867, 1048877, 1048889, 1048891, 1048897, 1048909, 1048919, 1048963, 1048991,
     1049011, 1049023],
    np.uint32,
)  # fmt: skip
_MAX_ROWS_DRAWN = 2048  # keeps the products of the permutation within 32 bits
_MAX_TASK_LENGTH = int(_PRIMES[0]) - 1


class Source(NamedTuple):
    """Tasks with the feature columns of users and items, on the device.

    Attributes:
      tasks: the tasks, with JAX arrays.
      profile: name -> column (num_owners, ...) of the side that tasks are, such as users.
      inputs: name -> column (num_others, ...) of the side that they interact with, such as items.
    """

    tasks: Tasks
    profile: dict[str, jax.Array]
    inputs: dict[str, jax.Array]


def source_of_users(tasks: Tasks, table: Interactions) -> Source:
    """The source of tasks that are users, with all columns of the table.

    Raises:
      UserError: a user has more rows than the sampler can permute.
    """
    if tasks.num_tasks and tasks.length.max() > _MAX_TASK_LENGTH:
        raise UserError(f"{table.name}: a task has more than {_MAX_TASK_LENGTH} interactions")
    on_device = lambda columns: jax.device_put(dict(columns))
    return Source(
        tasks=jax.device_put(tasks),
        profile=on_device(table.user_features.columns),
        inputs=on_device(table.item_features.columns),
    )


def source_of_folds(
    tasks: Tasks, table: Interactions, fold: np.ndarray, held_out: dict[str, np.ndarray]
) -> Source:
    """A source of training tasks whose item columns were estimated without the task's own labels.

    Args:
      fold: (num_users,) of every user.
      held_out: name -> (F, num_items, ...): columns estimated without the users of each fold. The
        other columns are the table's.
    """
    plain = source_of_users(tasks, table)
    others = np.arange(table.num_items, dtype=np.int32)
    columns = {**table.item_features.columns, "item": others}
    num_folds = len(next(iter(held_out.values())))
    each = {
        k: held_out.get(k, np.broadcast_to(v, (num_folds, *v.shape))) for k, v in columns.items()
    }
    block = fold[np.repeat(tasks.owner, tasks.length)].astype(np.int32)
    shifted = tasks._replace(other=(tasks.other + table.num_items * block).astype(np.int32))
    return Source(
        tasks=jax.device_put(shifted),
        profile=plain.profile,
        inputs=jax.device_put({k: v.reshape(-1, *v.shape[2:]) for k, v in each.items()}),
    )


def source_of_items(tasks: Tasks, table: Interactions) -> Source:
    """The source of tasks that are items: profiles are item columns, inputs are user columns.

    Raises:
      UserError: an item has more rows than the sampler can permute.
    """
    swapped = source_of_users(tasks, table)
    return Source(swapped.tasks, profile=swapped.inputs, inputs=swapped.profile)


def fetch(episode: Episode, source: Source) -> Episode:
    """The episode with its indices replaced by the columns that they index.

    ``profile`` () is an owner's index, ``inputs`` (N,) are indices of the other side; both become
    dicts of columns. The latter index is kept as the input ``item``, unless a column has that name.
    """
    look_up = lambda index: {"item": index} | {k: v[index] for k, v in source.inputs.items()}
    with_columns = lambda e: e._replace(inputs=look_up(e.inputs))
    return Episode(
        profile={k: v[episode.profile] for k, v in source.profile.items()},
        support=with_columns(episode.support),
        query=with_columns(episode.query),
    )


def fetch_from(source: Source) -> Callable[[Episode], Episode]:
    """`fetch` with its source bound, as functions of `evaluation` take it."""
    return functools.partial(fetch, source=source)


def draw(
    key: jax.Array,
    source: Source,
    num_support: int,
    num_query: int,
    full_share: float = 0.5,
    task: jax.Array | None = None,
) -> Episode:
    """One random task, or the given one, with a random split of its rows, padded to these sizes.

    The query takes ``num_query`` rows (of a short task at most half), the support up to
    ``num_support`` of the others: with probability ``full_share`` as many as there are, else a
    number drawn log-uniformly from 0 to that, so that the learner trains on every number of shots.

    Args:
      task: () the number of the task; None draws one.
    """
    tasks = source.tasks
    assert num_support + num_query <= _MAX_ROWS_DRAWN
    key_task, key_a, key_b, key_full, key_shots = jax.random.split(key, 5)
    if task is None:
        task = jax.random.randint(key_task, (), 0, tasks.owner.shape[0])
    length = tasks.length[task]
    queries = jnp.minimum(num_query, length // 2)
    most = jnp.minimum(length - queries, num_support)
    few = jnp.exp(jax.random.uniform(key_shots) * jnp.log1p(most.astype(jnp.float32))) - 0.5
    full = jax.random.uniform(key_full) < full_share
    shots = jnp.where(full, most, jnp.minimum(few.astype(jnp.int32), most))

    factor = jnp.asarray(_PRIMES)[jax.random.randint(key_a, (), 0, len(_PRIMES))]
    shift = jax.random.randint(key_b, (), 0, length).astype(jnp.uint32)
    length_u = length.astype(jnp.uint32)

    def examples(first: jax.Array, width: int, count: jax.Array) -> Examples:
        place = jnp.arange(width)
        mask = place < count
        j = jnp.where(mask, first + place, 0).astype(jnp.uint32)
        row = tasks.start[task] + (((factor % length_u) * j + shift) % length_u).astype(jnp.int32)
        return Examples(tasks.other[row], tasks.label[row], mask.astype(jnp.float32))

    query = examples(jnp.zeros((), jnp.int32), num_query, queries)
    support = examples(queries, num_support, shots)
    return fetch(Episode(tasks.owner[task], support, query), source)


def fixed(tasks: Tasks, num_query: int, num_support: int | None = None) -> Episode:
    """Stored tasks as one batch of episodes of indices, with the stored support and query.

    The query of a task is all rows after its ``shots`` or, without ``shots``, its last
    ``num_query`` rows, padded to the longest. Supports are padded to ``num_support``, by default
    the longest. Use `fetch` on one task to get its columns.

    Returns:
      Episode with leaves (T, ...): profile (T,), support (T, S), query (T, Q).
    """
    shots = tasks.length - num_query if tasks.shots is None else tasks.shots
    queries = tasks.length - shots
    if num_support is None:
        num_support = int(shots.max())

    def examples(first: np.ndarray, count: np.ndarray, width: int) -> Examples:
        mask = np.arange(width)[None, :] < count[:, None]
        row = np.where(mask, first[:, None] + np.arange(width)[None, :], 0)
        return Examples(
            np.where(mask, tasks.other[row], 0),
            np.where(mask, tasks.label[row], 0).astype(np.float32),
            mask.astype(np.float32),
        )

    support = examples(tasks.start, shots, num_support)
    query = examples(tasks.start + shots, queries, int(queries.max()))
    return Episode(tasks.owner, support, query)
