"""Scores and measures: what was logged for an epoch, by name."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from torchmetrics import Metric

from callbacksets.checks import did_you_mean, listed, plain, shown

V = TypeVar("V")

_LOOPS = ("train", "training", "val", "valid", "validation")
_ANY, _CAPITAL = "|".join(_LOOPS), "|".join(map(str.capitalize, _LOOPS))
# before or after a separator, or in camel case, where the case tells `valMAE` from `value` and `valley`
_LOOP_IN_NAME = re.compile(
    rf"^(?i:{_ANY})[_/.-]|[_/.-](?i:{_ANY})$|^(?:{_ANY}|{_CAPITAL})(?=[A-Z])|(?<=[A-Za-z0-9])(?:{_CAPITAL})$"
)


NOTHING_LOGGED = "The module logged nothing for the epoch. Log it: self.log(..., on_epoch=True)."
NOT_VALIDATED = (
    "No validation has run yet. Read validation scores in on_valid_end or on_epoch_end, or check first that there are "
    "any: `if self.ctx.last_scores_valid:`."
)
"""Why a mapping is empty: a sentence."""


class ByName(dict[str, V], Generic[V]):
    """A mapping of scores or measures in the order logged. A key is a name, the full logged name or a position.

    Example:
        >>> measures = ByName({"acc": "a", "loss": "b"}, logged={"val_acc": "acc", "val_loss": "loss"})
        >>> measures["acc"], measures[0], measures["val_acc"]
        ('a', 'a', 'a')

    Args:
        values: The values by name.
        logged: For each full logged name, the name in this mapping.
        empty: Why the mapping is empty, for the error message: a sentence.
    """

    def __init__(
        self,
        values: Mapping[str, V] | Iterable[tuple[str, V]] = (),
        *,
        logged: Mapping[str, str] = {},
        empty: str = NOTHING_LOGGED,
    ) -> None:
        super().__init__({plain(name): self._checked(name, value) for name, value in dict(values).items()})
        self.logged: dict[str, str] = dict(logged)
        self.empty: str = empty

    def _checked(self, name: str, value: V) -> V:
        """The value to store when a value is set."""
        return value

    def name(self, key: str | int) -> str:
        """The name of a value in this mapping.

        Args:
            key: The name, the full logged name or a position.

        Raises:
            KeyError: If the name is unknown.
            IndexError: If the position is beyond the last value.
        """
        if not self:
            what = f"Position {key}" if isinstance(key, int) else shown(key)
            raise KeyError(f"{what} does not exist. {self.empty}")
        if isinstance(key, int):
            if -len(self) <= key < len(self):
                return list(self)[key]
            raise IndexError(f"Position {key} does not exist. There are {len(self)} names: {listed(self)}.")
        for name in (key, self.logged.get(key)):
            if name is not None and super().__contains__(name):
                return plain(name)
        near = did_you_mean(key, [name for name in (*self, *self.logged) if name != key])
        raise KeyError(f"{shown(key)} does not exist.{near} There are {listed(self)}.")

    if TYPE_CHECKING:  # at run time the lookup of a name stays that of a dict

        def __getitem__(self, key: str | int, /) -> V: ...

    def __missing__(self, key: str | int) -> V:
        return self[self.name(key)]

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, str | int) and self.name(key) is not None
        except LookupError:
            return False

    def __setitem__(self, key: str | int, value: V) -> None:
        name = self.name(key) if key in self or isinstance(key, int) else plain(key)
        super().__setitem__(name, self._checked(name, value))

    def update(self, *others: Any, **values: V) -> None:
        """Set several values, each as `[...] =` does.

        Args:
            others: A mapping, or pairs, of names and values.
            values: More values by name.
        """
        for name, value in dict(*others, **values).items():
            self[name] = value

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    def __or__(self, other: Any) -> Self:  # type: ignore[override]
        merged = self.copy()
        merged.update(other)
        return merged

    def setdefault(self, key: str | int, default: Any = None) -> V:
        """The value for a key. If there is none, set the default and return it.

        Args:
            key: A name, the full logged name or a position.
            default: The value to set.
        """
        if key not in self:
            self[key] = default
        return self[self.name(key)]

    def __delitem__(self, key: str | int) -> None:
        super().__delitem__(self.name(key))

    def pop(self, key: str | int, *default: Any) -> Any:
        """Remove the value for a key and return it.

        Args:
            key: A name, the full logged name or a position.
            default: The value to return if the key does not exist.

        Raises:
            LookupError: If the key does not exist and no default is given.
        """
        return default[0] if default and key not in self else super().pop(self.name(key))

    def get(self, key: str | int, default: Any = None) -> Any:
        """The value for a key.

        Args:
            key: A name, the full logged name or a position.
            default: The value to return if the key does not exist.
        """
        try:
            return self[self.name(key)]
        except LookupError:
            return default

    def copy(self) -> Self:
        """A copy with the same values and the same logged names."""
        return type(self)(self, logged=self.logged, empty=self.empty)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), logged=self.logged, empty=self.empty), (dict(self),)


class Scores(ByName[float]):
    """Name -> score. A score is a Python float: ints, NumPy numbers and tensors with one element are converted.

    Example:
        >>> import torch
        >>> scores = Scores({"loss": 1}, logged={"val_loss": "loss"})
        >>> scores["val_loss"] = torch.tensor(0.5)
        >>> scores
        {'loss': 0.5}

    Raises:
        TypeError: If a value is not a number.
    """

    def _checked(self, name: str, value: Any) -> float:
        try:
            number: Any = value.item() if hasattr(value, "item") else value
            if isinstance(number, str | bytes):
                raise TypeError  # although `float` would convert it
            return float(number)
        except (TypeError, ValueError, RuntimeError, ArithmeticError):
            remedy = " Give the value: metric.compute()." if isinstance(value, Metric) else ""
            raise TypeError(f"Expected score {name!r} to be a number but got {shown(value)}.{remedy}") from None


Measures = ByName[Metric | None]


@overload
def by_name(values: Scores) -> Scores: ...


@overload
def by_name(values: Mapping[str, V]) -> ByName[V]: ...


def by_name(values: Mapping[str, V]) -> ByName[V]:
    """A mapping that takes positions and logged names: the given one if it does, else a copy."""
    return values if isinstance(values, ByName) else ByName(values)


class ById(dict[str, V], Generic[V]):
    """A dict whose `KeyError` lists the ids it has.

    Example:
        >>> states = ById({"history": {"epoch": [1]}})
        >>> states["histroy"]
        Traceback (most recent call last):
        KeyError: "'histroy' does not exist. Did you mean 'history'? There are 'history'."
        >>> states == {"history": {"epoch": [1]}}
        True
    """

    def __missing__(self, id: str) -> V:
        raise KeyError(f"{shown(id)} does not exist.{did_you_mean(id, self)} There are {listed(self)}.")

    def __reduce__(self) -> tuple[Any, ...]:
        # OrderedDict is the only subclass of dict that `torch.load(..., weights_only=True)` reads
        return OrderedDict, (), None, None, iter(self.items())


def short_name(logged: str) -> str:
    """The name of a score: the logged name without the name of the loop (`train`, `val`).

    Example:
        >>> short_name("val_loss"), short_name("loss/train"), short_name("valMAE"), short_name("value")
        ('loss', 'loss', 'MAE', 'value')

    Args:
        logged: The name that was given to `self.log`.
    """
    return _LOOP_IN_NAME.sub("", logged, count=1)
