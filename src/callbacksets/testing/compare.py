"""Comparing two states."""

import pickle
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

_short = reprlib.Repr()
_short.maxother = _short.maxstring = 60


def difference(expected: object, got: object) -> str | None:
    """The first difference between two states, as `"at ['rows'][2] 4 instead of 3"`; None if they are equal.

    Example:
        >>> difference({"rows": [1, 2, 3]}, {"rows": [1, 2, 4]})
        "at ['rows'][2] 4 instead of 3"
        >>> difference([0.5, float("nan")], [0.5, float("nan")]) is None
        True
    """
    return next(_differences(expected, got, ""), None)


def leaves(state: object, path: str = "") -> dict[str, object]:
    """The values in a state that are not dicts, by their paths.

    Example:
        >>> leaves({"best": {"epoch": 3}, "rows": [1, 2]})
        {"['best']['epoch']": 3, "['rows']": [1, 2]}
    """
    if not isinstance(state, Mapping):
        return {path: state}
    return {inner: leaf for key, value in state.items() for inner, leaf in leaves(value, f"{path}[{key!r}]").items()}


def _differences(expected: Any, got: Any, path: str) -> Iterator[str]:
    if type(expected) is not type(got) and not _alike(expected, got):
        yield _told(expected, got, path)
    elif isinstance(expected, Mapping):
        for key in expected:
            if key not in got:
                yield f"at {path}[{key!r}] nothing instead of {_short.repr(expected[key])}"
            else:
                yield from _differences(expected[key], got[key], f"{path}[{key!r}]")
        for key in got:
            if key not in expected:
                yield f"at {path}[{key!r}] {_short.repr(got[key])} instead of nothing"
    elif isinstance(expected, list | tuple):
        if len(expected) != len(got):
            yield f"{_told(expected, got, path)} ({len(got)} values instead of {len(expected)})"
        for position, pair in enumerate(zip(expected, got, strict=False)):
            yield from _differences(*pair, f"{path}[{position}]")
    elif isinstance(expected, Tensor) and expected.shape == got.shape and expected.dtype == got.dtype:
        yield from _differences_of_tensors(expected, got, path)
    elif not _equal(expected, got):
        yield _told(expected, got, path)


def _differences_of_tensors(expected: Tensor, got: Tensor, path: str) -> Iterator[str]:
    apart = (expected != got) & ~((expected != expected) & (got != got))  # NaN is NaN here
    for index in apart.nonzero().tolist()[:1]:
        yield _told(expected[tuple(index)].item(), got[tuple(index)].item(), f"{path}{index or ''}")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return False  # their shapes or types differ
    if hasattr(one, "__dict__") and getattr(type(one), "__eq__", None) is object.__eq__:
        return difference(vars(one), vars(other)) is None
    try:
        same = (one == other) | ((one != one) & (other != other))  # NaN is NaN here; arrays compare by element
        return bool(same.all() if hasattr(same, "all") else same)
    except Exception:  # tables, sequences of arrays, and other values whose comparison is not a single bool
        return pickle.dumps(one) == pickle.dumps(other)


def _alike(one: object, other: object) -> bool:
    """Whether values of different types can be equal: numbers, and dicts of any class."""
    if isinstance(one, bool) or isinstance(other, bool):
        return False
    return any(isinstance(one, kinds) and isinstance(other, kinds) for kinds in ((int, float), dict))


def _told(expected: object, got: object, path: str) -> str:
    return f"{f'at {path} ' if path else ''}{_short.repr(got)} instead of {_short.repr(expected)}"
