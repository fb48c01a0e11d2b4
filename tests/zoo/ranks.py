"""Callbacks that two ranks break."""

from pathlib import Path
from typing import Any

import torch

from callbacksets import CallbackSet
from tests.zoo.entry import Entry


class CallbackSetPrints(CallbackSet):
    def on_epoch_end(self) -> None:
        print(f"epoch {self.ctx.epoch} is done")


class CallbackSetWrites(CallbackSet):
    def on_end(self) -> None:
        torch.save({"epochs": self.ctx.epoch}, "epochs.pt")


class CallbackSetDecidesAlone(CallbackSet):
    """Takes a rate from the loss, which is another on each rank."""

    def on_epoch_end(self) -> None:
        self.ctx.optimizer.param_groups[0]["lr"] = self.ctx.last_loss / 10


class CallbackSetWaitsInExit(CallbackSet):
    def on_exit(self) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()


class CallbackSetGood(CallbackSet):
    """Sound: prints and writes on rank zero, decides together, and waits for nobody in exit."""

    def on_epoch_end(self) -> None:
        if self.ctx.trainer.is_global_zero:
            print(f"epoch {self.ctx.epoch} is done")
        rate: Any = self.ctx.trainer.strategy.broadcast(self.ctx.last_loss / 10)
        self.ctx.optimizer.param_groups[0]["lr"] = rate

    def on_end(self) -> None:
        if self.ctx.trainer.is_global_zero:
            Path("epochs").write_text(str(self.ctx.epoch))


RANKS = [
    Entry(CallbackSetPrints, "ranks", r"prints on rank one too: 'epoch 1 is done.*is_global_zero", CallbackSetGood),
    Entry(CallbackSetWrites, "ranks", "writes files on rank one too: 'epochs.pt'", CallbackSetGood),
    Entry(
        CallbackSetDecidesAlone,
        "ranks",
        r"Rank one differs from rank zero, first in on_epoch_end of epoch 1, the optimizer: .*\['lr'\]",
        CallbackSetGood,
    ),
    Entry(CallbackSetWaitsInExit, "ranks", "on_exit calls barrier.*may be gone", CallbackSetGood),
]
