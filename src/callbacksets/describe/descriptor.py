"""The descriptor of a callback: its class, the parameters to make it with, and what is to be known about it."""

import copy
import importlib.util
import pydoc
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Self

from callbacksets.base import CallbackSet, identify, stages_of
from callbacksets.checks import NotALightningCallback, did_you_mean, listed, misplaced, names_of, shown, text
from callbacksets.checks import weight as checked_weight
from callbacksets.describe.param_set import ParamSet, copied
from callbacksets.show import html

_RESERVED = {
    "weight": "it orders callbacks within a stage: TorchCallback(..., weight=...)",
    "ctx": "it is the context of the fit",
}


class TorchCallback:
    """Describes a callback: what class it is of, with which parameters it is made, and what is to be known about it.

    The adapter takes it in the place of a callback and makes one anew for every fit, from the values it has then.

    Example:
        >>> from callbacksets import CallbackSetEarlyStopping, TorchCallback
        >>> descriptor = TorchCallback(CallbackSetEarlyStopping, label="Early Stopping")
        >>> descriptor.param_set.set_values(patience=5)
        >>> descriptor
        <TorchCallback early_stopping: CallbackSetEarlyStopping(patience=5)>
        >>> descriptor.generate()
        <CallbackSetEarlyStopping: on_begin, on_valid_end, on_exit>

    Args:
        callback_generator: The class, a `CallbackSet`.
        id: The id of its callbacks in `ctx.callbacks` and `adapter.states`; by default the name of the class in snake
            case, without `CallbackSet`.
        label: What to call it in a table; by default the id.
        packages: The packages it needs, by the names they are imported and installed under.
        man: What `help()` shows, the dotted name of a Python object; by default the class.
        weight: Its callbacks' weight; by default that of the class.
        additional_args: Arguments of the constructor that are no parameters.
        param_set: The parameters; by default the constructor's arguments less `additional_args`.

    Attributes:
        generator: The class.
        id, label, packages, man, weight, param_set: As given. They may be changed, and the next `generate()` heeds it.
            An adapter has taken the id when it was made.

    Raises:
        TypeError: For an argument of the wrong kind, or one that the class does not take.
        ValueError: When a parameter is called `weight` or `ctx`, or a string is empty.

    mlr3torch: `TorchCallback`.
    """

    # what a Trainer reads first from its callbacks, and what it reads when that fails
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
        self.packages = packages  # type: ignore[assignment]  # a list from here on
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
        check = _CHECKS.get(name)
        super().__setattr__(name, value if check is None else check(name, value))

    @property
    def weight(self) -> float:
        """The weight of its callbacks; that of their class unless it was given one, and again if None is set."""
        return self.generator.weight if self._weight is None else self._weight

    @weight.setter
    def weight(self, weight: float | None) -> None:
        self._weight = None if weight is None else checked_weight("weight", weight)

    def generate(self) -> CallbackSet:
        """A new callback, made with the values of the parameters.

        Raises:
            ModuleNotFoundError: When a package it needs is not installed.
            TypeError: When a required parameter has no value.
        """
        if missing := [package for package in self.packages if not _is_installed(package)]:
            raise ModuleNotFoundError(
                f"Callback {self.id!r} needs what is not installed: {listed(missing)}. "
                f"Install it: pip install {' '.join(missing)}."
            )
        if missing := self.param_set.missing:
            raise TypeError(
                f"Callback {self.id!r} cannot be made without {listed(missing)}. Give a value: "
                f"descriptor.param_set.set_values({', '.join(f'{name}=...' for name in missing)})."
            )
        callback = self.generator(**self.param_set.values, **self._additional_args)
        if self._weight is not None:
            callback.weight = self._weight
        return callback

    def clone(self, deep: bool = True) -> Self:
        """A copy with a `param_set` of its own.

        Args:
            deep: Whether the values given to the parameters, and `additional_args`, are copied as well.

        Raises:
            TypeError: For a `deep` that is no bool, or a value that cannot be copied.
        """
        clone = copy.copy(self)
        clone.packages = list(self.packages)
        clone.param_set = self.param_set.clone(deep=deep)
        clone._additional_args = copied(self._additional_args) if deep else dict(self._additional_args)
        return clone

    def help(self) -> None:
        """Show the documentation of what `man` names, or else of the class."""
        pydoc.help(self.man or self.generator)

    def print(self) -> None:
        """Print what it describes."""
        print(
            f"<TorchCallback:{self.id}> {self.label}\n"
            f"* Generator: {self.generator.__name__}\n"
            f"* Parameters: {self._shown_values() or '-'}\n"
            f"* Packages: {', '.join(self.packages) or '-'}"
        )

    def __iter__(self) -> Iterator[Any]:
        raise misplaced(self)  # a Trainer takes what is no Lightning callback for a list of them

    def __repr__(self) -> str:
        return f"<TorchCallback {self.id}: {self.generator.__name__}({self._shown_values()})>"

    def _repr_html_(self) -> str:
        rows = {
            "class": self.generator.__name__,
            "parameters": html.values(self.param_set.values),
            "to be given": html.names(self.param_set.missing),
            "packages": html.names(self.packages),
            "stages": html.names(stages_of(self.generator)),
            "weight": f"{self.weight:g}",
        }
        return html.card(f"{self.label} ({self.id})", html.first_line(self.generator), rows)

    def _shown_values(self) -> str:
        return ", ".join(f"{name}={shown(value)}" for name, value in self.param_set.values.items())


def check_of(generator: type[CallbackSet], additional_args: Mapping[str, Any]) -> Callable[..., CallbackSet] | None:
    """What refuses values for a callback as soon as they are given: the constructor, where it does nothing else.

    That is so for those of this package; what other people's do is to be done once, for a fit.
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
            raise ValueError(f"No parameter of a callback can be called {reserved!r}: {meaning}.")
    return value


def _unless_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "generator": _generator,
    "id": text,
    "label": text,
    "packages": names_of,
    "man": _unless_none(text),
    "param_set": _param_set,
}


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of what precedes a dot
        return False
