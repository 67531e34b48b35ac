"""The workloads in PyTorch: `torch.func` eager and compiled, and a loop over tasks.

The loop does what learn2learn's MAML does (a differentiable copy, inner steps by `autograd.grad`,
one backward pass a task), without that package's modules. In W3 all of them look features up once a
task. Batch statistics are written by hand: mapped over `F.batch_norm`, `torch.func` gives a wrong
second-order gradient.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import problems

Flat = dict[str, Tensor]
"""Path -> weight."""


def here(x: np.ndarray) -> Tensor:
    """The array as a tensor on the default device."""
    return torch.from_numpy(np.ascontiguousarray(x)).to(torch.get_default_device())


def flatten(weights: problems.Weights, before: str = "") -> Flat:
    """The weights by path, the keys joined by slashes."""
    found: Flat = {}
    for name, value in weights.items():
        path = f"{before}{name}"
        nested = isinstance(value, dict)
        found |= flatten(value, path + "/") if nested else {path: here(value.copy())}
    return found


def perceptron(p: Flat, x: Tensor) -> Tensor:
    for i in range(sum(path.startswith("body/") for path in p) // 2):
        x = torch.relu(x @ p[f"body/{i}/kernel"] + p[f"body/{i}/bias"])
    return (x @ p["head/kernel"] + p["head/bias"])[:, 0]


def look_up(p: Flat, index: Tensor) -> Tensor:
    rows = [p[f"tables/{name}"][index[..., i]] for i, name in enumerate(problems.TABLES)]
    return torch.cat(rows, -1)


def conv4(p: Flat, x: Tensor) -> Tensor:
    x = x.permute(0, 3, 1, 2)
    for i in range(4):
        before = x.shape[-1] % 2
        x = F.pad(x, (before, 1, before, 1))
        x = F.conv2d(x, p[f"body/{i}/kernel"].permute(3, 2, 0, 1), stride=2)
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + 1e-3)
        x = torch.relu(x + p[f"body/{i}/offset"][:, None, None])
    return x.mean((2, 3)) @ p["head/kernel"] + p["head/bias"]


def _normal(p: Flat, path: str, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt((centered**2).mean(-1, keepdim=True) + 1e-5)
    return centered * scale * p[f"{path}/scale"] + p[f"{path}/shift"]


def _attention(p: Flat, path: str, x: Tensor, causal: Tensor) -> Tensor:
    n, length, width = x.shape
    low = lambda name: x @ p[f"{path}/lora/{name}/a"] @ p[f"{path}/lora/{name}/b"]
    heads = lambda y: y.reshape(n, length, problems.HEADS, -1).transpose(1, 2)
    query = x @ p[f"{path}/query"] + low("query")
    value = x @ p[f"{path}/value"] + low("value")
    scores = heads(query) @ heads(x @ p[f"{path}/key"]).transpose(-1, -2)
    scores = scores * (width // problems.HEADS) ** -0.5
    weight = torch.softmax(torch.where(causal, scores, -1e9), -1)
    return (weight @ heads(value)).transpose(1, 2).reshape(n, length, width) @ p[f"{path}/out"]


def transformer(p: Flat, items: Tensor) -> Tensor:
    x = p["items"][items] + p["places"]
    causal = torch.tril(torch.ones(problems.LENGTH, problems.LENGTH, dtype=torch.bool))
    for i in range(problems.LAYERS):
        path = f"layers/{i}"
        x = x + _attention(p, path, _normal(p, f"{path}/before", x), causal)
        hidden = torch.relu(_normal(p, f"{path}/between", x) @ p[f"{path}/up"])
        x = x + hidden @ p[f"{path}/down"]
    last = _normal(p, "after", x)[:, -1]
    return (last @ p["head/kernel"] + p["head/bias"]) @ p["items"].T


def narrowed(apply: Callable[[Flat, Tensor], Tensor]) -> Callable[[Flat, Tensor], Tensor]:
    """The network with bfloat16 activations, float32 weights and scores."""
    low = lambda x: x.bfloat16() if x.is_floating_point() else x
    return lambda p, x: apply({path: low(w) for path, w in p.items()}, low(x)).float()


def _squared(score: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    return (((score - label) ** 2) * mask).sum() / mask.sum()


def _entropy(score: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    chosen = torch.log_softmax(score, -1).gather(-1, label[:, None])[:, 0]
    return -(chosen * mask).sum() / mask.sum()


def _as_they_are(p: Flat, inputs: Tensor) -> Tensor:
    del p
    return inputs


class Workload(NamedTuple):
    """A workload in PyTorch; its numbers are those of its name in `problems.PROBLEMS`.

    Attributes:
      network: (weights, inputs) -> scores.
      loss: of scores, labels and mask, in support and query.
      features: (weights, inputs) -> the inputs of the network, found once a task.
    """

    network: Callable[[Flat, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    features: Callable[[Flat, Tensor], Tensor] = _as_they_are

    def ready(self, p: Flat, part: tuple) -> tuple:
        """A support or query with the inputs of the network."""
        return (self.features(p, part[0]), *part[1:])


_characters, _sequences = Workload(conv4, _entropy), Workload(transformer, _entropy)

WORKLOADS: dict[str, Workload] = {
    "W1": Workload(perceptron, _squared),
    "W2": _characters,
    "W2q15": _characters,
    "W3": Workload(perceptron, _squared, look_up),
    "W4": _sequences,
    "W4h": _sequences,
}
"""Name -> the workload."""


def _task(
    workload: Workload,
    adapts: Callable,
    rate: float,
    num_steps: int,
    second: bool,
    inner: Callable,
    narrow: bool = False,
) -> Callable[[Flat, tuple, tuple], Tensor]:
    """(weights, support, query) -> the outer loss of one task."""
    apply = narrowed(workload.network) if narrow else workload.network

    def task(p: Flat, support: tuple, query: tuple) -> Tensor:
        fast = {path: value for path, value in p.items() if adapts(path)}
        support, query = workload.ready(p, support), workload.ready(p, query)
        score = lambda fast, part: workload.loss(apply({**p, **fast}, part[0]), part[1], part[2])
        for _ in range(num_steps):
            grads = inner(lambda fast, part=support: score(fast, part), fast, second)
            fast = {path: fast[path] - rate * grads[path] for path in fast}
        return score(fast, query)

    return task


def _functional(score: Callable, fast: Flat, second: bool) -> Flat:
    grads = torch.func.grad(score)(fast)
    return grads if second else {path: g.detach() for path, g in grads.items()}


def _by_tape(score: Callable, fast: Flat, second: bool) -> Flat:
    grads = torch.autograd.grad(score(fast), list(fast.values()), create_graph=second)
    return dict(zip(fast, grads, strict=True))


class Peer(abc.ABC):
    """A training in PyTorch: ``step()`` makes an outer step and returns its loss."""

    def __init__(self, name: str, num_steps: int, second_order: bool, num_tasks: int | None = None):
        problem = problems.make(name, num_tasks)
        self.weights = flatten(problem.weights)
        self.learned = [path for path in self.weights if problem.learned(path)]
        for path in self.learned:
            self.weights[path].requires_grad_()
        self.adam = torch.optim.Adam([self.weights[p] for p in self.learned], lr=1e-3)
        longs = lambda x: x.long() if x.dtype in (torch.int32, torch.int64) else x
        self.data = [tuple(longs(here(x)) for x in p) for p in (problem.support, problem.query)]
        self.how = (WORKLOADS[name], problem.adapts, problem.rate, num_steps, second_order)

    @abc.abstractmethod
    def gradients(self) -> tuple[list[Tensor], Tensor]:
        """The gradients of the learned weights, in their order, and the loss."""

    def advance(self) -> Tensor:
        """An outer step, which a card may still be at when its loss is returned."""
        grads, loss = self.gradients()
        for path, grad in zip(self.learned, grads, strict=True):
            self.weights[path].grad = grad
        self.adam.step()
        return loss

    def step(self) -> float:
        """An outer step and its loss."""
        return float(self.advance())


class Mapped(Peer):
    """`torch.func`: the gradient of the mean of a mapped task, eager or compiled."""

    def __init__(self, *how: Any, compiled: bool = False, narrow: bool = False):
        super().__init__(*how)
        task = _task(*self.how, inner=_functional, narrow=narrow)

        def mean(learned: Flat, frozen: Flat, support: tuple, query: tuple) -> Tensor:
            one = lambda support, query: task({**frozen, **learned}, support, query)
            return torch.func.vmap(one)(support, query).mean()

        pull = torch.func.grad_and_value(mean)
        self.pull = torch.compile(pull) if compiled else pull

    def gradients(self) -> tuple[list[Tensor], Tensor]:
        learned = {path: self.weights[path].detach() for path in self.learned}
        frozen = {path: w for path, w in self.weights.items() if path not in learned}
        grads, loss = self.pull(learned, frozen, *self.data)
        return [grads[path] for path in self.learned], loss


class Loop(Peer):
    """One task after the other, each with its own backward pass."""

    def __init__(self, *how: Any, narrow: bool = False):
        super().__init__(*how)
        self.narrow = narrow

    def gradients(self) -> tuple[list[Tensor], Tensor]:
        task = _task(*self.how, inner=_by_tape, narrow=self.narrow)
        support, query = self.data
        leaves, num_tasks = [self.weights[p] for p in self.learned], len(support[1])
        for leaf in leaves:
            leaf.grad = None
        total = torch.zeros(())
        for t in range(num_tasks):
            pick = lambda part, t=t: tuple(x[t] for x in part)
            loss = task(self.weights, pick(support), pick(query)) / num_tasks
            loss.backward()
            total = total + loss.detach()
        zero = lambda leaf: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return [zero(leaf) for leaf in leaves], total
