"""Options: composed of parts, in their ranges, and named in messages as they are parsed."""

import ast
import dataclasses
import importlib
import math
import pathlib
import re
from typing import Annotated

import jax
import pytest

import metajax.__main__
from experiments import HERE, find, with_config
from experiments.methods import maml, ridge_head
from metajax import places, settings
from metajax.benchmark import command
from metajax.data.sources import named
from metajax.results import compare
from metajax.settings import Data, Output, Positive, ReadOptions, Share
from metajax.types import UserError

OPTION = r"(?<![\w-])--[a-z][\w.-]*\b"
COMMANDS = {"training": "train", "verdict": "train", "people": "recommend"}
LIBRARY = {
    "sequence": "sasrec",
    "bert": "text_cold",
    "plots": "compare",
    "events": "online",
    "flower": "flower",
    "graph": "knowledge_graph",
}
PARTS = {
    "task_logs": "online_meta",
    "new_task_arms": "new_task",
    "cross_data": "cross_domain",
    "few_shot": "omniglot",
    "titles": "llm_rec",
    "label_arms": "multi_label",
    "multimodal_arms": "multimodal",
    "rates": "clusters",
}  # parts of a command of another name


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of nothing."""

    output: Output = Output()
    data: Data = Data(dataset="ml-100k")
    rates: tuple[float, ...] = (0.1,)
    widths: tuple[Positive, ...] = (8,)
    share: Share = 0.5
    steps: Positive | None = None

    PRESETS = {"quick": {"steps": 3, "dataset": "ml-1m"}, "gpu": {"widths": (64,)}}  # noqa: RUF012


@pytest.mark.parametrize(
    "options",
    [
        ("--seeds", "0"),
        ("--num-steps", "0"),
        ("--num-tasks", "0"),
        ("--hidden", "64", "-4"),
        ("--inner-steps", "-1"),
        ("--num-support", "-3"),
        ("--num-support", "5000"),
        ("--inner-rate", "-1"),
        ("--inner-rate", "nan"),
        ("--outer-rate", "inf"),
        ("--split-seed", "-1"),
        ("--seeds-at-once", "-2"),
    ],
)
def test_a_senseless_value_is_one_line_before_anything_is_read(options, monkeypatch):
    monkeypatch.setattr("sys.argv", ["maml", *options])
    reached = []

    def main(config):
        reached.append(config)

    with pytest.raises(SystemExit) as stop:
        command.cli(main, maml.Config)
    said = stop.value.code
    assert isinstance(said, str) and "\n" not in said and not reached
    assert f"{options[0]} must be" in said and f"{float(options[-1]):g}" in said


def test_ranges_by_hand():
    for options, told in (
        (["--share", "1.5"], "--share must be 0 to 1, and it is 1.5"),
        (["--widths", "3", "0"], "--widths must be 1 or more, and it is 0"),
        (["--steps", "0"], "--steps must be 1 or more, and it is 0"),
        (["--rates", "0.1", "-0.1"], "--rates must be 0 or more, and it is -0.1"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            command.parse(Config, options)
    fine = command.parse(Config, ["--share", "1", "--widths", "1", "--rates", "0"])
    assert (fine.share, fine.widths, fine.rates, fine.steps) == (1.0, (1,), (0.0,), None)


def test_what_the_whole_presets_goes_before_what_its_parts_do():
    quick = command.parse(Config, ["--preset", "quick"])
    assert (quick.data.dataset, quick.steps, quick.output.preset) == ("ml-1m", 3, "quick")
    assert command.parse(Config, ["--preset", "gpu"]).data.dataset == "ml-100k"
    mine = command.parse(Config, ["--preset", "quick", "--dataset", "synthetic"])
    assert mine.data.dataset == "synthetic"


def test_settings_are_flat_and_replaced_wherever_they_stand():
    config = maml.Config()
    told = settings.flat(config)
    assert told["seeds"] == 5 and told["inner_rate"] == 0.1 and "training" not in told
    other = settings.replace(config, seeds=7, hidden=(8,), num_steps=5)
    assert (other.training.num_steps, other.training.seeds, other.hidden) == (5, 7, (8,))
    assert settings.replace(config, seeds=7, inner_rate=1.0).training.seeds == 7
    with pytest.raises(KeyError, match="nothing"):
        settings.replace(config, nothing=1)


LOGS = {"sasrec": "large", "text_cold": "large", "metaemb": "field", "maml": "", "paml": ""}
"""Experiments that read a log, and their room where it is not that of the methods."""


@pytest.mark.parametrize("name", LOGS)
def test_every_experiment_reads_a_log_as_it_is_told_to(name, tmp_path):
    path = tmp_path / "own log.csv"
    path.write_text("".join(f"{u};{i};{(u - i) % 3 - 1}\n" for u in range(4) for i in range(4)))
    module = importlib.import_module(with_config(f"experiments.{find(name)}"))
    said = ["--dataset", str(path), "--columns", "wer,was,wie", "--separator", ";"]
    said += ["--user", "wer", "--item", "was", "--label", "wie", "--scale", "-10", "10"]
    config = command.parse(module.Config, said)
    table = named.chosen(config.data)
    assert (table.num_users, table.scale, len(table)) == (4, (-10, 10), 16)
    assert settings.flat(config)["separator"] == ";" and "quote" not in settings.flat(config)


def test_a_split_is_named_by_either_word():
    for word in ("--split", "--protocol"):
        assert command.parse(maml.Config, [word, "users"]).split.protocol == "users"


def test_what_is_not_said_of_a_file_changes_no_digest():
    config, said = maml.Config(), ReadOptions(user="wer")
    other = settings.replace(config, user="wer")
    assert other.data.read == said and settings.config_hash(other) != settings.config_hash(config)
    assert not {field.name for field in dataclasses.fields(said)} & settings.flat(config).keys()


def test_a_later_setting_counts_in_the_digest_only_where_it_is_not_the_default():
    @dataclasses.dataclass(frozen=True)
    class Before:
        rate: float = 0.1

    @dataclasses.dataclass(frozen=True)
    class After(Before):
        compute: Annotated[str, settings.Later()] = "float32"

    assert settings.flat(After())["compute"] == "float32"
    assert settings.config_hash(After()) == settings.config_hash(Before())
    assert settings.config_hash(After(compute="bfloat16")) != settings.config_hash(Before())
    assert settings.config_hash(After(rate=0.2)) == settings.config_hash(Before(rate=0.2))


def test_a_named_data_set_needs_no_word_on_its_columns():
    with pytest.raises(UserError, match="--user says how a log of your own is read, and ml-1m is"):
        named.load("ml-1m", options=ReadOptions(user="1"))
    with pytest.raises(UserError, match="--min-rows"):
        named.load("synthetic", min_rows=3)


def test_two_parts_may_not_share_a_name():
    @dataclasses.dataclass(frozen=True)
    class Twice:
        data: Data = Data()
        dataset: str = "other"

    with pytest.raises(ValueError, match="same name"):
        settings.flat(Twice())


def test_every_declared_default_is_in_its_range():
    assert settings.check(ridge_head.Config()) == ridge_head.Config()
    with pytest.raises(UserError, match="--penalty"):
        settings.check(ridge_head.Config(penalty=math.nan))


def options_in_messages() -> list[tuple[str, str]]:
    """(command, option) of every ``--option`` in the text of a `UserError`.

    The command is the one that the text says to run, else that of the file; a file of the library
    speaks to whoever trains a rating experiment.
    """
    found = set()
    for top in (HERE, HERE.parent / "metajax"):
        for path in sorted(top.rglob("*.py")):
            source = path.read_text()
            if not ("UserError(" in source and re.search(OPTION, source)):
                continue  # parsing takes most of the time
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError":
                    text = " ".join(filter(None, map(_text, ast.walk(node))))
                    named = re.search(r"-m experiments (\w+)", text)
                    command = named[1] if named else command_of(path)
                    found |= {(command, option) for option in re.findall(OPTION, text)}
    return sorted(found)


def command_of(path: pathlib.Path) -> str:
    """The command that a file is, or is a part of."""
    rest = path.relative_to(HERE.parent).with_suffix("").parts
    if rest[:3] == ("metajax", "data", "logs"):
        return "logs"
    if rest[:2] == ("metajax", "serving"):
        return "serve" if path.stem == "store" else "train"
    if rest[:2] == ("metajax", "commands"):
        return COMMANDS.get(path.stem, path.stem)
    if rest[0] == "metajax":
        return LIBRARY.get(path.stem, "maml")
    return next(PARTS.get(name, name) for name in rest[2:] if find(name))


def _text(node: ast.AST) -> str:
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else ""


def help_of(name: str, capsys) -> str:
    """The list of options of a command."""
    config = {"compare": compare.Compare, "logs": ReadOptions}.get(name)
    if name in metajax.__main__.COMMANDS:
        config = importlib.import_module(f"metajax.commands.{name}").Config
    if config is None:
        config = importlib.import_module(with_config(f"experiments.{find(name)}")).Config
    with pytest.raises(SystemExit):
        command.parse(config, ["--help"])
    return capsys.readouterr().out


def test_an_option_that_a_message_names_is_one(capsys):
    named = options_in_messages()
    assert {("maml", "--split-seed"), ("tables", "--folds")} <= set(named)
    said = {name: help_of(name, capsys) for name in {name for name, _ in named}}
    is_one = lambda name, option: re.search(rf"(?<![\w-]){option}(?![\w-])", said[name])
    assert [pair for pair in named if not is_one(*pair)] == []


def test_compiled_programs_go_where_the_user_says_and_else_to_the_user_cache(monkeypatch, tmp_path):
    name = "jax_compilation_cache_dir"
    before = getattr(jax.config, name)
    monkeypatch.setattr("sys.argv", ["maml", "--seeds", "1"])
    try:
        jax.config.update(name, "/chosen/by/the/user")
        command.cli(lambda config: None, maml.Config)
        assert getattr(jax.config, name) == "/chosen/by/the/user"
        jax.config.update(name, None)
        monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
        command.cli(lambda config: None, maml.Config)
        assert getattr(jax.config, name) == str(tmp_path / "home" / "jax")
        jax.config.update(name, None)
        (tmp_path / "file").touch()
        monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "file"))
        command.cli(lambda config: None, maml.Config)
        assert getattr(jax.config, name) is None, "where nothing can be written, nothing is kept"
    finally:
        jax.config.update(name, before)


def test_the_places_follow_the_custom_of_the_system(monkeypatch):
    monkeypatch.delenv("METAJAX_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert (str(places.cache()), str(places.state())) == ("/c/metajax", "/s/metajax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/me")
    assert str(places.cache()) == "/me/.cache/metajax"
    monkeypatch.setenv("METAJAX_HOME", "/all")
    assert str(places.cache()) == str(places.state()) == "/all"


def test_results_and_pages_lie_in_the_checkout_or_where_the_user_is(monkeypatch):
    monkeypatch.delenv("METAJAX_RESULTS", raising=False)
    assert places.published() == places.CHECKOUT / "paper" / "results"
    assert places.documents() == places.CHECKOUT / "docs"
    monkeypatch.setattr(places, "RESULTS", places.CHECKOUT / "no" / "results")  # installed
    assert (places.published(), places.documents()) == (
        pathlib.Path("results"),
        pathlib.Path("docs"),
    )
