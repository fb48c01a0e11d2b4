"""Scores and measures: what was logged for an epoch, by name."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from torchmetrics import Metric

from callbacksets.checks import did_you_mean, listed

V = TypeVar("V")

_LOOP = "train|training|val|valid|validation"
_LOOP_IN_NAME = re.compile(rf"^(?:{_LOOP})[_/.-]|[_/.-](?:{_LOOP})$", re.IGNORECASE)


class ByName(dict[str, V], Generic[V]):
    """A mapping of scores or measures, in the order logged, that also takes a position or the full logged name.

    Example:
        >>> scores = ByName({"acc": 0.9, "loss": 0.2}, logged={"val_acc": "acc", "val_loss": "loss"})
        >>> scores["acc"], scores[0], scores["val_acc"]
        (0.9, 0.9, 0.9)
    """

    def __init__(self, values: Mapping[str, V] | Iterable[tuple[str, V]] = (), *, logged: Mapping[str, str] = {}):
        super().__init__(values)
        self.logged = dict(logged)

    def name(self, key: str | int) -> str:
        """The name under which a value stands here, for that name, the full logged name or a position.

        Raises:
            KeyError: For an unknown name.
            IndexError: For a position beyond the last.
        """
        if not self:
            raise KeyError(
                f"There is no {key!r}: nothing was logged for the epoch. Log it: self.log(..., on_epoch=True)."
            )
        if isinstance(key, int):
            if -len(self) <= key < len(self):
                return list(self)[key]
            raise IndexError(f"There is no position {key} among {len(self)} names: {listed(self)}.")
        for name in (key, self.logged.get(key)):
            if super().__contains__(name):
                return str(name)
        raise KeyError(f"There is no {key!r} among {listed(self)}.{did_you_mean(key, [*self, *self.logged])}")

    def __missing__(self, key: str | int) -> V:
        return self[self.name(key)]

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, str | int) and self.name(key) is not None
        except LookupError:
            return False

    def __setitem__(self, key: str | int, value: V) -> None:
        super().__setitem__(self.name(key) if key in self or isinstance(key, int) else key, value)

    def update(self, *others: Any, **values: V) -> None:
        """Set the values of other mappings, as `[...] = ` does."""
        for name, value in dict(*others, **values).items():
            self[name] = value

    def __delitem__(self, key: str | int) -> None:
        super().__delitem__(self.name(key))

    def pop(self, key: str | int, *default: Any) -> Any:
        """Take out the value for a name, the full logged name or a position; the default if there is none."""
        return super().pop(self.name(key) if key in self else str(key), *default)

    def get(self, key: str | int, default: Any = None) -> Any:
        """The value for a name, the full logged name or a position; the default if there is none."""
        try:
            return self[self.name(key)]
        except LookupError:
            return default


def by_name(values: Mapping[str, V]) -> ByName[V]:
    """The mapping itself if it takes positions and logged names, else one that does."""
    return values if isinstance(values, ByName) else ByName(values)


Scores = ByName[float]
Measures = ByName[Metric | None]


def short_name(logged: str) -> str:
    """The name of a score: the logged name less the loop in which it was logged.

    Example:
        >>> short_name("val_loss"), short_name("loss/train"), short_name("f1")
        ('loss', 'loss', 'f1')
    """
    return _LOOP_IN_NAME.sub("", logged, count=1)
