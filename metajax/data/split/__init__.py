"""Who is seen when: splits of a table into meta-training, meta-validation and test tasks.

A split is data. It holds, per phase and scenario, the tasks with their rows in a fixed order, which
of them are support and which are query, and it has a checksum that stands in every record made from
it. `save` writes it as a task file, `load` reads one, so that a published split can be judged on.
"""

from metajax.data.split.files import load, save
from metajax.data.split.quadrants import SCENARIOS, melu, melu_states
from metajax.data.split.tasks import (
    NUM_QUERY,
    Split,
    Tasks,
    grouped,
    query_rows,
    require_tasks,
    tasks_of_users,
)

__all__ = [
    "NUM_QUERY",
    "SCENARIOS",
    "Split",
    "Tasks",
    "grouped",
    "load",
    "melu",
    "melu_states",
    "query_rows",
    "require_tasks",
    "save",
    "tasks_of_users",
]
