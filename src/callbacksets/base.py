"""The stages, and the base class whose methods run at them."""

import copy
import inspect
import re
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from callbacksets import elsewhere
from callbacksets.checks import (
    ANY_NUMBER,
    IsElsewhere,
    NotALightningCallback,
    did_you_mean,
    flag,
    listed,
    misplaced,
    parameters,
    shown,
    shown_values,
)
from callbacksets.show import html

if TYPE_CHECKING:
    from callbacksets.fit.context import ContextTorch

STAGES: tuple[str, ...] = (
    "on_begin",
    "on_epoch_begin",
    "on_batch_begin",
    "on_after_backward",
    "on_batch_end",
    "on_before_valid",
    "on_batch_valid_begin",
    "on_batch_valid_end",
    "on_valid_end",
    "on_epoch_end",
    "on_end",
    "on_exit",
)
"""The stages of a fit, in the order in which they run."""


class CallbackSet:
    """The base class of all callbacks. The training loop calls its methods.

    A subclass defines a method for each stage at which it does something: `on_begin`, `on_epoch_begin`,
    `on_batch_begin`, `on_after_backward`, `on_batch_end`, `on_before_valid`, `on_batch_valid_begin`,
    `on_batch_valid_end`, `on_valid_end`, `on_epoch_end`, `on_end`, `on_exit`. Each takes `self` only. During a fit,
    `self.ctx` shows the state of the training loop. `state_dict()` returns what the callback has learned, and
    `load_state_dict()` restores it.

    A stage can also be set on an instance, as a function without arguments. This also works during training; a stage
    that the callback did not have before runs from the next epoch on. Setting a stage to None switches it off.

    Example:
        >>> class CallbackSetCount(CallbackSet):
        ...     def on_begin(self):
        ...         self.batches = 0
        ...     def on_batch_end(self):
        ...         self.batches += 1
        >>> CallbackSetCount().stages
        ['on_begin', 'on_batch_end']

    Attributes:
        ctx: The context of the fit; None outside of a fit. To test a method alone, set any stand-in.
        weight: Within a stage, callbacks run by ascending weight. Callbacks of equal weight run in the order given.
        reads_y_hats: Set it to False if the callback never reads `ctx.y_hat` or `ctx.y_hats`. If no callback of a run
            reads them, the network's output is released earlier, which saves memory. Subclasses do not inherit the
            False.
        is_restored: Set it to False if a resumed run does not need the state. If a checkpoint has no state of such a
            callback, there is no warning.

    Raises:
        TypeError: When a class is defined whose public method `on_...` is not a stage, or whose stage takes more
            than `self`.

    mlr3torch: `CallbackSet`.
    """

    # None outside of a fit. The type omits the None, so that stages can read `self.ctx.epoch` under a type checker.
    ctx: "ContextTorch" = None  # type: ignore[assignment]
    weight: float = 0
    reads_y_hats: bool = True
    is_restored: bool = True

    state_key: Any = NotALightningCallback()  # a Trainer reads it first from objects with a `state_dict`
    # attributes and methods of a Lightning callback
    log: Any = IsElsewhere(
        "self.ctx.learner.log(...), or for a score of the epoch self.ctx.last_scores_valid[...] = ..."
    )
    log_dict: Any = IsElsewhere("self.ctx.learner.log_dict(...)")
    trainer: Any = IsElsewhere("self.ctx.trainer")
    pl_module: Any = IsElsewhere("self.ctx.learner")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.reads_y_hats = vars(cls).get("reads_y_hats", True)  # methods that a subclass adds may read them
        found = {name: inspect.getattr_static(cls, name) for name in dir(cls) if name.startswith("on_")}
        _check_stages(cls.__name__, {name: _unbound(value, cls) for name, value in found.items()})

    @property
    def stages(self) -> list[str]:
        """The stages that this callback has, in the order in which they run."""
        return stages_of(self)

    def start_over(self) -> None:
        """Reset the callback before it is used in another fit; by default it does nothing.

        It is called during the set-up of a fit if the instance has already been used in an earlier fit. After it, the
        instance should behave like a new one. If the fit is resumed, the saved state is loaded later.
        """

    def state_dict(self) -> Any:
        """The state that the callback needs to continue in a resumed run; None, the default, means no state.

        Leave out the arguments of the constructor. Use types that `torch.load(..., weights_only=True)` reads: numbers,
        strings, tensors, and lists, tuples, dicts and sets of these.
        """
        return None

    def load_state_dict(self, state_dict: Any) -> None:
        """Restore the state of an earlier run; called immediately before `on_begin`.

        Args:
            state_dict: The value that `state_dict()` returned.
        """
        if state_dict is not None:
            warnings.warn(
                f"{type(self).__name__} does not implement load_state_dict(), so its saved state is ignored. "
                "Define load_state_dict(self, state_dict) as well as state_dict(self).",
                stacklevel=2,
            )

    def clone(self, deep: bool = False) -> Self:
        """A copy of this callback.

        Args:
            deep: Whether to copy the values of its attributes as well.

        Raises:
            TypeError: If `deep` is not a bool.
            RuntimeError: During a fit.
        """
        if self.ctx is not None:
            raise RuntimeError(
                f"{type(self).__name__} cannot be cloned during a fit, while its ctx is set. Clone it before or after "
                "the fit."
            )
        if flag("deep", deep):
            return copy.deepcopy(self)
        clone = copy.copy(self)
        for name, value in self.__getstate__().items():
            # a stage set on the instance may be one of its own methods; the clone needs its own method there
            if isinstance(value, types.MethodType) and value.__self__ is self:
                setattr(clone, name, types.MethodType(value.__func__, clone))
        return clone

    def __getstate__(self) -> dict[str, Any]:
        return {name: None if name == "ctx" else value for name, value in vars(self).items()}  # not part of the fit

    def print(self) -> None:
        """Print the class and its stages."""
        print(f"<{type(self).__name__}>\n* Stages: {', '.join(self.stages) or '-'}")

    def __iter__(self) -> Iterator[Any]:
        raise misplaced(self)  # a Trainer iterates over an object that is not a Lightning callback

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(self.stages) or 'no stages'}>"

    def _repr_html_(self) -> str:
        arguments = {name: vars(self)[name] for name in inspect.signature(type(self)).parameters if name in vars(self)}
        rows = {
            "arguments": shown_values(arguments),
            "stages": ", ".join(self.stages) or "none",
            "weight": f"{self.weight:g}",
        }
        return html.card(type(self).__name__, html.first_line(type(self)), rows)


