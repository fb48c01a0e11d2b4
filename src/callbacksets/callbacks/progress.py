"""Showing how training goes."""

import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm

from callbacksets.base import CallbackSet
from callbacksets.checks import whole_number


class CallbackSetProgress(CallbackSet):
    """Shows a bar for training and validation, the scores of every epoch and the total time.

    In a terminal every epoch leaves a line with its scores; in a notebook they stand beside the one bar. Only rank zero
    shows anything. Its state is `elapsed`, the seconds trained, over resumed runs too.

    Example:
        >>> from callbacksets import CallbackSetAdapter, CallbackSetProgress
        >>> adapter = CallbackSetAdapter([CallbackSetProgress(digits=3)])

    Args:
        digits: The number of digits of the scores after the point.

    Raises:
        TypeError, ValueError: For an argument of the wrong kind.

    mlr3torch: `t_clbk("progress")`.
    """

    reads_y_hats = False

    def __init__(self, digits: int = 2) -> None:
        self.digits = whole_number("digits", digits, at_least=0)
        self._bar: Any = None
        self._bar_valid: Any = None
        self._has_validated = False
        self.start_over()

    def start_over(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    def on_begin(self) -> None:
        self._started = time.monotonic()
        if self.ctx.trainer.progress_bar_callback is not None:
            rank_zero_warn(
                "Lightning's progress bar runs beside the callback 'progress'. "
                "Switch one of them off: Trainer(enable_progress_bar=False)."
            )

    def on_batch_end(self) -> None:
        # not in `epoch_begin`, which does not run where a run is resumed inside an epoch
        if self._bar is None:
            self._bar = self._new_bar(self._epoch(), self.ctx.trainer.num_training_batches)
        elif self.ctx.step == 1:
            self._bar.reset(self._bar.total)
            self._bar.set_description(self._epoch(), refresh=False)
        self._bar.update(self.ctx.step - self._bar.n)

    def on_batch_valid_end(self) -> None:
        if self._bar_valid is None:
            batches = self.ctx.trainer.num_val_batches
            self._bar_valid = self._new_bar("Validation", sum(batches) if isinstance(batches, list) else batches)
        elif self._has_validated:
            self._bar_valid.reset(self._bar_valid.total)
        self._has_validated = False
        self._bar_valid.update()

    def on_valid_end(self) -> None:
        self._has_validated = True
        if not _in_notebook():  # there, a new bar would be a new line, also when it is gone
            self._close_valid()

    def on_epoch_end(self) -> None:
        summary = "; ".join(
            f"{name} {self._formatted(scores)}"
            for name, scores in (
                ("training", self.ctx.last_scores_train),
                ("validation", self.ctx.last_scores_valid),
            )
            if scores
        )
        if _in_notebook() and self._bar is not None:
            self._bar.set_postfix_str(summary)
        else:
            self._write(f"{self._epoch()}: {summary or 'no scores'}")

    def on_end(self) -> None:
        before = f", {self._before:.1f} s of them before this run" if self._before else ""
        self._write(f"Trained {self.ctx.epoch} epochs in {self._elapsed():.1f} s{before}.")

    def on_exit(self) -> None:
        self._close_valid()
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._before, self._started = self._elapsed(), None

    def state_dict(self) -> dict[str, float]:
        return {"elapsed": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self._before = state_dict["elapsed"]

    def _elapsed(self) -> float:
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def _epoch(self) -> str:
        total = self.ctx.total_epochs
        return f"Epoch {self.ctx.epoch}" if total is None else f"Epoch {self.ctx.epoch}/{total}"

    def _formatted(self, scores: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {score:.{self.digits}f}" for name, score in scores.items())

    def _new_bar(self, description: str, total: float) -> Any:
        notebook = _in_notebook()
        shown = False if notebook else None  # None: not in a log file, only where there is a terminal
        return tqdm(
            desc=description,
            total=None if total == float("inf") else int(total),
            unit="batch",
            leave=notebook and description != "Validation",
            dynamic_ncols=True,
            disable=shown if self.ctx.trainer.is_global_zero else True,
        )

    def _close_valid(self) -> None:
        if self._bar_valid is not None:
            self._bar_valid.close()
            self._bar_valid = None

    def _write(self, line: str) -> None:
        if self.ctx.trainer.is_global_zero:
            tqdm.write(line)


def _in_notebook() -> bool:
    return any(cls.__name__ == "tqdm_notebook" for cls in tqdm.__mro__)  # importing it would take longer than this file
