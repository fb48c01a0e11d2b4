"""Checks of arguments, and the phrases that error messages share.

A check takes the name of an argument and its value, and returns the value. It raises a `TypeError` if the value has the
wrong type, and a `ValueError` if it is out of range. The message says what was expected and what was given. Every check
lets `TO_COME` pass.
"""

import difflib
import functools
import inspect
import math
import numbers
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Shown(reprlib.Repr):
    """Shows any value in one short line: the shape of an array, and a long or deep value abbreviated."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict = 3, 8
        self.maxstring = self.maxother = self.maxlong = 100

    def repr1(self, x: Any, level: int) -> str:
        with suppress(Exception):  # showing a value must never fail, even if its attributes raise
            if hasattr(type(x), "dtype") and x.shape:  # its repr would copy it from the device, and fill a page
                return f"<{type(x).__name__} of shape {tuple(x.shape)}, {x.dtype}>"
        text = super().repr1(x, level)
        return text if isinstance(x, str) else " ".join(text.split())


_SHOWN = _Shown()
_LISTED = 40


def shown(value: object) -> str:
    """`value` as an error message shows it: its `repr()` on one line, shortened if it is long. Arrays show a shape.

    Example:
        >>> import torch
        >>> shown({"x": torch.zeros(1000, 10), "names": ["a"] * 100})
        "{'names': ['a', 'a', 'a', 'a', 'a', 'a', ...], 'x': <Tensor of shape (1000, 10), torch.float32>}"
    """
    return _SHOWN.repr(value)


def shown_values(values: Mapping[str, object]) -> str:
    """`a=1, b='x'`, with each value as `shown()` shows it."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def plain(text: str) -> str:
    """A plain `str` equal to an instance of a subclass of `str`, such as a member of a `StrEnum` or a `numpy.str_`."""
    if not isinstance(text, str):
        raise TypeError(f"Expected a name to be a string but got {shown(text)}.")
    return str.__str__(text)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """` Did you mean 'epoch_end'?`, or an empty string if no known name is similar."""
    near = difflib.get_close_matches(plain(name), list(known), n=1, cutoff=0.6) if isinstance(name, str) else ()
    return f" Did you mean {near[0]!r}?" if near else ""


