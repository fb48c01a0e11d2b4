"""Two ranks that log, add and draw otherwise than each other, in one fit and in one that is interrupted and resumed."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from callbacksets import CallbackSet, CallbackSetAdapter, t_clbk
from tests.helpers import Act, Tiny, ones, quiet
from tests.scripts import run as run_and_leave


class Unlike(Tiny):
    """Logs a score on rank zero only, and drops out."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        if self.global_rank == 0:
            self.log("val_zero", 1.0, rank_zero_only=True)


class CallbackSetOwn(CallbackSet):
    """Adds another score on each rank: on rank zero it gets worse, on the other better."""

    def on_valid_end(self) -> None:
        rank = self.ctx.trainer.global_rank
        self.ctx.last_scores_valid["own"] = float(self.ctx.epoch if rank == 0 else -self.ctx.epoch)


def run(ckpt: Path | None, path: Path | None, epochs: int) -> dict[str, Any]:
    rank = int(os.environ.get("LOCAL_RANK", 0))
    torch.manual_seed(rank + (1 if ckpt is None else 99))  # a resumed process has drawn other numbers
    module = Unlike()
    torch.manual_seed(rank + (1 if ckpt is None else 99))
    seen: dict[str, Any] = {"losses": []}

    def see(ctx: Any) -> None:
        seen["measures"] = list(ctx.measures_valid)
        seen["minimize"] = {name: ctx.minimize(name) for name in ctx.measures_valid}
        seen["lr"] = ctx.optimizer.param_groups[0]["lr"]
        seen["published"] = {name: value.item() for name, value in ctx.trainer.callback_metrics.items()}

    def save(ctx: Any) -> None:
        if path is not None:
            ctx.trainer.save_checkpoint(path)

    look = Act(on_epoch_end=see, on_batch_end=lambda ctx: seen["losses"].append(ctx.last_loss))
    look.weight = 2000
    last = Act(on_epoch_end=save)
    last.weight = 3000
    callbacks = {
        "own": CallbackSetOwn(),
        "history": "history",
        "plateau": t_clbk("lr_reduce_on_plateau", monitor="own", mode="min", patience=0, factor=0.5),
        "early_stopping": t_clbk("early_stopping", patience=9, monitor="own", mode="min", restore_best_weights=True),
        "look": look,
        "last": last,
    }
    adapter = CallbackSetAdapter(callbacks)
    strategy = DDPStrategy(process_group_backend="gloo")
    trainer = quiet(callbacks=[adapter], devices=2, strategy=strategy, max_epochs=epochs, use_distributed_sampler=False)
    trainer.fit(module, ones(3), ones(2), ckpt_path=ckpt)
    state = adapter.states["early_stopping"]
    seen["own"] = adapter.states["history"]["valid.own"]
    seen |= {"best": state["best_epochs"], "score": state["best_score"]}
    seen["weights"] = [parameter.tolist() for parameter in module.parameters()]
    return seen


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    whole = run(None, None, 4)
    run(None, folder / "two.ckpt", 2)
    parts = run(folder / "two.ckpt", None, 4)
    rank = os.environ.get("LOCAL_RANK", "0")
    (folder / f"{rank}.json").write_text(json.dumps({"whole": whole, "parts": parts}))


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    run_and_leave(main, Path(sys.argv[1]))
