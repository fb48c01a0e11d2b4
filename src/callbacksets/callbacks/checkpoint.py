"""Saving a run so that it can be resumed."""

import math
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.base import CallbackSet
from callbacksets.checks import folder, is_below_a_file, listed, whole_number
from callbacksets.fit.lightning import is_a

AnyPath = str | os.PathLike[str]

_COMPLETE = re.compile(r"epoch([1-9]\d*)\.ckpt")
_UNFINISHED = re.compile(r"\.(?P<name>epoch(?P<epoch>[1-9]\d*)\.ckpt)\..*[0-9a-f]{8}\.(?P<kind>part|old)")
"""The name of a checkpoint that a run is writing, or was writing when it was killed.

`old` is a complete checkpoint that is being replaced.
"""
_A_DAY = 24 * 60 * 60  # seconds


class CallbackSetCheckpoint(CallbackSet):
    """Saves a Lightning checkpoint every few epochs, and when training ends.

    A checkpoint is `epoch<n>.ckpt` in the folder. It is a file, or a folder if the strategy writes sharded checkpoints.
    It gets that name only when it is complete. So a killed run can always be resumed:

        trainer.fit(module, loader, ckpt_path=latest_checkpoint(path))

    The callback runs after all others, so that a checkpoint contains the results of the other callbacks. Its state is
    `path`; a resumed run uses its own argument `path`. Nothing is saved if nothing was trained, or with `fast_dev_run`.

    Example:
        >>> from callbacksets import CallbackSetCheckpoint
        >>> CallbackSetCheckpoint("checkpoints/first", freq=5)
        <CallbackSetCheckpoint: on_begin, on_epoch_end, on_end>

    Args:
        path: The folder, or a function without parameters that returns it. The function is called once in every fit.
            The folder may be new, empty, or contain the checkpoints of the run that is resumed.
        freq: Save every `freq` epochs; at least 1.

    Raises:
        TypeError, ValueError: If an argument is wrong.
        FileExistsError: In `on_begin`, if the folder contains checkpoints of another run, or other files. Later, if
            another run starts to write to the folder.
        OSError: In `on_begin`, if the folder cannot be made or written.
        RuntimeError: In `on_begin`, if a callback would change its state after a checkpoint was saved, or if
            checkpoints are written asynchronously.

    mlr3torch: `t_clbk("checkpoint")`.
    """

    reads_y_hats: bool = False
    weight: float = math.inf
    is_restored: bool = False

    def __init__(self, path: AnyPath | Callable[[], AnyPath], freq: int) -> None:
        self.path: Callable[[], AnyPath] | Path = path if callable(path) else folder("path", path)
        self.freq: int = whole_number("freq", freq, at_least=1)
        self.start_over()

    def start_over(self) -> None:
        self._folder: Path | None = None
        self._resumed_folder: str | None = None
        self._is_unsaved = False
        self._known: set[int] = set()

    def on_begin(self) -> None:
        ctx = self.ctx
        self._check_order()
        if is_a(ctx.trainer.strategy.checkpoint_io, "AsyncCheckpointIO"):
            raise RuntimeError(
                "AsyncCheckpointIO writes checkpoints in the background, so CallbackSetCheckpoint cannot tell when a "
                "checkpoint is complete. Use only one of them."
            )
        self._is_unsaved = False
        # rank zero decides: a function may return different folders on the ranks, and files may appear in between
        decided = (*self._decide_folder(), uuid.uuid4().hex) if ctx.trainer.is_global_zero else (Path(), None, "")
        self._folder, problem, self._run = ctx.trainer.strategy.broadcast(decided)
        if problem is not None:
            raise problem
        self._known = set(_complete(self._folder))

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
                f"{listed(late)} would run on_epoch_end or on_end after the checkpoint was saved, so the checkpoint "
                "would miss that change of state. Give callbacks with a state a weight below infinity, or put the "
                "checkpoint last."
            )

    def _decide_folder(self) -> tuple[Path, OSError | None]:
        """The folder of this fit, and the problem with it, or None."""
        path = folder("the value of path()", self.path()) if callable(self.path) else self.path
        trains = self.ctx.total_epochs is None or self.ctx.total_epochs > self.ctx.epoch
        if not trains or self._is_dry_run():
            return path, None
        if (problem := self._problem(path)) is not None:
            return path, FileExistsError(problem)
        try:
            _try_to_write(path)  # now, because the first checkpoint may come after hours
        except OSError as error:
            return path, type(error)(f"Expected path to be a folder for checkpoints but {error}. Give another path.")
        return path, None

    def _problem(self, path: Path) -> str | None:
        if (file := is_below_a_file(path)) is not None:
            return f"Expected path to be a folder for checkpoints but {file} is a file."
        if not path.exists():
            return None
        names = sorted(entry.name for entry in path.iterdir())
        checkpoints = _complete(path)
        if not checkpoints:
            others = [name for name in names if not _UNFINISHED.fullmatch(name)]
            return f"The folder {path} contains other files, like {others[0]!r}. Use a new folder." if others else None
        newest, total = max(checkpoints), self.ctx.total_epochs
        remedy = f"Use a new folder, or resume that run: trainer.fit(..., ckpt_path=latest_checkpoint({str(path)!r}))"
        if total is not None and total <= newest:
            remedy += f", with max_epochs above {newest}"
        if newest > self.ctx.epoch:
            return (
                f"The folder {path} contains checkpoints up to epoch {newest}, but this run starts after epoch "
                f"{self.ctx.epoch} and would mix its checkpoints with them. {remedy}."
            )
        if self.ctx.resumed and not self._wrote(path):
            return f"The folder {path} contains checkpoints of another run, not of the resumed one. {remedy}."
        return None

    def _wrote(self, path: Path) -> bool:
        """Whether the resumed checkpoint is in the folder, or was written by a run that used the folder."""
        resumed = self.ctx.trainer.ckpt_path
        folders = [self._resumed_folder, None if resumed is None else Path(resumed).parent]
        return any(other is not None and Path(other).resolve() == path.resolve() for other in folders)

    def _is_dry_run(self) -> bool:
        return bool(self.ctx.trainer.fast_dev_run)  # type: ignore[attr-defined]  # set where mypy does not look

    def _save(self) -> None:
        trainer, epoch = self.ctx.trainer, self.ctx.epoch
        if self._is_dry_run():
            return
        assert self._folder is not None, "on_begin has set it"
        complete = self._folder / f"epoch{epoch}.ckpt"
        begun = self._folder / f".{complete.name}.{self._run}.part"
        problem = self._prepare(self._folder) if trainer.is_global_zero else None
        if (problem := trainer.strategy.broadcast(problem)) is not None:
            raise FileExistsError(problem)
        try:
            trainer.save_checkpoint(begun, weights_only=False)  # returns after every rank has written its part
            if trainer.is_global_zero:
                for entry in (begun, *begun.rglob("*")):
                    _fsync(entry)
                # a known checkpoint was saved inside this epoch, and this run trained the rest of the epoch
                _name(begun, complete, replace=epoch in self._known)
                _fsync(self._folder)
        finally:
            if trainer.is_global_zero:
                _remove(begun)
        trainer.strategy.barrier("the checkpoint is complete")
        self._known.add(epoch)
        self._is_unsaved = False

    def _prepare(self, path: Path) -> str | None:
        """Prepare the folder for writing. Return the problem with it, or None."""
        for other in set(_complete(path)) - self._known:
            return _appeared(path / f"epoch{other}.ckpt")
        path.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        _remove_leftovers(path)
        return None


