"""The progress of training in a notebook: a block of HTML that is updated during training and then stays."""

import base64
import math
import sys
import time
from collections.abc import Callable
from html import escape
from importlib import import_module
from multiprocessing import parent_process
from typing import Any

from callbacksets.show import epochs
from callbacksets.show.plotting import need_matplotlib, picture
from callbacksets.show.terminal import sum_of

_EVERY = 0.4
"""The shortest time between two updates, in seconds. It is longer if an update is slow: a sixth of the time at most."""


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel, which can show HTML. A process forked from it cannot."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") and parent_process() is None


class Notebook:
    """A bar, the progress of training and the table of the epochs; below it the curves of the scores, if wanted.

    The values that are shown come from a `CallbackSetProgress`.
    """

    def __init__(self, told: Any, *, plot: bool) -> None:
        self._told, self._plot = told, plot
        self._block, self._picture = _Output(), _Output()
        if plot:
            need_matplotlib()  # fail before anything is trained
        self._started, self._steps_before = time.monotonic(), 0
        self._final = ""

    def began(self, ctx: Any) -> None:
        """The fit has begun."""
        self._steps_before = ctx.global_step
        trained = f"{ctx.epoch} epochs trained before" if ctx.epoch else "Training begins"
        self._block.show(lambda: self._look(ctx, trained))

    def trained_batch(self, ctx: Any) -> None:
        """A training batch has ended."""
        self._block.show(
            lambda: self._look(ctx, f"{_epoch(ctx)}, batch {_of(ctx.step, ctx.trainer.num_training_batches)}")
        )

    def validated_batch(self, ctx: Any) -> None:
        """A validation batch has ended."""
        loaders = ctx.trainer.num_val_batches
        # with several loaders, each counts from one
        of = f" of {sum_of(loaders)}" if not isinstance(loaders, list) or len(loaders) == 1 else ""
        self._block.show(lambda: self._look(ctx, f"{_epoch(ctx)}, validation, batch {ctx.step_valid}{of}"))

    def validated(self, ctx: Any) -> None:
        """A validation has ended. The scores are shown at the end of the epoch."""

    def ended_epoch(self, ctx: Any) -> None:
        """An epoch has ended."""
        self._block.show(lambda: self._look(ctx, _epoch(ctx)))
        if self._plot:
            self._picture.show(self._curves)

    def ended(self, ctx: Any, summary: str) -> None:
        """Training has ended; the summary says how."""
        self._final = summary

    def left(self, ctx: Any) -> None:
        """The fit is over, whether it ended or failed."""
        error = sys.exception()
        batch = "" if ctx.step is None else f", batch {ctx.step}"
        where = f"{_epoch(ctx).lower()}{batch}, after {_seconds(self._told.elapsed())}"
        final = self._final or f"{_stopped(error)} in {where}."
        self._block.show(lambda: self._look(ctx, final, is_last=True), is_last=True)
        if self._plot:
            self._picture.show(self._curves, is_last=True)

    def _look(self, ctx: Any, headline: str, *, is_last: bool = False) -> dict[str, str]:
        told, best = self._told, self._told.best()
        fraction, to_go = (None, "") if is_last else self._progress(ctx)
        lines = [headline + to_go]
        if best is not None and best.epoch is not None:
            patience = "" if best.patience is None else " · patience {} of {}".format(*best.patience)
            lines.append(f"Best {best.column} {epochs.score(best.score, told.digits)} in epoch {best.epoch}{patience}")
        columns = told.columns()
        how: dict[str, Any] = {"digits": told.digits, "best_epoch": None if best is None else best.epoch}
        text = "\n".join([*lines, *([epochs.as_text(columns, **how)] if columns else [])])
        parts = [f"<div><b>{escape(lines[0])}</b></div>", *(f"<div>{escape(line)}</div>" for line in lines[1:])]
        parts.insert(1, "" if fraction is None else _bar(fraction))
        if columns:
            parts.append(f'<div style="margin-top: 0.5em">{epochs.as_html(columns, **how)}</div>')
        return {"text/plain": text, "text/html": f"<div>{''.join(parts)}</div>"}

    def _progress(self, ctx: Any) -> tuple[float | None, str]:
        """The fraction of the run that is done (None if unknown), and a text with the elapsed and remaining time."""
        gone = f" · {_seconds(self._told.elapsed())} elapsed"
        total, done = ctx.total_steps, ctx.global_step
        if not total:
            return None, gone
        new = done - self._steps_before
        to_go = (time.monotonic() - self._started) * (total - done) / new if new else math.nan
        return min(done / total, 1.0), gone if math.isnan(to_go) else f"{gone}, about {_seconds(to_go)} left"

    def _curves(self) -> dict[str, str] | None:
        columns, best = self._told.columns(), self._told.best()
        scores = {name: values for name, values in columns.items() if name == "epoch" or "." in name}
        if len(scores) < 2:
            return None
        png = picture(scores, best_epoch=None if best is None else best.epoch)
        return {"text/plain": "<the curves of the scores>", "image/png": base64.b64encode(png).decode()}


class _Output:
    """One output of the cell. It is created when it is first shown, and then updated."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._due = -math.inf

    def show(self, make: Callable[[], dict[str, str] | None], *, is_last: bool = False) -> None:
        """Show what `make` returns, if enough time has passed since the last update."""
        start = time.monotonic()
        if start < self._due and not is_last:  # for most batches, this check is the only cost
            return
        data = make()
        if data is not None and self._handle is None:
            self._handle = import_module("IPython.display").DisplayHandle()
            self._handle.display(data, raw=True)
        elif data is not None:
            self._handle.update(data, raw=True)
        now = time.monotonic()
        self._due = now + max(_EVERY, 5 * (now - start))


def _bar(fraction: float) -> str:
    done = f"height: 100%; width: {100 * fraction:.1f}%; background: currentColor"
    style = "height: 0.5em; width: 24em; max-width: 100%; margin: 0.4em 0; border: 1px solid currentColor; opacity: 0.7"
    return f'<div style="{style}"><div style="{done}"></div></div>'


def _epoch(ctx: Any) -> str:
    return f"Epoch {_of(ctx.epoch, ctx.total_epochs)}"


def _of(n: int, total: float | None) -> str:
    return str(n) if total is None or total == math.inf else f"{n} of {int(total)}"


def _stopped(error: BaseException | None) -> str:
    if error is None:
        return "Stopped"
    return "Interrupted" if isinstance(error, KeyboardInterrupt) else f"Stopped by {type(error).__name__}"


def _seconds(seconds: float) -> str:
    """`4.2 s`, `3:05`, `2:10:00`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes}:{left:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{left:02}"
