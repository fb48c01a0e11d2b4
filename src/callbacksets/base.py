"""The stages, and the base class whose methods run at them."""

import copy
import functools
import inspect
import re
import types
import warnings
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Never, Self

from callbacksets.checks import IsElsewhere, NotALightningCallback, did_you_mean, flag, listed, misplaced, shown
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

_ELSEWHERE: Mapping[str, Mapping[str, str]] = {
    "Lightning": {
        "on_fit_start": "on_begin",
        "on_train_start": "on_begin",
        "on_train_epoch_start": "on_epoch_begin",
        "on_epoch_start": "on_epoch_begin",
        "on_train_batch_start": "on_batch_begin",
        "on_batch_start": "on_batch_begin",
        "on_before_optimizer_step": "on_after_backward",
        "on_before_zero_grad": "on_batch_begin",
        "on_train_batch_end": "on_batch_end",
        "on_validation_start": "on_before_valid",
        "on_validation_epoch_start": "on_before_valid",
        "on_validation_batch_start": "on_batch_valid_begin",
        "on_validation_batch_end": "on_batch_valid_end",
        "on_validation_epoch_end": "on_valid_end",
        "on_validation_end": "on_valid_end",
        "on_train_epoch_end": "on_epoch_end",
        "on_train_end": "on_end",
        "on_fit_end": "on_end",
        "on_exception": "on_exit",
        "on_save_checkpoint": "state_dict",
        "on_load_checkpoint": "load_state_dict",
    },
    "Keras": {
        "on_train_begin": "on_begin",
        "on_train_batch_begin": "on_batch_begin",
        "on_train_batch_end": "on_batch_end",
        "on_train_end": "on_end",
    },
    "luz": {
        "on_fit_begin": "on_begin",
        "on_train_begin": "on_epoch_begin",
        "on_train_batch_begin": "on_batch_begin",
        "on_train_batch_before_step": "on_after_backward",
        "on_train_batch_end": "on_batch_end",
        "on_train_end": "on_before_valid",
        "on_valid_begin": "on_before_valid",
        "on_valid_batch_begin": "on_batch_valid_begin",
        "on_valid_batch_end": "on_batch_valid_end",
        "on_fit_end": "on_end",
        "on_interrupt": "on_exit",
    },
}
"""The hooks of other libraries, and the stages or methods that correspond."""

_STAGES_ARE_METHODS = (
    "cannot be set: it lists the methods on_<stage> that there are. Set a method itself, self.on_end = ..., or None to "
    "switch one off; an attribute of your own needs another name."
)


class _CallbackSetMeta(ABCMeta):
    """Lets a Trainer that is given a class, without a list around it, say where that belongs."""

    def __iter__(cls) -> Iterator[Any]:
        raise misplaced(cls)


