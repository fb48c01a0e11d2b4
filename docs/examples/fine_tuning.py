"""Fine-tune a trained network: first its new head, later all of it with a smaller rate.

`unfreeze` trains the head alone in the first two epochs. The callback here then lowers
the learning rate. Both survive an interruption: their states are in every checkpoint.
"""

from collections import OrderedDict

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    SupervisedModule,
    select_all,
    select_grep,
    t_clbk,
)


class CallbackSetLowerRate(CallbackSet):
    """Multiplies the learning rate by a factor in one epoch."""

    def __init__(self, epoch, factor):
        self.epoch, self.factor = epoch, factor

    def on_epoch_begin(self):
        if self.ctx.epoch == self.epoch:
            for group in self.ctx.optimizer.param_groups:
                group["lr"] *= self.factor


def loaders(limit):
    """Inside or outside of a circle."""
    x = torch.randn(400, 2)
    data = TensorDataset(x, (x.norm(dim=1) > limit).long())
    return DataLoader(data, batch_size=50, shuffle=True), DataLoader(
        data, batch_size=200
    )


def fit(network, callbacks, limit):
    module = SupervisedModule(
        network,
        nn.CrossEntropyLoss(),
        lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    )
    adapter = CallbackSetAdapter(callbacks)
    trainer = L.Trainer(
        max_epochs=6,
        callbacks=[adapter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, *loaders(limit))
    return adapter.states


torch.manual_seed(1)
body = nn.Sequential(nn.Linear(2, 32), nn.ReLU())
fit(nn.Sequential(body, nn.Linear(32, 2)), "history", limit=1.2)

tuned = nn.Sequential(OrderedDict(body=body, head=nn.Linear(32, 2)))
unfreeze = t_clbk(
    "unfreeze",
    starting_weights=select_grep("^head"),
    unfreeze=[{"epoch": 3, "weights": select_all()}],
)
callbacks = [
    unfreeze,
    CallbackSetLowerRate(epoch=3, factor=0.1),
    "lr_monitor",
    "history",
]
states = fit(tuned, callbacks, limit=1.0)
print(states["unfreeze"]["trainable"])
print(states["history"]["train.lr"])
print(states["history"]["valid.loss"])
