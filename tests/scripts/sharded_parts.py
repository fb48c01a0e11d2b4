"""A fit on two ranks that each hold half of every parameter, of which more and more are trained.

Run it by `python -m tests.scripts.sharded_parts FOLDER`. Every rank writes what it sees as JSON lines to
`FOLDER/<rank>.jsonl`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from callbacksets import CallbackSetAdapter, CallbackSetUnfreeze, select_name, t_clbk
from tests.helpers import Tiny, Writing, ones, quiet
from tests.scripts import run

EPOCHS = 4


class Deep(Tiny):
    """The whole network is sharded, and a part of it by itself."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2), nn.Linear(2, 1)))

    def configure_model(self) -> None:
        if self._trainer is not None and hasattr(self.trainer.strategy, "device_mesh"):
            mesh = self.device_mesh["data_parallel"]
            for part in (self.network[1], self.network):
                if not isinstance(next(part.parameters()), DTensor):
                    fully_shard(part, mesh=mesh)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, weight_decay=0)


class CallbackSetSee(Writing):
    """Writes down the weights at the end of every epoch."""

    def on_epoch_end(self) -> None:
        state = self.ctx.network.state_dict().items()
        weights = {name: getattr(value, "full_tensor", value.clone)().flatten().tolist() for name, value in state}
        self.write(epoch=self.ctx.epoch, weights=weights, scores=dict(self.ctx.last_scores_train))


def callbacks(folder: Path) -> list[Any]:
    rows = [{"batch": 3, "weights": select_name("1.bias")}, {"batch": 6, "weights": select_name("0.weight")}]
    return [CallbackSetUnfreeze(select_name("2.weight"), rows), t_clbk("grad_norm"), CallbackSetSee(folder)]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = quiet(
        callbacks=[CallbackSetAdapter(callbacks(folder))],
        devices=2,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo"),
        use_distributed_sampler=False,
        max_epochs=EPOCHS,
    )
    trainer.fit(Deep(), ones(2), ones(1))


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    run(main, Path(sys.argv[1]))
