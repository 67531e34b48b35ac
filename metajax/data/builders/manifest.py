"""The manifest of data sets, ``third_party/datasets.toml``, and the files that this machine has."""

import dataclasses
import hashlib
import tomllib
from pathlib import Path

from metajax.types import UserError

VERSION = "1.0.0"  # of the prepared data; raise it when a reader or a builder gives something else
# Beside the package where it is installed, else in the source tree.
MANIFESTS = (
    Path(__file__).resolve().parents[1] / "datasets.toml",
    Path(__file__).resolve().parents[3] / "third_party" / "datasets.toml",
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set of the manifest.

    Attributes:
      name: of the set and of its folder.
      title, homepage, licence, citation: for people.
      needs: the files of each layout that a reader knows; the first complete layout is read.
      sha256: file -> checksum of the published file, where one is known.
      optional: files that are read if they exist.
      url, archive, archive_sha256: the owner's archive, "" if there is none.
    """

    name: str
    title: str
    homepage: str
    licence: str
    citation: str
    needs: tuple[tuple[str, ...], ...]
    sha256: dict[str, str]
    optional: tuple[str, ...] = ()
    url: str = ""
    archive: str = ""
    archive_sha256: str = ""


def read() -> dict[str, Entry]:
    """The entries of the manifest by name.

    Raises:
      UserError: no manifest.
    """
    path = next((one for one in MANIFESTS if one.is_file()), MANIFESTS[-1])
    if not path.is_file():
        raise UserError(f"no list of data sets at {path}; restore the file from the repository")
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        name: Entry(
            name=name,
            **entry
            | {
                "needs": tuple(tuple(files) for files in entry["needs"]),
                "optional": tuple(entry.get("optional", ())),
            },
        )
        for name, entry in entries.items()
    }


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_files(entry: Entry, root: Path) -> list[Path]:
    """The files of the first complete layout in ``root/name`` or ``root``, [] if there is none."""
    for folder in (root / entry.name, root):
        for files in entry.needs:
            if all((folder / file).is_file() for file in files):
                wanted = (*files, *entry.optional)
                return [folder / file for file in wanted if (folder / file).is_file()]
    return []


def find_archive(entry: Entry, root: Path) -> Path | None:
    """The path of the owner's archive in ``root``, if it is there."""
    path = root / entry.archive
    return path if entry.archive and path.is_file() else None


def check(entry: Entry, files: list[Path]) -> str:
    """A fingerprint of the files of a set, after a check that they are the published ones.

    Raises:
      UserError: a file or the archive is not the published one.
    """
    total = hashlib.sha256(entry.name.encode())
    for path in files:
        found = digest(path)
        matches = [f for f in entry.sha256 if path.as_posix().endswith(f"/{f}")]
        wanted = entry.sha256[matches[0]] if matches else found
        if path.name == entry.archive:
            wanted = entry.archive_sha256
        if found != wanted:
            raise UserError(
                f"{entry.name}: {path} is not the published file (sha256 {found[:12]}, published "
                f"{wanted[:12]}); get a complete copy from {entry.homepage}"
            )
        total.update(found.encode())
    return total.hexdigest()[:16]


def absent(entry: Entry, root: Path | None) -> UserError:
    """The error for a set that is not on this machine: which file to put where."""
    home = (root or Path("DATA")) / entry.name
    layouts = " or ".join(", ".join(files) for files in entry.needs)
    archive = f", or {entry.archive} in {home.parent} (or allow the download)" if entry.url else ""
    return UserError(
        f"{entry.name}: not on this machine; put {layouts} in {home}{archive}; from "
        f"{entry.homepage}; another folder: --data-dir or METAJAX_DATA"
    )