def stages_of(callback: CallbackSet | type[CallbackSet]) -> list[str]:
    """The stages that a callback has, in the order in which they run.

    Args:
        callback: The callback, or its class.
    """
    return [stage for stage in STAGES if getattr(callback, stage, None) is not None]


def identify(cls: type) -> str:
    """The default id of a class's callbacks: its name in snake case, without the prefix `CallbackSet`.

    A run of capitals stays together.

    Example:
        >>> from callbacksets import CallbackSetEarlyStopping
        >>> identify(CallbackSetEarlyStopping)
        'early_stopping'
    """
    return snake_case(cls.__name__.removeprefix("CallbackSet") or cls.__name__)


def snake_case(name: str) -> str:
    """`CamelCase` as `camel_case`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def check_instance(callback: CallbackSet) -> None:
    """Raise a `TypeError` if an `on_...` set on an instance is not a stage, or is a stage that takes arguments.

    Its class was checked when it was made.
    """
    own = {name: value for name, value in vars(callback).items() if name.startswith("on_")}
    _check_stages(type(callback).__name__, own)


def misnamed_stages(callback: CallbackSet | type[CallbackSet]) -> Iterator[tuple[str, str]]:
    """Public methods that look like stages, each with the stage that was meant.

    They are misspelled stages, such as `epoch_end`, or hooks of another library, such as `before_fit` or `setup`. A
    misspelled stage is not reported if the callback also has the stage, or if its constructor may set it. A hook is not
    reported if a method of the class mentions it, and so may call it.

    Args:
        callback: The callback, or its class.
    """
    cls = callback if isinstance(callback, type) else type(callback)
    there = [*stages_of(callback), *(stages_in_constructor(cls) if callback is cls else ())]
    members = [member for base in cls.__mro__ for member in vars(base).values()]
    mentioned = {name for one in members if isinstance(one, types.FunctionType) for name in one.__code__.co_names}
    for name in (name for name in dir(cls) if not (name.startswith(("_", "on_")) or hasattr(CallbackSet, name))):
        if not callable(inspect.getattr_static(cls, name)):
            continue
        if (stage := _ALIKE.get(name.replace("_", "").lower())) is not None:
            if stage not in there:
                yield name, stage
        elif name not in mentioned and (stages := [stage for stage in elsewhere.found(name) if stage]):
            yield name, stages[0]


def stages_in_constructor(cls: type[CallbackSet]) -> list[str]:
    """The stages that the constructor of a class mentions: it may set them or switch them off.

    Args:
        cls: The class.
    """
    constructors = [vars(base).get("__init__") for base in cls.__mro__]
    named = {name for one in constructors if isinstance(one, types.FunctionType) for name in one.__code__.co_names}
    return [stage for stage in STAGES if stage in named]


_ALIKE = {name.replace("_", ""): stage for stage in STAGES for name in (stage, stage.removeprefix("on_"))}


def _unbound(attribute: Any, cls: type) -> object:
    """An attribute of a class as an instance calls it, without `self`."""
    is_bound = hasattr(type(attribute), "__get__") and not isinstance(attribute, property)
    return attribute.__get__(cls, cls) if is_bound else attribute


def _check_stages(owner: str, attributes: Mapping[str, object]) -> None:
    for name, value in attributes.items():
        if name not in STAGES:
            raise TypeError(f"{owner}.{name} is not a stage.{_nearest(name)} The stages are {listed(STAGES)}.")
        if value is None:
            continue
        if not callable(value):
            raise TypeError(f"Expected {owner}.{name} to be a method or None but got {shown(value)}.")
        function = getattr(value, "__func__", None)
        if isinstance(function, types.FunctionType) and not parameters(function):
            raise TypeError(f"{owner}.{name} has no parameter self. Define {name}(self).")
        given = getattr(value, "keywords", ())  # of a partial
        if surplus := [one.name for one in parameters(value) if one.kind not in ANY_NUMBER and one.name not in given]:
            raise TypeError(
                f"{owner}.{name} takes {listed(surplus)}, but a stage is called without arguments. Define {name}(self) "
                "and read what it needs from self.ctx. On an instance, set a function without parameters."
            )
        if inspect.iscoroutinefunction(value) or inspect.isgeneratorfunction(value):
            raise TypeError(
                f"{owner}.{name} is a coroutine or generator function. A call would not run its body: use a plain "
                "function."
            )


def _nearest(name: str) -> str:
    if hint := elsewhere.hint(name):
        return hint
    if name.startswith("on_sanity_check"):
        return " No stage runs in the sanity check."
    if name.startswith(("on_test", "on_predict")):
        return " Callbacks run in trainer.fit() only, not in trainer.test() or trainer.predict()."
    return did_you_mean(name, STAGES)
