"""The descriptor of a callback: its class, its parameters, and information about it."""

import copy
import importlib.util
import pydoc
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Self

from callbacksets.base import CallbackSet, identify, stages_of
from callbacksets.checks import (
    NotALightningCallback,
    did_you_mean,
    listed,
    misplaced,
    names_of,
    shown,
    shown_values,
    text,
)
from callbacksets.checks import weight as checked_weight
from callbacksets.describe.param_set import ParamSet
from callbacksets.show import html

_RESERVED = {
    "weight": "it orders callbacks within a stage: TorchCallback(..., weight=...)",
    "ctx": "it is the context of the fit",
}


class TorchCallback:
    """Describes a callback: its class, the parameters of its constructor, and information such as a label.

    The adapter accepts it in place of a callback. For every fit it makes a new callback, with the values that the
    parameters have at that time.

    Example:
        >>> from callbacksets import CallbackSetEarlyStopping, TorchCallback
        >>> descriptor = TorchCallback(CallbackSetEarlyStopping, label="Early Stopping")
        >>> descriptor.param_set.set_values(patience=5)
        >>> descriptor
        <TorchCallback early_stopping: CallbackSetEarlyStopping(patience=5)>
        >>> descriptor.generate()
        <CallbackSetEarlyStopping: on_begin, on_valid_end, on_exit>

    Args:
        callback_generator: The class, a subclass of `CallbackSet`.
        id: The id of its callbacks in `ctx.callbacks` and `adapter.states`; by default the name of the class in snake
            case, without `CallbackSet`.
        label: Its name in tables; by default the id.
        packages: The names of the packages it needs, as they are imported and installed.
        man: The dotted name of the Python object that `help()` shows; by default the class.
        weight: The weight of its callbacks; by default that of the class.
        additional_args: Arguments of the constructor that are not parameters.
        param_set: The parameters; by default the constructor's arguments without `additional_args`.

    Attributes:
        generator: The class.
        id, label, packages, man, weight, param_set: As given. They may be changed; the next `generate()` uses the new
            values. An adapter reads the id when it is made.

    Raises:
        TypeError: If an argument has the wrong type, or the class does not take it.
        ValueError: If a parameter is called `weight` or `ctx`, or a string is empty.
        AttributeError: When a parameter is assigned as an attribute. Use `descriptor.param_set.set_values()`.

    mlr3torch: `TorchCallback`.
    """

    # what a Trainer reads first from its callbacks, and what it reads if that fails
    setup: Any = NotALightningCallback()
    on_exception: Any = NotALightningCallback()

    generator: type[CallbackSet]
    id: str
    label: str
    packages: list[str]
    man: str | None
    param_set: ParamSet

    def __init__(
        self,
        callback_generator: type[CallbackSet],
        *,
        id: str | None = None,
        label: str | None = None,
        packages: str | Iterable[str] = (),
        man: str | None = None,
        weight: float | None = None,
        additional_args: Mapping[str, Any] | None = None,
        param_set: ParamSet | None = None,
    ) -> None:
        self.generator = callback_generator
        self.id = identify(callback_generator) if id is None else id
        self.label = self.id if label is None else label
        self.packages = packages  # type: ignore[assignment]  # __setattr__ makes a list of it
        self.man = man
        self.weight = weight
        if not isinstance(additional_args, Mapping | None):
            raise TypeError(
                f"Expected additional_args to be a mapping of names to values but got {shown(additional_args)}."
            )
        self._additional_args = dict(additional_args or {})
        self.param_set = (
            ParamSet.from_callable(
                callback_generator,
                without=self._additional_args,
                check=check_of(callback_generator, self._additional_args),
            )
            if param_set is None
            else param_set
        )
        known = ParamSet.from_callable(callback_generator)
        for argument, names in (("additional_args", self._additional_args), ("param_set", self.param_set.ids())):
            if unknown := [name for name in names if not known.takes(name)]:
                raise TypeError(
                    f"Expected {argument} to have arguments of {callback_generator.__name__} but got "
                    f"{listed(unknown)}.{did_you_mean(unknown[0], known.ids())} It has {listed(known.ids())}."
                )

    def __setattr__(self, name: str, value: Any) -> None:
        if not hasattr(type(self), name) and name not in vars(self) and name in self._ids():
            raise AttributeError(
                f"{name!r} is a parameter of callback {self.id!r}. Set it with "
                f"descriptor.param_set.set_values({name}={shown(value)})."
            )
        check = _CHECKS.get(name)
        super().__setattr__(name, value if check is None else check(name, value))

    @property
    def weight(self) -> float:
        """The weight of its callbacks; by default that of their class. Setting None restores the default."""
        return self.generator.weight if self._weight is None else self._weight

    @weight.setter
    def weight(self, weight: float | None) -> None:
        self._weight = None if weight is None else checked_weight("weight", weight)

    def generate(self) -> CallbackSet:
        """A new callback, made with the current values of the parameters.

        Raises:
            ModuleNotFoundError: If a package it needs is not installed.
            TypeError: If a required parameter has no value.
        """
        if missing := [package for package in self.packages if not _is_installed(package)]:
            raise ModuleNotFoundError(
                f"Callback {self.id!r} needs packages that are not installed: {listed(missing)}. "
                f"Install them: pip install {' '.join(missing)}."
            )
        if missing := self.param_set.missing:
            raise TypeError(
                f"Callback {self.id!r} cannot be made without {listed(missing)}. Set it: "
                f"descriptor.param_set.set_values({', '.join(f'{name}=...' for name in missing)})."
            )
        callback = self.generator(**self.param_set.values, **self._additional_args)
        if self._weight is not None:
            callback.weight = self._weight
        return callback

    def clone(self, deep: bool = True) -> Self:
        """A copy with its own `param_set`.

        Args:
            deep: Whether to copy the values of the parameters and of `additional_args` as well.

        Raises:
            TypeError: If `deep` is not a bool.
            Exception: The error of a value that cannot be copied. Use `deep=False` to share it.
        """
        clone = copy.copy(self)
        clone.packages = list(self.packages)
        clone.param_set = self.param_set.clone(deep=deep)
        clone._additional_args = copy.deepcopy(self._additional_args) if deep else dict(self._additional_args)
        return clone

    def help(self) -> None:
        """Show the documentation of the object that `man` names, by default of the class."""
        pydoc.help(self.man or self.generator)

    def print(self) -> None:
        """Print the id, label, class, parameters and packages."""
        print(
            f"<TorchCallback:{self.id}> {self.label}\n"
            f"* Generator: {self.generator.__name__}\n"
            f"* Parameters: {shown_values(self.param_set.values) or '-'}\n"
            f"* Packages: {', '.join(self.packages) or '-'}"
        )

    def __iter__(self) -> Iterator[Any]:
        raise misplaced(self)  # a Trainer iterates over an object that is not a Lightning callback

    def __repr__(self) -> str:
        return f"<TorchCallback {self.id}: {self.generator.__name__}({shown_values(self.param_set.values)})>"

    def _repr_html_(self) -> str:
        rows = {
            "class": self.generator.__name__,
            "parameters": shown_values(self.param_set.values),
            "still needed": ", ".join(self.param_set.missing),
            "packages": ", ".join(self.packages),
            "stages": ", ".join(stages_of(self.generator)),
            "weight": f"{self.weight:g}",
        }
        return html.card(f"{self.label} ({self.id})", html.first_line(self.generator), rows)

    def _ids(self) -> list[str]:
        """The names of the parameters; none before there is a `param_set`."""
        return self.param_set.ids() if "param_set" in vars(self) else []


