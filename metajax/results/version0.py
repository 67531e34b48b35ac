"""Reads records of version 0: a JSON file with free keys, and an npz file of scores beside it.

Keys of scores were "scenario|arm|condition|metric"; the role of an arm was a part of its name.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from metajax.results.schema import (
    ABLATION,
    BASELINE,
    METHOD,
    Data,
    Environment,
    Gradients,
    Key,
    Opening,
    Record,
    Split,
    arms_of,
    owner_of,
)
from metajax.types import UserError

SAME = ("experiment", "config_hash", "method", "scenario", "protocol", "peak_memory")
"""Fields that have kept their names."""
OF_ARMS = ("arms", "arm", "settings", "seconds", "gradients", "bytes", "history", "best_step")
READ = {
    *SAME,
    *OF_ARMS,
    "config",
    "environment",
    "data",
    "split",
    "shots",
    "test",
    "scores_blake2b",
}


def read(path: pathlib.Path) -> Record:
    """The record of a JSON file of version 0.

    Raises:
      UserError: a file is missing or damaged, or the scores are not those of the record.
    """
    scores_path = path.with_suffix(".npz")
    if not scores_path.is_file():
        raise UserError(f"no record {scores_path}; run the experiment first (see --help)")
    try:
        facts = json.loads(path.read_text())
        digest = hashlib.blake2b(scores_path.read_bytes(), digest_size=16).hexdigest()
        if digest != facts["scores_blake2b"]:
            raise UserError(f"{scores_path} is not the file that {path.name} was written with")
        with np.load(scores_path) as arrays:
            scores = {Key(*name.split("|")): values for name, values in arrays.items()}
        return upgraded(facts, scores)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); run the experiment again") from error


INNER_STEPS = {"A6 MAML": 5, "A6 ANIL": 20, "A6 Meta-SGD": 10}
"""What ``inner_steps`` of these methods was at the commits of all tables of version 0."""


def with_true_costs(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts with the gradients that tables left out, and ``gradients_corrected`` if it did.

    The tables T1, T2 and T5 asked their own configuration for the inner steps, which only the
    methods' configurations have, and so counted none for the methods that adapt by gradients.
    """
    counted = facts.get("gradients", {})
    if facts["experiment"] != "tables" or not any(counted.get(arm) for arm in INNER_STEPS):
        return facts
    told = dict(counted)
    for arm in INNER_STEPS.keys() & told.keys():
        steps, outer = INNER_STEPS[arm], told[arm]["training"]
        told[arm] = {"training": outer * (1 + steps), "per_user": steps}
    why = "0 inner gradients were recorded; these follow from inner_steps at the commit of the run"
    return {**facts, "gradients": told, "gradients_corrected": why}


def facts(path: pathlib.Path) -> Record:
    """The record of a JSON file without its scores."""
    with np.load(path.with_suffix(".npz")) as arrays:
        names = {Key(*name.split("|")): np.zeros((0, 0)) for name in arrays.files}
    return dataclasses.replace(upgraded(json.loads(path.read_text()), names), scores={})


def upgraded(facts: Mapping[str, Any], scores: Mapping[Key, np.ndarray]) -> Record:
    """The record of facts and scores of version 0; what has no field goes to ``extra``."""
    facts = with_true_costs(facts)
    extra = {k: v for k, v in facts.items() if k not in READ}
    alone = "arm" in facts
    told = _of_one_arm(facts) if alone else facts
    names = told.get("arms") or list(dict.fromkeys(key.arm for key in scores))
    seconds, settings = told.get("seconds", {}), told.get("settings", {})
    arms = arms_of(
        names,
        roles={name: role_of(name, facts["experiment"]) for name in names},
        settings=settings,
        seconds=seconds,
        gradients={name: _gradients(g) for name, g in told.get("gradients", {}).items()},
        bytes_per_task=told.get("bytes"),
        history=told.get("history"),
    )
    more = {key: value for key, value in settings.items() if not owner_of(key, names)}
    extra |= {"settings": more} if more else {}
    data, split = facts.get("data"), facts.get("split")
    if data and "name" in data:
        known = ("name", "checksum", "digest", "users", "items", "interactions")
        extra |= {k: v for k, v in data.items() if k not in known}
    elif data:
        extra["data"] = data
    return Record(
        arms=arms,
        scores=dict(scores),
        config=flat_config(facts.get("config", {})),
        environment=Environment(**facts["environment"]),
        data=_data(data),
        split=_split(split),
        shots=tuple(facts.get("shots", ())),
        seconds={name: s for name, s in seconds.items() if name not in names},
        opened=_opened(facts.get("test", {})),
        extra=extra,
        scores_digest=facts["scores_blake2b"],
        **({"method": facts["arm"]} if alone else {}),
        **{name: facts[name] for name in SAME if name in facts},
    )


def role_of(name: str, experiment: str = "") -> str:
    """The role that a name of version 0 told.

    >>> role_of("A2 fold-in"), role_of("A6 MAML"), role_of("- blend"), role_of("Mine")
    ('baseline', 'method', 'ablation', 'method')
    """
    if re.match(r"A[0-57] ", name) or experiment in ("datasets", "protocols"):
        return BASELINE
    return ABLATION if name.startswith("- ") else METHOD


def _of_one_arm(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a record of one arm, by its name."""
    name = facts["arm"]
    settings = {k: facts[k] for k in ("best_step",) if k in facts} | facts.get("settings", {})
    one = {k: {name: facts[k]} for k in ("gradients", "history") if k in facts}
    return {**facts, **one, "arms": [name], "settings": {name: settings}}


def _gradients(told: Mapping[str, int]) -> Gradients:
    return Gradients(told["training"], told.get("per_user", told.get("per_task")))


def _data(told: Mapping[str, Any] | None) -> Data | None:
    if not told or "name" not in told:
        return None
    counts = {name: told.get(name) for name in ("users", "items", "interactions")}
    return Data(told["name"], told.get("checksum", told.get("digest", "")), **counts)


def _split(told: Mapping[str, Any] | None) -> Split | None:
    if not told:
        return None
    known = {k: v for k, v in told.items() if k not in ("file", "folds")}
    return Split(**({"protocol": told.get("file", "")} | known), folds=tuple(told.get("folds", ())))


def _opened(told: Mapping[str, Any]) -> tuple[Opening, ...]:
    return tuple(Opening(**one) for one in told.get("folds", [told] if told else []))


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record; older ones have those that experiments share under ``run``."""
    return {**config.get("run", {}), **{k: v for k, v in config.items() if k != "run"}}
