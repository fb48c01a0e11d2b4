"""Trains on one of two nodes, as torchrun starts it, from the newest checkpoint in a folder on.

`torchrun ... -m tests.scripts.nodes FOLDER [EPOCH]`. With EPOCH, this node's process says in the middle of that epoch
that it waits to be killed, with its id, and goes no further. Each rank draws noise of its own, and
writes how it ends to `FOLDER/<rank>.jsonl`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, TensorDataset

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory, latest_checkpoint, t_clbk
from tests.helpers import Tiny, Writing, quiet
from tests.scripts import run

EPOCHS = 4


class CallbackSetWait(CallbackSet):
    """Waits to be killed."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_batch_end(self) -> None:
        if (self.ctx.epoch, self.ctx.step) == (self.epoch, 2):
            print("waits", os.getpid(), flush=True)
            signal.pause()


class CallbackSetReport(Writing):
    """The last words of a rank."""

    def on_end(self) -> None:
        ctx = self.ctx
        weights = [parameter.flatten().tolist() for parameter in ctx.network.parameters()]
        states = {id: ctx.callbacks[id].state_dict() for id in ("history", "lr")}
        self.write(weights=weights, states=states, resumed=ctx.resumed, drawn=torch.rand(1).item())


class Module(Tiny):
    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch[0] + 0.1 * torch.randn_like(batch[0]))


def main(path: str, epoch: str | None = None) -> None:
    folder = Path(path)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(24, 2))
    module = Module()
    torch.manual_seed(1 + int(os.environ["RANK"]))
    sets: dict[str, Any] = {
        "history": CallbackSetHistory(),
        "lr": t_clbk("lr_step", step_size=2, gamma=0.5),
        "checkpoint": t_clbk("checkpoint", path=folder / "checkpoints", freq=1),
        "report": CallbackSetReport(folder),
    }
    if epoch is not None:
        sets["wait"] = CallbackSetWait(int(epoch))
    trainer = quiet(
        callbacks=[CallbackSetAdapter(sets)],
        num_nodes=2,
        devices=1,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=EPOCHS,
    )
    loader = DataLoader(data, batch_size=4, shuffle=True)
    trainer.fit(module, loader, DataLoader(data, batch_size=4), ckpt_path=latest_checkpoint(folder / "checkpoints"))


if __name__ == "__main__":
    run(main, *sys.argv[1:])