def latest_checkpoint(path: AnyPath) -> Path | None:
    """The newest complete checkpoint that `CallbackSetCheckpoint` has saved in a folder; None if there is none.

    Example:
        >>> from callbacksets import latest_checkpoint
        >>> latest_checkpoint("checkpoints/of-a-run-that-never-was") is None
        True

    Args:
        path: The folder. It does not have to exist.

    Returns:
        The path of a file, or of a folder with a sharded checkpoint, for `trainer.fit(ckpt_path=...)`. With None,
        `trainer.fit()` starts a new run. It warns if there are other checkpoints, in the folder or one folder below.

    Raises:
        TypeError, ValueError: If `path` is not the path of a folder, for example if it is a file.

    mlr3torch: `resume`, the parameter of a learner.
    """
    path = folder("path", path)
    if path.is_file():
        raise ValueError(f"Expected path to be a folder of checkpoints but {path} is a file.")
    if checkpoints := _complete(path):
        return checkpoints[max(checkpoints)]
    if (other := next(chain(path.glob("*.ckpt"), path.glob("*/*.ckpt")), None)) is not None:
        rank_zero_warn(
            f"{path} has no checkpoint of CallbackSetCheckpoint, but there is {other}. Give the folder itself. A "
            "checkpoint of ModelCheckpoint is resumed with its own path: trainer.fit(..., ckpt_path=...)."
        )
    return None


def _complete(path: Path) -> dict[int, Path]:
    """The complete checkpoints in a folder by epoch."""
    entries = list(path.iterdir()) if path.is_dir() else []
    complete = {int(match[1]): entry for entry in entries if (match := _COMPLETE.fullmatch(entry.name))}
    for entry in entries:
        if (match := _UNFINISHED.fullmatch(entry.name)) and match["kind"] == "old":
            complete.setdefault(int(match["epoch"]), entry)
    return complete


def _try_to_write(path: Path) -> None:
    """Make the folder and a file in it, and remove them again: nothing may ever be saved."""
    new = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
    with suppress(OSError):  # another run has begun to write there
        for one in new:
            one.rmdir()


def _changes_its_state_late(callback: CallbackSet) -> bool:
    if isinstance(callback, CallbackSetCheckpoint):
        return False  # its state is not restored
    has_state = getattr(callback.state_dict, "__func__", None) is not CallbackSet.state_dict
    return has_state and any(stage in callback.stages for stage in ("on_epoch_end", "on_end"))


def _appeared(checkpoint: Path) -> str:
    return f"{checkpoint} appeared during this run, so another run writes to the folder. Use a folder for each run."


def _name(begun: Path, complete: Path, *, replace: bool) -> None:
    """Give a complete checkpoint its final name.

    Raises:
        FileExistsError: If a checkpoint with that name exists and `replace` is False.
    """
    if replace and complete.is_dir():
        before = begun.with_suffix(".old")
        complete.rename(before)
        begun.rename(complete)
        _remove(before)
    elif replace:
        begun.replace(complete)
    elif begun.is_dir():
        try:
            begun.rename(complete)
        except OSError as error:  # raised if there is a file, or a folder that is not empty
            raise (FileExistsError(_appeared(complete)) if complete.exists() else error) from None
    else:
        try:
            os.link(begun, complete)
        except FileExistsError:
            raise FileExistsError(_appeared(complete)) from None
        except OSError:  # a file system without links
            begun.replace(complete)


def _remove_leftovers(path: Path) -> None:
    """Remove the unfinished files of killed runs. A younger one may belong to a run that is alive."""
    for entry in path.iterdir():
        match = _UNFINISHED.fullmatch(entry.name)
        if match is None or time.time() - entry.stat().st_mtime < _A_DAY:
            continue
        if match["kind"] == "part" or (path / match["name"]).exists():
            _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk: a rename may come before earlier writes."""
    if os.name == "posix":  # elsewhere, folders cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
