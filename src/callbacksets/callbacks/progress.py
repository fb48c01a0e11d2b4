"""Showing the progress of training."""

import time
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.base import CallbackSet
from callbacksets.callbacks.best import Best, best_so_far
from callbacksets.checks import flag, whole_number
from callbacksets.show import epochs
from callbacksets.show.notebook import Notebook, in_notebook
from callbacksets.show.terminal import Terminal


class CallbackSetProgress(CallbackSet):
    """Shows the progress of training, the scores of every epoch and the total time.

    In a terminal it shows bars for training and validation, and prints a line with the scores after every epoch. In a
    notebook it shows one block: a bar with the elapsed and the remaining time, the best score so far, the patience of
    early stopping, and a table of all epochs. The table stays, also if training fails or is interrupted. Only rank zero
    shows anything.

    Its state is `elapsed`, the seconds of training, and `epochs`, the columns of the table. A resumed run continues
    both.

    Example:
        >>> from callbacksets import CallbackSetAdapter, CallbackSetProgress
        >>> adapter = CallbackSetAdapter([CallbackSetProgress(digits=3)])

    Args:
        digits: The number of digits after the decimal point.
        plot: Whether a notebook also shows the curves of the scores. They are updated at the end of epochs. Needs
            matplotlib.

    Raises:
        TypeError, ValueError: If an argument is wrong.
        ModuleNotFoundError: In a fit, if `plot=True` and matplotlib is not installed.

    mlr3torch: `t_clbk("progress")`.
    """

    reads_y_hats: bool = False

    def __init__(self, digits: int = 2, plot: bool = False) -> None:
        self.digits: int = whole_number("digits", digits, at_least=0)
        self.plot: bool = flag("plot", plot)
        self._view: Terminal | Notebook | None = None
        self.start_over()

    def start_over(self) -> None:
        self._before = 0.0
        self._started: float | None = None
        self._rows: epochs.Rows = []

    def on_begin(self) -> None:
        self._started = time.monotonic()
        if self.ctx.trainer.progress_bar_callback is not None:
            rank_zero_warn(
                "Lightning's progress bar and the callback 'progress' are both active. "
                "Switch off Lightning's: Trainer(enable_progress_bar=False)."
            )
        if self.ctx.trainer.is_global_zero:
            self._view = Notebook(self, plot=self.plot) if in_notebook() else Terminal(self.digits)
            self._view.began(self.ctx)

    def on_batch_end(self) -> None:
        if self._view is not None:
            self._view.trained_batch(self.ctx)

    def on_batch_valid_end(self) -> None:
        if self._view is not None:
            self._view.validated_batch(self.ctx)

    def on_valid_end(self) -> None:
        if self._view is not None:
            self._view.validated(self.ctx)

    def on_epoch_end(self) -> None:
        row = epochs.row_of(self.ctx.epoch, self.ctx.last_scores_train, self.ctx.last_scores_valid)
        epochs.add(self._rows, row)
        row["seconds"] = self.elapsed() - sum(one.get("seconds", 0.0) for one in self._rows)
        if self._view is not None:
            self._view.ended_epoch(self.ctx)

    def on_end(self) -> None:
        total, before = self.ctx.total_epochs, f", {self._before:.1f} s of them before this run" if self._before else ""
        of = f" of {total}" if total is not None and total > self.ctx.epoch else ""
        if self._view is not None:
            self._view.ended(self.ctx, f"Trained {self.ctx.epoch}{of} epochs in {self.elapsed():.1f} s{before}.")

    def on_exit(self) -> None:
        if self._view is not None:
            self._view.left(self.ctx)
            self._view = None
        self._before, self._started = self.elapsed(), None

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self.elapsed(), "epochs": self.columns()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["elapsed"]
        self._rows = epochs.as_rows(state_dict.get("epochs", {}))  # checkpoints of version 0.1 have no "epochs"

    def __getstate__(self) -> dict[str, Any]:
        # bars hold streams and locks that cannot be copied, and a copy shows nothing in this fit
        return super().__getstate__() | {"_view": None, "_before": self.elapsed(), "_started": None}

    def columns(self) -> dict[str, list[Any]]:
        """The table of the epochs: `epoch`, `train.<name>`, `valid.<name>`, `seconds`."""
        return epochs.as_columns(self._rows)

    def best(self) -> Best | None:
        """The best epoch so far, with the score that decides; only during a fit."""
        return best_so_far(self.ctx, self._rows)

    def elapsed(self) -> float:
        """The seconds of training, including the runs that this one resumes."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)
