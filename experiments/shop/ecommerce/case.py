"""The large case, arm by arm: the shop as tasks, trials and training, choices, and the test."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path

from metajax import tree
from metajax.data.histories import log as rows
from metajax.data.worlds import commerce
from metajax.data.worlds import shop as shops
from metajax.optim.touched_rows import Tabled
from metajax.training import progress
from metajax.types import MetaLearner, Params

from . import judge, parts, runs

RIDGE, STEPS = "meta: ridge head", "meta: five steps"
TOWERS, HISTORY = "two-tower", "Transformer"
JOINT, TUNED, FOLDED = "joint, not adapted", "joint, fine-tuned", "joint, folded in"
POPULAR, TRUTH = "popularity", "the truth"
ARMS = (RIDGE, STEPS, TOWERS, HISTORY, JOINT, TUNED, FOLDED, POPULAR, TRUTH)
TRAINED: dict[str, Callable[[parts.Sizes], MetaLearner]] = {
    RIDGE: parts.newton,
    STEPS: parts.few_steps,
    TOWERS: parts.two_tower,
    HISTORY: parts.over_history,
    JOINT: parts.newton,
}
"""What is trained, and the learner that validates it; the joint model by folding in."""
PRECISIONS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
DESCENT = [(rate, steps) for rate in (0.01, 0.1, 0.3, 1.0, 3.0) for steps in (1, 5, 20)]
DAMPING = (1.0, 10.0, 100.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A shop ready to be learned.

    Attributes:
      shop: on disk.
      data: what training reads.
      valid, test: tasks by number of shots.
      checked: (C,) the items of the validation tasks; training embeds no others to validate.
      checked_content: (C, F) their features.
      checks: the validation tasks with their items numbered as in ``checked``.
      people: the test users' numbers.
      shown: (V,) logarithm of how often items were shown to training users, plus one.
      sizes: of the recommenders.
      num_ranked: test users, the first ones, whose whole catalogue is ranked.
    """

    shop: shops.Shop
    data: runs.Data
    valid: dict[int, Any]
    test: dict[int, Any]
    checked: jax.Array
    checked_content: jax.Array
    checks: dict[int, Any]
    people: np.ndarray
    shown: jax.Array
    sizes: parts.Sizes
    num_ranked: int

    def some(self, episodes: Any) -> Any:
        """The tasks of the users whose whole catalogue is ranked."""
        return jax.tree.map(lambda x: x[: self.num_ranked], episodes)

    @property
    def positive_rate(self) -> float:
        """The share of the test queries that is liked."""
        return float(self.test[0].query.label.mean())


class Arm(NamedTuple):
    """A recommender ready to be judged: its learner and parameters, items embedded (V, width)."""

    learner: MetaLearner
    params: Params
    items: jax.Array


def prepare(
    world: commerce.World, folder: pathlib.Path, num_test: int, num_ranked: int, width: int
) -> Case:
    """The shop of a world, generated if it is not there, split by users."""
    tell = lambda n, of: progress.say(f"{folder}: piece {n} of {of}") if n == of else None
    shop = shops.generate(world, folder, tell)
    log = rows.Log.of(shop.offsets, shop.item, shop.label)
    edges = [int(share * world.num_users) for share in (0.9, 0.95, 1.0)]
    long = np.diff(shop.offsets) >= max(judge.SHOTS) + runs.QUERY
    some = lambda a, b: (np.flatnonzero(long[a:b]) + a)[:num_test]
    valid, test = some(edges[0], edges[1]), some(edges[1], edges[2])
    train = rows.Log(*map(jnp.asarray, rows.slice_of(log, 0, edges[0])))
    count = jnp.zeros(world.num_items).at[train.items].add(1.0)
    sizes = parts.Sizes(width, shots=max(judge.SHOTS))
    data = runs.Data(train, jnp.asarray(np.asarray(shop.content)), count)
    valid_tasks, test_tasks = (judge.tasks(log, people, sizes) for people in (valid, test))
    checked, checks = _renumbered(valid_tasks)
    return Case(
        shop,
        data,
        valid_tasks,
        test_tasks,
        checked,
        data.content[checked],
        checks,
        test,
        jnp.log(count + 1.0),
        sizes,
        num_ranked,
    )


def _renumbered(tasks: dict[int, Any]) -> tuple[jax.Array, dict[int, Any]]:
    """The items that tasks name (C,), from small to large, and the tasks with places among them."""
    named = [part.inputs.ravel() for e in tasks.values() for part in (e.support, e.query)]
    items = np.unique(np.concatenate(named))
    place = lambda part: part._replace(inputs=jnp.searchsorted(items, part.inputs))
    moved = {
        k: e._replace(support=place(e.support), query=place(e.query)) for k, e in tasks.items()
    }
    return jnp.asarray(items), moved


