"""The wheel: one top-level package, whose library and experiments run in an empty folder."""

import os
import pathlib
import re
import subprocess
import sys
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, str(ROOT), "--wheel-dir", str(folder)], check=True, capture_output=True)
    (built,) = folder.glob("metajax-*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> dict[str, str]:
    """An environment in which the wheel's files come before the checkout's."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return dict(os.environ, PYTHONPATH=str(folder), METAJAX_DATA=str(folder / "nowhere"))


def run(where: pathlib.Path, environment: dict[str, str], *arguments: str) -> str:
    """What Python prints in an empty folder, in which no checkout can be found by chance."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=where, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_wheel_holds_one_package(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"metajax"}
    assert "metajax/experiments/methods/maml.py" in names
    assert "metajax/data/datasets.toml" in names
    assert not [name for name in names if "test" in name or name.startswith("paper")]


def test_the_experiments_of_the_wheel_are_listed_and_run(unpacked, tmp_path):
    (tmp_path / "experiments").mkdir()  # a folder of the user's own hides nothing
    (tmp_path / "experiments" / "__init__.py").write_text("raise ImportError('not this one')")
    listed = run(tmp_path, unpacked, "-m", "metajax", "experiments")
    assert "python -m metajax.experiments NAME" in listed and "  maml " in listed
    small = ("--dataset", "synthetic", "--seeds", "1", "--num-steps", "4", "--num-tasks", "2")
    shown = run(tmp_path, unpacked, "-m", "metajax", "experiments", "fold_in", *small)
    assert "A2 fold-in" in shown and (tmp_path / "out").is_dir()


@pytest.mark.slow
def test_the_core_installation_runs_the_readme_in_an_empty_folder(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "read_me.py").write_text("\n".join(blocks))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for arguments in (["read_me.py"], ["-m", "metajax", "experiments"]):
        subprocess.run([python, *arguments], cwd=tmp_path, env=environment, check=True)
    command = tmp_path / "env" / "bin" / "metajax"
    subprocess.run([command, "--help"], cwd=tmp_path, env=environment, check=True)
