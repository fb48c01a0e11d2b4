"""The module and the data of the checks, unless the user gives others."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from callbacksets.supervised import SupervisedModule
from callbacksets.testing.conditions import seed

Training = Callable[[], tuple[L.LightningModule, Any, Any]]
"""A function that makes a module, a training loader and a validation loader."""


def small_classifier() -> tuple[L.LightningModule, Any, Any]:
    """A classifier of two classes of random points, a loader of three batches and a validation loader of two.

    Its last two layers have no effect unless a callback sets the modes of all modules: one is frozen, and both are in
    eval mode. The order of the data and the dropout are random. So a resumed run equals the uninterrupted one only if
    it draws the same random numbers.
    """
    seed(206)  # with this seed both validation scores get worse, better and worse again, so that states change
    frozen, asleep = nn.PReLU(init=1.0).requires_grad_(False), nn.Dropout(0.5)
    drop = nn.Sequential(nn.ReLU(), nn.Dropout(0.2))
    network = nn.Sequential(nn.Linear(4, 4), drop, nn.Linear(4, 2), frozen.eval(), asleep.eval())
    module = SupervisedModule(
        network,
        nn.CrossEntropyLoss(),
        partial(torch.optim.SGD, lr=0.5, momentum=0.9),
        measures_train={"acc": MulticlassAccuracy(2)},
        measures_valid={"acc": MulticlassAccuracy(2)},
    )
    x = torch.randn(40, 4)
    y = (x[:, 0] + torch.randn(40) > 0).long()
    train, valid = TensorDataset(x[:24], y[:24]), TensorDataset(x[24:], y[24:])
    return module, _Continued(train, batch_size=8, shuffle=True), DataLoader(valid, batch_size=8)


class _Continued(DataLoader[Any]):
    """A loader that continues inside an epoch, in its order, at the batch at which a checkpoint was written."""

    _done = 0
    _drawn_from: torch.Tensor  # the random state from which the order of this epoch was drawn
    _given: dict[str, Any] | None = None

    def __iter__(self) -> Any:
        given, self._given = self._given, None
        now = torch.get_rng_state()
        self._drawn_from = given["drawn_from"] if given else now
        torch.set_rng_state(self._drawn_from)
        batches = list(super().__iter__())
        if given:
            torch.set_rng_state(now)
        for self._done, batch in enumerate(batches, start=1):
            if not given or self._done > given["done"]:
                yield batch

    def state_dict(self) -> dict[str, Any]:
        is_inside = self._done % len(self) > 0
        return {"done": self._done, "drawn_from": self._drawn_from} if is_inside else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._given = state_dict or None
