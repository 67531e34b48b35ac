"""The parts of a record: configuration, data, arms, costs, and the per-task scores of a run.

A `Record` is plain data. It is written and read by `metajax.results.records` alone; everything
else (tables, plots, the paper) reads its fields. Facts of one experiment alone are in ``extra``,
and settings of one arm in that `Arm`.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from metajax.types import UserError

VERSION = 2
"""The version of the file format that is written. Version 1 did not name the way its scores are
packed (`packing.FORM`), nor who opened the test tasks."""
READABLE = (1, 2)

GENERATION = 1
"""Of the code that makes numbers, see `metajax.results.age`. 1: ratings are judged by distributions
too, boosting and the stack stand in every table, negatives are drawn whether met or not."""

METHOD = "method"
"""The role of an arm that the record is about: a meta-learner under test."""
BASELINE = "baseline"
"""The role of an arm that is no meta-learner, tuned like the methods."""
ABLATION = "ablation"
"""The role of a method with one part changed or removed."""
CONTROL = "control"
"""The role of an arm whose result is known beforehand if the run is sound, such as one without
adaptation."""
PUBLISHED = "published"
"""The role of an arm at the settings of its paper, untuned."""
ROLES = (METHOD, BASELINE, ABLATION, CONTROL, PUBLISHED)


ALL = "all"
"""The condition of a task that is judged as it is, with all of its support."""
N0, N1, N2, N3 = "no support", "shuffled", "another's support", "untrained"
"""The conditions of the controls, see `metajax.evaluation.judge`."""


class Key(NamedTuple):
    """The key of an array of scores: what was evaluated, and how.

    Attributes:
      scenario: which test tasks: "user_cold", "5-way 1-shot".
      arm: the name of the arm.
      condition: what the learner was given: `ALL`, a control such as "shuffled", "k=5", "steps=10".
      metric: "mae", "ndcg@5", "accuracy".
    """

    scenario: str
    arm: str
    condition: str
    metric: str


class Gradients(NamedTuple):
    """How many task gradients an arm took.

    Attributes:
      training: in meta-training, per seed.
      per_task: to adapt to one task; None where nobody counted.
    """

    training: int
    per_task: int | None = None


@dataclasses.dataclass(frozen=True)
class Arm:
    """One line of a table: a learner with its settings, and what it cost.

    Attributes:
      name: as tables print it.
      role: one of `ROLES`.
      settings: what was chosen for it on meta-validation, with the number of trials.
      seconds: wall time to train it and to choose its settings, all seeds together.
      gradients: how many task gradients it took.
      bytes_per_task: what a service stores of one task.
      history: name -> (S, blocks) values over training, such as "loss" and "valid".
    """

    name: str
    role: str = METHOD
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    gradients: Gradients | None = None
    bytes_per_task: int | None = None
    history: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.role not in ROLES:
            raise UserError(f"the role of arm {self.name!r} is {self.role!r}; it is one of {ROLES}")

    @property
    def label(self) -> str:
        """The name without the number that the tables of ratings put before it.

        >>> Arm("A6 MAML").label, Arm("Mine").label
        ('MAML', 'Mine')
        """
        return label(self.name)


def label(name: str) -> str:
    """The name of an arm without its number: "MAML" of "A6 MAML"; other names as they are."""
    return re.sub(r"^A\d ", "", name)


def arms_of(
    names: Iterable[str],
    *,
    roles: Mapping[str, str] | str = METHOD,
    settings: Mapping[str, Any] | None = None,
    seconds: Mapping[str, float] | None = None,
    gradients: Mapping[str, Gradients] | None = None,
    bytes_per_task: Mapping[str, int] | None = None,
    history: Mapping[str, Any] | None = None,
) -> tuple[Arm, ...]:
    """The arms of a record from what is known of each, by name.

    Settings of a part of an arm, called "ARM, PART", are under "PART" among those of the arm.
    """
    names, found = list(names), {}
    for key, value in (settings or {}).items():
        owner = owner_of(key, names)
        if owner:
            told = value if key == owner else {key.removeprefix(f"{owner}, "): value}
            found[owner] = found.get(owner, {}) | told
    get = lambda told, name: (told or {}).get(name)
    return tuple(
        Arm(
            name,
            roles if isinstance(roles, str) else roles.get(name, METHOD),
            found.get(name, {}),
            get(seconds, name),
            get(gradients, name),
            get(bytes_per_task, name),
            get(history, name) or {},
        )
        for name in names
    )


def owner_of(key: str, names: Iterable[str]) -> str:
    """The longest name that a key is, or begins with before a comma; empty if none.

    >>> owner_of("student, 8 bits, seed 0", ["student", "student, 8 bits"])
    'student, 8 bits'
    """
    mine = [n for n in names if key == n or key.startswith(f"{n}, ")]
    return max(mine, key=len, default="")


@dataclasses.dataclass(frozen=True)
class Data:
    """The data set of a run.

    Attributes:
      name: as ``--dataset`` takes it.
      checksum: of the content.
      users, items, interactions: how many there are; None where they were not counted.
    """

    name: str
    checksum: str = ""
    users: int | None = None
    items: int | None = None
    interactions: int | None = None


@dataclasses.dataclass(frozen=True)
class Split:
    """Which tasks were for meta-training, meta-validation and the test.

    Attributes:
      protocol: the rule that divided the data.
      seed: of the division.
      checksum: of the division; two records of equal checksum were tested on the same tasks.
      tasks: test scenario -> number of tasks.
      meta_train_tasks, meta_valid_tasks: their numbers.
      folds: the checksums of the divisions that were pooled, if several were.
    """

    protocol: str
    seed: int = 0
    checksum: str = ""
    tasks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    meta_train_tasks: int | None = None
    meta_valid_tasks: int | None = None
    folds: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Opening:
    """One line of the ledger: when test tasks were opened (evaluated), after which choices.

    Attributes:
      frozen: when the last choice was made, in UTC.
      config_hash: of the configuration, see `records.config_hash`.
      settings_hash: of what was chosen on meta-validation.
      times_opened: how often the experiment had opened these test tasks by then; None if nobody
        counted.
      split: checksum of the split, or of the test tasks, that was opened.
      configurations: under how many configurations it had; None if nobody counted.
      experiment: who opened them, as the ledger has it.
      times_by_others: how often other experiments had opened these test tasks by then.
      times_unnamed: how often the experiment had opened test tasks whose checksum nobody wrote
        down, which may be these.
    """

    frozen: str = ""
    config_hash: str = ""
    settings_hash: str = ""
    times_opened: int | None = None
    split: str = ""
    configurations: int | None = None
    experiment: str = ""
    times_by_others: int = 0
    times_unnamed: int = 0


@dataclasses.dataclass(frozen=True)
class Environment:
    """What a number can depend on besides configuration and data.

    Attributes:
      date: when the record was made, in UTC.
      command: the command line.
      commit: of the code; empty outside a checkout.
      uncommitted_changes: whether the code was changed after that commit.
      python: version.
      packages: name -> version; "unknown" where a package is not installed.
      device: platform and kind of the first device.
      num_devices: of them.
      num_cpus: cores that the machine has.
      xla_flags: the variable ``XLA_FLAGS``.
      x64: whether JAX computes in 64 bits.
    """

    date: str = ""
    command: str = ""
    commit: str = ""
    uncommitted_changes: bool = False
    python: str = ""
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    device: str = ""
    num_devices: int = 1
    num_cpus: int | None = None
    xla_flags: str = ""
    x64: bool = False


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of a run: what was run, and the scores.

    Attributes:
      experiment: its name.
      arms: the lines of its table, in their order.
      scores: `Key` -> (S, T) per-task scores, one row per seed and one column per test task; arms
        without randomness have one row. NaN where a metric is not defined for a task.
      config: setting -> value of the whole configuration, see `settings.flat`.
      config_hash: its digest, see `records.config_hash`.
      environment: versions, device, commit, command.
      method: the name of the arm that the record is about; empty if it is about all.
      scenario: the one setting of the record, where it has one.
      protocol: the evaluation protocol, where it has a name of its own.
      data: the data set, None if it is generated or there are several.
      split: how it was divided, None if tasks are drawn.
      shots: the numbers of support examples of the k-shot curve.
      seconds: wall time of what is no arm's: "data", "test", "total".
      opened: when the test tasks were opened.
      peak_memory: "host_mb" and what the devices report.
      extra: facts that only this experiment has, as JSON; its module says which.
      scores_digest: of the stored scores; empty before the record was written.
      generation: of the code that made it, see `GENERATION`; 0 where it did not say.
    """

    experiment: str
    arms: tuple[Arm, ...] = ()
    scores: Mapping[Key, np.ndarray] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config_hash: str = ""
    environment: Environment = dataclasses.field(default_factory=Environment)
    method: str = ""
    scenario: str = ""
    protocol: str = ""
    data: Data | None = None
    split: Split | None = None
    shots: tuple[int, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    opened: tuple[Opening, ...] = ()
    peak_memory: Mapping[str, float] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores_digest: str = ""
    generation: int = 0

    def of(self, scenario: str, arm: str, condition: str, metric: str) -> np.ndarray:
        """Per-task scores (S, T).

        Raises:
          UserError: the record has none of that key.
        """
        key = Key(scenario, arm, condition, metric)
        if key not in self.scores:
            raise UserError(f"the record of {self.experiment} has no scores {' | '.join(key)}")
        return self.scores[key]

    def arm(self, name: str) -> Arm:
        """The arm of that name.

        Raises:
          UserError: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UserError(f"the record of {self.experiment} has no arm {name!r}")

    def names(self, *roles: str) -> list[str]:
        """The names of the arms of these roles, of all arms if none is given."""
        return [arm.name for arm in self.arms if not roles or arm.role in roles]

    def conditions(self) -> list[str]:
        """The conditions that there are scores of, in the order of the scores."""
        return list(dict.fromkeys(key.condition for key in self.scores))

    @property
    def dataset(self) -> str:
        """The name of the data set, empty where the record has none."""
        return self.data.name if self.data else ""

    @property
    def tasks(self) -> Mapping[str, int]:
        """Test scenario -> number of tasks, of the split; empty where tasks are drawn."""
        return self.split.tasks if self.split else {}

    @property
    def total_seconds(self) -> float:
        """Wall time of the run: as it was measured, or the sum of its parts."""
        for name in ("total", "train"):
            if name in self.seconds:
                return self.seconds[name]
        return sum([arm.seconds or 0.0 for arm in self.arms] + list(self.seconds.values()))
