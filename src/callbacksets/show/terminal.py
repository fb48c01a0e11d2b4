"""The progress of training in a terminal: bars during training, and a line that stays for every epoch."""

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from callbacksets.show import epochs


class Terminal:
    """A bar for the batches of the epoch and a bar for those of the validation. In a log file, only the lines."""

    def __init__(self, digits: int) -> None:
        self._digits = digits
        self._bar: Any = None
        self._bar_valid: Any = None

    def began(self, ctx: Any) -> None:
        """The fit has begun. Nothing is shown before the first batch."""

    def trained_batch(self, ctx: Any) -> None:
        """A training batch has ended."""
        # not in on_epoch_begin, which does not run if a run is resumed inside an epoch
        if self._bar is None:
            self._bar = _bar(epoch_of(ctx), ctx.trainer.num_training_batches)
        elif ctx.step == 1:
            self._bar.reset(_known(ctx.trainer.num_training_batches))
            self._bar.set_description(epoch_of(ctx), refresh=False)
        self._bar.update(ctx.step - self._bar.n)

    def validated_batch(self, ctx: Any) -> None:
        """A validation batch has ended."""
        if self._bar_valid is None:
            self._bar_valid = _bar("Validation", sum_of(ctx.trainer.num_val_batches))
        self._bar_valid.update()

    def validated(self, ctx: Any) -> None:
        """A validation has ended."""
        if self._bar_valid is not None:
            self._bar_valid.close()
            self._bar_valid = None

    def ended_epoch(self, ctx: Any) -> None:
        """An epoch has ended."""
        sets = {"training": ctx.last_scores_train, "validation": ctx.last_scores_valid}
        summary = "; ".join(f"{name} {self._formatted(scores)}" for name, scores in sets.items() if scores)
        _write(f"{epoch_of(ctx)}: {summary or 'no scores'}")

    def ended(self, ctx: Any, summary: str) -> None:
        """Training has ended; the summary says how."""
        _write(summary)

    def left(self, ctx: Any) -> None:
        """The fit is over, whether it ended or failed."""
        self.validated(ctx)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _formatted(self, scores: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {epochs.score(score, self._digits)}" for name, score in scores.items())


def epoch_of(ctx: Any) -> str:
    """`Epoch 3/10`."""
    return f"Epoch {ctx.epoch}" if ctx.total_epochs is None else f"Epoch {ctx.epoch}/{ctx.total_epochs}"


def sum_of(batches: float | list[float]) -> float:
    """The number of batches of all validation loaders."""
    return sum(batches) if isinstance(batches, list) else batches


def _known(total: float) -> int | None:
    return None if total == float("inf") else int(total)


def _bar(description: str, total: float) -> Any:
    return tqdm(
        desc=description,
        total=_known(total),
        unit="batch",
        leave=False,
        dynamic_ncols=True,
        # None shows it in a terminal only. A program without a console, as with pythonw, has no stream at all.
        disable=True if sys.stderr is None else None,
    )


def _write(line: str) -> None:
    if sys.stdout is not None:
        tqdm.write(line)
