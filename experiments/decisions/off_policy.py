"""What would a policy have earned? Off-policy estimates beside the truth, and on real clicks.

In a world of which everything is known, logs are drawn and every estimator is compared with the
truth: bias, spread, and how often its 95 % intervals contain it; with right and wrong reward
models, with true propensities and, as the control, uniform ones. On the Open Bandit Dataset the
value of Bernoulli Thompson sampling is estimated from the log of the random policy and compared
with what it earned itself in the same week, and the other way round. With
``--log FILE`` the same table is made of a log of your own (docs/off_policy.md has its columns).

References: Dudik et al., ICML 2011; Swaminathan, Joachims, NeurIPS 2015; Wang et al., ICML 2017;
Saito et al., NeurIPS Datasets and Benchmarks 2021.
Run: python -m experiments off_policy
     python -m experiments off_policy --log decisions.csv    a log of your own
     python -m experiments off_policy --from-records prints the stored tables.
Published: none under this protocol: obp's README values the policy that its authors' priors make,
here it is the one that wrote the log, item by item and place by place.
Deviates: the probabilities of Thompson sampling changed within the week; as a target it is what it
did on average. Samples of 10,000 rounds have 38 to 69 clicks.
"""

import dataclasses
import pathlib
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.data.sources import named
from metajax.decide import logged, off_policy, reward_model
from metajax.decide.logged_world import LoggedWorld
from metajax.results import ledger, records
from metajax.settings import Output, Positive, Presets
from metajax.training import progress
from metajax.types import UserError

from . import estimates, off_policy_report
from .off_policy_report import BANDIT, NAME, OWN, WORLD

