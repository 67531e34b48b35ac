"""Writes experiments/README.md: every method with its paper, the published number and ours.

All numbers are computed from the records in paper/results when this runs; nothing is typed in.
Run: python -m experiments index
"""

import ast
import pathlib
import re

from metajax.results import records as report
from metajax.results import tables

from .. import HERE, sources
from ..field.as_published import report as as_published_report
from ..speed import page

FIELDS = ("References", "Reference", "Run", "Published", "Deviates")

HEAD = """# Experiments

One file per method: `Config`, `build(config, problem) -> (learner, outer optimizer)`, `main`.
Written by `python -m experiments index` from the records in `paper/results/`; do not edit.

MAE is the mean over users of the test scenario named, with its 95 % bootstrap interval over users
after averaging each user over the training seeds; differences are paired by user, and a star marks
an interval that excludes 0. *N1 gap* is how much worse the method gets when the labels of its
support are shuffled (*to the level only*: it gets no worse, yet another user's support would serve
it worse; *not at all*: neither makes a difference), *N0 gap* how much worse it is before it adapts
at all. Minutes are wall time
of the whole run, all arms and controls included, on the machine the record names.
"""


def described(path: pathlib.Path) -> dict[str, str]:
    """The title and the labeled fields of a module's docstring, each on one line."""
    text = ast.get_docstring(ast.parse(path.read_text())) or path.stem
    parts = re.split(rf"^({'|'.join(FIELDS)}): ", text, flags=re.MULTILINE)
    flat = [" ".join(part.split()) for part in parts]
    fields = dict(zip(flat[1::2], flat[2::2], strict=True))
    return {"title": text.splitlines()[0], **fields}


def commands() -> list[pathlib.Path]:
    """The file with the docstring of every command, by the command's name."""
    return sorted((path for _, _, path in sources()), key=lambda path: path.stem)


def tabled(path: pathlib.Path) -> list[report.Record]:
    """The records of a module that have the tables of rating methods."""
    found = report.all_stored(f"{path.stem}-*").values()
    return [r for r in found if r.method and r.tasks]


def section(path: pathlib.Path, shown: list[report.Record]) -> str:
    """The Markdown section of one experiment."""
    fields = described(path)
    lines = [f"## `{path.stem}`", "", fields["title"], ""]
    for name in FIELDS:
        if name in fields:
            value = f"`{fields[name]}`" if name == "Run" else fields[name]
            lines.append(f"- {name}: {value}")
    heads = (
        "data",
        "scenario",
        "arm",
        "MAE [95 %]",
        "minus fold-in",
        "minus fine-tuned",
        "N1 gap",
        "N0 gap",
    )
    lines += ["", f"| {' | '.join(heads)} | minutes |", "|" + " --- |" * (len(heads) + 1)]
    lines += [row for record in shown for row in rows(record)]
    return "\n".join([*lines, ""])


def rows(record: report.Record) -> list[str]:
    """The table rows of a record: its method, and further methods, in each scenario."""
    methods = [arm.name for arm in record.arms if arm.role != report.BASELINE]
    out = []
    for scenario in record.tasks:
        for arm in methods or [record.method]:
            mine = record.of(scenario, arm, "all", "mae")
            mean = report.interval(mine, "mae")
            against = [
                "" if arm == other else _signed(mine, record.of(scenario, other, "all", "mae"))
                for other in ("A2 fold-in", "A4 fine-tuned")
            ]
            gap = report.difference(record.of(scenario, arm, report.N1, "mae"), mine)
            told = tables.adaptation(record, scenario, arm)
            cold = report.Key(scenario, arm, "k=0", "mae")
            cells = [
                record.dataset,
                scenario.replace("_", "-"),
                arm,
                f"{mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}]",
                *against,
                f"{gap.mean:+.4f}{'' if told == tables.TASTE else f' ({told})'}",
                _signed(record.of(scenario, arm, "k=0", "mae"), mine)
                if cold in record.scores
                else "",
                f"{record.total_seconds / 60:.1f}",
            ]
            out.append(f"| {' | '.join(cells)} |")
    return out


def glance(records: list[report.Record]) -> str:
    """All methods side by side on new users, the best first, per data set."""
    heads = ("method", "MAE [95 %]", "minus fold-in", "N0 gap", "seeds", "outer steps")
    told = "New users and known items (`user_cold`), the best first; tuned and with more seeds, "
    told += "several of them stand side by side under [`tables`](#tables)."
    out = ["## At a glance", "", told, ""]
    for name in dict.fromkeys(r.dataset for r in records):
        lines = []
        for record in (r for r in records if r.dataset == name):
            if "user_cold" not in record.tasks:
                continue
            run = record.config
            for row in rows(record):
                _, scenario, arm, mae, fold_in, _, _, n0, _ = row.strip("| ").split(" | ")
                ablation = record.arm(arm).role == report.ABLATION
                if scenario == "user-cold" and not ablation:
                    link = f"[{arm}](#{record.experiment})"
                    spent = (str(run["seeds"]), f"{run['num_steps']:,}")
                    lines.append((mae, f"| {' | '.join((link, mae, fold_in, n0, *spent))} |"))
        head = [f"| {name}: {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
        out += [*head, *(line for _, line in sorted(lines)), ""]
    return "\n".join(out)


def speed() -> str:
    """The speed of an outer step beside others'; empty without records."""
    found = list(report.all_stored("speed-w*").values())
    told = (
        "How many times as fast as other ways a whole outer step is, one core and one thread each; "
        "all figures in [docs/speed.md](../docs/speed.md)."
    )
    return "\n".join(["## Speed", "", told, "", *page.glance(found), ""]) if found else ""


def as_published() -> str:
    """The field's learners at their published settings; empty without a record."""
    if not report.path_of("as_published").is_file():
        return ""
    text = described(HERE / "field" / "as_published" / "as_published.py")["title"]
    table = tables.markdown(as_published_report.grid(report.stored("as_published")))
    return "\n".join(["## `as_published`", "", text, "", table])


def others(shown: list[pathlib.Path]) -> str:
    """The programs whose records have tables of another kind."""
    lines = ["## Further programs", "", "Each prints its stored tables with `--from-records`.", ""]
    for path in commands():
        if path not in shown:
            lines.append(f"- `python -m experiments {path.stem}`: {described(path)['title']}")
    return "\n".join([*lines, ""])


def _signed(a, b) -> str:
    d = report.difference(a, b)
    star = "\\*" if d.low > 0 or d.high < 0 else ""
    return f"{d.mean:+.4f}{star} [{d.low:+.4f}, {d.high:+.4f}]"


def build() -> str:
    """The whole page."""
    found = {path: records for path in commands() if (records := tabled(path))}
    own = [r for path, records in found.items() if path.stem != "tables" for r in records]
    first = [glance(own), speed(), as_published()]
    sections = [section(path, records) for path, records in found.items()]
    return "\n".join([HEAD, *filter(None, first), *sections, others(list(found))])


if __name__ == "__main__":
    (HERE / "README.md").write_text(build())
    print(f"wrote {HERE / 'README.md'}")
