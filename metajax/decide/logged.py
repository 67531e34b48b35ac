"""Logs of decisions with their propensities: the type, its checks, and two readers.

A file of your own has a header and a line for each round: ``action``, ``propensity`` (the
probability with which the action was chosen, as it was then), ``reward``, and for every action a
column ``target:NAME``, the probability that the policy in question would choose NAME. Every other
column is context: numbers as they are, words as one column for each word.
"""

import csv
import pathlib
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from metajax.data.sources.files import dataset_folder, required
from metajax.types import UserError

CAMPAIGNS = ("all", "men", "women")
POLICIES = ("random", "bts")
REQUIRED = ("action", "propensity", "reward")
TARGET = "target:"
MOST_WORDS = 100
"""Different words in a column of context, at most."""


class Logged(NamedTuple):
    """n decisions that were taken, one line each.

    Attributes:
      context: (n, D) what was known before.
      action: (n,) the number of the action, from 0.
      propensity: (n,) the probability with which it was chosen.
      reward: (n,) what came of it.
    """

    context: jax.Array
    action: jax.Array
    propensity: jax.Array
    reward: jax.Array


def check(logged: Logged, num_actions: int, target_NxA: np.ndarray | None = None) -> Logged:
    """The log itself, if values can be estimated from it.

    That the log never shows what a target does is no error, see `off_policy.unsupported`.

    Args:
      num_actions: A.
      target_NxA: the probabilities of the policy in question.

    Raises:
      UserError: lengths that differ; a propensity that is missing, 0 or less, or above 1; an action
        outside of the set; a reward that is no number; rows of a target that are no distribution.
    """
    action, propensity, reward = (np.asarray(x) for x in logged[1:])
    n = len(reward)
    if not n == len(action) == len(propensity) == len(np.asarray(logged.context)) or n < 2:
        raise UserError("a log has a context, an action, a propensity and a reward for each round, "
                        "and two rounds or more")  # fmt: skip
    _refuse(np.isnan(propensity), "has no propensity", "log the probability of every decision when "
            "it is taken: it cannot be had later")  # fmt: skip
    _refuse(~(propensity > 0), "has a propensity of 0 or less", "what was done had a chance to be "
            "done; log that one", propensity)  # fmt: skip
    _refuse(propensity > 1, "has a propensity above 1", "give probabilities, not per cent or "
            "scores", propensity)  # fmt: skip
    outside = (action < 0) | (action >= num_actions) | (action != np.floor(action))
    _refuse(outside, f"has an action outside of the {num_actions}", "number them from 0", action)
    _refuse(~np.isfinite(reward), "has no reward", "drop the round, or wait for its reward")
    _refuse(~np.isfinite(np.asarray(logged.context)).reshape(n, -1).all(axis=1),
            "has a context that is no number", "fill it in")  # fmt: skip
    if target_NxA is not None:
        check_target(np.asarray(target_NxA), n, num_actions)
    return logged


def check_target(target_NxA: np.ndarray, n: int, num_actions: int) -> None:
    """Returns nothing if the rows are distributions over the actions.

    Raises:
      UserError: they are not.
    """
    if target_NxA.shape != (n, num_actions):
        raise UserError(
            f"the probabilities of the policy in question are {target_NxA.shape}; give a row for "
            f"each of the {n} rounds and a column for each of the {num_actions} actions"
        )
    wrong = ~(target_NxA >= 0).all(axis=1) | ~(np.abs(target_NxA.sum(axis=1) - 1) < 1e-3)
    what = "has target probabilities that are below 0 or do not sum to 1"
    _refuse(wrong, what, "give the whole distribution of the policy", target_NxA.sum(axis=1))


def _refuse(wrong: np.ndarray, what: str, todo: str, values: np.ndarray | None = None) -> None:
    """Raises the one line about the first of the rounds that are wrong, if any is."""
    places = np.flatnonzero(wrong)
    if len(places):
        told = "" if values is None else f" ({values[places[0]]:g})"
        more = f", as {len(places) - 1} others do" if len(places) > 1 else ""
        raise UserError(f"round {places[0] + 1} of the log {what}{told}{more}: {todo}")


class OwnLog(NamedTuple):
    """A file that was read: the log, the target policy (n, A), and what the columns are called."""

    logged: Logged
    target: np.ndarray
    actions: tuple[str, ...]
    context: tuple[str, ...]


