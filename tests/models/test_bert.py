"""The text encoder: the vectors of the reference, padding, and folders that hold something else."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from metajax.models.language import bert
from metajax.types import UserError

TEXTS = ["Toy Story (1995)", "Heat", "The Good, the Bad and the Ugly", "2001: A Space Odyssey"]
SMALL = bert.Shape(20, 8, 2, 2, 12, 16)


@pytest.fixture(scope="module")
def folder() -> pathlib.Path:
    try:
        return bert.packaged_folder()
    except UserError:
        pytest.skip("the extra `text` is not installed")


@pytest.fixture(scope="module")
def vectors(folder):
    pytest.importorskip("tokenizers")
    return bert.embed(TEXTS, batch_size=4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vectors_are_those_of_the_reference(folder, vectors):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    batch = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    assert np.abs(vectors - expected).max() < 1e-4
    assert (vectors * expected).sum(1).min() > 0.9999


def test_like_titles_are_near(folder, vectors):
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    others = bert.embed(["Toy Story 2 (1999)", "The Texas Chainsaw Massacre"], batch_size=4)
    assert vectors[0] @ others[0] > vectors[0] @ others[1] + 0.2


def test_padding_is_invisible():
    model = compiled(bert.encoder(SMALL))
    tokens = jnp.array([[3, 4, 5, 9], [6, 7, 9, 9]])
    mask = jnp.array([[1.0, 1, 1, 0], [1, 1, 0, 0]])
    params = model.init(jax.random.key(0), (), (tokens, mask))
    other = jnp.where(mask > 0, tokens, 11)
    found = model.apply(params, (), (tokens, mask))
    np.testing.assert_allclose(model.apply(params, (), (other, mask)), found, atol=1e-6)
    alone = model.apply(params, (), (tokens[1:, :2], mask[1:, :2]))
    np.testing.assert_allclose(alone[0], found[1], atol=1e-6)
    assert jnp.abs(found[0] - found[1]).max() > 1e-2


def test_another_model_is_refused():
    with pytest.raises(UserError, match="holds no BERT encoder with GELU, but qwen3"):
        bert.load(pathlib.Path(__file__).with_name("checkpoints") / "qwen3")
