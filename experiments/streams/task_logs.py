"""Real timelines as tasks: new users, users who return, and what is remembered of them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.benchmark import belief
from metajax.data.sources import named
from metajax.evaluation import evaluate, ordinal
from metajax.models.towers import vector_mlp
from metajax.online import events, scores, tasks, timelines, warm
from metajax.online.tasks import Schedule, Tasks
from metajax.results import ledger, records
from metajax.training import progress
from metajax.types import Episode, UserError

from . import believed, show, task_arms
from .play import Player, best_rate
from .task_arms import BASE, Sizes

NEW, OLD, BACK = "new users", "returning users", "new users, asked again at the end"
ITEM_MEAN = 1
"""The column of `metajax.online.warm.columns` with the item's mean so far."""
BLOCK = 32


class Log:
    """The tasks of a log, and where its warm-up ends.

    Ratings are told to the learners in standard deviations of the warm-up around its mean, so that
    rates mean the same on every scale; ``unit`` is that deviation, 1 where the log tells clicks.
    ``levels`` (L,) are the ratings of the warm-up, None for clicks.

    Raises:
      UserError: the log has no sound times, or too few tasks for a warm-up.
    """

    def __init__(self, config: Any):
        stream = timelines.load(config.data.dataset, config.data.data_dir)
        self.implicit = timelines.is_implicit(stream)
        if config.most_events:
            stream = stream.part(0, config.most_events)
        if self.implicit:
            stream = events.with_drawn(stream, 0)
        self.tasks = tasks.cut(
            stream, config.num_support, config.num_query, first=config.first,
            most=config.tasks_of_user,
        )  # fmt: skip
        self.num_warm = int(len(self.tasks) * config.warm_up)
        if self.num_warm < 30 or len(self.tasks) - self.num_warm < 30:
            raise UserError(
                f"{stream.name}: {len(self.tasks)} tasks are too few for a warm-up of "
                f"{config.warm_up:g} of them; give a longer log or a smaller --num-query"
            )
        place = int(self.tasks.asked[self.num_warm])
        early = stream.label[:place]
        self.early, self.mean = early, float(early.mean())
        self.levels = None if self.implicit else belief.levels_in(early, stream.scale)
        self.stream, self.unit = stream, 1.0 if self.implicit else max(float(early.std()), 1e-6)
        label = ((stream.label - early.mean()) / self.unit).astype(np.float32)
        columns = warm.columns(dataclasses.replace(stream, label=label), place, 8)
        self.episodes = tasks.episodes(self.tasks, columns, label)

    def stars(self, found: Episode) -> tuple[np.ndarray, np.ndarray]:
        """Labels and masks (T, Q) of the tasks' queries, in the unit of the log."""
        label, mask = np.asarray(found.query.label), np.asarray(found.query.mask)
        return self.unit * label + self.mean, mask

    def part(self, start: int, stop: int, size: int) -> tuple[Tasks, Schedule, Any]:
        """Tasks [start, stop) with their schedule and rounds."""
        chosen = self.tasks.part(np.arange(start, stop))
        schedule = tasks.scheduled(chosen, size)
        tasks.check_order(chosen, schedule)
        own = jax.tree.map(lambda x: x[start:stop], self.episodes)
        return chosen, schedule, tasks.rounds(own, schedule)


def losses(answers: np.ndarray, found: Episode, unit: float) -> dict[str, np.ndarray]:
    """Mean losses (T,) of the tasks' queries, in the unit of the log; answers (T, Q).

    An answer that is no number counts as infinitely wrong.
    """
    label, mask = np.asarray(found.query.label), np.asarray(found.query.mask)
    count = np.maximum(mask.sum(axis=1), 1)
    gap = np.where(mask > 0, unit * (answers - label), 0.0)
    gap = np.where(np.isfinite(gap), gap, np.inf)
    return {
        "mse": (gap**2).sum(axis=1) / count,
        "mae": np.abs(gap).sum(axis=1) / count,
    }


def ranked(answers: np.ndarray, found: Episode) -> np.ndarray:
    """nDCG@5 (T,) of the tasks' queries, whose labels are graded 1 to 5; answers (T, Q).

    Answers to a task of which one is no number count as nothing found.
    """
    judged = jax.jit(evaluate.rating_metrics)(answers, found, jax.random.key(0))["ndcg@5"]
    broken = ((found.query.mask > 0) & ~np.isfinite(answers)).any(axis=1)
    return np.where(broken, 0.0, judged)


