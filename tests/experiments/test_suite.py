"""The queue of experiments: nothing twice, nothing lost, one failure stops nobody."""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from small_records import record

from experiments.tools import chosen, suite
from metajax.results import records
from metajax.types import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAKE = """
import dataclasses, pathlib, sys, time

@dataclasses.dataclass(frozen=True)
class Config:
    value: int = 0
    takes: float = 0.05
    fails: bool = False
    out: pathlib.Path | None = None

if __name__ == "__main__":
    import tyro
    config = tyro.cli(Config)
    with (config.out.parent / "starts").open("a") as file:
        file.write(f"{config.value}\\n")
    print("started", flush=True)
    time.sleep(config.takes)
    if config.fails:
        sys.exit("error: the loss is not finite")
    (config.out / "fake.npz").write_bytes(b"")
    (config.out / "fake.record").write_text("{}")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an experiment that only notes that it was started; starts(), declare(text)."""
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "member.py").write_text(FAKE)
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "fakes"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def declare(place: pathlib.Path, *settings: str) -> pathlib.Path:
    path = place / "s.toml"
    tables = [f'[[members]]\nexperiment = "fakes.member"\n{s}\n' for s in settings]
    path.write_text("\n".join(tables))
    return path


def starts(place: pathlib.Path) -> collections.Counter:
    path = place / "out" / "starts"
    return collections.Counter(path.read_text().split() if path.is_file() else [])


def command(place: pathlib.Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.tools.suite",
            str(place / "s.toml"),
            "--out",
            "out",
            *options,
        ],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def states(place: pathlib.Path) -> dict[str, str]:
    grid = suite.overview(suite.read(place / "s.toml"), place / "out")
    return {row[0]: row[1] for row in grid.rows}


def test_lists_stand_for_all_combinations(place):
    members = suite.read(declare(place, "value = [1, 2]\ntakes = [0.1, 0.2]"))
    assert [m.name for m in members] == [
        *("member-1-0.1", "member-1-0.2", "member-2-0.1", "member-2-0.2")
    ]
    assert members[0].options == ("--value", "1", "--takes", "0.1")
    assert len({m.config_hash for m in members}) == 4


def test_an_argument_without_a_flag_stands_after_the_name(place):
    (place / "s.toml").write_text(
        "[[members]]\nexperiment = ['tables T1', 'tables T2']\ntrials = 3\n"
    )
    members = suite.read(place / "s.toml")
    assert [m.name for m in members] == ["tables-T1-3", "tables-T2-3"]
    assert members[0].options == ("T1", "--trials", "3")
    (place / "s.toml").write_text("[[members]]\nexperiment = 'tables T9'\n")
    with pytest.raises(UserError, match="T9"):
        suite.read(place / "s.toml")


def test_the_hash_is_the_same_imported_and_run_as_a_program(place):
    """The program prints the hash of its own configuration, as a record would hold it."""
    (place / "fakes" / "told.py").write_text(
        "import dataclasses, pathlib\nfrom metajax.results import records\n\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Config:\n    out: pathlib.Path | None = None\n\n"
        "if __name__ == '__main__':\n    print(records.config_hash(Config(pathlib.Path('x'))))\n"
    )
    (place / "s.toml").write_text("[[members]]\nexperiment = 'fakes.told'\n")
    arguments = [sys.executable, "-m", "fakes.told"]
    told = subprocess.run(arguments, cwd=place, capture_output=True, text=True, check=True).stdout
    assert suite.read(place / "s.toml")[0].config_hash == told.strip()


def test_two_processes_share_a_queue_and_do_nothing_twice(place):
    declare(place, "value = [0, 1, 2, 3, 4, 5, 6, 7]\ntakes = 0.4")
    workers = [command(place) for _ in range(2)]
    said = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert starts(place) == {str(i): 1 for i in range(8)}
    assert set(states(place).values()) == {"done"}
    done = [out.count(": done") for out, _ in said]
    assert sum(done) == 8 and min(done) >= 1, "one process did all the work"


def test_what_is_done_is_skipped_until_its_configuration_changes(place):
    members = suite.read(declare(place, "value = [1, 2]"))
    assert suite.work(members, place / "out", True) == ["member-1", "member-2"]
    assert suite.work(members, place / "out", True) == []
    changed = [members[0]._replace(config_hash="another"), members[1]]
    assert suite.work(changed, place / "out", True) == ["member-1"]
    (place / "out" / "member-2" / "fake.record").unlink()
    assert states(place)["member-2"] == "to do"


def test_what_is_done_is_to_do_again_when_its_code_changes(place):
    """Of the experiment and of what it imports; a comment or a docstring changes nothing."""
    program, beside = place / "fakes" / "member.py", place / "fakes" / "beside.py"
    beside.write_text("RATE = 1\n")
    program.write_text(f"from .beside import RATE\n{FAKE}".replace("from .", "from fakes."))
    path = declare(place, "value = 1")
    assert suite.work(suite.read(path), place / "out", True) == ["member-1"]
    beside.write_text('"""A rate."""\nRATE = 1  # of a step\n')
    program.write_text(f'"""An experiment."""\n{program.read_text()}')
    assert suite.work(suite.read(path), place / "out", True) == []
    beside.write_text("RATE = 2\n")
    grid = suite.overview(suite.read(path), place / "out")
    assert grid.rows[0][1] == "to do" and grid.rows[0][4] == "its code has changed"
    assert suite.work(suite.read(path), place / "out", True) == ["member-1"]


