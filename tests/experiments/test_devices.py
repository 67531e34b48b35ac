"""`--devices` is an option of every experiment that trains, and reaches each of its trainings."""

import importlib
import re

import pytest

from experiments import HERE, find, sources, with_config
from experiments.domains import clusters
from metajax import settings
from metajax.benchmark import command

TIMED = ("adapt_large_memory", "latency", "stream")
CLOSED = ("datasets", "protocols", "llm_distill", "llm_uses", "text_cold", "off_policy")
WITHOUT = {
    **dict.fromkeys(CLOSED, "closed forms"),
    **dict.fromkeys(TIMED, "times a program on one device"),
    "online": "events one after the other",
    "negative_transfer": "a few numbers of each person, from their own ratings",
    "private": "all levels of privacy and shadow models side by side in one program",
    "flower": "each client is a process",
    "suite": "the experiments that it runs have the option",
}
"""Experiments that take no ``--devices``, and why."""
NO_EXPERIMENTS = {"speed", "pages"}
"""The rooms that time programs and write pages."""
ON_ONE = {"methods/ensemble.py": 1}
"""Trainings of a file on one device: a gate of few weights, on as many users as there are."""


def configs() -> dict[str, type]:
    """Command -> what it can be told."""
    load = lambda name: importlib.import_module(with_config(f"experiments.{find(name)}"))
    return {name: load(name).Config for room, name, _ in sources() if room not in NO_EXPERIMENTS}


def test_every_experiment_has_the_option_or_a_reason_why_not():
    every = configs()
    names = lambda config: {name for name, _, _ in settings.leaves(command.declared(config))}
    lacks = {name for name, config in every.items() if "devices" not in names(config)}
    assert lacks == set(WITHOUT)


def test_every_training_of_an_experiment_is_put_on_the_devices():
    alone, some = {}, 0
    for path in sorted(HERE.rglob("*.py")):
        file = str(path.relative_to(HERE))
        if file.partition("/")[0] in NO_EXPERIMENTS:
            continue
        text = path.read_text()
        fits = len(re.findall(r"\b(?:loop|train)\.fit\(", text))
        left = fits - len(re.findall(r"\bon_devices\(", text))
        alone |= {file: left} if left > 0 else {}
        some += fits
        if re.search(r"\bTraining\([^)]*config\.", text):  # made from other options
            assert "hardware.devices" in text, f"{file}: its trainings do not get --devices"
    assert alone == ON_ONE and some > 30


def test_the_help_shows_it_among_the_options_of_the_hardware(capsys):
    with pytest.raises(SystemExit):
        command.parse(clusters.Config, ["--help"])
    said = capsys.readouterr().out
    assert re.search(r"hardware options.*--devices INT", said, re.S), said
