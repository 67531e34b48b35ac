"""Every number and every verdict in the prose, by name: functions of the records.

A sentence that depends on how a comparison came out is written here for each outcome, so that the
text can only say what the records say.
"""

import inspect
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

from metajax.results import records, tables
from paper.edition import BASELINES, PRIMARY, Against, Results

Claim = Callable[[Results], str]


def claims_of(module: ModuleType) -> dict[str, Claim]:
    """The claims of a module: its public functions of ``r`` alone, named with dashes."""
    return {
        name.replace("_", "-"): f
        for name, f in vars(module).items()
        if not name.startswith("_")
        and inspect.isfunction(f)
        and f.__module__ == module.__name__
        and list(inspect.signature(f).parameters) == ["r"]
    }


def listed(words: list[str]) -> str:
    """Words joined as in a sentence.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def number(value: int) -> str:
    """A number in words, up to ten."""
    words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return words[value] if value < len(words) else str(value)


def counted(value: int, noun: str) -> str:
    """A number in words with its noun."""
    return f"{'no' if value == 0 else number(value)} {noun}{'' if value == 1 else 's'}"


def sinusoid_scores(record: records.Record, condition: str = "steps=10") -> dict[str, np.ndarray]:
    """Arm -> squared errors (S, T) of the sinusoid's record after so many gradient steps."""
    wanted = (condition, "squared error")
    return {k.arm: v for k, v in record.scores.items() if (k.condition, k.metric) == wanted}


def _rmse(r: Results, arm: str, condition: str = "all", scenario: str = "user_cold") -> float:
    return records.interval(r.base.of(scenario, arm, condition, PRIMARY), PRIMARY).mean


MOST_NAMES = 4
"""Names that a sentence lists; of more it says how many they are, and a table has them."""


def few(names: Sequence[str]) -> str:
    """The names, or how many they are if that is more than a sentence should list.

    >>> few(["a", "b"]), few(list("abcdef"))
    ('a and b', 'six')
    """
    return listed(list(names)) if len(names) <= MOST_NAMES else number(len(names))


def _sides(sides: Against, baseline: str) -> str:
    parts = []
    for names, outcome in zip(sides, ("better", "worse", ""), strict=True):
        if not names and outcome != "better":
            continue
        be = "are" if len(names) > 1 else "is"
        verb = f"{be} {outcome}" if outcome else "cannot be told apart from it"
        told = f" ({listed(names)})" if 0 < len(names) <= MOST_NAMES else ""
        parts.append(f"{number(len(names))} {verb}{told}")
    total = sum(map(len, sides))
    return f"Of {counted(total, 'meta-learner')} compared with {baseline}, {listed(parts)}"


def _count(part: str, key: str) -> Claim:
    return lambda r: f"{int(getattr(getattr(r.base, part), key)):,}"


users, items, interactions = (_count("data", key) for key in ("users", "items", "interactions"))
train_tasks = _count("split", "meta_train_tasks")
valid_tasks = _count("split", "meta_valid_tasks")


def data(r: Results) -> str:
    """The name of the data set."""
    names = {"ml-1m": "MovieLens 1M", "ml-100k": "MovieLens 100K", "synthetic": "a synthetic world"}
    return names.get(r.edition.dataset, r.edition.dataset)


def cold_users(r: Results) -> str:
    """How many cold users are tested."""
    return f"{r.base.tasks['user_cold']:,}"


def split(r: Results) -> str:
    """Protocol and checksum of the split."""
    return f"{r.base_split.protocol} ({r.base_split.checksum})"


def seeds(r: Results) -> str:
    """The number of training seeds, or the range of them."""
    return ranged([record.config["seeds"] for record in r.ratings.values()])


def steps(r: Results) -> str:
    """How many outer steps a trained arm takes, and what ends its training before that."""
    configs = [record.config for record in r.ratings.values()]
    limit = ranged([config["num_steps"] for config in configs])
    waits = [config.get("patience", 0) for config in configs]
    if not all(0 < wait < config["num_steps"] for wait, config in zip(waits, configs, strict=True)):
        return f"{limit} outer steps"
    return (
        f"at most {limit} outer steps, and ends where no seed has had a lower error on "
        f"meta-validation for {ranged(waits)} of them"
    )


