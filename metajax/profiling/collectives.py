"""Communication between devices, measured from the text of a compiled program."""

import math
import re

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
_RESULT = re.compile(rf"= (\(?[^=]*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
_ARRAY = re.compile(r"(pred|[suf]\d+|bf16)\[([\d,]*)\]")


def collective_bytes(program: str) -> dict[str, int]:
    """Collective -> bytes of the results of all such operations of a program, on one device.

    >>> text = "%a = f32[8,4]{1,0} all-reduce(f32[8,4]{1,0} %p), replica_groups={{0,1}}"
    >>> collective_bytes(text)
    {'all-reduce': 128}

    The traffic follows from it: in a ring of N devices, each sends and receives 2 (N - 1) / N of it
    for an all-reduce, (N - 1) / N for an all-gather. An operation inside a loop counts once.

    Args:
      program: the result of `jax.stages.Compiled.as_text`.
    """
    found: dict[str, int] = {}
    for line in re.sub(r"/\*.*?\*/", "", program).splitlines():
        match = _RESULT.search(line)
        if match is None:
            continue
        arrays = _ARRAY.findall(match[1])
        if "-start(" in line and match[2] != "all-reduce":  # the operands stand before the results
            arrays = arrays[len(arrays) // 2 :]
        size = sum(
            _bits(kind) // 8 * math.prod(map(int, filter(None, shape.split(","))))
            for kind, shape in arrays
        )
        found[match[2]] = found.get(match[2], 0) + size
    return found


def _bits(kind: str) -> int:
    return 8 if kind == "pred" else int(kind.lstrip("bsuf"))
