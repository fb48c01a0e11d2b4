"""The training process is killed and started again: `python -m callbacksets.demo --kill 5`."""

import multiprocessing
import random
import sys
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from callbacksets import CallbackSet, CallbackSetAdapter, latest_checkpoint, read_states, t_clbk
from callbacksets.demo import fit, network, prepare

_EPOCHS = 8
_BATCHES = 22  # in an epoch


class CallbackSetTell(CallbackSet):
    """Tells the process that kills this one how many batches it has trained."""

    def __init__(self, told: Connection) -> None:
        self.told = told

    def on_batch_end(self) -> None:
        self.told.send((self.ctx.epoch, self.ctx.step))


def train(folder: Path, told: Connection) -> None:
    """Train, from the newest checkpoint in the folder on. A script that may be killed needs no more than this.

    Args:
        folder: The folder of the checkpoints.
        told: Where to tell of each batch.
    """
    prepare()
    torch.manual_seed(0)
    checkpoint = t_clbk("checkpoint", path=folder, freq=1, keep=1, every_minutes=0.002)
    adapter = CallbackSetAdapter(["history", checkpoint, CallbackSetTell(told)])
    fit(network(), adapter, _EPOCHS, ckpt_path=latest_checkpoint(folder))


def run(folder: Path, kill_after: int | None = None) -> tuple[int, int] | None:
    """Run `train` in a process.

    Args:
        folder: The folder of the checkpoints.
        kill_after: After how many batches the process is killed, inside of an epoch; None to let it end.

    Returns:
        The epoch and the batch after which it was killed; None if it has ended by itself.

    Raises:
        RuntimeError: If the process has failed.
    """
    # a copy of this process has all libraries; elsewhere than on Linux, not all of them can be copied
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    hears, tells = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(folder, tells))
    process.start()
    tells.close()
    trained, last = 0, (0, 0)
    with suppress(EOFError):
        while True:
            last, trained = hears.recv(), trained + 1
            if kill_after is not None and trained >= kill_after and last[1] < _BATCHES:
                process.kill()
    process.join()
    if process.exitcode == 0:
        return None
    if kill_after is None or trained < kill_after:
        raise RuntimeError(f"The training process failed with exit code {process.exitcode}.")
    return last


def main(times: int) -> None:
    """Train once without a kill, and once with some. Compare how both end.

    Args:
        times: How often the process is killed.
    """
    with tempfile.TemporaryDirectory() as made:
        whole, killed = Path(made, "whole"), Path(made, "killed")
        print(f"Training {_EPOCHS} epochs of {_BATCHES} batches in a process that is never killed.", flush=True)
        run(whole)
        print("The same in a process that is killed and started again.", flush=True)
        for _ in range(times):
            moment = run(killed, kill_after=random.randint(1, max(1, _EPOCHS * _BATCHES // (times + 1))))
            if moment is None:  # more kills than batches
                break
            newest = latest_checkpoint(killed)
            there = "no checkpoint yet" if newest is None else f"goes on from {newest.name}"
            print(f"  killed in epoch {moment[0]} after batch {moment[1]}: {there}", flush=True)
        run(killed)
        ends = [latest_checkpoint(folder) for folder in (whole, killed)]
        weights, histories = zip(*(_end(path) for path in ends), strict=True)
    same_weights = all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    same_history = histories[0] == histories[1]
    for what, same in ("weights", same_weights), ("history", same_history):
        print(f"The {what}: {'the same to the last bit' if same else 'NOT the same'}.")
    if not (same_weights and same_history):
        sys.exit(1)


def _end(checkpoint: Path | None) -> tuple[dict[str, torch.Tensor], Any]:
    """The weights and the history at the end of a run."""
    assert checkpoint is not None, "the run has ended"
    loaded = torch.load(checkpoint, weights_only=True)
    return loaded["state_dict"], read_states(loaded)["history"]
