"""How `distill` judges: places of the held-out items, as it is and after adapting."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses, tree
from metajax.adapters.conditions import film
from metajax.data.histories import sequences as histories
from metajax.data.histories.sequences import Sequences
from metajax.evaluation import evaluate, next_item
from metajax.learners.gradient.maml import gradient
from metajax.models import sequence
from metajax.types import Episode, Examples, MetaLearner, Params, UserError

from ..sasrec import sasrec

RATES = (0.1, 1.0, 5.0)


def judged(num_people: int, passed_over: int, most: int) -> np.ndarray:
    """The people (U,) who are judged: ``most`` of a shuffled order, behind those passed over.

    Raises:
      UserError: nobody is left.
    """
    order = np.random.default_rng(1).permutation(num_people)[passed_over : passed_over + most]
    if not len(order):
        raise UserError(f"{passed_over} of {num_people} people are passed over; none is left")
    return order


def own_rows(data: Sequences, people: np.ndarray, back: int, window: int, rows: int = 8) -> Episode:
    """Each person's newest ``rows`` transitions before the item ``back`` from the end."""
    parts = [histories.held_out(data, window, back + i) for i in range(rows, 0, -1)]
    stack = lambda name: np.stack([getattr(p, name)[people] for p in parts], axis=1)
    inputs = (jnp.asarray(stack("history")), jnp.asarray(stack("length")))
    label = jnp.asarray(stack("target"), jnp.float32)
    support = Examples(inputs, label, jnp.ones(label.shape))
    return Episode((), support, jax.tree.map(lambda x: x[:, :1], support))


def adapter(settings: sequence.Settings, rate: jax.Array) -> MetaLearner:
    """Three gradient steps on scales and shifts."""
    model = film(sequence.next_item(settings), settings.shape)
    entropy = losses.class_cross_entropy
    return gradient(model, optax.sgd(rate), 3, adapts=tree.under("adapter"), loss=entropy)


class Judge:
    """Compiled judgements of the recommenders of one architecture; parameters are arguments."""

    def __init__(self, config: Any, data: Sequences, settings: sequence.Settings):
        order = judged(len(data.length), config.passed_over, config.people)
        at = np.flatnonzero(data.length[order] >= 12)[: config.adapted]
        self.at, self.some = at, order[at]
        self.held = histories.held_out(data, config.window, 1).only(order)
        model = sequence.next_item(settings)
        self.score = jax.jit(lambda params, rows: model.apply(params, (), rows))

        def as_it_is(params: Params) -> jax.Array:
            scorer = sasrec.scorer(settings, params)
            found = next_item.ranks(scorer, self.held, data.num_items, jax.random.key(5))
            return found[next_item.FULL]

        self.as_it_is = jax.jit(as_it_is)
        self.adapted = {back: self._adapted(config, data, settings, back) for back in (1, 2)}

    def _adapted(self, config: Any, data: Sequences, settings: sequence.Settings, back: int):
        """(params, rate) -> places of the held-out items when each person is adapted to first."""
        held = histories.held_out(data, config.window, back).only(self.some)
        support = own_rows(data, self.some, back, config.window).support
        wrapped = film(sequence.next_item(settings), settings.shape)
        rows = jax.tree.map(lambda x: x[0], support.inputs)
        fresh = wrapped.init(jax.random.key(0), (), rows)["adapter"]

        def fetch(asked: tuple[jax.Array, ...]) -> Episode:
            person, history, length = asked
            mine = jax.tree.map(lambda x: x[person], support)
            rows = (history[None], length[None])
            return Episode((), mine, Examples(rows, jnp.zeros(1), jnp.ones(1)))

        def places(params: Params, rate: jax.Array) -> jax.Array:
            learner = adapter(settings, rate)
            start = {"model": {"base": params, "adapter": fresh}, "rates": ()}

            def scorer(*asked: jax.Array) -> jax.Array:
                key = jax.random.key(0)
                return evaluate.predictions(learner, start, asked, key, fetch=fetch)[:, 0]

            key = jax.random.key(6)
            found = next_item.ranks(scorer, held, data.num_items, key, batch_size=16)
            return found[next_item.FULL]

        return jax.jit(places)

    def chosen(self, params: Params) -> dict[str, Any]:
        """The rate of adapting that is best for the items before the held-out ones."""
        valid = {}
        for rate in RATES:
            rank = np.asarray(self.adapted[2](params, rate))
            valid[rate] = float(next_item.rank_metrics(rank)["ndcg@10"].mean())
        return {"rate": max(valid, key=lambda rate: valid[rate]), "valid": valid}

    def __call__(self, params: Params, rate: float) -> tuple[dict[str, np.ndarray], float]:
        """Places (U,) of the held-out items as it is and adapted at a rate; milliseconds."""
        places = {"as it is": np.asarray(self.as_it_is(params))}
        places["adapted"] = np.asarray(self.adapted[1](params, rate))
        places["same people, as it is"] = places["as it is"][self.at]
        one = (jnp.asarray(self.held.history[:1]), jnp.asarray(self.held.length[:1]))
        took = []
        for _ in range(50):
            began = time.process_time()
            jax.block_until_ready(self.score(params, one))
            took.append(time.process_time() - began)
        return places, 1e3 * float(np.median(took))
