"""Tensors of which each rank holds a part, as FSDP and tensor parallelism make them (torch's `DTensor`)."""

from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


def is_part(value: object) -> bool:
    """Whether it is one; told by what it can do, as not every torch has its class, and in the same place."""
    return hasattr(value, "full_tensor")


def put_together(state: Any, *, keep: bool) -> Any:
    """A state with whole tensors on the CPU for parts: of a checkpoint, only rank zero's states are written.

    All ranks have to call this, as each gives its parts.

    Args:
        state: Numbers, strings, tensors, and collections of these.
        keep: Whether this rank gets the whole tensors, or None for them.
    """

    def whole(tensor: Any) -> Tensor | None:
        if not is_part(tensor):
            return tensor  # type: ignore[no-any-return]
        together = tensor.detach().full_tensor()
        return together.cpu() if keep else None

    return apply_to_collection(state, Tensor, whole)


def divided(tensors: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors divided among the ranks as those of the same name are. All ranks have to call this.

    Args:
        tensors: Whole tensors, the same on all ranks. What is no tensor, or not to be divided, stays as it is.
        like: What they are to be divided like.
    """
    return {name: _divided(value, like.get(name)) for name, value in tensors.items()}


def _divided(value: Any, like: Any) -> Any:
    if is_part(value) or not is_part(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
