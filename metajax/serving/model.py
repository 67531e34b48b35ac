"""`Model`, a trained recommender, and the folder that it is saved in.

    model = load("model")
    for one in model.recommend({"Alien": 5, "Heat": 2}, top=10):
        print(one.title, one.score, one.why)

`save` writes a folder whole or not at all. The digest of every file is in ``model.json``, so that
a truncated or altered file is found when it is loaded.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from metajax.explain.sentence import because
from metajax.learners import item_ridge
from metajax.serving import files, index, linear
from metajax.serving.catalogue import Catalogue, Labels, parse_said
from metajax.types import MetaLearner, PyTree, UserError

FORMAT = 1
FILES = ("params.npz", "columns.npz", "form.npz", "users.npz", "items.json")
OWN = ("format", "identity", "labels", "recipe", "params", "files")
"""The facts of ``model.json`` that `save` writes itself."""


class Reason(NamedTuple):
    """The effect of one event on the score of a recommendation.

    Attributes:
      title: of the event's item.
      value: the label of the event.
      moved: the exact change of the score that the event caused, see `linear.influence`.
    """

    title: str
    value: float
    moved: float


class Recommendation(NamedTuple):
    """An item for a person.

    Attributes:
      item: its index in the catalogue.
      id: as in the log.
      title: as people know it.
      score: the predicted rating, on the scale of the log; for counts and clicks only the order
        of scores has a meaning.
      why: a line such as "because you rated Alien 5 (+0.32)".
      reasons: the two events that raised the score most and the one that lowered it most, the
        largest move first; none for a cold start.
    """

    item: int
    id: int | str
    title: str
    score: float
    why: str
    reasons: tuple[Reason, ...]


class Known(NamedTuple):
    """The events of the log's own users.

    Attributes:
      ids: (U,) of the users.
      start: (U + 1,) where the events of each user begin in ``item`` and ``value``.
      item: (R,) indices of items.
      value: (R,) labels; the events of a user are in the order of the log.
      profile: name -> (U, width), the columns of the users that the model reads.
    """

    ids: np.ndarray
    start: np.ndarray
    item: np.ndarray
    value: np.ndarray
    profile: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained recommender with its catalogue, as `load` gives it.

    Attributes:
      about: the content of ``model.json``: the log, the arms compared, how the best was chosen.
      identity: a digest of parameters and catalogue, by which states of other models are refused.
      labels: the kind of feedback, ratings, counts or clicks.
      catalogue: the N items.
      popularity: (N,) number of training events of each item.
      form: item vectors and prior, for a person without a profile.
      recipe, params, columns: what `learner` builds the learner from again.
      known: the events of the log's own users.
      retrieval: an index of a large catalogue, for a service; None searches all items.
    """

    about: dict[str, Any]
    identity: str
    labels: Labels
    catalogue: Catalogue
    popularity: np.ndarray
    form: linear.Form
    recipe: item_ridge.Recipe
    params: PyTree
    columns: dict[str, np.ndarray]
    known: Known
    retrieval: index.Index | None = None

    def learner(self) -> tuple[MetaLearner, PyTree]:
        """The learner and its parameters, to train on, to export or to look into."""
        learner = item_ridge.in_units(item_ridge.learner(self.recipe), self.recipe.scale)
        return learner, self.params

    def events(self, said: Mapping[Any, float] | str) -> tuple[np.ndarray, np.ndarray]:
        """The items (n,) and labels (n,) of feedback that names items by title or id.

        Args:
          said: title or id -> value, or a text such as ``"Alien=5, Heat=2"``.

        Raises:
          UserError: an unknown item (the message names similar titles), an item given twice, or
            a value that is not possible.
        """
        pairs = parse_said(said, self.labels, self.catalogue) if isinstance(said, str) else said
        named = {str(name): value for name, value in pairs.items()}
        items = np.array([self.catalogue.find(name) for name in named], np.int64)
        labels = self.labels.encode(named)
        repeated = [n for n, i in zip(named, items, strict=True) if (items == i).sum() > 1]
        if repeated:
            raise UserError(f"{' and '.join(map(repr, repeated))} are one item; give it once")
        return items, labels

    def state(self, items: np.ndarray, labels: np.ndarray) -> linear.State:
        """The state of a person after events on items (n,) with labels (n,)."""
        return linear.adapt(self.form, linear.start(self.form), items, labels)

    def recommend(
        self,
        said: Mapping[Any, float] | str = "",
        top: int = 10,
        *,
        seen: bool = False,
        profile: Mapping[str, np.ndarray] | None = None,
    ) -> list[Recommendation]:
        """The best items for a person, best first; all items if there are fewer than ``top``.

        Args:
          said: their feedback, title or id -> value; empty for a cold start.
          top: how many items.
          seen: whether items of these events may be recommended again.
          profile: columns of a user, as in ``known.profile``; None if nothing is known.

        Raises:
          UserError: an unknown item; a value that is not possible; ``top`` below 1.
        """
        return self.best(*self.events(said), top, seen=seen, profile=profile)

    def best(
        self,
        items: np.ndarray,
        labels: np.ndarray,
        top: int = 10,
        *,
        seen: bool = False,
        profile: Mapping[str, np.ndarray] | None = None,
    ) -> list[Recommendation]:
        """`recommend` for events that are items (n,) and labels (n,) already."""
        form = self._form_of(profile)
        chosen, scores = self.ranked(items, labels, top, seen=seen, form=form)
        moved = linear.influence(form, items, labels, chosen)
        return [
            self._told(int(item), float(score), items, labels, row)
            for item, score, row in zip(chosen, scores, moved, strict=True)
        ]

    def ranked(
        self,
        items: np.ndarray,
        labels: np.ndarray,
        top: int,
        *,
        seen: bool = False,
        form: linear.Form | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best items (k,) and their scores (k,), without reasons; ratings stay on the scale.

        Raises:
          UserError: ``top`` is below 1, or a score is not finite.
        """
        if top < 1:
            raise UserError(f"top {top}: ask for one item or more")
        used = self.form if form is None else form
        state = linear.adapt(used, linear.start(used), items, labels)
        hidden = np.zeros(0, np.int64) if seen else items
        if used is self.form and self.retrieval is not None:
            chosen, scores = self.retrieval.best(used, state, top, hidden)
        else:
            chosen, scores = index.exact(linear.predict(used, state), top, hidden)
        if not self.labels.events:
            scores = np.clip(scores, self.labels.low, self.labels.high)
        return chosen, scores

    def shown(self, score: float) -> float:
        """A score as it is shown: a predicted rating is clipped to the scale."""
        return score if self.labels.events else min(max(score, self.labels.low), self.labels.high)

    def user(self, name: str | int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Items (n,), labels (n,) and profile of a user of the log; the last event of each item.

        Raises:
          UserError: the log has no such user.
        """
        place = np.flatnonzero(self.known.ids.astype(str) == str(name).strip())
        if not place.size:
            raise UserError(
                f"no user {name!r} in the log; users are called like {self.known.ids[0]!s}; for a "
                "new person give their ratings"
            )
        rows = slice(*self.known.start[place[0] : place[0] + 2])
        profile = {k: v[place[0]] for k, v in self.known.profile.items()}
        items, last = np.unique(self.known.item[rows][::-1], return_index=True)
        return items.astype(np.int64), self.known.value[rows][::-1][last], profile

    def _form_of(self, profile: Mapping[str, np.ndarray] | None) -> linear.Form:
        """The item vectors for a profile; those at hand where none is known."""
        if profile is None or not self.recipe.user_sizes:
            return self.form
        return linear.form(self.recipe, self.params, self.columns, profile)

    def _told(
        self, item: int, score: float, items: np.ndarray, labels: np.ndarray, moved: np.ndarray
    ) -> Recommendation:
        """A recommendation with its reasons."""
        least = 0.0005 if self.labels.events else 0.005
        raised = [j for j in np.argsort(-moved, kind="stable")[:2] if moved[j] >= least]
        lowered = [j for j in np.argsort(moved, kind="stable")[:1] if moved[j] <= -least]
        reasons = tuple(
            Reason(self.catalogue.title(int(items[j])), float(labels[j]), float(moved[j]))
            for j in sorted([*raised, *lowered], key=lambda j: -abs(moved[j]))
        )
        digits = 3 if self.labels.events else 2
        values = None if self.labels.events else [r.value for r in reasons]
        told = ([r.title for r in reasons], values, [r.moved for r in reasons])
        count = int(self.popularity[item])
        nothing = "nothing said moved it" if len(items) else "cold start"
        average = f"{nothing}: {count:,} people, average taste"
        why = because(*told, against=1, digits=digits, otherwise=average)
        title = self.catalogue.title(item)
        return Recommendation(item, self.catalogue.id(item), title, score, why, reasons)


def save(
    folder: pathlib.Path | str,
    *,
    about: Mapping[str, Any],
    labels: Labels,
    catalogue: Catalogue,
    popularity: np.ndarray,
    recipe: item_ridge.Recipe,
    params: PyTree,
    columns: Mapping[str, np.ndarray],
    known: Known,
    card: str = "",
    others: Mapping[str, pathlib.Path] | None = None,
) -> Model:
    """Writes a model folder, whole or not at all, and gives the model back as `load` reads it.

    Args:
      about: facts to keep: the log, the table of the arms.
      columns: the item columns (N, ...) that the recipe reads.
      card: the text of README.md; others: name -> file to take along, such as a plot.

    Raises:
      UserError: the folder holds something else; a number of the model is not finite.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not (folder / "model.json").is_file() and any(folder.iterdir()):
        raise UserError(f"{folder} holds other files; give an empty or new folder")
    profile = {k: np.zeros(v.shape[1:], v.dtype) for k, v in known.profile.items()}
    form = linear.form(recipe, params, columns, profile)
    made = folder.with_name(folder.name + ".part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    files.write(made / "params.npz", files.flat(params))
    files.write(made / "columns.npz", columns)
    arrays = {k: v for k, v in form._asdict().items() if isinstance(v, np.ndarray)}
    files.write(made / "form.npz", {**arrays, "popularity": popularity})
    side = {f"profile.{k}": v for k, v in known.profile.items()}
    users = {**known._replace(profile={})._asdict(), **side}
    files.write(made / "users.npz", users, skip="profile")
    year = None if catalogue.year is None else catalogue.year.tolist()
    items = {"ids": catalogue.ids.tolist(), "titles": catalogue.titles, "year": year}
    (made / "items.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    digests = {name: files.digest(made / name) for name in FILES}
    own = json.dumps([dataclasses.asdict(recipe), labels, digests], sort_keys=True, default=str)
    facts = {
        "format": FORMAT,
        "identity": hashlib.blake2b(own.encode(), digest_size=8).hexdigest(),
        "labels": labels._asdict(),
        "recipe": dataclasses.asdict(recipe),
        "params": files.structure(params),
        "files": digests,
        **about,
    }
    (made / "model.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (made / "README.md").write_text(card, encoding="utf-8")
    for name, other in (others or {}).items():
        shutil.copy(other, made / name)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    return load(folder)


def load(folder: pathlib.Path | str, *, indexed: bool = False) -> Model:
    """The model in a folder.

    Args:
      indexed: whether a large catalogue gets an index: half a minute that a service spends once.

    Raises:
      UserError: no such folder; a file is missing, cut, altered or of another format.
    """
    folder = pathlib.Path(folder)
    path = folder / "model.json"
    if not path.is_file():
        raise UserError(f"{folder} is no model folder; write one with: metajax train LOG --out DIR")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise UserError(f"{folder} has format {about['format']}, not {FORMAT}; train it again")
        for name in FILES:
            if not (folder / name).is_file():
                raise UserError(f"{folder} has no {name}; copy the folder again, or train again")
            if files.digest(folder / name) != about["files"][name]:
                raise UserError(f"{folder / name} is cut or altered; copy it again, or train again")
        made = _read(folder, about)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); train it again") from error
    return dataclasses.replace(made, retrieval=index.Index(made.form)) if indexed else made


def _read(folder: pathlib.Path, about: dict[str, Any]) -> Model:
    """The model of a folder whose files are whole."""
    params, columns, form, users = (files.arrays(folder / name) for name in FILES[:4])
    items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    spec: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in about["recipe"].items()
    }
    recipe = item_ridge.Recipe(**spec)
    year = None if items["year"] is None else np.array(items["year"], np.int16)
    profile = {k.removeprefix("profile."): v for k, v in users.items() if k.startswith("profile.")}
    popularity = form.pop("popularity")
    made = linear.Form(
        **{k: form.get(k) for k in linear.Form._fields if k != "scale"},  # pyright: ignore
        scale=recipe.scale,
    )
    return Model(
        about=about,
        identity=about["identity"],
        labels=Labels(**about["labels"]),
        catalogue=Catalogue(np.array(items["ids"]), items["titles"], year),
        popularity=popularity,
        form=made,
        recipe=recipe,
        params=files.nested(about["params"], params),
        columns=columns,
        known=Known(users["ids"], users["start"], users["item"], users["value"], profile),
    )
