"""Selecting parameters of a network by their names."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from callbacksets.checks import did_you_mean, flag, listed, names_of, nearest_first, shown

Selector = Callable[[Sequence[str]], Iterable[str]]


class Select:
    """A callable that takes names of parameters and returns the selected ones, in the same order.

    `select_all()`, `select_none()`, `select_name()`, `select_grep()` and `select_invert()` make it. It prints as the
    code that makes it. Any function from a list of names to some of them can be used in its place.

    mlr3torch: `Select`.
    """

    def __init__(self, source: str, function: Selector) -> None:
        self._source = source
        self._function = function

    def __call__(self, param_names: Iterable[str]) -> list[str]:
        if isinstance(param_names, str):
            raise TypeError(f"Expected param_names to be several names but got the string {shown(param_names)}.")
        return list(self._function(list(param_names)))

    def __repr__(self) -> str:
        return self._source


def select_all() -> Select:
    """Selects all parameters.

    Example:
        >>> from callbacksets import select_all
        >>> select_all()(["0.weight", "0.bias"])
        ['0.weight', '0.bias']

    mlr3torch: `select_all()`.
    """
    return Select("select_all()", list)


def select_none() -> Select:
    """Selects no parameter.

    Example:
        >>> from callbacksets import select_none
        >>> select_none()(["0.weight", "0.bias"])
        []

    mlr3torch: `select_none()`.
    """
    return Select("select_none()", partial(_found, patterns=()))


def select_name(names: str | Iterable[str], assert_present: bool = True) -> Select:
    """Selects parameters by name.

    Example:
        >>> from callbacksets import select_name
        >>> select_name("0.bias")(["0.weight", "0.bias"])
        ['0.bias']
        >>> select_name(["0.bias", "2.bias"])
        select_name(['0.bias', '2.bias'])

    Args:
        names: The names, or a single name.
        assert_present: Whether a name that does not exist is an error when the selector is called. If False, such a
            name is ignored.

    Raises:
        TypeError: If a name is not a string.
        ValueError: If a name is empty. When the selector is called, if a name does not exist.

    mlr3torch: `select_name()`.
    """
    names = names_of("names", names)
    source = f"select_name({names!r}{'' if flag('assert_present', assert_present) else ', assert_present=False'})"
    return Select(source, partial(_named, names=names, source=source if assert_present else None))


def select_grep(patterns: str | Iterable[str], ignore_case: bool = False) -> Select:
    r"""Selects the parameters whose names match one of these regular expressions, anywhere in the name.

    Example:
        >>> from callbacksets import select_grep
        >>> select_grep(r"^0\.")(["0.weight", "0.bias", "2.weight"])
        ['0.weight', '0.bias']

    Args:
        patterns: The regular expressions, or a single one.
        ignore_case: Whether to ignore the difference between upper and lower case.

    Raises:
        TypeError: If a pattern is not a string.
        ValueError: If a pattern is empty or not a valid regular expression.

    mlr3torch: `select_grep()`.
    """
    patterns = names_of("patterns", patterns)
    compiled = [_compiled(pattern, flag("ignore_case", ignore_case)) for pattern in patterns]
    source = f"select_grep({patterns!r}{', ignore_case=True' if ignore_case else ''})"
    return Select(source, partial(_found, patterns=compiled))


def select_invert(select: Selector) -> Select:
    """Selects the parameters that another selector does not select.

    Example:
        >>> from callbacksets import select_grep, select_invert
        >>> select_invert(select_grep("bias"))(["0.weight", "0.bias"])
        ['0.weight']

    Args:
        select: The other selector.

    Raises:
        TypeError: If `select` is not callable.

    mlr3torch: `select_invert()`.
    """
    return Select(f"select_invert({select!r})", partial(_others, select=selector("select", select)))


def selector(name: str, value: Any) -> Selector:
    """The value, if it may be a selector."""
    if not callable(value):
        raise TypeError(f"Expected {name} to be a selector such as select_grep('bias') but got {shown(value)}.")
    return value  # type: ignore[no-any-return]


# These are functions of the module, so that selectors can be pickled.


def _named(known: Sequence[str], *, names: Sequence[str], source: str | None) -> Iterable[str]:
    unknown = [name for name in names if name not in known]
    if unknown and source is not None:
        if any(name.startswith(f"{unknown[0]}.") for name in known):
            pattern = f"^{re.escape(unknown[0])}{re.escape('.')}"
            raise ValueError(f"{source}: {unknown[0]!r} is a module. For its parameters: select_grep({pattern!r}).")
        raise ValueError(
            f"{source}: there is no parameter {listed(unknown)}.{did_you_mean(unknown[0], known)} "
            f"There are {listed(nearest_first(unknown, known))}."
        )
    return (name for name in known if name in names)


def _found(known: Sequence[str], *, patterns: Sequence[re.Pattern[str]]) -> Iterable[str]:
    return (name for name in known if any(pattern.search(name) for pattern in patterns))


def _others(known: Sequence[str], *, select: Callable[[Sequence[str]], Iterable[str]]) -> Iterable[str]:
    selected = set(select(known))
    return (name for name in known if name not in selected)


def _compiled(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE if ignore_case else re.NOFLAG)
    except re.error as error:
        raise ValueError(f"Expected patterns to be regular expressions but got {shown(pattern)}: {error}.") from None
