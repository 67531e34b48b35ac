"""Checkpoints: resume bit for bit, kills at random moments, damage, strangers, full disks."""

import contextlib
import dataclasses
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tyro.conf import Positional

from metajax.benchmark import command
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.gradient.maml import gradient
from metajax.models import towers
from metajax.training import checkpoint, loop, progress
from metajax.types import UserError

# Orbax leaves its reading threads behind when a file is damaged; they complain when collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parents[2]


def tiny_fit(folder: pathlib.Path | None, num_steps: int = 40, *, rate: float = 0.1, **options):
    """A run of two seeds on a synthetic world, with validation: everything `fit` has to keep."""
    world = LatentUsers(dim=3, num_support=4, num_query=4)
    learner = gradient(towers.vector_mlp((4,)), optax.sgd(rate), 1)
    valid = jax.jit(jax.vmap(world.sample))(jax.random.split(jax.random.key(9), 8))

    def validate(params):
        losses, _ = jax.vmap(learner.loss, (None, 0, 0))(
            params, valid, jax.random.split(jax.random.key(8), 8)
        )
        return jnp.mean(losses)

    return loop.fit(
        loop.recipe(learner, optax.adam(3e-3)),
        loop.world_sampler(world, 4),
        (),
        jax.random.split(jax.random.key(1), 2),
        num_steps,
        block=5,
        validate=validate,
        checkpoint=folder,
        save_every=0.0,
        **options,
    )


def result_bytes(fitted: loop.Fitted) -> bytes:
    """Everything a run ends with but its time, as bytes."""
    state = fitted.state._replace(key=jax.random.key_data(fitted.state.key))
    leaves = jax.tree.leaves((fitted.params, fitted.best_step, fitted.history, state))
    return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)


@pytest.fixture(scope="module")
def unkilled() -> bytes:
    return result_bytes(tiny_fit(None))


def flip_bits(path: pathlib.Path) -> None:
    """Flips a bit in every 32nd byte of the array files of a checkpoint.

    One bit is not enough: the files also hold index nodes that later ones replaced, and a change
    there harms nothing.
    """
    for file in (path / "state").rglob("d/*"):
        if file.is_file():
            content = bytearray(file.read_bytes())
            for place in range(len(content) % 32, len(content), 32):
                content[place] ^= 1
            file.write_bytes(bytes(content))


OTHER_DAMAGE = ("metadata", "empty")


def steps_in(folder: pathlib.Path) -> list[int]:
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def test_round_trip_keeps_types_shapes_and_keys(tmp_path):
    state = {
        "half": jnp.arange(3, dtype=jnp.bfloat16),
        "key": jax.random.split(jax.random.key(3), 2),
        "host": np.array([1.5, np.inf]),
        "step": jnp.int32(7),
        "nothing": optax.EmptyState(),
    }
    with checkpoint.opened(tmp_path, "me") as store:
        assert store.latest(state) is None
        store.save(4, state, {"said": [0.1, None]}, 1.0)
    with checkpoint.opened(tmp_path, "me") as store:
        back = store.latest(state)
    assert back is not None and back.step == 4 and back.notes == {"said": [0.1, None]}
    assert jax.tree.structure(back.tree) == jax.tree.structure(state)
    assert back.tree["half"].dtype == jnp.bfloat16 and back.tree["host"].dtype == np.float64
    np.testing.assert_array_equal(back.tree["host"], state["host"])
    np.testing.assert_array_equal(
        jax.random.uniform(back.tree["key"][1], 3), jax.random.uniform(state["key"][1], 3)
    )


def test_the_last_two_and_the_best_are_kept(tmp_path):
    with checkpoint.opened(tmp_path, "me") as store:
        for step, score in enumerate([3.0, 1.0, 2.0, 5.0, 4.0]):
            store.save(step, {"x": np.full(2, step)}, {}, score)
    assert steps_in(tmp_path) == [1, 3, 4]


def test_what_is_saved_is_what_stood_there_when_save_was_called(tmp_path):
    x = np.zeros(100_000)
    with checkpoint.opened(tmp_path, "me") as store:
        store.save(1, {"x": x}, {}, 0.0)
        x += 1.0
    with checkpoint.opened(tmp_path, "me") as store:
        assert store.latest({"x": x}).tree["x"].max() == 0.0


