"""The parameters of a descriptor: their names, their defaults, which are required, and the values given so far."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Self

from callbacksets.checks import ANY_NUMBER, TO_COME, did_you_mean, flag, listed, names_of, shown


class ParamSet:
    """The parameters of a callback's constructor, and the values given so far.

    Example:
        >>> from callbacksets import CallbackSetEarlyStopping, ParamSet
        >>> param_set = ParamSet.from_callable(CallbackSetEarlyStopping, without=("mode", "monitor"))
        >>> param_set.required
        ['patience']
        >>> param_set.set_values(patience=5)
        >>> param_set
        ParamSet(patience=5, min_delta=0.0, restore_best_weights=False)

    Args:
        required: The names of the required parameters.
        defaults: The other parameters, with their default values.
        any_other: Whether values with other names are allowed too.
        check: A function that is called with the values given so far, as keywords. For a required value that is still
            missing it gets a stand-in, which the checks of this package accept. It raises an error if it refuses a
            value. By default only the names are checked.

    Raises:
        TypeError: If a name is not a string, or `defaults` is not a mapping.
        ValueError: If a name is empty or given twice.
        AttributeError: When a parameter is assigned as an attribute. Use `set_values()`.

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

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not hasattr(type(self), name) and self.takes(name):
            raise AttributeError(f"{name!r} is a parameter. Set it with set_values({name}={shown(value)}).")
        if name == "values":
            raise AttributeError("`values` is read-only. Set values with set_values(...).")
        super().__setattr__(name, value)

    @classmethod
    def from_callable(
        cls,
        function: Callable[..., Any],
        *others: Callable[..., Any],
        without: Iterable[str] = (),
        check: Callable[..., Any] | None = None,
    ) -> Self:
        """Make a `ParamSet` from the signature of a function or of a class's constructor.

        Args:
            function: The function or class.
            others: Further functions whose parameters are added: if `function` passes its `**kwargs` on, the function
                that receives them.
            without: The names of arguments to leave out.
            check: As for the class.

        Raises:
            TypeError: If something cannot be called.
            ValueError: If it is a builtin whose parameters are not known.
        """
        without = names_of("without", without)
        parameters: dict[str, inspect.Parameter] = {}
        for one_of_them in (function, *others):
            if not callable(one_of_them):
                raise TypeError(f"Expected function to be a function or a class but got {shown(one_of_them)}.")
            signature = inspect.signature(one_of_them).parameters
            parameters |= {name: one for name, one in signature.items() if name not in parameters}
        named = {
            name: one.default for name, one in parameters.items() if one.kind not in ANY_NUMBER and name not in without
        }
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
        """The names of the required parameters."""
        return list(self._required)

    @property
    def missing(self) -> list[str]:
        """The names of the required parameters that have no value yet."""
        return [name for name in self._required if name not in self._values]

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The default values of the other parameters, by name."""
        return MappingProxyType(self._defaults)

    @property
    def values(self) -> Mapping[str, Any]:
        """The values given so far. The mapping is read-only; use `set_values()` to change values."""
        return MappingProxyType(self._values)

    def set_values(self, **values: Any) -> None:
        """Set values. Other values stay as they are.

        Raises:
            TypeError: If a name is not a parameter.
            Exception: The error that `check` raises.
        """
        for name in values:
            if not self.takes(name):
                there_are = f"The parameters are {listed(self.ids())}" if self.ids() else "There are no parameters"
                raise TypeError(f"There is no parameter {name!r}.{did_you_mean(name, self.ids())} {there_are}.")
        given = self._values | values
        # the check would use up an iterator
        if self._check is not None and not any(isinstance(one, Iterator) for one in given.values()):
            with suppress(ModuleNotFoundError):  # the package may be installed before the fit
                self._check(**{**dict.fromkeys(self._required, TO_COME), **given})
        self._values = given

    def takes(self, name: str) -> bool:
        """Whether a parameter with a name exists.

        Args:
            name: The name.
        """
        return self._any_other or name in self.ids()

    def clone(self, deep: bool = False) -> Self:
        """A copy with its own values.

        Args:
            deep: Whether to copy each value as well.

        Raises:
            TypeError: If `deep` is not a bool.
            Exception: The error of a value that cannot be copied. Use `deep=False` to share it.
        """
        clone = copy.copy(self)
        clone._values = copy.deepcopy(self._values) if flag("deep", deep) else dict(self._values)
        return clone

    def __repr__(self) -> str:
        given = {**self._defaults, **self._values}
        ids = dict.fromkeys([*self.ids(), *given])
        return f"ParamSet({', '.join(f'{id}={shown(given[id])}' if id in given else id for id in ids)})"
