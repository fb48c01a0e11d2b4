"""The length of a run, from all limits of the Trainer."""

from typing import TYPE_CHECKING

from callbacksets.fit.lightning import callbacks_of, is_a
from callbacksets.fit.loop import Loop

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def may_stop(trainer: "Trainer", loop: Loop) -> bool:
    """Whether the Trainer's minimum of epochs and steps has been reached."""
    trained = loop.now[0] - loop.in_epoch
    return trained >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)


def limit(of_trainer: int | None) -> int | None:
    """A limit of the Trainer; None if there is no limit."""
    return None if of_trainer is None or of_trainer == -1 else of_trainer


def total_steps(trainer: "Trainer", automatic: bool) -> int | None:
    """The number of batches of the whole run; None if unlimited or unknown."""
    per_epoch = trainer.num_training_batches
    if trainer.limit_train_batches == 0 or per_epoch == 0:
        return 0  # with limit_train_batches=0, Lightning does not set num_training_batches
    epochs, steps = limit(trainer.max_epochs), limit(trainer.max_steps)
    totals = []
    if epochs is not None and steps is not None and per_epoch == float("inf"):
        return None  # it is unknown which of the two limits ends the run
    if epochs is not None and per_epoch != float("inf"):
        totals.append(epochs * int(per_epoch))
    if steps is not None:
        window = trainer.accumulate_grad_batches
        if not automatic or any(is_a(native, "GradientAccumulationScheduler") for native in callbacks_of(trainer)):
            return None  # the module decides when an optimizer steps, or the window changes
        if per_epoch == float("inf"):
            if window > 1:
                return None  # the last window of an epoch may be shorter, and the end of an epoch is unknown
            totals.append(steps)
        else:
            whole, rest = divmod(steps, -(-int(per_epoch) // window))  # Lightning steps on the last batch of an epoch
            totals.append(whole * int(per_epoch) + rest * window)
    return min(totals, default=None)
