"""Detecting whether the weights of a module have changed."""

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


def fingerprint(module: "LightningModule") -> list[Any]:
    """A value that changes if a tensor of the module is changed, even through `.data`, which torch does not count."""
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if not is_lazy(tensor)]
    versions = [None if tensor.is_inference() else tensor._version for tensor in tensors]
    return [versions, [_sum(tensor.detach()) for tensor in tensors]]


def _sum(tensor: torch.Tensor) -> str:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # the local shard needs no collective call
    for dtype in (torch.complex128 if local.is_complex() else torch.float64, None):
        try:
            return str(local.sum(dtype=dtype).item())  # as strings, two NaN are equal
        except (NotImplementedError, RuntimeError, TypeError):
            continue  # a device without float64
    return ""  # a quantized or nested tensor, or a tensor without data: only torch's count of changes is used
