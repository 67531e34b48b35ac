"""A question in words: five items of the catalogue, with reasons, from two models together.

A pretrained language model reads the question and writes titles; its decoding is constrained to the
catalogue, so that every one exists, and what was named is left out. The recommender that `metajax
train` makes adapts to the ratings: what the question says was liked or not, and ``--ratings``. It
orders the titles and tells which rating moved each. The language model alone reads what else the
question asks for.
"""

import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from metajax.commands import training
from metajax.data.sources import named
from metajax.data.table import Interactions
from metajax.models.language import pretrained
from metajax.serving import model as serving
from metajax.serving.catalogue import Catalogue, parse_said
from metajax.training import progress
from metajax.types import UserError

from ..titles import Searcher, fitting, names_of

TOP = 5
CLAUSE = re.compile(r"[.;:!?,]|\bbut\b|\band not\b|\bthough\b", re.IGNORECASE)
AGAINST = re.compile(
    r"\b(hat(e|ed)|dislik\w+|awful|boring|worst|bad|terrible|not|never|didn't|don't|less)\b",
    re.IGNORECASE,
)
YEAR = re.compile(r"\s*\(\d{4}\)$")

Search = Callable[[str, np.ndarray], np.ndarray]
"""(prompt, which items are allowed (N,)) -> items, best first, -1 where there are fewer."""


class Answer(NamedTuple):
    """What was understood, and the items for it.

    Attributes:
      said: item -> rating, what is known of the person.
      found: `TOP` items, best first, each with its place among what the language model wrote.
    """

    said: dict[int, float]
    found: list[tuple[serving.Recommendation, int]]


def mentioned(text: str, catalogue: Catalogue, popularity: np.ndarray) -> dict[int, bool]:
    """The items whose titles stand in a text -> whether they are spoken of well.

    Long titles go first. Letters must be large and small as in the title (``It`` is a film, ``it``
    is not); if so nothing is found, titles of five letters or more are sought whatever their case.
    Of films with one title the best known is meant.
    """
    named_so: dict[str, int] = {}
    for item in np.argsort(popularity, kind="stable").tolist():
        title = YEAR.sub("", catalogue.title(item))
        named_so[" ".join(_moved(title).split())] = item  # the most popular comes last and stays
    for exactly in (True, False):
        found, rest = {}, " ".join(text.split())
        for title in sorted(named_so, key=len, reverse=True):
            if not exactly and len(title) < 5:
                continue
            pattern = re.compile(
                rf"(?<!\w){re.escape(title)}(?!\w)", 0 if exactly else re.IGNORECASE
            )
            for match in pattern.finditer(rest):
                found[named_so[title]] = _well(text, match.group())
            rest = pattern.sub(lambda m: "\0" * len(m.group()), rest)
        if found:
            return found
    return {}


def _moved(title: str) -> str:
    """``Matrix, The`` as people write it, in its own letters."""
    told = re.fullmatch(r"(.*), (The|A|An|Der|Die|Das|Le|La|Les|L'|El|Il)", title)
    return f"{told[2]} {told[1]}" if told else title


def _well(text: str, title: str) -> bool:
    """Whether nothing in the title's clause speaks against it."""
    whole = " ".join(text.split()).replace(title, "\1")
    clause = next((c for c in CLAUSE.split(whole) if c and "\1" in c), "")
    return not AGAINST.search(clause)


def understood(
    text: str, ratings: str | None, trained: serving.Model
) -> tuple[dict[int, float], dict[int, bool]]:
    """Item -> rating of all that is known, ratings over words, and what the words say alone.

    Raises:
      UserError: nothing in the text or the ratings is an item of the catalogue.
    """
    catalogue, labels = trained.catalogue, trained.labels
    words = mentioned(text, catalogue, trained.popularity)
    good, bad = (labels.high, labels.low) if not labels.events else (1.0, 1.0)
    said = {item: good if well else bad for item, well in words.items()}
    if ratings:
        given = parse_said(ratings, labels, catalogue)
        labels.encode(given)
        said |= {catalogue.find(name): value for name, value in given.items()}
    if not said:
        raise UserError(
            f"nothing in the query is a title of the catalogue; name one, such as "
            f"{catalogue.title(int(np.argmax(trained.popularity)))!r}, or give --ratings"
        )
    return said, words


