"""The recommenders of `sasrec`: its settings, and what each published recipe makes of them."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from metajax.adapters.mixed import Compute
from metajax.models import sequence
from metajax.settings import Data, Hardware, Output, Positive, Presets, Range, Share

SASREC = "SASRec, full softmax"
RECIPES = {
    "gbce": "SASRec, gBCE",
    "esasrec": "eSASRec",
    "hstu": "HSTU, full softmax",
    "deep": "SASRec, deep",
    "wide": "SASRec, wide",
}
OWN, SIMPLE = "sasrec", "simple"
Recipe = Literal["gbce", "esasrec", "hstu", "deep", "wide"]
Part = Literal["simple", "sasrec", "gbce", "esasrec", "hstu", "deep", "wide"]


@dataclasses.dataclass(frozen=True)
class Config:
    """What the experiment can be told."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    data: Data = Data()
    split: Literal["leave-one-out", "time"] = "leave-one-out"
    """The test is each person's last item; or, for time, their next one after a moment that is the
    same for everybody, and all training comes before an earlier moment."""
    people: Annotated[int, Range(0)] = 0
    """Judge so many people, drawn at random once for all arms, and train on everybody; 0 judges
    all. Where items are many, scores of all people do not fit into memory."""
    window: Positive = 64
    """Items that a person's state holds."""
    width: Positive = 64
    """Width of the Transformer and of the item embeddings."""
    num_layers: Positive = 2
    """Blocks."""
    num_heads: Positive = 2
    """Attention heads."""
    dropout: Share = 0.2
    """Dropout rate of the embeddings and of each block's output."""
    epochs: Positive = 16
    """Passes over the trained part of all histories."""
    batch: Positive = 32
    """Windows per step."""
    rate: float = 2e-3
    """Adam's highest rate; it rises over 5 % of the steps and falls along a cosine."""
    average: Share = 0.0
    """Weight of the past in a running mean of the parameters, which is judged in their place; 0 is
    none."""
    compute: Compute = "float32"
    """Type of activations and of the factors of products."""
    num_negatives: int = 0
    """Number of uniform negatives of the corrected sampled softmax; 0 is the full softmax."""
    also: tuple[Recipe, ...] = ()
    """Further recipes: gbce, esasrec, hstu; deep has twice the width and blocks, wide three times
    the width, with more dropout."""
    only: tuple[Part, ...] = ()
    """Make these parts of the table alone and keep them in the folder, where a run of all finds
    them: several processes can share the work. With --publish they have a record of their own."""
    drawn: Positive = 256
    """Items that gbce and esasrec draw per step."""
    seeds: Positive = 1
    """Training seeds."""
    minutes: float = 0.0
    """End the training of seeds side by side after so many minutes, and judge the best until then;
    0 is never."""
    seeds_at_once: int = 1
    """Number of seeds that train side by side in one program; 0 is all."""
    fresh: bool = False
    """Start from the beginning, instead of resuming from what the folder holds."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "ml-100k", "epochs": 2},
        "gpu": {
            "window": 128,
            "epochs": 40,
            "batch": 64,
            "average": 0.999,
            "also": ("gbce", "esasrec", "hstu", "deep", "wide"),
            "seeds": 3,
            "seeds_at_once": 0,
        },
    }


def build(config: Config, num_items: int) -> sequence.Settings:
    """The recommender."""
    shape = sequence.small(config.width, config.num_layers, config.num_heads)
    return sequence.Settings(
        num_items, shape, config.dropout, 0.0, config.num_negatives, compute=config.compute
    )


def recipe_of(name: str, config: Config, num_items: int) -> sequence.Settings:
    """The recommender of another recipe; of the same size, where the recipe is not about size."""
    plain = build(config, num_items)
    drawn = min(config.drawn, num_items)
    if name == OWN:
        return plain
    if name == "gbce":
        return dataclasses.replace(plain, num_negatives=drawn, objective=sequence.gbce)
    if name == "hstu":
        return dataclasses.replace(plain, shape=dataclasses.replace(plain.shape, pointwise=True))
    if name in ("deep", "wide"):
        times, layers, more = (2, 2, 0.1) if name == "deep" else (3, 1, 0.2)
        shape = sequence.small(
            times * config.width, layers * config.num_layers, times * config.num_heads
        )
        dropout = min(config.dropout + more, 0.9)
        return dataclasses.replace(plain, shape=shape, dropout=dropout)
    shape = dataclasses.replace(plain.shape, gated_residual=True)
    corrected = {"num_negatives": drawn, "popular": 0.5, "objective": sequence.logq_softmax}
    return dataclasses.replace(plain, shape=shape, **corrected)