def measured(
    log: "Log", answers: np.ndarray, found: Episode, link: ordinal.Link | None = None
) -> dict[str, np.ndarray]:
    """Metric -> its values (T,) of the tasks, the first of which leads.

    Squared error, nDCG@5 and absolute error of ratings, with a link what it tells of them, too; of
    clicks, told by 0 and 1 and asked beside items that were drawn, the squared error alone, which
    is the Brier score.
    """
    loss = losses(answers, found, log.unit)
    if log.implicit:
        return {"brier": loss["mse"]}
    told = {"mse": loss["mse"], "ndcg@5": ranked(answers, found), "mae": loss["mae"]}
    return told if link is None else told | believed.proper(link, answers, *log.stars(found))


class Bench:
    """The arms on one log."""

    def __init__(self, log: Log, config: Any, sizes: Sizes):
        self.log, self.sizes = log, sizes
        self.learners = task_arms.learners(vector_mlp((config.hidden,)), sizes)
        self.arms = task_arms.arms(self.learners, sizes)
        self.task = jax.tree.map(lambda x: x[0], log.episodes)
        self.players = {
            name: Player(name, task_arms.online(arm, self.learners[arm.kind], self.task), BLOCK)
            for name, arm in self.arms.items()
        }
        self.players[BASE] = Player(
            BASE, lambda rate, given: task_arms.means_so_far(ITEM_MEAN), BLOCK
        )
        self.trainers = {
            kind: task_arms.Trainer(
                learner, config.train_steps, sizes.batch, config.hardware.devices
            )
            for kind, learner in self.learners.items()
        }
        self.inner = 0.05
        self.taught: dict[tuple[int, int], dict[str, Any]] = {}

    def starts(self, count: int, seed: int) -> dict[str, Any]:
        """What the first ``count`` tasks teach each learner, once for a seed."""
        if (count, seed) not in self.taught:
            known = jax.tree.map(lambda x: x[: self.log.num_warm], self.log.episodes)
            found = {kind: train(known, count, seed) for kind, train in self.trainers.items()}
            self.taught[count, seed] = found
        return self.taught[count, seed]

    def start(self, name: str, starts: dict[str, Any], seed: int) -> Any:
        """Where an arm begins."""
        if name == BASE:
            return ()
        arm = self.arms[name]
        if name == task_arms.SCRATCH:
            return self.learners[arm.kind].init(jax.random.key(seed), self.task)
        given = starts[arm.kind]
        return task_arms.inner_rate(given, self.inner) if arm.kind == task_arms.JOINT else given

    def answers(self, name: str, starts: dict, rate: float, seed: int, part: tuple, state=None):
        """Answers (T, Q) to the tasks of a part, and how it was played."""
        chosen, schedule, rounds = part
        played = self.players[name](rate, self.start(name, starts, seed), rounds, state)
        out = np.zeros((len(chosen), rounds.label.shape[2]))
        place = np.nonzero(np.asarray(rounds.mask) > 0)
        out[schedule.asked[place[0], place[1]], place[2]] = played.scores
        return out, played

    def held_out(self) -> tuple[int, tuple, Episode]:
        """The last third of the warm-up: its first task, its part and its episodes."""
        log, early = self.log, self.log.num_warm * 2 // 3
        found = jax.tree.map(lambda x: x[early : log.num_warm], log.episodes)
        return early, log.part(early, log.num_warm, self.sizes.batch), found

    def links(self, settings: dict[str, dict[str, Any]], seed: int) -> dict[str, ordinal.Link]:
        """Arm -> its link to ratings, on the tasks that chose rates; empty where there are none."""
        levels, (early, part, found) = self.log.levels, self.held_out()
        if levels is None:
            return {}
        starts = self.starts(early, seed)
        answers = lambda name: self.answers(name, starts, settings[name]["rate"], seed, part)[0]
        told = self.log.stars(found)
        return {name: believed.link(answers(name), *told, levels) for name in settings}

    def choose(self) -> dict[str, dict[str, Any]]:
        """Rates, by the last third of the warm-up, from what the rest of it teaches."""
        log, (early, part, found) = self.log, self.held_out()
        starts = self.starts(early, 0)

        def loss(name: str, rate: float) -> float:
            answers, _ = self.answers(name, starts, rate, 0, part)
            return float(losses(answers, found, log.unit)["mse"].mean())

        def fine_tuned(rate: float) -> float:
            self.inner = rate
            return loss(task_arms.PLAIN_FROZEN, 0.0)

        self.inner, _ = best_rate((0.01, 0.03, 0.1), fine_tuned)
        settings = {}
        for name, arm in self.arms.items():
            rate, tried = best_rate(arm.rates, lambda r, n=name: loss(n, r))
            settings[name] = {"rate": rate, "valid_mse": tried, "fine_tuning": self.inner}
            progress.say(f"{name}: rate {rate:g}")
        return settings | {BASE: {"rate": 0.0}}


