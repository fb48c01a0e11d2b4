"""Monitoring the learning rate."""

from collections import Counter
from typing import Any

from torch import Tensor

from callbacksets.base import CallbackSet


class CallbackSetLRMonitor(CallbackSet):
    """Adds the training score `lr`: the learning rate of the epoch's last optimizer step.

    With several parameter groups, of one or several optimizers, there is one score for each: `lr.<name>` if the group
    has a unique `name`, else `lr.<n>`, counted from 0. No logger is needed.

    Because of its low weight it runs before other callbacks in `on_after_backward`. If one of them sets a learning rate
    there, the new rate appears from the next step on.

    Example:
        >>> from callbacksets import CallbackSetAdapter, CallbackSetLRMonitor, t_clbk
        >>> adapter = CallbackSetAdapter([CallbackSetLRMonitor(), t_clbk("lr_step", step_size=2), t_clbk("history")])

    mlr3torch: none.
    """

    reads_y_hats: bool = False
    weight: float = -1000

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        self._rates: dict[str, Tensor | float] = {}

    def on_after_backward(self) -> None:
        groups = [group for optimizer in self.ctx.optimizers for group in optimizer.param_groups]
        # a scheduler changes a tensor in place
        rates = [group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in groups]
        self._rates = dict(zip(_names(groups), rates, strict=True))

    def on_before_valid(self) -> None:
        if (scores := self.ctx.last_scores_train) is not None:
            scores.update(self._as_floats())

    def on_epoch_end(self) -> None:
        self.on_before_valid()  # includes the steps after a validation inside the epoch

    def state_dict(self) -> dict[str, float]:
        return self._as_floats()

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self._rates = dict(state_dict)

    def _as_floats(self) -> dict[str, float]:
        return {name: float(rate) for name, rate in self._rates.items()}


def _names(groups: list[dict[str, Any]]) -> list[str]:
    if len(groups) == 1:
        return ["lr"]
    times = Counter(group.get("name") for group in groups)
    return [
        f"lr.{group['name'] if group.get('name') and times[group['name']] == 1 else number}"
        for number, group in enumerate(groups)
    ]