def nearest_first(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The known names. Those come first that are similar to one of `names`, as a whole or in a part between dots."""
    words = [re.sub(r"[^\w.]", "", name).strip(".") for name in names]  # `names` may be regular expressions

    def distance(one: str) -> float:
        pairs = ((word, part) for word in words for part in (one, *one.split(".")))
        return -max((difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs), default=0)

    return sorted(known, key=distance)


def listed(names: Iterable[str]) -> str:
    """`'a', 'b'`, or `none` if there are no names. A very long list is cut."""
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(repr(name) for name in names[:_LISTED]) or "none") + more


class _ToCome:
    """Stands for a required value that nobody has given yet, so that a constructor can check the values that are there.

    It can be called and iterated over, because a constructor may ask for that.
    """

    def __call__(self, *args: Any) -> None: ...

    def __iter__(self) -> Iterator[Any]:
        return iter(())


TO_COME: Any = _ToCome()


def _check(function: Callable[Concatenate[str, Any, P], T]) -> Callable[Concatenate[str, Any, P], T]:
    @functools.wraps(function)
    def check(name: str, value: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return value if value is TO_COME else function(name, value, *args, **kwargs)

    return check


@_check
def whole_number(name: str, value: Any, *, at_least: int) -> int:
    """An int that is not a bool."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < at_least:
        error = ValueError if is_whole else TypeError
        raise error(f"Expected {name} to be a whole number of at least {at_least} but got {shown(value)}.")
    return int(value)


@_check
def number(name: str, value: Any, *, at_least: float, at_most: float = math.inf, finite: bool = True) -> float:
    """A number that is not a bool. With `finite=False` it may be infinite."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"Expected {name} to be a number of at least {at_least} but got {shown(value)}.")
    if not at_least <= float(value) <= at_most or (finite and math.isinf(value)):
        most = "" if at_most == math.inf else f" and at most {at_most}"
        kind = "finite number" if finite else "number"
        raise ValueError(f"Expected {name} to be a {kind} of at least {at_least}{most} but got {shown(value)}.")
    return float(value)


@_check
def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"Expected {name} to be True or False but got {shown(value)}.")
    return value


@_check
def text(name: str, value: Any) -> str:
    """A non-empty string."""
    if not isinstance(value, str):
        raise TypeError(f"Expected {name} to be a string but got {shown(value)}.")
    if not value:
        raise ValueError(f"Expected {name} to be a non-empty string but got ''.")
    return plain(value)


@_check
def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of the given strings."""
    if not isinstance(value, str) or value not in choices:
        error = ValueError if isinstance(value, str) else TypeError
        near = did_you_mean(value, choices)
        raise error(f"Expected {name} to be one of {listed(choices)} but got {shown(value)}.{near}")
    return plain(value)


@_check
def weight(name: str, value: Any) -> float:
    """A number that orders callbacks: it may be infinite, but not NaN."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"Expected {name} to be a number but got {shown(value)}.")
    if math.isnan(value):
        raise ValueError(f"Expected {name} to be a number but got nan.")
    return float(value)


@_check
def names_of(name: str, value: Any) -> list[str]:
    """A list of non-empty strings; a single string becomes a list of one."""
    values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    are_strings = all(isinstance(one, str) for one in values)
    if not are_strings or not all(values):
        error = ValueError if are_strings else TypeError
        raise error(f"Expected {name} to be a non-empty string or several but got {shown(value)}.")
    return [plain(one) for one in values]


@_check
def folder(name: str, value: Any) -> Path:
    """The path of a folder on this machine; it does not have to exist. `~` is the home directory."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"Expected {name} to be the path of a folder but got {shown(value)}.")
    path = os.fspath(value)
    if not isinstance(path, str) or not path or "://" in path:
        raise ValueError(f"Expected {name} to be the path of a folder on this machine but got {shown(value)}.")
    return Path(path).expanduser()


def is_below_a_file(path: Path) -> Path | None:
    """The file that is in the place of this folder or of one of its parents; None if there is no such file."""
    return next((place for place in (path, *path.parents) if place.exists() and not place.is_dir()), None)


ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""The kinds of parameters that may stay empty: `*args`, `**kwargs`."""


def parameters(function: Callable[..., Any], *, follow_wrapped: bool = False) -> list[inspect.Parameter]:
    """The parameters of a function, as far as they are known: some builtins have no signature.

    A wrapper may itself supply arguments to the function that it wraps, so by default its own parameters count.
    """
    try:
        return list(inspect.signature(function, follow_wrapped=follow_wrapped).parameters.values())
    except ValueError:
        return []


def keywords(function: Callable[..., Any], given: Mapping[str, Any], *, after: int, also: Iterable[str] = ()) -> None:
    """Raise a `TypeError` unless a function can be called with these keywords, after so many positional arguments.

    Args:
        function: The function.
        given: The keywords and their values.
        after: The number of positional arguments.
        also: Other names to suggest and list.
    """
    name = getattr(function, "__name__", repr(function))
    there = parameters(function, follow_wrapped=True)
    takes_any = not there or any(one.kind is one.VAR_KEYWORD for one in there)
    named = [one for one in there[after:] if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    known = [*also, *(parameter.name for parameter in named)]
    if not takes_any and (unknown := [key for key in given if key not in known]):
        raise TypeError(
            f"{name} has no argument {listed(unknown)}.{did_you_mean(unknown[0], known)} It has {listed(known)}."
        )
    if missing := [one.name for one in named if one.default is one.empty and one.name not in given]:
        raise TypeError(f"{name} needs {listed(missing)}. Give {'=..., '.join(missing)}=... .")


class MisplacedCallbackError(TypeError, AttributeError):
    """A `TypeError` for the user, and an `AttributeError` so that `hasattr()` returns False."""


class NotALightningCallback:
    """An attribute that a Trainer reads from its callbacks. Reading it from a CallbackSet raises a helpful error.

    A Trainer does not check the types of its callbacks. Without this, a CallbackSet given to a Trainer would fail late,
    with an obscure error. This raises the error at the first access, for instances and for classes.
    """

    def __get__(self, instance: object, owner: type) -> Any:
        raise misplaced(owner if instance is None else instance)


class IsElsewhere:
    """An attribute that callbacks of other libraries have. Reading it from a CallbackSet says where to find it here."""

    def __init__(self, here: str) -> None:
        self._here = here

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        raise AttributeError(f"A CallbackSet has no {self._name!r}. In a fit, use {self._here}.")


def misplaced(callback: object) -> MisplacedCallbackError:
    """The error for a CallbackSet, or a class or descriptor of one, that was given to a Trainer."""
    if isinstance(callback, type):
        given, inside = f"the class {callback.__name__}", callback.__name__
    else:
        given, inside = f"a {type(callback).__name__}", f"{type(callback).__name__}(...)"
    return MisplacedCallbackError(
        f"Expected the Trainer's callbacks to be Lightning callbacks but got {given}. "
        f"Wrap it: Trainer(callbacks=[CallbackSetAdapter([{inside}])])."
    )
