"""Where what a fit has left is: with a child process, from which it is brought, or with a copy of the adapter."""

import multiprocessing
import multiprocessing.util
import os
import pickle
import shutil
import stat
import tempfile
import uuid
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.checks import listed
from callbacksets.fit.lightning import is_a

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from callbacksets.fit.loop import StoppedBy
    from callbacksets.fit.states import Saved
    from callbacksets.show.outcome import Outcome

Left = tuple["Saved | None", "StoppedBy | None", "Outcome | None"]
"""The states of a fit, or None as long as it is not over; who stopped it; how it ended."""


class Handover:
    """A file between two processes, for strategies that train in child processes (`ddp_spawn`, `ddp_notebook`).

    Of the callbacks in a child, Lightning brings nothing back. The file is whole or not there, in a folder that nobody
    else can read or write.
    """

    def __init__(self) -> None:
        self._name = f"callbacksets-{uuid.uuid4().hex}"
        self._copies: weakref.WeakSet[Handover] = weakref.WeakSet()
        self.has_fitted = False
        weakref.finalize(self, _remove, self._name)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Handover":
        made = Handover()  # for fits of its own; a pickled one keeps its name, so that a child writes where it is read
        self._copies.add(made)
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_copies"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _copies=weakref.WeakSet())

    def explain_copies(self) -> None:
        """Warn that a copy has been in a fit, where somebody looks for what a fit has left and there was none."""
        if not self.has_fitted and self._has_copy_fitted():
            warnings.warn(
                "This adapter was in no fit, but a copy of it was: a library has copied its callbacks. The states are "
                "with the copy: [one for one in trainer.callbacks if isinstance(one, CallbackSetAdapter)].",
                stacklevel=3,
            )

    def _has_copy_fitted(self) -> bool:
        return any(one.has_fitted or one._has_copy_fitted() for one in self._copies)

    def at_end(self, do: Callable[[], None], *, gives: bool) -> None:
        """In a child process, do something before it ends: of a failure there, Lightning tells no callback.

        Args:
            do: What is to be done.
            gives: Whether this process is the one to give. A child that is killed does not come to it, so that until
                then there is nothing, in the place of what an earlier fit has left.
        """
        multiprocessing.util.Finalize(None, do, exitpriority=0)
        if gives:
            self.give((None, None, None))

    def give(self, what: Left) -> None:
        """In a child process, leave something for the process that has started it.

        A state that cannot be pickled is left out with a warning. Nothing is raised: a failure here does not cost the
        fit.

        Args:
            what: The states, who stopped training, and how it ended.
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
            rank_zero_warn(f"adapter.states cannot be brought from the process that trained to its parent: {error}")

    def take(self) -> Left | None:
        """What a child of this process has left, once; None if nothing was."""
        folder = _folder(self._name, os.getpid())
        if not (_is_ours(folder) and _file(folder).exists()):
            return None
        what: Left = torch.load(_file(folder), weights_only=False)  # written by a child of this very process
        _remove(self._name)
        return what


def trains_in_child(trainer: "Trainer") -> bool:
    """Whether this process was started by the Trainer of another one, to train."""
    return is_a(trainer.strategy.launcher, "_MultiProcessingLauncher") and multiprocessing.parent_process() is not None


def _folder(name: str, pid: int | None) -> Path:
    return Path(tempfile.gettempdir()) / f"{name}-{pid}"


def _file(folder: Path) -> Path:
    return folder / "left.pt"


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder, no link to one, that only this user can enter."""
    if not hasattr(os, "getuid"):
        return folder.is_dir()  # on Windows, the folder for temporary files is the user's own
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    is_open = found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not is_open


def _write(what: Left, folder: Path) -> None:
    beside = folder / "unfinished.pt"
    torch.save(what, beside)
    beside.replace(_file(folder))


def _that_can_be_pickled(what: Left) -> Left:
    result, stopped_by, outcome = what
    if result is None:
        return what
    failed = [id for id, saved in result["callbacks"].items() if not _can_be_pickled(saved)]
    rank_zero_warn(
        f"The states of the callbacks {listed(failed)} cannot be pickled, and so are not in the adapter.states of the "
        "process that started this one to train."
    )
    kept = {id: saved for id, saved in result["callbacks"].items() if id not in failed}
    return {**result, "callbacks": kept}, stopped_by, outcome


def _can_be_pickled(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _remove(name: str) -> None:
    if (folder := _folder(name, os.getpid())).exists():
        shutil.rmtree(folder, ignore_errors=True)
