"""Tables and pictures of attacks and defences, read from records alone."""

import pathlib
from collections.abc import Sequence

import numpy as np

from metajax.results import plots, records, tables
from metajax.results.readings import OLDER
from metajax.results.tables import COMPARED, Grid, heading, of_differences, terminal

FOLD_IN, MAML, PLAIN = "fold-in", "MAML", "plain"
EMBEDDED, APR, APR_NOISE = "embeddings learned", "APR", "APR, random noise"
LIES, MOVED, HOSTILE, DOMAINS = "lies", "moved factors", "hostile users", "two domains"
SHARES = (0.1, 0.2, 0.4)
MOVES = {
    records.ALL: "clean",
    "asked moved 0.25": "asked .25",
    "asked moved 0.5": "asked .5",
    "asked moved 1": "asked 1",
    "asked moved .5, signs": "signs .5",
    "asked moved .5, PGD": "PGD .5",
    "asked moved .5, noise": "noise .5",
    "rated moved .5": "rated .5",
    "rated moved .5, noise": "rated noise",
}
"""Conditions of moved factors, and what heads their columns."""
SHOWN = (records.ALL, "asked moved 0.5")
"""Of these the tables have intervals."""
MAIN, NOISE = "lies 20%", "noise as 20%"
BELIEVED = {
    LIES: {records.ALL: "clean", MAIN: MAIN},
    MOVED: {condition: MOVES[condition] for condition in SHOWN},
}
"""Attack -> the conditions in which distributions are judged, and what they are called."""
CONDITIONS = (records.ALL, *(f"lies {share:.0%}" for share in SHARES), NOISE)


def told(x: np.ndarray, y: np.ndarray | None = None, metric: str = "") -> str:
    """A mean, or a paired difference, with its interval over people; a star where 0 is outside.

    Args:
      metric: of a mean; that of "mse" is shown as its root.
    """
    if y is None:
        return f"{records.interval(x, metric):.4f}"
    gap = records.difference(x, y)
    star = "*" if gap.low > 0 or gap.high < 0 else ""
    return f"{gap.mean:+.4f}{star} [{gap.low:+.4f}, {gap.high:+.4f}]"


def mean(x: np.ndarray, metric: str) -> float:
    """The mean; that of "mse" as its root."""
    found = float(np.nanmean(x))
    return found**0.5 if metric == "mse" else found


def measures(record: records.Record) -> list[str]:
    """The measures of ratings that a record has, in the order in which tables show them."""
    known = {key.metric for key in record.scores}
    return [metric for metric in (*COMPARED, "mae") if metric in known]


