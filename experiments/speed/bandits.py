"""Decisions for many users: ridge Thompson sampling, beside mabwiser and a gymnasium loop.

All serve users of `ClickUsers` for 50 rounds: 20 items of 8 numbers on offer, one is shown, the
click is learned from. Here that is one program, users side by side. mabwiser has one ``MAB`` for a
user, whose 20 arms have a ridge regression each on 8 numbers (its ``LinTS``: arms do not share what
is learned, so that its clicks cannot be compared, only its time); gymnasium has one
environment for a user, and the policy is NumPy: the same posterior as here, by Sherman and
Morrison's formula. Both run on fewer users, since their cost grows with the number of users alone.
"""

import importlib.util
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from metajax.decide import policies
from metajax.decide.click_users import ClickUsers
from metajax.decide.environment import play
from metajax.results import plots, records, tables
from metajax.training import journal, progress
from metajax.types import UserError

NAME = "speed-bandits"
ROUNDS = 50
WIDTH = 0.5
USERS, TOGETHER = 100_000, 5_000
OURS, LOGGED = "metajax", "metajax, propensities of 32 draws"
MABWISER, GYMNASIUM = "mabwiser", "gymnasium loop"


class Timed(NamedTuple):
    """One way: users served, seconds by the clock and of processors, the mean chance of a click."""

    users: int
    seconds: float
    cpu: float
    reward: float
    compiling: float = 0.0


