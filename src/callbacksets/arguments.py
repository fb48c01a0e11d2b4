"""Checks of constructor arguments: each returns the value, or says what was expected and what came."""

import math
import numbers
from typing import Any

from callbacksets.errors import did_you_mean, listed


def whole_number(name: str, value: Any, *, at_least: int) -> int:
    """An int, and no bool."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"Expected {name} to be a whole number of at least {at_least} but got {value!r}.")
    if value < at_least:
        raise ValueError(f"Expected {name} to be a whole number of at least {at_least} but got {value!r}.")
    return int(value)


def number(name: str, value: Any, *, at_least: float) -> float:
    """A finite number, and no bool."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"Expected {name} to be a number of at least {at_least} but got {value!r}.")
    if not at_least <= float(value) < math.inf:
        raise ValueError(f"Expected {name} to be a finite number of at least {at_least} but got {value!r}.")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"Expected {name} to be True or False but got {value!r}.")
    return value


def text(name: str, value: Any) -> str:
    """A string with something in it."""
    if not isinstance(value, str):
        raise TypeError(f"Expected {name} to be a string but got {value!r}.")
    if not value:
        raise ValueError(f"Expected {name} to be a string with something in it but got ''.")
    return value


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of some strings."""
    if value not in choices:
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"Expected {name} to be one of {listed(choices)} but got {value!r}.{did_you_mean(value, choices)}")
    return str(value)
