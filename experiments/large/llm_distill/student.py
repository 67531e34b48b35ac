"""A student that writes a language model's title vectors from letters: n-grams and one matrix.

A title becomes counts of its words and of its letter triples, hashed into a few thousand places;
a ridge regression maps them to the first principal components of the teacher's vectors. It needs
numpy alone, so that a service can hold it where the teacher does not fit.

References: Hinton et al., 2015 (distillation); Weinberger et al., ICML 2009 (hashing).
"""

import pathlib
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PLACES = 4096
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 5


def pieces(text: str) -> list[str]:
    """The words of a text, and the letter triples in each.

    >>> pieces("Heat 2")
    ['heat', '^he', 'hea', 'eat', 'at$', '2', '^2$']
    """
    found = []
    for word in re.findall(r"\w+", text.lower()):
        edged = f"^{word}$"
        found += [word, *(edged[i : i + 3] for i in range(len(edged) - 2))]
    return found


def hashed(texts: Sequence[str]) -> np.ndarray:
    """Signed counts (N, PLACES) of the pieces of each text, of norm 1."""
    out = np.zeros((len(texts), PLACES), np.float32)
    for row, text in zip(out, texts, strict=True):
        for piece in pieces(text):
            code = zlib.crc32(piece.encode())
            row[code % PLACES] += 1.0 if code & 0x80000000 else -1.0
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


class Student(NamedTuple):
    """What a service holds.

    Attributes:
      kernel: (PLACES, D); mean: (D,) of the teacher's components.
    """

    kernel: np.ndarray
    mean: np.ndarray

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors (N, D) of texts."""
        return hashed(texts) @ self.kernel + self.mean

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.kernel.nbytes + self.mean.nbytes

    def save(self, path: pathlib.Path) -> pathlib.Path:
        """The file written, of numpy's format; `load` reads it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, kernel=self.kernel, mean=self.mean)
        return path


def load(path: pathlib.Path | str) -> Student:
    """The student of a file that `Student.save` wrote."""
    with np.load(path) as stored:
        return Student(stored["kernel"], stored["mean"])


def solved(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The ridge solution (C, D) of y (N, D) on x (N, C), for few rows and many columns."""
    gram = x @ x.T + penalty * np.eye(len(x), dtype=x.dtype)
    return x.T @ np.linalg.solve(gram, y)


class Taught(NamedTuple):
    """A student, and what it says of the titles that it was taught on.

    Attributes:
      student: of all of these; penalty: chosen among `PENALTIES`.
      told: (N, D) of the taught titles by students who had not seen them, of the others by the
        student: alike in kind, so that what is learned from the former holds for the latter.
      explained: share of the variance of the taught components that unseen students explain.
    """

    student: Student
    penalty: float
    told: np.ndarray
    explained: float


def taught(texts: Sequence[str], teacher: np.ndarray, seen: np.ndarray, dim: int) -> Taught:
    """The student of a teacher's vectors (N, V) of the texts where ``seen`` (N,) holds.

    Args:
      dim: D, principal components of these vectors.
    """
    center = teacher[seen].mean(axis=0)
    basis = np.linalg.svd(teacher[seen] - center, full_matrices=False)[2][:dim]
    x, y = hashed(texts), ((teacher - center) @ basis.T).astype(np.float32)
    places = np.flatnonzero(seen)
    fold = np.random.default_rng(0).integers(FOLDS, size=len(places))

    def unseen(penalty: float) -> np.ndarray:
        out = np.zeros((len(places), y.shape[1]), np.float32)
        for k in range(FOLDS):
            others, held = places[fold != k], fold == k
            out[held] = x[places[held]] @ solved(x[others], y[others], penalty)
        return out

    found = {penalty: unseen(penalty) for penalty in PENALTIES}
    error = {penalty: float(np.sum((v - y[places]) ** 2)) for penalty, v in found.items()}
    best = min(error, key=lambda penalty: error[penalty])
    kernel = solved(x[places], y[places], best)
    student = Student(kernel, np.zeros(y.shape[1], np.float32))
    told = x @ kernel
    told[places] = found[best]
    return Taught(student, best, told, 1.0 - error[best] / float(np.sum(y[places] ** 2)))
