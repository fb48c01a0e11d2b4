"""Scores and measures: what was logged for an epoch, by name."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Generic, Self, TypeVar, overload

from torchmetrics import Metric

from callbacksets.checks import did_you_mean, listed, plain, shown

V = TypeVar("V")

_LOOP = "train|training|val|valid|validation"
_LOOP_IN_NAME = re.compile(rf"^(?:{_LOOP})[_/.-]|[_/.-](?:{_LOOP})$", re.IGNORECASE)


NOTHING_LOGGED = "nothing was logged for the epoch. Log it: self.log(..., on_epoch=True)."
NOT_VALIDATED = "no validation has run yet. Read it in on_valid_end or on_epoch_end, or ask first whether it is empty."
"""Why a mapping is empty, to end a sentence with."""


class ByName(dict[str, V], Generic[V]):
    """A mapping of scores or measures, in the order logged, that also takes a position or the full logged name.

    Example:
        >>> measures = ByName({"acc": "a", "loss": "b"}, logged={"val_acc": "acc", "val_loss": "loss"})
        >>> measures["acc"], measures[0], measures["val_acc"]
        ('a', 'a', 'a')

    Args:
        values: The values by name.
        logged: The full logged names, and the name that each has here.
        empty: Why there is nothing, as long as there is nothing: the end of the sentence "There is no 'acc': ...".
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
        """What is kept of a value that is set."""
        return value

    def name(self, key: str | int) -> str:
        """The name under which a value stands here.

        Args:
            key: That name, the full logged name or a position.

        Raises:
            KeyError: For an unknown name.
            IndexError: For a position beyond the last.
        """
        if not self:
            raise KeyError(f"There is no {shown(key)}: {self.empty}")
        if isinstance(key, int):
            if -len(self) <= key < len(self):
                return list(self)[key]
            raise IndexError(f"There is no position {key} among {len(self)} names: {listed(self)}.")
        for name in (key, self.logged.get(key)):
            if name is not None and super().__contains__(name):
                return plain(name)
        raise KeyError(f"There is no {shown(key)} among {listed(self)}.{did_you_mean(key, [*self, *self.logged])}")

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
        """Set several values, as `[...] =` sets one.

        Args:
            others: A mapping, or pairs, of names and values.
            values: More of them.
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
        """The value for a key; where there is none, the default is set.

        Args:
            key: A name, the full logged name or a position.
            default: What is set.
        """
        if key not in self:
            self[key] = default
        return self[self.name(key)]

    def __delitem__(self, key: str | int) -> None:
        super().__delitem__(self.name(key))

    def pop(self, key: str | int, *default: Any) -> Any:
        """Take out the value for a key.

        Args:
            key: A name, the full logged name or a position.
            default: What to return if there is none.

        Raises:
            LookupError: When there is none, and no default.
        """
        return default[0] if default and key not in self else super().pop(self.name(key))

    def get(self, key: str | int, default: Any = None) -> Any:
        """The value for a key.

        Args:
            key: A name, the full logged name or a position.
            default: What to return if there is none.
        """
        try:
            return self[self.name(key)]
        except LookupError:
            return default

    def copy(self) -> Self:
        """A mapping of the same values that knows the same logged names."""
        return type(self)(self, logged=self.logged, empty=self.empty)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), logged=self.logged, empty=self.empty), (dict(self),)


class Scores(ByName[float]):
    """Name -> score, a Python float whatever is set: an int, a NumPy number or a tensor with one element, too.

    Example:
        >>> import torch
        >>> scores = Scores({"loss": 1}, logged={"val_loss": "loss"})
        >>> scores["val_loss"] = torch.tensor(0.5)
        >>> scores
        {'loss': 0.5}

    Raises:
        TypeError: When what is set is no number.
    """

    def _checked(self, name: str, value: Any) -> float:
        try:
            number: Any = value.item() if hasattr(value, "item") else value
            if isinstance(number, str | bytes):
                raise TypeError  # though `float` reads it
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
    """The mapping itself if it takes positions and logged names, else one that does."""
    return values if isinstance(values, ByName) else ByName(values)


class ById(dict[str, V], Generic[V]):
    """A dict whose `KeyError` names the ids there are.

    Example:
        >>> states = ById({"history": {"epoch": [1]}})
        >>> states["histroy"]
        Traceback (most recent call last):
        KeyError: "There is no 'histroy'. Did you mean 'history'? There are 'history'."
        >>> states == {"history": {"epoch": [1]}}
        True
    """

    def __missing__(self, id: str) -> V:
        raise KeyError(f"There is no {shown(id)}.{did_you_mean(id, self)} There are {listed(self)}.")

    def __reduce__(self) -> tuple[Any, ...]:
        # of the subclasses of dict, the one that `torch.load(..., weights_only=True)` reads
        return OrderedDict, (), None, None, iter(self.items())


def short_name(logged: str) -> str:
    """The name of a score: the logged name without the loop in which it was logged.

    Example:
        >>> short_name("val_loss"), short_name("loss/train"), short_name("f1")
        ('loss', 'loss', 'f1')

    Args:
        logged: The name that `self.log` was given.
    """
    return _LOOP_IN_NAME.sub("", logged, count=1)
