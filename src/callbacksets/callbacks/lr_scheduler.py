"""Learning rate schedules: torch's schedulers, stepped by the training loop."""

import copy
import inspect
import types
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, ReduceLROnPlateau

from callbacksets.base import CallbackSet
from callbacksets.callbacks.scheduler_arguments import checked
from callbacksets.checks import flag, keywords, listed, shown


def check_scheduler(name: str, value: Any) -> None:
    """Raise a `TypeError` for what does not make a scheduler from an optimizer."""
    is_other_class = isinstance(value, type) and (issubclass(value, Optimizer) or not hasattr(value, "step"))
    if not callable(value) or is_other_class:
        raise TypeError(
            f"Expected {name} to be a scheduler class of torch, or a function that makes a scheduler from the "
            f"optimizer, but got {shown(value)}."
        )
    if value is ReduceLROnPlateau:
        raise TypeError(
            "ReduceLROnPlateau needs a score in every step. Use CallbackSetLRSchedulerReduceOnPlateau(...), or "
            "t_clbk('lr_reduce_on_plateau', ...)."
        )
    with suppress(ValueError):  # some builtins have no signature
        if value is ChainedScheduler or not inspect.signature(value).parameters:
            raise TypeError(
                f"Expected {name} to take the optimizer first, which {shown(value)} does not. Give a function that "
                "does: lambda optimizer: ... ."
            )


