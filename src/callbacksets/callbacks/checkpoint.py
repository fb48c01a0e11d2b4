"""Saving a run so that it can be resumed."""

import math
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

from callbacksets.base import CallbackSet
from callbacksets.checks import folder, is_below_a_file, listed, whole_number
from callbacksets.fit.lightning import is_a

AnyPath = str | os.PathLike[str]

_COMPLETE = re.compile(r"epoch([1-9]\d*)\.ckpt")
_UNFINISHED = re.compile(
    r"\.(?P<name>epoch(?P<epoch>[1-9]\d*)\.ckpt)\.(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}\.(?P<kind>part|old)"
)
"""What a run is writing, or was when it was killed; `old` is a complete one that is just being replaced."""


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
        FileExistsError: In `begin`, when the folder holds the checkpoints of another run, or other things; later, when
            another run has begun to write there.
        RuntimeError: In `begin`, when a callback with a state would change it after a checkpoint was saved, or
            checkpoints are written asynchronously.

    mlr3torch: `t_clbk("checkpoint")`.
    """

    reads_y_hats: bool = False
    weight: float = math.inf

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
                "AsyncCheckpointIO writes checkpoints later, so that CallbackSetCheckpoint cannot tell when one is "
                "complete. Use one of them without the other."
            )
        self._is_unsaved = False
        # rank zero decides: a function may return another folder on each rank, and files appear at another moment
        decided = (*self._decide_folder(), _id_of_run()) if ctx.trainer.is_global_zero else (Path(), None, "")
        self._folder, problem, self._run = ctx.trainer.strategy.broadcast(decided)
        if problem is not None:
            raise FileExistsError(problem)
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
                f"{listed(late)} would change a state in epoch_end or end after the checkpoint was saved. Give "
                "callbacks with a state a weight below infinity, or put the checkpoint last."
            )

    def _decide_folder(self) -> tuple[Path, str | None]:
        """The folder of this fit, and what is wrong with it."""
        path = folder("the value of path()", self.path()) if callable(self.path) else self.path
        trains = self.ctx.total_epochs is None or self.ctx.total_epochs > self.ctx.epoch
        return path, self._problem(path) if trains and not self._is_dry_run() else None

    def _problem(self, path: Path) -> str | None:
        if (file := is_below_a_file(path)) is not None:
            return f"Expected path to be a folder for checkpoints but {file} is a file."
        if not path.exists():
            return None
        names = sorted(entry.name for entry in path.iterdir())
        checkpoints = _complete(path)
        if not checkpoints:
            others = [name for name in names if not _UNFINISHED.fullmatch(name)]
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
        begun = self._folder / f".{complete.name}.{self._run}.part"
        problem = self._prepare(self._folder) if trainer.is_global_zero else None
        if (problem := trainer.strategy.broadcast(problem)) is not None:
            raise FileExistsError(problem)
        try:
            trainer.save_checkpoint(begun, weights_only=False)  # returns when every rank has written its part
            if trainer.is_global_zero:
                for entry in (begun, *begun.rglob("*")):
                    _fsync(entry)
                # one that is known is of the epoch, cut short then, with whose rest this run began
                _name(begun, complete, replace=epoch in self._known)
                _fsync(self._folder)
        finally:
            if trainer.is_global_zero:
                _remove(begun)
        trainer.strategy.barrier("the checkpoint is complete")
        self._known.add(epoch)
        self._is_unsaved = False

    def _prepare(self, path: Path) -> str | None:
        """Make the folder ready to be written to; gives what is wrong with it."""
        for other in set(_complete(path)) - self._known:
            return _appeared(path / f"epoch{other}.ckpt")
        path.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        return None


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
    entries = list(path.iterdir()) if path.is_dir() else []
    complete = {int(match[1]): entry for entry in entries if (match := _COMPLETE.fullmatch(entry.name))}
    for entry in entries:
        if (match := _UNFINISHED.fullmatch(entry.name)) and match["kind"] == "old":
            complete.setdefault(int(match["epoch"]), entry)
    return complete


def _changes_its_state_late(callback: CallbackSet) -> bool:
    if isinstance(callback, CallbackSetCheckpoint):
        return False  # its state is not restored
    has_state = getattr(callback.state_dict, "__func__", None) is not CallbackSet.state_dict
    return has_state and any(stage in callback.stages for stage in ("on_epoch_end", "on_end"))


def _appeared(checkpoint: Path) -> str:
    return f"{checkpoint} has appeared while this run was training: another run writes there. Use a folder for each."


def _name(begun: Path, complete: Path, *, replace: bool) -> None:
    """Give a checkpoint its name, which it takes from another only where it is to replace that.

    Raises:
        FileExistsError: When there is one of that name that is not to be replaced.
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
        except OSError as error:  # which it is for a folder with something in it, or a file
            raise (FileExistsError(_appeared(complete)) if complete.exists() else error) from None
    else:
        try:
            os.link(begun, complete)
        except FileExistsError:
            raise FileExistsError(_appeared(complete)) from None
        except OSError:  # a file system without links
            begun.replace(complete)


def _id_of_run() -> str:
    """What names the unfinished files of a run, so that another can tell whose they are."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _remove_leftovers(path: Path) -> None:
    """Remove what runs that were killed had begun to write; not what one that may be alive is writing."""
    for entry in path.iterdir():
        match = _UNFINISHED.fullmatch(entry.name)
        if match is None or match["host"] != socket.gethostname() or not _is_dead(match["pid"]):
            continue
        if match["kind"] == "part" or (path / match["name"]).exists():
            _remove(entry)


def _is_dead(pid: str) -> bool:
    if os.name != "posix":  # elsewhere, asking would end it
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder: a rename may overtake what was written before."""
    if os.name == "posix":  # elsewhere, folders cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
