"""How the tasks of a batch are computed on each platform: what was fastest there, in one table.

No choice changes a result but for its rounding. A processor's core likes few tasks at a time, which
stay in its cache, and supports cut to their length; a graphics card likes all tasks at once, as far
as its memory goes. Small steps are over before the host has started the next one: many of them make
one program. Measured by ``python -m experiments benchmark``, on a processor and on an H200.
"""

from typing import Literal, NamedTuple

import jax

Kind = Literal["vectors", "images", "ratings", "sequences"]
"""Tasks by what is adapted to them: a perceptron on vectors (sines), a convolutional network on
images (characters), a perceptron on up to a hundred ratings (users), a Transformer (sequences)."""


class Way(NamedTuple):
    """How tasks of a kind are computed.

    Attributes:
      chunk_size: tasks of a batch that are taken at once, see `training.outer_gradient.in_chunks`;
        None takes them all.
      lengths: sizes that supports are cut to, see `training.outer_gradient.cut_to_length`.
      num_outer: outer steps in one program.
      reverse: how an inner gradient is differentiated, see `learners.gradient.maml.gradient`.
      judged: test tasks that are adapted to at once; None takes one after the other.
    """

    chunk_size: int | None = None
    lengths: tuple[int, ...] = ()
    num_outer: int = 1
    reverse: bool = False
    judged: int | None = 128


WAYS: dict[str, dict[Kind, Way]] = {
    "cpu": {
        "vectors": Way(num_outer=50),
        "images": Way(chunk_size=1, judged=None),
        "ratings": Way(chunk_size=4, lengths=(12, 36)),
        "sequences": Way(chunk_size=2),
    },
    "gpu": {
        "vectors": Way(chunk_size=8192, num_outer=50),
        "images": Way(chunk_size=1024, reverse=True),
        "ratings": Way(chunk_size=512, lengths=(20,)),
        "sequences": Way(chunk_size=256),
    },
}
"""Platform -> kind of tasks -> how they are computed. Chunks of a card are what its memory holds.

Images are convolved by products of patches on both platforms: with the inner gradient of
`learners.gradient.curvature`, a kernel's gradient made as (filters, patch) is slower on a processor
by 4 to 11 % of the time of a step."""


def way(kind: Kind, platform: str | None = None) -> Way:
    """How tasks of a kind are computed on a platform, by default on that of this process.

    Args:
      platform: as JAX names it; what is not ``cpu`` is taken for a card.
    """
    return WAYS["cpu" if (platform or jax.default_backend()) == "cpu" else "gpu"][kind]
