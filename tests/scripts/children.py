"""Fits in child processes: `python -m tests.scripts.children STRATEGY`. Prints what the calling process then knows."""

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory, read_states
from tests.helpers import Tiny, ones, quiet

EXITS = Path(tempfile.gettempdir()) / "exits"


class CallbackSetGuard(CallbackSet):
    """Stops after an epoch, or in the one behind it fails or is killed."""

    is_killed = False

    def __init__(self, epoch: int, fails: bool) -> None:
        self.epoch, self.fails = epoch, fails

    def on_epoch_end(self) -> None:
        if self.ctx.epoch == self.epoch and not self.fails:
            self.ctx.terminate = True

    def on_batch_end(self) -> None:
        if self.fails and self.ctx.epoch > self.epoch:
            if self.is_killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("boom")

    def on_exit(self) -> None:
        with EXITS.open("a") as file:
            file.write(str(self.ctx.trainer.global_rank))

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.ctx.network.weight.detach()}


class FailsAfterTraining(L.Callback):
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            raise RuntimeError("too late")


def fit(adapter: CallbackSetAdapter, strategy: str, *natives: L.Callback) -> L.Trainer:
    how: Any = DDPStrategy(start_method="forkserver") if strategy == "forkserver" else strategy
    trainer = quiet(callbacks=[*natives, adapter], devices=2, strategy=how, use_distributed_sampler=False, max_epochs=5)
    trainer.fit(Tiny(nn.Linear(2, 1)), ones(2), ones(1))
    return trainer


def show(adapter: CallbackSetAdapter) -> None:
    epochs, weight = adapter.states["history"]["epoch"], adapter.states["guard"]["weight"]
    files = list(Path(tempfile.gettempdir()).glob("callbacksets-*"))
    row = {"epochs": epochs, "weight": list(weight.shape), "stopped_by": str(adapter.stopped_by), "files": len(files)}
    row |= {"exits": sorted(EXITS.read_text()), "how": repr(adapter).split()[1]}
    print(json.dumps(row), flush=True)
    EXITS.unlink()


def main(strategy: str) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_forkserver_preload(["callbacksets"])  # imported once, and not in every child
    guard = CallbackSetGuard(2, fails=False)
    adapter = CallbackSetAdapter({"history": CallbackSetHistory(), "guard": guard})
    trainer = fit(adapter, strategy)
    path = Path(tempfile.gettempdir()) / "saved.ckpt"
    trainer.save_checkpoint(path)  # before anybody has asked for the states
    print(json.dumps(read_states(path)["history"]["epoch"]), flush=True)
    show(adapter)
    guard.fails = True
    with pytest.raises(Exception, match="boom"):  # of the launcher's class for what is raised in a child
        fit(adapter, strategy)
    show(adapter)
    if strategy == "ddp_notebook":  # which starts its children quickly
        guard.is_killed = True
        with pytest.raises(Exception, match="SIGKILL"):
            fit(adapter, strategy)
        print(json.dumps(adapter.states), flush=True)
    guard.epoch, guard.fails = 1, False
    with pytest.raises(Exception, match="too late"):
        fit(adapter, strategy, FailsAfterTraining())
    assert "0" in EXITS.read_text()  # what else this fit leaves, nobody asks for


if __name__ == "__main__":
    main(sys.argv[1])