def prompt_of(text: str, said: Mapping[int, float], words: Mapping[int, bool], name: Any) -> str:
    """What the language model reads: the question, and the ratings that it does not tell."""
    told = [f"{name(i)}: {value:g}" for i, value in said.items() if i not in words]
    rated = f"Ratings by the same person: {', '.join(told)}.\n" if told else ""
    return f'A person asks: "{text.strip()}"\n{rated}Films to recommend to this person:\n'


def answer(
    text: str, ratings: str | None, trained: serving.Model, search: Search, top: int = TOP
) -> Answer:
    """The items for a question: written by the language model, ordered by the recommender.

    Raises:
      UserError: nothing in the question is known.
    """
    said, words = understood(text, ratings, trained)
    allowed = np.ones(len(trained.catalogue), bool)
    allowed[list(said)] = False
    prompt = prompt_of(text, said, words, trained.catalogue.title)
    place = {int(i): n for n, i in enumerate(search(prompt, allowed)) if i >= 0}
    labels = trained.labels.encode({str(i): value for i, value in said.items()})
    ordered = trained.best(np.array([*said]), labels, len(trained.catalogue))
    kept = [one for one in ordered if one.item in place]
    return Answer(said, [(one, place[one.item] + 1) for one in kept[:top]])


def recommender(table: Interactions, folder: pathlib.Path) -> serving.Model:
    """The recommender of a log, from its folder, or trained now: closed forms, in a minute."""
    if (folder / "model.json").is_file():
        found = serving.load(folder)
        if found.about["log"]["checksum"] == table.checksum():
            return found
    progress.say(f"training a recommender once, into {folder}")
    return training.train(table, folder, training.Settings(num_steps=0))


def searcher(config: Any, table: Interactions, trained: serving.Model) -> Search:
    """The search of a pretrained language model over the catalogue of a recommender."""
    model = pretrained.load(config.checkpoint or pretrained.NAME)
    names = names_of(table, trained.catalogue.ids)
    found = Searcher(model, names, config.candidates)
    longest = min(config.prompt_tokens, found.room)
    return lambda text, allowed: found(fitting(model, text, [], longest=longest), allowed)[0]


def show(said: Answer, trained: serving.Model) -> None:
    """Prints what was understood, and the items with their reasons."""
    told = [f"{trained.catalogue.title(i)}: {value:g}" for i, value in said.said.items()]
    print("understood: " + ", ".join(told))
    for rank, (one, place) in enumerate(said.found, 1):
        print(f"{rank}  {one.score:.2f}  {one.title}")
        print(f"         {one.why}; {place} in the language model's list", flush=True)


def answered(config: Any) -> None:
    """Answers a question, and at a terminal asks for ratings until there are no more."""
    table = named.chosen(config.data)
    names_of(table)
    name = f"llm_rec-query-{named.short_name(config.data.dataset)}"
    trained = recommender(table, config.output.folder(name) / "recommender")
    understood(config.query, config.ratings, trained)  # before half a gigabyte is read
    search = searcher(config, table, trained)
    ratings = config.ratings
    while True:
        show(answer(config.query, ratings, trained, search), trained)
        if not sys.stdin.isatty():
            return
        rated = input("rate one (TITLE=STARS), or Enter to end: ").strip()
        if not rated:
            return
        try:
            understood(config.query, rated, trained)
        except UserError as error:
            print(f"error: {error}")
            continue
        ratings = f"{ratings}, {rated}" if ratings else rated
