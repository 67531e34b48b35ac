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
    melu,
    melu_states,
    newest_items,
    newest_users,
    quadrants,
)
from metajax.data.split.tasks import Split, Tasks, grouped
from metajax.data.split.temporal import ctr_warmup, global_time, leave_one_out, prequential
from metajax.data.split.users import domain_transfer, first_k, newcomers, tanp, user_disjoint

__all__ = [
    "SCENARIOS",
    "Split",
    "Tasks",
    "ctr_warmup",
    "domain_transfer",
    "first_k",
    "global_time",
    "grouped",
    "leave_one_out",
    "load",
    "melu",
    "melu_states",
    "newcomers",
    "newest_items",
    "newest_users",
    "prequential",
    "quadrants",
    "save",
    "tanp",
    "user_disjoint",
]
