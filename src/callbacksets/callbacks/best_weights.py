"""Keeping the weights of an epoch, and restoring them."""

import copy
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from callbacksets.fit.context import ContextTorch

Weights = dict[str, Any]
_PRUNED = re.compile("_(orig|mask)$")  # what torch.nn.utils.prune adds to the name of a parameter


def copy_of_weights(ctx: "ContextTorch") -> Weights:
    """A copy of the network's state.

    If parameters outside of the network are trained too, a copy of the module's state without the frozen parameters
    outside of the network.
    """
    outside = _outside(ctx)
    if not any(outside.values()):
        return copy.deepcopy(ctx.network.state_dict())
    state = ctx.learner.state_dict()
    for name, is_trained in outside.items():
        if not is_trained:
            state.pop(name, None)
    return copy.deepcopy(state)


def _outside(ctx: "ContextTorch") -> dict[str, bool]:
    """Whether each parameter of the module outside of the network is trained."""
    parameters = dict(ctx.learner.named_parameters())
    held = {one for optimizer in ctx.optimizers for group in optimizer.param_groups for one in group["params"]}
    if not held <= set(parameters.values()):
        held = set(parameters.values())  # after a forward call, the parameters of FSDP2 are not those of the optimizer
    inside = set(ctx.network.parameters())
    return {name: one.requires_grad and one in held for name, one in parameters.items() if one not in inside}


def owner_of(weights: Weights, ctx: "ContextTorch") -> nn.Module:
    """The module that the weights belong to: the network, else the LightningModule."""
    names = {_PRUNED.sub("", name) for name in ctx.network.state_dict()}
    return ctx.network if names.issuperset(_PRUNED.sub("", name) for name in weights) else ctx.learner


def put_back(weights: Weights, ctx: "ContextTorch") -> None:
    """Load the weights that `copy_of_weights()` returned.

    Raises:
        RuntimeError: As for `load_state_dict()`, if the module has changed.
    """
    module = owner_of(weights, ctx)
    now = module.state_dict()
    state = copy.deepcopy(Shared(weights))  # values that are not tensors would be shared with the module
    for name, value in now.items():
        plain = name.removesuffix("_orig")
        if f"{name}_orig" in state:  # torch.nn.utils.prune, which has been made permanent since
            state[name] = state.pop(f"{name}_orig") * state.pop(f"{name}_mask")
        elif plain != name and plain in state:  # and the other way round: pruned since
            state |= {name: state.pop(plain), f"{plain}_mask": torch.ones_like(value)}
        state.setdefault(name, value)  # the parameters that were not trained
    module.load_state_dict(state, strict=ctx.learner.strict_loading)


class Shared(OrderedDict[str, Any]):
    """The state of a network whose tensors nobody changes, so that its deep copies can share the tensors.

    A copy of it, or its saved form, is an ordinary `OrderedDict`.
    """

    def __init__(self, state: Weights) -> None:
        super().__init__(state)
        vars(self).update(getattr(state, "__dict__", {}))  # the versions of its modules

    def __deepcopy__(self, memo: dict[int, Any]) -> OrderedDict[str, Any]:
        memo |= {id(value): value for value in self.values() if isinstance(value, Tensor)}
        return copy.deepcopy(self._ordinary(), memo)

    def __reduce__(self) -> Any:
        return self._ordinary().__reduce__()

    def _ordinary(self) -> OrderedDict[str, Any]:
        ordinary = OrderedDict(self)
        vars(ordinary).update(vars(self))
        return ordinary
