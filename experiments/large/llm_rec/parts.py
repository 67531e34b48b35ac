"""The arms of `llm_rec`: a decoder trained here, and what adapts it to a person."""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import losses, optim, tree
from metajax.adapters.conditions import soft_prompt
from metajax.adapters.lora import adapted, lora
from metajax.evaluation import evaluate
from metajax.learners.gradient.maml import gradient
from metajax.learners.pooled import pooled
from metajax.models.language import constrained, decoder
from metajax.models.language.decoder import Decoder
from metajax.models.transformer import Shape
from metajax.training import journal, loop
from metajax.training.devices import on_devices
from metajax.transforms.pretrained import starting_from
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

PLAIN, TUNED = "no adaptation", "LoRA fine-tuned"
META_LORA, META_PROMPT = "LoRA, meta-learned", "soft prompt, meta-learned"
LOW = tree.matching("attention/(query|value)/kernel")
RATES = (0.003, 0.03, 0.3)

Search = Callable[[np.ndarray], np.ndarray]
Arm = tuple[Search, float, dict[str, Any]]


def likelihood(made: Decoder) -> Model:
    """The model whose rows are texts and whose scores (N,) are their mean log-likelihoods.

    ``inputs`` is the pair of tokens and ``judged`` (N, S), which tokens count.
    """

    def apply(params: Params, profile: PyTree, inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        del profile
        tokens, judged = inputs
        each = functools.partial(constrained.log_likelihood, made, params)
        return jax.vmap(each)(tokens, judged) / jnp.maximum(jnp.sum(judged, axis=1), 1.0)

    return Model(lambda key, profile, inputs: decoder.init(key, made), apply)


class Lab:
    """The data on the device, and one trained arm after the other.

    Attributes:
      bytes: arm -> bytes kept of a person.
    """

    def __init__(
        self,
        config: Any,
        data: Any,
        words: Any,
        train_on: np.ndarray,
        valid: np.ndarray,
        folder: pathlib.Path,
    ):
        """Lays out the data.

        Args:
          folder: for checkpoints.
        """
        self.config, self.data, self.words, self.folder = config, data, words, folder
        self.train_on, self.valid = train_on, valid
        shape = Shape(config.num_layers, config.width, 2, 2, 2 * config.width)
        self.decoder = Decoder(shape, words.vocab_size)
        self.tree = constrained.prefix_tree(words.items.tolist())
        self.bytes = {PLAIN: 0}
        as_device = (data.items, data.start, data.length, words.start, words.items)
        self.arrays = tuple(jnp.asarray(x, jnp.int32) for x in as_device)

    def text(self, arrays: PyTree, person: jax.Array, end: jax.Array):
        """A row of ``window`` items before ``end``: tokens, which count, and if all are there."""
        items, start, _, profile, codes = arrays
        window = self.config.window
        place = end - window + jnp.arange(window)
        real = jnp.all(place >= 0)
        row = codes[items[start[person] + jnp.maximum(place, 0)]].reshape(-1)
        tokens = jnp.concatenate([profile[person], row])
        judged = jnp.arange(tokens.shape[0]) >= profile.shape[1]
        return tokens, judged * 1.0, real * 1.0

    def episode(self, arrays: PyTree, person: jax.Array, end: jax.Array) -> Episode:
        """Older rows as the support, the row before ``end`` as the query."""
        ends = end - self.config.window * jnp.arange(self.config.rows, -1, -1)
        tokens, judged, real = jax.vmap(lambda e: self.text(arrays, person, e))(ends)
        part = lambda s: Examples((tokens[s], judged[s]), real[s], real[s])
        return Episode((), part(slice(0, -1)), part(slice(-1, None)))

    def sample(self, arrays: PyTree, key: jax.Array, num_people: int) -> Episode:
        """Random training people at random times, their last two items left out."""
        key_who, key_when = jax.random.split(key)
        who = jax.random.choice(key_who, jnp.asarray(self.train_on), (num_people,))
        last = arrays[2][who] - 2
        first = jnp.minimum(self.config.window, last)
        when = jax.random.randint(key_when, (num_people,), first, last + 1)
        return jax.vmap(lambda p, e: self.episode(arrays, p, e))(who, when)

    def fit(
        self, name: str, learner: MetaLearner, steps: int, people: int, rate: float, seed: int
    ) -> Params:
        """The parameters after training; resumed, if it was killed."""
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10 + 1, steps)
        tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
        sample = lambda arrays, key: self.sample(arrays, key, people)
        keys = jax.random.key(seed)[None]
        recipe = loop.recipe(learner, tx, loop.outer_gradient(learner, 8))
        recipe = on_devices(self.config.hardware.devices, recipe)
        kept = self.folder / f"{journal.slug(name)}-{seed}"
        fitted = loop.fit(recipe, sample, self.arrays, keys, steps, checkpoint=kept)
        return jax.tree.map(lambda x: x[0], fitted.params)

    def plain(self, seed: int) -> tuple[Arm, Params]:
        """The decoder trained on everyone's rows and not adapted, and its parameters."""
        began = time.perf_counter()
        learner = pooled(likelihood(self.decoder), loss=losses.negative_mean)
        config = self.config
        sizes = config.num_steps, config.batch, config.rate
        trained = self.fit(PLAIN, learner, *sizes, seed)["model"]
        whole = lambda params, state: params["model"]
        search = self.search(learner, {"model": trained, "rates": ()}, whole)
        took = time.perf_counter() - began
        return (search, took, {"valid nats per item": self.nats(trained)}), trained

    def nats(self, params: Params) -> float:
        """The mean negative log-likelihood of an item on validation people's newest rows."""
        query = self.held(self.valid).query
        model = likelihood(self.decoder)
        each = jax.jit(jax.vmap(lambda rows: model.apply(params, (), rows)))(query.inputs)
        tokens = self.words.items.shape[1]
        return -tokens * float(jnp.sum(each * query.mask) / jnp.sum(query.mask))

    def arms(self, seed: int) -> dict[str, Arm]:
        """Every arm: a search for people, seconds of training, and what was chosen."""
        config, base = self.config, likelihood(self.decoder)
        first, trained = self.plain(seed)
        found: dict[str, Arm] = {PLAIN: first}
        low, prompt = lora(base, 2, LOW), soft_prompt(base, self.decoder.shape, 4)
        found[TUNED] = self.tuned(low, trained, seed)
        for name, model, use in (
            (META_LORA, low, _with_lora),
            (META_PROMPT, prompt, _with_prompt),
        ):
            began = time.perf_counter()
            inner = optim.learned_rates(0.03)
            steps = config.inner_steps
            under = tree.under("adapter")
            learner = gradient(model, inner, steps, adapts=under, loss=losses.negative_mean)
            learner = starting_from(learner, model={"base": trained})
            params = self.fit(name, learner, config.meta_steps, 8, 3e-3, seed)
            self.bytes[name] = 4 * tree.size(params["model"]["adapter"])
            found[name] = (self.search(learner, params, use), time.perf_counter() - began, {})
        return found

    def tuned(self, low: Model, trained: Params, seed: int) -> Arm:
        """LoRA from its start, at the rate that is best on the validation people."""
        began, scores, made = time.perf_counter(), {}, {}
        episodes = self.held(self.valid)
        for rate in RATES:
            learner = starting_from(self.descent(low, rate), model={"base": trained})
            first = jax.tree.map(lambda x: x[0], episodes)
            params = learner.init(jax.random.key(seed), first)
            one = lambda p, e, r=learner: r.loss(p, e, jax.random.key(0))[0]
            loss = jax.jit(jax.vmap(one, (None, 0)))(params, episodes)
            scores[rate] = float(np.nan_to_num(loss.mean(), nan=np.inf))
            made[rate] = (learner, params)
        best = min(scores, key=lambda rate: scores[rate])
        learner, params = made[best]
        self.bytes[TUNED] = 4 * tree.size(params["model"]["adapter"])
        search = self.search(learner, params, _with_lora)
        return search, time.perf_counter() - began, {"rate": best, "valid": scores}

    def descent(self, model: Model, rate: float) -> MetaLearner:
        """Plain gradient steps on the adapter."""
        steps, under = self.config.inner_steps, tree.under("adapter")
        return gradient(model, optax.sgd(rate), steps, adapts=under, loss=losses.negative_mean)

    def held(self, people: np.ndarray) -> Episode:
        """The people's older rows, and the row that ends with the item to find."""
        who = jnp.asarray(people)
        return jax.vmap(lambda p: self.episode(self.arrays, p, self.arrays[2][p]))(who)

    def search(
        self, learner: MetaLearner, params: Params, use: Callable[[Params, Any], Params]
    ) -> Search:
        """A search that adapts to a person's older rows and decodes the item after the newest."""
        width = self.words.items.shape[1]

        def older(person: jax.Array) -> Episode:
            return self.episode(self.arrays, person, self.arrays[2][person] - 1)

        def decoded(params: Params, state: PyTree, newest: Examples) -> jax.Array:
            tokens, whole = newest.inputs[0][0], newest.mask[0]
            short = tokens.shape[0] - width * self.config.window
            length = jnp.where(whole > 0, tokens.shape[0], short)
            own, beam = use(params, state), self.config.beam
            return constrained.best_items(self.decoder, own, tokens, length, self.tree, beam)[0]

        @jax.jit
        def many(params: Params, people: jax.Array) -> jax.Array:
            measure = lambda state, episode: decoded(params, state, episode.query)
            key, options = jax.random.key(0), {"fetch": older, "batch_size": None}
            return evaluate.after_adapting(learner, params, people, key, measure, **options)

        return lambda people: np.asarray(many(params, jnp.asarray(people)))


def _with_lora(params: Params, state: Any) -> Params:
    params = tree.merge(state.fast, params["model"])
    return adapted(params["base"], params["adapter"])


def _with_prompt(params: Params, state: Any) -> Params:
    params = tree.merge(state.fast, params["model"])
    return {**params["base"], "prompt": params["adapter"]["prompt"]}