def ranged(values: list[int]) -> str:
    """One number, or the range of several."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def methods(r: Results) -> str:
    """The meta-learners, listed."""
    return listed([m.name for m in r.methods()])


def num_methods(r: Results) -> str:
    """How many meta-learners there are."""
    return counted(len(r.methods()), "meta-learner")


def against_fold_in(r: Results) -> str:
    """The verdict against fold-in."""
    return _sides(r.against("A2 fold-in"), "fold-in (A2)")


def against_bayes(r: Results) -> str:
    """The verdict against closed-form hierarchical Bayes."""
    return _sides(r.against("A7 hier. Bayes"), "hierarchical Bayes (A7)")


def against_fine_tuned(r: Results) -> str:
    """The verdict against the fine-tuned model of the same shape."""
    return _sides(r.against("A4 fine-tuned"), "their own fine-tuned network (A4)")


def against_boosting(r: Results) -> str:
    """The verdict against boosted trees, of the records that have them; empty without."""
    sides = r.against("A8 boosting")
    return _sides(sides, "boosted trees (A8)") if any(sides) else ""


def headline(r: Results) -> str:
    """The first finding, in one clause."""
    sides = r.against("A2 fold-in")
    better, total = len(sides.better), sum(map(len, sides))
    be = "are" if better > 1 else "is"
    return (
        f"{number(better)} of {counted(total, 'meta-learner')} {be} better than ridge regression "
        "over frozen item factors"
    )


def best(r: Results) -> str:
    """The arm with the lowest error for new users, with its interval."""
    baselines = [arm for arm in r.base.names() if arm in BASELINES]
    scores = {arm: r.base.of("user_cold", arm, "all", PRIMARY) for arm in baselines}
    own = lambda m: r.ratings[m.record].of("user_cold", m.arm, "all", PRIMARY)
    scores |= {m.arm: own(m) for m in r.methods()}
    found = {arm: records.interval(values, PRIMARY) for arm, values in scores.items()}
    arm = min(found, key=lambda a: found[a].mean)
    i = found[arm]
    return f"{arm} (RMSE {i.mean:.3f}, 95 % interval {i.low:.3f} to {i.high:.3f})"


def fold_in_error(r: Results) -> str:
    """The error of fold-in for new users."""
    return f"{_rmse(r, 'A2 fold-in'):.3f}"


def item_mean_error(r: Results) -> str:
    """The error of the item mean for new users."""
    return f"{_rmse(r, 'A0 item mean'):.3f}"


def adapt(r: Results) -> str:
    """What each method adapts to for new users, by the controls."""
    found: dict[str, list[str]] = {}
    for m in r.methods():
        if not r.diverged(m):
            found.setdefault(r.adapts(m), []).append(m.name)
    order = (tables.TASTE, tables.LEVEL, tables.UNTASTED, tables.NOTHING)
    parts = [
        f"{listed(found[to])} adapt{'s' if len(found[to]) == 1 else ''} {to}"
        for to in order
        if to in found
    ]
    return listed(parts)


def taste_costs(r: Results) -> str:
    """What shuffled labels cost the methods that adapt to taste; empty if none does."""
    gaps = [r.adaptation(m).mean for m in r.methods() if r.adapts(m) == tables.TASTE]
    return f"between {min(gaps):.3f} and {max(gaps):.3f}" if gaps else ""


def first_rating(r: Results) -> str:
    """What one rating does to the error of the gradient-based arms."""
    if "k=1" not in r.base.conditions():
        return ""
    arms = [(r.base, "A4 fine-tuned"), *((r.ratings[m.record], m.arm) for m in r.methods())]
    hurt = []
    for record, arm in arms:
        one, none = (record.of("user_cold", arm, f"k={k}", PRIMARY) for k in (1, 0))
        if records.difference(one, none).low > 0:
            hurt.append(records.label(arm))
    if not hurt:
        return "No arm that adapts by gradient is made worse by a first rating"
    be = "is" if len(hurt) == 1 else "are"
    who = f"{few(hurt)} of {number(len(arms))} arms" if len(hurt) > MOST_NAMES else few(hurt)
    return (
        f"A first rating can hurt: {who} {be} worse with one support rating than with none, by an "
        "interval that excludes 0"
    )


def closed_form_cold(r: Results) -> str:
    """The error of hierarchical Bayes and of fold-in with 0 and with 5 ratings."""
    parts = []
    for arm in ("A2 fold-in", "A7 hier. Bayes"):
        none, five, name = _rmse(r, arm, "k=0"), _rmse(r, arm, "k=5"), records.label(arm)
        parts.append(f"{none:.3f} with no rating and {five:.3f} with five for {name}")
    return f"The root mean squared error is {listed(parts)}"


def minutes(r: Results) -> str:
    """The time that all rating records took together."""
    total = sum(record.total_seconds for record in r.ratings.values()) / 60
    return f"{total:.0f} minutes" if total >= 1.5 else f"{60 * total:.0f} seconds"


def devices(r: Results) -> str:
    """What the records were made on."""
    found = {
        (e.device.partition(":")[0].upper(), e.num_cpus)
        for e in (record.environment for record in r.ratings.values())
    }
    return listed(sorted(f"{device}, {cores} cores" for device, cores in found))


def sinusoid(r: Results) -> str:
    """The order of the learners on the sinusoid; empty where the edition has none."""
    found: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for record in r.sinusoid.values():
        scores = sinusoid_scores(record)
        errors = {arm: float(v.mean()) for arm, v in scores.items() if "oracle" not in arm}
        low, high = min(errors, key=lambda a: errors[a]), max(errors, key=lambda a: errors[a])
        points = record.scenario.replace("K=", "")
        found.setdefault((low, high), []).append((points, errors[low], errors[high]))
    sentences = []
    for (low, high), each in found.items():
        points, best, worst = zip(*each, strict=True)
        sentences.append(
            f"from {listed(list(points))} points {low} has the lowest mean squared error "
            f"({', '.join(f'{x:.3f}' for x in best)}) and {high} the highest "
            f"({', '.join(f'{x:.2f}' for x in worst)})"
        )
    return listed(sentences) if sentences else ""
