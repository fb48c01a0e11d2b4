"""Following the learning rate."""

from collections import Counter
from typing import Any

from torch import Tensor

from callbacksets.base import CallbackSet


class CallbackSetLRMonitor(CallbackSet):
    """Adds the learning rate of the epoch's last optimizer step as the training score `lr`.

    With several parameter groups, of one optimizer or of several, there is one for each: `lr.<name>` for a group that
    has a `name` of its own, else `lr.<n>`, counted from 0. No logger is needed.

    Its weight lets it look before other callbacks do anything in `after_backward`: a rate that one of them sets there
    shows from the next step on.

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
        # a tensor is written to by its scheduler
        rates = [group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in groups]
        self._rates = dict(zip(_names(groups), rates, strict=True))

    def on_before_valid(self) -> None:
        if (scores := self.ctx.last_scores_train) is not None:
            scores.update(self._as_floats())

    def on_epoch_end(self) -> None:
        self.on_before_valid()  # after the steps that follow a validation inside the epoch

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
