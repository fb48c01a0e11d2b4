"""Bringing the result of a fit from a child process."""

import multiprocessing
import multiprocessing.util
import os
import pickle
import shutil
import stat
import tempfile
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.fit.lightning import is_a

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from callbacksets.fit.loop import StoppedBy
    from callbacksets.fit.states import Saved
    from callbacksets.show.outcome import Outcome


class Result(NamedTuple):
    """What a fit has come to: its states, who stopped it, and how it ended. Each is None until there is one."""

    saved: "Saved | None" = None
    stopped_by: "StoppedBy | None" = None
    outcome: "Outcome | None" = None


class Handover:
    """A file between two processes, for strategies that train in child processes (`ddp_spawn`, `ddp_notebook`).

    Lightning does not return callbacks from a child process. The file is either complete or absent. Its folder can be
    read and written only by this user.
    """

    def __init__(self) -> None:
        self._name = f"callbacksets-{uuid.uuid4().hex}"
        weakref.finalize(self, _remove, self._name)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Handover":
        return Handover()  # a copy has its own fits; a pickled one keeps its name, so that a child writes to our file

    def at_end(self, do: Callable[[], None], *, gives: bool) -> None:
        """In a child process, call a function before the process ends: another callback may fail after training.

        Args:
            do: The function. Python calls it unless the process is killed or ends by `os._exit`.
            gives: Whether this process will hand over the result. Until then the result is empty, so that a killed
                child does not leave the result of an earlier fit.
        """
        multiprocessing.util.Finalize(None, do, exitpriority=0)
        if gives:
            self.give(Result())

    def give(self, what: Result) -> None:
        """In a child process, store the result for the parent process.

        A state that cannot be pickled is left out with a warning. Nothing is raised, so that a failure here does not
        make the fit fail.

        Args:
            what: The result.
        """
        parent = multiprocessing.parent_process()
        assert parent is not None, "only a child hands over"
        folder = _folder(self._name, parent.pid)
        try:
            folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
            if not _is_ours(folder):
                raise PermissionError(f"{folder} belongs to somebody else")
            try:
                _write(what, folder)
            except (TypeError, AttributeError, pickle.PicklingError):
                _write(_that_can_be_pickled(what), folder)
        except Exception as error:
            rank_zero_warn(f"adapter.states cannot be sent from the training process to its parent process: {error}")

    def take(self) -> Result | None:
        """Take the result that a child of this process has stored; None if there is none. It can be taken once."""
        folder = _folder(self._name, os.getpid())
        if not (_is_ours(folder) and _file(folder).exists()):
            return None
        what: Result = torch.load(_file(folder), weights_only=False)  # written by a child of this very process
        _remove(self._name)
        return what


def trains_in_child(trainer: "Trainer") -> bool:
    """Whether the Trainer of a parent process has started this process for training."""
    return is_a(trainer.strategy.launcher, "_MultiProcessingLauncher") and multiprocessing.parent_process() is not None


def _folder(name: str, pid: int | None) -> Path:
    return Path(tempfile.gettempdir()) / f"{name}-{pid}"


def _file(folder: Path) -> Path:
    return folder / "left.pt"


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder (not a link) that only this user can enter."""
    if not hasattr(os, "getuid"):
        return folder.is_dir()  # on Windows, the folder for temporary files is the user's own
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    is_open = found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not is_open


def _write(what: Result, folder: Path) -> None:
    beside = folder / "unfinished.pt"
    torch.save(what, beside)
    beside.replace(_file(folder))


def _that_can_be_pickled(what: Result) -> Result:
    if what.saved is None:
        return what
    kept = {}
    for id, saved in what.saved["callbacks"].items():
        try:
            pickle.dumps(saved)
            kept[id] = saved
        except Exception as error:
            rank_zero_warn(
                f"The state of callback {id!r} cannot be pickled, so adapter.states of the parent process will not "
                f"have it: {error}"
            )
    return what._replace(saved={**what.saved, "callbacks": kept})


def _remove(name: str) -> None:
    if (folder := _folder(name, os.getpid())).exists():
        shutil.rmtree(folder, ignore_errors=True)
