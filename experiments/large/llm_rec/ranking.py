"""Who is judged in `llm_rec`, the place of what they took next, and arms without any network."""

import numpy as np

from metajax.data.histories.sequences import HeldOut, Sequences

from ..sasrec import arms as sasrec_arms


def groups(num_people: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """People to train on, to choose on, and to test on: 75, 10 and 15 per cent."""
    order = np.random.default_rng(11).permutation(num_people)
    first, second = int(0.75 * num_people), int(0.85 * num_people)
    return order[:first], order[first:second], order[second:]


def ranks(found: np.ndarray, target: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The place (U,) of each target among the items found (U, W) that were not seen before.

    One that the beam has not found stands behind all of them.
    """
    out = np.zeros(len(target), int)
    for i, row in enumerate(found):
        met = set(seen[i].tolist())
        new = [item for item in row.tolist() if item >= 0 and item not in met]
        out[i] = new.index(target[i]) if target[i] in new else max(len(new), 1000)
    return out


def popularity(data: Sequences, train: np.ndarray, beam: int) -> np.ndarray:
    """The items that most training people met, best first."""
    person = np.repeat(np.arange(len(data.length)), data.length)
    rows = np.isin(person, train)
    count = np.bincount(data.items[rows], minlength=data.num_items)
    return np.argsort(-count, kind="stable")[: beam * 10]


def followed(data: Sequences, held: HeldOut, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Places (U,) by what followed the items of the window among training people."""
    known = data._replace(
        items=np.concatenate([data.items[data.start[p] :][: data.length[p]] for p in train]),
        start=np.cumsum(data.length[train]) - data.length[train],
        length=data.length[train],
    )
    asked = held.only(test)
    score = sasrec_arms.transitions(known, asked, 20, 0.6)
    return ranks(np.argsort(-score, axis=1), asked.target, asked.seen)


def simple(
    data: Sequences, held: HeldOut, train: np.ndarray, test: np.ndarray, beam: int
) -> dict[str, np.ndarray]:
    """Places (1, U) of popularity and transitions."""
    best = np.tile(popularity(data, train, beam), (len(test), 1))
    return {
        "popularity": ranks(best, held.target[test], held.seen[test])[None],
        "transitions": followed(data, held, train, test)[None],
    }