class CallbackSet(metaclass=_CallbackSetMeta):
    """Methods that a training loop calls at its stages; the base class of all callbacks.

    A subclass has a method `on_<stage>(self)` for each stage it wants: `begin`, `epoch_begin`, `batch_begin`,
    `after_backward`, `batch_end`, `before_valid`, `batch_valid_begin`, `batch_valid_end`, `valid_end`, `epoch_end`,
    `end`, `exit`. During a fit `self.ctx` shows the state of the loop. What a callback learns it hands over in
    `state_dict()` and gets back in `load_state_dict()`.

    A stage may also be set on an instance, as a function without arguments, also while training runs: what was no
    stage of the callback before counts from the next epoch on. None switches a stage off.

    Example:
        >>> class CallbackSetCount(CallbackSet):
        ...     def on_begin(self):
        ...         self.batches = 0
        ...     def on_batch_end(self):
        ...         self.batches += 1
        >>> CallbackSetCount().stages
        ['on_begin', 'on_batch_end']

    Attributes:
        ctx: The context of the fit, None outside of one. Any stand-in may be put there to test a method alone.
        weight: Callbacks run by ascending weight within a stage, ties in the order given.
        reads_y_hats: False for a callback that never reads `ctx.y_hat` or `ctx.y_hats`. Where no callback of a run
            does, the output of a batch is not kept until the next, which saves its memory. A subclass says so anew.

    Raises:
        TypeError: When a class is made that has a public `on_...` that is no stage, or a stage that takes more than
            `self`.

    mlr3torch: `CallbackSet`.
    """

    # None outside of a fit. Declared without the None, or no stage could read `self.ctx.epoch` under a type checker.
    ctx: "ContextTorch" = None  # type: ignore[assignment]
    weight: float = 0
    reads_y_hats: bool = True

    state_key: Any = NotALightningCallback()  # what a Trainer reads first from things with a `state_dict`
    # what a Lightning callback is given
    log: Any = IsElsewhere(
        "self.ctx.learner.log(...), or for a score of the epoch self.ctx.last_scores_valid[...] = ..."
    )
    log_dict: Any = IsElsewhere("self.ctx.learner.log_dict(...)")
    trainer: Any = IsElsewhere("self.ctx.trainer")
    pl_module: Any = IsElsewhere("self.ctx.learner")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.reads_y_hats = vars(cls).get("reads_y_hats", True)  # what a subclass adds may read them
        if not isinstance(inspect.getattr_static(cls, "stages"), property):
            raise TypeError(f"{cls.__name__}.stages {_STAGES_ARE_METHODS}")
        found = {name: inspect.getattr_static(cls, name) for name in dir(cls) if name.startswith("on_")}
        _check_stages(cls.__name__, {name: _unbound(value, cls) for name, value in found.items()})

    @property
    def stages(self) -> list[str]:
        """The stages at which this callback does something, in the order in which they run."""
        return stages_of(self)

    @stages.setter
    def stages(self, value: Never) -> None:
        raise AttributeError(f"{type(self).__name__}.stages {_STAGES_ARE_METHODS}")

    def start_over(self) -> None:
        """Forget what an earlier fit has left; by default nothing.

        Called when a fit is set up, on an instance that has served another fit before: one that serves several gives
        in each what a new one would. A state that the fit continues is loaded later.
        """

    def state_dict(self) -> Any:
        """What the callback has learned and needs to go on from; None, the default, for nothing.

        Leave out what the constructor was given. Use types that `torch.load(..., weights_only=True)` reads: numbers,
        strings, tensors, and lists, tuples, dicts and sets of these.
        """
        return None

    def load_state_dict(self, state_dict: Any) -> None:
        """Take over what `state_dict()` returned in an earlier run; called immediately before `on_begin`.

        Args:
            state_dict: What `state_dict()` returned.
        """
        if state_dict is not None:
            warnings.warn(
                f"{type(self).__name__} does not implement load_state_dict(): the state it was handed is ignored. "
                "Define load_state_dict(self, state_dict) beside state_dict(self).",
                stacklevel=2,
            )

    def clone(self, deep: bool = False) -> Self:
        """A copy of this callback.

        Args:
            deep: Whether the values it holds are copied as well.

        Raises:
            TypeError: For a `deep` that is no bool.
            RuntimeError: During a fit.
        """
        if self.ctx is not None:
            raise RuntimeError(
                f"A {type(self).__name__} can only be cloned while its ctx is None. Clone it before or after the fit."
            )
        if flag("deep", deep):
            return copy.deepcopy(self)
        clone = copy.copy(self)
        for name, value in self.__getstate__().items():
            # a stage set on the instance may be one of its own methods, and the clone's must be the clone's
            if isinstance(value, types.MethodType) and value.__self__ is self:
                setattr(clone, name, types.MethodType(value.__func__, clone))
        return clone

    def __getstate__(self) -> dict[str, Any]:
        """All attributes, those in `__slots__` too, in one dict that subclasses may change."""
        state = object.__getstate__(self)
        own, slots = state if isinstance(state, tuple) else (state, {})
        attributes = {**(own or {}), **slots}
        return attributes | ({"ctx": None} if "ctx" in attributes else {})  # no copy is in the fit

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            if inspect.ismemberdescriptor(getattr(type(self), name, None)):
                object.__setattr__(self, name, value)
            else:
                vars(self)[name] = value

    def print(self) -> None:
        """Print the class and its stages."""
        print(f"<{type(self).__name__}>\n* Stages: {', '.join(self.stages) or '-'}")

    def __iter__(self) -> Iterator[Any]:
        raise misplaced(self)  # a Trainer takes what is no Lightning callback for a list of them

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(self.stages) or 'no stages'}>"

    def _repr_html_(self) -> str:
        arguments = {name: vars(self)[name] for name in inspect.signature(type(self)).parameters if name in vars(self)}
        rows = {
            "arguments": html.values(arguments),
            "stages": html.names(self.stages) or "none",
            "weight": f"{self.weight:g}",
        }
        return html.card(type(self).__name__, html.first_line(type(self)), rows)


def stages_of(callback: CallbackSet | type[CallbackSet]) -> list[str]:
    """The stages at which a callback does something, in the order in which they run.

    Args:
        callback: The callback, or the class of some that are still to be made.
    """
    return [stage for stage in STAGES if getattr(callback, stage, None) is not None]


