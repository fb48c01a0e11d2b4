"""Keeping the network's outputs for the validation data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from callbacksets.base import CallbackSet
from callbacksets.callbacks.monitor import Monitor
from callbacksets.checks import choice, shown, text


class CallbackSetPredictions(CallbackSet):
    """Keeps the network's outputs and the targets of the last or the best validation, on the CPU.

    `y_hat` is `ctx.y_hat` of all batches in one tensor, and `y` the targets. If batches differ in more than their
    length, they are lists with one tensor per batch. With several validation loaders, each is a list with one such
    result per loader; that of an empty loader is an empty tensor. On several ranks, each rank has its own batches.

    Other callbacks can read them in their `on_valid_end`, as `self.ctx.callbacks["predictions"].y_hat`, because this
    callback has a low weight and runs first.

    The outputs and targets of a whole validation are kept in memory: once, or twice with `keep="best"`, and once more
    while they are concatenated. They are not part of the state, so checkpoints do not contain them. With `keep="best"`,
    the state is `best_score` and `measure`: in a resumed run they are None until a validation is better.

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
            tuple, the value `"y"` of a mapping, or the attribute `y` of another batch.
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
        self.is_restored: bool = self.keep == "best"
        self.start_over()

    def start_over(self) -> None:
        self.y_hat: Tensor | list[Any] | None = None
        self.y: Tensor | list[Any] | None = None
        self._best_score: float | None = None
        self._monitor = Monitor("CallbackSetPredictions", self.monitor, self.mode)
        self._loaders: dict[int | None, list[tuple[Tensor, Tensor]]] = {}

    def on_begin(self) -> None:
        if self.keep == "best":
            self._monitor = self._monitor.begin(self)

    def on_before_valid(self) -> None:
        self._loaders = {}

    def on_batch_valid_end(self) -> None:
        if not isinstance(y_hat := self.ctx.y_hat, Tensor):
            raise TypeError(f"Expected ctx.y_hat to be a tensor but the network's first output is {shown(y_hat)}.")
        # copied also on the CPU: a loader or a network may fill the same tensor again
        kept = [one.detach().to("cpu", copy=True) for one in (y_hat, self._target(self.ctx.batch))]
        self._loaders.setdefault(self.ctx.dataloader_idx, []).append(as_batch(*kept))

    def on_valid_end(self) -> None:
        loaders, self._loaders = self._loaders, {}
        if not loaders or not (self.keep == "last" or self._is_best()):
            return
        with torch.inference_mode(False):  # or the kept tensors could not be used with gradients later
            sizes = self.ctx.trainer.num_val_batches
            # an empty loader has its place; loaders that are read side by side are one
            places: Iterable[int | None] = range(len(sizes)) if sum(map(bool, sizes)) == len(loaders) else loaders
            joined = [_joined(loaders[i]) if i in loaders else (torch.empty(0), torch.empty(0)) for i in places]
        y_hat, y = zip(*joined, strict=True)
        self.y_hat, self.y = (y_hat[0], y[0]) if len(joined) == 1 else (list(y_hat), list(y))

    def state_dict(self) -> dict[str, Any] | None:
        if self._best_score is None:
            return None
        return {"best_score": self._best_score, "measure": self._monitor.measure}

    def load_state_dict(self, state_dict: dict[str, Any] | None) -> None:
        if state_dict is not None:
            self._best_score = state_dict["best_score"]
            self._monitor = replace(self._monitor, measure=state_dict["measure"])

    def _is_best(self) -> bool:
        self._monitor, score, _ = self._monitor.read(self.ctx)
        if score is None or not self._monitor.improves(score, self._best_score):
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
        else:
            target = getattr(batch, "y", None)
        if not isinstance(target, Tensor):
            raise TypeError(
                f"Expected the batch to be (x, y) or {{'x': ..., 'y': ...}} with a tensor y, but its target is "
                f"{shown(target)}. Give a function that returns the target of a batch: target=lambda batch: ... ."
            )
        return target


def as_batch(y_hat: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Give the output and the target of a single sample the batch dimension that they may lack.

    A network that squeezes takes it from a last batch of one sample, and a loader with `batch_size=None` makes none.

    Example:
        >>> [tuple(one.shape) for one in as_batch(torch.zeros(3), torch.tensor(1))]
        [(1, 3), (1,)]
    """
    y = y[None] if y.dim() == 0 else y
    return (y_hat[None] if y_hat.dim() == 0 or (len(y) == 1 != len(y_hat)) else y_hat), y


def _joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor | list[Tensor], Tensor | list[Tensor]]:
    y_hat, y = map(list, zip(*batches, strict=True))
    if any(len({one.shape[1:] for one in tensors}) > 1 for tensors in (y_hat, y)):
        return y_hat, y
    return torch.cat(y_hat), torch.cat(y)