def check_of(generator: type[CallbackSet], additional_args: Mapping[str, Any]) -> Callable[..., CallbackSet] | None:
    """A function that refuses wrong values as soon as they are set: the constructor, for classes of this package.

    The constructors of other classes may have side effects, so they run only when a fit makes the callback.
    """
    return partial(generator, **additional_args) if generator.__module__.startswith("callbacksets.") else None


def _generator(name: str, value: Any) -> type[CallbackSet]:
    if isinstance(value, type) and issubclass(value, CallbackSet):
        return value
    hint = f" Give its class: {type(value).__name__}." if isinstance(value, CallbackSet) else ""
    raise TypeError(f"Expected callback_generator to be a CallbackSet class but got {shown(value)}.{hint}")


def _param_set(name: str, value: Any) -> ParamSet:
    if not isinstance(value, ParamSet):
        raise TypeError(f"Expected param_set to be a ParamSet but got {shown(value)}.")
    for reserved, meaning in _RESERVED.items():
        if reserved in value.ids():
            raise ValueError(f"A parameter of a callback cannot be called {reserved!r}: {meaning}.")
    return value


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "generator": _generator,
    "id": text,
    "label": text,
    "packages": names_of,
    "man": lambda name, value: None if value is None else text(name, value),
    "param_set": _param_set,
}


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the part before a dot is missing
        return False
