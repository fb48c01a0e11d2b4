"""Tells whether an optimizer has gradients to step on, and unscales them."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from callbacksets.fit.lightning import gradient_scaler, is_mock, skips_backward
from callbacksets.fit.step import Step

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Gradients:
    """The gradients of one fit. It reads the Trainer once, so that a batch costs little."""

    def __init__(self, trainer: "Trainer", step: Step) -> None:
        self._step = step
        self.scaler: Any = gradient_scaler(trainer)
        self._skips_backward = skips_backward(trainer)
        self._is_automatic = trainer.lightning_module.automatic_optimization
        self._has_optimizers = not all(map(is_mock, trainer.optimizers))

    def are_there(self, optimizer: Optimizer) -> bool:
        """Whether the step has gradients. Lightning also announces a step when `training_step()` returned None."""
        if not self._is_automatic or not self._has_optimizers:
            return self._has_optimizers
        if self._skips_backward():
            return False
        if self._step.loss is not None:
            return True
        # An earlier batch of the accumulation window may have left gradients. A gradient scaler does not step on them.
        return self.scaler is None and any(
            parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"]
        )

    def unscale(self, optimizer: Optimizer) -> None:
        """With a scaler, unscale the gradients of a fused optimizer. Its step would do so, and accepts this too."""
        # torch and Lightning recognise these optimizers by the same attribute
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            with suppress(RuntimeError):  # the module or another callback has already done it
                self.scaler.unscale_(optimizer)
