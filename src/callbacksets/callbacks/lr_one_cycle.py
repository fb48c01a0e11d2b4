"""A learning rate that rises and falls once over the run."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim.lr_scheduler import OneCycleLR

from callbacksets.callbacks.lr_scheduler import CallbackSetLRScheduler
from callbacksets.checks import keywords, listed

_OF_THE_RUN = ("epochs", "steps_per_epoch")


class CallbackSetLRSchedulerOneCycle(CallbackSetLRScheduler):
    """Runs torch's `OneCycleLR`: the learning rate rises and falls once over the run. It steps after every batch.

    By default the cycle is as long as the run: `ctx.total_steps` batches. `total_steps` sets another length; `epochs`
    and `steps_per_epoch` are ignored. If the run turns out to be longer (batches of None with `max_steps`, or a batch
    that Lightning trains again), it warns and keeps the last learning rate.

    Example:
        >>> from callbacksets import CallbackSetLRSchedulerOneCycle
        >>> CallbackSetLRSchedulerOneCycle(max_lr=0.1)
        <CallbackSetLRSchedulerOneCycle: on_begin, on_batch_end>

    Args:
        **kwargs: The arguments of `torch.optim.lr_scheduler.OneCycleLR`; `max_lr` is required.

    Raises:
        TypeError, ValueError: If an argument is wrong, unknown to the scheduler, or missing.
        RuntimeError: In `on_begin`, if the length of the run is unknown, if the cycle is shorter than the run, or if
            the cycle of the checkpoint has another length.

    mlr3torch: `t_clbk("lr_one_cycle")`.
    """

    reads_y_hats: bool = False
    on_epoch_end: Any = None  # Any, so that a type checker accepts a subclass with this stage

    def __init__(self, **kwargs: Any) -> None:
        given = {name: value for name, value in kwargs.items() if value is not None}
        keywords(OneCycleLR, given, after=1)
        super().__init__(OneCycleLR, step_on_epoch=False, **given)

    def start_over(self) -> None:
        super().start_over()
        self._cycle_is_over = False

    def _arguments(self) -> dict[str, Any]:
        arguments = {name: value for name, value in self.scheduler_args.items() if name not in _OF_THE_RUN}
        if "total_steps" in arguments:
            return arguments
        if self.ctx.total_steps is None:
            raise RuntimeError(
                "OneCycleLR needs the number of batches of the whole run, but the Trainer does not know it. "
                "Give total_steps."
            )
        if ignored := [name for name in _OF_THE_RUN if name in self.scheduler_args]:
            rank_zero_info(
                f"OneCycleLR ignores {listed(ignored)}: its cycle has the {self.ctx.total_steps} batches of the run. "
                "For another length, give total_steps."
            )
        return arguments | {"total_steps": self.ctx.total_steps}

    def _make_scheduler(self) -> None:
        super()._make_scheduler()
        steps, batches = self.scheduler.total_steps, self.ctx.total_steps
        if batches is not None and steps < batches:
            raise RuntimeError(
                f"The cycle of OneCycleLR has {steps} steps, but this run has {batches} batches, and torch does not "
                f"step beyond the cycle. Give total_steps={batches}, or train less: Trainer(max_steps=...)."
            )

    def _step(self) -> None:
        if (steps := self.scheduler.total_steps) > self.scheduler.last_epoch:
            super()._step()
        elif not self._cycle_is_over:
            self._cycle_is_over = True
            rank_zero_warn(
                f"The run is longer than the cycle of OneCycleLR ({steps} batches). The learning rate stays as it is "
                "from now on."
            )

    def _check_state(self, current: Mapping[str, Any], restored: Mapping[str, Any]) -> None:
        super()._check_state(current, restored)
        before, now = restored["total_steps"], current["total_steps"]
        if before != now:
            raise RuntimeError(
                f"The cycle of the resumed run has {before} steps, but the cycle of this run has {now}. Resume with "
                "the same max_epochs and with loaders of the same length."
            )
