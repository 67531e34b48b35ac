"""What the rows of a person tell of the weights: the sums of a ridge regression, and the noise."""

import numpy as np


def sums(
    user: np.ndarray, x: np.ndarray, y: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per user X'X (U, D, D), X'y (U, D) and y'y (U,) of the rows of the first ``count`` users."""
    kept = user < count
    user, x, y = user[kept], x[kept].astype(float), y[kept].astype(float)
    gram = np.zeros((count, x.shape[1], x.shape[1]))
    moment, square = np.zeros((count, x.shape[1])), np.bincount(user, y**2, minlength=count)
    np.add.at(gram, user, x[:, :, None] * x[:, None, :])
    np.add.at(moment, user, x * y[:, None])
    return gram, moment, square


def noise(gram: np.ndarray, moment: np.ndarray, square: np.ndarray, rows: float) -> float:
    """The maximum likelihood variance s2 of ``y ~ N(0, s2 (I + X X'))`` over all users."""
    solved = np.linalg.solve(gram + np.eye(gram.shape[-1]), moment[..., None])[..., 0]
    return float((square.sum() - (moment * solved).sum()) / rows)