def test_the_code_of_a_method_is_what_it_imports_and_nothing_else():
    """By hand, from the import lines: MAML's file, its learner; not another method, nor JAX."""
    module = "experiments.methods.maml"
    seen = chosen.code_of(module).keys()
    assert {module, "metajax.learners.gradient.maml", "metajax.benchmark.harness"} < seen
    assert not {"experiments.methods.cnp", "metajax.serving.web", "jax", "numpy"} & seen
    assert chosen.code_hash(module) != chosen.code_hash("experiments.methods.cnp")


def test_members_that_name_no_experiment_are_of_the_module_given(place):
    path = place / "s.toml"
    path.write_text("[[members]]\nvalue = 3\n")
    (member,) = suite.read(path, "fakes.member")
    assert (member.name, member.module) == ("member-3", "fakes.member")
    assert suite.work([member], place / "out", True) == ["member-3"] and starts(place) == {"3": 1}
    with pytest.raises(UserError, match="names no experiment; name one, or give --module"):
        suite.read(path)
    with pytest.raises(UserError, match=r"no experiment in module 'fakes\.nobody'"):
        suite.read(path, "fakes.nobody")


def test_one_failure_stops_nobody_and_is_told_and_tried_again(place):
    declare(place, "value = 1", "value = 2\nfails = true", "value = 3")
    worker = command(place)
    out, err = worker.communicate()
    assert worker.returncode == 1
    assert err == "error: 1 failed: member-2-True; see log.txt in its folder\n"
    assert "the loss is not finite" in out
    assert states(place) == {"member-1": "done", "member-2-True": "failed", "member-3": "done"}
    members = suite.read(place / "s.toml")
    assert suite.work(members, place / "out", retry=False) == []
    assert suite.work(members, place / "out", retry=True) == ["member-2-True"]


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_held_until_its_member_ends(place):
    """The member outlives the suite that started it: nobody else may start it meanwhile."""
    declare(place, "value = 1\ntakes = 3.0")
    worker = command(place)
    deadline = time.time() + 60
    while not starts(place) and time.time() < deadline:
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert states(place) == {"member-1-3.0": "running"}
    while states(place) == {"member-1-3.0": "running"} and time.time() < deadline:
        time.sleep(0.1)
    assert states(place) == {"member-1-3.0": "to do"}, "it ended, but nobody was there to see it"
    assert starts(place) == {"1": 1}
    assert suite.work(suite.read(place / "s.toml"), place / "out", True) == ["member-1-3.0"]


def test_a_stopped_suite_stops_its_member_and_goes_on_later(place):
    declare(place, "value = 1\ntakes = 30.0")
    worker = command(place)
    deadline = time.time() + 60
    while not starts(place) and time.time() < deadline:
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    began = time.time()
    _, err = worker.communicate(timeout=20)
    assert worker.returncode == 128 + signal.SIGTERM and time.time() - began < 15
    assert err.startswith("stopped by SIGTERM") and err.count("\n") == 1
    assert states(place) == {"member-1-30.0": "to do"}, "stopped is not failed"


def test_the_estimate_scales_an_earlier_record_by_steps_and_seeds(tmp_path):
    """300 steps x 2 seeds took 60 s; 600 x 4 should take 240 s; another data set counts less."""
    for dataset, seconds in (("ml-1m", 60.0), ("ml-100k", 7.0)):
        config = {**record().config, "dataset": dataset}
        known = {"seconds": {"total": seconds}, "config_hash": f"of {dataset}"}
        made = record("imagined", config=config, **known)
        records.write(tmp_path / "out" / dataset, "made", made)
    member = suite.Member("m", "experiments.imagined", ("--dataset", "ml-1m"), "x", 600 * 4)
    assert suite.estimate(member, tmp_path / "out" / "suite") == pytest.approx(240.0)
    arms = records.arms_of("AB", seconds={"A": 20.0, "B": 10.0})
    made = record("few", config={"num_steps": 100, "seeds": 1}, seconds={}, arms=arms)
    records.write(tmp_path / "out" / "few", "few", made)
    classic = member._replace(module="experiments.few", options=(), steps=200)
    assert suite.estimate(classic, tmp_path / "out" / "suite") == pytest.approx(60.0)
    same = member._replace(config_hash="of ml-100k")
    assert suite.estimate(same, tmp_path / "out" / "suite") == pytest.approx(4 * 7.0)
    called = record("called", config={}, seconds={"total": 9.0})
    records.write(tmp_path / "out" / "called", "imagined-T4-ml-20m", called)
    table = member._replace(options=("T4", "--parts", "ml-20m"))
    assert suite.estimate(table, tmp_path / "out" / "suite") == pytest.approx(9.0)
    unknown = member._replace(module="experiments.unheard")
    assert suite.estimate(unknown, tmp_path / "out" / "suite") is None


def test_a_dry_run_starts_and_makes_nothing(place):
    declare(place, "value = [1, 2]")
    out, err = command(place, "--dry-run").communicate()
    assert "member-2" in out and "to do" in out and not err
    assert not starts(place) and not list((place / "out").iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("members = 3 3", "is no suite"),
        ("[[members]]\nexperiment = 'nothing'\n", "no experiment 'nothing'"),
        ("[[members]]\nexperiment = 'maml'\nstepz = 3\n", "maml: "),
        ("[[members]]\nexperiment='maml'\n[[members]]\nexperiment='maml'\n", "declares maml twice"),
    ],
)
def test_a_wrong_suite_is_one_line(tmp_path, text, said):
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        suite.read(path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_suites_that_come_along_are_understood():
    for path in suite.SUITES.glob("*.toml"):
        assert suite.read(path), path
    assert os.path.basename(suite.SUITES) == "suites"
