"""Serving any learner: three exported programs, and a store of the users' states.

`export` writes ``start``, ``adapt`` and ``predict`` of a trained learner as StableHLO, with the
parameters beside them. `Service` adapts users to new events and recommends. The folder is all that
a server needs: it runs with jax and numpy, without the source of this library, and `load` can be
copied into a project of your own.

Only the state of a user is stored, often a few kilobytes; what all users share is in the folder.
"""

import functools
import hashlib
import importlib.util
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from metajax.serving import files
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree, UserError

PROGRAMS = ("start", "adapt", "predict")
FORMAT = 3
FILES = ("params.npz", *(f"{name}.stablehlo" for name in PROGRAMS))
User = int | str


class Programs(NamedTuple):
    """The exported programs; arguments and states are flat lists of arrays.

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

    Raises:
      UserError: a parameter is not finite.
    """
    _require_flatbuffers()
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(params)):
        raise UserError("a parameter is not finite: the training diverged; lower a rate")
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
        "files": {name: files.digest(folder / name) for name in FILES},
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
      UserError: a file is missing, cut or altered, or the folder is of another format.
    """
    _require_flatbuffers()
    folder = pathlib.Path(folder)
    for name in ("about.json", *FILES):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}; write it with metajax.serving.service.export")
    try:
        about = json.loads((folder / "about.json").read_text())
    except ValueError as error:
        raise UserError(f"{folder / 'about.json'} is cut or altered; export it again") from error
    if about.get("format") != FORMAT:
        raise UserError(f"{folder} has format {about.get('format')}, not {FORMAT}; export it again")
    for name in FILES:
        if files.digest(folder / name) != about["files"][name]:
            raise UserError(f"{folder / name} is cut or altered; export it again")
    read = lambda name: jax.export.deserialize(
        bytearray((folder / f"{name}.stablehlo").read_bytes())
    )
    programs = Programs(*(jax.jit(read(name).call) for name in PROGRAMS))
    with np.load(folder / "params.npz") as stored:
        params = [jnp.asarray(stored[name]) for name in sorted(stored.files)]
    return programs, params, about


class Store:
    """The states of users, in memory; `save` and `read` keep them over a restart.

    Attributes:
      identity: of the model and catalogue that the states belong to; None while there are none.
      seen: user -> indices of items that they have met, which are not recommended.
    """

    def __init__(self) -> None:
        self._states: dict[User, list[np.ndarray]] = {}
        self.identity: str | None = None
        self.seen: dict[User, set[int]] = {}

    def __len__(self) -> int:
        return len(self._states)

    def get(self, user: User) -> list[np.ndarray] | None:
        """The state of a user, or None for one never seen."""
        return self._states.get(user)

    def put(self, user: User, state: Sequence[Any]) -> None:
        """Keeps the state of a user, called by a whole number or a text.

        Raises:
          UserError: a number of the state is not finite; the state kept before stays.
        """
        if not isinstance(user, int | str | np.integer) or isinstance(user, bool):
            raise UserError(f"user {user!r}: call users by a whole number or a text")
        made = [np.asarray(x) for x in state]
        if not all(np.isfinite(x).all() for x in made):
            raise UserError(f"the new state of user {user!r} is not finite; the old one is kept")
        self._states[user if isinstance(user, str) else int(user)] = made

    def save(self, path: pathlib.Path) -> None:
        """Writes all states to one file."""
        flat = {f"{i}/{j}": x for i, s in enumerate(self._states.values()) for j, x in enumerate(s)}
        about = {
            "identity": self.identity,
            "users": list(self._states),
            "seen": [sorted(self.seen.get(user, ())) for user in self._states],
        }
        flat["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, allow_pickle=False, **flat)
        temporary.replace(path)

    @classmethod
    def read(cls, path: pathlib.Path) -> "Store":
        """The store written to a file.

        Raises:
          UserError: there is none, or it is cut or altered.
        """
        if not path.is_file():
            raise UserError(f"no states at {path}; start with an empty Store")
        store = cls()
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                about = json.loads(arrays["about"].tobytes())
                store.identity = about["identity"]
                store.seen = {
                    user: set(seen)
                    for user, seen in zip(about["users"], about["seen"], strict=True)
                }
                names = sorted((int(i), int(j)) for i, _, j in _parts(arrays.files))
                for i, j in names:
                    states = store._states.setdefault(about["users"][i], [])
                    states.append(arrays[f"{i}/{j}"])
        except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is cut or altered; take an earlier copy") from error
        return store


def _parts(names: Sequence[str]) -> list[tuple[str, str, str]]:
    return [name.partition("/") for name in names if "/" in name]


class Service:
    """Adapts users to their events and answers for them, one at a time.

    Args:
      folder: written by `export`.
      store: of states; an empty one by default.
      catalogue: leaves (Q, ...) of what is known of every item, Q as exported; for `recommend`.

    Attributes:
      identity: a digest of programs, parameters and catalogue, which the store carries.

    Raises:
      UserError: the store holds states of other parameters or of another catalogue.
    """

    def __init__(
        self, folder: pathlib.Path, store: Store | None = None, catalogue: Sequence[Any] = ()
    ):
        self.programs, self.params, self.about = load(folder)
        self.store = Store() if store is None else store
        self.identity = _identity(self.about, catalogue)
        if len(self.store) and self.store.identity != self.identity:
            raise UserError(
                f"the stored states are of the model {self.store.identity or 'without a name'}, "
                f"and {folder} with this catalogue is {self.identity}: start with an empty Store "
                "and let users adapt again"
            )
        self.store.identity = self.identity
        self.catalogue = [jnp.asarray(x) for x in catalogue]
        predict = self.programs.predict
        self._best = jax.jit(lambda k, *given: best(predict(*given), k), static_argnums=0)

    def _state(self, user: User, profile: Sequence[Any]) -> Sequence[Any]:
        known = self.store.get(user)
        return self.programs.start(self.params, list(profile)) if known is None else known

    def observe(
        self,
        user: User,
        inputs: Sequence[np.ndarray],
        label: np.ndarray,
        profile: Sequence = (),
        items: Sequence[int] = (),
    ) -> None:
        """Adapts a user to new events.

        Args:
          inputs: leaves (n, ...) of what is known of each event, n at most the exported support.
          label: (n,).
          profile: leaves of the user's profile, read the first time only: the state keeps it.
          items: indices in the catalogue of the events' items, which will not be recommended.

        Raises:
          UserError: more events than one call takes; a label or the new state is not finite. The
            state stays as it was.
        """
        size, n = self.about["support"], len(label)
        if n > size:
            raise UserError(f"{n} events at once, and the program takes {size}: split them")
        if not np.isfinite(np.asarray(label, np.float64)).all():
            raise UserError("a label is not a finite number; nothing was learned from these events")
        pad = lambda x: np.concatenate([x, np.zeros((size - n, *x.shape[1:]), x.dtype)])
        mask = pad(np.ones(n, np.float32))
        columns = [pad(np.asarray(x)) for x in inputs]
        labels = pad(np.asarray(label, np.float32))
        state = self._state(user, profile)
        state = self.programs.adapt(self.params, list(state), columns, labels, mask)
        self.store.put(user, state)
        if len(items):
            self.store.seen.setdefault(user, set()).update(int(i) for i in items)

    def scores(self, user: User, inputs: Sequence[np.ndarray], profile: Sequence = ()) -> jax.Array:
        """The scores (Q,) of the exported number of items for a user, seen before or not."""
        state = self._state(user, profile)
        return self.programs.predict(self.params, list(state), list(inputs))

    def recommend(
        self, user: User, k: int, profile: Sequence = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of the catalogue for a user, best first, and their scores, each (k,).

        Items that `observe` was given are left out; if fewer than k are left, all of them are
        returned.

        Raises:
          UserError: no catalogue; a score is not finite.
        """
        if not self.catalogue:
            raise UserError("no catalogue to recommend from: Service(folder, catalogue=[columns])")
        state, seen = self._state(user, profile), self.store.seen.get(user, set())
        given = (self.params, list(state), self.catalogue)
        scores, items = map(np.asarray, self._best(min(k + len(seen), self.num_items), *given))
        if not np.isfinite(scores).all():
            raise UserError("a score is not finite: the user's state or the catalogue is damaged")
        new = np.array([item not in seen for item in items.tolist()], bool)
        return items[new][:k], scores[new][:k]

    @property
    def num_items(self) -> int:
        """The number of items of the catalogue."""
        return int(self.catalogue[0].shape[0])


def _identity(about: dict[str, Any], catalogue: Sequence[Any]) -> str:
    """A digest of programs, parameters and catalogue."""
    digest = hashlib.blake2b(json.dumps(about["files"]).encode(), digest_size=8)
    for x in catalogue:
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def best(scores: jax.Array, k: int, block: int = 1024) -> tuple[jax.Array, jax.Array]:
    """The k highest of scores (Q,) and their indices, each (k,), exactly, without sorting all Q.

    The k highest lie in the k blocks with the highest maxima: those alone are searched.
    """
    size = scores.shape[0]
    if size <= 2 * k * block:
        return jax.lax.top_k(scores, k)
    blocks = jnp.pad(scores, (0, -size % block), constant_values=-jnp.inf).reshape(-1, block)
    chosen = jnp.sort(jax.lax.top_k(blocks.max(axis=1), k)[1])  # equal scores: the first place wins
    found, place = jax.lax.top_k(blocks[chosen].reshape(-1), k)
    return found, chosen[place // block] * block + place % block
