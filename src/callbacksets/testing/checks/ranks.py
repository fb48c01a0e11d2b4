"""Two ranks: two processes on the CPU, with the callback in both."""

import os
import pickle
import socket
import tempfile
import time
import unittest
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from callbacksets.testing.bench import Bench, described
from callbacksets.testing.rank import Seen, train
from callbacksets.testing.trace import first_difference

_SECONDS = 120
"""The time limit for both processes. Two fits take less than a second; starting takes longer on a busy machine."""
_ALIKE = (
    "Call functions that wait for other ranks (barrier, broadcast, all_reduce, save_checkpoint) on all ranks, and "
    "never in on_exit."
)


def ranks(bench: Bench) -> None:
    """In two processes the results are equal, only rank zero prints and writes, and no rank waits for a failed one."""
    bench.require_training()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place).resolve()
        late = _run(bench, folder)
        zero, one = (_seen(folder, rank, late) for rank in (0, 1))
        for rank, seen in enumerate((zero, one)):
            if seen.error:
                raise AssertionError(f"It fails on rank {rank} of two. {seen.error}")
        _compare(zero, one)
        _check_only_rank_zero_writes(one)
        _check_exit(zero, one)
        if late:
            raise AssertionError(f"If rank one fails, rank {late[0]} waits for it and does not end. {_ALIKE}")


def _compare(zero: Seen, one: Seen) -> None:
    if differs := first_difference(zero.rows, one.rows):
        raise AssertionError(
            f"Rank one differs from rank zero, first in {differs}. Base decisions on values that are equal on all "
            "ranks (ctx.last_scores_valid), or let rank zero decide: ctx.trainer.strategy.broadcast(...)."
        )


def _check_only_rank_zero_writes(one: Seen) -> None:
    for what, found in (("prints", one.printed[:80]), ("writes files", ", ".join(one.files))):
        if found:
            raise AssertionError(
                f"It {what} on rank one too: {found!r}. Do this only `if self.ctx.trainer.is_global_zero`, or use "
                "lightning.pytorch.utilities.rank_zero_only."
            )


def _check_exit(zero: Seen, one: Seen) -> None:
    for rank, seen in enumerate((zero, one)):
        if seen.collectives_in_exit:
            raise AssertionError(
                f"on_exit calls {seen.collectives_in_exit[0]} (seen on rank {rank}), which waits for the other ranks. "
                "They may be gone: let each rank clean up alone, and do joint work in on_end."
            )


def _run(bench: Bench, folder: Path) -> list[int]:
    """Train on two ranks. Return the ranks that did not end."""
    if not torch.distributed.is_available() or os.name != "posix":
        raise unittest.SkipTest("Two ranks on the CPU need torch.distributed with gloo, on Linux or macOS.")
    task = partial(train, make=bench.make_itself, training=bench.training, beside=bench.beside)
    try:
        pickle.dumps(task)
    except Exception as error:
        raise AssertionError(
            f"It cannot be sent to other processes. {described(error)}. make, training and beside "
            "must be classes or functions defined in a module, not lambdas or functions inside functions."
        ) from error
    context, port = get_context("spawn"), _free_port()
    processes = [context.Process(target=task, args=(rank, port, folder), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    until = time.monotonic() + _SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    late = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
        process.join()
    return late


def _seen(folder: Path, rank: int, late: list[int]) -> Seen:
    """The record of a rank's ordinary fit."""
    if not (path := folder / f"ordinary {rank}.pt").exists():
        if late:
            raise AssertionError(f"Rank {late[0]} of two waits for the other and does not end. {_ALIKE}")
        log = folder / f"log {rank}"
        words = log.read_text(errors="replace")[-500:] if log.exists() else "nothing"
        raise AssertionError(
            f"The process of rank {rank} ended before its fit. Its last output: {words}. In a script, call the check "
            "below `if __name__ == '__main__':`, because the processes import the script."
        )
    seen: Seen = torch.load(path, weights_only=False)  # one of our processes has written it
    return seen


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
