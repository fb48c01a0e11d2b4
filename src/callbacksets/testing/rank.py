"""One of the two processes in which the check `ranks` trains."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from callbacksets.base import CallbackSet
from callbacksets.describe.sources import Source
from callbacksets.testing.bench import Bench, Interruption, described
from callbacksets.testing.trace import Row, trained
from callbacksets.testing.training import Training

_COLLECTIVES = ("all_gather", "all_gather_object", "all_reduce", "barrier", "broadcast", "broadcast_object_list")


@dataclass
class Seen:
    """The record of a rank's fit."""

    rows: list[Row] = field(default_factory=list)
    printed: str = ""
    files: list[str] = field(default_factory=list)
    collectives_in_exit: list[str] = field(default_factory=list)
    error: str = ""


def train(
    rank: int,
    port: int,
    folder: Path,
    *,
    make: Callable[[], CallbackSet],
    training: Training,
    beside: Mapping[str, Source],
) -> None:
    """Train on a rank, twice, and end the process.

    The record of an ordinary fit is written to `<folder>/ordinary <rank>.pt`. The record of a fit that fails on rank
    one in its second epoch is written to `<folder>/failing <rank>.pt`.

    Args:
        rank: 0 or 1.
        port: The port at which the two processes connect.
        folder: A folder in which each rank has its own folders.
        make: Makes the callback.
        training: Makes the module and the loaders.
        beside: The other callbacks of the fits.
    """
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = os.open(folder / f"log {rank}", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)  # gloo and torch write there, past Python
    os.dup2(log, 2)
    own = folder / f"bench {rank}"
    own.mkdir()
    bench = Bench(make, training, beside, own)
    for way in ("ordinary", "failing"):
        seen = _fit(bench, fails=way == "failing" and rank == 1)
        torch.save(seen, folder / f"{way} {rank}.part")
        (folder / f"{way} {rank}.part").replace(folder / f"{way} {rank}.pt")
    os._exit(0)  # gloo's threads may abort a process that has already finished


def _fit(bench: Bench, *, fails: bool) -> Seen:
    callback, place, seen, out = bench.make(), bench.new_place(), Seen(), io.StringIO()
    strategy = DDPStrategy(
        cluster_environment=LightningEnvironment(),
        process_group_backend="gloo",
        timeout=timedelta(seconds=30),
        find_unused_parameters=True,  # some parameters may be frozen for a while
    )
    spies = [_See(callback, seen), *([_Fail(callback)] if fails else [])]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), _watched_exit(seen, callback):
            bench.fit(callback, *spies, place=place, strategy=strategy, devices=2)
    except Interruption:
        pass
    except BaseException as error:
        seen.error = described(error)
    seen.printed = out.getvalue()
    seen.files = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    return seen


class _See(CallbackSet):
    """Records the weights and the optimizer after a callback has run."""

    reads_y_hats: bool = False

    def __init__(self, callback: CallbackSet, seen: Seen) -> None:
        self.weight: float = callback.weight
        self._rows = seen.rows

    def on_batch_end(self) -> None:
        self._see(f"on_batch_end of batch {self.ctx.step} of epoch {self.ctx.epoch}")

    def on_epoch_end(self) -> None:
        self._see(f"on_epoch_end of epoch {self.ctx.epoch}")

    def _see(self, moment: str) -> None:
        found = trained(self.ctx)
        self._rows.append(
            Row(moment, {what: found[what] for what in ("the weights", "requires_grad", "the optimizer")})
        )


class _Fail(CallbackSet):
    """Fails on its rank in the second epoch."""

    def __init__(self, callback: CallbackSet) -> None:
        self.weight: float = callback.weight

    def on_batch_end(self) -> None:
        if self.ctx.epoch == 2:
            raise Interruption


@contextlib.contextmanager
def _watched_exit(seen: Seen, callback: CallbackSet) -> Iterator[None]:
    """Records which functions that wait for other ranks are called in `on_exit`."""
    is_in_exit = False
    exit_of_its_own: Any = getattr(callback, "on_exit", None)

    def watched_exit() -> None:
        nonlocal is_in_exit
        is_in_exit = True
        try:
            exit_of_its_own()
        finally:
            is_in_exit = False

    def watched(name: str, function: Any) -> Any:
        def collective(*args: Any, **kwargs: Any) -> Any:
            if is_in_exit:
                seen.collectives_in_exit.append(name)
                return None  # the function is not called, or a rank would wait
            return function(*args, **kwargs)

        return collective

    if exit_of_its_own is not None:
        callback.on_exit = watched_exit  # type: ignore[attr-defined]
    functions = {name: watched(name, getattr(torch.distributed, name)) for name in _COLLECTIVES}
    with mock.patch.multiple(torch.distributed, **functions):
        yield
