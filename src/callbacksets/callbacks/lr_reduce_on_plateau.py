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
    """Reduces the learning rate when a validation score stagnates, as torch's `ReduceLROnPlateau`.

    It steps when an epoch with a validation ends. As in torch, a NaN counts as an epoch without an improvement. Its
    state has the name of the score as `measure`.

    Example:
        >>> from callbacksets import CallbackSetLRSchedulerReduceOnPlateau
        >>> CallbackSetLRSchedulerReduceOnPlateau(monitor="acc", patience=3)
        <CallbackSetLRSchedulerReduceOnPlateau: on_begin, on_epoch_end>

    Args:
        monitor: The name of the score, `"loss"` or as it was logged, `"val_loss"`; by default the first.
        **kwargs: The arguments of `torch.optim.lr_scheduler.ReduceLROnPlateau`; `mode` is by default what
            `ctx.minimize()` says of the score.

    Raises:
        TypeError, ValueError: For an argument of the wrong kind, or one the scheduler does not have.
        RuntimeError: In `begin` where the sanity check ran, else after the first validation: when there is no such
            score, or nothing tells whether lower is better.

    mlr3torch: `t_clbk("lr_reduce_on_plateau")`.
    """

    reads_y_hats: bool = False
    on_batch_end: Any = None  # Any, or a type checker would refuse a subclass that has the stage

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
            rank_zero_warn("This fit has no validation, so ReduceLROnPlateau leaves the learning rate as it is.")
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

    def _check_scheduler(self, scheduler: Any) -> None: ...  # it gets its score here

    def _choose(self, known: ByName[Any]) -> None:
        self.measure, self._minimize = choose_measure(
            self.ctx,
            known,
            user="ReduceLROnPlateau",
            monitor=self.monitor,
            mode=self.scheduler_args.get("mode"),
            before=None if self._loaded is None else self.measure,
        )
        self._make_scheduler()  # anew, as only now its mode is known; it leaves the optimizer alone

    def _arguments(self) -> dict[str, Any]:
        return {"mode": "max" if self._minimize is False else "min"} | self.scheduler_args

    def _step(self) -> None:
        if self.ctx.last_scores_valid is None:
            return
        scores = scores_to_monitor(self.ctx, "ReduceLROnPlateau")
        if self._minimize is None or (self.scheduler.last_epoch == 0 and self.measure not in scores):
            self._choose(scores)  # of the measures known in `begin`, some may be no score
        self.scheduler.step(monitored_score(scores, self.measure, "ReduceLROnPlateau"))
