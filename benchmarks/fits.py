"""Modules, data and Trainers that several benchmarks use."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from callbacksets import CallbackSet, CallbackSetAdapter, SupervisedModule
from callbacksets.testing.bench import QUIET

clock = time.thread_time
"""Seconds of computing, without those in which others had the core; all that is timed so runs in one thread."""


class Nothing(CallbackSet):
    """Does nothing in every stage of a batch."""

    def on_batch_begin(self) -> None: ...

    def on_after_backward(self) -> None: ...

    def on_batch_end(self) -> None: ...


class Tiny(L.LightningModule):
    """As little as a module can do in a batch, so that all that is added shows."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(2, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.network(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Batches:
    """A loader of batches that lie ready."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Ticking(Batches):
    """One that notes when each batch is asked for."""

    def __init__(self, batches: list[Any]) -> None:
        super().__init__(batches)
        self.ticks: list[list[float]] = []

    def __iter__(self) -> Iterator[Any]:
        ticks: list[float] = []
        self.ticks.append(ticks)
        for batch in self.batches:
            ticks.append(clock())
            yield batch

    @property
    def per_batch(self) -> float:
        """The median time from one batch to the next in an epoch, without the epochs' begin and end."""
        return statistics.median(
            later - earlier for ticks in self.ticks for earlier, later in itertools.pairwise(ticks)
        )


def quiet(**kwargs: Any) -> L.Trainer:
    """A Trainer that prints and writes nothing, on the CPU unless told otherwise."""
    return L.Trainer(**{**QUIET, **kwargs})


def nothings(n: int) -> dict[str, CallbackSet]:
    return {f"nothing_{i}": Nothing() for i in range(n)}


def adapter(n: int) -> list[L.Callback]:
    """An adapter with `n` CallbackSets that do nothing."""
    return [CallbackSetAdapter(nothings(n))]


def seconds_per_batch(module: L.LightningModule, batches: list[Any], epochs: int, callbacks: list[Any]) -> float:
    loader = Ticking(batches)
    quiet(max_epochs=epochs, callbacks=callbacks).fit(module, loader)
    return loader.per_batch


def digits(batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """The handwritten digits of scikit-learn in batches."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    whole = len(labels) // batch_size * batch_size
    return list(zip(images[:whole].split(batch_size), labels[:whole].split(batch_size), strict=True))


def small_convolutional() -> SupervisedModule:
    """A small convolutional network for the digits."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    return SupervisedModule(network, nn.CrossEntropyLoss(), adam)


def small_perceptron() -> nn.Module:
    """A network so small that what surrounds it shows."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def timed(function: Callable[[], Any], times: int = 1, clock: Callable[[], float] = clock) -> float:
    """Seconds per call."""
    start = clock()
    for _ in range(times):
        function()
    return (clock() - start) / times
