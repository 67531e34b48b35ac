"""The TFDS builders and their cache: equal to the readers, whole or absent, and never online."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from metajax.data import builders
from metajax.data.builders import cache, manifest, tasks
from metajax.data.sources import behaviors, labeled, movielens, named, published
from metajax.types import UserError

FILES = {
    "ratings.dat": "6::20::5::978300760\n2::10::3::978300761\n2::20::1::978300762\n"
    "6::10::2::978300763\n9::10::2::978300763\n",
    "users.dat": "2::M::56::16::70072\n6::F::1::10::48067\n",
    "movies.dat": "10::Old (1998)::Drama|Comedy\n20::Heat (1995)::Drama\n",
}
# A process that prepares the small set; {patch} changes how it does so.
PROCESS = """
import os, pathlib, sys, time
from metajax.data.builders import cache, manifest
manifest.MANIFESTS = (pathlib.Path(sys.argv[1]) / "datasets.toml",)
write, here = cache._write, pathlib.Path(sys.argv[1])
{patch}
print(cache.prepare("ml-1m", here / "data", here / "cache"))
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test may open a connection."""

    def refuse(*_, **__):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small ml-1m in ``data/ml-1m`` with a manifest that knows its checksums."""
    folder = tmp_path / "data" / "ml-1m"
    folder.mkdir(parents=True)
    sums = []
    for file, text in FILES.items():
        (folder / file).write_text(text)
        sums.append(f'"{file}" = "{hashlib.sha256(text.encode()).hexdigest()}"')
    write_manifest(tmp_path, "\n".join(sums))
    monkeypatch.setattr(manifest, "MANIFESTS", (tmp_path / "datasets.toml",))
    return tmp_path


def write_manifest(folder, sums, archive=""):
    about = 'title = "T"\nhomepage = "https://example.org"\nlicence = "L"\ncitation = "C"\n'
    needs = f"needs = [{json.dumps(list(FILES))}]\n"
    (folder / "datasets.toml").write_text(f"[ml-1m]\n{about}{needs}{archive}[ml-1m.sha256]\n{sums}")


def prepare(folder, **options):
    return builders.prepare("ml-1m", folder / "data", folder / "cache", **options)


