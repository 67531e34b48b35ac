"""The bytes of a log, unpacked and checked before any reader sees them.

gz, bz2, xz, zst and zip are unpacked (recognized by their first bytes, whatever the name), a byte
order mark is removed, and every kind of line end becomes a newline. Refused, each by a one-line
error, are: an absent file, an unknown kind, an empty file, a damaged archive, bytes that are not
text, and a line longer than a mebibyte.
"""

import bz2
import codecs
import contextlib
import gzip
import importlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from metajax.types import UserError

BLOCK = 1 << 20  # bytes; also the longest line
ATOMIC = (".inter", ".user", ".item")
JSON = (".json", ".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
KINDS = (".csv", ".tsv", ".txt", ".dat", ".data", ".inter", *JSON, *PARQUET)
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
ZST = b"\x28\xb5\x2f\xfd"


def kind(path: Path) -> str:
    """The ending that says the format of a file, in lower case: ``.csv`` of ``Log.CSV.gz``.

    A packed file without another ending counts as text.
    """
    endings = [ending.lower() for ending in path.suffixes]
    packed = ".txt" if endings and endings[-1] in PACKED else ""
    return next((ending for ending in reversed(endings) if ending not in PACKED), packed)


def stem(path: Path) -> str:
    """The name of a file without folder and endings: ``log`` of ``log.csv.gz``."""
    while path.suffix.lower() in PACKED:
        path = path.with_suffix("")
    return path.stem


def check(path: Path, kinds: tuple[str, ...] = KINDS) -> None:
    """Refuses a file that is absent, empty or of an unknown kind.

    Raises:
      UserError: one line, with what to do.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a log ({', '.join(KINDS)})")
    if kind(path) not in kinds:
        known = ", ".join(kinds)
        raise UserError(
            f"{path}: unknown kind {kind(path)!r}; give one of {known}, "
            f"also packed as {', '.join(PACKED)}"
        )
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; give a log with a header and rows")


def check_parquet(path: Path) -> None:
    """Refuses a file without the marks at both ends of a Parquet file.

    Raises:
      UserError: one line, with what to do.
    """
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-min(4, path.stat().st_size), 2)
        tail = file.read(4)
    if head != b"PAR1" or tail != b"PAR1":
        raise UserError(f"{path}: not a complete Parquet file; it may be cut short: write it again")


def content(path: Path, encoding: str = "utf-8", header: bool = True) -> bytes:
    """The text of a file as UTF-8 bytes whose lines end in a newline, the last one too.

    Args:
      path: of the file.
      encoding: of the text.
      header: whether the first line is not a row, for the row numbers of messages.

    Raises:
      UserError: one line for anything wrong, with what to do.
    """
    try:
        with _opened(path) as file:
            data = b"".join(_blocks(path, file))
    except (EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: cannot be unpacked or read ({' '.join(str(error).split())[:100]}); it may be "
            "cut short: get a complete copy"
        ) from error
    if data.startswith(b"PAR1"):
        raise UserError(f"{path}: this is a Parquet file; give it a name that ends in .parquet")
    data = _as_utf8(path, data, encoding)
    head = data[:4096]
    blank = head[: len(head) - len(head.lstrip(codecs.BOM_UTF8 + b" \t\r\n"))]
    if codecs.BOM_UTF8 in blank:  # before the first row, after blank lines too, which count later
        data = blank.replace(codecs.BOM_UTF8, b"") + data[len(blank) :]
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise UserError(
            f"{path}: row {line - header} (line {line}) holds a NUL, the character of the number "
            "0, which is not text; remove it"
        )
    return data if data.endswith(b"\n") else data + b"\n"


def _blocks(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """A file in blocks, so that no giant line is ever held in memory."""
    listed = False  # one list of JSON may be one line
    while block := file.read(BLOCK):
        listed = listed or block[:8].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
        if len(block) == BLOCK and not (listed or b"\n" in block or b"\r" in block):
            raise UserError(
                f"{path}: a line is longer than {BLOCK} bytes; is this a text file with one row "
                "per line?"
            )
        yield block


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file, unpacked if its first bytes are those of an archive."""
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        unpack: Any = None
        if head.startswith(b"\x1f\x8b"):
            unpack = gzip.GzipFile(fileobj=file)
        elif head.startswith(b"BZh"):
            unpack = bz2.BZ2File(file)
        elif head.startswith(b"\xfd7zXZ\x00"):
            unpack = lzma.LZMAFile(file)  # noqa: SIM115
        elif head.startswith(b"PK\x03\x04"):
            unpack = _only_member(path, file)
        elif head.startswith(ZST):
            unpack = _zst(path)
        with unpack or contextlib.nullcontext(file) as out:
            yield out


def _only_member(path: Path, file: IO[bytes]) -> IO[bytes]:
    """The one file of a zip archive."""
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if len(names) != 1:
        shown = ", ".join(names[:5])
        raise UserError(f"{path}: holds {len(names)} files ({shown}); unpack it and name one")
    return archive.open(names[0])


def _zst(path: Path) -> IO[bytes]:
    """The text of a zst file, unpacked by polars."""
    polars = require_polars()
    try:
        lines = polars.read_csv(
            path,
            has_header=False,
            separator="\x01",
            quote_char=None,
            infer_schema=False,
            glob=False,
        )
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException) as error:
        raise OSError("not a complete zst file") from error
    return io.BytesIO("\n".join(lines[:, 0].fill_null("").to_list()).encode())


def _as_utf8(path: Path, data: bytes, encoding: str) -> bytes:
    """Text in UTF-8; a file with the marks of UTF-16 is one."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        if codecs.lookup(encoding).name != "utf-8":
            return data.decode(encoding).encode()
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(data) + 1, BLOCK):
            try:
                decoder.decode(data[start : start + BLOCK], final=start + BLOCK > len(data))
            except UnicodeDecodeError as error:
                error.start += start
                raise
    except LookupError as error:
        raise UserError(f"{path}: no encoding {encoding!r}; give utf-8 or latin-1") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise UserError(
            f"{path}: the text is not {encoding.upper()} ({error.reason} near byte {error.start}); "
            "save the file as UTF-8, or name its encoding, such as --encoding latin-1"
        ) from error
    return data


def require_polars() -> Any:
    """The module polars, of the extra ``data``.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("polars")
    except ImportError as error:
        raise UserError(
            "reading your own log needs polars; install it with: pip install 'metajax[data]'"
        ) from error


def widths(data: bytes, separator: str) -> np.ndarray:
    """The number of fields of every line, quotes being text: (lines,) int64."""
    parts = [np.zeros(0, np.int64)]
    for block in _whole_lines(data):
        signs = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(signs == ord("\n"))
        between = np.flatnonzero(signs == ord(separator))
        parts.append(np.diff(np.searchsorted(between, ends), prepend=0) + 1)
    return np.concatenate(parts)


def _whole_lines(data: bytes, size: int = 1 << 24) -> Iterator[bytes]:
    """The text in blocks that end with a line."""
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + size) + 1
        yield data[start:end]
        start = end
