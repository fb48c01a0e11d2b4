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
    return module, DataLoader(train, batch_size=8, shuffle=True), DataLoader(valid, batch_size=8)
