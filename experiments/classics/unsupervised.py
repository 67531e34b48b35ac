"""Few-shot characters without labels: tasks from clusters of images (CACTUs), on Omniglot.

Images of the training classes are embedded without their labels and clustered several times, and
the clusters are taken for classes. The learner that is trained on such tasks is tested on tasks of
true classes. Controls: random partitions of the same sizes, the nearest neighbor in the embedding,
and training from scratch on the support. The same learner trained with labels is the upper bound.
Paper: Hsu et al., "Unsupervised learning via meta-learning", ICLR 2019.
Run: python -m experiments unsupervised
     python -m experiments unsupervised --from-records prints the stored table.
Deviates: the embedding is whitened principal components of blurred images, not an adversarial
autoencoder; the learner is prototypical, with 20-way tasks; 8 partitions, not 100.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage

from metajax import benchmark, losses
from metajax.data import images
from metajax.learners.metric import prototypes
from metajax.learners.pooled import fine_tuned
from metajax.models import conv
from metajax.results import records as report
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import loop
from metajax.training.devices import on_devices, split_second_axis
from metajax.types import MetaLearner, Model, Params

from . import few_shot
from .omniglot import omniglot


class Arm(NamedTuple):
    """A learner that is ready for the test, and what it took."""

    learner: MetaLearner
    params: Params
    settings: dict[str, Any]
    num_steps: int
    seconds: float


RATES, STEPS = (0.01, 0.03, 0.1, 0.3), (5, 20, 50)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    ways: Positive = 5
    """Classes of a test task."""
    shots: Positive = 1
    """Support images of a class."""
    num_clusters: Positive = 500
    """Clusters of a partition, as published."""
    num_partitions: Positive = 8
    """Partitions, each by k-means on differently scaled components."""
    num_components: Positive = 64
    """Principal components of the embedding."""
    steps: Positive = 3_000
    """Outer steps, of 20-way tasks with one support and three query images a class."""
    test_tasks: Positive = 600
    """Tasks of the test."""
    seed: int = 0
    """Seed of partitions and training."""
    seeds: Positive = 1
    """Runs one after the other, each with its own partitions: this seed and the next ones."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"num_partitions": 2, "steps": 100, "test_tasks": 100},
        "gpu": {"num_partitions": 100, "steps": 30_000, "seeds": 5},
    }


def projection(image: np.ndarray, num_components: int) -> np.ndarray:
    """The matrix (H W, num_components) from flat images to their whitened principal components.

    Images are blurred by a Gaussian of a pixel and a half first, which is part of the matrix.
    """
    size = image.shape[1]
    basis = np.eye(size * size, dtype=np.float32).reshape(-1, size, size)
    blur = ndimage.gaussian_filter(basis, (0.0, 1.5, 1.5)).reshape(size * size, -1)
    x = image.reshape(len(image), -1).astype(np.float32) @ blur
    _, scale, axes = np.linalg.svd(np.cov(x, rowvar=False))
    return (blur @ (axes[:num_components].T / np.sqrt(scale[:num_components]))).astype(np.float32)


def projected(matrix: np.ndarray) -> Model:
    """The components of images (N, H, W, 1), as a model without parameters."""
    apply = lambda params, profile, x: x.reshape(len(x), -1) @ jnp.asarray(matrix)
    return Model(lambda key, profile, inputs: {}, apply)


def cluster(x_IxD: np.ndarray, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """The cluster (I,) of each row by k-means: 30 rounds from random rows; empty ones stay."""
    center = x_IxD[rng.choice(len(x_IxD), num_clusters, replace=False)]
    label = np.zeros(len(x_IxD), np.int64)
    for _ in range(30):
        distance = (center**2).sum(axis=1)[None, :] - 2.0 * x_IxD @ center.T
        label = distance.argmin(axis=1)
        size = np.bincount(label, minlength=num_clusters)
        total = np.zeros_like(center)
        np.add.at(total, label, x_IxD)
        center = np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], center)
    return label


def partitions(x_IxD: np.ndarray, config: Config) -> np.ndarray:
    """Cluster labels (num_partitions, I), the components scaled anew for each partition."""
    rng = np.random.default_rng(config.seed)
    scaled = lambda: (x_IxD * rng.uniform(0.5, 1.5, x_IxD.shape[1])).astype(np.float32)
    return np.stack(
        [cluster(scaled(), config.num_clusters, rng) for _ in range(config.num_partitions)]
    )


def pseudo_classes(
    image: np.ndarray, labels: np.ndarray, smallest: int
) -> list[images.ClassImages]:
    """One set of classes per partition; clusters smaller than a task needs are left out."""
    found = []
    for label in labels:
        size = np.bincount(label)
        found.append(images.by_class(image, np.where(size[label] >= smallest, label, -1)))
    return found


def stacked(sets: list[images.ClassImages]) -> images.ClassImages:
    """The sets along a leading axis, sharing their images; the widths are made equal."""
    classes = min(len(s.sizes) for s in sets)
    width = max(s.members.shape[1] for s in sets)
    pad = lambda m: jnp.pad(m[:classes], ((0, 0), (0, width - m.shape[1])))
    members = jnp.stack([pad(s.members) for s in sets])
    return images.ClassImages(sets[0].images, members, jnp.stack([s.sizes[:classes] for s in sets]))


