"""Sharded tensors (torch's `DTensor`), as in FSDP and tensor parallelism: each rank holds a part."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor


def is_part(value: object) -> bool:
    """Whether a value is a sharded tensor. Its method tells it, because versions of torch differ in the class."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def put_together(state: Any, *, keep: bool) -> Any:
    """A state with whole tensors on the CPU instead of shards. A checkpoint contains only the states of rank zero.

    All ranks must call this, because each rank gives its shards.

    Args:
        state: Any state. Shards are replaced, also inside lists, tuples and dicts. Other values stay as they are.
        keep: Whether this rank gets the whole tensors. If False, it gets None for each.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return state  # there are no shards, so a long history need not be searched for them
    if is_part(state):
        whole = state.detach().full_tensor()
        return whole.cpu() if keep else None
    if type(state) in (dict, OrderedDict):
        return _with_values(state, {name: put_together(value, keep=keep) for name, value in state.items()})
    if type(state) in (list, tuple):
        return type(state)(put_together(value, keep=keep) for value in state)
    return state


def divided(tensors: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Shard tensors over the ranks like other tensors with the same names. All ranks must call this.

    Args:
        tensors: Whole tensors, the same on all ranks. A tensor stays as it is if it is already sharded, or if the other
            tensor with its name is not.
        like: The other tensors.
    """
    return _with_values(tensors, {name: _divided(value, like.get(name)) for name, value in tensors.items()})


def _divided(value: Any, like: Any) -> Any:
    if is_part(value) or not is_part(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _with_values(mapping: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of the mapping with other values. It keeps attributes, such as the versions in a module's state_dict."""
    result = copy.copy(mapping)
    result.update(values)
    return result
