"""The documentation: its tutorial runs, its pages name what exists, its site builds."""

import ast
import importlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

import experiments

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def code_of(page: str) -> str:
    """The Python of a page, as one program."""
    text = (DOCS / f"{page}.md").read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize(
    "page",
    [
        *("tutorial", "large", "extend", "online", "decisions", "off_policy", "explain", "robust"),
        *("privacy", "federated", "domains", "two_logs"),
    ],
)
def test_pages_import_only_what_exists(page):
    for node in ast.walk(ast.parse(code_of(page))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for name in node.names:
                room = f"{node.module}.{name.name}"
                assert hasattr(module, name.name) or importlib.import_module(room), room


def run(page: str, folder: pathlib.Path) -> str:
    """What the code of a page prints, run in a folder."""
    (folder / f"{page}.py").write_text(code_of(page))
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, f"{page}.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_extending_from_an_empty_folder_runs_as_it_stands(tmp_path):
    assert "[[" in run("extend", tmp_path)


@pytest.mark.slow
def test_from_a_log_in_time_to_a_served_model_runs_as_it_stands(tmp_path):
    assert "online minus frozen -" in run("online", tmp_path)


@pytest.mark.slow
def test_from_a_log_of_decisions_to_a_value_runs_as_it_stands(tmp_path):
    assert "0.0% of the new policy's decisions were never shown" in run("off_policy", tmp_path)


@pytest.mark.slow
def test_why_was_this_recommended_runs_as_it_stands(tmp_path):
    said = run("explain", tmp_path)
    assert "because you rated" in said and "planted causes found: 100%" in said
    run("robust", tmp_path)


@pytest.mark.slow
def test_what_people_choose_to_rate_runs_as_it_stands(tmp_path):
    plain, weighed, true = map(float, re.findall(r"\d\.\d\d", run("domains", tmp_path)))
    assert abs(weighed - true) < 0.1 < plain - true


@pytest.mark.slow
def test_two_logs_of_one_person_run_as_they_stand(tmp_path):
    said = run("two_logs", tmp_path)
    assert "320 people are in both" in said and "for person 350: music" in said
    source, means = map(
        float, re.findall(r"new people: ([\d.]+) with the source, ([\d.]+)", said)[0]
    )
    assert source < means / 2


@pytest.mark.slow
def test_from_predictions_to_decisions_runs_as_it_stands(tmp_path):
    assert "meta-learned prior regret of a round" in run("decisions", tmp_path)


def test_who_can_learn_what_about_me_runs_as_it_stands(tmp_path):
    """1,000 people, 60 private rounds: adapting afterwards spends nothing."""
    pytest.importorskip("jax_privacy", reason="pip install metajax[privacy]")
    pytest.importorskip("dp_accounting", reason="pip install metajax[privacy]")
    said = run("privacy", tmp_path)
    spent = re.findall(r"epsilon ([\d.]+)", said)
    assert len(spent) == 2 and spent[0] == spent[1] and 7.9 < float(spent[0]) <= 8
    cold, warm = map(float, re.findall(r"error ([\d.]+) before adapting, ([\d.]+)", said)[0])
    assert warm < cold


def test_ratings_that_stay_on_the_device_run_as_they_stand(tmp_path):
    """8 weights of 4 bytes to 20 clients; 2 entries of 8 bytes from 18 of them."""
    said = run("federated", tmp_path)
    assert f"{20 * 8 * 4} bytes down, {18 * 2 * 8} up" in said
    assert "client 17: the upload is refused" in said


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path):
    said = run("tutorial", tmp_path)
    assert "A6 level" in said and "adapts to the level only" in said
    assert (tmp_path / "out" / "level" / "CHECKSUMS").is_file()


@pytest.mark.slow
def test_the_large_models_page_runs_as_it_stands(tmp_path):
    """Rank 2 beside 7 kernels of 2 layers; 8 weights and their 8 x 8 precision."""
    pytest.importorskip("flatbuffers", reason="exported programs: pip install metajax[serve]")
    said = run("large", tmp_path)
    a_layer = 2 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 64) * 3)
    assert said.startswith(f"{2 * a_layer} numbers are a user's own")
    assert f"{4 * (8 * 8 + 8)} bytes a user" in said


def test_the_reference_has_every_module_once(tmp_path):
    pages = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    reference = importlib.util.module_from_spec(pages)
    pages.loader.exec_module(reference)
    reference.main(tmp_path)
    found = {p.stem: re.findall(r"^::: (\S+)$", p.read_text(), re.M) for p in tmp_path.iterdir()}
    names = [name for page in found.values() for name in page]
    files = [p for p in (ROOT / "metajax").rglob("*.py") if not p.name.startswith("_")]
    assert len(names) == len(set(names)) == len(files)
    assert (
        found["core"][0] == "metajax.types"
        and "metajax.learners.gradient.maml" in found["learners"]
    )
    assert "metajax.tuning.search" in found["runs"] and "metajax.data.table" in found["data"]
    nav = (ROOT / "mkdocs.yml").read_text()
    assert all(f"reference/{page}.md" in nav for page in found)


def test_commands_named_in_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in DOCS.glob("*.md"):
        text = page.read_text()
        for targets in re.findall(r"\bmake ([a-z -]+?)(?:  |`|\n)", text):
            for target in targets.split():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page.name, target)
        for module in re.findall(r"python -m ((?:metajax|experiments)[\w.]*)", text):
            if module != "experiments.level":
                assert importlib.util.find_spec(module), (page.name, module)
        for name in re.findall(r"python -m experiments ([a-z]\w+)", text):
            assert experiments.find(name), (page.name, name)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    for script in ("gallery.py", "reference.py"):
        subprocess.run([sys.executable, str(DOCS / script)], check=True, cwd=ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "core" / "index.html").read_text()
    assert "Five pure functions on one task" in page