CONDITIONS = {
    "as logged": (True, True),
    "reward model wrong": (True, False),
    "propensities uniform": (False, True),
    "both wrong": (False, False),
}
"""Condition -> whether propensities are the true ones, and whether the model is fitted."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    log: pathlib.Path | None = None
    """CSV file of a log of your own; nothing else is run then."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""
    logs: Positive = 200
    """Logs drawn in the world."""
    rounds: Positive = 1_000
    """Rounds of a log of the world."""
    resamples: Positive = 1_000
    """Resamples of a bootstrap in the world; four times as many elsewhere."""
    clip: float = 5.0
    """Largest weight of clipped IPS."""
    threshold: float = 5.0
    """Weight above which switch-DR leaves a round to the reward model."""
    damping: float = 1.0
    """As how many rounds the mean reward counts in the reward model."""
    click_damping: float = 100.0
    """The same on Open Bandit, where 1 round in 200 has a click."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"logs": 20, "rounds": 300, "resamples": 200},
        "gpu": {"logs": 2_000},
    }


def in_world(config: Config) -> dict[records.Key, np.ndarray]:
    """The errors and intervals of every estimator under every condition, of all logs."""
    world = LoggedWorld()
    truth = world.value(world.target)

    def one(key: jax.Array) -> dict[str, estimates.Found]:
        key_log, key_draw = jax.random.split(key)
        log, index = world.sample(key_log, config.rounds)
        target = world.target[index]
        fitted = reward_model.cross_fitted(log, world.num_actions, config.damping)
        wrong = 1.0 - world.chance[index]
        uniform = jnp.full_like(log.propensity, 1.0 / world.num_actions)
        told = {}
        for name, (known, right) in CONDITIONS.items():
            seen = log._replace(propensity=log.propensity if known else uniform)
            model = fitted if right else wrong
            told[name] = estimates.of_log(config, seen, target, model, key_draw, config.resamples)
        return told

    keys = jax.random.split(jax.random.key(1), config.logs)
    found = jax.device_get(jax.jit(lambda keys: jax.lax.map(one, keys))(keys))
    scores = {}
    for condition in CONDITIONS:
        each = found[condition]
        for i, arm in enumerate(estimates.ARMS):
            put = lambda metric, values, c=condition, a=arm: scores.update(
                {records.Key(WORLD, a, c, metric): np.asarray(values, np.float32)[None]}
            )
            put("error", each.value[:, i] - truth)
            for kind in ("bootstrap", "bernstein"):
                low, high = (x[:, i] for x in getattr(each, kind))
                put(f"{kind} covers", (low <= truth) & (truth <= high))
                put(f"{kind} width", high - low)
    return scores


def shares(log: logged.OpenBandit) -> np.ndarray:
    """The share (3, A) of each item at each place of a log: its policy, averaged over the week."""
    shown = np.zeros((3, log.num_actions), np.float32)
    np.add.at(shown, (log.position, log.logged.action), 1.0)
    return shown / shown.sum(axis=1, keepdims=True)


def on_clicks(config: Config) -> list[dict[str, Any]]:
    """The table of Open Bandit: a row for each campaign and direction."""
    folder, rows = named.data_folder(config.data_dir), []
    for campaign in logged.CAMPAIGNS:
        logs = {policy: logged.open_bandit(folder, policy, campaign) for policy in logged.POLICIES}
        uniform = np.full((3, logs["random"].num_actions), 1.0 / logs["random"].num_actions)
        targets = {"bts": shares(logs["bts"]), "random": uniform.astype(np.float32)}
        for source, target in (("random", "bts"), ("bts", "random")):
            log = logs[source]
            table = targets[target][log.position]
            row = told_of(config, log.logged, table, config.click_damping, log.position, 3)
            earned = logs[target].logged
            truth = estimates.on_policy(earned, 4 * config.resamples)
            rows.append({"campaign": campaign, "log": source, "target": target, **row,
                         "on_policy": truth, "clicks": int(log.logged.reward.sum())})  # fmt: skip
    return rows


def told_of(
    config: Config,
    log: logged.Logged,
    target: np.ndarray,
    damping: float,
    group: np.ndarray | None = None,
    num_groups: int = 1,
) -> dict[str, Any]:
    """What is estimated from one log, as JSON.

    Args:
      group: (n,) the rounds that are alike, see `off_policy.unsupported`.
    """
    logged.check(log, target.shape[1], target)
    bounds = estimates.bounds_of(log)

    @jax.jit
    def program(log: logged.Logged, target: jax.Array, key: jax.Array):
        model = reward_model.cross_fitted(log, target.shape[1], damping, bounds=bounds)
        draws = 4 * config.resamples
        found = estimates.of_log(config, log, target, model, key, draws, bounds)
        weight = off_policy.weights(log, target)
        size = off_policy.effective_sample_size(weight)
        missing = off_policy.unsupported(log, target, group, num_groups)
        return found, (size, weight.max(), weight.mean(), missing)

    found, (size, largest, mean, missing) = jax.device_get(program(log, target, jax.random.key(2)))
    arms = {
        arm: [float(x[i]) for x in (found.value, *found.bootstrap, *found.bernstein)]
        for i, arm in enumerate(estimates.ARMS)
    }
    return {"rounds": len(log.reward), "effective": float(size), "largest_weight": float(largest),
            "mean_weight": float(mean), "unsupported": float(missing), "arms": arms}  # fmt: skip


def made(config: Config, began: float, tests: str, scores: dict, extra: dict) -> records.Record:
    """The record of a run, written."""
    choices = {"clip": config.clip, "threshold": config.threshold}
    opened = records.open_tests(config, choices, NAME, tests)
    arms = records.arms_of(estimates.ARMS, roles={estimates.MEAN: records.CONTROL})
    return benchmark.kept(
        NAME, NAME, config, arms, scores, began=began, opened=(opened,), extra=extra
    )


def measured(config: Config) -> records.Record:
    """Runs all estimators in the world and on Open Bandit, or on a log of your own."""
    began = time.perf_counter()
    if config.log:
        if config.output.publish:
            raise UserError("--publish is for the tables of the project; leave it out with --log")
        own = logged.read(config.log)
        row = told_of(config, own.logged, own.target, config.damping)
        extra = {OWN: {"file": config.log.name, "actions": own.actions, **row}}
        return made(config, began, ledger.checksum(*own.logged), {}, extra)
    named.data_folder(config.data_dir)  # a missing folder is told before the work
    rows = on_clicks(config)
    progress.say("Open Bandit: six values estimated")
    scores = in_world(config)
    tests = ledger.checksum(NAME, config.logs, config.rounds)
    return made(config, began, tests, scores, {BANDIT: rows})


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    if config.log and config.output.from_records:
        raise UserError("--from-records prints the stored tables; leave --log out, or this")
    return benchmark.shown(NAME, config, measured, off_policy_report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config)
