"""Serving the adapted user: a learner as three exported programs, and a store of states.

`export` writes ``start``, ``adapt`` and ``predict`` of a trained learner as StableHLO with their
parameters beside them; `Service` answers "here are new events of user 42: which 20 items?". The
folder is all that a server needs: it runs with jax and numpy, without this library's source, and
`load` is written so that it can be copied.

What is kept of a user is their state, often a few kilobytes; what all users share stays in the
folder's parameters.
"""

import functools
import importlib.util
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from metajax.types import Episode, Examples, MetaLearner, Params, PyTree, UserError

PROGRAMS = ("start", "adapt", "predict")
FORMAT = 2


class Programs(NamedTuple):
    """The exported programs, on flat lists of arrays.

    Attributes:
      start: (params, profile) -> state.
      adapt: (params, state, inputs, label, mask) -> state.
      predict: (params, state, inputs) -> scores (Q,).
    """

    start: Callable[..., list[jax.Array]]
    adapt: Callable[..., list[jax.Array]]
    predict: Callable[..., jax.Array]


def export(learner: MetaLearner, params: Params, episode: Episode, folder: pathlib.Path) -> None:
    """Writes the programs of a learner, for supports and queries of the episode's shapes.

    Args:
      learner: as it was trained; its ``adapt`` is given a fixed key.
      episode: one task, for shapes: its support is the batch of events that one call adapts on
        (fewer are padded), its query the items that one call scores.
      folder: to write; ``start``, ``adapt``, ``predict``, ``params.npz`` and ``about.json``.
    """
    _require_flatbuffers()
    state = learner.start(params, episode.profile)
    inputs, query = episode.support.inputs, episode.query.inputs
    whole = lambda like: functools.partial(jax.tree.unflatten, jax.tree.structure(like))
    params_of, profile_of, state_of = whole(params), whole(episode.profile), whole(state)
    inputs_of, query_of, flat = whole(inputs), whole(query), jax.tree.leaves

    def start(params, profile):
        return flat(learner.start(params_of(params), profile_of(profile)))

    def adapt(params, state, inputs, label, mask):
        examples = Examples(inputs_of(inputs), label, mask)
        key = jax.random.key(0)
        return flat(learner.adapt(params_of(params), state_of(state), examples, key))

    def predict(params, state, inputs):
        return learner.predict(params_of(params), state_of(state), query_of(inputs))

    own, support = (flat(params), flat(state)), episode.support
    calls = {
        "start": (start, (flat(params), flat(episode.profile))),
        "adapt": (adapt, (*own, flat(inputs), support.label, support.mask)),
        "predict": (predict, (*own, flat(query))),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (function, arguments) in calls.items():
        exported = jax.export.export(jax.jit(function))(*_shapes(arguments))
        (folder / f"{name}.stablehlo").write_bytes(exported.serialize())
    arrays = {f"p{i:04d}": np.asarray(x) for i, x in enumerate(flat(params))}
    np.savez(folder / "params.npz", allow_pickle=False, **arrays)
    about = {
        "format": FORMAT,
        "jax": jax.__version__,
        "bytes_per_user": sum(x.nbytes for x in flat(state)),
        "support": int(support.label.shape[0]),
        "query": int(episode.query.label.shape[0]),
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def _require_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("exported programs need the package flatbuffers: pip install flatbuffers")


def _shapes(arguments: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), arguments)


def load(folder: pathlib.Path) -> tuple[Programs, list[jax.Array], dict[str, Any]]:
    """The programs of a folder, the parameters to call them with, and what ``about.json`` says.

    Needs jax and numpy alone.

    Raises:
      UserError: a file is missing, or the folder is of another format.
    """
    _require_flatbuffers()
    folder = pathlib.Path(folder)
    for name in ("about.json", "params.npz", *(f"{p}.stablehlo" for p in PROGRAMS)):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}; write it with metajax.serving.service.export")
    about = json.loads((folder / "about.json").read_text())
    if about.get("format") != FORMAT:
        raise UserError(f"{folder} has format {about.get('format')}, not {FORMAT}; export it again")
    read = lambda name: jax.export.deserialize(
        bytearray((folder / f"{name}.stablehlo").read_bytes())
    )
    programs = Programs(*(jax.jit(read(name).call) for name in PROGRAMS))
    with np.load(folder / "params.npz") as stored:
        params = [jnp.asarray(stored[name]) for name in sorted(stored.files)]
    return programs, params, about


