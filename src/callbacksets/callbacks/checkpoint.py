"""Saving a run so that it can be resumed."""

import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.plugins.io import AsyncCheckpointIO

from callbacksets.base import CallbackSet
from callbacksets.checks import folder, listed, whole_number

AnyPath = str | os.PathLike[str]

_COMPLETE = re.compile(r"epoch([1-9]\d*)\.ckpt")
_BEGUN = re.compile(r"\.epoch[1-9]\d*\.ckpt\.part")


class CallbackSetCheckpoint(CallbackSet):
    """Saves a Lightning checkpoint every few epochs, and when training ends.

    A checkpoint is `epoch<n>.ckpt` in the folder: a file, or a folder where the strategy writes sharded ones. It has
    that name only when it is complete, so that what a killed run leaves behind can always be resumed:

        trainer.fit(module, loader, ckpt_path=latest_checkpoint(path))

    The callback runs after all others, so that a checkpoint holds what they have done. Its state is `path`, and a
    resumed run writes to the path it was given itself. Nothing is saved when nothing was trained, or with
    `fast_dev_run`.

    Example:
        >>> from callbacksets import CallbackSetCheckpoint
        >>> CallbackSetCheckpoint("checkpoints/first", freq=5)
        <CallbackSetCheckpoint: on_begin, on_epoch_end, on_end>

    Args:
        path: The folder, or a function of nothing that returns it, called once in every fit. It may be new, empty, or
            hold the checkpoints of the run that is resumed.
        freq: After how many epochs to save; at least 1.

    Raises:
        TypeError, ValueError: For an argument of the wrong kind.
        FileExistsError: In `begin`, when the folder holds the checkpoints of another run, or other things.
        RuntimeError: In `begin`, when a callback with a state would change it after a checkpoint was saved, or
            checkpoints are written asynchronously.

    mlr3torch: `t_clbk("checkpoint")`.
    """

    reads_y_hats = False
    weight = math.inf

    def __init__(self, path: AnyPath | Callable[[], AnyPath], freq: int) -> None:
        self.path = path if callable(path) else folder("path", path)
        self.freq = whole_number("freq", freq, at_least=1)
        self.start_over()

    def start_over(self) -> None:
        self._folder: Path | None = None
        self._resumed_folder: str | None = None
        self._is_unsaved = False
        self._epoch_at_begin = 0

    def on_begin(self) -> None:
        ctx = self.ctx
        self._check_order()
        if isinstance(ctx.trainer.strategy.checkpoint_io, AsyncCheckpointIO):
            raise RuntimeError(
                "AsyncCheckpointIO writes checkpoints later, so that CallbackSetCheckpoint cannot tell when one is "
                "complete. Use one of them without the other."
            )
        self._is_unsaved = False
        self._epoch_at_begin = ctx.epoch
        # rank zero decides: a function may return another folder on each rank, and files appear at another moment
        decided = self._decide_folder() if ctx.trainer.is_global_zero else (Path(), None)
        self._folder, problem = ctx.trainer.strategy.broadcast(decided)
        if problem is not None:
            raise FileExistsError(problem)

    def on_epoch_end(self) -> None:
        self._is_unsaved = True
        if self.ctx.epoch % self.freq == 0:
            self._save()

    def on_end(self) -> None:
        if self._is_unsaved:
            self._save()

    def state_dict(self) -> dict[str, str] | None:
        return None if self._folder is None else {"path": str(self._folder)}

    def load_state_dict(self, state_dict: dict[str, str] | None) -> None:
        self._resumed_folder = None if state_dict is None else state_dict["path"]

    def _check_order(self) -> None:
        callbacks = self.ctx.callbacks
        behind = list(callbacks)[[*callbacks.values()].index(self) + 1 :]
        late = [id for id in behind if _changes_its_state_late(callbacks[id])]
        if late:
            raise RuntimeError(
                f"{listed(late)} would change a state in epoch_end or end after the checkpoint was saved. Give "
                "callbacks with a state a weight below infinity, or put the checkpoint last."
            )

    def _decide_folder(self) -> tuple[Path, str | None]:
        """The folder of this fit, and what is wrong with it."""
        path = folder("the value of path()", self.path()) if callable(self.path) else self.path
        trains = self.ctx.total_epochs is None or self.ctx.total_epochs > self.ctx.epoch
        return path, self._problem(path) if trains and not self._is_dry_run() else None

    def _problem(self, path: Path) -> str | None:
        if not path.exists():
            return None
        if not path.is_dir():
            return f"Expected path to be a folder for checkpoints but {path} is a file."
        names = sorted(entry.name for entry in path.iterdir())
        checkpoints = _complete(path)
        if not checkpoints:
            others = [name for name in names if not _BEGUN.fullmatch(name)]
            return f"The folder {path} holds other things, {others[0]!r} for one. Use a new folder." if others else None
        newest, total = max(checkpoints), self.ctx.total_epochs
        remedy = f"Use a new folder, or resume that run: trainer.fit(..., ckpt_path=latest_checkpoint({str(path)!r}))"
        if total is not None and total <= newest:
            remedy += f", with max_epochs above {newest}"
        if newest > self.ctx.epoch:
            return (
                f"The folder {path} holds checkpoints up to epoch {newest}, but this run starts after epoch "
                f"{self.ctx.epoch} and would write among them. {remedy}."
            )
        if self.ctx.resumed and not self._wrote(path):
            return f"The folder {path} holds checkpoints of another run than the one that is resumed. {remedy}."
        return None

    def _wrote(self, path: Path) -> bool:
        """Whether the checkpoint that this fit continues lies in the folder, or says that its run wrote there."""
        resumed = self.ctx.trainer.ckpt_path
        folders = [self._resumed_folder, None if resumed is None else Path(resumed).parent]
        return any(other is not None and Path(other).resolve() == path.resolve() for other in folders)

    def _is_dry_run(self) -> bool:
        return bool(self.ctx.trainer.fast_dev_run)  # type: ignore[attr-defined]  # set where mypy does not look

    def _save(self) -> None:
        trainer, epoch = self.ctx.trainer, self.ctx.epoch
        if self._is_dry_run():
            return
        assert self._folder is not None, "begin has decided it"
        complete = self._folder / f"epoch{epoch}.ckpt"
        begun = self._folder / f".{complete.name}.part"
        if trainer.is_global_zero:
            if complete.exists() and epoch != self._epoch_at_begin:
                raise FileExistsError(f"{complete} has appeared while this run was training: another run writes there.")
            self._folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self._folder)
        trainer.strategy.barrier("the folder of checkpoints is ready")
        trainer.save_checkpoint(begun)  # returns when every rank has written its part
        if trainer.is_global_zero:
            for entry in (begun, *begun.rglob("*")):
                _fsync(entry)
            if complete.is_dir():
                shutil.rmtree(complete)  # of the epoch, cut short then, with whose rest this run began
            begun.replace(complete)
            _fsync(self._folder)
        trainer.strategy.barrier("the checkpoint is complete")
        self._is_unsaved = False


