"""The run folder: metrics line by line, events, checksums."""

import json
import shutil
import subprocess

import pytest

from metajax.training import journal
from metajax.types import UserError


def test_lines_of_two_arms_and_a_run_that_goes_on(tmp_path):
    """The run reaches step 30, is killed while it writes a line, and goes on from step 10."""
    with journal.opened(tmp_path, "A3 joint") as keep:
        for step in (10, 20, 30):
            keep(step, {"loss": 1.0 / step})
    with journal.opened(tmp_path, "A6 MAML") as keep:
        keep(10, {"loss": 7.0})
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"arm": "A6 MAML", "st')
    with journal.opened(tmp_path, "A3 joint") as keep:
        keep(20, {"loss": 5.0})
    found = [(m["arm"], m["step"], m["loss"]) for m in journal.metrics(path)]
    assert found == [("A3 joint", 10, 0.1), ("A6 MAML", 10, 7.0), ("A3 joint", 20, 5.0)]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"arm": "a", "step": 1}\nnot json\n{"arm": "a", "step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged"):
        journal.metrics(path)


def test_no_folder_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with journal.opened(None, "A3") as keep:
        keep(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_events_are_readable_and_stand_once(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    with journal.opened(tmp_path, "A3 joint") as keep:
        keep(10, {"loss": 0.5, "valid": 0.75})
        keep(20, {"loss": 0.25, "valid": 0.5})
    (file,) = (tmp_path / "tensorboard" / "A3-joint").iterdir()
    content, values, framed, place = file.read_bytes(), [], [], 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 8], "little")
        event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        values += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        place += 16 + length
        framed += [content[place - 4 - length : place - 4]]
    record_writer = pytest.importorskip("tensorboardX.record_writer")
    theirs = record_writer.RecordWriter(str(tmp_path / "theirs"))
    for data in framed:
        theirs.write(data)
    theirs.close()
    assert content == (tmp_path / "theirs").read_bytes(), "lengths and check sums as theirs"
    assert values == [
        (10, "loss", 0.5),
        (10, "valid", 0.75),
        (20, "loss", 0.25),
        (20, "valid", 0.5),
    ]


def test_checksums_are_those_of_b2sum_and_find_a_changed_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").write_text(json.dumps({"x": 1}))
    (tmp_path / "b.npz").write_bytes(b"12345")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "big").write_bytes(b"0")
    (tmp_path / "maml-seed0" / "100" / "state").mkdir(parents=True)
    (tmp_path / "maml-seed0" / "100" / "_CHECKPOINT_METADATA").write_text("{}")
    (tmp_path / "maml-seed0" / "100" / "state" / "d").write_bytes(b"1")
    (tmp_path / "log.txt").write_text("the suite goes on writing here")
    journal.write_checksums(tmp_path)
    assert journal.check(tmp_path) == 2
    if shutil.which("b2sum"):
        subprocess.run(["b2sum", "--check", "--strict", "CHECKSUMS"], cwd=tmp_path, check=True)
    (tmp_path / "b.npz").write_bytes(b"12346")
    with pytest.raises(UserError, match=r"b\.npz is not what the run wrote"):
        journal.check(tmp_path)
    (tmp_path / "b.npz").unlink()
    with pytest.raises(UserError, match=r"b\.npz is missing"):
        journal.check(tmp_path)


def test_peak_memory_is_at_least_what_is_held():
    held = bytearray(150_000_000)
    for i in range(0, len(held), 4096):
        held[i] = 1
    assert journal.peak_memory()["host_mb"] > 150
