"""Tensors of which each rank holds a part, as FSDP and tensor parallelism make them (torch's `DTensor`)."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor


def is_part(value: object) -> bool:
    """Whether it is one; told by what it can do, as not every torch has its class, and in the same place."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def put_together(state: Any, *, keep: bool) -> Any:
    """A state with whole tensors on the CPU for parts: of a checkpoint, only rank zero's states are written.

    All ranks have to call this, as each gives its parts.

    Args:
        state: Anything; what is not a part, nor a list, tuple or dict with parts inside, stays as it is.
        keep: Whether this rank gets the whole tensors, or None for them.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return state  # and so there are no parts: a long history need not be looked through for them
    if is_part(state):
        whole = state.detach().full_tensor()
        return whole.cpu() if keep else None
    if type(state) in (dict, OrderedDict):
        return _with_values(state, {name: put_together(value, keep=keep) for name, value in state.items()})
    if type(state) in (list, tuple):
        return type(state)(put_together(value, keep=keep) for value in state)
    return state


def divided(tensors: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Tensors divided among the ranks as those of the same name are. All ranks have to call this.

    Args:
        tensors: Whole tensors, the same on all ranks. What is a part already, or is not to be divided, stays as it is.
        like: What they are to be divided like.
    """
    return _with_values(tensors, {name: _divided(value, like.get(name)) for name, value in tensors.items()})


def _divided(value: Any, like: Any) -> Any:
    if is_part(value) or not is_part(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _with_values(mapping: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """One of the same class, with what else it carries: the state_dict of a module has its versions."""
    result = copy.copy(mapping)
    result.update(values)
    return result