def grid(title: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Grid:
    """A table of arms."""
    return Grid(title, ["arm", *heads], [[name, *cells] for name, cells in rows])


def arms_in(record: records.Record, room: str) -> list[str]:
    """The arms of one attack, in order."""
    return list(dict.fromkeys(key.arm for key in record.scores if key.scenario == room))


def loss_kept(record: records.Record, arm: str, metric: str) -> float:
    """What an arm loses at 20 % of lies, as a share of what its plain one loses."""
    plain = FOLD_IN if arm.startswith(FOLD_IN) else MAML
    of = lambda name, condition: np.nanmean(record.of(LIES, name, condition, metric))
    clean = of(plain, records.ALL)
    return float((of(arm, MAIN) - clean) / (of(plain, MAIN) - clean))


def lies_table(record: records.Record, metric: str) -> Grid:
    """Lying supports: a measure, and what each defence costs and saves against its plain arm."""
    rows = []
    for arm in arms_in(record, LIES):
        plain = FOLD_IN if arm.startswith(FOLD_IN) else MAML
        of = lambda condition, arm=arm: record.of(LIES, arm, condition, metric)
        base = lambda condition, p=plain: record.of(LIES, p, condition, metric)
        cells = [told(of(records.ALL), metric=metric)]
        cells += ["" if arm == plain else told(of(records.ALL), base(records.ALL))]
        cells += [f"{mean(of(f'lies {s:.0%}'), metric):.4f}" for s in SHARES]
        cells += [told(of(MAIN), base(records.ALL)), f"{loss_kept(record, arm, metric):.2f}"]
        cells += [f"{mean(of(NOISE), metric):.4f}"]
        rows.append((arm, cells))
    gap = of_differences(metric)
    heads = [f"clean {heading(metric)}", f"{gap} minus plain", *(f"lies {s:.0%}" for s in SHARES)]
    heads += [f"{gap}, lies 20% minus plain, clean", "share of its loss", NOISE]
    what = f"{heading(metric)}, lying supports"
    return grid(f"{what}: a share of a person's ratings is the opposite", heads, rows)


def moved_table(record: records.Record, metric: str) -> Grid:
    """Moved item factors, by one measure."""
    plain = PLAIN if PLAIN in record.names() else EMBEDDED
    known = {k.condition for k in record.scores if k.scenario == MOVED and k.arm == plain}
    conditions = [c for c in MOVES if c in known]
    rows = []
    for arm in arms_in(record, MOVED):
        of = lambda c, arm=arm: record.of(MOVED, arm, c, metric)
        at = lambda name: record.of(MOVED, name, "asked moved 0.5", metric)
        short = lambda c, of=of: f"{mean(of(c), metric):.4f}"
        cells = [told(of(c), metric=metric) if c in SHOWN else short(c) for c in conditions]
        rows.append((arm, [*cells, "" if arm == plain else told(at(arm), at(plain))]))
    heads = [*(MOVES[c] for c in conditions), f"{of_differences(metric)}, asked .5 minus {plain}"]
    what = f"{heading(metric)}, factors moved of items asked about or rated (MAML)"
    return grid(what, heads, rows)


def hostile_kinds(record: records.Record) -> list[str]:
    """The conditions of hostile users: honest first, then shilling by share, then mirrored."""
    return list(dict.fromkeys(k.condition for k in record.scores if k.scenario == HOSTILE))


def shilling(record: records.Record) -> list[str]:
    """The conditions in which an item is pushed."""
    return [k for k in hostile_kinds(record) if k.startswith(("random", "bandwagon"))]


def hostile_table(record: records.Record) -> Grid:
    """Hostile users in meta-training, and their effect on honest ones."""
    (honest, *kinds), rows, known = hostile_kinds(record), [], measures(record)
    for rule in arms_in(record, HOSTILE):
        of = lambda kind, metric, rule=rule: record.of(HOSTILE, rule, kind, metric)
        means = [cell for m in known for cell in (told(of(honest, m), metric=m), "")]
        rows.append((f"{rule}, {honest}", [*means, ""]))
        for kind in kinds:
            pushed = told(of(kind, "pushed"), of(honest, "pushed"))
            gaps = [cell for m in known for cell in ("", told(of(kind, m), of(honest, m)))]
            rows.append((f"{rule}, {kind}", [*gaps, pushed if kind in shilling(record) else ""]))
    heads = [h for m in known for h in (heading(m), f"{of_differences(m)} minus {honest}")]
    what = "hostile users in meta-training, honest new users"
    return grid(what, [*heads, "rise of the item pushed"], rows)


def show_believed(record: records.Record, room: str) -> None:
    """Prints what distributions over ratings are worth, clean and under the main attack."""
    under = BELIEVED.get(room) or {kind: kind for kind in hostile_kinds(record)}
    rows = {
        f"{arm}, {said}": (room, arm, condition)
        for arm in arms_in(record, room)
        for condition, said in under.items()
    }
    title = f"{room}, links of clean meta-validation tasks"
    tables.show_distributions(record, title, rows)


def domains_table(record: records.Record) -> Grid:
    """Gradient reversal in the world of two domains."""
    rows = []
    metrics = {
        "mse": "target squared error",
        "along": "domain told by its opponent",
        "domain": "by a linear one fitted afterwards",
    }
    known = [m for m in metrics if any(k[0] == DOMAINS and k.metric == m for k in record.scores)]
    for arm in arms_in(record, DOMAINS):
        found = [record.scores.get(records.Key(DOMAINS, arm, records.ALL, m)) for m in known]
        rows.append((arm, ["" if x is None else told(x) for x in found]))
    return grid("two domains", [metrics[m] for m in known], rows)


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the table of an attack and saves its picture."""
    room = next(iter(record.scores)).scenario
    if room in (LIES, MOVED):
        for metric in measures(record):
            terminal((lies_table if room == LIES else moved_table)(record, metric))
    else:
        terminal((hostile_table if room == HOSTILE else domains_table)(record))
    show_believed(record, room)
    print("Means [95 %] over people; differences paired by person, a star where 0 is outside.")
    if room != DOMAINS and "mse" not in measures(record):
        print(OLDER)
    if room == LIES:
        print(
            "Share of its loss: what the arm loses at 20 % of lies against the plain clean arm, "
            "over what the plain arm loses."
        )
    for arm in record.names():
        chosen = {k: v for k, v in record.arm(arm).settings.items() if k in CHOSEN}
        if chosen:
            print(f"{arm}: {', '.join(f'{k} {v:g}' for k, v in chosen.items())}")
    shown = EMBEDDED if EMBEDDED in record.names() else room
    path, draw = folder / f"{shown.replace(' ', '-')}.png", PICTURES.get(room)
    if draw is not None:
        draw(record, path)
        print(f"plot   {path}")


CHOSEN = ("threshold", "penalty times")


def lies_picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves the error over the share of lies, a line for each arm."""
    names, metric = arms_in(record, LIES), measures(record)[0]
    of = lambda arm, c: mean(record.of(LIES, arm, c, metric), metric)
    with plots.page(path, 3.2) as axes:
        for i, arm in enumerate(names):
            at = [records.ALL, *(f"lies {s:.0%}" for s in SHARES)]
            means = [of(arm, c) for c in at]
            axes.plot([0.0, *SHARES], means, label=arm, **plots.look(i))
        axis = "share of a person's ratings that are the opposite"
        plots.finish(axes, axis, heading(metric), len(names))


def moved_picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves clean error against the error under attack, both lower is better."""
    metric = measures(record)[0]
    of = lambda arm, c: mean(record.of(MOVED, arm, c, metric), metric)
    points = {
        arm: tuple(of(arm, c) for c in (records.ALL, "asked moved 0.5"))
        for arm in arms_in(record, MOVED)
    }
    with plots.page(path, 2.7) as axes:
        for i, (arm, (clean, moved)) in enumerate(points.items()):
            style = plots.look(i) | {"linestyle": "none", "markersize": 5}
            axes.plot(clean, moved, label=arm, **style)
        name = heading(metric)
        plots.finish(axes, f"{name}, clean", f"{name}, factors moved by 0.5", len(points))


def hostile_picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves how far shilling users push their item under each rule."""
    honest = hostile_kinds(record)[0]
    of = lambda rule, kind: record.of(HOSTILE, rule, kind, "pushed")
    rows = [
        (f"{rule}, {kind}", records.difference(of(rule, kind), of(rule, honest)))
        for kind in shilling(record)
        for rule in arms_in(record, HOSTILE)
    ]
    plots.forest(rows, path, "rating predicted of the pushed item, rise")


def domains_picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves how well domains are told against the error in the target."""
    known = [a for a in arms_in(record, DOMAINS) if a != "Bayes"]
    with plots.page(path, 2.4) as axes:
        for i, arm in enumerate(known):
            at = [float(record.of(DOMAINS, arm, records.ALL, m).mean()) for m in ("mse", "along")]
            style = plots.look(i) | {"linestyle": "none", "markersize": 5}
            axes.plot(*at, label=arm, **style)
        axes.axhline(0.5, color="#666666", linewidth=0.7)
        plots.finish(
            axes, "squared error in the target domain", "accuracy of the opponent", len(known)
        )


PICTURES = {
    LIES: lies_picture,
    MOVED: moved_picture,
    HOSTILE: hostile_picture,
    DOMAINS: domains_picture,
}
