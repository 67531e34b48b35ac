"""Tables in five formats, at two widths."""

import csv
import dataclasses
import io
import re
import shutil
import subprocess

import pytest
from rich.console import Console
from small_records import record

from metajax.results import grid, tables

ODD = tables.Grid(
    "A title & more",
    ("arm|x", "MAE"),
    [["A_1 50% $x$ {y} #3 ~ ^ \\", "0.5 < 1"], ["b", "\u22121"]],
    notes=["A note."],
    sections=[0, 1],
    bold=[1],
)


def test_markdown_escapes_bars_and_keeps_every_cell():
    lines = tables.markdown(ODD).splitlines()
    assert lines[2] == "| arm\\|x | MAE |" and lines[3] == "| --- | ---: |"
    assert lines[4] == "| A_1 50% $x$ {y} #3 ~ ^ \\ | 0.5 < 1 |"
    assert lines[5] == "| **b** | **\u22121** |" and lines[-1] == "A note."


def test_csv_reads_back_as_the_cells():
    rows = list(csv.reader(io.StringIO(grid.csv_text(ODD))))
    assert rows == [list(ODD.headings), *[list(row) for row in ODD.rows]]


def test_latex_escapes_what_would_break_it():
    text = grid.latex(ODD, "tab:odd")
    expected = r"A\_1 50\% \$x\$ \{y\} \#3 \textasciitilde{} \textasciicircum{} \textbackslash{}"
    assert expected + r" & 0.5 $<$ 1 \\" in text
    assert (
        r"\textbf{b} & \textbf{$-$1} \\" in text and r"\caption{A title \& more. A note.}" in text
    )
    assert text.count(r"\midrule") == 2 and r"\begin{tabular}{lr}" in text
    assert text.count("{") == text.count("}")


def test_typst_compiles_to_the_same_words(tmp_path):
    typst = pytest.importorskip("typst")
    (tmp_path / "t.typ").write_text(grid.typst(ODD, "tab-odd"))
    pdf = tmp_path / "t.pdf"
    typst.compile(str(tmp_path / "t.typ"), output=str(pdf))
    assert pdf.read_bytes().startswith(b"%PDF")
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", str(pdf), "-"], capture_output=True, text=True).stdout
        assert "A_1 50% $x$ {y} #3 ~ ^ \\" in text and "0.5 < 1" in text


def test_numbers_of_the_table_are_those_of_the_scores():
    """The mean of 1 + t / 1000 over t = 0..49 is 1.0245; A2 lies 0.2 above, A4 0.1."""
    errors = {k: v for k, v in record().scores.items() if k.metric == "mae"}
    grid = tables.grid_of(dataclasses.replace(record(), scores=errors))
    row = dict(zip(grid.headings, grid.rows[3], strict=True))
    assert row["arm"] == "A6 MAML" and row["MAE [95 %]"].startswith("1.0245 [1.02")
    assert row["MAE - A2"] == "-0.2000*[-0.200, -0.200]"
    assert row["MAE - A4"] == "-0.1000*[-0.100, -0.100]"
    assert row["N1 gap"] == "+0.3000*[+0.300, +0.300]"
    assert grid.bold == [3, 7] and grid.sections == [0, 4]


@pytest.mark.parametrize("width", [80, tables.RATED_WIDE])
def test_every_number_is_readable_at_both_widths(width):
    screen = io.StringIO()
    tables.show(record(), Console(file=screen, width=width, force_terminal=True, no_color=True))
    text = screen.getvalue()
    assert "…" not in text and "A4 fine-tuned" in text and "user-cold (50)" in text
    gap = "-0.4498*" if width > 80 else "-0.450*"  # 1.0245 ** 2 - 1.2245 ** 2
    assert ("1.0247 [1.0" in text) == (width > 80) and gap in text and "1.02" in text
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    assert max(map(len, plain)) <= width
    assert "adapts" not in text


def test_a_seed_that_diverged_is_named_below_the_table():
    said = "the loss of seed 1 is not finite at outer step 5; lower the inner or outer rate"
    note = tables.grid_of(record(settings={"A6 MAML": {"diverged": [said]}})).notes[-1]
    assert (
        note == f"A6 MAML diverged and is judged by the best parameters that it had before: {said}."
    )
    assert not any("diverged" in note for note in tables.grid_of(record()).notes)


def test_a_method_that_does_not_adapt_is_said_so():
    screen = io.StringIO()
    tables.show(record(method="A3 joint"), Console(file=screen, width=200))
    assert screen.getvalue().count("adapts not at all: it is as good with shuffled") == 2
