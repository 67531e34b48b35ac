"""A pytest plugin of `touched`: tests that would begin after a moment are left out, and named.

METAJAX_TESTS_UNTIL is the moment, in seconds since 1970.
"""

import os
import time
from collections import Counter
from typing import Any

import pytest

REASON = "left out: the time is over"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test before anything is set up for it."""
    if time.time() > float(os.environ["METAJAX_TESTS_UNTIL"]):
        pytest.skip(REASON)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names the files whose tests were left out."""
    skipped = terminalreporter.stats.get("skipped", [])
    files = Counter(
        told.nodeid.partition("::")[0] for told in skipped if REASON in str(told.longrepr)
    )
    if files:
        terminalreporter.write_line(f"{files.total()} tests were left out, the time is over:")
        for name, count in files.items():
            terminalreporter.write_line(f"  {name}: {count}")
