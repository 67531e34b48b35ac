"""Presets: every experiment has them, options override them, `paper` is what records used."""

import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
import types

import pytest
from option_lists import listed

from experiments import HERE, find, sources, with_config
from experiments.methods import cnp, evidence, maml, melu, ridge_head
from experiments.tools import search as tuning
from metajax import settings, stand_ins
from metajax.benchmark import command, harness
from metajax.results import records
from metajax.types import UserError

ROOT = HERE.parent


def taking_a_run() -> list[str]:
    """The experiments that are told what a rating experiment is told, and the other programs."""
    own = ["omniglot", "unsupervised", "sinusoid", "memorization", "metaemb", "datasets"]
    shared = [
        name
        for _, name, path in sorted(sources())
        if "run_experiment(" in path.read_text() or "benchmark.Config)" in path.read_text()
    ]
    large = ["sasrec", "text_cold", "llm_rec", "llm_uses", "llm_speed", "distill", "regimes"]
    large += ["llm_meta", "llm_distill", "latency", "adapt_large_memory"]
    large += ["cold_sequences", "augment"]
    return [*shared, *own, *large, "protocols"]


def module(name: str) -> types.ModuleType:
    return importlib.import_module(with_config(f"experiments.{find(name)}"))


@pytest.fixture(scope="module")
def lists() -> dict[str, tuple[str, bool]]:
    """The lists of options, all in one process of their own."""
    return listed(
        "from experiments import __main__, sources",
        "[name for _, name, _ in sources()]",
        "[]",
        "__main__.run(name)",
    )


def test_help_names_the_presets_and_the_folder(lists):
    for name in taking_a_run():
        said, _ = lists[name]
        assert "--preset {quick,paper,gpu}" in said and "--out" in said, name


def test_help_needs_none_of_the_libraries_that_compute(lists):
    assert {name for name, (said, _) in lists.items() if not said} == set()
    assert {name for name, (_, without) in lists.items() if not without} == set()


@pytest.mark.parametrize("name", ["experiments.maml", "experiments.methods.maml"])
def test_help_of_a_module_imports_no_library_either(name):
    command_line = [sys.executable, "-X", "importtime", "-m", name, "--help"]
    ran = subprocess.run(command_line, capture_output=True, text=True, timeout=60, check=True)
    assert "usage: python -m experiments.methods.maml" in ran.stdout
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "metajax.stand_ins" in imported and "jax._src.api" not in imported


