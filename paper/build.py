"""Builds the paper from records alone: tables, figures, every number in the prose, checklist, PDF.

Run: python -m paper.build --edition full
     python -m paper.build --edition small --results out/suite-small --out out/paper-small
     python -m paper.build --verify      recomputes everything and compares it with what was built
A record, a claim or a reference that is missing fails the build with one line.
"""

import dataclasses
import json
import pathlib
import re
import shutil
import sys
from typing import Literal

import tyro

from metajax.results import age, grid, records
from metajax.types import UserError
from paper import catalogue, claims, data_sets, few_shot, findings, fresh, mixture
from paper.edition import HERE, Results, editions, load
from paper.field import curves, field_tables
from paper.figures import figures
from paper.grids import differences, measures, provenance, quality, sinusoids

CLAIMS = {
    name: claim
    for module in (claims, findings, fresh, mixture, catalogue, data_sets)
    for name, claim in claims.claims_of(module).items()
}
CLAIM = re.compile(r'#say\("([^"]+)"\)')
IN_TEXT = ("data", "claims", "further", "by-ratings-mse", "quality", "differences")
"""Tables that float in the text, across the page; all others stand in the appendix."""
CITED = re.compile(r"@([a-z]+\d{4}\w*)")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the build."""

    edition: Literal["full", "small"] = "full"
    """What to build from; see paper/editions.toml."""
    results: pathlib.Path = records.RESULTS
    """Folder of the records, or of run folders."""
    out: pathlib.Path | None = None
    """Folder to build in; else out/paper-EDITION."""
    verify: bool = False
    """Compare with what was built before, instead of building."""


def checklist(r: Results) -> str:
    """The reproducibility checklist, from the records, in Markdown."""
    lines = ["# Reproducibility checklist", "", "Written by paper/build.py from the records.", ""]
    for name, record in r.everything().items():
        e, split = record.environment, record.split
        times = record.opened[0].times_opened if len(record.opened) == 1 else None
        told = {
            "command": e.command,
            "code": e.commit + (", with uncommitted changes" if e.uncommitted_changes else ""),
            "versions": ", ".join(f"{k} {v}" for k, v in e.packages.items()),
            "python": e.python,
            "device": f"{e.device}, {e.num_cpus} cores",
            "configuration": record.config_hash,
            "data": (record.data and record.data.checksum) or "generated",
            "split": (split and split.checksum) or "generated",
            "test opened": f"{'not recorded' if times is None else times} time(s)",
            "per-task scores": record.scores_digest,
            "wall time": f"{record.seconds.get('total', float('nan')) / 60:.1f} minutes",
            "peak memory": f"{record.peak_memory.get('host_mb', 'not recorded')} MB",
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
    files = {"numbers.json": json.dumps(numbers, indent=1, sort_keys=True) + "\n"}
    found = grids_of(r)
    for name, table in found.items():
        floats = name in IN_TEXT
        files[f"tables/{name}.typ"] = grid.typst(table, f"tab-{name}", across=floats, floats=floats)
        files[f"tables/{name}.tex"] = grid.latex(table, f"tab:{name}")
        files[f"tables/{name}.csv"] = grid.csv_text(table)
    files["checklist.md"] = checklist(r)
    begin = lambda *firsts: [name for name in found if name.startswith(firsts)]
    parts = {
        "sinusoid": bool(r.sinusoid),
        "omniglot": bool(r.omniglot),
        "unlabeled": bool(r.unlabeled),
        "field": begin("T1", "T2", "T3", "T4", "T5"),
        "boosting": bool(CLAIMS["against-boosting"](r)),
        "ranking": begin("T6"),
        "fresh": begin("fresh-"),
        "mixture": bool(mixture.mixtures(r)),
        "further": "further" in found,
        "by_ratings": begin("by-ratings"),
        "measures": "measures-fresh" in found,
        "ablations": bool(CLAIMS["ablations"](r)),
        "curves": curves(r) is not None,
        "fresh_curves": mixture.last_at_home(r) is not None,
    }
    return files | {"parts.json": json.dumps(parts) + "\n"}


def grids_of(r: Results) -> dict[str, grid.Grid]:
    """Name -> table, of all tables that the records allow."""
    grids = {"data": data_sets.data_table(r), "quality": quality(r), "measures": measures(r)}
    grids |= {"differences": differences(r), "records": provenance(r)}
    grids |= {"sinusoid": sinusoids(r)} if r.sinusoid else {}
    grids |= {"omniglot": few_shot.omniglot(r)} if r.omniglot else {}
    grids |= {"unlabeled": few_shot.unlabeled(r)} if r.unlabeled else {}
    grids |= {"claims": fresh.claims_table(r.registered)} if r.registered else {}
    further = mixture.further_table(r)
    grids |= {"further": further} if further else {}
    every = mixture.measures_table(r)
    grids |= {"measures-fresh": every} if every else {}
    grids |= mixture.by_ratings_tables(r)
    grids |= field_tables(r) | catalogue.catalogue_tables(r) | fresh.fresh_tables(r)
    return grids


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
        if config.results == records.RESULTS:
            old = age.check(config.results)
            told = f"{old} records are older than the code, and {age.LIST} beside them says so"
            print(told if old else "no record is older than the code")
        count = len(r.everything())
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
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C; what was built before is partly replaced: build again")
