"""The table and the pictures of ``long_term``, from its record."""

import pathlib

import numpy as np

from metajax.results import plots, records, tables

NAME, SCENARIO = "long_term", "ChocKale"
RANDOM, CHOC, KALE, MYOPIC, DQN, MYOPIC_SLATE, SLATE, ACTOR, SWAPPED = ARMS = (
    "random slates", "least kale", "most kale", "DQN, gamma 0", "DQN", "SlateQ, gamma 0", "SlateQ",
    "actor-critic", "DQN, another decision's reward",
)  # fmt: skip
LINES = [RANDOM, CHOC, KALE, MYOPIC, DQN, MYOPIC_SLATE, SLATE, ACTOR]


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the table, and saves how sessions unfold."""
    config = record.config
    title = (
        f"ChocKale: return of a session, {config['test_people']} new people, "
        f"{config['seeds']} seeds, gamma {config['gamma']:g}"
    )
    heads = ("arm", "return", "seeds from - to", f"minus {MYOPIC}", f"minus {RANDOM}",
             "satisfaction at the end", "kale picked")  # fmt: skip
    rows = []
    get = lambda arm: record.of(SCENARIO, arm, records.ALL, "return")
    for arm in record.names():
        own, shape = get(arm), record.extra["shapes"][arm]
        seeds = own.mean(axis=1)
        rows.append([
            arm, f"{records.interval(own, 'return'):.1f}",
            "" if np.ptp(seeds) == 0 else f"{seeds.min():.1f} - {seeds.max():.1f}",
            "" if arm == MYOPIC else f"{records.difference(own, get(MYOPIC)):+.1f}",
            "" if arm == RANDOM else f"{records.difference(own, get(RANDOM)):+.1f}",
            f"{np.mean(shape['satisfaction'][-10:]):.2f}", f"{np.mean(shape['kale']):.2f}",
        ])  # fmt: skip
    tables.terminal(tables.Grid(title, heads, rows))
    for name, label in (("reward", "reward of a round"), ("satisfaction", "satisfaction"),
                        ("kale", "kaleness of what was picked")):  # fmt: skip
        unfolding(record, name, label, folder / f"session-{name}.png")


def unfolding(record: records.Record, name: str, label: str, path: pathlib.Path) -> None:
    """Saves the means by round of a session, of five rounds each, a line for each arm."""
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(LINES):
            values = np.asarray(record.extra["shapes"][arm][name])
            means = values[: len(values) // 5 * 5].reshape(-1, 5).mean(axis=1)
            x = 5 * np.arange(len(means)) + 3
            axes.plot(x, means, label=arm, markevery=3, **plots.look(i))
        plots.finish(axes, "round of the session", label, len(LINES))


def markdown(record: records.Record) -> str:
    """Return of a session, beside gamma 0, and how it ends."""
    rows = []
    get = lambda arm: record.of(SCENARIO, arm, records.ALL, "return")
    for arm in record.names():
        shape, own = record.extra["shapes"][arm], get(arm)
        gap = "" if arm == MYOPIC else f"{records.difference(own, get(MYOPIC)):+.1f}"
        first, last = np.mean(shape["reward"][:10]), np.mean(shape["reward"][-10:])
        content = np.mean(shape["satisfaction"][-10:])
        rows.append((arm, f"{records.interval(own, 'return'):.1f}", gap, f"{first:.2f}",
                     f"{last:.2f}", f"{content:.2f}"))  # fmt: skip
    heads = ("policy", "return of a session", f"minus {MYOPIC}", "reward, first ten rounds",
             "reward, last ten rounds", "satisfaction, last ten rounds")  # fmt: skip
    config = record.config
    head = f"{config['test_people']} new people, {config['seeds']} seeds.\n\n"
    return head + tables.markdown(tables.Grid("Sessions in ChocKale", heads, rows))