def test_help_is_the_same_without_the_libraries(lists, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("maml", "sinusoid", "regimes"):
        with pytest.raises(SystemExit):
            command.parse(module(name).Config, ["--help"])
        options = capsys.readouterr().out.partition("options")[2]
        assert options and options == lists[name][0].partition("options")[2]


def test_a_command_that_computes_at_once_gets_the_libraries_themselves(monkeypatch):
    monkeypatch.setattr(stand_ins, "LIBRARIES", {"colorsys"})
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    found = []
    stand_ins.run(lambda: found.append(importlib.import_module("colorsys").ONE_THIRD * 3))
    assert found == [1.0]


def test_a_package_is_run_by_the_file_of_its_name():
    spec = importlib.util.find_spec("experiments.large.sasrec.__main__")
    code = spec.loader.get_code(spec.name)
    assert spec.origin == str(HERE / "large" / "sasrec" / "sasrec.py")
    assert {"experiments.large.sasrec.sasrec", "Config", "main", "cli"} <= {*code.co_names}
    assert importlib.util.find_spec("experiments.large.__main__") is None


def test_an_option_overrides_the_preset_in_either_order():
    for options in (["--preset", "quick", "--seeds", "7"], ["--seeds", "7", "--preset=quick"]):
        config = command.parse(maml.Config, options)
        assert (config.output.preset, config.data.dataset) == ("quick", "synthetic")
        assert (config.training.seeds, config.training.num_steps) == (7, 200)
        assert config.inner_steps == maml.Config().inner_steps
    assert command.parse(maml.Config, []) == maml.Config()
    assert command.parse(maml.Config, ["--preset", "gpu"]).training.num_tasks == 256


def test_a_preset_reaches_what_is_inherited_and_what_has_no_default():
    assert command.parse(evidence.Config, ["--preset", "quick"]).training.num_steps == 200
    assert command.parse(evidence.Config, []).training.seeds == 1
    options = ["maml", "--space", "inner_rate=log:.01:1", "--preset", "quick", "--trials", "3"]
    config = command.parse(tuning.Config, options)
    assert (config.experiment, config.training.num_tasks, config.trials) == ("maml", 16, 3)
    with pytest.raises(UserError, match="space"):
        command.parse(tuning.Config, ["maml", "--preset", "quick"])


def test_a_wrong_preset_is_one_line():
    with pytest.raises(UserError, match="huge") as error:
        command.parse(maml.Config, ["--preset", "huge"])
    assert "\n" not in str(error.value)


def test_the_name_of_the_preset_is_stored_and_not_hashed():
    quick = settings.with_preset(maml.Config(), "quick")
    spelled = settings.replace(quick, preset="paper")
    assert records.config_hash(quick) == records.config_hash(spelled)
    assert records.config_hash(quick) != records.config_hash(maml.Config())
    assert settings.flat(quick)["preset"] == "quick"


def test_every_preset_names_settings_that_exist():
    for name in taking_a_run():
        config = command.declared(module(name).Config)
        table, known = getattr(config, "PRESETS", {}), {k for k, _, _ in settings.leaves(config)}
        assert set(table) <= {"quick", "gpu"}, name
        assert all(set(told) <= known for told in table.values()), name
        assert settings.with_preset(config, "quick") != config, name


def test_every_table_of_a_method_may_be_computed_narrow_and_has_a_record_of_its_own():
    tables = [n for _, n, path in sources() if "benchmark.run_experiment(" in path.read_text()]
    assert len(tables) > 20
    for name in tables:
        config = command.parse(module(name).Config, ["--compute", "bfloat16"])
        wide = settings.replace(config, compute="float32")
        assert wide == command.parse(module(name).Config, []), name
        assert settings.config_hash(config) != settings.config_hash(wide), name
        assert harness.name_of(name, config) == f"{harness.name_of(name, wide)}-bf16"


def test_the_records_of_the_default_activations_are_known_as_theirs():
    """Digests are those of stored records, and of the settings before there was this one."""
    for name in ("anil", "foma", "finetune", "fold_in"):
        record = records.facts(records.path_of(f"{name}-ml-1m"))
        assert record is not None
        assert settings.config_hash(module(name).Config()) == record.config_hash, name
    for config in (ridge_head.Config(), cnp.Config(), melu.Config()):
        apart = {*settings.PLACES, "compute"}
        told = {name: value for name, value in settings.flat(config).items() if name not in apart}
        before = hashlib.blake2b(
            json.dumps(told, sort_keys=True, default=str).encode(), digest_size=6
        )
        assert settings.config_hash(config) == before.hexdigest()


def required() -> list[str]:
    """The experiments whose records the paper cannot do without."""
    editions = tomllib.loads((ROOT / "paper" / "editions.toml").read_text())
    return editions["full"]["required"]


@pytest.mark.parametrize("name", required())
def test_paper_is_the_size_of_the_stored_record(name):
    record = records.facts(records.path_of(f"{name}-ml-1m"))
    assert record is not None
    config = module(name).Config()
    now = json.loads(json.dumps(settings.flat(config), default=str))
    shared = {
        name for part in (settings.Data(), settings.Training()) for name in settings.flat(part)
    }
    for setting in shared & record.config.keys() - set(records.PLACES):
        assert now[setting] == record.config[setting], setting


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sinusoid", ("--arms", "ridge on features", "--num-steps", "20")),
        pytest.param("sinusoid", (), marks=pytest.mark.slow),
        pytest.param("maml", (), marks=pytest.mark.slow),
    ],
)
def test_quick_runs_where_there_is_no_data(name, options, tmp_path):
    command_line = [sys.executable, "-m", f"experiments.{name}", "--preset", "quick", *options]
    done = subprocess.run(
        [*command_line, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=dict(os.environ, METAJAX_DATA=str(tmp_path / "nowhere")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (p for p in (tmp_path / "out").glob("*.record"))
    assert records.read(path).config["preset"] == "quick"
