"""Keeping the weights of an epoch, and putting them back."""

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from callbacksets.fit.context import ContextTorch

Weights = dict[str, Any]


def copy_of_weights(ctx: "ContextTorch") -> Weights:
    """The network's state; where parameters outside of it are trained too, the module's, less what is not trained."""
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
        held = set(parameters.values())  # after a forward call, FSDP2 shows others than those that an optimizer holds
    inside = set(ctx.network.parameters())
    return {name: one.requires_grad and one in held for name, one in parameters.items() if one not in inside}


def owner_of(weights: Weights, ctx: "ContextTorch") -> nn.Module:
    """The module whose state they are: the network, or else the LightningModule."""
    names = {_unpruned(name) for name in ctx.network.state_dict()}
    return ctx.network if all(_unpruned(name) in names for name in weights) else ctx.learner


def put_back(weights: Weights, ctx: "ContextTorch") -> None:
    """Load what `copy_of_weights()` returned.

    Raises:
        RuntimeError: As `load_state_dict()` does, when the module has become another.
    """
    module = owner_of(weights, ctx)
    now = module.state_dict()
    state = copy.deepcopy(Shared(weights))  # what is no tensor would be shared with the module
    for name in {name.removesuffix("_orig") for name in (*weights, *now) if name.endswith("_orig")}:
        _prune_alike(state, now, name)
    for name, value in now.items():
        state.setdefault(name, value)  # what was not trained
    module.load_state_dict(state, strict=ctx.learner.strict_loading)


def _prune_alike(state: Weights, now: Weights, name: str) -> None:
    """Give a parameter the form in which the module has it, pruned or not: see torch.nn.utils.prune."""
    original, mask = f"{name}_orig", f"{name}_mask"
    if {original, mask} <= set(state) and name in now:  # by now it is pruned for good
        state[name] = state.pop(original) * state.pop(mask)
    elif {original, mask} <= set(now) and name in state:  # it was not pruned yet
        state[original] = state.pop(name)
        state[mask] = state[original].new_ones(state[original].shape)


def _unpruned(name: str) -> str:
    return name.removesuffix("_orig").removesuffix("_mask")


class Shared(OrderedDict[str, Any]):
    """The state of a network whose tensors nobody writes to, so that a copy of it holds the same and not more of them.

    Copied or saved, it is an ordinary one.
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
