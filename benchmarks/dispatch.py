"""The hooks of one training batch.

Do-nothing CallbackSets against as many do-nothing Lightning callbacks and against plain method calls, the floor.
Lightning's own dispatch is timed, inside a real fit, in one process, in alternating rounds, and what it costs without
any callback is taken off. Lightning's counters advance as in a batch, because the adapter goes by them. So the result
is all that callbacks add to a batch, but for what the adapter does around the steps: that is in the next section.
"""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer import call

from benchmarks.fits import Nothing, nothings, quiet, timed
from benchmarks.report import Row, differences, microseconds, ratio, ratios
from callbacksets import CallbackSetAdapter
from callbacksets.fit.step import Step

SETS = (1, 10, 100)


class Timed(L.LightningModule):
    """Times the hooks of a batch in its first training step, with different callbacks in turn."""

    def __init__(self, contenders: dict[str, list[Any]], rounds: int, batches: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.contenders, self.rounds, self.batches = contenders, rounds, batches
        self.seconds: dict[str, list[float]] = {name: [] for name in contenders}
        self.sets = [Nothing() for _ in range(100)]
        self.floor: list[float] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        own = self.trainer.callbacks
        adapters = [callbacks[0] for name, callbacks in self.contenders.items() if name.startswith("sets")]
        for adapter in adapters:  # each comes to where batches begin
            adapter.setup(self.trainer, self, "fit")
            adapter.on_train_start(self.trainer, self)
            adapter.on_train_epoch_start(self.trainer, self)
        steps = [adapter._fit.step for adapter in adapters]
        for _ in range(self.rounds):
            for name, callbacks in self.contenders.items():
                self.trainer.callbacks = callbacks
                self.seconds[name].append(timed(lambda: _hooks(self.trainer, steps, batch), self.batches))
            self.floor.append(timed(_plain_calls(self.sets), self.batches))
        for adapter in reversed(adapters):
            adapter.teardown(self.trainer, self, "fit")
        self.trainer.callbacks = own
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def measure(quick: bool = False) -> list[Row]:
    rounds, batches = (2, 2) if quick else (41, 200)
    adapters = {n: CallbackSetAdapter(nothings(n)) for n in SETS}
    contenders: dict[str, list[Any]] = {"none": []}
    contenders |= {f"native {n}": [L.Callback() for _ in range(n)] for n in SETS}
    contenders |= {f"sets {n}": [adapter] for n, adapter in adapters.items()}
    module = Timed(contenders, rounds, batches)
    quiet(max_epochs=1).fit(module, torch.utils.data.DataLoader(torch.zeros(1, 1)))
    added = {name: differences(seconds, module.seconds["none"]) for name, seconds in module.seconds.items()}
    per_set = [difference / 99 for difference in differences(added["sets 100"], added["sets 1"])]
    per_call = [seconds / 100 for seconds in module.floor]
    rows = [Row(_words(name), microseconds(added[name])) for name in contenders if name != "none"]
    for n, goal in zip(SETS, ("at most 1.2", "at most 0.165", ""), strict=True):
        sets, natives = f"sets {n}", f"native {n}"
        rows.append(Row(f"{_words(sets)} / {_words(natives)}", ratio(ratios(added[sets], added[natives])), goal))
    rows.append(Row("one further set / its three plain method calls", ratio(ratios(per_set, per_call)), "at most 3"))
    return rows


def _words(name: str) -> str:
    kind, n = name.split()
    return f"{n} {'native callback' if kind == 'native' else 'set'}{'s' if int(n) > 1 else ''}"


def _hooks(trainer: L.Trainer, steps: list[Step], batch: torch.Tensor) -> None:
    """The callback hooks of a batch, as the training loop and the closure call them, and Lightning's counters."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    [optimizer] = trainer.optimizers
    progress.increment_ready()
    call._call_callback_hooks(trainer, "on_train_batch_start", batch, 0)
    progress.increment_started()
    call._call_callback_hooks(trainer, "on_before_zero_grad", optimizer)
    call._call_callback_hooks(trainer, "on_before_backward", batch)
    for step in steps:
        step.loss = batch  # what the step has returned
    call._call_callback_hooks(trainer, "on_after_backward")
    call._call_callback_hooks(trainer, "on_before_optimizer_step", optimizer)
    progress.increment_processed()
    call._call_callback_hooks(trainer, "on_train_batch_end", {"loss": batch}, batch, 0)
    progress.increment_completed()


def _plain_calls(sets: list[Nothing]) -> Callable[[], None]:
    def calls() -> None:
        for callback in sets:
            callback.on_batch_begin()
        for callback in sets:
            callback.on_after_backward()
        for callback in sets:
            callback.on_batch_end()

    return calls
