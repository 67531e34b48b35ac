"""Settings of the whole suite; the environment is set before JAX is first imported."""

import os
import pathlib
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = str(ROOT / ".cache" / "jax")
if os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE) == CACHE:  # one for each process
    os.environ["JAX_COMPILATION_CACHE_DIR"] += os.environ.get("PYTEST_XDIST_WORKER", "")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(  # for programs as small as those of tests, compiling well takes longest
    "XLA_FLAGS",
    "--xla_cpu_enable_concurrency_optimized_scheduler=false --xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # the suite's processes are enough
    os.environ.setdefault(threads, "1")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # where TF32 is the default
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ["METAJAX_HOME"] = tempfile.mkdtemp(prefix="metajax-")  # no test writes to a user's

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data sets; tests that need it are skipped where there is none."""
    folder = pathlib.Path(os.environ.get("METAJAX_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no data folder: set METAJAX_DATA")
    return folder