def assert_equal(one, two):
    """Two tables agree in everything, values and types."""
    assert one.checksum() == two.checksum()
    assert (one.name, one.scale) == (two.name, two.scale)
    for name in ("user_ids", "item_ids", "item_titles", "item_year"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert one.user_features.sizes == two.user_features.sizes
    assert one.item_features.sizes == two.item_features.sizes


def test_prepared_equals_read(small):
    table = builders.load("ml-1m", small / "data", small / "cache")
    assert_equal(table, movielens.ml_1m(small / "data"))
    users = builders.source(prepare(small), "user_tasks")
    assert len(users) == 3
    example = users[1]  # user 6, the second in order
    assert example["user_id"] == b"6"
    np.testing.assert_array_equal(example["row"], [0, 3])
    np.testing.assert_array_equal(example["item"], [1, 0])
    np.testing.assert_array_equal(example["label"], [5, 2])
    np.testing.assert_array_equal(example["user_gender"], [1])  # F before M
    assert example["state"].size == 0
    item = builders.source(prepare(small), "item_table")[0]
    assert (item["item_id"], item["title"], item["released"]) == (b"10", b"Old", 1998)
    np.testing.assert_array_equal(item["item_genre"], [2, 1])
    assert "tensorflow" not in sys.modules


def test_prepared_once_and_anew_when_the_files_change(small, monkeypatch):
    first = prepare(small)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write", lambda *_: pytest.fail("written twice"))
        assert prepare(small) == first
    write_manifest(small, "")  # no checksums: any file will do
    path = small / "data" / "ml-1m" / "ratings.dat"
    path.write_text(path.read_text() + "9::20::4::978300799\n")
    second = prepare(small)
    assert second != first and len(cache.assemble(second)) == 6 and len(cache.assemble(first)) == 5


def test_unpublished_files_are_refused(small):
    (small / "data" / "ml-1m" / "users.dat").write_text(FILES["users.dat"].replace("56", "50"))
    with pytest.raises(UserError, match=r"users.dat is not the published file .*example.org"):
        prepare(small)
    assert not list((small / "cache").glob("ml-1m*"))


def test_absent_files_are_named(small, monkeypatch):
    (small / "data" / "ml-1m" / "movies.dat").unlink()
    for folder in (small / "data", None):
        monkeypatch.setenv("METAJAX_DATA", str(small / "data"))
        with pytest.raises(UserError, match=r"put ratings.dat, .* in .*data/ml-1m; from") as caught:
            builders.prepare("ml-1m", folder, small / "cache", download=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"no data set 'ml-2m'; the known ones are .*omniglot28"):
        builders.prepare("ml-2m", small / "data", small / "cache")
    with pytest.raises(UserError, match="no data folder"):
        builders.prepare("ml-1m", small / "nowhere", small / "cache")
    with pytest.raises(UserError, match="holds images"):
        builders.load("omniglot28", small / "data", small / "cache")
    with pytest.raises(UserError, match="no prepared user_tasks"):
        builders.source(small, "user_tasks")


def archive_of(folder, files, monkeypatch):
    """Moves the small set into an archive that the manifest and TFDS know; its url."""
    path, url = folder / "data" / "small.zip", "https://example.org/small.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in files:
            packed.writestr(f"ml-1m/{file}", FILES[file])
            (folder / "data" / "ml-1m" / file).unlink()
        packed.writestr("../outside.dat", "never written")
    known = manifest.digest(path)
    entry = f'url = "{url}"\narchive = "small.zip"\narchive_sha256 = "{known}"\n'
    write_manifest(folder, "", entry)
    info = tfds.download.checksums.UrlInfo(path.stat().st_size, known, "small.zip")
    for kind in (tasks.UserTasks, tasks.ItemTable):
        monkeypatch.setattr(kind, "url_infos", {url: info}, raising=False)
    return path


def test_archive_is_read_where_it_lies(small, monkeypatch):
    expected = movielens.ml_1m(small / "data")
    path = archive_of(small, FILES, monkeypatch)
    assert_equal(cache.assemble(prepare(small)), expected)
    assert not list(small.rglob("outside.dat"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"small.zip is not the published file"):
        prepare(small)
    path.unlink()
    with pytest.raises(UserError, match=r"or small.zip in .*data \(or allow the download\)"):
        prepare(small)


def test_archive_without_a_wanted_file(small, monkeypatch):
    archive_of(small, ["ratings.dat", "users.dat"], monkeypatch)
    with pytest.raises(UserError, match=r"without ratings.dat, users.dat, movies.dat"):
        prepare(small)
    assert not list((small / "cache").glob("*ml-1m-*"))


def test_download_without_a_connection(small, monkeypatch):
    archive_of(small, FILES, monkeypatch).unlink()

    def fail(self, url):
        raise ConnectionError(f"no way to\n{url}")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    with pytest.raises(UserError, match=r"small.zip was not downloaded: no way to") as caught:
        prepare(small, download=True)
    assert "\n" not in str(caught.value)


def start(folder, patch):
    command = [sys.executable, "-c", PROCESS.format(patch=patch), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once(small):
    """Both meet before either writes; one writes, both get the same complete folder."""
    patch = """
def slow(*arguments):
    (here / f"wrote-{os.getpid()}").touch()
    time.sleep(0.3)
    write(*arguments)
cache._write = slow
(here / f"ready-{os.getpid()}").touch()
while len(list(here.glob("ready-*"))) < 2:
    time.sleep(0.01)
"""
    processes = [start(small, patch) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert len(list(small.glob("wrote-*"))) == 1
    assert not list((small / "cache").glob("*.partial"))
    assert_equal(cache.assemble(prepare(small)), movielens.ml_1m(small / "data"))


def test_a_killed_process_leaves_nothing_that_looks_complete(small):
    patch = """
def stuck(*arguments):
    write(*arguments)
    print("written", flush=True)
    time.sleep(100)
cache._write = stuck
"""
    process = start(small, patch)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()
    assert list((small / "cache").glob(".ml-1m-*.partial"))
    assert not list((small / "cache").glob("ml-1m-*"))
    assert_equal(cache.assemble(prepare(small)), movielens.ml_1m(small / "data"))
    assert not list((small / "cache").glob(".ml-1m-*.partial"))


def test_damaged_cache_is_noticed(small):
    folder = prepare(small)
    path = next(folder.glob("user_tasks/*/*/metadata.json"))
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"checksum": "0" * 16}))
    with pytest.raises(UserError, match="damaged; remove the folder"):
        cache.assemble(folder)


def test_command_line(small, capsys):
    from metajax.data.builders import __main__ as command

    command.main(["ml-1m", "--data-dir", str(small / "data"), "--cache", str(small / "cache")])
    assert capsys.readouterr().out == f"{prepare(small)}\n"
    with pytest.raises(SystemExit, match="error: no data folder"):
        command.main(["ml-1m", "--data-dir", str(small / "nowhere")])


def test_manifest_is_complete():
    entries = manifest.read()
    unbuilt = {"coat"}  # chosen and random ratings of the same people: no single log
    built = {config.entry for config in (*tasks.CONFIGS, *tasks.IMAGES, *tasks.LABELED)}
    assert tuple(config.name for config in tasks.LABELED) == cache.LABELED
    assert set(entries) == built | unbuilt and not built & unbuilt
    assert {config.name for config in tasks.CONFIGS} == set(named.READERS)
    for entry in entries.values():
        assert entry.title and entry.homepage.startswith("https://") and entry.needs
        assert entry.licence and "\n" not in entry.licence and entry.citation
        assert all(len(value) == 64 for value in entry.sha256.values())
        assert set(entry.needs[0]) <= set(entry.sha256)
    known = tasks.UserTasks.url_infos
    for entry in entries.values():
        if entry.url:
            assert known[entry.url].checksum == entry.archive_sha256
            assert known[entry.url].filename == entry.archive


@pytest.mark.parametrize("name", ["ml-100k", "amazon-musical-instruments", "douban-music"])
def test_real_sets_survive_the_cache(data_dir, tmp_path, name):
    table = builders.load(name, data_dir, tmp_path)
    assert_equal(table, named.load_named(name, data_dir))


def test_rows_with_several_labels_survive_the_cache(small, monkeypatch):
    unit = np.array([1, 0, 1], np.int32)
    x, ones = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones((3, 1), np.float32)
    rows = labeled.Labeled(
        "census-income", x, ones, ones, ("a",), unit, np.arange(3, dtype=np.int8), (False,)
    )
    monkeypatch.setattr(labeled, "census_income", lambda folder: rows)
    monkeypatch.setattr(manifest, "check", lambda *_: "none")
    folder, text = small / "data" / "census-income", (small / "datasets.toml").read_text()
    folder.mkdir()
    (folder / "census_income_test.npz").touch()
    entry = text.replace("ml-1m", "census-income").split("needs")[0]
    entry += 'needs = [["census_income_test.npz"]]\n[census-income.sha256]\n'
    (small / "datasets.toml").write_text(entry)
    prepared = builders.prepare("census-income", small / "data", small / "cache")
    people = builders.source(prepared, "labeled_rows")
    assert len(people) == 2
    np.testing.assert_array_equal(people[1]["x"], x[[0, 2]])
    np.testing.assert_array_equal(people[1]["part"], [0, 2])
    with pytest.raises(UserError, match="several labels per row"):
        builders.load("census-income", small / "data", small / "cache")


@pytest.mark.slow
def test_real_rows_with_several_labels(data_dir, tmp_path):
    found = behaviors.retailrocket(data_dir)
    people = builders.source(
        builders.prepare("retailrocket-multibehavior", data_dir, tmp_path), "labeled_rows"
    )
    np.testing.assert_array_equal(people[7]["x"], found.x[found.unit == 7])
    np.testing.assert_array_equal(people[7]["label"], found.label[found.unit == 7])


@pytest.mark.slow
@pytest.mark.parametrize("name", named.READERS)
def test_every_real_set_survives_the_cache(data_dir, tmp_path, name):
    assert_equal(builders.load(name, data_dir, tmp_path), named.load_named(name, data_dir))


def test_real_omniglot(data_dir, tmp_path):
    classes = builders.source(builders.prepare("omniglot28", data_dir, tmp_path), "image_classes")
    found = published.omniglot(data_dir)
    assert len(classes) == 1_623
    for place in (0, 963, 964, 1_622):
        example = classes[place]
        rows = slice(20 * place, 20 * place + 20)
        np.testing.assert_array_equal(example["images"], found["images"][rows])
        assert example["class_id"] == place and example["evaluation"] == (place >= 964)


def test_without_tfds_one_line_says_what_to_install(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'metajax\[builders\]'"):
        builders.prepare("ml-1m", small / "data", small / "cache")
