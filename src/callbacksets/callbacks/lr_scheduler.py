"""Learning rate schedules: torch's schedulers, stepped by the training loop."""

import copy
import inspect
import types
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, OneCycleLR, ReduceLROnPlateau

from callbacksets.base import CallbackSet
from callbacksets.callbacks.monitor import (
    choose_measure,
    has_validation,
    measures_at_begin,
    monitored_score,
    scores_to_monitor,
)
from callbacksets.checks import choice, flag, keywords, listed, number, text, whole_number
from callbacksets.scores import ByName


def check_scheduler(name: str, value: Any) -> None:
    """Raise a `TypeError` for what does not make a scheduler from an optimizer."""
    is_other_class = isinstance(value, type) and (issubclass(value, Optimizer) or not hasattr(value, "step"))
    if not callable(value) or is_other_class:
        raise TypeError(
            f"Expected {name} to be a scheduler class of torch, or a function that makes a scheduler from the "
            f"optimizer, but got {value!r}."
        )
    if value is ReduceLROnPlateau:
        raise TypeError(
            "ReduceLROnPlateau needs a score in every step. Use CallbackSetLRSchedulerReduceOnPlateau(...), or "
            "t_clbk('lr_reduce_on_plateau', ...)."
        )
    with suppress(ValueError):  # some builtins have no signature
        if value is ChainedScheduler or not inspect.signature(value).parameters:
            raise TypeError(
                f"Expected {name} to take the optimizer first, which {value!r} does not. Give a function that does: "
                "lambda optimizer: ... ."
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

    reads_y_hats = False

    def __init__(self, scheduler: Callable[..., Any], step_on_epoch: bool = True, **kwargs: Any) -> None:
        if not isinstance(self, CallbackSetLRSchedulerReduceOnPlateau):
            check_scheduler("scheduler", scheduler)
        keywords(scheduler, kwargs, after=1)
        if getattr(scheduler, "__module__", None) == "torch.optim.lr_scheduler":
            kwargs = {name: _checked(name, value) for name, value in kwargs.items()}
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
            raise TypeError(f"Expected {self._name} to make a learning rate scheduler but got {self.scheduler!r}.")
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


class CallbackSetLRSchedulerOneCycle(CallbackSetLRScheduler):
    """Lets the learning rate rise and fall once over the run, as torch's `OneCycleLR`; stepped after every batch.

    The cycle is as long as the run has batches, `ctx.total_steps`, unless `total_steps` is given. A run that turns out
    longer (batches of None with `max_steps`, a batch that Lightning trains again) keeps its last rate, with a warning.

    Example:
        >>> from callbacksets import CallbackSetLRSchedulerOneCycle
        >>> CallbackSetLRSchedulerOneCycle(max_lr=0.1)
        <CallbackSetLRSchedulerOneCycle: on_begin, on_batch_end>

    Args:
        **kwargs: The arguments of `torch.optim.lr_scheduler.OneCycleLR`; `max_lr` is required.

    Raises:
        TypeError, ValueError: For an argument of the wrong kind, one the scheduler does not have, or one it needs.
        RuntimeError: In `begin`, when the length of the run is unknown, the cycle ends before the run, or the
            checkpoint's cycle is of another length.

    mlr3torch: `t_clbk("lr_one_cycle")`.
    """

    reads_y_hats = False
    on_epoch_end = None  # type: ignore[assignment]

    def __init__(self, **kwargs: Any) -> None:
        given = {name: value for name, value in kwargs.items() if value is not None}
        keywords(OneCycleLR, given, after=1)
        super().__init__(OneCycleLR, step_on_epoch=False, **given)
        if "total_steps" not in given and ("epochs" in given) != ("steps_per_epoch" in given):
            raise ValueError(
                "Expected epochs and steps_per_epoch to be given together, or neither, as the run has a length of its "
                f"own, but got {listed(name for name in ('epochs', 'steps_per_epoch') if name in given)}."
            )

    def start_over(self) -> None:
        super().start_over()
        self._cycle_is_over = False

    def _arguments(self) -> dict[str, Any]:
        given = self.scheduler_args
        if "total_steps" in given or "epochs" in given:
            return given
        if self.ctx.total_steps is None:
            raise RuntimeError(
                "OneCycleLR needs the number of batches of the whole run, which the Trainer does not know. "
                "Give total_steps."
            )
        return given | {"total_steps": self.ctx.total_steps}

    def _make_scheduler(self) -> None:
        super()._make_scheduler()
        steps, batches = self.scheduler.total_steps, self.ctx.total_steps
        if batches is not None and steps < batches:
            raise RuntimeError(
                f"The cycle of OneCycleLR has {steps} steps, but this run has {batches} batches, and torch refuses to "
                f"step beyond the cycle. Give total_steps={batches}, or train less: Trainer(max_steps=...)."
            )

    def _step(self) -> None:
        if (steps := self.scheduler.total_steps) > self.scheduler.last_epoch:
            super()._step()
        elif not self._cycle_is_over:
            self._cycle_is_over = True
            rank_zero_warn(f"The run is longer than the cycle of OneCycleLR, {steps} batches, and keeps its last rate.")

    def _check_state(self, current: Mapping[str, Any], restored: Mapping[str, Any]) -> None:
        super()._check_state(current, restored)
        before, now = restored["total_steps"], current["total_steps"]
        if before != now:
            raise RuntimeError(
                f"The cycle of the run that is resumed has {before} steps, but that of this run {now}. Resume with the "
                "same max_epochs, and loaders of the same length."
            )


class CallbackSetLRSchedulerReduceOnPlateau(CallbackSetLRScheduler):
    """Reduces the learning rate when a validation score stagnates, as torch's `ReduceLROnPlateau`.

    It steps when an epoch with a validation ends. As in torch, a NaN counts as an epoch without an improvement. Its
    state has the name of the score as `measure`.

    Example:
        >>> from callbacksets import CallbackSetLRSchedulerReduceOnPlateau
        >>> CallbackSetLRSchedulerReduceOnPlateau(monitor="acc", patience=3)
        <CallbackSetLRSchedulerReduceOnPlateau: on_begin, on_epoch_end>

    Args:
        monitor: The name of the score, `"loss"` or as it was logged, `"val_loss"`; by default the first.
        **kwargs: The arguments of `torch.optim.lr_scheduler.ReduceLROnPlateau`; `mode` is by default what
            `ctx.minimize()` says of the score.

    Raises:
        TypeError, ValueError: For an argument of the wrong kind, or one the scheduler does not have.
        RuntimeError: In `begin` where the sanity check ran, else after the first validation: when there is no such
            score, or nothing tells whether lower is better.

    mlr3torch: `t_clbk("lr_reduce_on_plateau")`.
    """

    reads_y_hats = False
    on_batch_end = None  # type: ignore[assignment]

    def __init__(self, monitor: str | None = None, **kwargs: Any) -> None:
        given = {name: value for name, value in kwargs.items() if (name, value) != ("mode", None)}
        keywords(ReduceLROnPlateau, given, after=1, also=("monitor",))
        if "mode" in given:
            given["mode"] = choice("mode", given["mode"], ("min", "max"))
        super().__init__(ReduceLROnPlateau, step_on_epoch=True, **given)
        self.monitor = None if monitor is None else text("monitor", monitor)

    def start_over(self) -> None:
        super().start_over()
        self.measure: str | None = None
        self._minimize: bool | None = None

    def on_begin(self) -> None:
        self._minimize = None
        super().on_begin()
        if self.scheduler is None:
            return
        if not has_validation(self.ctx):
            rank_zero_warn("This fit has no validation, so ReduceLROnPlateau leaves the learning rate as it is.")
        elif (known := measures_at_begin(self, self.monitor)) is not None:
            self._choose(known)

    def state_dict(self) -> dict[str, Any] | None:
        state = super().state_dict()
        return None if state is None else state | {"measure": self.measure}

    def load_state_dict(self, state_dict: dict[str, Any] | None) -> None:
        state = dict(state_dict or {})
        measure = state.pop("measure", None)
        super().load_state_dict(state or None)
        self.measure = measure

    def _choose(self, known: ByName[Any]) -> None:
        self.measure, self._minimize = choose_measure(
            self.ctx,
            known,
            user="ReduceLROnPlateau",
            monitor=self.monitor,
            mode=self.scheduler_args.get("mode"),
            before=None if self._loaded is None else self.measure,
        )
        self._make_scheduler()  # anew, as only now its mode is known; it leaves the optimizer alone

    def _arguments(self) -> dict[str, Any]:
        return {"mode": "max" if self._minimize is False else "min"} | self.scheduler_args

    def _step(self) -> None:
        if self.ctx.last_scores_valid is None:
            return
        scores = scores_to_monitor(self.ctx, "ReduceLROnPlateau")
        if self._minimize is None or (self.scheduler.last_epoch == 0 and self.measure not in scores):
            self._choose(scores)  # of the measures known in `begin`, some may be no score
        self.scheduler.step(monitored_score(scores, self.measure, "ReduceLROnPlateau"))


def _without_functions(state: Mapping[str, Any]) -> dict[str, Any]:
    # as LambdaLR does with its own: they cannot be saved, and a new scheduler has them
    functions = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
    return {name: value for name, value in state.items() if not isinstance(value, functions)}


def _each(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """The check of a value, or of a list with one for each parameter group."""
    return lambda name, value: (
        [check(name, one) for one in value] if isinstance(value, list | tuple) else check(name, value)
    )


def _function(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(
            f"Expected {name} to be a function or a list of one for each parameter group but got {value!r}."
        )
    return value


_COUNT = partial(whole_number, at_least=1)
_AMOUNT = partial(number, at_least=0)
_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    # torch notices most of these only when it steps, or never
    "T_max": _COUNT,
    "anneal_strategy": partial(choice, choices=("cos", "linear")),
    "base_momentum": _each(_AMOUNT),
    "cooldown": partial(whole_number, at_least=0),
    "cycle_momentum": flag,
    "div_factor": _AMOUNT,
    "epochs": _COUNT,
    "eps": _AMOUNT,
    "eta_min": _AMOUNT,
    "factor": _AMOUNT,
    "final_div_factor": _AMOUNT,
    "gamma": _AMOUNT,
    "last_epoch": partial(whole_number, at_least=-1),
    "lr_lambda": _each(_function),
    "max_lr": _each(_AMOUNT),
    "max_momentum": _each(_AMOUNT),
    "min_lr": _each(_AMOUNT),
    "patience": partial(whole_number, at_least=0),
    "pct_start": partial(number, at_least=0, at_most=1),
    "step_size": _COUNT,
    "steps_per_epoch": _COUNT,
    "three_phase": flag,
    "threshold": _AMOUNT,
    "threshold_mode": partial(choice, choices=("rel", "abs")),
    "total_steps": _COUNT,
}
"""What is known of the arguments of torch's own schedulers."""


def _checked(name: str, value: Any) -> Any:
    return _CHECKS[name](name, value) if name in _CHECKS else value
