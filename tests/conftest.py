"""Settings of the whole suite; the environment is set before JAX is first imported."""

import functools
import gc
import importlib.metadata
import itertools
import os
import pathlib
import tempfile
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ["JAX_COMPILATION_CACHE_DIR"] += os.environ.get("PYTEST_XDIST_WORKER", "")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # a tenth of the time of small ones
FLAGS = (  # for programs as small as those of tests, compiling well takes longest
    "--xla_cpu_enable_concurrency_optimized_scheduler=false --xla_backend_optimization_level=0 "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if importlib.metadata.version("jaxlib") < "0.11":  # later ones end at a flag that they do not know
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FLAGS)
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # the suite's processes are enough
    os.environ.setdefault(threads, "1")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # where TF32 is the default
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ["METAJAX_HOME"] = tempfile.mkdtemp(prefix="metajax-")  # no test writes to a user's
gc.disable()  # until all is collected: a sixth of that time

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src import lru_cache  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402


def _put(self: lru_cache.LRUCache, key: str, value: bytes) -> None:
    """Keeps a compiled program: whole or not at all, since the suite's processes share them.

    Commands that tests start keep theirs apart, by the variable: they know nothing of this.
    """
    place = pathlib.Path(str(self.path)) / f"{key}-cache"
    if not place.exists():
        mine = place.with_suffix(f".{os.getpid()}")
        mine.write_bytes(value)
        mine.replace(place)


lru_cache.LRUCache.put = _put
jax.config.update("jax_compilation_cache_dir", CACHE)

if hasattr(mlir, "make_ir_context"):
    # JAX makes a compiler context for each program, which takes a fifth of the time of small ones:
    # here fifty share one, so that what a context keeps of their constants goes with it.
    _make, _number = mlir.make_ir_context, itertools.count()
    _of = functools.lru_cache(maxsize=1)(lambda block: _make())
    mlir.make_ir_context = lambda: _of(next(_number) // 50)


def pytest_collection_finish() -> None:
    """What is collected stays: the garbage collector need not visit it, nor all else so often."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


AREAS = 35_000
"""Linux gives a process 65,530 areas of memory, and each compiled program takes some of them."""
_files = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs() -> Iterator[None]:
    """Drops the programs of earlier files before they take all areas: then compiling would crash.

    One process that runs the whole suite needs this, two do not.
    """
    yield
    areas = pathlib.Path("/proc/self/maps")
    if next(_files) % 10 == 0 and areas.exists() and areas.read_bytes().count(b"\n") > AREAS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data sets; tests that need it are skipped where there is none."""
    folder = pathlib.Path(os.environ.get("METAJAX_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no data folder: set METAJAX_DATA")
    return folder


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bootstraps of few draws and coarse pictures: a table is printed, and drawn, no more."""
    from metajax.online import scores
    from metajax.results import intervals, plots

    for of in (intervals.mean_interval, intervals.paired_bootstrap, intervals.two_way_bootstrap):
        monkeypatch.setitem(of.__kwdefaults__, "draws", 100)
    for of in (intervals.ratio_bootstrap, intervals.stratified_bootstrap):
        monkeypatch.setitem(of.__kwdefaults__, "draws", 100)
    monkeypatch.setattr(scores.mean_of_events, "__defaults__", (100, 0))
    monkeypatch.setattr(plots, "DPI", 60)
