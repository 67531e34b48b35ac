"""Values that make no sense: each is one clear line, before anything is trained."""

import importlib
import re
import sys

import pytest

from experiments import find, with_config
from metajax.benchmark import command, splits
from metajax.data import __main__ as describe
from metajax.settings import Data, SplitOptions
from metajax.types import UserError

HERE = "{here}"
"""Stands for a folder that holds log.csv, of 12 users by 20 items."""
LOG = f"{HERE}/log.csv"
NUMBERS = [
    *("--seeds 0", "--seeds -3", "--seeds 1.5", "--seeds many", "--num-steps 0", "--num-steps 1e3"),
    *("--num-tasks 0", "--num-tasks -1", "--num-support 0", "--num-support -3"),
    *("--num-support 5000", "--hidden 64 -4", "--hidden 0", "--inner-steps -1", "--inner-rate -1"),
    *("--inner-rate nan", "--inner-rate inf", "--outer-rate inf", "--outer-rate -0.1"),
    *("--seeds-at-once -2", "--split-seed -1", "--devices 0", "--preset large", "--fold -1"),
    *("--min-rows 0", "--max-rows -5", "--support-rows 0", "--query-rows 0", "--protocol random"),
    *("--seeds", "--no-such-option", "--redraw yes", "--compute int3", "--num-steps nan"),
    f"--out {LOG}",
    f"--out {LOG}/deeper",
]
FILES = [
    *("--dataset ", "--dataset no-such-set", f"--dataset {HERE}", f"--dataset {HERE}/none.csv"),
    f"--dataset ml-1m --data-dir {HERE}/none",
    f"--dataset ml-1m --data-dir {LOG}",
    f"--dataset {LOG} --user nobody",
    f"--dataset {LOG} --user 9",
    f"--dataset {LOG} --user 0",
    f"--dataset {LOG} --user user --item user",
    f"--dataset {LOG} --scale 5 1",
    f"--dataset {LOG} --scale nan 5",
    f"--dataset {LOG} --scale 2 3",
    f"--dataset {LOG} --scale 1",
    f"--dataset {LOG} --decimal x",
    f"--dataset {LOG} --quote x",
    f"--dataset {LOG} --missing guess",
    f"--dataset {LOG} --encoding klingon",
    f"--dataset {LOG} --separator ;",
    f"--dataset {LOG} --columns user",
    f"--dataset {LOG} --columns a,b,c,d,e,f",
    f"--dataset {LOG} --time-format %Q",
    f"--dataset {LOG} --items {HERE}/none.csv",
    f"--dataset {LOG} --items {HERE}",
    f"--dataset {LOG} --users {LOG} --label none --user 1 --columns user,item",
    f"--dataset {LOG} --min-rows 50 --max-rows 10",
    f"--dataset {LOG} --min-rows 1000000",
    f"--dataset {LOG} --query-rows 1000000",
    f"--dataset {LOG} --protocol users --fold 99",
    f"--dataset {LOG} --protocol file --tasks {HERE}/none.npz",
    f"--dataset {LOG} --protocol file --tasks {LOG}",
    f"--dataset {LOG} --protocol first-k --support-rows 100000",
    f"--dataset {LOG} --protocol time",
    f"--dataset {LOG} --protocol items",
    f"--dataset {LOG} --protocol domains --source-domain none",
]
OTHERS = [
    *("sasrec --window 0", "sasrec --epochs 0", "sasrec --dropout 2", "sasrec --num-heads 0"),
    *("sasrec --rate nan", "sasrec --num-negatives -1", "search maml --trials -1"),
    *("ridge_head --hidden-share 2", "ridge_head --loss cubic", "ridge_head --penalty -1"),
    *("cavia --context -1", "tanp --clusters 0", "mamlpp --last-weight 1.1", "paml --friends -1"),
    *("omniglot --ways 0", "sinusoid --seeds 0", "text_cold --seeds 0", "metaemb --hot -1"),
    *("latency --users 0", "ecommerce --seeds -1", "distill --seeds 0", "protocols --seeds -1"),
]


@pytest.fixture
def here(tmp_path):
    rows = [f"{u},{i},{1 + (u * i) % 5}" for u in range(12) for i in range(20)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,rating", *rows]) + "\n")
    return tmp_path


def config_of(name: str) -> type:
    return importlib.import_module(with_config(f"experiments.{find(name)}")).Config


def said_of(here, monkeypatch, name: str, options: str) -> str:
    """What the command says, once its options are parsed, its log read and split."""

    def main(config):
        if isinstance(getattr(config, "data", None), Data):
            splits.make(config.data, getattr(config, "split", SplitOptions()))

    main.__module__ = __name__
    given = [word.replace(HERE, str(here)) for word in options.split(" ")]
    monkeypatch.setattr(sys, "argv", [name, *given])
    monkeypatch.chdir(here)
    with pytest.raises(SystemExit) as stop:
        command.cli(main, config_of(name))
    assert isinstance(stop.value.code, str), "the exit status is 1"
    return stop.value.code


@pytest.mark.parametrize("options", [*NUMBERS, *FILES])
def test_a_rating_experiment_refuses_it_in_one_line(options, here, monkeypatch):
    said = said_of(here, monkeypatch, "maml", options)
    assert re.match(r"error: \S.{15,}", said) and "\n" not in said.strip(), said


@pytest.mark.parametrize("options", OTHERS)
def test_the_others_refuse_it_in_one_line(options, here, monkeypatch):
    name, _, rest = options.partition(" ")
    said = said_of(here, monkeypatch, name, rest)
    assert re.match(r"error: \S.{15,}", said) and "\n" not in said.strip(), said


@pytest.mark.parametrize("options", [*FILES[:4], *FILES[6:22], f"--dataset {LOG} --min-rows -1"])
def test_describe_refuses_it_in_one_line(options, here):
    given = [word.replace(HERE, str(here)) for word in options.split(" ")]
    with pytest.raises(SystemExit) as stop:
        describe.main(["describe", *given[1:]])
    said = str(stop.value.code)
    assert said.startswith("error: ") and "\n" not in said.strip(), said


def test_a_folder_that_nothing_can_be_written_in_is_told_before_training(here, monkeypatch):
    monkeypatch.setattr(command.os, "access", lambda *_: False)
    said = said_of(here, monkeypatch, "maml", f"--dataset {LOG} --out {HERE}/new")
    assert said.startswith(f"error: --out {here}/new: nothing can be written in {here}")


def test_an_error_of_ours_is_the_only_kind(here):
    with pytest.raises(UserError):
        splits.make(Data(str(here / "none.csv")), SplitOptions())
