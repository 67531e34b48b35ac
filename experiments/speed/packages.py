"""The workloads by packages for meta-learning in PyTorch, as their own examples use them.

A loop over tasks with the package's differentiable copy and its inner step; networks and losses are
those of `peers`. learn2learn: ``MAML(net, rate)``, a clone a task, ``clone.adapt(loss)``. TorchOpt:
``MetaSGD(net, rate)``, its step, and the network put back after each task.

``pip install torchopt`` installs. learn2learn 0.2.0 does not build on Python 3.11 (the header
``longintrepr.h`` is gone); its MAML needs no build: put ``learn2learn/`` of its source archive on
PYTHONPATH, with an ``__init__.py`` that imports ``algorithms`` and ``utils`` alone.
"""

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import peers


class Net(nn.Module):
    """The network of a workload as a module whose parameters are those that adapt."""

    def __init__(self, apply: Callable, weights: peers.Flat, fast: list[str]):
        super().__init__()
        self.apply_ = apply
        self.fast = nn.ParameterDict({path: nn.Parameter(weights[path]) for path in fast})

    def forward(self, rest: peers.Flat, inputs: Tensor) -> Tensor:
        return self.apply_({**rest, **dict(self.fast.items())}, inputs)


class Package(peers.Peer):
    """The outer loop that both packages share: the mean of the query losses, one backward pass."""

    def __init__(self, name: str, num_steps: int, second_order: bool):
        super().__init__(name, num_steps, second_order)
        self.workload, adapts, self.rate, self.num_steps, self.second = self.how
        fast = [path for path in self.weights if adapts(path)]
        weights = {path: w.detach() for path, w in self.weights.items()}
        self.net = Net(self.workload.network, weights, fast)
        own = {path: w for path, w in self.weights.items() if path not in fast}
        self.rest = own
        learned = [self.net.fast[p] if p in fast else own[p] for p in self.learned]
        self.leaves: list[Tensor] = learned
        self.adam = torch.optim.Adam(learned, lr=1e-3)

    def score(self, net: Any, part: tuple) -> Tensor:
        """The loss of a network on a support or query."""
        inputs, label, mask = part
        return self.workload.loss(net(self.rest, inputs), label, mask)

    @abc.abstractmethod
    def task(self, support: tuple, query: tuple) -> Tensor:
        """The query loss of one task after its inner steps; the graph leads to the leaves."""

    def gradients(self) -> tuple[list[Tensor], Tensor]:
        support, query = self.data
        num_tasks, total = len(support[1]), torch.zeros(())
        self.adam.zero_grad()
        for t in range(num_tasks):
            pick = lambda part, t=t: self.workload.ready(self.rest, tuple(x[t] for x in part))
            loss = self.task(pick(support), pick(query)) / num_tasks
            loss.backward()
            total = total + loss.detach()
        return [torch.zeros_like(x) if x.grad is None else x.grad for x in self.leaves], total

    def step(self) -> float:
        _, loss = self.gradients()
        self.adam.step()
        return float(loss)


class Learn2Learn(Package):
    """learn2learn's ``algorithms.MAML``."""

    def __init__(self, *how: Any):
        super().__init__(*how)
        from learn2learn.algorithms import MAML  # pyright: ignore[reportMissingImports]

        self.maml = MAML(self.net, lr=self.rate, first_order=not self.second)

    def task(self, support: tuple, query: tuple) -> Tensor:
        clone = self.maml.clone()
        for _ in range(self.num_steps):
            clone.adapt(self.score(clone, support))
        return self.score(clone, query)


class TorchOpt(Package):
    """TorchOpt's ``MetaSGD``; it has no first order."""

    def __init__(self, *how: Any):
        super().__init__(*how)
        import torchopt  # pyright: ignore[reportMissingImports]

        self.package = torchopt
        self.inner = torchopt.MetaSGD(self.net, lr=self.rate)

    def task(self, support: tuple, query: tuple) -> Tensor:
        both = (self.net, self.inner)
        before = [self.package.extract_state_dict(x, by="reference") for x in both]
        for _ in range(self.num_steps):
            self.inner.step(self.score(self.net, support))
        loss = self.score(self.net, query)
        for x, state in zip(both, before, strict=True):
            self.package.recover_state_dict(x, state)
        return loss


LEARNERS: dict[str, type[Package]] = {"learn2learn": Learn2Learn, "torchopt": TorchOpt}
"""Package -> its MAML."""
