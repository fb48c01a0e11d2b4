"""The parameters of a descriptor: names, defaults and which are required, from a signature, and the values given."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Self

from callbacksets.checks import did_you_mean, flag, listed, names_of, shown


class ParamSet:
    """The parameters with which a callback is made, and the values they have so far.

    Example:
        >>> from callbacksets import CallbackSetEarlyStopping, ParamSet
        >>> param_set = ParamSet.from_callable(CallbackSetEarlyStopping, without=("mode", "monitor"))
        >>> param_set.required
        ['patience']
        >>> param_set.set_values(patience=5)
        >>> param_set
        ParamSet(patience=5, min_delta=0.0, restore_best_weights=False)

    Args:
        required: The names of the parameters that must be given.
        defaults: The others, with the values they have when they are not given.
        any_other: Whether values of other names may be given too.
        check: What refuses values that it cannot be called with, called with all of them as soon as none is missing;
            by default the names are all that is checked.

    Raises:
        TypeError: For names that are no strings, or what is no function.
        ValueError: When a name is empty or given twice.

    mlr3torch: paradox's `ParamSet`.
    """

    def __init__(
        self,
        required: Iterable[str] = (),
        defaults: Mapping[str, Any] = {},
        *,
        any_other: bool = False,
        check: Callable[..., Any] | None = None,
    ) -> None:
        self._required = names_of("required", required)
        if not isinstance(defaults, Mapping):
            raise TypeError(f"Expected defaults to be a mapping of names to values but got {shown(defaults)}.")
        self._defaults = dict(defaults)
        self._any_other = any_other
        self._check = check
        self._values: dict[str, Any] = {}
        if twice := sorted({name for name in self.ids() if self.ids().count(name) > 1}):
            raise ValueError(f"Expected the names of parameters to be different but got {listed(twice)} twice.")

    @classmethod
    def from_callable(
        cls,
        function: Callable[..., Any],
        *others: Callable[..., Any],
        without: Iterable[str] = (),
        check: Callable[..., Any] | None = None,
    ) -> Self:
        """The parameters in the signature of a function or of a class's constructor.

        Args:
            function: The function or class.
            others: If it hands its `**kwargs` on, the one that takes them, and so on.
            without: The names of those that are no parameters, as something else gives them.
            check: As for the class.

        Raises:
            TypeError: For what is no function.
        """
        without = names_of("without", without)
        parameters: dict[str, inspect.Parameter] = {}
        for one_of_them in (function, *others):
            if not callable(one_of_them):
                raise TypeError(f"Expected function to be a function or a class but got {shown(one_of_them)}.")
            signature = inspect.signature(one_of_them).parameters
            parameters |= {name: one for name, one in signature.items() if name not in parameters}
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        named = {name: one.default for name, one in parameters.items() if one.kind not in kinds and name not in without}
        return cls(
            [name for name, default in named.items() if default is inspect.Parameter.empty],
            {name: default for name, default in named.items() if default is not inspect.Parameter.empty},
            any_other=any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.values()),
            check=check,
        )

    def ids(self) -> list[str]:
        """The names of the parameters."""
        return [*self._required, *self._defaults]

    @property
    def required(self) -> list[str]:
        """The names of those that must be given."""
        return list(self._required)

    @property
    def missing(self) -> list[str]:
        """The names of those that must be given and are not."""
        return [name for name in self._required if name not in self._values]

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What the others are when they are not given."""
        return MappingProxyType(self._defaults)

    @property
    def values(self) -> Mapping[str, Any]:
        """The values given so far. It can only be read: `set_values()` changes it."""
        return MappingProxyType(self._values)

    def set_values(self, **values: Any) -> None:
        """Give values, and leave those given before as they are.

        Raises:
            TypeError: For a name that is no parameter.
            Exception: What `check` raises.
        """
        for name in values:
            if not self.takes(name):
                raise TypeError(f"There is no parameter {name!r} among {listed(self.ids())}.{self._nearest(name)}")
        given = self._values | values
        is_complete = all(name in given for name in self._required)
        # an iterator would have nothing left for what is made later
        if self._check is not None and is_complete and not any(isinstance(one, Iterator) for one in given.values()):
            with suppress(ModuleNotFoundError):  # it may be installed until then
                self._check(**given)
        self._values = given

    def takes(self, name: str) -> bool:
        """Whether there is a parameter of a name.

        Args:
            name: The name.
        """
        return self._any_other or name in self.ids()

    def clone(self, deep: bool = False) -> Self:
        """A copy that can be given values of its own.

        Args:
            deep: Whether the values given so far are copied as well.

        Raises:
            TypeError: For a `deep` that is no bool, or a value that cannot be copied.
        """
        clone = copy.copy(self)
        clone._values = copied(self._values) if flag("deep", deep) else dict(self._values)
        return clone

    def _nearest(self, name: str) -> str:
        return did_you_mean(name, self.ids())

    def __repr__(self) -> str:
        given = {**self._defaults, **self._values}
        ids = dict.fromkeys([*self.ids(), *given])
        return f"ParamSet({', '.join(f'{id}={shown(given[id])}' if id in given else id for id in ids)})"


def copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """Deep copies of values by name, with what they share still shared.

    Raises:
        TypeError: For one that cannot be copied, by its name.
    """
    memo: dict[int, Any] = {}
    copies: dict[str, Any] = {}
    for name, value in values.items():
        try:
            copies[name] = copy.deepcopy(value, memo)
        except Exception as error:
            raise TypeError(
                f"The value of {name!r}, {shown(value)}, cannot be copied: {error}. Share it: clone(deep=False)."
            ) from error
    return copies
