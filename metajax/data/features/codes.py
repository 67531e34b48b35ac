"""Semantic codes: items with like vectors share the first tokens of their names.

Residual k-means: each level quantizes what the levels before it left over; a last token tells apart
items that share all codes.

References: Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023.
"""

import numpy as np


def k_means(
    x: np.ndarray, num_centers: int, rng: np.random.Generator, num_sweeps: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Centers (k, D) by Lloyd's algorithm from random rows, and the nearest (N,) of each row.

    A center that loses all its rows is moved to the row that is farthest from its own.
    """
    centers = x[rng.choice(len(x), num_centers, replace=len(x) < num_centers)].copy()
    nearest = np.zeros(len(x), int)
    for _ in range(num_sweeps):
        distance = (x**2).sum(1)[:, None] - 2 * x @ centers.T + (centers**2).sum(1)[None]
        nearest, far = distance.argmin(1), distance.min(1)
        for k in range(num_centers):
            mine = nearest == k
            if mine.any():
                centers[k] = x[mine].mean(0)
            else:
                centers[k] = x[far.argmax()]
                far[far.argmax()] = -np.inf
    return centers, nearest


def residual_codes(
    vectors: np.ndarray, num_codes: int, levels: int = 3, seed: int = 0
) -> np.ndarray:
    """Codes (N, levels + 1) in 0..num_codes - 1, then a counter among items of equal codes."""
    rng = np.random.default_rng(seed)
    left, columns = np.asarray(vectors, np.float64), []
    for _ in range(levels):
        centers, nearest = k_means(left, num_codes, rng)
        columns.append(nearest)
        left = left - centers[nearest]
    codes = np.stack(columns, axis=1)
    _, group = np.unique(codes, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    first = np.searchsorted(ordered, ordered)
    counter = np.zeros(len(codes), int)
    counter[order] = np.arange(len(codes)) - first
    return np.column_stack([codes, counter])
