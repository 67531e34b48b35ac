"""Synthetic tasks with a known optimal predictor, to test learners against; drawn from a key."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from metajax import precision
from metajax.data.table import Features, Interactions, validate
from metajax.types import Episode, Examples


@dataclasses.dataclass(frozen=True)
class SineTasks:
    """Sinusoid regression: amplitude U[0.1, 5], phase U[0, pi], inputs U[-5, 5] of shape (N, 1).

    With ``given_amplitude`` the amplitude is a second input, drawn from a grid of 20 values: tasks
    are then no longer mutually exclusive, and a network can memorize instead of adapting. A task
    has ``num_support`` and ``num_query`` examples.

    References: Finn et al., ICML 2017, section 5.1; Yin et al., ICLR 2020, section 6.1.
    """

    num_support: int = 10
    num_query: int = 10
    given_amplitude: bool = False

    def sample(self, key: jax.Array) -> Episode:
        """One task."""
        key_amplitude, key_phase, key_x = jax.random.split(key, 3)
        amplitude = jax.random.uniform(key_amplitude, minval=0.1, maxval=5.0)
        phase = jax.random.uniform(key_phase, maxval=jnp.pi)
        if self.given_amplitude:
            amplitude = 0.1 + 4.9 / 19 * jnp.round((amplitude - 0.1) * 19 / 4.9)
            phase = jnp.zeros(())
        n = self.num_support + self.num_query
        x_Nx1 = jax.random.uniform(key_x, (n, 1), minval=-5.0, maxval=5.0)
        label = amplitude * jnp.sin(x_Nx1[:, 0] - phase)
        if self.given_amplitude:
            x_Nx1 = jnp.concatenate([x_Nx1, jnp.full((n, 1), amplitude)], axis=1)
        return _split(x_Nx1, label, self.num_support, ())


def _split(inputs: jax.Array, label: jax.Array, num_support: int, profile) -> Episode:
    mask = jnp.ones_like(label)
    examples = Examples(inputs, label, mask)
    support = jax.tree.map(lambda x: x[:num_support], examples)
    query = jax.tree.map(lambda x: x[num_support:], examples)
    return Episode(profile, support, query)


@dataclasses.dataclass(frozen=True)
class LatentUsers:
    """Users with latent tastes: ``y = v . w_u + sigma eps``, ``w_u = w_bar + tau eps``.

    ``w_bar ~ N(0, I)`` is fixed by ``seed``; items are vectors ``v ~ N(0, I) / sqrt(dim)``. The
    Bayes predictor is ridge regression centered at ``w_bar`` with penalty sigma^2 / tau^2: no
    learner can have a smaller expected query loss, and one that seems to is leaking.

    Attributes:
      dim: of the items' vectors and the users' weights.
      tau: standard deviation of the users' weights around ``w_bar``.
      sigma: standard deviation of the noise of a label.
      num_support, num_query: examples of a task.
      random_shots: draw the number of support examples uniformly from 0..num_support.
      reveals: the profile is ``w_u`` itself, so that nothing needs to be learned from the support
        (tasks that are not mutually exclusive, the memorization test).
      seed: of ``w_bar``.
    """

    dim: int = 8
    tau: float = 1.0
    sigma: float = 0.5
    num_support: int = 10
    num_query: int = 10
    random_shots: bool = False
    reveals: bool = False
    seed: int = 0

    @classmethod
    def leaky(cls, **settings) -> "LatentUsers":
        """The world whose profile reveals the user's weights."""
        return cls(reveals=True, **settings)

    @property
    def mean_weights(self) -> jax.Array:
        """``w_bar`` (dim,)."""
        return jax.random.normal(jax.random.key(self.seed), (self.dim,))

    @precision.highest
    def sample(self, key: jax.Array) -> Episode:
        """One user."""
        key_user, key_item, key_noise, key_shots = jax.random.split(key, 4)
        n = self.num_support + self.num_query
        w = self.mean_weights + self.tau * jax.random.normal(key_user, (self.dim,))
        v_NxD = jax.random.normal(key_item, (n, self.dim)) / jnp.sqrt(self.dim)
        label = v_NxD @ w + self.sigma * jax.random.normal(key_noise, (n,))
        episode = _split(v_NxD, label, self.num_support, w if self.reveals else ())
        if not self.random_shots:
            return episode
        shots = jax.random.randint(key_shots, (), 0, self.num_support + 1)
        mask = (jnp.arange(self.num_support) < shots).astype(label.dtype)
        return episode._replace(support=episode.support._replace(mask=mask))

    @precision.highest
    def bayes(self, episode: Episode) -> jax.Array:
        """The Bayes-optimal query scores (Q,) given the support set, by the normal equations."""
        x_KxD, label, mask = episode.support
        x_KxD = x_KxD * mask[:, None]
        penalty = (self.sigma / self.tau) ** 2
        normal = x_KxD.T @ x_KxD + penalty * jnp.eye(self.dim)
        residual = (label - x_KxD @ self.mean_weights) * mask
        w = self.mean_weights + jnp.linalg.solve(normal, x_KxD.T @ residual)
        return episode.query.inputs @ w


