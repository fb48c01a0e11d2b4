"""Fits on two ranks that each hold half of every parameter.

`python -m tests.scripts.sharded FOLDER` fits, and then resumes from the last checkpoint of that. With `--fail` a rank
fails, with `--alone` there is a single one, and nothing is resumed. Every rank writes what it sees as JSON lines to
`FOLDER/first/<rank>.jsonl` and `FOLDER/resumed/<rank>.jsonl`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetEarlyStopping,
    CallbackSetHistory,
    latest_checkpoint,
    t_clbk,
)
from tests.helpers import Tiny, Writing, ones, quiet
from tests.scripts import run


class Sharded(Tiny):
    """Logs a score that rises, so that its first epoch is its best."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)))

    def configure_model(self) -> None:
        if not isinstance(self.network[0].weight, DTensor):
            fully_shard(self.network, mesh=self.device_mesh["data_parallel"])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss(batch)
        self.log("val_score", float(self.current_epoch))


def whole(tensors: Any) -> list[list[float]]:
    return [tensor.full_tensor().flatten().tolist() for tensor in tensors]


def parts(ctx: Any) -> list[Any]:
    return list(ctx.network.state_dict().values())  # not its parameters, which are whole ones after a forward call


class CallbackSetSee(Writing):
    """Writes down what a rank sees."""

    def __init__(self, folder: Path, fails: bool) -> None:
        super().__init__(folder)
        self.fails = fails

    def on_after_backward(self) -> None:
        grads = whole(parameter.grad for parameter in self.ctx.network.parameters())
        self.write(stage="after_backward", y_hat=list(self.ctx.y_hat.shape), grads=grads)

    def on_epoch_end(self) -> None:
        scores = {"train": dict(self.ctx.last_scores_train), "valid": dict(self.ctx.last_scores_valid)}
        self.write(stage="epoch_end", epoch=self.ctx.epoch, weights=whole(parts(self.ctx)), **scores)
        if self.fails and self.ctx.epoch == 2 and self.ctx.trainer.global_rank == 1:
            raise RuntimeError("boom")


class CallbackSetReport(CallbackSet):
    """What the network is in the end, after early stopping has restored it."""

    weight = float("inf")

    def __init__(self, see: CallbackSetSee) -> None:
        self.see = see

    def on_exit(self) -> None:
        held = [part.to_local().flatten().tolist() for part in parts(self.ctx)]  # no other rank need be there
        self.see.write(stage="exit", held=held, weights=None if self.see.fails else whole(parts(self.ctx)))


def fit(folder: Path, ranks: int = 2, fails: bool = False, checkpoint: Path | None = None) -> None:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    see = CallbackSetSee(folder, fails)
    sets = {
        "see": see,
        "history": CallbackSetHistory(),
        "early_stopping": CallbackSetEarlyStopping(5, restore_best_weights=True, monitor="score", mode="min"),
        "checkpoint": t_clbk("checkpoint", path=folder / "checkpoints", freq=1),
        "report": CallbackSetReport(see),
    }
    trainer = quiet(
        callbacks=[CallbackSetAdapter(sets)],
        devices=ranks,
        strategy=ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1, process_group_backend="gloo"),
        use_distributed_sampler=False,
        max_epochs=2 if checkpoint is None else 3,
    )
    trainer.fit(Sharded(), ones(2), ones(1), ckpt_path=checkpoint)


def main(path: str, option: str | None = None) -> None:
    folder = Path(path)
    torch.set_num_threads(1)
    # It kills rank zero within five seconds of the end of another, whatever rank zero is doing
    subprocess_script._launch_process_observer = lambda processes: None
    fit(folder / "first", ranks=1 if option == "--alone" else 2, fails=option == "--fail")
    if option is None:
        fit(folder / "resumed", checkpoint=latest_checkpoint(folder / "first" / "checkpoints"))


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    run(main, *sys.argv[1:])
