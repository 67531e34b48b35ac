"""The feedback loop of a service, whole and without each of its four stages; delayed feedback.

Users of `ClickUsers` are served for 2,000 rounds. The prior is learned from past users; feedback
comes in, a working model learns, the strategy (how wide to explore) is adjusted, and what has
predicted clicks no worse than the live model goes live. A stage that is cut passes its input on. In
the controls feedback comes 50 rounds late, and a fifth of it is flipped: the loop should lose a
little, and stay above the loops that are cut.

Reference: Auer et al., SIAM J. Computing 2002 (Exp4).
Run: python -m experiments feedback_loop
     python -m experiments feedback_loop --from-records prints the stored table.
Published: none.
"""

import dataclasses
import pathlib
import time
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.decide import loop, wrappers
from metajax.decide.click_users import ClickUsers
from metajax.results import ledger, plots, records, tables
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import progress

from . import arms, worlds

NAME = "feedback_loop"
WORLD = "clicks"
WIDTHS = (0.0, 0.2, 1.0, 3.0)
"""The strategy's experts, in standard deviations of a click's noise."""
TRIALS = [(rate, every) for rate in (0.03, 0.1, 0.3) for every in (1, 10, 50)]
STRETCH = 100


class Play(NamedTuple):
    """How an arm differs from the whole loop: stages kept, rounds of delay, share flipped."""

    kept: tuple[int, int, int, int] = (1, 1, 1, 1)
    delay: int = 0
    flipped: float = 0.0
    every: int = 0


