"""Results that are kept one by one while a long run goes on, so that a stop loses only the last."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from metajax.results import records
from metajax.results.schema import Opening
from metajax.settings import config_hash

OPENED = "opened"


class Partial:
    """Results by name in a file, a line of JSON for each, written as they come.

    A file of another run, of other settings or data, is begun anew; a line that was cut is dropped.
    """

    def __init__(self, path: pathlib.Path, about: Mapping[str, Any]):
        """Reads what is there.

        Args:
          about: what must be equal for results to be of the same run: digests, versions.
        """
        self.path, self.found = path, {}
        first = json.dumps({"about": about}, sort_keys=True, default=str)
        lines = path.read_text().split("\n") if path.is_file() else []
        whole = [first]
        if lines[:1] == [first]:
            for line in lines[1:-1]:
                try:
                    name, value = json.loads(line)
                except ValueError:
                    break
                self.found[name] = value
                whole.append(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(whole) + "\n")

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def __getitem__(self, name: str) -> Any:
        return self.found[name]

    def add(self, name: str, value: Any) -> Any:
        """Keeps a result, and gives it back as it will be read."""
        line = json.dumps([name, records.plain(value)])
        with self.path.open("a") as file:
            file.write(line + "\n")
        self.found[name] = json.loads(line)[1]
        return self.found[name]

    def opening(self, config: Any, open_tests: Callable[[], Opening]) -> Opening:
        """The opening of the test tasks: that of the beginning, if the same run is resumed.

        Args:
          config: the configuration; one of a larger run may go on from a smaller one's results.
        """
        name = f"{OPENED} {config_hash(config)}"
        if name not in self.found:
            self.add(name, dataclasses.asdict(open_tests()))
        return Opening(**self.found[name])
