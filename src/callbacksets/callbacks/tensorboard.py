"""Writing scores for TensorBoard."""

import importlib.util
from os import PathLike
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from callbacksets.base import CallbackSet
from callbacksets.checks import flag, folder, is_below_a_file


class CallbackSetTB(CallbackSet):
    """Writes the scores of every epoch as TensorBoard events, and optionally the loss of every batch.

    The tags of the scores are `train.<name>` and `valid.<name>`; their step is the epoch. The tag of the loss is
    `train.last_loss`; its step is `ctx.global_step`. `tensorboard --logdir <path>` shows the events. Nothing is
    written with `fast_dev_run`.

    Example:
        >>> from callbacksets import CallbackSetTB
        >>> CallbackSetTB("runs/first", log_train_loss=True)
        <CallbackSetTB: on_begin, on_batch_end, on_epoch_end, on_exit>

    Args:
        path: The folder. It may be new or empty. If it contains events, new ones are added.
        log_train_loss: Whether to write `ctx.last_loss` at the end of every batch. This copies it from the device.

    Raises:
        TypeError, ValueError: If an argument is wrong.
        ModuleNotFoundError: If TensorBoard is not installed.
        FileExistsError: In `on_begin`, if the folder contains other files, or if the path is a file.

    mlr3torch: `t_clbk("tb")`.
    """

    reads_y_hats: bool = False

    def __init__(self, path: str | PathLike[str], log_train_loss: bool = False) -> None:
        self.path: Path = folder("path", path)
        if not flag("log_train_loss", log_train_loss):
            self.on_batch_end = None  # type: ignore[assignment, method-assign]  # switches the stage off
        if not any(importlib.util.find_spec(package) for package in ("tensorboard", "tensorboardX")):
            raise ModuleNotFoundError("CallbackSetTB needs TensorBoard. Install it: pip install tensorboard.")
        self._logger: TensorBoardLogger | None = None

    def on_begin(self) -> None:
        if self.ctx.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set where mypy does not look
            return
        _check_folder(self.path)
        # it creates the folder with the first event, on rank zero; a name or version would add subfolders
        self._logger = TensorBoardLogger(self.path, name="", version="")

    def on_epoch_end(self) -> None:
        for loop, scores in (("train", self.ctx.last_scores_train), ("valid", self.ctx.last_scores_valid)):
            self._log({f"{loop}.{name}": score for name, score in (scores or {}).items()}, step=self.ctx.epoch)

    def on_exit(self) -> None:
        if self._logger is not None:
            self._logger.finalize("finished")  # with "success" it would add a file of hyperparameters
            self._logger = None

    def on_batch_end(self) -> None:
        if self._logger is not None and (loss := self.ctx.last_loss) is not None:
            self._log({"train.last_loss": loss}, step=self.ctx.global_step)

    def _log(self, values: dict[str, float], step: int) -> None:
        if self._logger is not None:
            self._logger.log_metrics(values, step=step)


def _check_folder(path: Path) -> None:
    if (file := is_below_a_file(path)) is not None:
        raise FileExistsError(f"Expected path to be a folder for TensorBoard's events but {file} is a file.")
    contents = list(path.iterdir()) if path.exists() else []
    if contents and not any(entry.name.startswith("events.out.tfevents.") for entry in contents):
        raise FileExistsError(
            f"The folder {path} contains other files than TensorBoard's events, such as {contents[0].name!r}. "
            "Give a new or empty folder."
        )
