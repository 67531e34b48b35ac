"""The sentences of the paper: one for each outcome, and no number typed in."""

import pathlib
import re

PAPER = pathlib.Path(__file__).resolve().parents[2] / "paper"


def test_sentences_of_each_outcome():
    from paper.claims import _sides
    from paper.edition import Against

    assert _sides(Against(["a"], ["b", "c"], []), "X") == (
        "Of three meta-learners compared with X, one is better (a) and two are worse (b and c)"
    )
    assert _sides(Against([], [], ["a"]), "X").endswith(
        "none is better and one cannot be told apart from it (a)"
    )
    many = _sides(Against([], list("abcdef"), []), "X")
    assert many.endswith("none is better and six are worse"), "the table has their names"


def test_no_number_is_typed_into_the_prose():
    """Digits stand in settings, citations, labels, formulas and names of arms only."""
    prose = (PAPER / "paper.typ").read_text().partition("[Abstract]")[2]
    prose = re.sub(r"(?m)^#(set|counter|let) .*$|^#counter.*$", "", prose)
    prose = re.sub(
        r"\$[^$]*\$|@[\w-]+|<[\w-]+>|#\w+\([^)]*\)?|`[^`]*`"
        r"|A\d+|N1|T[1-6]|\.05|95 %|100%|exclude 0|MovieLens 1M",
        "",
        prose,
    )
    assert len(prose) > 4000 and not re.findall(r"\d+", prose)


def test_no_semicolon_is_lost():
    """Typst takes one that follows a call or a block for its end; it is shown if escaped."""
    assert not re.findall(r"[)\]];", (PAPER / "paper.typ").read_text())
