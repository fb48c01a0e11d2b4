"""What happens when training is interrupted: by a signal or by an exception."""

import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import distributed

from callbacksets.fit.lightning import batch_progress, callbacks_of, epoch_progress

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


_PATIENCE = timedelta(seconds=10)  # how long a rank waits for the others when an exception was raised


class Interrupts(Callback):
    """Saves before any other callback hears of an exception, and lets the batch under way end before a signal counts.

    It is the first of the Trainer's callbacks from `on_begin` until the fit ends. So the weights are those from before
    `on_exit`.

    On one rank, a signal takes the way that SIGTERM takes in Lightning: an exception after the batch, in training and
    in validation. Lightning has no safe way for several ranks. There, its handler of SIGTERM communicates wherever the
    rank is, and so the ranks may wait for each other for ever. So this handler only notes the signal, and the callback
    asks for it after each batch. An exception saves if all ranks raise one at the same place, outside of a step.

    Args:
        trainer: The Trainer of the fit.
        save: A function that saves what has not been saved yet.
    """

    def __init__(self, trainer: "Trainer", save: Callable[[], None]) -> None:
        self._save, self._is_alone = save, trainer.world_size == 1
        self._noted: int | None = None
        self._former: dict[int, Any] = {}
        # its own group: in that of training, some rank may still wait for the others
        has_group = not self._is_alone and distributed.is_initialized() and distributed.is_gloo_available()
        self._group: Any = distributed.new_group(backend="gloo", timeout=_PATIENCE) if has_group else None
        trainer.callbacks = [self, *callbacks_of(trainer)]  # type: ignore[attr-defined]  # set where mypy does not look
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT,) if self._is_alone else (signal.SIGINT, signal.SIGTERM):
                if callable(former := signal.getsignal(signum)):  # a shell may have its children ignore Ctrl-C
                    self._former[signum] = former
                    signal.signal(signum, self._note)

    @property
    def ends_training(self) -> bool:
        """Whether training has to end after this batch. On one rank, Lightning does that."""
        return self._noted is not None and not self._is_alone

    def _note(self, signum: int, frame: FrameType | None) -> None:
        handle = self._former[signum]
        if self._noted is None:
            self._noted = signum
            if not self._is_alone:
                return
            if callable(of_lightning := signal.getsignal(signal.SIGTERM)):  # not on Windows
                handle = of_lightning
        handle(signum, frame)

    def on_exception(self, trainer: "Trainer", pl_module: Any, exception: BaseException) -> None:
        try:
            if self._is_alone:
                self._save()
            elif self._are_together(trainer):
                status = trainer.state.status
                trainer.state.status = type(status).RUNNING  # each rank's part of the checkpoint is within reach
                try:
                    self._save()
                finally:
                    trainer.state.status = status
        except BaseException as failure:  # it must not hide the exception, and the other callbacks must hear of that
            rank_zero_warn(
                f"No checkpoint could be saved when training was interrupted: {type(failure).__name__}: {failure}. The "
                "newest one from before is still there."
            )
        finally:
            self._release(trainer)
        if isinstance(exception, SystemExit) and exception.code is None:
            # Lightning gives none after SIGTERM. The shell would take the run for finished
            exception.code = 128 + (self._noted or signal.SIGTERM)

    def _are_together(self, trainer: "Trainer") -> bool:
        """Whether all ranks handle an exception, at the same place. The others may be gone, or be inside a step."""
        batches, epochs = batch_progress(trainer), epoch_progress(trainer)
        place = (batches.total, epochs.current, trainer.validating)
        places = [None] * trainer.world_size
        try:
            distributed.monitored_barrier(self._group, _PATIENCE)
            distributed.all_gather_object(places, place, group=self._group)
        except (RuntimeError, ValueError):  # a rank is not there, or there is no group
            return False
        return batches.total.ready == batches.total.processed and all(one == place for one in places)

    def teardown(self, trainer: "Trainer", pl_module: Any, stage: str) -> None:
        self._release(trainer)
        if self._noted is not None:  # it came too late to end training
            signal.raise_signal(self._noted)

    def _release(self, trainer: "Trainer") -> None:
        trainer.callbacks = [one for one in callbacks_of(trainer) if one is not self]  # type: ignore[attr-defined]
        for signum, former in self._former.items():
            if signal.getsignal(signum) == self._note:
                signal.signal(signum, former)
        self._group = None