def latest_checkpoint(path: AnyPath) -> Path | None:
    """The newest complete checkpoint that `CallbackSetCheckpoint` has saved in a folder, or None.

    Example:
        >>> from callbacksets import latest_checkpoint
        >>> latest_checkpoint("checkpoints/of-a-run-that-never-was") is None
        True

    Args:
        path: The folder. If it does not exist, there is no checkpoint in it.

    Returns:
        The path of a file, or of a folder with a sharded checkpoint, for `trainer.fit(ckpt_path=...)`. None there
        starts a new run.

    Raises:
        TypeError, ValueError: For what is no path of a folder.

    mlr3torch: `resume`, the parameter of a learner.
    """
    path = folder("path", path)
    if path.is_file():
        raise ValueError(f"Expected path to be a folder of checkpoints but {path} is a file.")
    checkpoints = _complete(path)
    return checkpoints[max(checkpoints)] if checkpoints else None


def _complete(path: Path) -> dict[int, Path]:
    """The complete checkpoints in a folder by epoch."""
    entries = path.iterdir() if path.exists() else ()
    return {int(match[1]): entry for entry in entries if (match := _COMPLETE.fullmatch(entry.name))}


def _changes_its_state_late(callback: CallbackSet) -> bool:
    if isinstance(callback, CallbackSetCheckpoint):
        return False  # its state is not restored
    has_state = getattr(callback.state_dict, "__func__", None) is not CallbackSet.state_dict
    return has_state and any(stage in callback.stages for stage in ("on_epoch_end", "on_end"))


def _remove_leftovers(path: Path) -> None:
    """Remove what a run that was killed had begun to write."""
    for entry in path.iterdir():
        if _BEGUN.fullmatch(entry.name):
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _fsync(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder: a rename may overtake what was written before."""
    if os.name == "posix":  # elsewhere, folders cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