def ours(users: int, draws: int, together: int = TOGETHER) -> Timed:
    """Thompson sampling of this library, ``together`` users at a time."""
    world = ClickUsers(horizon=ROUNDS)
    policy = policies.linear_thompson(lambda s: s.inputs["vector"], world.dim, WIDTH, draws=draws)
    environment = world.environment()

    def one(key: jax.Array):
        key_user, key_play = jax.random.split(key)
        log = play(environment, policy, world.sample(key_user), key_play, ROUNDS)
        return log.info["expected"].mean(), log.action, log.propensity

    run = jax.jit(jax.vmap(one))
    together = min(together, users)
    keys = lambda i: jax.random.split(jax.random.key(i), together)
    began = time.perf_counter()
    jax.block_until_ready(run(keys(0)))
    first, cpu = time.perf_counter(), time.process_time()
    found = []
    with progress.bar("metajax", users // together) as update:
        for i in range(users // together):
            found.append(float(run(keys(i))[0].mean()))
            update(i + 1, {})
    seconds = time.perf_counter() - first
    cpu = time.process_time() - cpu
    compiling = first - began - seconds * together / users
    return Timed(users // together * together, seconds, cpu, float(np.mean(found)), compiling)


class Numpy(NamedTuple):
    """The world in NumPy: the catalogue (V, D) and a user's weights (D,)."""

    world: ClickUsers
    vectors: np.ndarray
    weights: np.ndarray

    def offered(self, rng: np.random.Generator) -> np.ndarray:
        """The vectors (A, D) on offer."""
        items = rng.choice(self.world.num_items, self.world.candidates, replace=False)
        return self.vectors[items]

    def chance(self, vector: np.ndarray) -> float:
        """The probability of a click."""
        logit = self.world.bias + self.world.strength * vector @ self.weights
        return float(1 / (1 + np.exp(-logit)))


def users_of(count: int) -> list[Numpy]:
    """Users in NumPy."""
    world = ClickUsers(horizon=ROUNDS)
    keys = jax.random.split(jax.random.key(0), count)
    weights = np.asarray(jax.vmap(world.sample)(keys), float)
    return [Numpy(world, np.asarray(world.vectors, float), w) for w in weights]


def gymnasium_loop(count: int) -> Timed:
    """A gymnasium environment and a NumPy policy for each user, one after the other."""
    import gymnasium  # pyright: ignore[reportMissingImports]

    class Clicks(gymnasium.Env):
        """The world of one user."""

        def __init__(self, user: Numpy):
            low, shape = -np.inf, (user.world.candidates, user.world.dim)
            self.observation_space = gymnasium.spaces.Box(low, np.inf, shape, np.float64)
            self.action_space = gymnasium.spaces.Discrete(user.world.candidates)
            self.user = user

        def reset(self, *, seed: int | None = None, options: Any = None):
            super().reset(seed=seed)
            self.round, self.offer = 0, self.user.offered(self.np_random)
            return self.offer, {}

        def step(self, action: int):
            chance = self.user.chance(self.offer[action])
            reward = float(self.np_random.random() < chance)
            self.round, self.offer = self.round + 1, self.user.offered(self.np_random)
            return self.offer, reward, self.round >= ROUNDS, False, {"expected": chance}

    rng, found = np.random.default_rng(0), []
    people = users_of(count)
    began, cpu = time.perf_counter(), time.process_time()
    for number, user in enumerate(people):
        env = Clicks(user)
        seen, _ = env.reset(seed=number)
        covariance, moment = np.eye(user.world.dim), np.zeros(user.world.dim)
        done = False
        while not done:
            noise = np.linalg.cholesky(covariance) @ rng.standard_normal(user.world.dim)
            action = int(np.argmax(seen @ (covariance @ moment + WIDTH * noise)))
            x = seen[action]
            seen, reward, done, _, info = env.step(action)
            along = covariance @ x
            covariance -= np.outer(along, along) / (1 + x @ along)
            moment += reward * x
            found.append(info["expected"])
    seconds = time.perf_counter() - began
    return Timed(count, seconds, time.process_time() - cpu, float(np.mean(found)))


def mabwiser_loop(count: int) -> Timed:
    """One ``MAB`` with ``LinTS`` for each user; the context is the mean of the offer."""
    from mabwiser.mab import MAB, LearningPolicy  # pyright: ignore[reportMissingImports]

    rng, found = np.random.default_rng(0), []
    people = users_of(count)
    began, cpu = time.perf_counter(), time.process_time()
    for number, user in enumerate(people):
        arms = list(range(user.world.candidates))
        policy = LearningPolicy.LinTS(alpha=WIDTH, l2_lambda=1.0)
        mab = MAB(arms, policy, seed=number)
        for r in range(ROUNDS):
            offer = user.offered(rng)
            context = offer.mean(axis=0)[None]
            action = int(rng.integers(len(arms))) if r == 0 else mab.predict(context)
            chance = user.chance(offer[action])
            learn: Callable = mab.partial_fit if r else mab.fit
            learn([action], [int(rng.random() < chance)], context)
            found.append(chance)
    seconds = time.perf_counter() - began
    return Timed(count, seconds, time.process_time() - cpu, float(np.mean(found)))


def missing() -> None:
    """Refuses to begin without the packages on the other side.

    Raises:
      UserError: one of them is not installed.
    """
    for package in ("mabwiser", "gymnasium"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed: pip install metajax[decide]")


def run(config: Any) -> records.Record:
    """Times all ways in this process, and stores the record."""
    missing()
    users, few = (5_000, 5) if config.quick else (USERS, 40)
    ways = {
        OURS: lambda: ours(users, 1),
        LOGGED: lambda: ours(users // 5, 32, TOGETHER // 5),
        GYMNASIUM: lambda: gymnasium_loop(5 * few),
        MABWISER: lambda: mabwiser_loop(few),
    }
    rows = []
    for name, way in ways.items():
        timed = way()
        micros = 1e6 * timed.cpu / (timed.users * ROUNDS)
        rows.append({"variant": name, **timed._asdict(), "micros": micros})
        progress.say(f"{name}: {micros:,.1f} us of processor time a decision")
    record = records.made(
        "speed", config, records.arms_of(ways), scenario="bandits", opened=(),
        extra={"rows": rows, "rounds": ROUNDS}, peak_memory=journal.peak_memory(),
    )  # fmt: skip
    records.write(config.output.folder("speed"), NAME, record, config.output.publish)
    return record


def grid(record: records.Record) -> tables.Grid:
    """The table of a record."""
    rows = record.extra["rows"]
    best = rows[0]["micros"]
    heads = ("way", "users", "seconds", "compile s", "us a decision", "metajax is", "chance")
    cells = [
        (
            row["variant"],
            f"{row['users']:,}",
            f"{row['seconds']:.1f}",
            f"{row['compiling']:.1f}" if row["compiling"] else "",
            f"{row['micros']:,.1f}",
            "" if row is rows[0] else f"{row['micros'] / best:,.1f}x as fast",
            f"{row['reward']:.3f}",
        )
        for row in rows
    ]
    title = f"Thompson sampling, {record.extra['rounds']} rounds of each user"
    return tables.Grid(title, heads, cells)


def markdown(record: records.Record) -> str:
    """The section of the page of speed."""
    told = " ".join((__doc__ or "").split("\n\n")[1].split())
    cores = record.environment.num_cpus
    told += (
        f" *seconds* are by the clock, on a machine of {cores} cores; *us a "
        "decision* is processor time, all cores together; *chance* is the mean chance of a click."
    )
    head = f"## Decisions for many users\n\n{told}\n\n"
    return head + tables.markdown(grid(record)) + "\n"


def show(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the table, and saves the times, one bar each, on a logarithmic axis."""
    tables.terminal(grid(record))
    rows = record.extra["rows"]
    with plots.page(folder / f"{NAME}.png", 1.6) as axes:
        axes.barh([r["variant"] for r in rows], [r["micros"] for r in rows], color="#00798c")
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.set_xlabel("microseconds of processor time a decision")
        axes.grid(axis="x", alpha=0.25, linewidth=0.4)
