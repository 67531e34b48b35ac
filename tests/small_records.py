"""Records made by hand, with numbers that pencil and paper can follow."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from metajax.results import records

ARMS = ("A2 fold-in", "A3 joint", "A4 fine-tuned", "A6 MAML")
OFFSETS = dict(zip(ARMS, (0.2, 0.5, 0.1, 0.0), strict=True))
SHOTS = (0, 5)


ENVIRONMENT = records.Environment(
    date="2026-01-02T03:04:05Z",
    device="cpu:cpu",
    commit="c" * 40,
    command="python -m experiments.made",
    python="3.11",
    packages={"jax": "0.10.2"},
    num_cpus=2,
)
HISTORY = {
    "A3 joint": {"loss": [[3.0, 2.0, 1.0]] * 2, "valid": [[0.9, 0.8, 0.7], [1.0, 0.8, 0.6]]},
    "A6 MAML": {"loss": [[3.0, 1.0, 0.5]] * 2, "valid": [[0.7, 0.6, 0.5], [0.8, 0.6, 0.5]]},
}


def role_of(name: str) -> str:
    """The role of an arm by its name."""
    if re.match(r"A[0-57] ", name):
        return records.BASELINE
    return records.ABLATION if name.startswith("- ") else records.METHOD


def record(
    experiment: str = "maml",
    num_tasks: int = 50,
    offsets: Mapping[str, float] = OFFSETS,
    settings: Mapping[str, Any] | None = None,
    checksum: str = "s" * 16,
    took: Mapping[str, float] | None = None,
    **fields: Any,
) -> records.Record:
    """A record whose arms differ by offsets in MAE, on every user; two seeds of A6.

    The MAE of user t is 1 + t / 1000; with shuffled labels it is higher by 0.3 for all but A3.
    A0 to A5 and A7 are baselines; names that begin with "- " are ablations.
    """
    base = 1.0 + np.arange(num_tasks) / 1000
    scores: dict[records.Key, np.ndarray] = {}
    for arm, offset in offsets.items():
        values = np.stack([base + offset - 0.01, base + offset + 0.01])
        for scenario in ("user_cold", "warm"):
            for condition in ("all", "shuffled", *(f"k={k}" for k in SHOTS)):
                worse = 0.3 if condition == "shuffled" and arm != "A3 joint" else 0.0
                at = lambda metric, s=scenario, a=arm, c=condition: records.Key(s, a, c, metric)
                scores[at("mae")] = values + worse
                scores[at("mse")] = (values + worse) ** 2
                scores[at("ndcg@5")] = 1.0 / (1.0 + values)
    steps = lambda arm: 5 if arm[:2] in ("A4", "A6") else 0
    tasks = {"user_cold": num_tasks, "warm": num_tasks}
    known: dict[str, Any] = {
        "arms": records.arms_of(
            offsets,
            roles={arm: role_of(arm) for arm in offsets},
            settings=settings,
            seconds=took,
            gradients={arm: records.Gradients(9600, steps(arm)) for arm in offsets},
            history=HISTORY,
        ),
        "method": "A6 MAML",
        "config": {"inner_steps": 5, "seeds": 2, "num_steps": 300, "out": "here"},
        "config_hash": "0" * 12,
        "environment": ENVIRONMENT,
        "data": records.Data("made", "d" * 16, 100, 20, 999),
        "split": records.Split("melu", 0, checksum, tasks, 10, 5),
        "shots": SHOTS,
        "seconds": {"total": 60.0},
        "opened": (records.Opening(times_opened=1),),
        "peak_memory": {"host_mb": 512.0},
    }
    return records.Record(experiment, scores=scores, **(known | fields))


BASELINES = {
    "A0 item mean": 0.6,
    "A1 bias": 0.4,
    "A2 fold-in": 0.2,
    "A7 hier. Bayes": -0.1,
    "A3 joint": 0.5,
    "A4 fine-tuned": 0.1,
}


def split_of(seed: int) -> records.Record:
    """A split of 25 users; MAML is ahead of all but A7, and of all that it was told of."""
    said = {"primary": ["mae"], "scenarios": ["user_cold", "warm"], "hypothesis": "h", "rule": "r"}
    said |= {"method": "A6 MAML", "commit": "c" * 40, "split_seeds": [1, 2]}
    said |= {"dataset": "synthetic"}
    few = [name for name in BASELINES if name != "A7 hier. Bayes"]
    each = [
        said | {"arms": [*names, "A6 MAML"], "digest": f"{place}"}
        for place, names in enumerate((BASELINES, few))
    ]
    offsets = BASELINES | {"A6 MAML": 0.0}
    made = record("fresh", 25, offsets, method="A6 MAML", extra={"registrations": each})
    sizes = {"user_cold": 25, "warm": 25}
    return dataclasses.replace(made, split=records.Split("melu-redrawn", seed, f"s{seed}", sizes))
