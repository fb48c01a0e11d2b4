"""How a run grows: with its epochs, with the scores of an epoch, and what it saves.

An epoch has one batch, and so costs what surrounds it. The time of the last epochs of a long run is compared with that
of its first, bare and with a history, early stopping and a bar. Then, what the adapter with a history adds to an epoch
in which the module logs so many scores. Last, what the callback `checkpoint` adds to a batch in which it saves nothing,
and to an epoch at whose end it saves: there wall time, as writing waits for the disk.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from torch import Tensor, ones

from benchmarks.bars import shown_to_nobody
from benchmarks.fits import Batches, Tiny, clock, quiet, seconds_per_batch
from benchmarks.report import Row, alternating, differences, microseconds, milliseconds, ratio, ratios
from callbacksets import CallbackSetAdapter, CallbackSetCheckpoint

USUAL = {"early_stopping": {"patience": 10**9, "mode": "min"}}


class Scores(Tiny):
    """Logs so many scores for an epoch, and notes when its epochs begin."""

    def __init__(self, scores: int, clock: Callable[[], float] = clock) -> None:
        super().__init__()
        self.scores, self.clock = scores, clock
        self.ticks: list[float] = []

    def on_train_epoch_start(self) -> None:
        self.ticks.append(self.clock())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        for number in range(self.scores):
            self.log(f"train_{number}", 0.5, on_step=False, on_epoch=True, batch_size=1)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", 0.5, batch_size=1)


def measure(quick: bool = False) -> list[Row]:
    rounds = 2 if quick else 9
    return [
        *_epochs(*((30, 5) if quick else (3_000, 200))),
        *_scores(rounds, 4 if quick else 60),
        *_batches(rounds, 4 if quick else 300),
        *_saves(rounds, 3 if quick else 20),
    ]


def _epochs(epochs: int, some: int) -> list[Row]:
    rows = []
    sets = ["history", "progress", USUAL]
    for name, callbacks in (("bare", []), ("history, progress, early stopping", [CallbackSetAdapter(sets)])):
        with shown_to_nobody(notebook=False):
            spent = _per_epoch(Scores(1), epochs, callbacks)
        first, last = spent[1 : some + 1], spent[-some:]
        rows.append(Row(f"{name}: an epoch, of the first {some}", microseconds(first)))
        rows.append(Row(f"  of the last {some} of {epochs:,} / of the first", ratio(ratios(last, first))))
    return rows


def _scores(rounds: int, epochs: int) -> list[Row]:
    rows = []
    for scores in (1, 10, 100):
        spent: dict[str, list[float]] = {"bare": [], "history": []}
        for name in alternating(rounds, list(spent)):
            callbacks = [CallbackSetAdapter("history")] if name == "history" else []
            spent[name].append(statistics.median(_per_epoch(Scores(scores), epochs, callbacks)))
        words = f"{scores} training score{'s' if scores > 1 else ''}"
        rows.append(Row(f"{words}: an epoch, bare", microseconds(spent["bare"])))
        rows.append(Row("  added by a history", microseconds(differences(spent["history"], spent["bare"]))))
    return rows


def _batches(rounds: int, batches: int) -> list[Row]:
    spent: dict[str, list[float]] = {"freq=1": [], "freq=1, every_minutes=60": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(alternating(rounds, list(spent))):
            often = {"every_minutes": 60.0} if "every" in name else {}
            adapter = CallbackSetAdapter(CallbackSetCheckpoint(f"{folder}/{number}", freq=1, **often))
            spent[name].append(seconds_per_batch(Tiny(), [ones(2, 2)] * batches, 1, [adapter]))
    never, often_ = spent.values()
    return [Row("checkpoint: a batch, every_minutes=60 / without", ratio(ratios(often_, never)))]


def _saves(rounds: int, epochs: int) -> list[Row]:
    ways: dict[str, dict[str, Any] | None] = {"bare": None, "checkpoint": {}, "keep=2": {"keep": 2}}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(alternating(rounds, list(ways))):
            callbacks: list[L.Callback] = []
            if (arguments := ways[name]) is not None:
                callbacks = [CallbackSetAdapter(CallbackSetCheckpoint(f"{folder}/{number}", freq=1, **arguments))]
            spent[name].append(statistics.median(_per_epoch(Scores(1, time.perf_counter), epochs, callbacks)))
    return [
        Row("checkpoint: added to an epoch", milliseconds(differences(spent["checkpoint"], spent["bare"]))),
        Row("  with keep=2", milliseconds(differences(spent["keep=2"], spent["bare"]))),
    ]


def _per_epoch(module: Scores, epochs: int, callbacks: list[Any]) -> list[float]:
    loader = Batches([ones(2, 2)])
    quiet(max_epochs=epochs, callbacks=callbacks).fit(module, loader, loader)
    return [later - earlier for earlier, later in zip(module.ticks, module.ticks[1:], strict=False)]
