"""What the fits of the checks train, unless the user gives something else."""

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
"""Makes a module, a loader to train on, and one to validate on."""


def small_classifier() -> tuple[L.LightningModule, Any, Any]:
    """A module, a loader of three batches and one of two for validation: two classes of random points.

    Its last two layers do nothing unless a callback that walks over all modules wakes them: one is frozen, and both are
    in eval mode. The order of the data and the dropout are drawn: a resumed run goes on as the one that was not
    interrupted only if both draw as they did there.
    """
    seed(206)  # with it both validation scores get worse, better and worse again, so that states have something to say
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
    """Goes on in the middle of an epoch, in the order of that epoch, where it was when a checkpoint was written."""

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
