"""Watching what a callback changes of training, and whether it puts back what it changes for a validation."""

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
"""The stages in which what is changed is lent to the validation: it must be back when training goes on."""
_GOES_ON = ("on_epoch_begin", "on_batch_begin", "on_end")
"""The stages that come after that."""
_MAY_WAKE = ("on_begin", "on_epoch_begin", "on_valid_end", "on_end", "on_exit")
"""The stages in which modes are set for what comes, or are set anew by Lightning, or no longer matter."""
_NOT_COMPARED = ("the batch", "gradients", "hooks", "attributes of the module")
"""What is looked at only to see who changes it: another fit has objects of its own."""

_GRAD = "Use `with torch.no_grad():`, which puts back what was."
_ONLY_IF_IT_VALIDATES = (
    "on_valid_end does not run there: change it in on_before_valid only `if self.ctx.validates`. What is meant to "
    "last belongs in a stage of training, such as on_epoch_end."
)
_PUT_BACK = (
    "Put it back in on_valid_end, and in on_exit for a fit that fails before. What is meant to last belongs in a stage "
    "of training, such as on_epoch_end."
)
_NO_VALIDATION = (
    "and so the validation runs in it, with dropout and statistics of batches. Put back the mode of each module: "
    "modes = {m: m.training for m in network.modules()}."
)
_WERE_ASLEEP = (
    "which were in eval mode, as frozen layers are. network.train() sets all of them: put back the mode of each "
    "module, modes = {m: m.training for m in network.modules()}."
)
_NO_TRAINING = (
    "and so training goes on in it. Put back the mode of each module: modes = {m: m.training for m in "
    "network.modules()}."
)


@dataclass
class Lent:
    """What was changed for a validation: as it was found, and where."""

    found: Any
    stage: str
    epoch: int
    validates: bool


class Watch:
    """Looks at training just before and just after each stage of a callback.

    What a callback changes in a stage of training it means to change, and so what it changes in `valid_end`. What it
    changes in the stages before, when a validation may follow or not, is lent: it must be back when training goes on.
    Nothing may be left that no callback means: gradients switched off, the network in the other mode.

    Args:
        callback: The callback.

    Attributes:
        before: The spy that has to run just before it.
        after: The spy that has to run just after it.
        damage: What it has done first that it should not.
        rows: How it stood before the stages, until it first changed something that it means to change.
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
        if not self._means_to and stage not in ("on_end", "on_exit"):  # a fit may well end earlier
            scores = {"the validation scores": dict(ctx.last_scores_valid or {})} if stage == "on_valid_end" else {}
            values = {what: value for what, value in self._found.items() if what not in _NOT_COMPARED}
            values = {} if self._lent else values | scores  # what is lent may well change the validation
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
            return  # Lightning sets each module to what it was before the validation
        if what == "the batch":
            self._means_to = True
        elif what != "gradients":  # they are those of the batch before, and nobody needs them
            self._lent.setdefault(what, Lent(self._found[what], stage, ctx.epoch, ctx.validates))

    def _expect_back(self, stage: str, ctx: Any) -> None:
        for what, lent in self._lent.items():
            if differs := difference(lent.found, self._found[what]):
                follows = "no validation follows" if not lent.validates else "a validation follows"
                remedy = _ONLY_IF_IT_VALIDATES if not lent.validates else _PUT_BACK
                self._note(
                    f"changes {what} in {lent.stage} of epoch {lent.epoch}, where {follows}, and has not put it "
                    f"back {_where(stage, ctx)}: {differs}. {remedy}"
                )
        self._lent.clear()

    def _check_modes(self, stage: str, ctx: Any, found: dict[str, Any], left: dict[str, Any]) -> None:
        """Of the whole network: a callback may well mean to set the mode of some of its layers."""
        was, now = ([looked["the mode `training`"][name] for name in _whole(ctx)] for looked in (found, left))
        if stage in ("on_end", "on_exit") or was == now:
            return
        if ctx.validates and stage in _FOR_VALIDATION and any(now):
            self._note(f"sets the network to training mode {_where(stage, ctx)}, {_NO_VALIDATION}")
        elif not ctx.validates and all(was) and stage != "on_valid_end":
            self._note(f"leaves the network in eval mode {_where(stage, ctx)}, {_NO_TRAINING}")

    def _check_woken(self, stage: str, ctx: Any, found: dict[str, Any], left: dict[str, Any]) -> None:
        """Of layers that were in eval mode, unless they are unfrozen, or training begins."""
        if stage in _MAY_WAKE or ctx.validates or difference(found["requires_grad"], left["requires_grad"]):
            return
        before, after = found["the mode `training`"], left["the mode `training`"]
        if woken := [name for name, training in after.items() if training and not before.get(name, True)]:
            self._note(f"sets {listed(woken)} to training mode {_where(stage, ctx)}, {_WERE_ASLEEP}")

    def _check_hooks(self, stage: str, found: dict[str, Any], left: dict[str, Any]) -> None:
        """Those of the fit go with it; unless the parameters are others now, as those that are pruned."""
        if stage == "on_begin":
            self._at_first = found
        if stage != "on_exit" or not self._at_first or list(left["the weights"]) != list(self._at_first["the weights"]):
            return
        if differs := difference(self._at_first["hooks"], left["hooks"]):
            self._note(f"leaves hooks at the network when the fit has ended: {differs}. Remove them in on_exit.")

    def _note(self, damage: str) -> None:
        self.damage = self.damage or damage


class _Spy(CallbackSet):
    """Tells of every stage."""

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
    """What a callback may have replaced: functions, losses, layers."""
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