class CallbackSetLRScheduler(CallbackSet):
    """Changes the learning rate as a torch scheduler does, after every epoch or after every batch.

    Its state is the scheduler's `state_dict()`, less the functions in it. As it holds the scheduler's configuration
    too, a resumed run goes on with the schedule of the checkpoint, whatever numbers it was given itself; functions, as
    those of `LambdaLR`, are always its own.

    Example:
        >>> from torch.optim.lr_scheduler import StepLR
        >>> from callbacksets import CallbackSetLRScheduler
        >>> CallbackSetLRScheduler(StepLR, step_size=3, gamma=0.5)
        <CallbackSetLRScheduler: on_begin, on_epoch_end>

    Args:
        scheduler: A class of `torch.optim.lr_scheduler` that takes the optimizer first, or a callable that makes a
            scheduler from the optimizer.
        step_on_epoch: Whether to step when an epoch ends; else at the end of every batch, also of those after which
            `accumulate_grad_batches` leaves the weights as they are.
        **kwargs: The scheduler's other arguments.

    Attributes:
        scheduler: The scheduler, from `begin` on.

    Raises:
        TypeError, ValueError: For an argument of the wrong kind, one the scheduler does not have, or one it needs.
        RuntimeError: In `begin`, when there are several optimizers, or the state is that of another scheduler.

    mlr3torch: `CallbackSetLRScheduler`; `t_clbk("lr_step")`, `t_clbk("lr_cosine_annealing")`, `t_clbk("lr_lambda")`,
    `t_clbk("lr_multiplicative")`.
    """

    reads_y_hats: bool = False

    def __init__(self, scheduler: Callable[..., Any], step_on_epoch: bool = True, **kwargs: Any) -> None:
        self._check_scheduler(scheduler)
        keywords(scheduler, kwargs, after=1)
        if getattr(scheduler, "__module__", None) == "torch.optim.lr_scheduler":
            kwargs = {name: checked(name, value) for name, value in kwargs.items()}
        self.scheduler_fn = scheduler
        self.scheduler_args = kwargs
        if flag("step_on_epoch", step_on_epoch):
            self.on_batch_end = None  # type: ignore[assignment, method-assign]  # which switches the stage off
        else:
            self.on_epoch_end = None  # type: ignore[assignment, method-assign]
        self.start_over()

    def start_over(self) -> None:
        self.scheduler: Any = None
        self._loaded: dict[str, Any] | None = None
        self._has_stepped = False

    def on_begin(self) -> None:
        if self.ctx.total_steps == 0:
            return
        if configs := self.ctx.trainer.lr_scheduler_configs:
            own = listed(type(config.scheduler).__name__ for config in configs)
            rank_zero_warn(
                f"The module's configure_optimizers() has a learning rate scheduler of its own ({own}), which steps "
                f"beside {self._name}. Keep one of them."
            )
        self._make_scheduler()

    def on_batch_end(self) -> None:
        self._step()

    def on_epoch_end(self) -> None:
        self._step()

    def state_dict(self) -> dict[str, Any] | None:
        if self.scheduler is None:
            return self._loaded
        return _without_functions(self.scheduler.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any] | None) -> None:
        self._loaded = state_dict
        if self.ctx is None or state_dict is None:
            self.scheduler = None  # of an earlier fit
        elif self.scheduler is not None:
            self._go_on_from(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        # a scheduler holds the optimizer of its fit: of it, copies keep what a checkpoint does
        return super().__getstate__() | {"scheduler": None, "_loaded": CallbackSetLRScheduler.state_dict(self)}

    def _check_scheduler(self, scheduler: Any) -> None:
        check_scheduler("scheduler", scheduler)

    @property
    def _name(self) -> str:
        return getattr(self.scheduler_fn, "__name__", repr(self.scheduler_fn))

    def _arguments(self) -> dict[str, Any]:
        """The scheduler's arguments in this fit."""
        return self.scheduler_args

    def _make_scheduler(self) -> None:
        optimizer = self._only_optimizer()
        groups = [
            {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        self.scheduler = self.scheduler_fn(optimizer, **self._arguments())
        if not all(hasattr(self.scheduler, method) for method in ("step", "state_dict", "load_state_dict")):
            raise TypeError(f"Expected {self._name} to make a learning rate scheduler but got {shown(self.scheduler)}.")
        if self._loaded is None:
            return
        self._go_on_from(self._loaded)
        if self.ctx.resumed:
            # making a scheduler sets the groups to the beginning of its schedule; the optimizer was further
            for group, before in zip(optimizer.param_groups, groups, strict=True):
                group.update(before)

    def _go_on_from(self, state: dict[str, Any]) -> None:
        self._check_state(_without_functions(self.scheduler.state_dict()), state)
        self.scheduler.load_state_dict(copy.deepcopy(state))
        for group, rate in zip(self._only_optimizer().param_groups, state.get("_last_lr", ()), strict=False):
            group["lr"] = rate

    def _only_optimizer(self) -> Optimizer:
        optimizers = self.ctx.optimizers
        if len(optimizers) != 1:
            raise RuntimeError(
                f"{self._name} schedules one optimizer, but the module has {len(optimizers)}. Return schedulers from "
                "configure_optimizers(), or write a callback that makes one for each of ctx.optimizers."
            )
        return optimizers[0]

    def _check_state(self, current: Mapping[str, Any], restored: Mapping[str, Any]) -> None:
        """Compare the state of the new scheduler with the one it is to go on from."""
        if lacking := [name for name in current if not name.startswith("_") and name not in restored]:
            raise RuntimeError(
                f"The checkpoint's state is not of the scheduler of this run, {self._name}: it lacks "
                f"{listed(lacking)}. Resume with the scheduler it was written with, or give this one an id of its own."
            )

    def _step(self) -> None:
        # torch warns when the first step comes before any of the optimizer's. In this order that takes a window of
        # accumulated batches, or a checkpoint written between the optimizer's last step and ours.
        expected = self.ctx.trainer.accumulate_grad_batches > 1 or self.ctx.resumed
        if expected and not self._has_stepped:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self.scheduler.step()
        else:
            self.scheduler.step()
        self._has_stepped = True


def _without_functions(state: Mapping[str, Any]) -> dict[str, Any]:
    # as LambdaLR does with its own: they cannot be saved, and a new scheduler has them
    functions = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
    return {name: value for name, value in state.items() if not isinstance(value, functions)}
