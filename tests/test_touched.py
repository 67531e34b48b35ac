"""Which tests a change touches, and what is left out when the time is over."""

import os
import subprocess
import sys
import time

import pytest
import touched


def test_a_changed_module_touches_the_tests_that_import_it_and_its_own_first():
    first, *others = touched.touched([touched.ROOT / "metajax" / "results" / "rounding.py"])
    assert first.name == "test_rounding.py"
    assert all("metajax.results.rounding" in touched.imported(path) for path in others)


def test_a_changed_test_touches_itself_before_all_others():
    files = [
        touched.ROOT / "metajax" / "results" / "rounding.py",
        touched.ROOT / "tests" / "test_losses.py",
    ]
    found = touched.touched(files)
    assert [path.name for path in found[:2]] == ["test_losses.py", "test_rounding.py"]
    assert touched.touched([touched.ROOT / "docs" / "gallery.py"]) == []


def test_a_document_touches_the_tests_of_documents_and_those_that_name_it():
    found = touched.touched([touched.ROOT / "docs" / "classics.md"])
    assert found[0].name == "test_docs.py"
    assert all('"classics.md"' in path.read_text() for path in found[1:])


def test_imports_are_read_as_dotted_names(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("import a.b\nfrom c.d import (\n    e,\n    f as g,\n)\n")
    assert touched.imported(path) == {"a.b", "c.d", "c.d.e", "c.d.f"}


def test_a_process_that_takes_too_long_is_ended():
    process = touched.start("http.server", "0")
    assert not touched.ended(process, time.time() + 0.1) and process.returncode < 0
    assert touched.ended(touched.start("this"), time.time() + 60)


@pytest.mark.parametrize("late", [False, True])
def test_tests_that_would_begin_too_late_are_left_out_and_named(late, tmp_path):
    path = tmp_path / "test_two.py"
    path.write_text("def test_a(): pass\n\ndef test_b(): pass\n")
    place = {"METAJAX_TESTS_UNTIL": str(time.time() + (-1 if late else 600))}
    place["PYTHONPATH"] = str(touched.ROOT / "tests")
    command = [sys.executable, "-m", "pytest", "-p", "in_time", "-c", os.devnull, str(path)]
    done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("2 tests were left out, the time is over:" in done.stdout) == late
    assert ("test_two.py: 2" in done.stdout) == late and ("2 passed" in done.stdout) != late
