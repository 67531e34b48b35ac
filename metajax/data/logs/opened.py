"""A log as a `Source`, whatever its format: found by its content, then by its ending."""

from pathlib import Path

from metajax.data.logs import raw, text
from metajax.data.logs import source as layouts
from metajax.data.logs.source import Source
from metajax.settings import ReadOptions

NEWS = "news_id,category,subcategory,title,abstract,url,title_entities,abstract_entities"
"""The columns of MIND's news.tsv, which has no header."""


def source(path: Path, options: ReadOptions) -> Source:
    """The columns of a file that `raw.check` let pass.

    Raises:
      UserError: one line for anything wrong with the file, with what to do.
    """
    raw.require_polars()
    if raw.kind(path) in raw.PARQUET:
        return layouts.from_parquet(path)
    data = raw.content(path, options.encoding, options.header and options.columns is None)
    if raw.kind(path) in raw.JSON or data.lstrip()[:1] == b"{":
        return layouts.from_json(path, data)
    if options.columns is None and options.header:
        if layouts.NETFLIX.match(data):
            return layouts.from_netflix(path, data)
        if layouts.MIND.match(data):
            return layouts.from_mind(path, data)
        if layouts.MIND_NEWS.match(data):
            options = ReadOptions(encoding=options.encoding, columns=NEWS, quote="none")
    return text.from_text(path, data, options)