WHOLE, LATE, WRONG, BOTH = (
    "whole loop",
    "delayed by 50",
    "a fifth flipped",
    "delayed and flipped",
)
CUTS = {
    "no feedback": Play((0, 1, 1, 1)),
    "no learning": Play((1, 0, 1, 1)),
    "no adjusting": Play((1, 1, 0, 1)),
    "no committing": Play((1, 1, 1, 0)),
}
ARMS = {
    WHOLE: Play(),
    **CUTS,
    LATE: Play(delay=50),
    WRONG: Play(flipped=0.2),
    BOTH: Play(delay=50, flipped=0.2),
    "commits untested, at once": Play(every=1),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    users: Positive = 40
    """Users that are served at once."""
    rounds: Positive = 2_000
    """Rounds for which each user is served."""
    seeds: Positive = 5
    """New users, past users and keys are drawn anew for each."""
    past: Positive = 500
    """Past users, who teach the prior."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"users": 10, "rounds": 300, "seeds": 2, "past": 100},
        "gpu": {"users": 1_000},
    }


class Service:
    """The loop on `ClickUsers`, compiled once for all arms and settings."""

    def __init__(self, rounds: int):
        self.world = ClickUsers(horizon=rounds + 1)
        environment = self.world.environment()

        def one(tables: worlds.Tables, users: jax.Array, seed: jax.Array, told: dict):
            beliefs = arms.prior(tables)
            parts = loop.stages(
                beliefs, tables.noise * jnp.asarray(WIDTHS), delay=told["delay"], longest=50,
                rate=told["rate"], every=told["every"],
            )  # fmt: skip
            free = lambda m, n: m._replace(live=m.working)  # without the test of its errors
            either = lambda m, n: loop.where(told["free"], free(m, n), parts.commit(m, n))
            world = wrappers.flipped(environment, told["flipped"])
            cut = loop.cut(parts._replace(commit=either), told["kept"])
            _, log = loop.run(world, beliefs, cut, users, jax.random.fold_in(KEY, seed), rounds)
            return log.info["expected"], log.info["best"], log.info["strategy"]

        self.run = jax.jit(one)

    def people(self, seed: int, count: int) -> jax.Array:
        """New users' weights (B, D)."""
        return jax.vmap(self.world.sample)(jax.random.split(jax.random.key(seed), count))

    def __call__(
        self, tables: worlds.Tables, users: jax.Array, seed: int, play: Play, knobs: tuple
    ):
        """Expected rewards (T, B), the best possible, and the shares of the widths (T, W)."""
        rate, every = knobs
        told = {
            "kept": jnp.asarray(play.kept), "delay": jnp.asarray(play.delay),
            "flipped": jnp.asarray(play.flipped), "rate": jnp.asarray(rate),
            "every": jnp.asarray(play.every or every), "free": jnp.asarray(play.every > 0),
        }  # fmt: skip
        return jax.tree.map(np.asarray, self.run(tables, users, jnp.asarray(seed), told))


KEY = jax.random.key(11)
"""Of every stream; a seed is folded in."""


def latency(service: Service, tables: worlds.Tables, users: jax.Array, rounds: int) -> dict:
    """Microseconds of a round, for all users at once, and for one alone."""
    found = {}
    for count in (len(users), 1):
        some = users[:count]
        service(tables, some, 0, Play(), TRIALS[0])
        began = time.perf_counter()
        service(tables, some, 0, Play(), TRIALS[0])
        found[str(count)] = 1e6 * (time.perf_counter() - began) / rounds
    return found


def measured(config: Config) -> records.Record:
    """Chooses rate and commits on validation users, runs every arm, writes the record."""
    began = time.perf_counter()
    service = Service(config.rounds)
    devices = config.hardware.devices
    past = lambda seed: worlds.clicks(config.past, 30, 1, 30, devices).learn(seed)
    valid, taught = service.people(100, config.users), past(100)
    scores = []
    with progress.bar("tuning", len(TRIALS)) as update:
        for knobs in TRIALS:
            scores.append(float(service(taught, valid, 100, Play(), knobs)[0].mean()))
            update(len(scores), {"reward": scores[-1]})
    knobs = TRIALS[int(np.argmax(scores))]
    waits = latency(service, taught, valid, config.rounds)
    progress.say(f"settings chosen: rate {knobs[0]}, commits every {knobs[1]} rounds")
    people = [service.people(200 + s, config.users) for s in range(config.seeds)]
    tests = ledger.checksum(NAME, people, config.rounds)
    chosen = {"rate": knobs[0], "every": knobs[1], "trials": len(TRIALS)}
    opened = records.open_tests(config, chosen, NAME, tests)
    found = {name: [] for name in (*ARMS, arms.ORACLE)}
    shares: dict[str, list[np.ndarray]] = {name: [] for name in ARMS}
    with progress.bar("test", config.seeds * len(ARMS)) as update:
        for seed, users in enumerate(people):
            tables = past(seed)
            for i, (name, play) in enumerate(ARMS.items()):
                reward, best, share = service(tables, users, seed, play, knobs)
                found[name].append(reward.T)
                shares[name].append(share)
                update(seed * len(ARMS) + i + 1, {"reward": float(reward.mean())})
            found[arms.ORACLE].append(best.T)
    return recorded(config, opened, found, shares, chosen, waits, began)


def recorded(
    config: Config, opened: records.Opening, found: dict[str, list[np.ndarray]],
    shares: dict[str, list[np.ndarray]], chosen: dict[str, Any], waits: dict, began: float,
) -> records.Record:  # fmt: skip
    """The record of rewards (B, T) of each seed and arm, written."""
    kept, curves = {}, {}
    for name, seeds in found.items():
        rows = np.concatenate(seeds)
        put = lambda part, values, n=name: kept.update(
            {records.Key(WORLD, n, part, "reward"): values.mean(axis=1)[None]}
        )
        put(records.ALL, rows)
        put("first 100", rows[:, :100])
        put("last quarter", rows[:, -(config.rounds // 4) :])
        cut = rows[:, : rows.shape[1] // STRETCH * STRETCH]
        stretches = cut.reshape(len(rows), -1, STRETCH).mean(axis=(0, 2))
        curves[name] = np.round(stretches, 4).tolist()
    roles = dict.fromkeys(ARMS, records.CONTROL) | dict.fromkeys(CUTS, records.ABLATION)
    roles |= {WHOLE: records.METHOD, arms.ORACLE: records.BASELINE}
    last = {n: np.round(np.mean([s[-1] for s in each], axis=0), 3).tolist()
            for n, each in shares.items()}  # fmt: skip
    return benchmark.kept(
        NAME, NAME, config, records.arms_of(found, roles=roles, settings={WHOLE: chosen}), kept,
        began=began, opened=(opened,),
        extra={"curves": curves, "latency_us": waits, "widths": WIDTHS, "strategy": last},
    )  # fmt: skip


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the table and saves rewards over rounds."""
    get = lambda arm, part: record.of(WORLD, arm, part, "reward")
    people = get(WHOLE, records.ALL).shape[1]
    title = f"mean chance of a click in a round, {people} new users; paired by user"
    widths = ", ".join(f"{w:g}" for w in record.extra["widths"])
    heads = ("arm", "first 100", "all rounds", "last quarter", f"all: {WHOLE} minus it")
    rows = []
    for arm in record.arms:
        parts = ("first 100", records.ALL, "last quarter")
        gap = records.difference(get(WHOLE, records.ALL), get(arm.name, records.ALL))
        shares = record.extra["strategy"].get(arm.name, [])
        rows.append([
            arm.name, *(f"{get(arm.name, p).mean():.4f}" for p in parts),
            "" if arm.name == WHOLE else f"{gap:+.4f}",
            ", ".join(f"{s:.2f}" for s in shares),
        ])  # fmt: skip
    waits = record.extra["latency_us"].items()
    told = "; ".join(f"{v:.0f} us a round of {n} user(s)" for n, v in waits)
    heads = (*heads, f"share of widths {widths}")
    tables.terminal(tables.Grid(title, heads, rows, notes=[told]))
    names = [n for n in record.extra["curves"] if n != "no feedback"]  # as without learning
    with plots.page(folder / "rounds.png", 3.2) as axes:
        for i, name in enumerate(names):
            values = record.extra["curves"][name]
            x = STRETCH * (1 + np.arange(len(values)))
            axes.plot(x, values, label=name, markevery=4, **plots.look(i))
        plots.finish(axes, "round", "chance of a click", len(names))


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and its picture."""
    return benchmark.shown(NAME, config, measured, report)


if __name__ == "__main__":
    benchmark.cli(main, Config)
