"""The conditions under which two fits can be compared: time depends on the batches, random numbers on the seed."""

import contextlib
import logging
import random
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import numpy as np
import torch


@contextlib.contextmanager
def comparable(place: Path) -> Iterator[L.Callback]:
    """Work in a folder, without output, with an artificial clock and seeded random numbers.

    The Trainer must get the returned callback.
    """
    clock = _Clock()
    with (
        contextlib.chdir(place),
        warnings.catch_warnings(),
        clock.instead_of_times(),
        _restored(),
    ):
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        torch.set_num_threads(1)  # several threads would mostly wait for each other
        seed(0)
        yield _EveryBatch(clock)


def seed(number: int) -> None:
    """Seed the random numbers of Python, NumPy and torch's CPU."""
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)


class _EveryBatch(L.Callback):
    """Moves the clock in every batch."""

    def __init__(self, clock: "_Clock") -> None:
        self._clock = clock

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._clock.now += 1


class _Clock:
    """A clock that moves only when it is told to. `sleep()` moves it and returns at once."""

    def __init__(self) -> None:
        self.now = 1e9
        self._thread = threading.get_ident()
        self._sleep = time.sleep

    def sleep(self, seconds: float) -> None:
        if threading.get_ident() == self._thread:
            self.now += seconds
        else:
            self._sleep(seconds)

    def instead_of_times(self) -> Any:
        replaced: dict[str, Any] = {"sleep": self.sleep}
        for name in ("time", "monotonic", "perf_counter"):
            replaced |= {name: lambda: self.now, f"{name}_ns": lambda: int(self.now * 1e9)}
        return mock.patch.multiple(time, **replaced)


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Restores logging, threads, grad mode and random states."""
    logger = logging.getLogger("lightning.pytorch")
    level, threads = logger.level, torch.get_num_threads()
    of_torch, of_python, of_numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            yield
        finally:
            logger.setLevel(level)
            torch.set_num_threads(threads)
            torch.set_rng_state(of_torch)
            random.setstate(of_python)
            np.random.set_state(of_numpy)
