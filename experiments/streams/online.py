"""Events in time: does learning online beat the frozen model and the periodic retrain?

A log is played in order of time. Its first half is a warm-up, whose second half chooses rates; then
every event is predicted first and learned from afterwards. All factor models begin with the same
tables. Losses are means over events, and intervals resample users with all their events. The
fitness F is each user's loss divided by that of biases learned online; printed are its geometric
mean and the share of users below 1. An ordinal link gives every arm a distribution over ratings: it
is fitted, for each seed, to what the arm predicts of the half of the warm-up that chooses rates.

References: McMahan et al., KDD 2013; Duchi et al., JMLR 2011; Gama et al., 2013; Kalman, 1960.
Run: python -m experiments online --dataset ml-100k
     python -m experiments online --dataset ml-100k --from-records prints the stored table.
     python -m experiments online --peer  plays river's factorizations beside ours.
Published: none under this protocol.
Deviates: in a log without ratings, each event has one randomly drawn item beside it, of label 0.
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from metajax import benchmark
from metajax.benchmark import belief
from metajax.data.sources import named
from metajax.evaluation import ordinal
from metajax.online import events, scores, timelines
from metajax.results import ledger, records, tables
from metajax.settings import Data, Output, Positive, Presets, Share
from metajax.training import progress

from . import arms, peer, show
from .play import Played


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data("ml-100k")
    warm_up: Share = 0.5
    """Share of the events before the test."""
    dim: Positive = 8
    """Factors of users and items."""
    passes: Positive = 4
    """Passes over the warm-up, and over the window of a retrain."""
    seeds: Positive = 3
    """Number of seeds, which draw the tables' first values."""
    most_events: int = 0
    """Events of the log that are played, from the first on; 0 is all."""
    peer: bool = False
    """Play river beside ours instead, on the same events; needs metajax[peers]."""

    PRESETS: ClassVar[Presets] = {"quick": {"seeds": 1, "passes": 2, "most_events": 20_000}}


def plan_of(config: Config, shuffle: bool = False) -> arms.Plan:
    """The stream, its warm-up and the sizes.

    Raises:
      UserError: the log has no sound times, or is shorter than its warm-up.
    """
    stream = timelines.load(config.data.dataset, config.data.data_dir)
    implicit = timelines.is_implicit(stream)
    if config.most_events:
        stream = stream.part(0, config.most_events)
    stream = events.with_drawn(stream, 0) if implicit else stream
    stream = events.shuffled(stream, 0) if shuffle else stream
    return arms.Plan(
        stream, events.warm_up(stream, config.warm_up), config.dim, config.passes, implicit
    )


