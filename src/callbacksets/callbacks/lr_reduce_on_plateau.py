"""A learning rate that falls when a validation score stagnates."""

from dataclasses import replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from callbacksets.callbacks.lr_scheduler import CallbackSetLRScheduler
from callbacksets.callbacks.monitor import Monitor, has_validation
from callbacksets.checks import choice, keywords, text


class CallbackSetLRSchedulerReduceOnPlateau(CallbackSetLRScheduler):
    """Runs torch's `ReduceLROnPlateau`: the learning rate falls when a validation score stagnates.

    It steps at the end of every validation, so `patience` counts validations. As in torch, NaN counts as a validation
    without an improvement. It has a high weight, so that it sees the scores that other callbacks add. Its state is the
    scheduler's state and `measure`, the name of the score.

    Example:
        >>> from callbacksets import CallbackSetLRSchedulerReduceOnPlateau
        >>> CallbackSetLRSchedulerReduceOnPlateau(monitor="acc", patience=3)
        <CallbackSetLRSchedulerReduceOnPlateau: on_begin, on_valid_end>

    Args:
        monitor: The name of the score: `"loss"`, or the logged name, `"val_loss"`. By default the first score of the
            first validation.
        **kwargs: The arguments of `torch.optim.lr_scheduler.ReduceLROnPlateau`. By default, `mode` is the direction
            that `ctx.minimize()` returns for the score.

    Raises:
        TypeError, ValueError: If an argument is wrong, or unknown to the scheduler.
        RuntimeError: If the score does not exist, or if it is unknown whether lower or higher is better. It is raised
            after the first validation, or in `on_begin` if the sanity check shows the mistake.

    mlr3torch: `t_clbk("lr_reduce_on_plateau")`.
    """

    reads_y_hats: bool = False
    weight: float = 900
    on_batch_end: Any = None  # Any, so that a type checker accepts a subclass with this stage
    on_epoch_end: Any = None

    def __init__(self, monitor: str | None = None, **kwargs: Any) -> None:
        given = {name: value for name, value in kwargs.items() if (name, value) != ("mode", None)}
        keywords(ReduceLROnPlateau, given, after=1, also=("monitor",))
        if "mode" in given:
            given["mode"] = choice("mode", given["mode"], ("min", "max"))
        self.monitor: str | None = None if monitor is None else text("monitor", monitor)
        super().__init__(ReduceLROnPlateau, step_on_epoch=True, **given)

    def start_over(self) -> None:
        super().start_over()
        self._monitor = Monitor("ReduceLROnPlateau", self.monitor, self.scheduler_args.get("mode"))

    @property
    def measure(self) -> str | None:
        """The name of the monitored score; None before the first validation."""
        return self._monitor.measure

    def on_begin(self) -> None:
        super().on_begin()
        if self.scheduler is None:
            return
        if not has_validation(self.ctx):
            rank_zero_warn("This fit has no validation, so ReduceLROnPlateau does not change the learning rate.")
        self._monitor = self._monitor.begin(self)

    def on_valid_end(self) -> None:
        self._step()

    def state_dict(self) -> dict[str, Any] | None:
        state = super().state_dict()
        return None if state is None else state | {"measure": self.measure}

    def load_state_dict(self, state_dict: dict[str, Any] | None) -> None:
        state = dict(state_dict or {})
        self._monitor = replace(self._monitor, measure=state.pop("measure", None))
        super().load_state_dict(state or None)

    def _check_scheduler(self, scheduler: Any) -> None: ...  # this class gives the scheduler its score

    def _arguments(self) -> dict[str, Any]:
        return {"mode": "max" if self._monitor.minimize is False else "min"} | self.scheduler_args

    def _step(self) -> None:
        self._monitor, score, _ = self._monitor.read(self.ctx)
        if self.scheduler.last_epoch == 0 and self.scheduler.mode != self._arguments()["mode"]:
            self._loaded = None  # a state without a step, whose mode was not known yet either
            self._make_scheduler()  # again with its mode; this does not change the optimizer
        if score is not None and not self._is_replaced():
            self.scheduler.step(score)
