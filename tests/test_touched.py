"""Which tests a change touches."""

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


def test_imports_are_read_as_dotted_names(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("import a.b\nfrom c.d import (\n    e,\n    f as g,\n)\n")
    assert touched.imported(path) == {"a.b", "c.d", "c.d.e", "c.d.f"}
