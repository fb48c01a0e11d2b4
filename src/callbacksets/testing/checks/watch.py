"""Watching the changes that a callback makes to training, and whether it undoes changes for a validation."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from callbacksets.base import STAGES, CallbackSet
from callbacksets.checks import listed
from callbacksets.testing.compare import difference
from callbacksets.testing.trace import Row, trained

_FOR_VALIDATION = ("on_before_valid", "on_batch_valid_begin", "on_batch_valid_end")
"""The stages whose changes are only for the validation. They must be undone before training continues."""
_GOES_ON = ("on_epoch_begin", "on_batch_begin", "on_end")
"""The stages that run when training continues."""
_MAY_WAKE = ("on_begin", "on_epoch_begin", "on_valid_end", "on_end", "on_exit")
"""The stages in which a callback may set modes, because Lightning sets them again or they no longer matter."""
_NOT_COMPARED = ("the batch", "gradients", "hooks", "attributes of the module")
"""Values that are watched within a fit but not compared between fits, because each fit has its own objects."""

_GRAD = "Use `with torch.no_grad():`, which restores the former mode."
_ONLY_IF_IT_VALIDATES = (
    "on_valid_end does not run there: change it in on_before_valid only `if self.ctx.validates`. Make lasting changes "
    "in a stage of training, such as on_epoch_end."
)
_PUT_BACK = (
    "Undo the change in on_valid_end, and in on_exit for a fit that fails before. Make lasting changes in a stage of "
    "training, such as on_epoch_end."
)
_NO_VALIDATION = (
    "so the validation runs with dropout and batch statistics. Restore the mode of each module: "
    "modes = {m: m.training for m in network.modules()}."
)
_WERE_ASLEEP = (
    "which were in eval mode, like frozen layers. network.train() sets all modules: restore the mode of each module, "
    "modes = {m: m.training for m in network.modules()}."
)
_NO_TRAINING = (
    "so training continues in eval mode. Restore the mode of each module: modes = {m: m.training for m in "
    "network.modules()}."
)


@dataclass
class Lent:
    """A value that was changed for a validation: the original, and where it was changed."""

    found: Any
    stage: str
    epoch: int
    validates: bool


class Watch:
    """Compares training just before and just after each stage of a callback.

    Changes in a stage of training, or in `on_valid_end`, are intended. Changes in the stages of a validation, before
    `on_valid_end`, are temporary: they must be undone before training continues. Some changes are never intended:
    gradients switched off, or the network left in the wrong mode.

    Args:
        callback: The callback.

    Attributes:
        before: The spy that must run just before it.
        after: The spy that must run just after it.
        damage: The first fault of the callback.
        rows: The values before each stage, until the first intended change.
    """

    def __init__(self, callback: CallbackSet) -> None:
        self.before: _Spy = _Spy(callback.weight, self._before)
        self.after: _Spy = _Spy(callback.weight, self._after)
        self.damage: str | None = None
        self.rows: list[Row] = []
        self._found: dict[str, Any] = {}
        self._lent: dict[str, Lent] = {}
        self._at_first: dict[str, Any] = {}
        self._means_to = False

    def _before(self, stage: str, ctx: Any) -> None:
        self._found = _looked_at(ctx)
        if stage in _GOES_ON:
            self._expect_back(stage, ctx)
        if not self._means_to and stage not in ("on_end", "on_exit"):  # a callback may end a fit earlier
            scores = {"the validation scores": dict(ctx.last_scores_valid or {})} if stage == "on_valid_end" else {}
            values = {what: value for what, value in self._found.items() if what not in _NOT_COMPARED}
            values = {} if self._lent else values | scores  # temporary changes may change the validation
            self.rows.append(Row(_where(stage, ctx), values))

    def _after(self, stage: str, ctx: Any) -> None:
        found, left = self._found, _looked_at(ctx)
        self._check_modes(stage, ctx, found, left)
        self._check_woken(stage, ctx, found, left)
        self._check_hooks(stage, found, left)
        for what, value in left.items():
            if not difference(found[what], value):
                continue
            if what == "whether gradients are on":
                self._note(f"leaves {_where(stage, ctx)} with gradients switched {'on' if value else 'off'}. {_GRAD}")
            elif stage in _FOR_VALIDATION:
                self._lend(what, stage, ctx)
            elif what in self._lent and difference(self._lent[what].found, value) is None:
                del self._lent[what]
            elif what not in self._lent:
                self._means_to = True

    def _lend(self, what: str, stage: str, ctx: Any) -> None:
        if what == "the mode `training`" and ctx.validates:
            return  # after the validation, Lightning restores the mode of each module
        if what == "the batch":
            self._means_to = True
        elif what != "gradients":  # they belong to the batch before, and nobody needs them
            self._lent.setdefault(what, Lent(self._found[what], stage, ctx.epoch, ctx.validates))

    def _expect_back(self, stage: str, ctx: Any) -> None:
        for what, lent in self._lent.items():
            if differs := difference(lent.found, self._found[what]):
                follows = "no validation follows" if not lent.validates else "a validation follows"
                remedy = _ONLY_IF_IT_VALIDATES if not lent.validates else _PUT_BACK
                self._note(
                    f"changes {what} in {lent.stage} of epoch {lent.epoch}, where {follows}, and has not undone the "
                    f"change {_where(stage, ctx)}: {differs}. {remedy}"
                )
        self._lent.clear()

    def _check_modes(self, stage: str, ctx: Any, found: dict[str, Any], left: dict[str, Any]) -> None:
        """Check the mode of the whole network. Changes of the modes of some layers may be intended."""
        was, now = ([looked["the mode `training`"][name] for name in _whole(ctx)] for looked in (found, left))
        if stage in ("on_end", "on_exit") or was == now:
            return
        if ctx.validates and stage in _FOR_VALIDATION and any(now):
            self._note(f"sets the network to training mode {_where(stage, ctx)}, {_NO_VALIDATION}")
        elif not ctx.validates and all(was) and stage != "on_valid_end":
            self._note(f"leaves the network in eval mode {_where(stage, ctx)}, {_NO_TRAINING}")

    def _check_woken(self, stage: str, ctx: Any, found: dict[str, Any], left: dict[str, Any]) -> None:
        """Check layers that were in eval mode, unless they are unfrozen or training begins."""
        if stage in _MAY_WAKE or ctx.validates or difference(found["requires_grad"], left["requires_grad"]):
            return
        before, after = found["the mode `training`"], left["the mode `training`"]
        if woken := [name for name, training in after.items() if training and not before.get(name, True)]:
            self._note(f"sets {listed(woken)} to training mode {_where(stage, ctx)}, {_WERE_ASLEEP}")

    def _check_hooks(self, stage: str, found: dict[str, Any], left: dict[str, Any]) -> None:
        """Check that hooks of the fit are removed, unless the parameters have changed, as by pruning."""
        if stage == "on_begin":
            self._at_first = found
        if stage != "on_exit" or not self._at_first or list(left["the weights"]) != list(self._at_first["the weights"]):
            return
        if differs := difference(self._at_first["hooks"], left["hooks"]):
            self._note(f"leaves hooks on the network after the fit: {differs}. Remove them in on_exit.")

    def _note(self, damage: str) -> None:
        self.damage = self.damage or damage


class _Spy(CallbackSet):
    """Reports every stage."""

    reads_y_hats: bool = False

    def __init__(self, weight: float, tell: Any) -> None:
        self.weight: float = weight
        self._tell = tell
        for stage in STAGES:
            setattr(self, stage, partial(self._told, stage))

    def _told(self, stage: str) -> None:
        self._tell(stage, self.ctx)


def _looked_at(ctx: Any) -> dict[str, Any]:
    learner, network = ctx.learner, ctx.network
    return trained(ctx) | {
        "whether gradients are on": torch.is_grad_enabled(),
        "gradients": {name: _copy(parameter.grad) for name, parameter in learner.named_parameters()},
        "the batch": _copy(ctx.batch),
        "attributes of the module": {name: id(value) for one in (learner, network) for name, value in _own(one)},
    }


def _own(module: Any) -> list[tuple[str, Any]]:
    """The attributes that a callback may have replaced: functions, losses, layers."""
    own = [(name, value) for name, value in vars(module).items() if not name.startswith("_") and callable(value)]
    return own + list(module.named_children())


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _whole(ctx: Any) -> list[str]:
    """The names of the module and of its network, among the modules."""
    return [name for name, module in ctx.learner.named_modules() if module is ctx.learner or module is ctx.network]


def _where(stage: str, ctx: Any) -> str:
    step = ctx.step_valid if "valid" in stage else ctx.step
    batch = f" of batch {step}" if "batch" in stage or stage == "on_after_backward" else ""
    return f"in {stage}{batch} of epoch {ctx.epoch}" if stage != "on_begin" else "in on_begin"
