"""Monitoring the norm of the gradients."""

from typing import Any

import torch
from torch import Tensor

from callbacksets.base import CallbackSet
from callbacksets.checks import number
from callbacksets.fit.shards import is_part


class CallbackSetGradNorm(CallbackSet):
    """Adds the training score `grad_norm`: the gradient norm, averaged over the optimizer steps of the epoch.

    The norm is taken of all gradients of the optimizer that is about to step, as one vector. Gradients that are sharded
    over several ranks count completely. The norm stays on the device until the score is computed.

    By default it measures gradients before clipping. Because of its low weight it runs before callbacks that clip in
    `on_after_backward`, and `Trainer(gradient_clip_val=...)` clips later. To measure after a callback that clips, give
    it a higher weight than that callback has: `t_clbk("grad_norm", weight=1)`. With 16-mixed precision, a step that is
    skipped because its gradients overflow has an infinite norm.

    Example:
        >>> from callbacksets import CallbackSetGradNorm
        >>> CallbackSetGradNorm(norm_type=1)
        <CallbackSetGradNorm: on_epoch_begin, on_after_backward, on_before_valid, on_epoch_end>

    Args:
        norm_type: The p of the p-norm; it may be infinite.

    Raises:
        TypeError, ValueError: If `norm_type` is not a number above 0.

    mlr3torch: none.
    """

    reads_y_hats: bool = False
    weight: float = -1000

    def __init__(self, norm_type: float = 2.0) -> None:
        if number("norm_type", norm_type, at_least=0, finite=False) == 0:
            raise ValueError("Expected norm_type to be a number above 0 but got 0.")
        self.norm_type: float = float(norm_type)
        self.start_over()

    def start_over(self) -> None:
        self._sum: Tensor | float = 0.0
        self._steps = 0

    def on_epoch_begin(self) -> None:
        self.start_over()

    def on_after_backward(self) -> None:
        assert self.ctx.optimizer is not None, "an optimizer is about to step"
        parameters = (parameter for group in self.ctx.optimizer.param_groups for parameter in group["params"])
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._sum = self._sum + _total_norm(gradients, self.norm_type)
        self._steps += 1

    def on_before_valid(self) -> None:
        if self._steps and (scores := self.ctx.last_scores_train) is not None:
            scores["grad_norm"] = float(self._sum) / self._steps

    def on_epoch_end(self) -> None:
        self.on_before_valid()  # includes the steps after a validation inside the epoch

    def state_dict(self) -> dict[str, Any]:
        return {"sum": float(self._sum), "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sum, self._steps = state_dict["sum"], state_dict["steps"]


def _total_norm(gradients: list[Tensor], norm_type: float) -> Tensor:
    # a sparse gradient may hold a row several times; an empty one has no infinite norm
    dense = [one.coalesce().values() if one.is_sparse else one for one in gradients]
    dense = [one for one in dense if one.numel()]
    if not dense:
        return torch.zeros(())
    # torch cannot combine sharded tensors with whole ones
    kinds = [[one for one in dense if is_part(one) is kind] for kind in (True, False)]
    norms = [_whole(_norm(kind, norm_type)) for kind in kinds if kind]
    return norms[0] if len(norms) == 1 else _whole(_norm(norms, norm_type))


def _norm(tensors: list[Tensor], norm_type: float) -> Any:
    if hasattr(torch.nn.utils, "get_total_norm"):
        return torch.nn.utils.get_total_norm(tensors, norm_type)
    # before torch 2.6
    norms = [torch.linalg.vector_norm(one, norm_type).to(tensors[0].device) for one in tensors]
    return torch.linalg.vector_norm(torch.stack(norms), norm_type)


def _whole(norm: Any) -> Tensor:
    whole: Tensor = norm.full_tensor() if is_part(norm) else norm
    return whole.to(torch.promote_types(whole.dtype, torch.float32))  # half precision would not hold the sum