class Bench:
    """All arms on one stream: warmed up, tuned, then played over the test.

    Args:
      plan: the stream; shuffled: the same events out of time.
    """

    def __init__(self, plan: arms.Plan, seeds: int):
        self.plan, self.seeds = plan, seeds
        self.trainer = arms.trainer(plan)
        self.size = {name: k for k, name in arms.EVERY.items()}
        self.settings: dict[str, dict[str, Any]] = {}
        self.begins: dict[int, list[arms.Warm]] = {}
        self.start = 0
        self.links: dict[str, list[ordinal.Link]] = {}

    def players(self) -> dict[str, tuple[arms.Player, tuple[float, ...], int]]:
        """Arm -> its player, its rates and the factors of its tables."""
        found, made = {}, arms.makes(self.plan)
        for name, (make, rates) in made.items():
            found[name] = (arms.Player(name, make, arms.BLOCK_EVENTS), rates, self.plan.dim)
        adagrad, rates = made[arms.ADAGRAD]
        found[arms.BIASES] = (arms.Player("biases", adagrad, arms.BLOCK_EVENTS), rates, 0)
        forgets = (0.0, 0.01, 0.05)
        ridge = arms.Player(arms.RIDGE, arms.ridge(self.plan), arms.BLOCK_EVENTS)
        found[arms.RIDGE] = (ridge, forgets, self.plan.dim)
        for name, k in self.size.items():
            block = max(arms.BLOCK_EVENTS // k, 1)
            found[name] = (arms.Player(name, adagrad, block), rates, self.plan.dim)
        return found

    def choose(self, players: dict) -> None:
        """Rates, each by the events of the second half of the warm-up."""
        half = self.plan.num_warm // 2
        for dim in (self.plan.dim, 0):
            first = arms.first_tables(self.plan, 0, dim, half)
            self.begins[dim] = [arms.batched(self.plan, self.trainer, first, half)]
        for name, (player, rates, dim) in players.items():
            begin = self.begins[dim][0]
            if name == arms.RIDGE:
                rate, tried = self._ridge_rate(player, rates, begin, half)
            else:
                rate, tried = arms.tuned(
                    self.plan, player, rates, begin, self.size.get(name, 1)
                )  # fmt: skip
            self.settings[name] = {"rate": rate, "valid_mse": tried, "trials": len(rates)}
            progress.say(f"{name}: rate {rate:g}")

    def _ridge_rate(self, player: arms.Player, rates: tuple, begin: arms.Warm, half: int):
        label = self.plan.events.label[half : self.plan.num_warm]

        def loss(rate: float) -> float:
            state = player(rate, begin, self.plan.stretch(0, half)).state
            played = player(rate, begin, self.plan.stretch(half, self.plan.num_warm), state)
            return float(np.mean((played.scores - label) ** 2))

        return arms.best_rate(rates, loss)

    def warm(self, stop: int) -> None:
        """Tables of the events before ``stop``, a set for each seed; biases alone have no seed."""
        self.start = stop
        for dim, seeds in ((self.plan.dim, self.seeds), (0, 1)):
            self.begins[dim] = [
                arms.batched(
                    self.plan, self.trainer, arms.first_tables(self.plan, seed, dim, stop), stop
                )
                for seed in range(seeds)
            ]

    def played(
        self, name: str, player: arms.Player, dim: int, stop: int
    ) -> Iterator[tuple[int, Played]]:
        """(seed, how an arm plays the events before ``stop``), from where its tables end."""
        plan, start, rate = self.plan, self.start, self.settings[name]["rate"]
        part = plan.stretch(start, stop, self.size.get(name, 1))
        for seed, begin in enumerate(self.begins[dim]):
            state = None
            if name == arms.RIDGE:
                state = player(rate, begin, plan.stretch(0, start)).state
            if name == arms.RETRAIN:
                begin = arms.first_tables(plan, seed, dim, start)
                window = plan.num_warm - plan.num_warm // 2
                before = plan.stretch(max(start - window, 0), start)
                state = player(rate, begin, before).state
            yield seed, player(rate, begin, part, state)

    def believe(self, players: dict, levels: np.ndarray) -> None:
        """Links to the ratings (L,) of every arm and seed, on the events that chose the rates."""
        self.warm(self.plan.num_warm // 2)
        for name, (player, _, dim) in players.items():
            self.links[name] = [
                arms.link(self.plan, played, self.start, levels)
                for _, played in self.played(name, player, dim, self.plan.num_warm)
            ]

    def play(self, name: str, player: arms.Player, dim: int) -> dict[str, np.ndarray]:
        """Losses (S, n) of the events of the test, by metric; costs go to the settings."""
        plan, out, seconds, told = self.plan, [], 0.0, self.settings[name]
        count = len(plan.events) - plan.num_warm
        for seed, played in self.played(name, player, dim, len(plan.events)):
            link = self.links[name][seed] if name in self.links else None
            out.append(arms.losses(plan, played, plan.num_warm, link))
            seconds += played.seconds
        told["us_per_event"] = 1e6 * seconds / count / len(out)
        told["gradients_per_event"] = gradients(name, plan)
        return {metric: np.stack([one[metric] for one in out]) for metric in out[0]}


def gradients(name: str, plan: arms.Plan) -> float:
    """Gradients of an event's loss that an arm takes for each event of the test."""
    if name in (arms.FROZEN, arms.RIDGE):
        return 0.0
    if name == arms.RETRAIN:
        count = len(plan.events) - plan.num_warm
        return 10 * plan.passes * (plan.num_warm // 2) / count
    return 1.0


def kept(
    scenario: str, plan: arms.Plan, losses: dict[str, dict[str, np.ndarray]]
) -> dict[records.Key, np.ndarray]:
    """Mean losses (S, U) of the users of the test."""
    user, found = plan.events.user[plan.num_warm :], {}
    for arm, by_metric in losses.items():
        for metric, values in by_metric.items():
            one = [scores.by_user(row, user) for row in values]
            key = records.Key(scenario, arm, records.ALL, metric)
            found[key] = np.stack([x.total / x.count for x in one])
    return found


def counts(plan: arms.Plan) -> list[int]:
    """The events of each user of the test."""
    user = plan.events.user[plan.num_warm :]
    return scores.by_user(np.ones(len(user)), user).count.astype(int).tolist()


def out_of_time(config: Config, bench: Bench, players: dict) -> tuple[arms.Plan, dict]:
    """The control: the same events with their times shuffled, played with the same settings."""
    mixed = Bench(plan_of(config, shuffle=True), 1)
    mixed.trainer = bench.trainer
    mixed.settings = {arm: dict(told) for arm, told in bench.settings.items()}
    mixed.warm(mixed.plan.num_warm)
    chosen = (arms.FROZEN, arms.ADAGRAD)
    return mixed.plan, {arm: mixed.play(arm, *players[arm][::2]) for arm in chosen}


def measured(config: Config) -> records.Record:
    """Runs all arms and the control, and writes the record."""
    began = time.perf_counter()
    plan, name = plan_of(config), named.short_name(config.data.dataset)
    stream, start = plan.events, plan.num_warm
    bench = Bench(plan, config.seeds)
    players = bench.players()
    bench.choose(players)
    levels = None if plan.implicit else belief.levels_in(stream.label[:start], stream.scale)
    if levels is not None:
        bench.believe(players, levels)
    test = (stream.user[start:], stream.item[start:], stream.label[start:])
    tests, choices = (
        ledger.checksum("online", *test),
        {a: t["rate"] for a, t in bench.settings.items()},
    )
    opened = records.open_tests(config, choices, "online", tests)
    bench.warm(start)
    losses = {}
    for arm, (player, _, dim) in players.items():
        losses[arm] = bench.play(arm, player, dim)
        progress.say(f"{arm}: {next(iter(losses[arm].values())).mean():.4f}")
    mixed, control = out_of_time(config, bench, players)
    first = lambda arm: next(iter(losses[arm].values()))
    edges = np.linspace(0, len(stream) - start - 1, 41).astype(int)[1:]
    roles = dict.fromkeys(losses, records.METHOD)
    roles |= dict.fromkeys((arms.FROZEN, arms.BIASES, arms.RETRAIN), records.BASELINE)
    return benchmark.kept(
        f"online-{name}", "online", config,
        records.arms_of(losses, roles=roles, settings=bench.settings),
        kept(name, plan, losses) | kept(f"{name}{show.SHUFFLED}", mixed, control),
        began=began, scenario=name, opened=(opened,),
        data=records.Data(name, "", stream.num_users, stream.num_items, len(stream)),
        extra={
            **belief.facts(levels, stream.label[:start], 1.0),
            show.EVENTS_OF: counts(plan), f"{show.EVENTS_OF}{show.SHUFFLED}": counts(mixed),
            "curves": {arm: scores.over_time(first(arm).mean(axis=0)).tolist() for arm in losses},
            "times": stream.time[start:][edges].tolist(), "ties": stream.ties,
            "new": [_new(stream.user, start), _new(stream.item, start)],
        },
    )  # fmt: skip


def _new(index: np.ndarray, start: int) -> float:
    """The share of the test's events whose user, or item, the warm-up has not."""
    return float(np.mean(~np.isin(index[start:], index[:start])))


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the table and saves the pictures."""
    shown = [m for m in show.measures(record) if m != "brier"]
    for metric in shown:
        show.table(record, metric, arms.FROZEN, arms.BIASES)
    show.distributions(record)
    if "mae" in shown:
        print("An event is one rating: it is no list, which nDCG@5 could judge.")
    metric, curve = shown[0], shown[-1]  # curves are of the absolute error, or of the log-loss
    new, ties = record.extra["new"], record.extra["ties"]
    print(f"events of new users {new[0]:.0%}, of new items {new[1]:.0%}; {ties:,} tied in time")
    for scenario in (record.scenario, f"{record.scenario}{show.SHUFFLED}"):
        gain = show.difference(record, arms.FROZEN, arms.ADAGRAD, metric, scenario)
        what = tables.of_differences(metric)
        print(f"{scenario}: AdaGrad gains {show.interval(gain)} over frozen in {what}")
    main_arms = [arms.OGD, arms.ADAGRAD, arms.FTRL, arms.RIDGE, arms.RETRAIN, arms.BIASES]
    show.over_time(
        record, folder / "over-time.png", main_arms, f"{curve} minus frozen", arms.FROZEN
    )
    show.pareto(record, folder / "pareto.png", metric)


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and its pictures."""
    if config.peer:
        return peer.main(config)
    name = f"online-{named.short_name(config.data.dataset)}"
    return benchmark.shown(name, config, measured, report)


if __name__ == "__main__":
    benchmark.cli(main, Config)