def plan_of(case: Case, arm: str) -> runs.Plan:
    """How an arm is trained."""
    world = case.shop.world
    shape = (world.num_items, world.num_features, case.sizes)
    if arm == JOINT:
        return runs.joint(case.data.log.num_people, *shape)
    return runs.adapted(TRAINED[arm](case.sizes), *shape)


def train(
    case: Case,
    arm: str,
    rates: tuple[float, ...],
    num_steps: int,
    trial_steps: int,
    batch: int,
    seed: int,
    start: runs.Start,
    devices: int = 1,
) -> tuple[Params, jax.Array, dict[str, Any]]:
    """An arm's learned parameters and items, with the trials that its rate was chosen by."""
    precisions = PRECISIONS if arm == JOINT else (1.0,)

    def validate(params: Tabled) -> jax.Array:
        own, items = params.rest["learner"], _checked_items(case, params)
        ready = [judged(case, arm, own, items, p) for p in precisions]
        return jnp.min(jnp.stack([_mean_loss(one, case.checks) for one in ready]))

    plan, sizes = plan_of(case, arm), (rates, num_steps, trial_steps, batch, seed)
    best, told = _tuned(case, plan, *sizes, validate, start, devices)
    tower, table = best.rest["tower"], best.tables["item"]
    return best.rest["learner"], runs.catalogue(tower, table, case.data.content), told


def common_start(
    case: Case,
    rates: tuple[float, ...],
    num_steps: int,
    trial_steps: int,
    batch: int,
    seed: int,
    devices: int = 1,
) -> tuple[Params, jax.Array, dict[str, Any]]:
    """The tower and rows that all arms begin from, learned as if everyone liked the same."""
    everyone, nobody = _fixed(case.sizes.width)

    def validate(params: Tabled) -> jax.Array:
        return _mean_loss(Arm(everyone, nobody, _checked_items(case, params)), case.checks)

    world, sizes = case.shop.world, (rates, num_steps, trial_steps, batch, seed)
    plan = runs.alike(world.num_items, world.num_features, case.sizes)
    best, told = _tuned(case, plan, *sizes, validate, None, devices)
    return best.rest["tower"], best.tables["item"], told


def _tuned(
    case: Case,
    plan: runs.Plan,
    rates: tuple[float, ...],
    num_steps: int,
    trial_steps: int,
    batch: int,
    seed: int,
    validate: Callable[[Tabled], jax.Array],
    start: runs.Start | None,
    devices: int,
) -> tuple[Tabled, dict[str, Any]]:
    """The best parameters of a run at the rate that was best in short ones, and the trials."""
    sample, data = runs.sampler(plan, batch, case.sizes), case.data._replace(start=start)

    def run(rate: float, steps: int, key: jax.Array) -> runs.Best:
        return runs.fit(plan, sample, data, key, rate, steps, validate, devices)

    tried = {f"{r:g}": run(r, trial_steps, jax.random.key(1_000)).valid_loss for r in rates}
    best = min(tried, key=lambda name: tried[name])
    found = run(float(best), num_steps, jax.random.key(seed))
    told = {"rate": best, "trials": tried, "best_step": found.step, "history": found.history}
    return found.params, told | {"valid_loss": found.valid_loss}


def _checked_items(case: Case, params: Tabled) -> jax.Array:
    """The items of `Case.checks`, embedded."""
    rows = params.tables["item"][case.checked]
    return runs.catalogue(params.rest["tower"], rows, case.checked_content)


def judged(case: Case, arm: str, own: Params, items: jax.Array, precision: float = 1.0) -> Arm:
    """A trained arm, as validation sees it: of the joint model, folded in at a precision."""
    own = parts.folding(own["mean"], precision) if arm == JOINT else own
    return Arm(TRAINED[arm](case.sizes), own, items)


def of_joint(case: Case, own: Params, items: jax.Array) -> dict[str, tuple[Arm, dict[str, Any]]]:
    """The three recommenders of the joint model, what they need chosen on validation."""
    sizes, mean = case.sizes, own["mean"]
    descents = {
        f"rate {rate:g}, {steps} steps": Arm(
            parts.few_steps(sizes, steps), parts.descending(mean, rate), items
        )
        for rate, steps in DESCENT
    }
    folds = {
        f"precision {p:g}": Arm(parts.newton(sizes), parts.folding(mean, p), items)
        for p in PRECISIONS
    }
    return {
        JOINT: (Arm(parts.mean_user(sizes), parts.descending(mean), items), {}),
        TUNED: _chosen(case, descents),
        FOLDED: _chosen(case, folds),
    }


