"""Reading fields of ctx.

Every field is computed when it is read. So a read is timed, in `batch_end` of a real fit with validation, and what an
empty statement costs is taken off. The first read of `last_loss` in a batch takes the loss off the device; that the
next ones do not is counted, not timed.
"""

import statistics
import time
import timeit
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.fits import Tiny, quiet
from benchmarks.report import Row, differences, nanoseconds
from callbacksets import CallbackSet, CallbackSetAdapter

FIELDS = (
    "epoch",
    "global_step",
    "terminate",
    "last_loss",
    "y_hat",
    "y_hats",
    "batch",
    "last_scores_train",
    "last_scores_valid",
    "learner",
    "network",
    "loss_fn",
    "optimizer",
    "device",
    "total_epochs",
    "total_steps",
    "callbacks",
)
READS = {field: f"ctx.{field}" for field in FIELDS} | {
    "last_scores_valid['loss']": "ctx.last_scores_valid['loss']",
    "last_scores_valid[0]": "ctx.last_scores_valid[0]",
    "minimize('loss')": "ctx.minimize('loss')",
    "own, a field of one's own": "ctx.own",
}


class Reads(CallbackSet):
    """Times reads in a batch of the second epoch, when all is there."""

    def __init__(self, rounds: int, times: int) -> None:
        self.rounds, self.times = rounds, times
        self.first: list[float] = []
        self.empty: list[float] = []
        self.seconds: dict[str, list[float]] = {name: [] for name in READS}
        self.transfers = 0

    def on_batch_end(self) -> None:
        if self.ctx.epoch == 2 and self.ctx.step == 1:
            with Transfers() as counted:
                self.ctx.last_loss, self.ctx.last_loss  # noqa: B018
            self.transfers = counted.transfers
            self._read()
        else:
            start = time.perf_counter()
            self.ctx.last_loss  # noqa: B018
            self.first.append(time.perf_counter() - start)

    def _read(self) -> None:
        self.ctx.own = 0
        for _ in range(self.rounds):
            self.empty.append(self._timed("pass"))
            for name, statement in READS.items():
                self.seconds[name].append(self._timed(statement))

    def _timed(self, statement: str) -> float:
        return timeit.timeit(statement, globals={"ctx": self.ctx}, number=self.times) / self.times


class Transfers(TorchDispatchMode):
    """Counts how often a number leaves a tensor, which on a GPU waits for it."""

    transfers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.transfers += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Logging(Tiny):
    """Logs a score in training and two in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.loss_fn = torch.nn.MSELoss()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        self.log_dict({"val_loss": loss, "val_other": loss})


def measure(quick: bool = False) -> list[Row]:
    reads = Reads(*((2, 2) if quick else (21, 2000)))
    batches = torch.ones(2 if quick else 200, 2, 2)
    loaders = [torch.utils.data.DataLoader(batches, batch_size=None) for _ in range(2)]
    quiet(max_epochs=2, num_sanity_val_steps=0, callbacks=[CallbackSetAdapter([reads])]).fit(Logging(), *loaders)
    first = statistics.quantiles(reads.first, n=4)
    rows = [
        Row("last_loss, the first time in a batch (CPU)", nanoseconds(first)),
        Row("transfers when last_loss is read twice in a batch", str(reads.transfers), "1"),
    ]
    rows += [Row(name, nanoseconds(differences(seconds, reads.empty))) for name, seconds in reads.seconds.items()]
    return rows