def test_going_on_ends_bit_for_bit_as_if_never_stopped(tmp_path, unkilled):
    tiny_fit(tmp_path, 25)
    seen = []
    resumed = tiny_fit(tmp_path, 40, report=lambda done, metrics: seen.append(done))
    assert seen == list(range(30, 41, 5))
    assert result_bytes(resumed) == unkilled
    seen.clear()
    again = tiny_fit(tmp_path, 40, report=lambda done, metrics: seen.append(done))
    assert not seen and result_bytes(again) == unkilled and again.seconds == resumed.seconds


class Ended(Exception):
    """Ends a run where a test wants it to."""


def test_a_block_is_saved_in_pieces_and_no_bit_differs(tmp_path, unkilled, monkeypatch):
    """Ended after two of a block's five steps; the same call goes on from there to the end."""
    reached: list[int] = []

    @contextlib.contextmanager
    def ending(title, total, start):
        def update(done, metrics):
            reached.append(done)
            if reached == [2, 4, 5, 7]:
                raise Ended

        yield update

    monkeypatch.setattr(progress, "bar", ending)
    with pytest.raises(Ended):
        tiny_fit(tmp_path, piece=2, title="pieces")
    assert steps_in(tmp_path)[-1] == 7
    reports: list[int] = []
    resumed = tiny_fit(
        tmp_path, piece=2, title="pieces", report=lambda done, metrics: reports.append(done)
    )
    assert reached[4:7] == [9, 10, 12] and reports == list(range(10, 41, 5))
    assert result_bytes(resumed) == unkilled


def test_the_end_of_a_shorter_run_is_not_within_a_block_of_a_longer_one(tmp_path, unkilled):
    """The shorter run ended at 12 by a look at validation that the longer one does not take."""
    tiny_fit(tmp_path, 12, piece=2)
    assert steps_in(tmp_path)[-1] == 12
    assert result_bytes(tiny_fit(tmp_path, 40, piece=2)) == unkilled


def test_fewer_steps_than_are_stored_are_refused(tmp_path):
    tiny_fit(tmp_path, 20)
    with pytest.raises(UserError, match="holds 20 outer steps, more than the 10 asked for"):
        tiny_fit(tmp_path, 10)


@pytest.mark.parametrize("change", ["inner rate", "tree"])
def test_another_runs_checkpoint_is_refused_by_name(tmp_path, change):
    """The inner rate changes no shape: only the compiled program knows it."""
    if change == "inner rate":
        tiny_fit(tmp_path, 10, rate=0.1)
        attempt = lambda: tiny_fit(tmp_path, 10, rate=0.2)
    else:
        with checkpoint.opened(tmp_path, "me") as store:
            store.save(10, {"x": np.zeros(2)}, {}, 0.0)
            store.save(20, {"x": np.zeros(2)}, {}, 0.0)

        def attempt():
            with checkpoint.opened(tmp_path, "me") as store:
                store.latest({"y": np.zeros(2)})

    with pytest.raises(UserError) as refusal:
        attempt()
    message = str(refusal.value)
    assert str(tmp_path) in message and "another run" in message and "\n" not in message


def test_a_flipped_bit_is_seen_and_the_one_before_used(tmp_path, unkilled, capfd):
    tiny_fit(tmp_path, 30)
    newest = steps_in(tmp_path)[-1]
    flip_bits(tmp_path / str(newest))
    resumed = tiny_fit(tmp_path, 40)
    said = capfd.readouterr().err
    assert f"{tmp_path / str(newest)} is damaged" in said and "set aside as damaged-30" in said
    assert result_bytes(resumed) == unkilled
    assert (tmp_path / "damaged-30").is_dir()


