"""Tiny modules, data and Trainers for the tests."""

import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from callbacksets import CallbackSet, CallbackSetAdapter
from callbacksets.base import STAGES
from callbacksets.testing.bench import QUIET

ROOT = Path(__file__).parents[1]
RELEASE = [pytest.mark.slow, pytest.mark.release]
LIMIT = 900  # seconds: ends what waits for ever, and nothing else, however busy the machine is


def sampled(values: Iterable[Any], every: int, marks: Any = pytest.mark.slow) -> list[Any]:
    """Values for `parametrize`. Only every n-th runs always; by default, the others are marked as slow."""
    return [pytest.param(value, marks=marks if i % every else ()) for i, value in enumerate(values)]


def quiet(**kwargs: Any) -> L.Trainer:
    """A Trainer on the CPU that prints and writes nothing."""
    return L.Trainer(**{**QUIET, **kwargs})


class Batches:
    """A loader that hands out the given batches, in every epoch the same objects."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Endless:
    """A loader without a length, which ends after `n` batches or never."""

    def __init__(self, n: int = -1) -> None:
        self.n = n

    def __iter__(self) -> Iterator[torch.Tensor]:
        left = self.n
        while left != 0:
            left -= 1
            yield torch.ones(2, 2)


def ones(n: int) -> Batches:
    """`n` batches: the first of ones, the second of twos, ..."""
    return Batches([torch.full((2, 2), float(i + 1)) for i in range(n)])


class Tiny(L.LightningModule):
    """A linear network on tensors; logs `train_loss` and `val_loss` for the epoch."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = nn.Linear(2, 1) if network is None else network

    def loss(self, batch: Any) -> torch.Tensor:
        return self.network(batch).pow(2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class StageLog(CallbackSet):
    """Records the stages it comes to, with the values of some fields of `ctx`."""

    def __init__(self, *fields: str, stages: tuple[str, ...] = STAGES) -> None:
        self.fields = fields
        self.rows: list[Any] = []
        for stage in stages:
            setattr(self, stage, partial(self.record, stage))

    def record(self, stage: str) -> None:
        stage = stage.removeprefix("on_")
        values = [getattr(self.ctx, field) for field in self.fields]
        self.rows.append((stage, *values) if values else stage)

    def at(self, stage: str) -> list[Any]:
        """What was seen at one stage: the value, or a tuple of the values."""
        return [row[1] if len(row) == 2 else row[1:] for row in self.rows if row[0] == stage]


class Writing(CallbackSet):
    """Writes what a rank sees as JSON lines to `<folder>/<rank>.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, **row: Any) -> None:
        with (self.folder / f"{self.ctx.trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def written(folder: Path) -> list[list[dict[str, Any]]]:
    """What each rank wrote."""
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in sorted(folder.glob("*.jsonl"))]


def script(name: str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tests/scripts/<name>.py` in a process of its own, for which it makes a folder.

    It has ended when all processes that write to its output have.
    """
    folder.mkdir()
    return subprocess.run(
        [sys.executable, "-m", f"tests.scripts.{name}", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


FORKS: Any = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None
if FORKS:  # they take seconds to import
    FORKS.set_forkserver_preload(["lightning.pytorch.strategies", "callbacksets.testing"])


def on_ranks(name: str, folder: Path, *arguments: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """Run `tests/scripts/<name>.py` on ranks, each a fork of a process that has imported what all of them need."""
    folder.mkdir()
    environment = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    output = folder / "stdout", folder / "stderr"
    started = []
    for rank in range(ranks):
        own = environment | ({"LOCAL_RANK": str(rank)} if ranks > 1 else {})  # then Lightning starts no other rank
        started.append(FORKS.Process(target=_on_rank, args=(name, arguments, own, output)))
        started[-1].start()
    for process in started:
        process.join(LIMIT)
        process.kill()
        process.join()
    code = max(abs(process.exitcode) for process in started)
    return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in output))


def _on_rank(name: str, arguments: tuple[str, ...], environment: dict[str, str], output: tuple[Path, ...]) -> None:
    os.environ |= environment
    os.chdir(ROOT)
    for number, path in enumerate(output, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    sys.argv = [name, *arguments]
    runpy.run_module(f"tests.scripts.{name}", run_name="__main__", alter_sys=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Act(CallbackSet):
    """Does something at its stages: `Act(on_epoch_end=lambda ctx: ...)`."""

    def __init__(self, **actions: Callable[[Any], Any]) -> None:
        for stage, action in actions.items():
            setattr(self, stage, partial(self.act, action))

    def act(self, action: Callable[[Any], Any]) -> None:
        action(self.ctx)


def fit(
    callbacks: Any,
    module: L.LightningModule | None = None,
    *loaders: Any,
    native: tuple[L.Callback, ...] = (),
    adapter: dict[str, Any] | None = None,
    **kwargs: Any,
) -> CallbackSetAdapter:
    """Fit a tiny module with some CallbackSets, on two batches unless told otherwise; gives the adapter."""
    bridge = callbacks if isinstance(callbacks, CallbackSetAdapter) else CallbackSetAdapter(callbacks, **adapter or {})
    trainer = quiet(**({"max_epochs": 1} | kwargs), callbacks=[*native, bridge])
    trainer.fit(Tiny() if module is None else module, *(loaders or (ones(2),)))
    return bridge


class Adam(Tiny):
    """Trains with Adam, whose fused step unscales the gradients itself."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1, fused=self.fused)


def gradient_norms(*, fused: bool, scaled: bool, device: str, read: bool = True) -> tuple[list[float], list[Any]]:
    """The norms of the gradients that a callback sees, with or without 16-mixed precision, and the weights at last."""

    def see(ctx: Any) -> None:
        norms.append(torch.nn.utils.clip_grad_norm_(ctx.network.parameters(), max_norm=1e9).item())

    norms: list[float] = []
    torch.manual_seed(0)
    module = Adam(fused)
    scaler = torch.amp.GradScaler(device, init_scale=2**10)  # with its default, the first steps would overflow
    kwargs = {"plugins": [MixedPrecision("16-mixed", device, scaler)]} if scaled else {}
    accelerator = "gpu" if device == "cuda" else device
    fit(Act(**({"on_after_backward": see} if read else {})), module, ones(4), accelerator=accelerator, **kwargs)
    return norms, [parameter.tolist() for parameter in module.parameters()]
