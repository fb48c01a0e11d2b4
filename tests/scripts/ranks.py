"""Fits on two ranks, one after the other: `python -m tests.scripts.ranks STRATEGY FOLDER SCENARIO...`.

Every rank writes what it sees as JSON lines to `FOLDER/SCENARIO/<rank>.jsonl`. The name of a scenario ends with the
rank that acts, where one does: `terminate.batch_end.1`. One in which a rank raises must be the last: the ranks are no
longer connected then.
"""

import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from torch.nn.functional import linear
from torchmetrics import MeanMetric

from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetCheckpoint,
    CallbackSetEarlyStopping,
    CallbackSetHistory,
    CallbackSetProgress,
    t_clbk,
)
from callbacksets.base import STAGES
from tests.helpers import Act, Endless, Tiny, Writing, ones, quiet
from tests.scripts import run


class Unlike(Tiny):
    """Has other data on each rank, and scores that rise on one and fall on the other."""

    def __init__(self, sync_dist: bool = False) -> None:
        super().__init__()
        self.sync_dist = sync_dist
        self.mean = MeanMetric()

    def loss(self, batch: Any) -> torch.Tensor:
        return self.network(batch * (1 + self.global_rank)).pow(2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_rank", float(self.global_rank), on_step=False, on_epoch=True, sync_dist=self.sync_dist)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss(batch)
        score = float((self.current_epoch - 1) ** 2)  # falls once, then rises
        self.log("val_score", score if self.global_rank == 0 else -10.0 * self.current_epoch, sync_dist=self.sync_dist)
        self.mean(float(self.global_rank))
        self.log("val_metric", self.mean)  # a Metric computes over all ranks anyway


class Itself(Unlike):
    """The module itself is the network, so that the wrapper's call and its own go through the same hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = self.network
        del self.network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)

    def loss(self, batch: Any) -> torch.Tensor:
        return self(batch * (1 + self.global_rank)).pow(2).mean()


def weights(ctx: Any) -> list[list[float]]:
    return [parameter.flatten().tolist() for parameter in ctx.learner.parameters()]


class CallbackSetSee(Writing):
    """Writes down what a rank sees."""

    weight = 2000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for stage in STAGES:
            setattr(self, stage, partial(self.see, stage.removeprefix("on_")))

    def see(self, stage: str) -> None:
        ctx = self.ctx
        row: dict[str, Any] = {"stage": stage, "epoch": ctx.epoch, "terminate": ctx.terminate}
        if stage in ("after_backward", "batch_end", "batch_valid_end"):
            row |= {"y_hat": ctx.y_hat.flatten().tolist(), "shape": list(ctx.y_hat.shape), "loss": ctx.last_loss}
        if stage == "after_backward":
            rank = ctx.trainer.global_rank
            row["expected"] = linear(ctx.batch * (1 + rank), *ctx.learner.parameters()).flatten().tolist()
            row["grad"] = [parameter.grad.flatten().tolist() for parameter in ctx.learner.parameters()]
        if stage == "epoch_end":
            row |= {"train": dict(ctx.last_scores_train), "valid": dict(ctx.last_scores_valid)}
            row |= {"weights": weights(ctx), "lr": ctx.optimizer.param_groups[0]["lr"]}
        self.write(**row)


class CallbackSetReport(CallbackSet):
    """The last words of a rank: states and weights."""

    weight = float("inf")

    def __init__(self, see: CallbackSetSee) -> None:
        self.see = see

    def on_exit(self) -> None:
        states = {
            id: callback.state_dict()
            for id, callback in self.ctx.callbacks.items()
            if id in ("history", "early_stopping")
        }
        states.get("early_stopping", {}).pop("best_weights", None)
        self.see.write(stage="report", states=states, weights=weights(self.ctx))


def act(action: str, rank: int, ctx: Any) -> None:
    if ctx.trainer.global_rank != rank or (ctx.global_step != 3 if action == "endless" else ctx.epoch not in (0, 2)):
        return
    if action == "raise":
        raise ZeroDivisionError("boom")
    if action == "interrupt":
        raise KeyboardInterrupt
    ctx.terminate = True


def fit(scenario: str, strategy: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    name, *rest = scenario.split(".")
    module: Tiny = Itself() if name == "itself" else Unlike(sync_dist=name == "synced")
    see = CallbackSetSee(folder)
    sets: dict[str, Any] = {"see": see, "history": CallbackSetHistory(), "report": CallbackSetReport(see)}
    kwargs: dict[str, Any] = {"max_epochs": 3}
    if name in ("terminate", "raise", "interrupt", "endless"):
        stage, rank = rest
        sets["act"] = Act(**{f"on_{stage}": partial(act, name, int(rank))})
    if name in ("unsynced", "synced"):
        sets["early_stopping"] = CallbackSetEarlyStopping(
            patience=2, restore_best_weights=True, monitor="score", mode="min"
        )
        sets["plateau"] = t_clbk("lr_reduce_on_plateau", monitor="score", mode="min", patience=0)
        kwargs["max_epochs"] = 9
    if name == "written":
        sets |= {"progress": CallbackSetProgress(), "checkpoint": CallbackSetCheckpoint(folder / "checkpoints", freq=2)}
        sets["tb"] = t_clbk("tb", path=folder / "tb")
        del sets["report"]  # after the checkpoint, it would not be saved
    loader: Any = ones(2)
    if name == "endless":
        loader = Endless()
        kwargs = {"max_epochs": None, "max_steps": 20, "val_check_interval": 2}
    trainer = quiet(
        callbacks=[CallbackSetAdapter(sets, terminate_at="validation" if name == "endless" else "epoch")],
        devices=2,
        strategy=DDPStrategy(
            process_group_backend="gloo", start_method={"ddp": "popen", "ddp_spawn": "spawn"}[strategy]
        ),
        use_distributed_sampler=False,
        **kwargs,
    )
    trainer.fit(module, loader, ones(2))


def main(strategy: str, folder: str, *scenarios: str) -> None:
    torch.set_num_threads(1)
    # Lightning advises sync_dist=True, which is what these scenarios are about
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
    # Lightning's observer kills rank zero within five seconds of the end of another, whatever rank zero is doing. A
    # busy machine may need longer for its `exit`, which comes before
    subprocess_script._launch_process_observer = lambda processes: None
    for scenario in scenarios:
        fit(scenario, strategy, Path(folder) / scenario)


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    run(main, *sys.argv[1:])
