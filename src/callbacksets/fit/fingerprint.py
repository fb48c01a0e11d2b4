"""Telling whether the weights of a module have changed."""

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


def fingerprint(module: "LightningModule") -> list[Any]:
    """What changes when a tensor of the module is written to, also where torch does not count it (through `.data`)."""
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if not is_lazy(tensor)]
    versions = [None if tensor.is_inference() else tensor._version for tensor in tensors]
    return [versions, [_sum(tensor.detach()) for tensor in tensors]]


def _sum(tensor: torch.Tensor) -> str:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # of a sharded one, without a collective call
    try:
        total = local.sum(dtype=torch.complex128 if local.is_complex() else torch.float64)
        return str(total.item())  # which is the same for two that are NaN
    except (NotImplementedError, RuntimeError):
        return ""  # of a quantized or nested tensor, or one without data; the count of changes has to do
