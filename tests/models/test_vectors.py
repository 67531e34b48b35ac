"""Vectors of texts by a language model: of each text alone, and kept for these texts and model."""

import pathlib

import jax
import numpy as np
import pytest

from metajax.models import transformer
from metajax.models.language import bert, pretrained, vectors
from metajax.models.language.decoder import Decoder, init
from metajax.models.transformer import Shape


class Letters:
    """A tokenizer of single letters."""

    def encode(self, text: str, add_special_tokens: bool = False):
        return type("Ids", (), {"ids": [ord(letter) % 128 for letter in text]})


def test_a_vector_is_that_of_the_last_token_two_thirds_up_and_of_one_text_alone():
    made = Decoder(Shape(3, 8, 2, 1, 12), 128)
    scaled = jax.jit(lambda key: jax.tree.map(lambda x: 20 * x, init(key, made)))
    params = scaled(jax.random.key(0))
    model = pretrained.Pretrained("tiny", made, params, 100, Letters())
    texts = ["Heat is a movie about", "Alien is a movie about", "It"] * 12  # more than one batch
    found = vectors.last_token(model, texts)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
    part = {"blocks": jax.tree.map(lambda x: np.asarray(x)[:2], params["blocks"])}
    part["norm"] = {"scale": np.ones(8)}
    forward = jax.jit(transformer.forward, static_argnums=0)
    for i in (0, 1, 2, 34):
        x = np.asarray(params["tokens"])[model.encode(texts[i])]
        last = np.asarray(forward(Shape(2, 8, 2, 1, 12), part, x))[-1]
        np.testing.assert_allclose(found[i], last / np.linalg.norm(last), rtol=1e-3, atol=1e-5)


def test_vectors_are_kept_beside_a_digest_of_their_texts_and_model(tmp_path, monkeypatch):
    calls = []

    def embed(texts, model):
        calls.append((tuple(texts), model))
        return np.ones((len(texts), 2), np.float32)

    monkeypatch.setattr(vectors, "embed", embed)
    path = tmp_path / "kept" / "vectors.npz"
    for texts, model in ((["a"], None), (["a"], None), (["a"], "smollm2"), (["a", "b"], None)):
        assert vectors.cached(texts, model, path).shape == (len(texts), 2)
    assert calls == [(("a",), None), (("a",), "smollm2"), (("a", "b"), None)]


@pytest.mark.parametrize("name", ["qwen3", "llama3"])
def test_a_language_model_is_told_from_an_encoder_by_its_folder(name, monkeypatch):
    folder = pathlib.Path(__file__).with_name("checkpoints") / name
    monkeypatch.setattr(bert, "embed", lambda texts, folder: "encoder")
    monkeypatch.setattr(pretrained, "load", lambda folder: "model")
    monkeypatch.setattr(vectors, "last_token", lambda model, texts: (model, texts))
    assert vectors.embed(["Heat"], folder) == ("model", ["Heat is a movie about"])
    assert vectors.embed(["Heat"]) == "encoder"
