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


def test_the_experiments_of_the_wheel_are_listed(unpacked, tmp_path):
    (tmp_path / "experiments").mkdir()  # a folder of the user's own hides nothing
    (tmp_path / "experiments" / "__init__.py").write_text("raise ImportError('not this one')")
    listed = run(tmp_path, unpacked, "-m", "metajax", "experiments")
    assert "python -m metajax.experiments NAME" in listed and "  maml " in listed


@pytest.mark.slow
def test_an_experiment_of_the_wheel_runs(unpacked, tmp_path):
    small = ("--dataset", "synthetic", "--seeds", "1", "--num-steps", "4", "--num-tasks", "2")
    shown = run(tmp_path, unpacked, "-m", "metajax", "experiments", "fold_in", *small)
    assert "A2 fold-in" in shown and (tmp_path / "out").is_dir()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    """The programs of an environment with the wheel and its core dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("core") / "env"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    return folder / "bin"


def started(program: pathlib.Path, where: pathlib.Path, *arguments: str):
    """A program of another environment, run in a folder: its exit status and what it says."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [program, *arguments], cwd=where, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_core_installation_runs_the_readme_in_an_empty_folder(installed, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "read_me.py").write_text("\n".join(blocks))
    for arguments in (["read_me.py"], ["-m", "metajax", "experiments"]):
        done = started(installed / "python", tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
    command = installed / "metajax"
    assert "recommend MODEL" in started(command, tmp_path, "--help").stdout
    said = "The Silent Planet=5, The Last Harbor=2"
    done = started(command, tmp_path, "recommend", "out/model", "--ratings", said, "--top", "3")
    assert done.returncode == 0 and done.stdout.startswith("1  "), done.stderr


@pytest.mark.slow
def test_what_an_extra_is_needed_for_is_one_line_and_works_with_it(installed, wheel, tmp_path):
    rows = (f"{u},{i},{1 + (u * i + u) % 5}" for u in range(40) for i in range(12) if (u + i) % 4)
    (tmp_path / "ratings.csv").write_text("\n".join(["user,item,rating", *rows]) + "\n")
    command = installed / "metajax"
    train = ("train", "ratings.csv", "--out", "model", "--num-steps", "5", "--num-tasks", "4")
    done = started(command, tmp_path, *train)
    assert done.returncode != 0 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "pip install 'metajax[data]'" in done.stderr and not (tmp_path / "model").exists()
    extra = [installed / "python", "-m", "pip", "install", "--quiet", f"{wheel}[data]"]
    subprocess.run(extra, check=True)
    done = started(command, tmp_path, *train)
    assert done.returncode == 0 and "saved: " in done.stdout, done.stderr
    (tmp_path / "new.csv").write_text("user,item,rating\nann,3,5\nbob,4,1\n")
    done = started(command, tmp_path, "recommend", "model", "--events", "new.csv", "--top", "2")
    assert done.returncode == 0 and "ann:" in done.stdout and "bob:" in done.stdout, done.stderr
    done = started(command, tmp_path, "serve", "model", "--port", "0")
    assert done.returncode != 0 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "pip install 'metajax[serve]'" in done.stderr