@pytest.mark.parametrize(
    "damage", ["truncate", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHER_DAMAGE)]
)
def test_other_damage_is_survived_too(tmp_path, unkilled, damage, capfd):
    tiny_fit(tmp_path, 30)
    path = tmp_path / str(steps_in(tmp_path)[-1])
    if damage == "truncate":
        for file in (path / "state").rglob("d/*"):
            os.truncate(file, file.stat().st_size // 2)
    elif damage == "metadata":
        (path / "state" / "_METADATA").unlink()
    else:
        for file in path.rglob("*"):
            if file.is_file():
                file.unlink()
    assert result_bytes(tiny_fit(tmp_path, 40)) == unkilled
    assert "is damaged" in capfd.readouterr().err


def test_nothing_good_left_is_one_clear_line(tmp_path, capfd):
    tiny_fit(tmp_path, 10)
    for step in steps_in(tmp_path):
        flip_bits(tmp_path / str(step))
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged; remove the folder"):
        tiny_fit(tmp_path, 20)
    capfd.readouterr()


def child(folder: pathlib.Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(HERE), str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        text=True,
    )


def kill_until_done(folder: pathlib.Path, kills: int, seed: int) -> list[int]:
    """Starts the run, kills it at random moments of its training, and lets the last one end.

    Returns the steps each killed process was seen to reach.
    """
    rng = random.Random(seed)
    reached = []
    for _ in range(kills):
        process = child(folder, "40")
        lines = [process.stdout.readline() for _ in range(rng.randint(1, 2))]
        time.sleep(rng.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        reached += [int(line) for line in [*lines, *rest.split()] if line.strip().isdigit()][-1:]
    out, err = child(folder, "40", "--digest").communicate()
    assert "Traceback" not in err, err
    (folder / "final").write_bytes(bytes.fromhex(out.split()[-1]))
    return reached


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_changes_nothing(tmp_path, unkilled, kills):
    reached = kill_until_done(tmp_path, kills, seed=kills)
    assert reached and reached == sorted(reached)
    assert (tmp_path / "final").read_bytes() == unkilled


def test_a_full_disk_is_one_line_and_the_last_good_state_stays(tmp_path, unkilled, monkeypatch):
    tiny_fit(tmp_path, 20)
    full = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: full)
        with pytest.raises(UserError) as refusal:
            tiny_fit(tmp_path, 40)
    told = str(refusal.value)
    assert told.startswith(f"cannot write a checkpoint to {tmp_path}") and "0.0 MB left" in told
    assert "the same command" in told and "\n" not in told
    assert result_bytes(tiny_fit(tmp_path, 40)) == unkilled


@pytest.mark.slow
def test_a_write_that_fails_halfway_leaves_the_last_good_state(tmp_path, unkilled):
    """A limit on the size of files makes the writes of the run fail after they have begun."""
    tiny_fit(tmp_path, 20)
    process = child(tmp_path, "40", "--no-large-files")
    out, err = process.communicate()
    assert process.returncode == 1, (out, err)
    assert "error: cannot write a checkpoint to" in err
    assert result_bytes(tiny_fit(tmp_path, 40)) == unkilled


def test_a_signal_ends_the_run_in_one_line_and_the_same_command_goes_on(tmp_path):
    """SIGTERM, then the same run again and Ctrl-C, then to the end: as if never stopped."""
    for number, said in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")):
        process = child(tmp_path, "100000", "--as-a-command")
        first = int(process.stdout.readline())
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number, err
        assert err.startswith(f"stopped by {said}") and err.count("\n") == 1
        assert "the same command goes on" in err
        reached = [first, *map(int, out.split())]
        assert abs(steps_in(tmp_path)[-1] - reached[-1]) <= 5, "the last block or a neighbor"
    assert first > 5, "the second process went on from the first"
    assert "damaged" not in "".join(p.name for p in tmp_path.iterdir())
    resumed = tiny_fit(tmp_path, max(steps_in(tmp_path)[-1], 40))
    straight = tiny_fit(None, resumed.history["loss"].shape[1] * 5)
    assert result_bytes(resumed) == result_bytes(straight)


@dataclasses.dataclass(frozen=True)
class Told:
    """The command line of the child process that is stopped by signals."""

    folder: Positional[pathlib.Path]
    num_steps: Positional[int]
    as_a_command: bool = False


def as_a_command(told: Told) -> None:
    """The run as an experiment's ``main`` has it."""
    tiny_fit(told.folder, told.num_steps, report=lambda done, _: print(done, flush=True))


def main(folder: str, num_steps: str, *options: str) -> None:
    """The run of the child process."""
    if "--as-a-command" in options:
        return command.cli(as_a_command, Told)
    if "--no-large-files" in options:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
    told = lambda done, metrics: print(done, flush=True)
    try:
        fitted = tiny_fit(pathlib.Path(folder), int(num_steps), report=told)
    except UserError as error:
        sys.exit(f"error: {error}")
    if "--digest" in options:
        print(result_bytes(fitted).hex(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