def fit(title: str, data: images.ClassImages, config: Config) -> tuple[Params, float]:
    """Parameters of the prototypical learner after training on tasks of the stacked sets."""
    learner = prototypes(conv.conv4_features(), 20, 256)
    draw = functools.partial(images.draw, ways=20, shots=1, queries=3)

    def sample(data: images.ClassImages, key: jax.Array):
        key_set, key_draw = jax.random.split(key)
        at = jax.random.randint(key_set, (), 0, len(data.sizes))
        one = images.ClassImages(data.images, data.members[at], data.sizes[at])
        return jax.tree.map(lambda x: x[None], draw(one, key_draw))

    tx = optax.adam(optax.cosine_decay_schedule(1e-3, config.steps))
    recipe = on_devices(config.hardware.devices, loop.recipe(learner, tx), split_second_axis)
    keys = jax.random.split(jax.random.key(config.seed), 1)
    found = loop.fit(recipe, sample, data, keys, config.steps, title=title)
    return jax.tree.map(lambda x: x[0], found.params), found.seconds


def from_scratch(config: Config, valid: images.ClassImages) -> Arm:
    """A random network trained on the support alone, rate and steps best on validation tasks."""
    began = time.perf_counter()
    model = conv.conv4(config.ways)
    make = lambda rate, n: fine_tuned(model, optax.sgd(rate), n, loss=losses.class_cross_entropy)
    example = images.draw(valid, jax.random.key(0), ways=config.ways, shots=1, queries=1)
    params = make(0.1, 1).init(jax.random.key(config.seed), example)
    score = {}
    for n in STEPS:

        def judge(rate, params, valid, n=n):
            key, tried = jax.random.key(1), make(rate, n)
            found = few_shot.accuracies(
                tried,
                params,
                valid,
                key,
                ways=config.ways,
                shots=config.shots,
                queries=config.shots,
                num_tasks=100,
            )
            return found.mean()

        compiled = jax.jit(judge)
        score |= {(rate, n): float(compiled(rate, params, valid)) for rate in RATES}
    rate, n = max(score, key=lambda setting: score[setting])
    settings = {"rate": rate, "steps": n, "valid": score[rate, n], "trials": len(score)}
    return Arm(make(rate, n), params, settings, 0, time.perf_counter() - began)


def trained_arms(
    image: np.ndarray, label: np.ndarray, clusters: np.ndarray, config: Config
) -> dict[str, Arm]:
    """The prototypical learner trained on clusters, on random partitions, and on true classes."""
    rng = np.random.default_rng(config.seed + 1)
    shuffled = np.stack([rng.permutation(row) for row in clusters])
    named = {
        "CACTUs-ProtoNets": clusters,
        "random partition": shuffled,
        "ProtoNets, with labels": label[None],
    }
    arms = {}
    for name, labels in named.items():
        params, seconds = fit(name, stacked(pseudo_classes(image, labels, 4)), config)
        learner = prototypes(conv.conv4_features(), config.ways, 256)
        arms[name] = Arm(learner, params, {}, config.steps, seconds)
    return arms


def all_arms(data: dict[str, np.ndarray], config: Config) -> dict[str, Arm]:
    """Every arm, trained with the seed of the configuration."""
    seen = np.isin(data["label"], images.read_split(omniglot.SPLIT)["train"])
    image, label = data["images"][seen], data["label"][seen]
    matrix = projection(image, config.num_components)
    flat = image.reshape(len(image), -1).astype(np.float32)
    arms = trained_arms(image, label, partitions(flat @ matrix, config), config)
    arms["from scratch"] = from_scratch(config, omniglot.part(data, "valid"))
    neighbor = prototypes(projected(matrix), config.ways, config.num_components)
    arms["nearest neighbor"] = Arm(neighbor, {"embed": {}}, {}, 0, 0.0)
    return arms


def run(config: Config) -> list[report.Record]:
    """Runs all arms and writes a record of each."""
    data = omniglot.load(config.data_dir)
    one_seed = [dataclasses.replace(config, seed=config.seed + i) for i in range(config.seeds)]
    of_seeds = [all_arms(data, each) for each in one_seed]
    test, size = omniglot.part(data, "test"), {"ways": config.ways, "shots": config.shots}
    scenario = f"{config.ways}-way {config.shots}-shot, no labels"
    records = []
    for name in of_seeds[0]:
        arms = [arms[name] for arms in of_seeds]
        judge = lambda arm: functools.partial(
            few_shot.accuracies,
            arm.learner,
            **size,
            queries=config.shots,
            num_tasks=config.test_tasks,
        )
        settings = (
            arms[0].settings if len(arms) == 1 else {str(i): a.settings for i, a in enumerate(arms)}
        )
        sizes = (config.ways, config.shots, config.test_tasks)
        slug = name.lower().replace(", ", "-").replace(" ", "-")
        file = f"omniglot-unsupervised-{config.ways}w{config.shots}s-{slug}"
        opened = few_shot.opened_for(config, file, settings, test, *sizes)
        scores = [np.asarray(jax.jit(judge(a))(a.params, test, jax.random.key(2))) for a in arms]
        seconds = sum(arm.seconds for arm in arms)
        extra = {"schedule": {"num_steps": arms[0].num_steps}}
        arm = report.Arm(name, settings=settings)
        record = few_shot.record_of(
            scenario, arm, config, seconds, np.stack(scores), opened, extra=extra
        )
        report.write(config.output.folder("unsupervised"), file, record, config.output.publish)
        records.append(record)
    return records


def main(config: Config) -> None:
    """Runs the arms, or reads their records, and prints the table."""
    if config.output.from_records:
        pattern = "omniglot-unsupervised-*"
        records = list(few_shot.stored("unsupervised", pattern).values())
    else:
        records = run(config)
    few_shot.show("Omniglot without labels, accuracy in per cent [95 % interval]", records)
    few_shot.plot(records, config.output.folder("unsupervised") / "omniglot-unsupervised.png")


if __name__ == "__main__":
    benchmark.cli(main, Config)
