"""The uses of a pretrained model: answers are those of whole texts, people new, a stop mended."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from proper import assert_proper

from experiments.large.llm_uses import content, llm_uses, prompts, report
from metajax.benchmark.baselines import A0
from metajax.data import split
from metajax.data.sources import named
from metajax.models.language import bert, decoder, pretrained, vectors
from metajax.models.language.decoder import Decoder
from metajax.models.language.pretrained import Pretrained
from metajax.models.transformer import Shape
from metajax.results import records
from metajax.settings import Data, Output
from metajax.types import UserError

KNOWN_NEW = "known items, new people"


class Letters:
    """A tokenizer of single letters, of yes and of no."""

    def encode(self, text: str, add_special_tokens: bool = False) -> types.SimpleNamespace:
        text = text.replace(": yes", ": \x01").replace(": no", ": \x02")
        return types.SimpleNamespace(ids=[ord(letter) % 128 for letter in text])


def tiny(context: int = 4_000) -> Pretrained:
    made = Decoder(Shape(1, 8, 2, 1, 12), 128)
    params = jax.tree.map(lambda x: 15 * x, decoder.init(jax.random.key(0), made))
    return Pretrained("tiny", made, params, context, Letters())


PERSON = prompts.Rated(["Heat", "Alien", "It"], [5.0, 2.0, 4.0], ["Up", "Fargo", "Big"])
SHOTS = (0, 2, 3)


LOGITS = jax.jit(lambda row: decoder.logits(tiny().decoder, tiny().params, row))


def log_p(kind: str, k: int, question: str) -> np.ndarray:
    """Log-probabilities (S, V) of what follows each token of a whole text, read at once."""
    text = prompts.HEADS[kind] + "".join(prompts.lines(kind, PERSON)[:k]) + question
    tokens = tiny().encode(text)
    padded = jnp.asarray(tokens + [0] * (80 - len(tokens)))
    return np.asarray(jax.nn.log_softmax(LOGITS(padded), axis=-1))[: len(tokens)]


@pytest.fixture(scope="module")
def asker():
    return prompts.Asker(tiny())


def test_lines_say_what_each_prompt_says():
    assert prompts.lines(prompts.RATING, PERSON) == ["Heat: 5\n", "Alien: 2\n", "It: 4\n"]
    assert prompts.lines(prompts.YES_NO, PERSON) == ["Heat: yes\n", "Alien: no\n", "It: yes\n"]
    assert prompts.lines(prompts.LIKELIHOOD, PERSON) == ["Heat\n", "", "It\n"]


def test_the_rating_is_the_mean_of_the_digits_after_the_whole_text(asker):
    found = asker(prompts.RATING, PERSON, SHOTS)
    for i, k in enumerate(SHOTS):
        for j, title in enumerate(PERSON.asked):
            last = log_p(prompts.RATING, k, f"{title}: ")[-1]
            p = np.exp(last[[ord(str(s)) for s in range(1, 6)]])
            np.testing.assert_allclose(found[i, j], p @ np.arange(1, 6) / p.sum(), rtol=1e-3)


def test_yes_or_no_is_a_difference_of_logits_and_likelihood_that_of_the_title(asker):
    words = asker(prompts.YES_NO, PERSON, SHOTS)
    likely = asker(prompts.LIKELIHOOD, PERSON, SHOTS)
    for i, k in enumerate(SHOTS):
        last = log_p(prompts.YES_NO, k, "Fargo: ")[-1]
        np.testing.assert_allclose(words[i, 1], last[1] - last[2], rtol=1e-3, atol=1e-3)
        rows = log_p(prompts.LIKELIHOOD, k, "Fargo\n")[-7:-1]
        expected = sum(row[ord(letter)] for row, letter in zip(rows, "Fargo\n", strict=True))
        np.testing.assert_allclose(likely[i, 1], expected, rtol=1e-3)
    assert likely[1, 1] != likely[0, 1]


def test_a_prompt_that_does_not_fit_and_answers_of_many_tokens_are_one_line():
    with pytest.raises(UserError, match="a prompt has 53 tokens and the model reads 40"):
        prompts.Asker(tiny(context=40))(prompts.RATING, PERSON, SHOTS)

    class Plain(Letters):
        def encode(self, text, add_special_tokens=False):
            return types.SimpleNamespace(ids=[ord(letter) for letter in text])

    with pytest.raises(UserError, match="does not write each answer as one token"):
        prompts.Asker(tiny()._replace(tokenizer=Plain()))


def test_a_person_is_the_ridge_solution_and_nobody_without_ratings():
    np.testing.assert_array_equal(content.person_vector(np.zeros((0, 2)), np.zeros(0)), [0, 0, 0])
    one = content.person_vector(np.array([[2.0, 0.0]]), np.array([3.0]))
    np.testing.assert_allclose(one, 3.0 * np.array([1, 2, 0]) / (content.PENALTY + 5))


def test_the_people_were_in_no_earlier_test():
    table = named.load("synthetic")
    config = llm_uses.Config(shots=(0, 5))
    owners = llm_uses.people_of(config, table).test["user_cold"].owner
    asked = {"max_rows": None, "num_query": 20}
    drawn = split.user_disjoint(table, 20, shares=(0.1, 0.3), min_rows=25, **asked)
    assert set(owners) <= set(drawn.test["user_cold"].owner) and len(owners)
    after = llm_uses.Config(shots=(0, 5), draw=21, apart_from=(20,))
    later = llm_uses.people_of(after, table).test["user_cold"].owner
    assert len(later) and not set(later) & set(drawn.test["user_cold"].owner)
    try:
        earlier = split.user_disjoint(table, 0, shares=(0.1, 0.15), min_rows=70, **asked)
    except UserError:
        return
    assert not set(owners) & set(earlier.test["user_cold"].owner)


def test_every_use_stands_in_one_table_beside_a_bar_of_the_same_people():
    """By pencil: known items .5, .5, .8 of the item mean, the prompt .1 below for each person."""
    mean = np.array([[0.5, 0.5, 0.8]])
    key = lambda scenario, arm, k: records.Key(scenario, arm, f"k={k}", report.METRIC)
    both = [(A0, mean), (prompts.RATING, mean - 0.1)]
    of = lambda scenario, arms: {key(scenario, a, k): v for a, v in arms for k in (0, 5, 20)}
    new = [(content.GENRES, mean), (content.LARGE, mean + 0.2)]
    names = lambda scores: records.arms_of(list(dict.fromkeys(k.arm for k in scores)))
    make = lambda scores, **extra: records.made(
        "llm_uses", llm_uses.Config(), names(scores), scores, extra={"model": "tiny", **extra}
    )
    record = make(of(report.KNOWN, both) | of(report.NEW, new))
    other = of(KNOWN_NEW, [(A0, mean - 0.3), ("LoRA", mean - 0.25)])
    grid = report.in_one(record, dataclasses.replace(make(other, people=3), scenario=KNOWN_NEW))
    cells = {(row[0], row[1]): row[2:] for row in grid.rows}
    assert cells[report.KNOWN, A0] == ["0.600", "the bar"] * 2
    assert cells[report.KNOWN, prompts.RATING][:2] == ["0.500", "-0.100 [-0.100, -0.100]"]
    assert cells[report.NEW, content.LARGE][2:] == ["0.800", "+0.200 [+0.200, +0.200]"]
    assert cells[report.ADAPTED, "LoRA"][1] == "+0.050 [+0.050, +0.050]"
    assert list(grid.sections) == [0, 2, 4] and "3 other people" in grid.notes[1]
    assert report.ADAPTED not in {row[0] for row in report.in_one(record, None).rows}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The tiny model in the place of the real one, and random title vectors."""
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pretrained, "load", lambda checkpoint: tiny())
    monkeypatch.setattr(bert, "packaged_folder", lambda: tmp_path)
    draw = lambda texts, model, path: np.random.default_rng(5).normal(size=(len(texts), 3))
    monkeypatch.setattr(vectors, "cached", draw)
    options = {"shots": (0, 2), "people": 3, "seeds": 1, "dim": 4}
    place = Output(tmp_path / "out")
    return llm_uses.Config(output=place, data=Data("synthetic"), checkpoint="tiny", **options)


@pytest.mark.slow
def test_all_arms_stand_in_one_record_and_a_stopped_run_goes_on(small, tmp_path, capsys):
    record = llm_uses.main(small)
    said = capsys.readouterr().out
    assert "known items, 3 new people" in said and "titles permuted" in said
    known = report.of_scenario(record, report.KNOWN).names()
    assert {prompts.RATING, llm_uses.OTHERS, llm_uses.PRIOR, llm_uses.RANDOM} <= {*known}
    assert_proper(record, "k=2")
    judged = {(k.scenario, k.arm) for k in record.scores if k.metric == "crps"}
    assert {(report.KNOWN, prompts.RATING), (report.NEW, content.LARGE)} <= judged
    assert sum(name.startswith("A") for name in known) == 4
    new = report.of_scenario(record, report.NEW).names()
    assert {content.CONSTANT, content.LARGE, content.PERMUTED, content.SMALL} <= {*new}
    path = tmp_path / "out" / "people.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:3]) + "\n")
    again = llm_uses.main(small)
    assert again.opened == record.opened
    for key, values in record.scores.items():
        np.testing.assert_allclose(again.scores[key], values, rtol=1e-4)
    assert (tmp_path / "out" / "known-items.png").is_file()
