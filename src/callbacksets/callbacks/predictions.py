"""Keeping the network's outputs for the validation data."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from callbacksets.base import CallbackSet
from callbacksets.callbacks.monitor import Monitor
from callbacksets.checks import choice, shown, text


class CallbackSetPredictions(CallbackSet):
    """Keeps the network's outputs and the targets of the last or the best validation, on the CPU.

    `y_hat` is `ctx.y_hat` of all batches in one tensor, and `y` the targets. With several validation loaders, each is a
    list with one tensor per loader. On several ranks, each rank has its own batches. Other callbacks can read them
    in their `on_valid_end`, as `self.ctx.callbacks["predictions"].y_hat`, because this callback has a low weight and
    runs first.

    The outputs and targets of a whole validation are kept in memory: once, or twice with `keep="best"`, and once more
    while they are concatenated. They are not part of the state, so checkpoints do not contain them.

    Example:
        >>> from callbacksets import CallbackSetAdapter, CallbackSetPredictions
        >>> predictions = CallbackSetPredictions()
        >>> adapter = CallbackSetAdapter(predictions)
        >>> # after trainer.fit(...): predictions.y_hat.argmax(dim=1) == predictions.y

    Args:
        keep: `"last"`, or `"best"` for the validation with the best score.
        monitor: With `keep="best"`, the name of the score: `"loss"`, or the logged name, `"val_loss"`. By default the
            first score. If another callback adds the score, give this callback a higher weight than that one has.
        target: A function that returns the target of a batch. By default the target is the second element of a list or
            tuple, or the value `"y"` of a mapping.
        mode: With `keep="best"`, `"min"` or `"max"`; by default the direction that `ctx.minimize()` returns for the
            score.

    Attributes:
        y_hat, y: The outputs and the targets; None before the first validation.

    Raises:
        TypeError, ValueError: If an argument is wrong, or if `monitor` or `mode` is given without `keep="best"`. In a
            fit, if the target of a batch is not found, or if the output is not a tensor.
        RuntimeError: In a fit, if the score does not exist, or if it is unknown whether lower or higher is better.

    mlr3torch: none.
    """

    weight: float = -1000

    def __init__(
        self,
        keep: Literal["last", "best"] = "last",
        monitor: str | None = None,
        target: Callable[[Any], Tensor] | None = None,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        self.keep: str = choice("keep", keep, ("last", "best"))
        self.monitor: str | None = None if monitor is None else text("monitor", monitor)
        self.mode: str | None = None if mode is None else choice("mode", mode, ("min", "max"))
        if self.keep == "last" and (self.monitor or self.mode):
            raise ValueError("monitor and mode can only be given with keep='best'.")
        if target is not None and not callable(target):
            raise TypeError(
                f"Expected target to be a function that returns the target of a batch but got {shown(target)}."
            )
        self.target = target
        self.start_over()

    def start_over(self) -> None:
        self.y_hat: Tensor | list[Tensor] | None = None
        self.y: Tensor | list[Tensor] | None = None
        self._best_score: float | None = None
        self._monitor = Monitor("CallbackSetPredictions", self.monitor, self.mode)
        self._loaders: list[list[tuple[Tensor, Tensor]]] = []

    def on_begin(self) -> None:
        if self.keep == "best":
            self._monitor = self._monitor.begin(self)

    def on_before_valid(self) -> None:
        self._loaders = []

    def on_batch_valid_end(self) -> None:
        if self.ctx.step_valid == 1:
            self._loaders.append([])
        if not isinstance(y_hat := self.ctx.y_hat, Tensor):
            raise TypeError(f"Expected ctx.y_hat to be a tensor but the network's first output is {shown(y_hat)}.")
        self._loaders[-1].append((y_hat.detach().cpu(), self._target(self.ctx.batch).detach().cpu()))

    def on_valid_end(self) -> None:
        loaders, self._loaders = self._loaders, []
        if not loaders or not (self.keep == "last" or self._is_best()):
            return
        with torch.inference_mode(False):  # or the kept tensors could not be used with gradients later
            y_hat, y = zip(*(map(torch.cat, zip(*loader, strict=True)) for loader in loaders), strict=True)
        self.y_hat, self.y = (y_hat[0], y[0]) if len(loaders) == 1 else (list(y_hat), list(y))

    def _is_best(self) -> bool:
        self._monitor, score, _ = self._monitor.read(self.ctx)
        if score is None or math.isnan(score):
            return False
        best = self._best_score
        if best is not None and (score >= best if self._monitor.minimize else score <= best):
            return False
        self._best_score = score
        return True

    def _target(self, batch: Any) -> Tensor:
        target: Any = None
        if self.target is not None:
            target = self.target(batch)
        elif isinstance(batch, Mapping):
            target = batch.get("y")
        elif isinstance(batch, list | tuple) and len(batch) > 1:
            target = batch[1]
        if not isinstance(target, Tensor):
            raise TypeError(
                f"Expected the batch to be (x, y) or {{'x': ..., 'y': ...}} with a tensor y, but its target is "
                f"{shown(target)}. Give a function that returns the target of a batch: target=lambda batch: ... ."
            )
        return target
