"""A GPU.

Steps per second of wall time with and without ten sets that do nothing, in alternating fits; how often a batch makes
the CPU wait for the device, with and without a set that reads `last_loss`; and the peak of the device's memory with a
large output.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fits import Batches, adam, adapter, quiet, small_perceptron
from benchmarks.memory import ReadsLoss, ReadsOutput
from benchmarks.report import Row, alternating, megabytes, ratio, ratios
from callbacksets import CallbackSetAdapter, SupervisedModule


class Measured(SupervisedModule):
    """Times its batches but the first, and counts those moments at which the CPU waits for the device."""

    def __init__(self, network: nn.Module, batches: int, count: bool = False) -> None:
        super().__init__(network, nn.CrossEntropyLoss(), adam)
        self.batches, self.count = batches, count
        self.start = self.seconds = 0.0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            torch.cuda.synchronize()
            self.start = time.perf_counter()
            torch.cuda.set_sync_debug_mode("warn" if self.count else "default")

    def on_train_epoch_end(self) -> None:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        self.seconds = (time.perf_counter() - self.start) / (self.batches - 1)


def measure(quick: bool = False) -> list[Row]:
    if not torch.cuda.is_available():
        return [Row("a GPU", "skipped: there is none on this machine")]
    batches, rounds = (5, 2) if quick else (300, 11)
    return [
        *_speed("small perceptron", small_perceptron, torch.ones(32, 1, 8, 8), batches, rounds),
        *_speed("medium convolutional network", _medium, torch.ones(64, 3, 64, 64), batches // 3 + 2, rounds),
        *_waits(batches),
        *_memory(*((8, 1000) if quick else (2048, 51_200))),
    ]


def _speed(what: str, network: Callable[[], nn.Module], x: Tensor, batches: int, rounds: int) -> list[Row]:
    seconds: dict[str, list[float]] = {"bare": [], "bare again": [], "10 sets": []}
    for name in ["bare", *alternating(rounds, list(seconds))]:  # once to warm up
        seconds[name].append(_fit(network(), x, batches, adapter(10) if name == "10 sets" else []).seconds)
    bare = seconds.pop("bare")[1:]
    rows = [Row(f"{what}: steps per second, bare", f"{1 / statistics.median(bare):,.0f}")]
    for name, values in seconds.items():
        goal = "at most 1.01" if name == "10 sets" and "medium" in what else ""
        rows.append(Row(f"{what}: time of a step, {name} / bare", ratio(ratios(values, bare)), goal))
    return rows


def _waits(batches: int) -> list[Row]:
    contenders: dict[str, tuple[list[Any], str]] = {
        "bare": ([], ""),
        "10 sets that do nothing": (adapter(10), "as bare"),
        "1 set that reads last_loss": ([CallbackSetAdapter([ReadsLoss()])], "1 more"),
    }
    rows = []
    for name, (callbacks, goal) in contenders.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _fit(small_perceptron(), torch.ones(32, 1, 8, 8), batches, callbacks, count=True)
        waits = sum("called a synchronizing" in str(warning.message) for warning in caught)
        rows.append(Row(f"waits for the device per batch: {name}", f"{waits / (batches - 1):.2f}", goal))
    return rows


def _memory(batch_size: int, classes: int) -> list[Row]:
    output = batch_size * classes * 4
    contenders: dict[str, list[Any]] = {
        "bare": [],
        "10 sets that do nothing": adapter(10),
        "1 set that reads y_hat": [CallbackSetAdapter([ReadsOutput()])],
    }
    peaks = {}
    for name, callbacks in contenders.items():
        torch.cuda.reset_peak_memory_stats()
        _fit(nn.Linear(4, classes), torch.ones(batch_size, 4), 3, callbacks)
        peaks[name] = torch.cuda.max_memory_allocated()
    bare = peaks.pop("bare")
    rows = [Row(f"output of {megabytes(output)}: peak of the bare fit", megabytes(bare))]
    for name, peak in peaks.items():
        goal = "" if "reads" in name else "at most 1"
        rows.append(Row(f"  {name} / bare", f"{peak / bare:.3f} ({(peak - bare) / output:+.2f} outputs)", goal))
    return rows


def _fit(network: nn.Module, x: Tensor, batches: int, callbacks: list[Any], count: bool = False) -> Measured:
    batch = (x.cuda(), torch.zeros(len(x), dtype=torch.long, device="cuda"))  # copying it is not what is measured
    module = Measured(network, batches, count)
    trainer = quiet(max_epochs=1, accelerator="gpu", devices=1, callbacks=callbacks)
    trainer.fit(module, Batches([batch] * batches))
    return module


def _medium() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(3, 64), *block(64, 128), *block(128, 256), nn.Flatten(), nn.Linear(256 * 64, 10))