def popularity(case: Case) -> tuple[Arm, dict[str, Any]]:
    """Every item's share of likes, drawn towards the mean by a number of events that is chosen."""
    log, num_items = case.data.log, case.shop.world.num_items
    liked = jnp.zeros(num_items).at[log.items].add(log.labels.astype(jnp.float32))
    count, rate = jnp.exp(case.shown) - 1.0, log.labels.mean()

    def arm(damping: float) -> Arm:
        share = (liked + damping * rate) / (count + damping)
        return Arm(*_fixed(1), jnp.log(share / (1.0 - share))[:, None])

    return _chosen(case, {f"damping {d:g}": arm(d) for d in DAMPING})


def _fixed(width: int) -> tuple[MetaLearner, Params]:
    """A recommender whose items say everything: the score is their offset."""
    sizes = parts.Sizes(width)
    return parts.mean_user(sizes), parts.descending(jnp.zeros(width - 1))


def _chosen(case: Case, grid: dict[str, Arm]) -> tuple[Arm, dict[str, Any]]:
    """The arm with the lowest validation loss, and the losses of all."""
    tried = {name: valid_loss(case, arm) for name, arm in grid.items()}
    best = min(tried, key=lambda name: tried[name])
    return grid[best], {"chosen": best, "trials": tried, "valid_loss": tried[best]}


def valid_loss(case: Case, arm: Arm) -> float:
    """The log loss of validation, averaged over the numbers of shots."""
    return float(_mean_loss(arm, case.valid))


def _mean_loss(arm: Arm, tasks: dict[int, Any]) -> jax.Array:
    """The log loss of tasks, averaged over the numbers of shots."""
    found = []
    for episodes in tasks.values():
        query = episodes.query
        score = judge.query_scores(arm.items, judge.vectors(*arm, episodes), episodes)
        found.append(runs.mean_log_loss(score, query.label, query.mask))
    return jnp.mean(jnp.stack(found))


def test(case: Case, arm: Arm) -> dict[tuple[str, str], np.ndarray]:
    """("K=..", metric) -> (T,) scores of the test users."""
    found, widest = {}, case.some(case.test[max(judge.SHOTS)])
    for k, episodes in case.test.items():
        valid = case.valid[k]
        score = judge.query_scores(arm.items, judge.vectors(*arm, valid), valid)
        cutoff = judge.threshold(np.asarray(score), np.asarray(valid.query.label))
        w = judge.vectors(*arm, episodes)
        score = judge.query_scores(arm.items, w, episodes)
        for name, values in judge.decisions(score, episodes.query, cutoff).items():
            found[f"K={k}", name] = values
        recall = judge.recall_of_best(arm.items, case.shown, w[: case.num_ranked], widest)
        found[f"K={k}", f"recall@{judge.BEST}"] = np.asarray(recall)
    return found


def test_truth(case: Case) -> dict[tuple[str, str], np.ndarray]:
    """The scores of who knows every chance: the bound, the same for every number of shots."""
    shop, world = case.shop, case.shop.world
    widest, scale = case.test[max(judge.SHOTS)], world.strength / world.dim**0.5
    last = shop.offsets[case.people + 1][:, None] - runs.QUERY + np.arange(runs.QUERY)[None]
    chance = np.clip(np.asarray(shop.chance[last], np.float32), 1e-4, 1 - 1e-4)
    score = jnp.asarray(np.log(chance / (1 - chance)))
    offset = world.bias + np.asarray(shop.quality)
    items = jnp.asarray(np.column_stack([scale * np.asarray(shop.latent), offset]), jnp.float32)
    w = jnp.asarray(np.column_stack([shop.taste[case.people], np.ones(len(case.people))]))
    shown = jnp.asarray(np.log(commerce.exposure(world)), jnp.float32)
    found = judge.decisions(score, widest.query, 0.0)
    some = case.some(widest)
    recall = judge.recall_of_best(items, shown, w[: case.num_ranked].astype(jnp.float32), some)
    found[f"recall@{judge.BEST}"] = np.asarray(recall)
    return {(f"K={k}", name): values for k in judge.SHOTS for name, values in found.items()}


def save(path: pathlib.Path, own: Params, items: jax.Array) -> None:
    """Stores what an arm has learned; what stands at the path is whole."""
    leaves, _ = tree_flatten_with_path(own)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    named = {f"own/{tree.path_name(place)}": np.asarray(leaf) for place, leaf in leaves}
    np.savez(part, items=np.asarray(items), allow_pickle=False, **named)
    part.rename(path)


def read(path: pathlib.Path) -> tuple[Params, jax.Array]:
    """What `save` stored."""
    own: dict[str, Any] = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            *folders, leaf = name.split("/")[1:] or [""]
            inside = own
            for folder in folders:
                inside = inside.setdefault(folder, {})
            if leaf:
                inside[leaf] = jnp.asarray(arrays[name])
        return own, jnp.asarray(arrays["items"])
