"""The README's code runs as it stands, and what it says of the repository is so."""

import pathlib
import re

import pytest

import experiments

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_examples_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 3
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert "The " in capsys.readouterr().out and (tmp_path / "out/model/README.md").is_file()
    first, last = names["fitted"].history["loss"][:, 0], names["fitted"].history["loss"][:, -1]
    assert (last < first).all(), "the README's learner does not learn"


@pytest.mark.parametrize("name", re.findall(r"^\| `(\w+)`", README, flags=re.MULTILINE))
def test_each_experiment_in_the_table_exists(name):
    assert experiments.find(name)


def test_the_tree_is_true():
    tree = README.split("## The house")[1].split("```")[1]
    for path in re.findall(r"^  (\S+(?: \S+\.py)*) {2,}", tree, flags=re.MULTILINE):
        for name in path.split():
            assert (ROOT / "metajax" / name).exists(), name
