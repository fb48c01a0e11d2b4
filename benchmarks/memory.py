"""Memory.

Peaks are sums of what torch's profiler saw its allocator give and take in one fit, so they are exact, and what other
parts of the process hold is not in them. The network's output is at least 200 MB, so that one more of them shows.
Copies of the parameters are counted likewise: no other block has their size, and the steps do not touch them.
"""

import gc
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from benchmarks.fits import Batches, Nothing, Tiny, quiet
from benchmarks.report import Row, megabytes
from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetEarlyStopping,
    CallbackSetHistory,
    CallbackSetProgress,
    SupervisedModule,
)


class ReadsNoOutput(Nothing):
    """Does nothing, and says that it reads no output."""

    reads_y_hats = False


class ReadsOutput(CallbackSet):
    """Reads the network's output when the optimizer has stepped."""

    def on_batch_end(self) -> None:
        self.sum = self.ctx.y_hat.sum()


class ReadsLoss(CallbackSet):
    """Reads the loss of every batch."""

    def on_batch_end(self) -> None:
        self.loss = self.ctx.last_loss


def predefined() -> list[CallbackSet]:
    return [CallbackSetHistory(), CallbackSetEarlyStopping(patience=5), CallbackSetProgress()]


def measure(quick: bool = False) -> list[Row]:
    return [*_output(*((8, 1000) if quick else (1024, 51_200))), *_growth(30 if quick else 10_000), *_best_weights()]


# --- a large output --------------------------------------------------------------------------------------------------


def _output(batch_size: int, classes: int) -> list[Row]:
    output = batch_size * classes * 4
    batches = Batches([(torch.ones(batch_size, 4), torch.zeros(batch_size, dtype=torch.long))] * 2)
    contenders: dict[str, Callable[[], list[Any]]] = {
        "1 set with reads_y_hats = False": lambda: [CallbackSetAdapter([ReadsNoOutput()])],
        "history, early stopping, progress": lambda: [CallbackSetAdapter(predefined())],
        "1 set that may read y_hat": lambda: [CallbackSetAdapter([ReadsOutput()])],
    }

    def peak(loss_fn: nn.Module, callbacks: list[Any]) -> int:
        module = SupervisedModule(nn.Linear(4, classes), loss_fn, _sgd)
        return blocks(lambda: quiet(max_epochs=1, callbacks=callbacks).fit(module, batches, batches)).peak

    rows = []
    for name, loss_fn in (("cross entropy", nn.CrossEntropyLoss()), ("square", Square())):
        bare = peak(loss_fn, [])
        rows.append(Row(f"output of {megabytes(output)}, {name}: peak of the bare fit", megabytes(bare)))
        for contender, callbacks in contenders.items():
            more = peak(loss_fn, callbacks()) - bare
            result = f"{1 + more / bare:.3f} ({more / output:+.2f} outputs)"
            goal = "" if "may" in contender else "at most 1"
            rows.append(Row(f"  {contender} / bare", result, goal))
    return rows


class Square(nn.Module):
    """A loss whose backward needs the output itself, so that a bare fit holds it too."""

    def forward(self, y_hats: Tensor, y: Tensor) -> Tensor:
        return y_hats.pow(2).mean()


# --- many batches ----------------------------------------------------------------------------------------------------


def _growth(batches: int) -> list[Row]:
    rows = []
    sets = {"y_hat": ReadsOutput(), "loss": ReadsLoss(), "history": CallbackSetHistory()}
    for name, callbacks in (("bare", []), ("sets that read y_hat and last_loss", [CallbackSetAdapter(sets)])):
        module = Watched(at=(batches // 10, batches - 1))
        quiet(max_epochs=1, callbacks=callbacks).fit(module, Batches([torch.ones(2, 2)] * batches))
        (objects_before, resident_before), (objects, resident) = module.seen
        grown = f"{objects - objects_before:+d} objects"
        if resident is not None and resident_before is not None:
            grown += f", {(resident - resident_before) / 1e6:+.1f} MB resident"
        rows.append(Row(f"growth from batch {module.at[0]:,} to {batches:,}: {name}", grown, "none"))
    return rows


class Watched(Tiny):
    """Looks in two of its steps at what there is in the process."""

    def __init__(self, at: tuple[int, int]) -> None:
        super().__init__()
        self.at = at
        self.seen: list[tuple[int, int | None]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx in self.at:
            gc.collect()
            self.seen.append((len(gc.get_objects()), _resident()))
        return super().training_step(batch, batch_idx)


def _resident() -> int | None:
    """The bytes of this process in memory, where that is easily known."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else None


# --- best weights ----------------------------------------------------------------------------------------------------


def _best_weights() -> list[Row]:
    def early_stopping(epochs: int, improving: int, *others: CallbackSet, restore: bool = True) -> Blocks:
        def fit() -> None:
            stopping = CallbackSetEarlyStopping(100, restore_best_weights=restore, monitor="loss", mode="min")
            adapter = CallbackSetAdapter([stopping, *others])
            loader = Batches([torch.ones(2, 2)])
            quiet(max_epochs=epochs, num_sanity_val_steps=0, callbacks=[adapter]).fit(
                Improving(improving), loader, loader
            )

        return blocks(fit)

    def copies(blocks: Blocks) -> int:
        return blocks.sizes.count(Improving.SIZE)

    without, one = early_stopping(1, 1, restore=False), early_stopping(1, 1)
    five, stagnating = early_stopping(5, 5), early_stopping(5, 1)
    with tempfile.TemporaryDirectory() as folder:
        saving = early_stopping(1, 1, Saves(folder))
    each = (copies(five) - copies(one)) / 4
    held = (one.peak - without.peak) / Improving.SIZE
    return [
        Row("best weights: copies of the parameters per evaluation that improves", f"{each:g}", "1"),
        Row(
            "  per evaluation that does not: of the weights that were validated",
            f"{(copies(stagnating) - copies(one)) / 4:g}",
            "1",
        ),
        Row("  for the state that the fit leaves", f"{copies(one) - copies(without) - each:g}"),
        Row("  for a checkpoint", f"{copies(saving) - copies(one):g}"),
        Row("  most of them at one time in a fit of one evaluation", f"{held:.2f}", "1"),
    ]


class Improving(L.LightningModule):
    """Has large parameters that no step uses, and a score that improves in the first evaluations."""

    SIZE = 1_000_003 * 4

    def __init__(self, improving: int) -> None:
        super().__init__()
        self.network = nn.Linear(2, 1)
        self.network.register_parameter("large", nn.Parameter(torch.zeros(self.SIZE // 4)))
        self.improving = improving

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.network(batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", -float(min(self.current_epoch, self.improving - 1)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return _sgd(self.parameters())


class Saves(CallbackSet):
    """Saves a checkpoint at the end of every epoch."""

    weight = float("inf")

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_epoch_end(self) -> None:
        self.ctx.trainer.save_checkpoint(f"{self.folder}/{self.ctx.epoch}.ckpt")


# --- what was allocated ----------------------------------------------------------------------------------------------


class Blocks:
    """The blocks of memory that torch allocated on the CPU while something ran."""

    def __init__(self, changes: list[int]) -> None:
        self.sizes = [change for change in changes if change > 0]
        self.peak = held = 0
        for change in changes:
            held += change
            self.peak = max(self.peak, held)


def blocks(run: Callable[[], object]) -> Blocks:
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    events = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    return Blocks([event["args"]["Bytes"] for event in events])


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)
