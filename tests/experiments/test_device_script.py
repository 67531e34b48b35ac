"""The script of all checks on a card, with an interpreter that does as the test says."""

import os
import pathlib
import subprocess
import tarfile

import pytest

from experiments import HERE

SCRIPT = HERE / "speed" / "device.sh"
STUB = """#!/usr/bin/env bash
# what a part does: writes its record, then fails or sleeps if it is the one that is told to
told="$*"
out=
while [ $# -gt 0 ]; do [ "$1" = --out ] && out=$2; shift; done
echo "$told" >> "$CALLS"
[ -z "${KEEPS:-}" ] || mkdir -p "$out/$KEEPS"
case "$told" in *"$SLOW"*) sleep 30 ;; esac
if [ -n "$out" ]; then mkdir -p "$out" && echo "$told" > "$out/it.record"; fi
ls "$OUT"/*/*.record >> "$CALLS" 2>&1
case "$told" in *"$FAILING"*) exit 3 ;; esac
"""
NOTHING = "no such part"
EVERY = ("benchmark", "rate", "omniglot", "pair-float32", "pair-bfloat16", "pair-difference")
EVERY += ("ml_1m-float32", "ml_1m-bfloat16", "ml_1m-difference", "precision", "contract")


def script(tmp_path: pathlib.Path, seconds: int = 560, **told: str) -> subprocess.CompletedProcess:
    """The script in a folder of its own, run with a stand-in for Python."""
    stub, data = tmp_path / "python", tmp_path / "data"
    stub.write_text(STUB)
    stub.chmod(0o755)
    for name in ("omniglot", "ml-1m"):
        (data / name).mkdir(parents=True)
    place = dict(OUT=str(tmp_path / "out"), PYTHON=str(stub), METAJAX_DATA=str(data))
    place |= dict(CALLS=str(tmp_path / "calls"), FAILING=NOTHING, SLOW=NOTHING) | told
    return subprocess.run(
        [str(SCRIPT), str(seconds)], env=os.environ | place, capture_output=True, text=True
    )


def test_every_part_is_run_and_its_record_is_safe_before_the_next(tmp_path):
    done = script(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert all(f"{name}: exit 0" in summary for name in EVERY) and "failed: none" in summary
    calls = (tmp_path / "calls").read_text()
    assert "--device gpu --peers --quick" in calls and "-v -m  -p" in calls
    assert "tests/decide/test_contract.py tests/online/test_online_contract.py" in calls
    for how in ("float32", "bfloat16"):
        assert f"--steps 3000 --compute {how}" in calls
        assert (tmp_path / "out" / f"pair-{how}" / "it.record").is_file()
    second = calls.splitlines()[2:4]
    assert "omniglot" in second[0] and second[1].endswith("benchmark/it.record"), second
    assert f"compare {tmp_path}/out/pair-float32 {tmp_path}/out/pair-bfloat16" in calls
    with tarfile.open(tmp_path / "out" / "logs.tar.gz") as logs:
        assert {f"./{name}.log" for name in EVERY} <= set(logs.getnames())


def test_a_part_that_fails_does_not_stop_the_others_and_is_in_the_exit_status(tmp_path):
    done = script(tmp_path, FAILING="speed.precision")
    assert done.returncode == 1
    assert "precision: exit 3" in done.stdout and "1 parts failed: precision" in done.stdout
    assert "contract: exit 0" in done.stdout
    assert (tmp_path / "out" / "precision" / "it.record").is_file()


@pytest.mark.parametrize("keeps, status", [("", 1), ("20", 0)])
def test_only_a_training_that_goes_on_later_may_be_stopped_at_its_time(tmp_path, keeps, status):
    """An eighth of nine seconds; the stand-in would take thirty."""
    done = script(tmp_path, seconds=9, SLOW="--ways 20", PARTS="rate", KEEPS=keeps)
    assert "rate: exit 124 after 1 s" in done.stdout or "rate: exit 124 after 2 s" in done.stdout
    assert done.returncode == status, done.stdout
    with tarfile.open(tmp_path / "out" / "omniglot.tar.gz") as kept:
        assert ("omniglot/20" in kept.getnames()) == (keeps == "20")


def test_a_part_without_data_or_time_says_so(tmp_path):
    done = script(tmp_path, seconds=60, PARTS="omniglot pair precision", METAJAX_DATA="/nowhere")
    assert "omniglot: left out, no omniglot in /nowhere" in done.stdout
    assert "precision: no time left" in done.stdout and done.returncode == 1
