"""A pretrained model that writes titles: what it is asked, what is kept of it, and its answers."""

import dataclasses
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.large import titles
from experiments.large.llm_rec import llm_rec, query, writing
from metajax.data.sources import named
from metajax.data.table import Features, Interactions
from metajax.models.language import checkpoints, constrained, decoder, pretrained
from metajax.models.language.decoder import Decoder
from metajax.models.language.pretrained import Pretrained
from metajax.models.transformer import Shape
from metajax.results import records
from metajax.results.partial import Partial
from metajax.serving import linear, model
from metajax.serving.catalogue import Catalogue, Labels
from metajax.settings import Output
from metajax.types import UserError


class Letters:
    """A tokenizer of single letters."""

    def encode(self, text: str, add_special_tokens: bool = False) -> types.SimpleNamespace:
        return types.SimpleNamespace(ids=[ord(letter) % 128 for letter in text])

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


def tiny(context: int = 400) -> Pretrained:
    made = Decoder(Shape(1, 8, 2, 1, 12), 128)
    params = jax.tree.map(lambda x: 20 * x, decoder.init(jax.random.key(0), made))
    return Pretrained("tiny", made, params, context, Letters())


FILMS = ["Alien", "Heat", "It", "Matrix, The", "Blade Runner", "Speed", "Toy Story", "Fargo"]


def log(num_people: int = 40) -> Interactions:
    """People who saw six of the films each, in an order of their own."""
    rng = np.random.default_rng(0)
    item = np.concatenate([rng.permutation(len(FILMS))[:6] for _ in range(num_people)])
    return Interactions(
        name="films",
        user=np.repeat(np.arange(num_people), 6).astype(np.int32),
        item=item.astype(np.int32),
        label=(1 + item % 5).astype(np.float32),
        time=np.tile(np.arange(6), num_people),
        user_ids=np.arange(num_people),
        item_ids=np.arange(10, 10 + len(FILMS)),
        user_features=Features(),
        item_features=Features(),
        scale=(1.0, 5.0),
        item_titles=np.array(FILMS),
    )


def test_names_are_as_spoken_and_all_different():
    assert titles.spoken("Usual Suspects, The") == "The Usual Suspects"
    assert titles.spoken("Enfants du paradis, Les (1945)") == "Les Enfants du paradis (1945)"
    assert titles.spoken("Monsters, Inc.") == "Monsters, Inc."
    twice = named.load("synthetic")
    assert len(set(titles.names_of(twice))) == twice.num_items
    assert titles.names_of(log(), np.array([13, 10])) == ["The Matrix", "Alien"]


def test_a_long_prompt_loses_its_oldest_titles_and_never_the_newest():
    lines = ["old\n", "older than new\n", "new\n"]
    whole = titles.fitting(tiny(), "seen:\n", lines, "next:")
    assert whole.left_out == 0 and whole.length == len("seen:\nold\nolder than new\nnew\nnext:")
    short = titles.fitting(tiny(), "seen:\n", lines, "next:", longest=16)
    assert short.left_out == 2
    assert "".join(map(chr, short.tokens[: short.length])) == "seen:\nnew\nnext:"
    assert len(short.tokens) % titles.SIZE == 0
    with pytest.raises(UserError, match=r"has 15 tokens and 9 fit, even with its newest"):
        titles.fitting(tiny(), "seen:\n", lines, "next:", longest=9)
    with pytest.raises(UserError, match="12 fit"):
        titles.fitting(tiny(context=12), "seen:\n", lines, "next:")


