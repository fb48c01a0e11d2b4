"""The moments of a fit at which checkpoints are written."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning as L

Kind = Literal["batch", "inside", "validation", "epoch"]


@dataclass(frozen=True)
class Moment:
    """A moment at which a checkpoint is written: what has just happened, and in which epoch."""

    kind: Kind
    epoch: int
    batch: int = 0

    @property
    def in_epoch(self) -> bool:
        """Whether the epoch has not ended yet."""
        return self.kind != "epoch"

    def __str__(self) -> str:
        where = {
            "batch": f"after batch {self.batch} of",
            "inside": "inside the validation of",
            "validation": "after the validation, before the end of",
            "epoch": "at the end of",
        }
        return f"{where[self.kind]} epoch {self.epoch}"


@dataclass
class Checkpoints(L.Callback):
    """Writes checkpoints at the moments at which Lightning's own callbacks can, and copies the fit's working directory.

    Args:
        folder: The folder for the checkpoints.
        place: The working directory of the fit. It is copied with each checkpoint.
        count: A function that returns the number of rows traced so far.
    """

    folder: Path
    place: Path
    count: Callable[[], int]
    written: dict[Moment, int] = field(default_factory=dict)

    def path(self, moment: Moment) -> Path:
        """The checkpoint of a moment."""
        return self.folder / f"{moment.kind}-{moment.epoch}-{moment.batch}.ckpt"

    def place_at(self, moment: Moment) -> Path:
        """The copy of the working directory from that moment."""
        return self.path(moment).with_suffix(".place")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        n = trainer.num_training_batches
        if n > 1 and batch_idx + 1 == (1 if trainer.current_epoch % 2 or n == float("inf") else n - 1):
            self._save(trainer, "batch", batch_idx + 1)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == dataloader_idx == 0:
            self._save(trainer, "inside")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, "epoch")

    def _save(self, trainer: L.Trainer, kind: Kind, batch: int = 0) -> None:
        if trainer.sanity_checking:
            return
        moment = Moment(kind, trainer.current_epoch + 1, batch)
        trainer.save_checkpoint(self.path(moment))
        shutil.copytree(self.place, self.place_at(moment))
        self.written[moment] = self.count()
