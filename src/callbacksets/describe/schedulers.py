"""Descriptors of callbacks that run torch's learning rate schedulers."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from callbacksets.base import snake_case
from callbacksets.callbacks.lr_scheduler import CallbackSetLRScheduler, check_scheduler
from callbacksets.checks import flag
from callbacksets.describe.descriptor import TorchCallback, check_of
from callbacksets.describe.param_set import ParamSet


def as_lr_scheduler(x: Callable[..., LRScheduler], step_on_epoch: bool) -> TorchCallback:
    """Make the descriptor of a callback that runs a learning rate scheduler.

    Example:
        >>> from torch.optim.lr_scheduler import ExponentialLR
        >>> from callbacksets import as_lr_scheduler
        >>> exponential = as_lr_scheduler(ExponentialLR, step_on_epoch=True)
        >>> exponential.param_set.set_values(gamma=0.9)
        >>> exponential.id, exponential.param_set
        ('lr_exponential', ParamSet(gamma=0.9, last_epoch=-1))

    Args:
        x: A scheduler class of torch, or a function that makes a scheduler. Its first argument is the optimizer. The
            other arguments become the parameters.
        step_on_epoch: True to step after every epoch, False to step after every batch.

    Raises:
        TypeError: If `x` is not such a class or function, or `step_on_epoch` is not a bool.

    mlr3torch: `as_lr_scheduler()`.
    """
    flag("step_on_epoch", step_on_epoch)
    check_scheduler("x", x)
    return describe_scheduler(CallbackSetLRScheduler, x, {"scheduler": x, "step_on_epoch": step_on_epoch})


def describe_scheduler(
    cls: type[CallbackSetLRScheduler],
    scheduler: Callable[..., LRScheduler],
    additional_args: Mapping[str, Any] = {},
) -> TorchCallback:
    """The descriptor of a class that runs a scheduler. The scheduler's arguments are the parameters.

    Args:
        cls: The class. It passes its `**kwargs` on to the scheduler.
        scheduler: The torch class, or a function of the optimizer.
        additional_args: Arguments of the class that are not parameters.
    """
    name = getattr(scheduler, "__name__", "<lambda>")
    words = "custom" if name == "<lambda>" else snake_case(name.replace("LR", "")).removeprefix("lr_")
    optimizer = next(iter(inspect.signature(scheduler).parameters), "optimizer")
    return TorchCallback(
        cls,
        id=f"lr_{words}",
        label=f"{words.replace('_', ' ').title()} LR Scheduler",
        man=f"{scheduler.__module__}.{name}" if isinstance(scheduler, type) else None,
        additional_args=additional_args,
        param_set=ParamSet.from_callable(
            cls, scheduler, without=(optimizer, *additional_args), check=check_of(cls, additional_args)
        ),
    )
