"""The trace of a fit, with which two fits can be compared."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from callbacksets.base import CallbackSet
from callbacksets.testing.compare import difference

NOTHING: Any = object()
"""The value if there is no state; None could be a state."""


@dataclass
class Row:
    """The values at a moment of a fit."""

    moment: str
    values: Mapping[str, Any]


def first_difference(expected: list[Row], got: list[Row]) -> str | None:
    """The first difference between two fits, as `on_end, the weights: ...`; None if they are equal."""
    for one, other in zip(expected, got, strict=False):
        if one.moment != other.moment:
            return f"{other.moment} ran instead of {one.moment}"
        for what in [what for what in one.values if what in other.values]:
            if differs := difference(one.values[what], other.values[what]):
                return f"{other.moment}, {what}: {differs}"
    if len(got) < len(expected):
        return f"{expected[len(got)].moment}, which did not run"
    return f"{got[len(expected)].moment}, which should not run" if len(got) > len(expected) else None


class Trace(CallbackSet):
    """Records the state and training after each batch, validation and epoch, when a callback has run."""

    reads_y_hats: bool = False

    def __init__(self, callback: CallbackSet) -> None:
        self.callback = callback
        self.weight: float = callback.weight
        self.rows: list[Row] = []

    def on_batch_end(self) -> None:
        self._write(f"on_batch_end of batch {self.ctx.step} of epoch {self.ctx.epoch}")

    def on_valid_end(self) -> None:
        self._write(f"on_valid_end of epoch {self.ctx.epoch}")

    def on_epoch_end(self) -> None:
        self._write(f"on_epoch_end of epoch {self.ctx.epoch}")

    def on_end(self) -> None:
        self._write("on_end")

    def _write(self, moment: str) -> None:
        ctx = self.ctx
        # modes and requires_grad matter only when a layer trains: a resumed run may set them in the first batch
        left_out = ("hooks",) if "batch" in moment else ("hooks", "requires_grad", "the mode `training`")
        values = {
            "the state": state_of(self.callback),
            **{what: found for what, found in trained(ctx).items() if what not in left_out},
            "the training scores": dict(ctx.last_scores_train or {}),
            "the validation scores": dict(ctx.last_scores_valid or {}),
        }
        self.rows.append(Row(moment, values))


def attributes_apart(expected: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    """The attributes in which two callbacks differ, as ` Attributes that differ: self.steps 3 instead of 12.`.

    Args:
        expected: The attributes of the first callback.
        got: The attributes of the second callback.
    """
    found = []
    for name in dict.fromkeys((*expected, *got)):
        if name == "ctx" or callable(expected.get(name)):
            continue
        one, other = ({name: attributes[name]} if name in attributes else {} for attributes in (expected, got))
        with suppress(Exception):  # of values that cannot be compared, nothing is known
            if differs := difference(one, other):
                found.append(differs.replace(f"at [{name!r}]", f"self.{name}", 1))
    return f" Attributes that differ: {'; '.join(found[:5])}." if found else ""


def state_of(callback: CallbackSet) -> Any:
    """A copy of the state of a callback; `NOTHING` if it has none, which is allowed before `on_begin`."""
    try:
        return copy.deepcopy(callback.state_dict())
    except Exception:  # if it matters, another check or the fit itself reports it
        return NOTHING


def trained(ctx: Any) -> dict[str, dict[str, Any]]:
    """Copies of everything that training changes: weights, buffers, requires_grad, modes, hooks, the optimizers."""
    learner = ctx.learner
    return {
        "the weights": {name: _copied(tensor) for name, tensor in learner.named_parameters()},
        "the buffers": {name: _copied(tensor) for name, tensor in learner.named_buffers()},
        "requires_grad": {name: tensor.requires_grad for name, tensor in learner.named_parameters()},
        "the mode `training`": {name: module.training for name, module in learner.named_modules()},
        "hooks": {name: hooks for name, module in learner.named_modules() if (hooks := list(_hooks(module)))},
        "the optimizer": {str(n): _optimizer(optimizer) for n, optimizer in enumerate(ctx.optimizers)},
    }


def _optimizer(optimizer: Any) -> dict[str, Any]:
    groups = [
        {name: copy.deepcopy(value) for name, value in group.items() if name != "params"} | {"n": len(group["params"])}
        for group in optimizer.param_groups
    ]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = [
        {name: _copied(value) for name, value in optimizer.state[parameter].items()}
        for parameter in parameters
        if parameter in optimizer.state
    ]
    return {"param_groups": groups, "state": state}


def _hooks(module: Any) -> Iterator[str]:
    for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        for hook in getattr(module, kind, {}).values():
            yield f"{kind.strip('_').removesuffix('s')} {getattr(hook, '__qualname__', type(hook).__name__)}"


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
