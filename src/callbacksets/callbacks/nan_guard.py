"""Ending a run whose loss is no number any more."""

import math

from callbacksets.base import CallbackSet
from callbacksets.checks import whole_number


class CallbackSetNanGuard(CallbackSet):
    """Raises a `FloatingPointError` when the training loss is NaN or infinite.

    It looks when a batch ends, before other callbacks do, and before every validation, so that no epoch with such a
    loss counts. As after any failure, states, best weights and checkpoints so far are there.

    Example:
        >>> from callbacksets import CallbackSetNanGuard
        >>> CallbackSetNanGuard(every=50)
        <CallbackSetNanGuard: on_batch_end, on_before_valid>

    Args:
        every: After how many batches to look; at least 1. The loss is taken off the device for it, for which a GPU has
            to be waited for.

    Raises:
        TypeError, ValueError: For an `every` of the wrong kind.
        FloatingPointError: In a fit, when the loss is not finite.

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
                "rate, clip the gradients or look at the data; Trainer(detect_anomaly=True) tells where a NaN in the "
                "gradients comes from."
            )
