"""The public names: all there, and free until they are asked for."""

import itertools
import subprocess
import sys

import metajax


def test_every_public_name_is_what_its_file_defines():
    assert sorted(itertools.chain(*metajax.PLACES.values())) == sorted(metajax.__all__)
    for name in metajax.__all__:
        assert getattr(metajax, name).__name__ == name
    assert not hasattr(metajax, "no_such_name")


def test_importing_the_package_imports_no_jax():
    code = "import sys, metajax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
