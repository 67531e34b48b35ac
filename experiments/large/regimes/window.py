"""A history longer than the window: does adapting to what no longer fits pay beyond reading?

People unseen in training. Ten items are to be found, one after the other, by a recommender whose
window begins ten items before them; the hundred items before those are the support. First the
headroom: how much better the same recommender is where more of the history fits its window.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import losses, optim, precision, tree
from metajax.adapters.conditions import film
from metajax.adapters.lora import adapted, lora
from metajax.data.histories.sequences import Sequences
from metajax.evaluation import next_item
from metajax.learners.gradient.maml import gradient
from metajax.models import sequence
from metajax.training import progress
from metajax.transforms.pretrained import starting_from
from metajax.types import Examples, MetaLearner, Model, Params, PyTree

from . import history as lab
from .history import ROW, Plan

NONE, HEAD, FULL, LORA = "no adaptation", "closed-form head", "full fine-tuning", "LoRA fine-tuned"
META_LORA, META_FILM = "LoRA, meta-learned", "FiLM, meta-learned"
READS = "in context, long window"
CONTEXTS = (1, 5, 20, 50)
LOW = tree.matching("attention/(query|value)/kernel")


class Mean(NamedTuple):
    """A taste (D,) solved on what a person met."""

    taste: jax.Array


@precision.highest
def solved(vectors: jax.Array, met: jax.Array, penalty: jax.Array) -> jax.Array:
    """The taste (D,) of implicit least squares, see `implicit_head`."""
    all_items = vectors.T @ vectors / len(vectors)
    normal = all_items + met.T @ met + penalty * jnp.eye(met.shape[1])
    return jnp.linalg.solve(normal, met.sum(axis=0))


def implicit_head() -> MetaLearner:
    """The closed-form head: the taste of implicit least squares over the item vectors.

    ``(V'V / n + sum v v' + penalty I) taste = sum v`` over the items met; its inner products with
    the items are added to the recommender's scores with a weight. Its parameters are the
    recommender's, ``weight`` and ``penalty``.

    References: Hu, Koren, Volinsky, ICDM 2008.
    """

    def start(params: Params, profile: PyTree) -> Mean:
        del profile
        return Mean(jnp.zeros(params["base"]["items"].shape[1]))

    def adapt(params: Params, state: Mean, examples: Examples, key: jax.Array) -> Mean:
        del state, key
        rows, _ = examples.inputs
        vectors = sequence.item_embeddings(params["base"])
        met = vectors[rows.reshape(-1)]
        return Mean(params["weight"] * solved(vectors, met, params["penalty"]))

    none = lambda *given: jnp.zeros(())
    return MetaLearner(lambda key, episode: {}, start, adapt, none, lambda *given: (none(), {}))


class Ready(NamedTuple):
    """An arm before its test.

    Attributes:
      learner: how it adapts.
      read: (parameters, state, a person's newest items) -> see `history.places`.
      params: of the learner.
    """

    learner: MetaLearner
    read: Any
    params: Params


class Arms:
    """Every way to adapt one trained backbone.

    Attributes:
      seconds, settings, bytes: by arm.
    """

    def __init__(self, plan: Plan, data: Sequences, seed: int):
        self.plan, self.seed = plan, seed
        need = ROW * (lab.ROWS + 1)
        people = [lab.of_people(data, group) for group in lab.groups(len(data.length))]
        keep = lambda d: lab.of_people(d, np.flatnonzero(d.length >= max(need, plan.window)))
        self.train, self.meta, self.valid, self.test = people[0], *map(keep, people[1:])
        self.test = lab.of_people(self.test, np.arange(len(self.test.length))[: plan.people])
        self.settings_of = lab.settings_of(data)
        self.model = lab.likelihood(self.settings_of)
        self.seconds: dict[str, float] = {}
        self.settings: dict[str, Any] = {}
        self.bytes = {NONE: 0, READS: 4 * plan.window, HEAD: 4 * self.settings_of.shape.width}
        began = time.perf_counter()
        self.base = lab.backbone(plan, self.train, seed)
        self.seconds["backbone"] = time.perf_counter() - began

    def places(self, ready: Ready, data: Sequences) -> np.ndarray:
        """Places (U, JUDGED)."""
        learner, read, params = ready
        return lab.places(self.settings_of.num_items, learner, read, params, data)

    def as_it_is(self, reader: lab.Reader) -> Ready:
        """The recommender without adaptation."""
        read = lambda params, state, tail: (
            reader(params["base"], tail),
            sequence.item_embeddings(params["base"]),
        )
        return Ready(implicit_head(), read, self.weighted(0.0, 1.0))

    def weighted(self, weight: float, penalty: float) -> Params:
        """The parameters of the closed-form head."""
        return {"base": self.base, "weight": jnp.asarray(weight), "penalty": jnp.asarray(penalty)}

    def reads(self, use: Any) -> Any:
        """Reads the short window with the parameters that ``use`` makes of a state."""
        reader = lab.window(self.settings_of, ROW)

        def read(params: Params, state: Any, tail: jax.Array) -> tuple[jax.Array, jax.Array]:
            own = use(tree.merge(state.fast, params["model"]))
            return reader(own, tail), sequence.item_embeddings(own)

        return read

    def head(self) -> Ready:
        """The closed-form head, its weight and penalty chosen."""
        reader = lab.window(self.settings_of, ROW)

        def read(params: Params, state: Mean, tail: jax.Array) -> tuple[jax.Array, jax.Array]:
            base = params["base"]
            return reader(base, tail) + state.taste[None], sequence.item_embeddings(base)

        valid, learner = {}, implicit_head()
        for weight in (0.3, 1.0, 3.0):
            for penalty in (0.1, 1.0):
                tried = Ready(learner, read, self.weighted(weight, penalty))
                valid[weight, penalty] = ndcg(self.places(tried, self.valid))
        best = max(valid, key=lambda k: valid[k])
        self.settings[HEAD] = {"weight": best[0], "penalty": best[1], "trials": len(valid)}
        return Ready(learner, read, self.weighted(*best))

    def tuned(self, arm: str, model: Model, params: Params, adapts: tree.Filter, use: Any) -> Ready:
        """Three plain gradient steps at the rate that is best on validation."""
        valid, made = {}, {}
        fast, _ = tree.partition(params["model"], adapts)
        learner = gradient(
            model, optim.learned_rates(1.0), 3, adapts=adapts, loss=losses.negative_mean
        )
        for rate in (0.003, 0.03, 0.3):
            log_rates = optim.learned_rates(rate).init(fast)
            made[rate] = Ready(learner, self.reads(use), {**params, "rates": log_rates})
            valid[rate] = ndcg(self.places(made[rate], self.valid))
        best = max(valid, key=lambda rate: valid[rate])
        self.settings[arm] = {"rate": best, "valid": valid}
        self.bytes[arm] = 4 * tree.size(fast)
        return made[best]

    def meta_learned(self, arm: str, model: Model, use: Any) -> Ready:
        """Three gradient steps on an adapter, its start and its rates learned across people."""
        inner, adapts = optim.learned_rates(0.03), tree.under("adapter")
        learner = gradient(model, inner, 3, adapts=adapts, loss=losses.negative_mean)
        learner = starting_from(learner, model={"base": self.base})
        params = lab.meta_fit(learner, self.meta, self.plan, self.seed)
        self.bytes[arm] = 4 * tree.size(params["model"]["adapter"])
        return Ready(learner, self.reads(use), params)

    def all(self) -> dict[str, Ready]:
        """Every arm, trained and chosen on validation people."""
        low, scaled = lora(self.model, 2, LOW), film(self.model, self.settings_of.shape)
        rows = jax.tree.map(jnp.asarray, lab.episode(jnp.zeros((lab.ROWS + 1, ROW), jnp.int32)))
        fresh = low.init(jax.random.key(5), (), rows.support.inputs)["adapter"]
        use_low = lambda p: adapted(p["base"], p["adapter"])
        use_film = lambda p: {**p["base"], "film": p["adapter"]}
        start = {"model": {"base": self.base, "adapter": fresh}, "rates": ()}
        whole = {"model": self.base, "rates": ()}
        under = tree.under("adapter")
        made = {
            NONE: lambda: self.as_it_is(lab.window(self.settings_of, ROW)),
            READS: lambda: self.as_it_is(lab.window(self.settings_of, self.plan.window)),
            HEAD: self.head,
            FULL: lambda: self.tuned(FULL, self.model, whole, tree.everything, lambda p: p),
            LORA: lambda: self.tuned(LORA, low, start, under, use_low),
            META_LORA: lambda: self.meta_learned(META_LORA, low, use_low),
            META_FILM: lambda: self.meta_learned(META_FILM, scaled, use_film),
        }
        found = {}
        for arm, make in made.items():
            began = time.perf_counter()
            found[arm] = make()
            self.seconds[arm] = time.perf_counter() - began
            progress.say(f"{arm}: ready, {self.seconds[arm]:.0f} s")
        return found


def ndcg(rank: np.ndarray) -> float:
    """The mean nDCG@10 of places."""
    return float(next_item.rank_metrics(rank)["ndcg@10"].mean())


def trained(plan: Plan, data: Sequences, seeds: int) -> list[tuple[Arms, dict[str, Ready]]]:
    """The arms of every seed before their test, by name."""
    made = [Arms(plan, data, seed) for seed in range(seeds)]
    return [(arms, arms.all()) for arms in made]


def settings_of(ready: list[tuple[Arms, dict[str, Ready]]]) -> dict[str, Any]:
    """What was chosen on validation people, by arm and seed."""
    return {
        f"{arm}, seed {arms.seed}": arms.settings.get(arm, {})
        for arms, by_name in ready
        for arm in by_name
    }


def judged(
    plan: Plan, ready: list[tuple[Arms, dict[str, Ready]]]
) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """nDCG@10 (S, people) of the test, by arm and by items of context."""
    scores: dict[str, list[np.ndarray]] = {}
    room: dict[int, list[np.ndarray]] = {}
    each = lambda rank: next_item.rank_metrics(rank)["ndcg@10"].mean(axis=1)
    for arms, by_name in ready:
        for context in (c for c in CONTEXTS if c <= plan.window):
            reader = lab.exactly(arms.settings_of, context)
            rank = arms.places(arms.as_it_is(reader), arms.test)
            room.setdefault(context, []).append(each(rank))
            progress.say(f"{context} items of context: {ndcg(rank):.4f}")
        for arm, made in by_name.items():
            began = time.perf_counter()
            rank = arms.places(made, arms.test)
            arms.seconds[arm] += time.perf_counter() - began
            scores.setdefault(arm, []).append(each(rank))
            progress.say(f"{arm}: {ndcg(rank):.4f} {arms.seconds[arm]:.0f} s")
    stack = lambda rows: {name: np.stack(values) for name, values in rows.items()}
    return stack(scores), stack(room)
