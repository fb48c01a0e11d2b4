"""The moments of a fit at which checkpoints are written."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

_WHERE = {
    "on_train_start": "before epoch {epoch}",
    "on_train_epoch_start": "at the start of epoch {epoch}",
    "on_train_batch_end": "after batch {batch} of epoch {epoch}",
    "on_validation_batch_end": "after batch {batch} of the validation of epoch {epoch}",
    "on_validation_end": "after the validation, before the end of epoch {epoch}",
    "on_train_epoch_end": "at the end of epoch {epoch}",
}
"""Lightning's hooks in which checkpoints are written, each with what has just happened."""


@dataclass(frozen=True)
class SavePoint:
    """A moment at which a checkpoint is written: in which hook of Lightning, in which epoch, after which batch."""

    hook: str
    epoch: int
    batch: int = 0

    @property
    def in_epoch(self) -> bool:
        """Whether the epoch has begun and not ended yet."""
        return self.hook not in ("on_train_start", "on_train_epoch_end")

    @property
    def in_validation(self) -> bool:
        """Whether a validation has begun and not ended yet."""
        return self.hook == "on_validation_batch_end"

    def __str__(self) -> str:
        return _WHERE[self.hook].format(epoch=self.epoch, batch=self.batch)


@dataclass
class Checkpoints(L.Callback):
    """Writes checkpoints between the batches of a fit and inside its validations, each with its working directory.

    Args:
        folder: The folder for the checkpoints.
        place: The working directory of the fit. It is copied with each checkpoint.
        count: A function that returns the number of rows traced so far.
    """

    folder: Path
    place: Path
    count: Callable[[], int]
    written: dict[SavePoint, int] = field(default_factory=dict)

    def path(self, moment: SavePoint) -> Path:
        """The checkpoint of a moment."""
        return self.folder / f"{moment.hook}-{moment.epoch}-{moment.batch}.ckpt"

    def place_at(self, moment: SavePoint) -> Path:
        """The copy of the working directory from that moment."""
        return self.path(moment).with_suffix(".place")

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._save(trainer, "on_train_start")

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._save(trainer, "on_train_epoch_start")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        n = trainer.num_training_batches
        if batch_idx + 1 in (1, n - 1, n):
            self._save(trainer, "on_train_batch_end", batch_idx + 1)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        done = sum(trainer.num_val_batches[:dataloader_idx]) + batch_idx + 1
        if done in (1, sum(trainer.num_val_batches)) and not trainer.sanity_checking:
            self._save(trainer, "on_validation_batch_end", int(done))

    def on_validation_end(self, trainer: L.Trainer, *args: Any) -> None:
        if not trainer.sanity_checking:
            self._save(trainer, "on_validation_end")

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._save(trainer, "on_train_epoch_end")

    def _save(self, trainer: L.Trainer, hook: str, batch: int = 0) -> None:
        moment = SavePoint(hook, trainer.current_epoch + 1, batch)
        trainer.save_checkpoint(self.path(moment))
        shutil.copytree(self.place, self.place_at(moment))
        self.written[moment] = self.count()
