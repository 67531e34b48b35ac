"""river beside ours: the same events, predicted before they are learned from, on one core."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.benchmark import belief
from metajax.evaluation import ordinal
from metajax.online import factorization as mf
from metajax.online import rows, scores, timelines
from metajax.online.events import Events, rounds
from metajax.results import ledger, records, tables
from metajax.training import journal, progress
from metajax.types import UserError

from . import believed, show
from .play import Player, best_rate

MF, FM = "river BiasedMF", "river FMRegressor"
ADAGRAD, OGD = "AdaGrad", "OGD"
OURS = {
    f"{kind}, every {'event' if size == 1 else size}": (kind, size)
    for kind in (ADAGRAD, OGD)
    for size in (1, 4, 10)
}
RATES = {ADAGRAD: (0.02, 0.08, 0.3), OGD: (0.01, 0.04, 0.1)}
THEIRS = (0.005, 0.02, 0.05)
"""Those of our descent: river's loss is the square, ours its half."""
WARM = 0.1
"""Share of the events that choose rates and are not scored."""
NAME = "online-peer"


def river() -> Any:
    """The package.

    Raises:
      UserError: it is not installed.
    """
    try:
        import river
        import river.facto
        import river.optim
        import river.reco
    except ImportError as error:
        raise UserError("river is not installed; pip install 'metajax[peers]'") from error
    return river


def theirs(name: str, dim: int, rate: float) -> tuple[Callable, Callable]:
    """(predict, learn) of one event (user, item[, label]) by a model of river."""
    peer = river()
    start = peer.optim.initializers.Normal(mu=0.0, sigma=0.1, seed=0)
    sgd = lambda: peer.optim.SGD(rate)
    if name == MF:
        model = peer.reco.BiasedMF(
            n_factors=dim, bias_optimizer=sgd(), latent_optimizer=sgd(),
            weight_initializer=peer.optim.initializers.Zeros(), latent_initializer=start,
            l2_bias=0.02, l2_latent=0.02, seed=0,
        )  # fmt: skip
        return model.predict_one, model.learn_one
    model = peer.facto.FMRegressor(
        n_factors=dim, weight_optimizer=sgd(), latent_optimizer=sgd(), intercept_lr=rate,
        latent_initializer=start, l2_weight=0.02, l2_latent=0.02, seed=0,
    )  # fmt: skip
    told = lambda user, item: {f"u{user}": 1.0, f"i{item}": 1.0}
    return (
        lambda user, item: model.predict_one(told(user, item)),
        lambda user, item, label: model.learn_one(told(user, item), label),
    )


def play_theirs(name: str, dim: int, rate: float, events: Events) -> tuple[np.ndarray, float]:
    """Predictions (n,) and processor seconds."""
    predict, learn = theirs(name, dim, rate)
    user, item, label = (x.tolist() for x in (events.user, events.item, events.label))
    out = []
    began = time.process_time()
    for u, i, y in zip(user, item, label, strict=True):
        out.append(predict(u, i))
        learn(u, i, y)
    return np.array(out), time.process_time() - began


