"""What is estimated before the test of a stream: initial tables, and features of each event.

Everything here reads the warm-up alone, or, for a later event, what had happened before it.
"""

import numpy as np

from metajax.data.features.factors import als
from metajax.online.events import Events
from metajax.online.factorization import Tables


def by_content(tables: Tables, met: np.ndarray, content: np.ndarray, damping: float = 5.0):
    """Tables in which items that the warm-up lacks start from a prediction by their content.

    The prediction is a ridge regression of the learned rows on the content, around their mean;
    without content such an item starts as the mean item. The rows of users stay as they are.

    Args:
      tables: after the warm-up.
      met: (num_items,) bool, whether the warm-up has the item.
      content: (num_items, C) features of items.
      damping: the ridge penalty.
    """
    import jax.numpy as jnp

    item = np.asarray(tables.item, float)
    known = item[met]
    mean = known.mean(axis=0) if len(known) else item.mean(axis=0)
    x = content[met].astype(float)
    normal = x.T @ x + damping * np.eye(content.shape[1])
    weights = np.linalg.solve(normal, x.T @ (known - mean)) if content.shape[1] else 0.0
    foretold = mean + content @ weights if content.shape[1] else np.broadcast_to(mean, item.shape)
    return Tables(tables.user, jnp.asarray(np.where(met[:, None], item, foretold), jnp.float32))


def before(events: Events, damping: float = 5.0) -> np.ndarray:
    """Features (n, 2) of each event's item just before it: its damped mean label and log count.

    The mean is that of the item's earlier labels less the mean of all earlier labels.
    """
    n = len(events)
    order = np.argsort(events.item, kind="stable")
    item, label = events.item[order], events.label[order].astype(float)
    so_far = np.cumsum(events.label) - events.label
    overall = np.where(np.arange(n) > 0, so_far / np.maximum(np.arange(n), 1), events.label.mean())
    overall[0] = 0.0
    first = np.searchsorted(item, item, side="left")
    count = np.arange(n) - first
    total = np.concatenate([[0.0], np.cumsum(label)])
    earlier = total[np.arange(n)] - total[first]
    mean = (earlier - count * overall[order]) / (count + damping)
    out = np.empty((n, 2), np.float32)
    out[order] = np.stack([mean, np.log1p(count) / 5.0], axis=1)
    return out


def factors(events: Events, dim: int, seed: int = 0) -> np.ndarray:
    """Item factors (num_items, dim) of a warm-up by ALS, 0 for items that it does not have.

    Their root mean square over the warm-up's events is 1, and none is beyond +-3: on sparse logs
    the factors of items that were met once are so long that gradient steps on them diverge.
    """
    mean = np.bincount(events.item, events.label, events.num_items)
    count = np.bincount(events.item, minlength=events.num_items)
    residual = events.label - (mean / np.maximum(count, 1))[events.item]
    shape = (events.num_users, events.num_items)
    found = als(events.user, events.item, residual, shape, dim=dim, num_sweeps=6, seed=seed).item
    found[count == 0] = 0.0
    spread = np.sqrt(np.average(np.mean(found**2, axis=1), weights=count))
    return np.clip(found / spread, -3, 3).astype(np.float32) if spread > 0 else found


def columns(events: Events, num_warm: int, dim: int, seed: int = 0) -> np.ndarray:
    """The features (n, 3 + dim + C) that a task's learner sees of each event.

    A constant, the two of `before`, the item's factors in the warm-up, and its content.
    """
    item = factors(events.part(0, num_warm), dim, seed)[events.item]
    return np.concatenate(
        [np.ones((len(events), 1)), before(events), item, events.content[events.item]],
        axis=1,
        dtype=np.float32,
    )
