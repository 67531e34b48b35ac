"""Semantic IDs by residual k-means: items with similar vectors share the first codes of their IDs.

Each level quantizes the residual of the levels before it; a last number tells apart the items that
share all codes.

References: Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023.
"""

import numpy as np


def k_means(
    x: np.ndarray, num_centers: int, rng: np.random.Generator, num_sweeps: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Centers (k, D) of rows x (N, D) by Lloyd's algorithm, and each row's nearest center (N,).

    It starts from random rows. A center without rows moves to the row farthest from its center.

    References: Lloyd, "Least squares quantization in PCM", 1982.
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
    """Codes (N, levels + 1) of vectors (N, D): ``levels`` of 0..num_codes - 1, then a counter.

    The counter numbers the items that have the same codes, from 0.
    """
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
