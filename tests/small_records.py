"""Records made by hand, with numbers that pencil and paper can follow."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metajax.results import records

ARMS = ("A2 fold-in", "A3 joint", "A4 fine-tuned", "A6 MAML")
OFFSETS = dict(zip(ARMS, (0.2, 0.5, 0.1, 0.0), strict=True))
SHOTS = (0, 5)


def record(
    experiment: str = "maml",
    num_tasks: int = 50,
    offsets: Mapping[str, float] = OFFSETS,
    **facts: Any,
) -> records.Record:
    """A record whose arms differ by offsets in MAE, on every user; two seeds of A6.

    The MAE of user t is 1 + t / 1000; with shuffled labels it is higher by 0.3 for all but A3.
    """
    base = 1.0 + np.arange(num_tasks) / 1000
    scores: dict[str, np.ndarray] = {}
    for arm, offset in offsets.items():
        values = np.stack([base + offset - 0.01, base + offset + 0.01])
        for scenario in ("user_cold", "warm"):
            for condition in ("all", "shuffled", *(f"k={k}" for k in SHOTS)):
                worse = 0.3 if condition == "shuffled" and arm != "A3 joint" else 0.0
                put = lambda metric, v, s=scenario, a=arm, c=condition: scores.__setitem__(
                    records.score_name(s, a, c, metric), v
                )
                put("mae", values + worse)
                put("mse", (values + worse) ** 2)
                put("ndcg@5", 1.0 / (1.0 + values))
    return records.Record(
        {
            "experiment": experiment,
            "method": "A6 MAML",
            "arms": list(offsets),
            "config": {"inner_steps": 5, "seeds": 2, "num_steps": 300, "out": "here"},
            "config_hash": "0" * 12,
            "environment": {
                "date": "2026-01-02T03:04:05Z",
                "device": "cpu:cpu",
                "commit": "c" * 40,
                "uncommitted_changes": False,
                "command": "python -m experiments.made",
                "python": "3.11",
                "packages": {"jax": "0.10.2"},
                "num_cpus": 2,
            },
            "data": {
                "name": "made",
                "checksum": "d" * 16,
                "users": 100,
                "items": 20,
                "interactions": 999,
            },
            "split": {
                "protocol": "melu",
                "checksum": "s" * 16,
                "tasks": {"user_cold": num_tasks, "warm": num_tasks},
                "meta_train_tasks": 10,
                "meta_valid_tasks": 5,
            },
            "settings": {},
            "peak_memory": {"host_mb": 512.0},
            "test": {"times_opened": 1},
            "history": {
                "A3 joint": {
                    "loss": [[3.0, 2.0, 1.0]] * 2,
                    "valid": [[0.9, 0.8, 0.7], [1.0, 0.8, 0.6]],
                },
                "A6 MAML": {
                    "loss": [[3.0, 1.0, 0.5]] * 2,
                    "valid": [[0.7, 0.6, 0.5], [0.8, 0.6, 0.5]],
                },
            },
            "gradients": {
                arm: {"training": 9600, "per_user": 5 if arm[1] in "46" else 0} for arm in offsets
            },
            "shots": list(SHOTS),
            "seconds": {"total": 60.0},
            **facts,
        },
        scores,
    )