class Store:
    """The users' states, in memory, with a file to survive a restart."""

    def __init__(self) -> None:
        self._states: dict[int, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._states)

    def get(self, user: int) -> list[np.ndarray] | None:
        """The state of a user, or None for one never seen."""
        return self._states.get(user)

    def put(self, user: int, state: Sequence[Any]) -> None:
        """Keeps the state of a user."""
        self._states[user] = [np.asarray(x) for x in state]

    def save(self, path: pathlib.Path) -> None:
        """Writes all states to one file."""
        flat = {f"{u}/{i}": x for u, s in self._states.items() for i, x in enumerate(s)}
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, allow_pickle=False, **flat)
        temporary.replace(path)

    @classmethod
    def read(cls, path: pathlib.Path) -> "Store":
        """The store written to a file.

        Raises:
          UserError: there is none.
        """
        if not path.is_file():
            raise UserError(f"no states at {path}; start with an empty Store")
        store = cls()
        with np.load(path) as arrays:
            for name in sorted(arrays.files, key=lambda n: tuple(map(int, n.split("/")))):
                store._states.setdefault(int(name.split("/")[0]), []).append(arrays[name])
        return store


class Service:
    """Adapts users to their events and answers for them, one at a time.

    Args:
      folder: written by `export`.
      store: of states; an empty one by default.
      catalogue: leaves (Q, ...) of what is known of every item, Q as exported; for `recommend`.
    """

    def __init__(
        self, folder: pathlib.Path, store: Store | None = None, catalogue: Sequence[Any] = ()
    ):
        self.programs, self.params, self.about = load(folder)
        self.store = Store() if store is None else store
        self.catalogue = [jnp.asarray(x) for x in catalogue]
        predict = self.programs.predict
        self._best = jax.jit(lambda k, *given: best(predict(*given), k), static_argnums=0)

    def _state(self, user: int, profile: Sequence[Any]) -> Sequence[Any]:
        known = self.store.get(user)
        return self.programs.start(self.params, list(profile)) if known is None else known

    def observe(
        self, user: int, inputs: Sequence[np.ndarray], label: np.ndarray, profile: Sequence = ()
    ) -> None:
        """Adapts a user to new events.

        Args:
          inputs: leaves (n, ...) of what is known of each event, n at most the exported support.
          label: (n,).
          profile: leaves of the user's profile, read the first time only: the state keeps it.

        Raises:
          UserError: more events than one call takes.
        """
        size, n = self.about["support"], len(label)
        if n > size:
            raise UserError(f"{n} events at once, and the program takes {size}: split them")
        pad = lambda x: np.concatenate([x, np.zeros((size - n, *x.shape[1:]), x.dtype)])
        mask = pad(np.ones(n, np.float32))
        columns = [pad(np.asarray(x)) for x in inputs]
        labels = pad(np.asarray(label, np.float32))
        state = self._state(user, profile)
        state = self.programs.adapt(self.params, list(state), columns, labels, mask)
        self.store.put(user, state)

    def scores(self, user: int, inputs: Sequence[np.ndarray], profile: Sequence = ()) -> jax.Array:
        """The scores (Q,) of the exported number of items for a user, seen before or not."""
        state = self._state(user, profile)
        return self.programs.predict(self.params, list(state), list(inputs))

    def recommend(self, user: int, k: int, profile: Sequence = ()) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of the catalogue for a user, best first, and their scores."""
        state = self._state(user, profile)
        given = (self.params, list(state), self.catalogue)
        scores, items = self._best(k, *given)
        return np.asarray(items), np.asarray(scores)


def best(scores: jax.Array, k: int, block: int = 1024) -> tuple[jax.Array, jax.Array]:
    """The k highest of scores (Q,) and their places, exactly, without sorting Q numbers.

    The k highest lie in the k blocks with the highest maxima: those alone are searched.
    """
    size = scores.shape[0]
    if size <= 2 * k * block:
        return jax.lax.top_k(scores, k)
    blocks = jnp.pad(scores, (0, -size % block), constant_values=-jnp.inf).reshape(-1, block)
    chosen = jnp.sort(jax.lax.top_k(blocks.max(axis=1), k)[1])  # equal scores: the first place wins
    found, place = jax.lax.top_k(blocks[chosen].reshape(-1), k)
    return found, chosen[place // block] * block + place % block