def by_user(values: np.ndarray, found: Tasks, chosen: np.ndarray, num_users: int) -> np.ndarray:
    """Means (U,) over the chosen tasks of each user; NaN for users without any."""
    total = np.bincount(found.user[chosen], values[chosen], num_users)
    count = np.bincount(found.user[chosen], minlength=num_users)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def run(config: Any, sizes: Sizes) -> dict[str, Any]:
    """The parts of the record of a log."""
    log = Log(config)
    bench = Bench(log, config, sizes)
    settings = bench.choose()
    start, stop = log.num_warm, len(log.tasks)
    part = log.part(start, stop, sizes.batch)
    found, test = part[0], jax.tree.map(lambda x: x[start:stop], log.episodes)
    tests = ledger.checksum("online_meta", found.query, log.stream.label)
    rates = {name: told["rate"] for name, told in settings.items()}
    links = [bench.links(settings, seed) for seed in range(config.seeds)]
    opened = records.open_tests(config, rates, "online_meta", tests)
    firsts = np.flatnonzero(found.nth == 0)
    again = log.part(start, stop, sizes.batch)
    users = log.stream.num_users
    groups = {records.ALL: found.nth >= 0, NEW: found.nth == 0, OLD: found.nth > 0}
    name = named.short_name(config.data.dataset)
    kept: dict[records.Key, list[np.ndarray]] = {}
    curves: dict[str, list[np.ndarray]] = {}
    for seed in range(config.seeds):
        starts = bench.starts(log.num_warm, seed)
        for arm in [*bench.arms, BASE]:
            rate = settings[arm]["rate"]
            answers, played = bench.answers(arm, starts, rate, seed, part)
            own = measured(log, answers, test, links[seed].get(arm))
            late = _frozen_answers(bench, arm, rate, played.state, again, starts, seed)
            for metric, values in own.items():
                for group, chosen in groups.items():
                    key = records.Key(name, arm, group, metric)
                    kept.setdefault(key, []).append(by_user(values, found, chosen, users))
            for metric, back in measured(log, late, test).items():
                key = records.Key(name, arm, BACK, metric)
                kept.setdefault(key, []).append(by_user(back, found, groups[NEW], users))
            lead = next(iter(own.values()))
            curves.setdefault(arm, []).append(scores.over_time(lead, 40))
            settings[arm]["ms_per_task"] = 1e3 * played.seconds / len(found)
            settings[arm]["gradients"] = task_arms.gradients(arm, sizes)
            settings[arm]["bytes"] = task_arms.size_of(played.state)
            progress.say(f"{arm}: {lead.mean():.4f}")
    there = np.flatnonzero(np.bincount(found.user, minlength=users) > 0)
    edges = np.linspace(0, len(found) - 1, 41).astype(int)[1:]
    arms = [*bench.arms, BASE]
    count = lambda chosen: np.bincount(found.user[chosen], minlength=users)[there].tolist()
    return {
        "arms": records.arms_of(
            arms, roles={arm: task_arms.ROLES.get(arm, records.METHOD) for arm in arms},
            settings=settings, bytes_per_task={arm: settings[arm]["bytes"] for arm in arms},
        ),
        "scores": {key: np.stack(rows)[:, there] for key, rows in kept.items()},
        "scenario": name, "opened": opened,
        "data": records.Data(name, "", users, log.stream.num_items, len(log.stream)),
        "extra": {
            **belief.facts(log.levels, log.early, 1.0),
            show.EVENTS_OF: {group: count(chosen) for group, chosen in groups.items()}
            | {BACK: count(groups[NEW])},
            "curves": {arm: np.mean(rows, axis=0).tolist() for arm, rows in curves.items()},
            "times": log.stream.time[found.asked][edges].tolist(),
            "tasks": [log.num_warm, len(found), len(firsts)], "untold": part[1].left,
        },
    }  # fmt: skip


def _frozen_answers(
    bench: Bench, name: str, rate: float, state: Any, part: tuple, starts: dict, seed: int
) -> np.ndarray:
    """Answers to the tasks of the stream by the state that its end has left, learning nothing."""
    chosen, schedule, rounds = part
    if name != BASE:
        told = rounds.told
        rounds = rounds._replace(told=told._replace(mask=jnp.zeros_like(told.mask)))
    return bench.answers(name, starts, rate, seed, (chosen, schedule, rounds), state)[0]