def test_what_is_found_is_kept_and_a_cut_line_is_found_again(tmp_path):
    path, about = tmp_path / "kept.jsonl", {"config": "a"}
    kept = Partial(path, about)
    kept.add("7", {"items": np.array([1, 2]), "seconds": 0.5})
    kept.add("8", {"items": [3]})
    path.write_text(path.read_text() + '["9", {"items": [')
    again = Partial(path, about)
    assert again["7"] == {"items": [1, 2], "seconds": 0.5} and "8" in again and "9" not in again
    again.add("9", 1)
    assert Partial(path, about)["9"] == 1
    assert not Partial(path, {"config": "b"}).found


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The tiny model and the small log in the place of the real ones; what was searched for."""
    searched, plain = [], titles.Searcher.__call__
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pretrained, "load", lambda checkpoint: tiny())
    monkeypatch.setattr(named, "chosen", lambda data: log())

    def counted(self, text, allowed):
        searched.append((text, allowed))
        return plain(self, text, allowed)

    monkeypatch.setattr(titles.Searcher, "__call__", counted)
    options = {"window": 3, "beam": 4, "people": 5, "output": Output(tmp_path / "out")}
    return searched, llm_rec.Config(checkpoint="tiny", **options)


def test_each_person_is_kept_and_a_stopped_run_goes_on(small, tmp_path, capsys):
    searched, config = small
    record = llm_rec.main(config)
    assert record is not None and len(searched) == 5
    arms = ["popularity", "transitions", writing.OTHERS, writing.WRITES, writing.MINUS]
    assert record.names() == arms
    assert "of processor time" in capsys.readouterr().out
    path = tmp_path / "out" / "people.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 2 + 5  # what run it is of, the opening, the people
    for _, found in map(json.loads, lines[2:]):
        real = [i for i in found["items"] if i >= 0]
        assert len(set(real)) == len(real) and found["seconds"] > 0
    for text, allowed in searched:  # five of eight films were seen before the last one
        assert allowed.sum() == 3 and text.left_out == 0
    path.write_text("\n".join(lines[:5]) + "\n" + lines[5][:9])
    again = llm_rec.main(config)
    assert len(searched) == 5 + 2  # three of five stood there
    assert again.opened == record.opened  # the same opening, and not one more
    for key, values in record.scores.items():
        np.testing.assert_array_equal(again.scores[key], values)
    more = llm_rec.main(dataclasses.replace(config, people=6))
    assert len(searched) == 8 and more.opened != record.opened  # one more person, another opening


def test_the_prior_is_the_likelihood_after_the_head_and_is_taken_off():
    names, made = ["Heat", "It", "Blade Runner"], tiny()
    prior = writing.priors(made, names, at_once=4)
    tokens = made.encode(f"{writing.HEAD} {names[1]}\n")
    row, judged = np.array(tokens), np.arange(len(tokens)) >= len(writing.HEAD)
    expected = jax.jit(constrained.log_likelihood, static_argnums=0)(
        made.decoder, made.params, row, judged
    )
    np.testing.assert_allclose(prior[1], expected, rtol=1e-3)
    found = [{"items": [1, 0, -1], "scores": [-2.0, -3.0, -np.inf]}]
    # -2 + 1 = -1 of item 1, and -3 + 7 = 4 of item 0; -1 has nothing.
    assert writing.reordered(found, np.array([-7.0, -1.0, 0.0])).tolist() == [[0, 1, -1]]


def test_the_prompt_is_the_likelihood_of_the_title_that_comes_next(small):
    searched, config = small
    llm_rec.main(config)
    text, allowed = searched[0]
    told = "".join(map(chr, text.tokens[: text.length]))
    assert re.fullmatch(r"Films watched, in order:\n( .*\n){3}", told)
    reader = tiny()
    search = titles.Searcher(reader, titles.names_of(log()), 8)
    items, scores = search(text, allowed)
    assert set(items[items >= 0].tolist()) == set(np.flatnonzero(allowed).tolist())
    name = f" {titles.names_of(log())[items[0]]}\n"
    whole = jnp.asarray(reader.encode(told + name))
    judged = jnp.arange(len(whole)) >= text.length
    expected = constrained.log_likelihood(reader.decoder, reader.params, whole, judged)
    np.testing.assert_allclose(scores[0], expected, rtol=1e-4)


@pytest.fixture
def films():
    """A recommender of eight films in one dimension: the later ones are like Alien."""
    x = np.linspace(1.0, -1.0, len(FILMS))[:, None].astype(np.float32)
    zeros = np.zeros(len(FILMS), np.float32)
    form = linear.Form(x, zeros + 3.0, zeros, np.zeros(1), np.ones(1), None, None, 1.0)
    catalogue = Catalogue(np.arange(10, 18), FILMS)
    return model.Model(
        {}, "", Labels("ratings", 1.0, 5.0), catalogue, np.arange(8, 0, -1), form,
        None, {}, {}, None,
    )  # fmt: skip


def test_titles_are_found_in_words_and_what_is_said_against_them(films):
    def said(text: str) -> dict[str, bool]:
        found = query.mentioned(text, films.catalogue, films.popularity)
        return {FILMS[item]: well for item, well in found.items()}

    assert said("I liked Alien and Blade Runner, something slower?") == {
        "Alien": True,
        "Blade Runner": True,
    }
    assert said("The Matrix was great but I hated Speed") == {"Matrix, The": True, "Speed": False}
    assert said("I did not like Heat. Toy Story is it for me") == {"Heat": False, "Toy Story": True}
    assert said("i liked blade runner, it was slow") == {"Blade Runner": True}
    assert said("something slow, Aliens Heated") == {}


def test_an_answer_holds_real_unseen_items_and_changes_with_a_rating(films):
    prompts = []

    def search(text, allowed):
        prompts.append(text)
        return np.array([*np.flatnonzero(allowed)[::-1][:6], -1])

    first = query.answer("I liked Alien", None, films, search, top=3)
    assert first.said == {0: 5.0}
    assert [one.item for one, _ in first.found] == [2, 3, 4]  # nearest to Alien among the proposed
    assert "Alien" in first.found[0][0].why
    again = query.answer("I liked Alien", "Alien=1, Fargo=5", films, search, top=3)
    assert [one.item for one, _ in again.found] == [6, 5, 4]  # the rating goes over the words
    assert "Fargo: 5" in prompts[1] and "Fargo" not in prompts[0]
    for found in (first, again):
        assert all(0 <= one.item < len(FILMS) for one, _ in found.found)
        assert not {one.item for one, _ in found.found} & set(found.said)


def test_a_question_in_which_nothing_is_known_is_one_line(films):
    with pytest.raises(UserError, match=r"nothing in the query is a title .* such as 'Alien'"):
        query.answer("something slower?", None, films, lambda text, allowed: np.zeros(1))
    with pytest.raises(UserError, match="no item is called 'Nosferatu'"):
        query.answer("Alien", "Nosferatu=5", films, lambda text, allowed: np.zeros(1))


def test_ratings_without_a_question_are_one_line():
    with pytest.raises(UserError, match="give --query, too"):
        llm_rec.main(llm_rec.Config(ratings="Alien=5"))


def test_no_tokenizer_is_one_line(tmp_path):
    pytest.importorskip("tokenizers")
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        checkpoints.tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer") as error:
        checkpoints.tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_the_record_of_a_pretrained_model_has_a_name_of_its_own():
    name = llm_rec.name_of(llm_rec.Config(checkpoint="models/Some-1B.gguf"))
    assert name == "llm_rec-some-1b-ml-1m" and llm_rec.name_of(llm_rec.Config()) == "llm_rec-ml-1m"
    assert records.SUFFIX == ".record"
