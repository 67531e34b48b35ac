"""``python -m metajax.data.logs``: what a log holds, and how fast and small its reading is."""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from metajax.data.logs import read
from metajax.types import UserError


def main(arguments: list[str] | None = None) -> None:
    """Prints what a log holds, or measures the reading of a made one."""
    parser = argparse.ArgumentParser(prog="python -m metajax.data.logs", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="a log to read")
    parser.add_argument("--measure", type=int, metavar="N", help="read N made rows of Parquet")
    parser.add_argument("--write", type=int, metavar="N", help="only write N made rows to FILE")
    options = parser.parse_args(arguments)
    try:
        if options.measure:
            print(measure(options.measure))
        elif options.file is None:
            parser.error("give a file, or --measure N")
        elif options.write:
            write(options.file, options.write)
        else:
            print(describe(options.file))
    except UserError as error:
        sys.exit(f"error: {error}")


def describe(path: Path) -> str:
    """One line about a log: rows, users, items, scale, days."""
    table = read.load(path)
    days = ""
    if table.time is not None:
        ends = np.array([table.time.min(), table.time.max()]).astype("datetime64[s]")
        days = f", {str(ends[0])[:10]} to {str(ends[1])[:10]}"
    return (
        f"{table.name}: {len(table)} rows, {table.num_users} users, {table.num_items} items, "
        f"labels {table.scale[0]:g}..{table.scale[1]:g}{days}"
    )


def write(path: Path, num_rows: int) -> None:
    """Writes a made log: text ids of users with a space, whole ids of items, half stars, ms."""
    polars = read.require_polars()
    rng = np.random.default_rng(0)
    users = np.array([f"user {i}" for i in range(max(num_rows // 20, 2))])
    polars.DataFrame(
        {
            "user_id": users[rng.integers(len(users), size=num_rows)],
            "item_id": (rng.zipf(1.3, num_rows) % 200_000).astype(np.int64),
            "rating": rng.integers(1, 11, num_rows) / 2,
            "timestamp": rng.integers(1_500_000_000_000, 1_700_000_000_000, num_rows),
        }
    ).write_parquet(path)


def measure(num_rows: int) -> str:
    """Seconds and peak memory of reading ``num_rows`` made rows of Parquet in this process.

    The rows are written by another process, so that the peak is that of the reading (and of the
    libraries) alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        command = [
            sys.executable,
            "-m",
            "metajax.data.logs",
            str(path),
            "--write",
            str(num_rows),
        ]
        subprocess.run(command, check=True)
        start = time.perf_counter()
        table = read.load(path)
        seconds = time.perf_counter() - start
        size = path.stat().st_size
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return (
        f"{len(table)} rows, {table.num_users} users, {table.num_items} items, {size / 1e6:.0f} MB "
        f"of Parquet: {seconds:.2f} s, peak {peak / 1e9:.2f} GB"
    )