def rating_log(
    num_users: int = 800, num_items: int = 400, dim: int = 6, seed: int = 0
) -> Interactions:
    """A synthetic log of ratings 1..5, users and items in latent groups: ``--dataset synthetic``.

    A user's taste is the mean taste of an (observed) group plus a personal part of twice its
    variance; an item's vector is that of an (observed) genre plus its own. Users rate 15 to 90
    items, popular ones more often. A quarter of the items are released from 1998 on, as the cold
    items of the MeLU protocol are. Users join over a year and rate most in their first
    weeks.
    """
    rng = np.random.default_rng(seed)
    group = rng.integers(6, size=num_users)
    genre = rng.integers(8, size=num_items)
    taste = rng.normal(size=(6, dim))[group] * 0.6 + 0.85 * rng.normal(size=(num_users, dim))
    vector = rng.normal(size=(8, dim))[genre] * 0.6 + 0.8 * rng.normal(size=(num_items, dim))
    quality = 0.4 * rng.normal(size=num_items)
    habit = 0.35 * rng.normal(size=num_users)

    popularity = np.arange(1, num_items + 1) ** -0.6
    rng.shuffle(popularity)
    gumbel = np.log(popularity) + rng.gumbel(size=(num_users, num_items))
    ranked = np.argsort(-gumbel, axis=1)
    counts = np.minimum(rng.integers(15, 91, size=num_users), num_items)
    user = np.repeat(np.arange(num_users, dtype=np.int32), counts)
    item = np.concatenate([ranked[u, :c] for u, c in enumerate(counts)]).astype(np.int32)

    score = 3.6 + quality[item] + habit[user] + np.sum(taste[user] * vector[item], 1) / dim**0.5
    label = np.clip(np.round(score + 0.5 * rng.normal(size=len(user))), 1, 5).astype(np.float32)
    year = np.where(rng.random(num_items) < 0.25, 1999, 1990).astype(np.int16)
    clock = np.random.default_rng([seed, 1])
    days = clock.uniform(0, 365, num_users)[user] + clock.exponential(10, len(user))
    return validate(
        Interactions(
            name="synthetic",
            user=user,
            item=item,
            label=label,
            time=(1_000_000_000 + 86_400 * days).astype(np.int64),
            user_ids=np.arange(num_users),
            item_ids=np.arange(num_items),
            user_features=Features({"group": (group[:, None] + 1).astype(np.int32)}, {"group": 7}),
            item_features=Features({"genre": (genre[:, None] + 1).astype(np.int32)}, {"genre": 9}),
            scale=(1.0, 5.0),
            item_year=year,
            item_titles=titles(genre),
        )
    )


KINDS = (
    ("Ship", "Harbor", "Island", "Tide", "Anchor", "Lighthouse", "Storm"),
    ("Planet", "Signal", "Orbit", "Comet", "Machine", "Colony", "Star"),
    ("Murder", "Witness", "Alibi", "Cellar", "Letter", "Stranger", "Verdict"),
    ("Wedding", "Summer", "Neighbor", "Waltz", "Postcard", "Garden", "Promise"),
    ("Rider", "Canyon", "Saloon", "Sheriff", "Railway", "Coyote", "Duel"),
    ("Circus", "Goose", "Butler", "Holiday", "Parrot", "Mayor", "Pudding"),
    ("Castle", "Dragon", "Crown", "Forest", "Spell", "Raven", "Knight"),
    ("Orchestra", "Painter", "Glacier", "River", "Savanna", "Whale", "Archive"),
)
MOODS = (
    *("Silent", "Last", "Golden", "Broken", "Second", "Distant", "Crooked", "Hidden", "Burning"),
    *("Little", "Endless", "Borrowed", "Midnight", "Honest", "Frozen", "Secret", "Restless"),
)


def titles(genre: np.ndarray) -> np.ndarray:
    """A made-up title for every item (N,), all different, in words of its genre.

    >>> titles(np.array([0, 1, 0])).tolist()
    ['The Silent Ship', 'The Silent Planet', 'The Last Harbor']
    """
    met, out = np.zeros(len(KINDS), int), []
    for kind in (genre % len(KINDS)).tolist():
        place = met[kind]
        met[kind] += 1
        words, part = KINDS[kind], place // (len(MOODS) * len(KINDS[0]))
        number = f" {part + 1}" if part else ""
        out.append(f"The {MOODS[place % len(MOODS)]} {words[place % len(words)]}{number}")
    return np.array(out)
