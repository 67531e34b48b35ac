"""Builds the paper from records alone: tables, figures, every number in the prose, checklist, PDF.

Run: python paper/build.py --edition full
     python paper/build.py --edition small --results out/suite-small --out out/paper-small
     python paper/build.py --verify      recomputes everything and compares it with what was built
A record, a claim or a reference that is missing fails the build with one line.
"""

import dataclasses
import json
import pathlib
import re
import shutil
import sys
from typing import Literal

import numpy as np
import tyro
from claims import CLAIMS, sinusoid_scores
from records import BASELINES, HERE, Results, editions, load

from metajax import plots, report, stats, tables
from metajax.types import UserError

CLAIM = re.compile(r'#say\("([^"]+)"\)')
CITED = re.compile(r"@([a-z]+\d{4}\w*)")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the build."""

    edition: Literal["full", "small"] = "full"
    """What to build from; see paper/editions.toml."""
    results: pathlib.Path = report.RESULTS
    """Folder of the records, or of run folders."""
    out: pathlib.Path | None = None
    """Folder to build in; else out/paper-EDITION."""
    verify: bool = False
    """Compare with what was built before, instead of building."""


def quality(r: Results) -> tables.Grid:
    """Errors of every arm in every scenario."""
    rows, bold = [], []
    shown = [(r.base, arm) for arm in BASELINES if arm in r.base.facts["arms"]]
    shown += [(r.ratings[m.record], m.arm) for m in r.methods()]
    for record, arm in shown:
        cells = []
        for scenario in r.scenarios:
            i = report.interval(record.of(scenario, arm, "all", "mae"), "mae")
            cells.append(f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]")
        rows.append([arm, *cells])
    means = np.array([[float(c.split()[0]) for c in row[1:]] for row in rows])
    bold = [int(np.argmin(means[:, 0]))]
    counts = r.base.facts["split"]["tasks"]
    heads = [f"{s.replace('_', '-')} ({counts[s]:,})" for s in r.scenarios]
    note = (
        "Mean absolute error per test task, with the 95 % bootstrap interval over tasks after "
        "averaging each over the seeds; number of tasks in parentheses. A3 and A4 share the "
        f"network of {r.edition.base.upper()}. Bold: the lowest error for new users."
    )
    first = sum(arm in BASELINES for _, arm in shown)
    return tables.Grid("Errors of all arms", ["arm", *heads], rows, 1, [note], [0, first], bold)


def differences(r: Results) -> tables.Grid:
    """Paired differences of each method for new users, with adjusted p-values."""
    methods = r.methods()
    columns = {}
    for baseline in ("A2 fold-in", "A7 hier. Bayes", "A4 fine-tuned"):
        gaps = [r.gap(m, baseline) for m in methods]
        p = stats.holm(np.array([gap.p for gap in gaps]))
        columns[baseline] = [
            f"{gap.mean:+.4f} ({_p(value)})" for gap, value in zip(gaps, p, strict=True)
        ]
    columns["N1 gap"] = [f"{r.adaptation(m).mean:+.3f}" for m in methods]
    rows = [[m.name, *(column[i] for column in columns.values())] for i, m in enumerate(methods)]
    heads = ["method", "- A2", "- A7", "- own A4", "N1"]
    note = (
        "New users: MAE of each method minus that of a baseline of the same record, paired by "
        "user, with the p-value after Holm. N1: MAE with shuffled support labels minus MAE."
    )
    return tables.Grid("Paired differences", heads, rows, 1, [note])


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def sinusoids(r: Results) -> tables.Grid:
    """Mean squared errors on the sinusoid."""
    scores = {name: sinusoid_scores(record) for name, record in r.sinusoid.items()}
    arms = list(dict.fromkeys(arm for found in scores.values() for arm in found))
    rows = []
    for arm in arms:
        cells = []
        for found in scores.values():
            i = stats.mean_interval(stats.mean_of_seeds(found[arm]))
            cells.append(f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]")
        rows.append([arm, *cells])
    heads = ["arm", *(record.facts["scenario"] for record in r.sinusoid.values())]
    note = (
        "Squared error after ten gradient steps, or in closed form; 95 % intervals over 600 tasks."
    )
    return tables.Grid("Sinusoid regression", heads, rows, 1, [note])


def provenance(r: Results) -> tables.Grid:
    """What each record was made with."""
    rows = []
    for name, record in (r.ratings | r.sinusoid).items():
        facts, e = record.facts, record.facts["environment"]
        run = facts["config"].get("run", facts["config"])
        commit = e["commit"][:8] + ("+" if e["uncommitted_changes"] else "")
        seconds = facts["seconds"].get("total", sum(facts["seconds"].values()))
        rows.append(
            [
                *(name, commit, facts["config_hash"], e["device"], str(run["seeds"])),
                *(f"{seconds / 60:.1f}", e["packages"]["jax"]),
            ]
        )
    heads = ["record", "commit", "configuration", "device", "seeds", "minutes", "jax"]
    return tables.Grid("Records", heads, rows, 2, ["A plus sign marks uncommitted changes."])


def figures(r: Results, folder: pathlib.Path) -> None:
    """Saves the figures of the paper."""
    methods = r.methods()
    closed = [a for a in ("A1 bias", "A2 fold-in", "A7 hier. Bayes") if a in r.base.facts["arms"]]
    shown = [*closed, "A3 joint", "A4 fine-tuned", r.base.facts["method"]]
    plots.k_shot(r.base, "user_cold", folder / "k-shot.svg", arms=shown)
    plots.learning(r.base, folder / "learning.svg")
    rows = [(m.name, r.gap(m, "A2 fold-in")) for m in methods]
    plots.forest(rows, folder / "forest.svg", "MAE of new users minus that of fold-in (A2)")
    points: dict[str, tuple[float, float]] = {}
    arms = [(r.base, a) for a in r.base.facts["arms"]]
    for record, arm in [*arms, *((r.ratings[m.record], m.arm) for m in methods)]:
        steps = record.facts.get("gradients", {}).get(arm, {}).get("per_user")
        inner = record.facts["config"].get("inner_steps", 0)
        fallback = (
            record.facts["settings"].get(arm, {}).get("steps", inner if arm[:2] == "A6" else 0)
        )
        cost = fallback if steps is None else steps
        error = report.interval(record.of("user_cold", arm, "all", "mae"), "mae").mean
        points[arm] = (float(cost), error)
    plots.pareto(points, folder / "pareto.svg", "gradient steps per new user", "MAE of new users")


def checklist(r: Results) -> str:
    """The reproducibility checklist, from the records, in Markdown."""
    lines = ["# Reproducibility checklist", "", "Written by paper/build.py from the records.", ""]
    for name, record in (r.ratings | r.sinusoid).items():
        f, e = record.facts, record.facts["environment"]
        split, test = f.get("split", {}), f.get("test", {})
        told = {
            "command": e["command"],
            "code": e["commit"]
            + (", with uncommitted changes" if e["uncommitted_changes"] else ""),
            "versions": ", ".join(f"{k} {v}" for k, v in e["packages"].items()),
            "python": e["python"],
            "device": f"{e['device']}, {e['num_cpus']} cores",
            "configuration": f["config_hash"],
            "data": f.get("data", {}).get("checksum", "generated"),
            "split": split.get("checksum", "generated") if isinstance(split, dict) else "-",
            "test opened": f"{test.get('times_opened', 'not recorded')} time(s)",
            "per-task scores": f["scores_blake2b"],
            "wall time": f"{f['seconds'].get('total', float('nan')) / 60:.1f} minutes",
            "peak memory": f"{f.get('peak_memory', {}).get('host_mb', 'not recorded')} MB",
        }
        lines += [f"## {name}", "", *(f"- [x] {k}: {v}" for k, v in told.items()), ""]
    return "\n".join(lines)


def contents(r: Results) -> dict[str, str]:
    """File name -> text of everything but figures and PDF: the paper as a function of records.

    Raises:
      UserError: the text asks for a claim that there is none of, or cites what is not in refs.bib.
    """
    text = (HERE / "paper.typ").read_text()
    wanted = sorted(set(CLAIM.findall(text)))
    unknown = [name for name in wanted if name not in CLAIMS]
    if unknown:
        raise UserError(f"paper.typ asks for {', '.join(unknown)}, which paper/claims.py has not")
    bib = (HERE / "refs.bib").read_text()
    entries = set(re.findall(r"@\w+\{(\w+),", bib))
    cited = set(CITED.findall(text))
    if cited != entries:
        odd = ", ".join(sorted(cited ^ entries))
        raise UserError(f"cited but not in refs.bib, or there but not cited: {odd}")
    numbers = {name: CLAIMS[name](r) for name in wanted}
    grids = {"quality": quality(r), "differences": differences(r), "records": provenance(r)}
    if r.sinusoid:
        grids["sinusoid"] = sinusoids(r)
    files = {"numbers.json": json.dumps(numbers, indent=1, sort_keys=True) + "\n"}
    for name, grid in grids.items():
        across = name in ("quality", "sinusoid", "records")
        files[f"tables/{name}.typ"] = tables.typst(grid, f"tab-{name}", across=across)
        files[f"tables/{name}.tex"] = tables.latex(grid, f"tab:{name}")
        files[f"tables/{name}.csv"] = tables.csv_text(grid)
    files["checklist.md"] = checklist(r)
    parts = {"sinusoid": bool(r.sinusoid)}
    return files | {"parts.json": json.dumps(parts) + "\n"}


def compile_pdf(folder: pathlib.Path) -> pathlib.Path:
    """Compiles paper.typ in a folder that has all it includes."""
    try:
        import typst
    except ImportError as error:
        raise UserError("the PDF needs typst; pip install 'metajax[paper]'") from error
    for name in ("paper.typ", "refs.bib"):
        shutil.copy(HERE / name, folder / name)
    pdf = folder / "paper.pdf"
    try:
        typst.compile(str(folder / "paper.typ"), output=str(pdf), root=str(folder))
    except typst.TypstError as error:
        raise UserError(f"paper.typ does not compile: {' '.join(str(error).split())}") from error
    return pdf


def verify(files: dict[str, str], folder: pathlib.Path) -> int:
    """The number of built files that equal what the records say now.

    Raises:
      UserError: one is missing or differs.
    """
    for name, text in files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; build the paper first")
        if (folder / name).read_text() != text:
            raise UserError(f"{folder / name} is not what the records say; build the paper again")
    return len(files)


def main(config: Config) -> None:
    """Builds or verifies an edition."""
    out = config.out or pathlib.Path("out") / f"paper-{config.edition}"
    r = load(editions()[config.edition], config.results)
    files = contents(r)
    if config.verify:
        count = len(r.ratings) + len(r.sinusoid)
        print(f"{count} records have the scores they were written with")
        print(f"{verify(files, out)} tables and numbers in {out} are recomputed and equal")
        return
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    figures(r, out / "figures")
    print(f"paper {compile_pdf(out)}\ntables {out / 'tables'}\nchecklist {out / 'checklist.md'}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except UserError as error:
        sys.exit(f"error: {error}")
