"""A learning rate that falls when a validation score stagnates."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from callbacksets.callbacks.lr_scheduler import CallbackSetLRScheduler
from callbacksets.callbacks.monitor import (
    choose_measure,
    has_validation,
    measures_at_begin,
    monitored_score,
    scores_to_monitor,
)
from callbacksets.checks import choice, keywords, text
from callbacksets.scores import ByName


class CallbackSetLRSchedulerReduceOnPlateau(CallbackSetLRScheduler):
    """Runs torch's `ReduceLROnPlateau`: the learning rate falls when a validation score stagnates.

    It steps at the end of each epoch with a validation. As in torch, NaN counts as an epoch without an improvement. Its
    state is the scheduler's state and `measure`, the name of the score.

    Example:
        >>> from callbacksets import CallbackSetLRSchedulerReduceOnPlateau
        >>> CallbackSetLRSchedulerReduceOnPlateau(monitor="acc", patience=3)
        <CallbackSetLRSchedulerReduceOnPlateau: on_begin, on_epoch_end>

    Args:
        monitor: The name of the score: `"loss"`, or the logged name, `"val_loss"`. By default the first score.
        **kwargs: The arguments of `torch.optim.lr_scheduler.ReduceLROnPlateau`. By default, `mode` is the direction
            that `ctx.minimize()` returns for the score.

    Raises:
        TypeError, ValueError: If an argument is wrong, or unknown to the scheduler.
        RuntimeError: If the score does not exist, or if it is unknown whether lower or higher is better. It is raised
            in `on_begin` if the sanity check ran, else after the first validation.

    mlr3torch: `t_clbk("lr_reduce_on_plateau")`.
    """

    reads_y_hats: bool = False
    on_batch_end: Any = None  # Any, so that a type checker accepts a subclass with this stage

    def __init__(self, monitor: str | None = None, **kwargs: Any) -> None:
        given = {name: value for name, value in kwargs.items() if (name, value) != ("mode", None)}
        keywords(ReduceLROnPlateau, given, after=1, also=("monitor",))
        if "mode" in given:
            given["mode"] = choice("mode", given["mode"], ("min", "max"))
        super().__init__(ReduceLROnPlateau, step_on_epoch=True, **given)
        self.monitor: str | None = None if monitor is None else text("monitor", monitor)

    def start_over(self) -> None:
        super().start_over()
        self.measure: str | None = None
        self._minimize: bool | None = None

    def on_begin(self) -> None:
        self._minimize = None
        super().on_begin()
        if self.scheduler is None:
            return
        if not has_validation(self.ctx):
            rank_zero_warn("This fit has no validation, so ReduceLROnPlateau does not change the learning rate.")
        elif (known := measures_at_begin(self, self.monitor)) is not None:
            self._choose(known)

    def state_dict(self) -> dict[str, Any] | None:
        state = super().state_dict()
        return None if state is None else state | {"measure": self.measure}

    def load_state_dict(self, state_dict: dict[str, Any] | None) -> None:
        state = dict(state_dict or {})
        measure = state.pop("measure", None)
        super().load_state_dict(state or None)
        self.measure = measure

    def _check_scheduler(self, scheduler: Any) -> None: ...  # this class gives the scheduler its score

    def _choose(self, known: ByName[Any]) -> None:
        self.measure, self._minimize = choose_measure(
            self.ctx,
            known,
            user="ReduceLROnPlateau",
            monitor=self.monitor,
            mode=self.scheduler_args.get("mode"),
            before=None if self._loaded is None else self.measure,
        )
        self._make_scheduler()  # again, because its mode is known only now; this does not change the optimizer

    def _arguments(self) -> dict[str, Any]:
        return {"mode": "max" if self._minimize is False else "min"} | self.scheduler_args

    def _step(self) -> None:
        if self.ctx.last_scores_valid is None:
            return
        scores = scores_to_monitor(self.ctx, "ReduceLROnPlateau")
        if self._minimize is None or (self.scheduler.last_epoch == 0 and self.measure not in scores):
            self._choose(scores)  # a measure known in `on_begin` may turn out not to be a score
        self.scheduler.step(monitored_score(scores, self.measure, "ReduceLROnPlateau"))
