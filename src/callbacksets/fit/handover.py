"""Bringing what a fit has left from a child process to the process that called it."""

import multiprocessing
import multiprocessing.util
import os
import tempfile
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from callbacksets.fit.lightning import is_a

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Handover:
    """A file between two processes, for strategies that train in child processes (`ddp_spawn`, `ddp_notebook`).

    Of the callbacks in a child, Lightning brings nothing back.
    """

    def __init__(self) -> None:
        self._name = f"callbacksets-{uuid.uuid4().hex}"
        weakref.finalize(self, _remove, self._name)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Handover":
        return Handover()  # for fits of its own; a pickled one keeps its name, so that a child writes where it is read

    def at_end(self, do: Callable[[], None]) -> None:
        """In a child process, do something before it ends: of a failure there, Lightning tells no callback."""
        multiprocessing.util.Finalize(None, do, exitpriority=0)

    def give(self, what: Any) -> None:
        """In a child process, leave something for the process that has started it."""
        parent = multiprocessing.parent_process()
        assert parent is not None, "only a child hands over"
        torch.save(what, _path(self._name, parent.pid))

    def take(self) -> Any:
        """What a child of this process has left, once; None if nothing was."""
        path = _path(self._name, os.getpid())
        if not path.exists():
            return None
        what = torch.load(path, weights_only=False)  # written by a child of this very process
        path.unlink()
        return what


def trains_in_child(trainer: "Trainer") -> bool:
    """Whether this process was started by the Trainer of another one, to train."""
    return is_a(trainer.strategy.launcher, "_MultiProcessingLauncher") and multiprocessing.parent_process() is not None


def _path(name: str, pid: int | None) -> Path:
    return Path(tempfile.gettempdir()) / f"{name}-{pid}.pt"


def _remove(name: str) -> None:
    _path(name, os.getpid()).unlink(missing_ok=True)