def read(path: pathlib.Path) -> OwnLog:
    """Reads a log of your own, see the top of this file for its columns.

    Raises:
      UserError: the file or a column is missing, a cell is not what it should be, or as `check`.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; give the CSV file of a log of decisions")
    with path.open(newline="", encoding="utf-8") as file:
        try:
            lines = [line for line in csv.reader(file) if line]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} is no CSV file in UTF-8 ({error})") from error
    head = [name.strip() for name in lines[0]] if lines else []
    missing = [name for name in REQUIRED if name not in head]
    if missing:
        told = "; no value can be estimated without it" if missing == ["propensity"] else ""
        raise UserError(f"{path} has no column {', '.join(missing)}{told}")
    names = tuple(name[len(TARGET) :] for name in head if name.startswith(TARGET))
    if len(names) < 2:
        raise UserError(
            f"{path} has no columns {TARGET}NAME: give the probability of every action under the "
            "policy in question"
        )
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(head):
            raise UserError(
                f"{path}, line {number}: {len(line)} cells under {len(head)} names; mend the line"
            )
    column = {name: [line[i].strip() for line in lines[1:]] for i, name in enumerate(head)}
    number = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(column["action"]):
        if name not in number:
            raise UserError(
                f"{path}, line {i + 2}: the action {name!r} is not among the columns {TARGET}NAME"
            )
    numeric = lambda name: _numbers(path, name, column[name])
    others = [x for x in head if x not in REQUIRED and not x.startswith(TARGET)]
    context, said = _context({name: column[name] for name in others}, len(lines) - 1)
    action = np.array([number[name] for name in column["action"]], np.int32)
    logged = Logged(context, action, numeric("propensity"), numeric("reward"))
    target = np.stack([numeric(TARGET + name) for name in names], axis=1)
    return OwnLog(check(logged, len(names), target), target, names, said)


def _numbers(path: pathlib.Path, name: str, cells: Sequence[str]) -> np.ndarray:
    """A column as float32; an empty cell is NaN, which `check` has a line for."""
    out = np.empty(len(cells), np.float32)
    for i, cell in enumerate(cells):
        try:
            out[i] = float(cell) if cell else np.nan
        except ValueError as error:
            raise UserError(f"{path}, line {i + 2}: {name} is {cell!r}; write a number") from error
    return out


def _context(columns: dict[str, list[str]], n: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The context (n, D) and the names of its columns: numbers as they are, words one by one."""
    found, said = [np.zeros((n, 0), np.float32)], []
    for name, cells in columns.items():
        try:
            found.append(np.array([[float(cell)] for cell in cells], np.float32))
            said.append(name)
        except ValueError:
            words, code = np.unique(cells, return_inverse=True)
            if len(words) > MOST_WORDS:
                raise UserError(
                    f"column {name} has {len(words)} different words; drop it, or group them"
                ) from None
            found.append(np.eye(len(words), dtype=np.float32)[code])
            said += [f"{name}={word}" for word in words]
    return np.concatenate(found, axis=1), tuple(said)


class OpenBandit(NamedTuple):
    """One of the six logs of the Open Bandit Dataset's samples.

    Attributes:
      logged: actions are items; the context is position (3) and user features (27), one-hot.
      position: (n,) 0, 1, 2, the place in the list.
      num_actions: items of the campaign.
    """

    logged: Logged
    position: np.ndarray
    num_actions: int


def open_bandit(folder: pathlib.Path | str, policy: str, campaign: str) -> OpenBandit:
    """Reads one log of the samples of the Open Bandit Dataset.

    Args:
      folder: of the data sets, with ``open-bandit/obd.npz`` in it.
      policy: "random", the uniform policy, or "bts", Bernoulli Thompson sampling.
      campaign: "all", "men" or "women".

    Raises:
      UserError: no such file, policy or campaign.

    References: Saito et al., NeurIPS Datasets and Benchmarks 2021.
    """
    if policy not in POLICIES or campaign not in CAMPAIGNS:
        raise UserError(f"{policy} {campaign}: give one of {POLICIES} and one of {CAMPAIGNS}")
    path = required(dataset_folder(folder, "open-bandit"), "obd.npz", "open-bandit")
    try:
        with np.load(path) as file:
            get = lambda name: file[f"{policy}_{campaign}_{name}"]
            item, place, click = (get(x) for x in ("item", "position", "click"))
            num_actions = len(file[f"{campaign}_item_feature_0"])
            uniform = np.full(len(item), 1.0 / num_actions, np.float32)
            propensity = get("propensity") if policy == "bts" else uniform
            code = get("user_features")
            values = [len(file[f"user_feature_{i}_hash"]) for i in range(code.shape[1])]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); get a complete copy") from error
    position = place.astype(np.int32) - 1
    one_hot = lambda code, count: np.eye(count, dtype=np.float32)[code]
    user = [one_hot(code[:, i], count) for i, count in enumerate(values)]
    context = np.concatenate([one_hot(position, 3), *user], axis=1)
    logged = Logged(context, item.astype(np.int32), propensity, click.astype(np.float32))
    return OpenBandit(check(logged, num_actions), position, num_actions)
