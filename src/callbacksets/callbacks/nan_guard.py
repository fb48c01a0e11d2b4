"""Stopping a run whose loss is NaN or infinite."""

import math

from callbacksets.base import CallbackSet
from callbacksets.checks import whole_number


class CallbackSetNanGuard(CallbackSet):
    """Raises a `FloatingPointError` when the training loss is NaN or infinite.

    It checks the loss at the end of a batch, before other callbacks run, and before every validation. So an epoch with
    such a loss never counts. As after any failure, the states, the best weights and earlier checkpoints are kept.

    Example:
        >>> from callbacksets import CallbackSetNanGuard
        >>> CallbackSetNanGuard(every=50)
        <CallbackSetNanGuard: on_batch_end, on_before_valid>

    Args:
        every: Check every `every` batches; at least 1. Each check copies the loss from the device, which waits for a
            GPU.

    Raises:
        TypeError, ValueError: If `every` is wrong.
        FloatingPointError: In a fit, if the loss is not finite.

    mlr3torch: none.
    """

    reads_y_hats: bool = False
    weight: float = -1000

    def __init__(self, every: int = 1) -> None:
        self.every: int = whole_number("every", every, at_least=1)

    def on_batch_end(self) -> None:
        if self.ctx.global_step % self.every == 0:
            self._look()

    def on_before_valid(self) -> None:
        self._look()

    def _look(self) -> None:
        loss = self.ctx.last_loss
        if loss is not None and not math.isfinite(loss):
            raise FloatingPointError(
                f"The training loss is {loss} in epoch {self.ctx.epoch}, step {self.ctx.step}. Lower the learning "
                "rate, clip the gradients or check the data. Trainer(detect_anomaly=True) shows where a NaN in the "
                "gradients comes from."
            )
