"""Sums over what happened before: features of rows in time that see nothing of their own future."""

import numpy as np


def before(
    key: np.ndarray, time: np.ndarray, value: np.ndarray, asked: np.ndarray, when: np.ndarray
) -> np.ndarray:
    """For each of Q questions the sums (Q, C) of the events of its key that were strictly earlier.

    Args:
      key: (M,) what the events are of, such as users, whole numbers of 0 or more.
      time: (M,) whole seconds; value: (M, C) what is added up.
      asked: (Q,) keys; when: (Q,) times.

    >>> one = np.ones((3, 1))
    >>> before(np.array([0, 0, 1]), np.array([5, 7, 5]), one, np.array([0, 0]), np.array([7, 8]))
    array([[1.],
           [2.]])
    """
    begin = int(min(time.min(initial=0), when.min(initial=0)))
    span = int(max(time.max(initial=0), when.max(initial=0))) - begin + 1
    place = lambda k, t: np.asarray(k, np.int64) * span + (np.asarray(t, np.int64) - begin)
    order = np.argsort(place(key, time), kind="stable")
    sorted_places = place(key, time)[order]
    total = np.vstack([np.zeros((1, value.shape[1])), np.cumsum(value[order], axis=0)])
    first = np.searchsorted(sorted_places, place(asked, np.full(len(asked), begin)))
    last = np.searchsorted(sorted_places, place(asked, when))
    return total[last] - total[first]


def since(key: np.ndarray, time: np.ndarray, asked: np.ndarray, when: np.ndarray) -> np.ndarray:
    """Seconds (Q,) since the last earlier event of each question's key; inf where there is none.

    Arguments are those of `before`.
    """
    begin = int(min(time.min(initial=0), when.min(initial=0)))
    span = int(max(time.max(initial=0), when.max(initial=0))) - begin + 1
    place = lambda k, t: np.asarray(k, np.int64) * span + (np.asarray(t, np.int64) - begin)
    events = np.sort(place(key, time))
    last = np.searchsorted(events, place(asked, when)) - 1
    found = events[np.maximum(last, 0)]
    same = (last >= 0) & (found // span == np.asarray(asked, np.int64))
    return np.where(same, place(asked, when) - found, np.inf)
