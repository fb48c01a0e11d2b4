"""Bringing what a fit has left from a child process to the process that called it."""

import multiprocessing
import multiprocessing.util
import os
import tempfile
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Handover:
    """A file between two processes, for strategies that train in child processes (`ddp_spawn`, `ddp_notebook`).

    Of the callbacks in a child, Lightning brings nothing back.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._path = Path(tempfile.gettempdir()) / f"callbacksets-{uuid.uuid4().hex}.pt"
        weakref.finalize(self, _remove, self._path, self._owner)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Handover":
        return Handover()  # a copy of the adapter has fits of its own; what is pickled is the same one elsewhere

    def in_child(self) -> bool:
        """Whether this is a child of the process in which it was made."""
        return os.getpid() != self._owner and multiprocessing.parent_process() is not None

    def at_end(self, do: Callable[[], None]) -> None:
        """In a child process, do something before it ends: of a failure there, Lightning tells no callback."""
        if self.in_child():
            multiprocessing.util.Finalize(None, do, exitpriority=0)

    def give(self, what: Any) -> None:
        """In a child process, leave something for the process in which this was made."""
        if self.in_child():
            torch.save(what, self._path)

    def take(self) -> Any:
        """What was left by a child, once; None if nothing was."""
        if not self._path.exists():
            return None
        what = torch.load(self._path, weights_only=False)  # written by a child of this very process
        self._path.unlink()
        return what


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
