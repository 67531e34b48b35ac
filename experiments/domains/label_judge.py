"""How multi_label judges: per person by the one judge, per label over all people of the test."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.evaluation import judge, metrics, multi_label
from metajax.results import records
from metajax.types import Episode

from . import label_arms as arms
from . import label_report as report


def constant(share: np.ndarray) -> judge.Scorer:
    """An arm that gives everyone the share (L,) of people who like each label."""
    logit = np.log(share / (1 - share)).astype(np.float32)
    return lambda source, tasks, key: np.broadcast_to(logit, (1, *tasks.query.label.shape))


def cutoffs(one: Any, valid: Episode) -> np.ndarray:
    """The cutoffs (L,) of an arm with the best F1 on validation people, over all seeds and K."""
    label, mask = np.asarray(valid.query.label), np.asarray(valid.query.mask)
    if isinstance(one, tuple):
        learner, params = one
        at = jax.jit(lambda p: jax.lax.map(lambda q: arms.at_shots(learner, q, valid), p))
        score = np.asarray(at(params)).reshape(-1, *label.shape)
    else:
        score = np.asarray(one(None, valid, None))
    flat = lambda x: np.broadcast_to(x, score.shape).reshape(-1, label.shape[1])
    return multi_label.best_cutoffs(flat(score), flat(label), flat(mask))


def of_people(cutoff: np.ndarray):
    """The metrics of each person, and the probability of each label, for one arm's cutoffs."""

    def measure(score: jax.Array, tasks: Episode, key: jax.Array) -> dict[str, jax.Array]:
        query = tasks.query
        keys = jax.random.split(key, len(score))
        size = score.shape[1]
        lists = jax.vmap(lambda s, y, m, k: metrics.average_precision(s, y, m, k, k=size))
        said, yes = (score > jnp.asarray(cutoff)[None]) * query.mask, query.label * query.mask
        found = {
            "ap": lists(score, query.label, query.mask, keys),
            "log loss": jax.vmap(metrics.log_loss)(score, query.label, query.mask),
            "hits": (said * yes).sum(axis=1),
            "said and liked": said.sum(axis=1) + yes.sum(axis=1),
        }
        return found | {f"logit {i}": score[:, i] for i in range(size)}

    return measure


def judged(
    ready: Mapping[str, Any], choices: Mapping[str, Any], tasks: Episode
) -> dict[records.Key, np.ndarray]:
    """The scores of all arms: of people (S, T), and of labels over all people (S, L)."""
    label, mask = np.asarray(tasks.query.label), np.asarray(tasks.query.mask)
    scores: dict[records.Key, np.ndarray] = {}
    for arm, one in ready.items():
        cutoff = np.asarray(choices[arm]["cutoffs"])
        found = judge.judge(
            {arm: one}, {report.PEOPLE: tasks}, metrics=of_people(cutoff), curves=[report.PEOPLE]
        )
        logits: dict[str, list[np.ndarray]] = {}
        for key, value in found.items():
            if key.metric.startswith("logit "):
                logits.setdefault(key.condition, []).append(value)
            else:
                scores[key] = value
        for condition, parts in logits.items():
            each = np.stack(parts, axis=2)  # (S, T, L)
            of = lambda measure, c=condition, a=arm: records.Key(report.LABELS, a, c, measure)
            f1 = [multi_label.macro_f1(x, label, mask, cutoff) for x in each]
            error = [multi_label.calibration_error(_sigmoid(x), label, mask) for x in each]
            scores[of("f1")], scores[of("ece")] = np.stack(f1), np.stack(error)
    return scores


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(float)))
