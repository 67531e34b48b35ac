"""Ratings missing not at random with known propensities: people rate what they like."""

import numpy as np

from metajax.data.sources.coat import Chosen


def liked_first(
    users: int = 200,
    items: int = 80,
    *,
    decay: float = 0.4,
    most: float = 0.6,
    num_random: int = 12,
    seed: int = 0,
) -> Chosen:
    """People who rate a pair with probability ``most * decay^(5 - rating)``, and random pairs.

    A rating is a rounded mean of 2.5, an effect of the item, a taste in four features and noise.
    Only the rating decides what is chosen, so that `propensity.naive_bayes` is the right model and
    one on features is not.

    Args:
      decay: how much rarer each star less makes a rating; 1 is missing at random.
      most: the probability that a pair of 5 stars is rated.
      num_random: pairs each person is asked about, drawn at random.
      seed: of everything.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, items)
    group = rng.integers(0, 4, users)
    taste = rng.normal(0, 0.6, (4, 4))[group] + rng.normal(0, 0.3, (users, 4))
    score = 2.5 + rng.normal(0, 0.4, items) + taste[:, kind] + rng.normal(0, 0.8, (users, items))
    label = np.clip(np.round(score), 1, 5)
    propensity = most * decay ** (5 - label)
    seen = rng.random(label.shape) < propensity
    nobody = ~seen.any(axis=1)
    seen[nobody, rng.integers(0, items, nobody.sum())] = True
    asked = np.argsort(rng.random(label.shape), axis=1) < num_random
    one_hot = lambda code: np.eye(4, dtype=np.float32)[code]
    return Chosen(
        "synthetic",
        np.where(seen, label, 0).astype(np.float32),
        np.where(asked, label, 0).astype(np.float32),
        one_hot(group),
        one_hot(kind),
        tuple(f"group:{i}" for i in range(4)),
        tuple(f"kind:{i}" for i in range(4)),
        propensity.astype(np.float32),
    )
