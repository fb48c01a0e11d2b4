"""Whether an optimizer is about to step on gradients, and showing these unscaled."""

from contextlib import suppress
from typing import TYPE_CHECKING

from torch.optim import Optimizer

from callbacksets.fit.lightning import gradient_scaler, is_mock, skips_backward
from callbacksets.fit.step import Step

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Gradients:
    """The gradients of one fit. What it looks at in every batch it has taken out of the Trainer before."""

    def __init__(self, trainer: "Trainer", step: Step) -> None:
        self._step = step
        self._scaler = gradient_scaler(trainer)
        self._skips_backward = skips_backward(trainer)
        self._is_automatic = trainer.lightning_module.automatic_optimization
        self._has_optimizers = not all(map(is_mock, trainer.optimizers))

    def are_there(self, optimizer: Optimizer) -> bool:
        """Whether the step is one on gradients. Lightning announces one also when training_step() returned None."""
        if not self._is_automatic or not self._has_optimizers:
            return self._has_optimizers
        if self._skips_backward():
            return False
        if self._step.loss is not None:
            return True
        # An earlier batch of the window may have left gradients. But a gradient scaler will not step on them.
        return self._scaler is None and any(
            parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"]
        )

    def unscale(self, optimizer: Optimizer) -> None:
        """Do what Lightning leaves to the step of a fused optimizer, which also takes gradients that are unscaled."""
        # by the same attribute, torch and Lightning tell which optimizers these are
        if self._scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            with suppress(RuntimeError):  # the module, or another callback, has done it
                self._scaler.unscale_(optimizer)