def player(events: Events, dim: int, name: str) -> tuple[Player, Any]:
    """Ours from random tables, around the middle of the scale: nothing is known beforehand."""
    kind, size = OURS[name]
    start = mf.random_tables(jax.random.key(0), events.num_users, events.num_items, dim)
    mean = jnp.asarray(np.mean(events.scale), jnp.float32)
    optimizer = {ADAGRAD: lambda rate: rows.adagrad(rate, 0.1), OGD: rows.ogd}[kind]
    make = lambda rate, given: mf.factorization(optimizer(rate), *given)
    return Player(name, make, 16_384 // size), (start, mean)


Side = Callable[[float, Events], tuple[np.ndarray, float]]
"""(rate, events) -> predictions (n,), each before its event was learned, and processor seconds."""


def sides(stream: Events, dim: int) -> dict[str, tuple[Side, tuple[float, ...]]]:
    """Name -> what plays events, and the rates to choose from."""
    found: dict[str, tuple[Side, tuple[float, ...]]] = {
        name: (lambda rate, some, n=name: play_theirs(n, dim, rate, some), THEIRS)
        for name in (MF, FM)
    }
    for name, (kind, size) in OURS.items():
        play, given = player(stream, dim, name)

        def ours(rate: float, some: Events, play=play, given=given, size=size):
            done = play(rate, given, rounds(some, size))
            return done.scores, done.seconds

        found[name] = (ours, RATES[kind])
    return found


def measured(config: Any) -> records.Record:
    """Plays both sides in one run; rates and links are of the first tenth, before the rest is met.

    Every arm's distribution over ratings is that of the ordinal link of its scores there.
    """
    began = time.perf_counter()
    stream = timelines.load(config.data.dataset, config.data.data_dir)
    if config.most_events:
        stream = stream.part(0, config.most_events)
    num_warm = int(WARM * len(stream))
    first, label, user = stream.part(0, num_warm), stream.label[num_warm:], stream.user[num_warm:]
    clipped = lambda score: np.clip(score, *stream.scale)
    error = lambda score: float(np.mean((clipped(score) - first.label) ** 2))
    levels = ordinal.levels_of(first.label, stream.scale)
    played, settings, links, found = sides(stream, config.dim), {}, {}, {}
    for name, (play, rates) in played.items():
        rate, tried = best_rate(rates, lambda r, p=play: error(p(r, first)[0]))
        settings[name] = {"rate": rate, "valid_mse": tried}
        warm = clipped(play(rate, first)[0])
        links[name] = believed.link(warm, first.label, np.ones(num_warm), levels)
    tests = ledger.checksum(NAME, user, stream.item[num_warm:], label)
    chosen = {name: told["rate"] for name, told in settings.items()}
    opened = records.open_tests(config, chosen, NAME, tests)
    for name, (play, _) in played.items():
        score, seconds = play(chosen[name], stream)
        score = clipped(score)[num_warm:]
        gap, ones = score - label, np.ones((len(label), 1))
        proper = believed.proper(links[name], score[:, None], label[:, None], ones)
        settings[name]["events_per_second"] = len(stream) / seconds
        for metric, values in {"mae": np.abs(gap), "mse": gap**2, **proper}.items():
            one = scores.by_user(values, user)
            key = records.Key(stream.name, name, records.ALL, metric)
            found[key] = (one.total / one.count)[None]
        told = f"{np.abs(gap).mean():.4f}, {settings[name]['events_per_second']:,.0f} events/s"
        progress.say(f"{name}: {told}")
    roles = dict.fromkeys(OURS, records.METHOD) | dict.fromkeys((MF, FM), records.BASELINE)
    return records.made(
        NAME, config, records.arms_of(played, roles=roles, settings=settings), found,
        scenario=stream.name, opened=(opened,), seconds={"total": time.perf_counter() - began},
        peak_memory=journal.peak_memory(),
        data=records.Data(stream.name, "", stream.num_users, stream.num_items, len(stream)),
        extra={
            show.EVENTS_OF: scores.by_user(np.ones(len(user)), user).count.astype(int).tolist(),
            "river": river().__version__,
            **belief.facts(levels, first.label, 1.0),
        },
    )  # fmt: skip


def report(record: records.Record) -> None:
    """Prints both sides: loss, difference to river's factorization, events a second."""
    title = f"{record.scenario}: river {record.extra['river']} beside ours, one core"
    known, rows = show.measures(record), []
    heads = [f"{tables.heading(m)} of an event" for m in known]
    gaps = [f"{tables.of_differences(m)} minus {MF}" for m in known]
    heads = ["arm", *(h for pair in zip(heads, gaps, strict=True) for h in pair)]
    heads += ["events a second", "times"]
    base = record.arm(MF).settings["events_per_second"]
    for arm in record.arms:
        speed = arm.settings["events_per_second"]
        cells = []
        for metric in known:
            gap = show.difference(record, arm.name, MF, metric)
            cells += [
                show.interval(show.mean(show.users(record, arm.name, metric), metric)),
                "" if arm.name == MF else show.interval(gap, sign=True),
            ]
        rows.append([arm.name, *cells, f"{speed:,.0f}", f"{speed / base:.1f}"])
    tables.terminal(tables.Grid(title, heads, rows))
    show.distributions(record)


def main(config: Any) -> records.Record:
    """The record, run or read, and its table."""
    record = records.stored(NAME) if config.output.from_records else measured(config)
    if not config.output.from_records:
        records.write(config.output.folder(NAME), NAME, record, config.output.publish)
    report(record)
    return record
