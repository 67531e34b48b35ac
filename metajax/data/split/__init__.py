"""Splits of a table into meta-training, meta-validation and test tasks.

A split is data. It holds, per phase and scenario, the tasks with their rows in a fixed order and
which of them are support or query; its checksum is stored in every record made from it. `save`
writes it as a task file and `load` reads one, so that others can evaluate on the same split.

`melu` cuts users and items into four quadrants; `user_disjoint`, `first_k` and `tanp` cut users;
`domain_transfer` hides users in one of two domains; `global_time`, `prequential`, `leave_one_out`
and `ctr_warmup` cut time. One seed, one split.
"""

from metajax.data.split.files import load, save
from metajax.data.split.quadrants import (
    SCENARIOS,
    last_released,
    melu,
    melu_states,
    newest_items,
    newest_users,
    quadrants,
    random_share,
)
from metajax.data.split.tasks import (
    NUM_QUERY,
    Split,
    Tasks,
    grouped,
    query_rows,
    require_tasks,
    tasks_of_users,
)
from metajax.data.split.temporal import ctr_warmup, global_time, leave_one_out, prequential
from metajax.data.split.users import (
    domain_transfer,
    first_k,
    merge_domains,
    newcomers,
    tanp,
    user_disjoint,
)

__all__ = [
    "NUM_QUERY",
    "SCENARIOS",
    "Split",
    "Tasks",
    "ctr_warmup",
    "domain_transfer",
    "first_k",
    "global_time",
    "grouped",
    "last_released",
    "leave_one_out",
    "load",
    "melu",
    "melu_states",
    "merge_domains",
    "newcomers",
    "newest_items",
    "newest_users",
    "prequential",
    "quadrants",
    "query_rows",
    "random_share",
    "require_tasks",
    "save",
    "tanp",
    "tasks_of_users",
    "user_disjoint",
]
