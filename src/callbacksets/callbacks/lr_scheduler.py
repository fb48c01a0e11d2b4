"""Running torch's learning rate schedulers in the training loop."""

import copy
import inspect
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import SWALR

from callbacksets.base import CallbackSet
from callbacksets.callbacks.scheduler_arguments import checked
from callbacksets.checks import flag, keywords, listed, shown


def check_scheduler(name: str, value: Any) -> None:
    """Raise a `TypeError` if a value cannot make a scheduler from an optimizer."""
    is_other_class = isinstance(value, type) and (issubclass(value, Optimizer) or not hasattr(value, "step"))
    if not callable(value) or is_other_class:
        raise TypeError(
            f"Expected {name} to be a scheduler class of torch, or a function that makes a scheduler from the "
            f"optimizer, but got {shown(value)}."
        )
    if value is ReduceLROnPlateau:
        raise TypeError(
            "ReduceLROnPlateau needs a score for every step. Use CallbackSetLRSchedulerReduceOnPlateau(...), or "
            "t_clbk('lr_reduce_on_plateau', ...)."
        )
    with suppress(ValueError):  # some builtins have no signature
        if value is ChainedScheduler or not inspect.signature(value).parameters:
            raise TypeError(
                f"Expected {name} to take the optimizer first, but {shown(value)} does not. Give a function such as "
                "lambda optimizer: ... ."
            )


class CallbackSetLRScheduler(CallbackSet):
    """Runs a torch learning rate scheduler. It steps after every epoch or after every batch.

    Once Lightning's `StochasticWeightAveraging` has taken over the learning rate, the scheduler does not step any more.
    A parameter group that is added during training keeps its own learning rate.

    Its state is the scheduler's `state_dict()` without functions. This includes the scheduler's configuration. So a
    resumed run continues the schedule of the checkpoint, even if its own arguments have other numbers. Functions, such
    as that of `LambdaLR`, are always those of the resumed run.

    Example:
        >>> from torch.optim.lr_scheduler import StepLR
        >>> from callbacksets import CallbackSetLRScheduler
        >>> CallbackSetLRScheduler(StepLR, step_size=3, gamma=0.5)
        <CallbackSetLRScheduler: on_begin, on_epoch_end>

    Args:
        scheduler: A class of `torch.optim.lr_scheduler`, or a callable that makes a scheduler. Its first argument is
            the optimizer.
        step_on_epoch: True to step at the end of every epoch, False to step at the end of every batch. With
            `accumulate_grad_batches` this includes batches without an optimizer step.
        **kwargs: The other arguments of the scheduler.

    Attributes:
        scheduler: The scheduler; None before `on_begin`.

    Raises:
        TypeError, ValueError: If an argument is wrong, unknown to the scheduler, or missing.
        RuntimeError: In `on_begin`, if there are several optimizers, or if the state belongs to another scheduler.

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
            self.on_batch_end = None  # type: ignore[assignment, method-assign]  # switches the stage off
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
                f"The module's configure_optimizers() also returns a learning rate scheduler ({own}). Both it and "
                f"{self._name} will step. Keep only one of them."
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
            self.scheduler = None  # it belongs to an earlier fit
        elif self.scheduler is not None:
            self._go_on_from(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        # a scheduler holds the optimizer of its fit, so a copy keeps only its state
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
        scheduled = len((self._loaded or {}).get("base_lrs", groups))
        with _only_first(scheduled, optimizer.param_groups):
            self.scheduler = self.scheduler_fn(optimizer, **self._arguments())
        if not all(hasattr(self.scheduler, method) for method in ("step", "state_dict", "load_state_dict")):
            raise TypeError(f"Expected {self._name} to make a learning rate scheduler but got {shown(self.scheduler)}.")
        if self._loaded is None:
            return
        self._go_on_from(self._loaded)
        if self.ctx.resumed:
            # making a scheduler resets the groups to the start of the schedule; the optimizer was further
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
                "configure_optimizers(), or write a callback that makes a scheduler for each of ctx.optimizers."
            )
        return optimizers[0]

    def _check_state(self, current: Mapping[str, Any], restored: Mapping[str, Any]) -> None:
        """Compare the state of the new scheduler with the state to restore."""
        if lacking := [name for name in current if not name.startswith("_") and name not in restored]:
            raise RuntimeError(
                f"The state in the checkpoint does not fit the scheduler of this run, {self._name}: it lacks "
                f"{listed(lacking)}. Resume with the scheduler of the checkpoint, or give the new one another id."
            )

    def _is_replaced(self) -> bool:
        """Whether stochastic weight averaging has put its own schedule in place."""
        configs = self.ctx.trainer.lr_scheduler_configs
        return bool(configs) and any(isinstance(config.scheduler, SWALR) for config in configs)

    def _step(self) -> None:
        if self._is_replaced():
            return
        if not self._has_stepped and (self.ctx.trainer.accumulate_grad_batches > 1 or self.ctx.resumed):
            # torch warns if a scheduler steps before its optimizer has stepped. Here that happens only in a window of
            # accumulated batches, or with a checkpoint written between the steps of the optimizer and of the scheduler.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self._advance()
        else:
            self._advance()
        self._has_stepped = True

    def _advance(self) -> None:
        groups = self.ctx.trainer.optimizers[0].param_groups
        with _only_first(len(getattr(self.scheduler, "base_lrs", groups)), groups):
            self.scheduler.step()


@contextmanager
def _only_first(n: int, groups: list[Any]) -> Iterator[None]:
    """Hide the groups that were added after the scheduler was made: torch fails at them, or schedules some of them."""
    added = groups[n:]
    del groups[n:]
    try:
        yield
    finally:
        groups += added


def _without_functions(state: Mapping[str, Any]) -> dict[str, Any]:
    # functions cannot be saved, and the new scheduler has its own; LambdaLR does the same
    functions = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
    return {name: value for name, value in state.items() if not isinstance(value, functions)}
