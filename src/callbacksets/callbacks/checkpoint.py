"""Saving a run so that it can be resumed."""

import difflib
import math
import os
import time
import uuid
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacksets.base import CallbackSet
from callbacksets.callbacks import checkpoint_files as files
from callbacksets.callbacks.checkpoint_files import Reached
from callbacksets.callbacks.interrupts import Interrupts
from callbacksets.checks import flag, folder, is_below_a_file, listed, number, whole_number
from callbacksets.fit import lightning

AnyPath = str | os.PathLike[str]


class CallbackSetCheckpoint(CallbackSet):
    """Saves a Lightning checkpoint every few epochs, when training ends, and if asked also inside epochs.

    A checkpoint is `epoch<n>.ckpt` in the folder, or `epoch<n>-batch<k>.ckpt` inside an epoch. It is a file, or a
    folder if the strategy writes sharded checkpoints. It gets that name only when it is complete. So a killed run can
    always be resumed:

        trainer.fit(module, loader, ckpt_path=latest_checkpoint(path))

    A checkpoint inside an epoch is removed when a later one is complete. The callback runs after all others, so that a
    checkpoint contains the results of the other callbacks. Its state is `path`; a resumed run uses its own argument
    `path`. Nothing is saved if nothing was trained, or with `fast_dev_run`.

    Example:
        >>> from callbacksets import CallbackSetCheckpoint
        >>> CallbackSetCheckpoint("checkpoints/first", freq=5, keep=2)
        <CallbackSetCheckpoint: on_begin, on_epoch_end, on_end>

    Args:
        path: The folder, or a function without parameters that returns it. The function is called once in every fit.
            The folder may be new, empty, or contain the checkpoints of the run that is resumed.
        freq: Save every `freq` epochs; at least 1.
        keep: How many checkpoints of this run stay; at least 1. An older one is removed when a newer one is complete.
            None: all of them stay.
        every_minutes: Save after a batch, too, when so many minutes have passed since the last save; at least 0.
            None: save at the ends of epochs only. On several ranks, rank zero decides, which takes a little
            communication after every batch.
        on_interrupt: Save on Ctrl-C, SIGTERM and exceptions, too, before `on_exit`. Training ends after the batch that
            is under way. A second Ctrl-C ends it at once. On several ranks, a signal to one rank ends all after the
            same batch, which takes a little communication after every batch. An exception saves there only if all
            ranks raise one at the same place outside of a step: otherwise some may be gone.

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
    on_batch_end: Callable[[], None] | None

    def __init__(
        self,
        path: AnyPath | Callable[[], AnyPath],
        freq: int,
        keep: int | None = None,
        every_minutes: float | None = None,
        on_interrupt: bool = False,
    ) -> None:
        self.path: Callable[[], AnyPath] | Path = path if callable(path) else folder("path", path)
        self.freq: int = whole_number("freq", freq, at_least=1)
        self.keep: int | None = None if keep is None else whole_number("keep", keep, at_least=1)
        self.every_minutes: float | None = (
            None if every_minutes is None else number("every_minutes", every_minutes, at_least=0)
        )
        self._on_interrupt: bool = flag("on_interrupt", on_interrupt)
        if every_minutes is not None:
            self.on_batch_end = self._save_in_epoch
        self.start_over()

    def start_over(self) -> None:
        self._folder: Path | None = None
        self._resumed_folder: str | None = None
        self._known: set[Reached] = set()
        self._interrupts: Interrupts | None = None
        if self.every_minutes is None:
            vars(self).pop("on_batch_end", None)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_interrupts": None}  # a copy is not part of the fit

    def on_begin(self) -> None:
        trainer = self.ctx.trainer
        self._check_order()
        if lightning.is_a(trainer.strategy.checkpoint_io, "AsyncCheckpointIO"):
            raise RuntimeError(
                "AsyncCheckpointIO writes checkpoints in the background, so CallbackSetCheckpoint cannot tell when a "
                "checkpoint is complete. Use only one of them."
            )
        self._note_start()
        # rank zero decides: a function may return different folders on the ranks, and files may appear in between
        decided = (*self._decide_folder(), uuid.uuid4().hex) if trainer.is_global_zero else (Path(), None, "")
        self._folder, problem, self._run = trainer.strategy.broadcast(decided)
        if problem is not None:
            raise problem
        self._known = set(files.complete(self._folder))
        if self._on_interrupt and not self._is_dry_run():
            self._interrupts = Interrupts(trainer, self._save_interrupted)
            if trainer.world_size > 1:
                self.on_batch_end = self._save_in_epoch

    def on_epoch_end(self) -> None:
        self._epochs, self._batches_before = self.ctx.epoch, self._trained
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

    # --- where the run is --------------------------------------------------------------------------------------------

    @property
    def _trained(self) -> int:
        """The batches trained over all epochs. `ctx.global_step` also counts the one under way."""
        return int(lightning.batch_progress(self.ctx.trainer).total.processed)

    @property
    def _reached(self) -> Reached:
        return Reached(self._epochs, self._trained - self._batches_before)

    def _note_start(self) -> None:
        epochs, batches = lightning.epoch_progress(self.ctx.trainer), lightning.batch_progress(self.ctx.trainer)
        is_inside = epochs.total.ready > epochs.total.completed  # Lightning 2.4 has reset `current`
        self._epochs = epochs.current.completed
        self._batches_before = self._trained - (batches.current.processed if is_inside else 0)
        self._saved_after, self._saved_at = self._trained, time.monotonic()
        self._is_unsaved = False

    # --- the folder --------------------------------------------------------------------------------------------------

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
            files.try_to_write(path)  # now, because the first checkpoint may come after hours
        except OSError as error:
            return path, type(error)(f"Expected path to be a folder for checkpoints but {error}. Give another path.")
        return path, None

    def _problem(self, path: Path) -> str | None:
        if (file := is_below_a_file(path)) is not None:
            return f"Expected path to be a folder for checkpoints but {file} is a file."
        if not path.exists():
            return None
        checkpoints = files.complete(path)
        if not checkpoints:
            names = files.others(path)
            return f"The folder {path} contains other files, like {names[0]!r}. Use a new folder." if names else None
        newest, total = max(checkpoints), self.ctx.total_epochs
        remedy = f"Use a new folder, or resume that run: trainer.fit(..., ckpt_path=latest_checkpoint({str(path)!r}))"
        if total is not None and total <= newest.epochs:
            remedy += f", with max_epochs above {newest.epochs}"
        if newest > max(self._reached, Reached(self.ctx.epoch)):
            return (
                f"The folder {path} contains checkpoints up to {newest}, but this run starts after {self._reached} "
                f"and would mix its checkpoints with them. {remedy}."
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

    # --- saving ------------------------------------------------------------------------------------------------------

    def _save_in_epoch(self) -> None:
        """Save after a batch if it is time, or if a signal has come. All ranks do it after the same batch."""
        minutes = (time.monotonic() - self._saved_at) / 60
        is_late = self.every_minutes is not None and minutes >= self.every_minutes
        is_signalled = self._interrupts is not None and self._interrupts.ends_training
        if (trainer := self.ctx.trainer).world_size > 1:
            wanted = [is_late and trainer.is_global_zero, is_signalled]
            told = torch.tensor(wanted, dtype=torch.int, device=trainer.strategy.root_device)
            is_late, is_signalled = trainer.strategy.reduce(told, reduce_op="sum").bool().tolist()
        if is_late or is_signalled:
            self._save()
        if is_signalled:
            raise SIGTERMException

    def _save_interrupted(self) -> None:
        if self._is_unsaved or self._trained > self._saved_after:
            self._save()
        if self._known:
            newest = max(self._known).name
            rank_zero_info(f"Training was interrupted. The newest checkpoint in {self._folder} is {newest}.")

    def _save(self) -> None:
        trainer, reached = self.ctx.trainer, self._reached
        if self._is_dry_run():
            return
        assert self._folder is not None, "on_begin has set it"
        begun = files.unfinished(self._folder, reached, self._run)
        problem = self._prepare(self._folder) if trainer.is_global_zero else None
        if (problem := trainer.strategy.broadcast(problem)) is not None:
            raise FileExistsError(problem)
        try:
            trainer.save_checkpoint(begun, weights_only=False)  # returns after every rank has written its part
            if trainer.is_global_zero:
                # replaces our own of the same moment, or of the same epoch when it was cut short
                files.finish(begun, self._folder / reached.name, replace=reached in self._known)
        finally:
            if trainer.is_global_zero:
                files.remove(begun)
        trainer.strategy.barrier("the checkpoint is complete")
        self._known.add(reached)
        for old in list(files.superseded(self._known, reached, self.keep)):
            if trainer.is_global_zero:
                files.drop(self._folder, old, self._run)
            self._known.remove(old)
        self._saved_after, self._saved_at = self._trained, time.monotonic()
        self._is_unsaved = False

    def _prepare(self, path: Path) -> str | None:
        """Prepare the folder for writing. Return the problem with it, or None."""
        path.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        files.remove_leftovers(path, self._known)
        for other in set(files.complete(path)) - self._known:
            return files.appeared(path / other.name)
        return None


def latest_checkpoint(path: AnyPath) -> Path | None:
    """The newest complete checkpoint that `CallbackSetCheckpoint` has saved in a folder; None if there is none.

    The newest is the one that has come furthest in training, whenever its file was written.

    Example:
        >>> from callbacksets import latest_checkpoint
        >>> latest_checkpoint("checkpoints/of-a-run-that-never-was") is None
        True

    Args:
        path: The folder. It does not have to exist.

    Returns:
        The path of a file, or of a folder with a sharded checkpoint, for `trainer.fit(ckpt_path=...)`. With None,
        `trainer.fit()` starts a new run. It warns if there are other checkpoints, in the folder or one folder below. If
        the folder does not exist, it logs the name of a similar one that has checkpoints.

    Raises:
        TypeError, ValueError: If `path` is not the path of a folder, for example if it is a file.

    mlr3torch: `resume`, the parameter of a learner.
    """
    path = folder("path", path)
    if path.is_file():
        raise ValueError(f"Expected path to be a folder of checkpoints but {path} is a file.")
    if checkpoints := files.complete(path):
        return checkpoints[max(checkpoints)]
    if (other := next(chain(path.glob("*.ckpt"), path.glob("*/*.ckpt")), None)) is not None:
        rank_zero_warn(
            f"{path} has no checkpoint of CallbackSetCheckpoint, but there is {other}. Give the folder itself. A "
            "checkpoint of ModelCheckpoint is resumed with its own path: trainer.fit(..., ckpt_path=...)."
        )
    elif not path.exists() and path.parent.is_dir():
        beside = [other.name for other in path.parent.iterdir() if files.complete(other)]
        if near := difflib.get_close_matches(path.name, beside, n=1):
            rank_zero_info(f"{path} does not exist, so a new run starts. {path.parent / near[0]} has checkpoints.")
    return None


def _changes_its_state_late(callback: CallbackSet) -> bool:
    if isinstance(callback, CallbackSetCheckpoint):
        return False  # its state is not restored
    has_state = getattr(callback.state_dict, "__func__", None) is not CallbackSet.state_dict
    return has_state and any(stage in callback.stages for stage in ("on_epoch_end", "on_end"))
