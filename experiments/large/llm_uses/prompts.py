"""Three ways to ask a pretrained language model what a person thinks of a title.

A person's rated titles stand in the prompt, a line each, oldest first; after its first K lines the
model is asked of every title that is judged. One pass reads the prompt, one per K reads all titles
asked of, packed in one row. The answers, (Q,) each, higher for better:

- *rating*: the lines are ``Title: 4``; the expected digit after ``Title: ``;
- *yes or no*: the lines are ``Title: yes`` (liked) or ``no``; the logit of yes minus that of no;
- *likelihood*: the lines are the liked titles; the log-likelihood of the title as the next line.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models.language import constrained
from metajax.models.language import decoder as lm
from metajax.models.language.constrained import Packed, Prompt
from metajax.models.language.pretrained import Pretrained
from metajax.models.transformer import Cache
from metajax.types import Params, UserError

RATING, YES_NO, LIKELIHOOD = "rating in context", "yes or no", "likelihood"
HEADS = {
    RATING: "Film ratings out of 5:\n",
    YES_NO: "Did this person like the film?\n",
    LIKELIHOOD: "Films that I love:\n",
}
STARS = (1, 2, 3, 4, 5)
PACK = 64
"""Prompts and packed titles are padded to multiples of it, so that few programs are compiled."""


class Rated(NamedTuple):
    """What is known of a person, and what is asked.

    Attributes:
      titles: of the rated items, oldest first; stars: of each.
      asked: the titles judged.
      liked: the stars from which a title counts as liked.
    """

    titles: Sequence[str]
    stars: Sequence[float]
    asked: Sequence[str]
    liked: float = 4.0


def lines(kind: str, person: Rated) -> list[str]:
    """The line of each rated title; empty where it says nothing in this kind of prompt."""
    rows = list(zip(person.titles, person.stars, strict=True))
    if kind == RATING:
        return [f"{title}: {stars:.0f}\n" for title, stars in rows]
    liked = [stars >= person.liked for stars in person.stars]
    told = [(f"{title}: yes\n", f"{title}: no\n") for title, _ in rows]
    if kind == LIKELIHOOD:
        told = [(f"{title}\n", "") for title, _ in rows]
    return [yes if good else no for (yes, no), good in zip(told, liked, strict=True)]


class Asker:
    """A model with its programs; what they are told are arguments, also the parameters."""

    def __init__(self, model: Pretrained):
        self.model = model
        stars = [model.encode(f"x: {s}") for s in STARS]
        words = [model.encode(f"x: {word}") for word in ("yes", "no")]
        self.answers = {RATING: _ends(stars), YES_NO: _ends(words)}
        self._chosen = jax.jit(self._choices)
        self._likely = jax.jit(self._likelihoods)

    def __call__(self, kind: str, person: Rated, shots: Sequence[int]) -> np.ndarray:
        """The answers (K, Q) for every title asked of, after each number of rated titles.

        Raises:
          UserError: the prompt is longer than the model's context.
        """
        encode, told = self.model.encode, lines(kind, person)
        head, rows = encode(HEADS[kind]), [encode(line) if line else [] for line in told]
        ends = [len(head) + sum(map(len, rows[:k])) for k in shots]
        asked = [self._question(kind, title) for title in person.asked]
        total = max(ends) + max(map(len, asked))
        if total > self.model.context:
            raise UserError(
                f"a prompt has {total} tokens and the model reads {self.model.context}; give "
                "fewer --shots"
            )
        tokens = [*head, *(t for row in rows[: max(shots)] for t in row)]
        tokens += [0] * (-len(tokens) % PACK)
        given = jnp.asarray(tokens, jnp.int32), jnp.asarray(ends, jnp.int32)
        question = constrained.packed(asked, PACK)
        if kind == LIKELIHOOD:
            return np.asarray(self._likely(self.model.params, *given, question))
        answers = jnp.asarray(self.answers[kind], jnp.int32)
        logits = np.asarray(self._chosen(self.model.params, *given, question, answers))
        if kind == YES_NO:
            return logits[..., 0] - logits[..., 1]
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return p @ np.array(STARS, float) / p.sum(axis=-1)

    def _question(self, kind: str, title: str) -> list[int]:
        """The tokens of a title up to the answer."""
        if kind == LIKELIHOOD:
            return self.model.encode(f"{title}\n")
        answer = {RATING: STARS[0], YES_NO: "yes"}[kind]
        return self.model.encode(f"{title}: {answer}")[:-1]

    def _read(self, params: Params, tokens: jax.Array) -> tuple[jax.Array, Cache]:
        cache = lm.start_cache(self.model.decoder, params, tokens.shape[0])
        return lm.read_hidden(self.model.decoder, params, tokens, cache)

    def _choices(
        self, params: Params, tokens: jax.Array, ends: jax.Array, asked: Packed, answers: jax.Array
    ) -> jax.Array:
        """The logits (K, Q, A) of the answers."""
        made = self.model.decoder
        cache = self._read(params, tokens)[1]

        def at(end: jax.Array) -> jax.Array:
            hidden = constrained.after(made, params, cache._replace(length=end), asked)
            return lm.to_logits(made, params, hidden[asked.last])[:, answers]

        return jax.lax.map(at, ends)

    def _likelihoods(
        self, params: Params, tokens: jax.Array, ends: jax.Array, asked: Packed
    ) -> jax.Array:
        """The log-likelihoods (K, Q)."""
        made = self.model.decoder
        hidden, cache = self._read(params, tokens)

        def at(end: jax.Array) -> jax.Array:
            logits = lm.to_logits(made, params, hidden[end - 1][None])[0]
            log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
            prompt = Prompt(cache._replace(length=end), log_p)
            return constrained.log_likelihoods(made, params, prompt, asked)

        return jax.lax.map(at, ends)


def _ends(rows: Sequence[Sequence[int]]) -> list[int]:
    """The last token of each row, the others being equal.

    Raises:
      UserError: the tokenizer writes an answer in several tokens.
    """
    if len({tuple(row[:-1]) for row in rows}) > 1 or len({row[-1] for row in rows}) < len(rows):
        raise UserError("this tokenizer does not write each answer as one token of its own")
    return [row[-1] for row in rows]