def identify(cls: type) -> str:
    """The id of callbacks of a class: its name in snake case less the prefix `CallbackSet`, runs of capitals together.

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
    """Raise a `TypeError` for what an instance has as a stage and is none, or takes arguments.

    That is what was set on it, and what descriptors of its class make, which only an instance can tell.
    """
    cls = type(callback)
    made = [name for name in STAGES if _is_other_descriptor(inspect.getattr_static(cls, name, None))]
    own = [name for name in vars(callback) if name.startswith("on_")]
    _check_stages(cls.__name__, {name: getattr(callback, name) for name in (*made, *own)})


def misnamed_stages(callback: CallbackSet | type[CallbackSet]) -> Iterator[tuple[str, str]]:
    """Public methods that look like stages but are spelled otherwise, like `epoch_end`, each with its stage.

    A method is no mistake where the callback has the stage as well, or its constructor may set it.

    Args:
        callback: The callback, or the class of some that are still to be made.
    """
    cls = callback if isinstance(callback, type) else type(callback)
    there = [*stages_of(callback), *(stages_in_constructor(cls) if callback is cls else ())]
    for name in dir(cls):
        stage = _ALIKE.get(name.replace("_", "").lower(), name)
        looks_like_one = name not in (stage, *STAGES) and not name.startswith("_") and not hasattr(CallbackSet, name)
        if looks_like_one and stage not in there and callable(inspect.getattr_static(cls, name)):
            yield name, stage


def stages_in_constructor(cls: type[CallbackSet]) -> list[str]:
    """The stages that the constructor of a class names: it may set them or switch them off.

    Args:
        cls: The class.
    """
    constructors = [vars(base).get("__init__") for base in cls.__mro__]
    named = {name for one in constructors if isinstance(one, types.FunctionType) for name in one.__code__.co_names}
    return [stage for stage in STAGES if stage in named]


_ALIKE = {name.replace("_", ""): stage for stage in STAGES for name in (stage, stage.removeprefix("on_"))}


def _unbound(attribute: object, cls: type) -> object:
    """An attribute of a class as an instance calls it, that is without `self`."""
    if isinstance(attribute, types.FunctionType):
        return types.MethodType(attribute, cls)
    if isinstance(attribute, staticmethod | classmethod):
        return attribute.__get__(None, cls)
    if isinstance(attribute, functools.partialmethod):
        function: Any = _unbound(attribute.func, cls)
        return functools.partial(function, *attribute.args, **attribute.keywords)
    return None if _is_other_descriptor(attribute) else attribute  # what it makes, an instance shows


def _is_other_descriptor(attribute: object) -> bool:
    """Whether only an instance shows what is called."""
    known = (types.FunctionType, types.MethodType, staticmethod, classmethod, functools.partialmethod, property)
    return hasattr(type(attribute), "__get__") and not isinstance(attribute, known)


def _check_stages(owner: str, attributes: Mapping[str, object]) -> None:
    for name, value in attributes.items():
        if name not in STAGES:
            raise TypeError(f"{owner}.{name} is no stage.{_nearest(name)} The stages are {listed(STAGES)}.")
        if value is None:
            continue
        if not callable(value):
            raise TypeError(f"Expected {owner}.{name} to be a method or None but got {shown(value)}.")
        called = _called(value)
        if isinstance(called, types.MethodType) and not _parameters(called.__func__):
            raise TypeError(f"{owner}.{name} takes no argument, not even self: define {name}(self).")
        if surplus := _surplus(called):
            raise TypeError(
                f"{owner}.{name} takes {listed(surplus)}, but a stage is called without arguments: "
                f"define {name}(self) and read what it needs from self.ctx (on an instance: a function of nothing)."
            )
        if inspect.iscoroutinefunction(value) or inspect.isgeneratorfunction(value):
            raise TypeError(f"{owner}.{name} is a coroutine or a generator, which calling does not run.")


def _nearest(name: str) -> str:
    hints = ""
    for stage in dict.fromkeys(hooks[name] for hooks in _ELSEWHERE.values() if name in hooks):
        libraries = " and ".join(library for library, hooks in _ELSEWHERE.items() if hooks.get(name) == stage)
        hints += f" It is a hook of {libraries}; here it is {stage!r}."
    if hints:
        return hints
    if name.startswith("on_sanity_check"):
        return " No stage runs in the sanity check."
    if name.startswith(("on_test", "on_predict")):
        return " Callbacks run in fits only, not in trainer.test() or trainer.predict()."
    return did_you_mean(name, STAGES)


def _called(function: Callable[..., object]) -> Callable[..., object]:
    """The function whose parameters count: a wrapper that names none of its own passes all on to what it wraps.

    A wrapper that names a parameter, `self` at least, may supply the arguments that a stage is called without.
    """
    inner: Any = function.__func__ if isinstance(function, types.MethodType) else function
    while hasattr(inner, "__wrapped__") and all(one.kind in _ANY_NUMBER for one in _parameters(inner)):
        inner = inner.__wrapped__
    return types.MethodType(inner, function.__self__) if isinstance(function, types.MethodType) else inner


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function, follow_wrapped=False).parameters.values())
    except ValueError:  # some builtins have none
        return []


def _surplus(function: Callable[..., object]) -> list[str]:
    # *args and **kwargs come from decorators, and may stay empty; what a partial has been given it does not take
    given = function.keywords if isinstance(function, functools.partial) else {}
    return [one.name for one in _parameters(function) if one.kind not in _ANY_NUMBER and one.name not in given]


_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
