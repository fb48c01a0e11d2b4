"""A GPU.

Steps per second of wall time with and without ten sets that do nothing, in alternating fits; how often a batch makes
the CPU wait for the device, with and without a set that reads `last_loss`; and the peak of the device's memory with a
large output. `--quick` runs all of it on the CPU where there is no GPU, to see that it runs.
"""

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fits import Batches, adam, adapter, quiet, small_perceptron
from benchmarks.memory import ReadsLoss, ReadsNoOutput, ReadsOutput, blocks
from benchmarks.reading import Transfers
from benchmarks.report import Row, alternating, megabytes, ratio, ratios
from callbacksets import CallbackSetAdapter, SupervisedModule


class Waits:
    """Counts the moments at which the CPU waits for the device, from `start` to `stop`.

    On a GPU torch warns of each. On the CPU nothing waits; those reads of a tensor's value that would wait are counted.
    """

    def __init__(self, device: str) -> None:
        self.count = 0
        self._is_cuda = device == "cuda"
        self._caught: list[warnings.WarningMessage] = []
        self._record = warnings.catch_warnings(record=True)
        self._transfers = Transfers()

    def start(self) -> None:
        if self._is_cuda:
            self._caught = self._record.__enter__()  # type: ignore[assignment]
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        else:
            self._transfers.__enter__()

    def stop(self) -> None:
        if self._is_cuda:
            torch.cuda.set_sync_debug_mode("default")
            self._record.__exit__(None, None, None)
            # not the warning that this mode is a prototype, which speaks of synchronizing operations too
            self.count = sum("called a synchronizing" in str(warning.message) for warning in self._caught)
        else:
            self._transfers.__exit__(None, None, None)
            self.count = self._transfers.transfers

    @classmethod
    @contextmanager
    def of(cls, device: str) -> Iterator["Waits"]:
        waits = cls(device)
        waits.start()
        try:
            yield waits
        finally:
            waits.stop()


class Measured(SupervisedModule):
    """Times its batches but the first, and counts those moments at which the CPU waits for the device."""

    def __init__(self, network: nn.Module, batches: int, waits: Waits | None = None) -> None:
        super().__init__(network, nn.CrossEntropyLoss(), adam)
        self.batches, self.waits = batches, waits
        self.began = self.seconds = 0.0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.synchronize()
            self.began = time.perf_counter()
            if self.waits is not None:
                self.waits.start()

    def on_train_epoch_end(self) -> None:
        if self.waits is not None:
            self.waits.stop()
        self.synchronize()
        self.seconds = (time.perf_counter() - self.began) / (self.batches - 1)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(quick: bool = False) -> list[Row]:
    if not (torch.cuda.is_available() or quick):
        return [Row("a GPU", "skipped: there is none on this machine")]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches, rounds = (5, 2) if quick else (300, 11)
    size = (4, 3, 64, 64) if quick else (64, 3, 64, 64)
    return [
        *_speed(device, "small perceptron", small_perceptron, torch.ones(32, 1, 8, 8), batches, rounds),
        *_speed(device, "medium convolutional network", _medium, torch.ones(size), batches // 3 + 2, rounds),
        *_waits(device, batches),
        *_memory(device, *((8, 1000) if quick else (2048, 51_200))),
    ]


def _speed(device: str, what: str, network: Callable[[], nn.Module], x: Tensor, batches: int, rounds: int) -> list[Row]:
    seconds: dict[str, list[float]] = {"bare": [], "bare again": [], "10 sets": []}
    for name in ["bare", *alternating(rounds, list(seconds))]:  # once to warm up
        callbacks = adapter(10) if name == "10 sets" else []
        seconds[name].append(_fit(device, network(), x, batches, callbacks).seconds)
    bare = seconds.pop("bare")[1:]
    rows = [Row(f"{what}: steps per second, bare", f"{1 / statistics.median(bare):,.0f}")]
    for name, values in seconds.items():
        goal = "at most 1.01" if name == "10 sets" and "medium" in what else ""
        rows.append(Row(f"{what}: time of a step, {name} / bare", ratio(ratios(values, bare)), goal))
    return rows


def _waits(device: str, batches: int) -> list[Row]:
    contenders: dict[str, tuple[list[Any], str]] = {
        "bare": ([], ""),
        "10 sets that do nothing": (adapter(10), "as bare"),
        "1 set that reads last_loss": ([CallbackSetAdapter([ReadsLoss()])], "1 more"),
    }
    rows = []
    for name, (callbacks, goal) in contenders.items():
        waits = Waits(device)
        _fit(device, small_perceptron(), torch.ones(32, 1, 8, 8), batches, callbacks, waits)
        rows.append(Row(f"waits for the device per batch: {name}", f"{waits.count / (batches - 1):.2f}", goal))
    return rows


def _memory(device: str, batch_size: int, classes: int) -> list[Row]:
    output = batch_size * classes * 4
    contenders: dict[str, list[Any]] = {
        "bare": [],
        "1 set that reads no output, and says so": [CallbackSetAdapter([ReadsNoOutput()])],
        "1 set that reads y_hat": [CallbackSetAdapter([ReadsOutput()])],
    }
    x = torch.ones(batch_size, 4)
    peaks = {
        name: _peak(device, partial(_fit, device, nn.Linear(4, classes), x, 3, callbacks))
        for name, callbacks in contenders.items()
    }
    bare = peaks.pop("bare")
    rows = [Row(f"output of {megabytes(output)}: peak of the bare fit", megabytes(bare))]
    for name, peak in peaks.items():
        goal = "at most 1" if "no output" in name else ""
        rows.append(Row(f"  {name} / bare", f"{peak / bare:.3f} ({(peak - bare) / output:+.2f} outputs)", goal))
    return rows


def _peak(device: str, run: Callable[[], object]) -> int:
    """How much more memory of the device was in use at one time than before."""
    if device == "cpu":
        return blocks(run).peak
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def _fit(
    device: str, network: nn.Module, x: Tensor, batches: int, callbacks: list[Any], waits: Waits | None = None
) -> Measured:
    # copying it is not what is measured
    batch = (x.to(device), torch.zeros(len(x), dtype=torch.long, device=device))
    module = Measured(network, batches, waits)
    trainer = quiet(max_epochs=1, accelerator="gpu" if device == "cuda" else "cpu", callbacks=callbacks)
    trainer.fit(module, Batches([batch] * batches))
    return module


def _medium() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(3, 64), *block(64, 128), *block(128, 256), nn.Flatten(), nn.Linear(256 * 64, 10))
