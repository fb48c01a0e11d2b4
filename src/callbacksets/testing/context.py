"""A stand-in for `ctx`, to test a method of a callback without a Trainer."""

from collections.abc import Mapping
from typing import Any

from callbacksets.checks import did_you_mean
from callbacksets.fit.context import ContextTorch, first_output
from callbacksets.fit.loop import Loop
from callbacksets.fit.reader import directions
from callbacksets.fit.step import Step
from callbacksets.scores import by_name

_FIELDS = tuple(name for name in dir(ContextTorch) if not name.startswith("_"))
_SETTABLE = tuple(name for name in _FIELDS if getattr(getattr(ContextTorch, name), "fset", None))


def make_context(**fields: Any) -> ContextTorch:
    """Make a stand-in for `ctx` with the given fields, to test a method of a callback without a Trainer.

    Reading any other field is an error. Otherwise it behaves as in a fit. Read-only or misspelled fields cannot be set.
    Scores can be read by position. The batch can be replaced, as in `on_batch_begin`. `y_hat` is taken from `y_hats`.
    `terminate` is False at first. `minimize()` uses the given scores and measures. For each moment of a fit, make a new
    one.

    Example:
        >>> from callbacksets import CallbackSet
        >>> from callbacksets.testing import make_context
        >>> class CallbackSetEnough(CallbackSet):
        ...     def on_valid_end(self):
        ...         if self.ctx.last_scores_valid["acc"] > 0.9:
        ...             self.ctx.terminate = True
        >>> callback = CallbackSetEnough()
        >>> callback.ctx = make_context(last_scores_valid={"acc": 0.95})
        >>> callback.on_valid_end()
        >>> callback.ctx.terminate
        True
        >>> callback.ctx.epoch
        Traceback (most recent call last):
            ...
        AttributeError: ctx.epoch is read but was not given. Give it: make_context(epoch=...).

    Args:
        **fields: The fields and their values. For the method `minimize`, give a function.

    Raises:
        TypeError: If a real `ctx` does not have the field.
    """
    for name in fields:
        if name not in _FIELDS:
            raise TypeError(
                f"ctx has no field {name!r}.{did_you_mean(name, _FIELDS)} It has {', '.join(_FIELDS)}. Assign a field "
                f"that your callbacks add: ctx.{name} = ... ."
            )
    if not callable(fields.get("minimize", callable)):
        raise TypeError(f"Expected minimize to be a function of a score's name but got {fields['minimize']!r}.")
    return _StandIn(fields)


class _StandIn(ContextTorch):
    """A context with given values instead of those of a Trainer."""

    def __init__(self, fields: dict[str, Any]) -> None:
        no: Any = None
        # stores and checks the fields that can be set, as in a fit
        loop = Loop(stage="on_batch_begin")
        self._real = ContextTorch(no, no, loop, Step(batch=fields.get("batch", ())), {})
        self._given = {"terminate": False} | fields
        for name in ("measures_train", "measures_valid"):
            if isinstance(measures := fields.get(name), Mapping):
                self._given[name] = by_name(measures)
                setattr(loop, name, self._given[name])
                loop.minimize = directions(measures) | loop.minimize
        for name in ("terminate", "last_scores_train", "last_scores_valid"):
            if name in fields:
                setattr(self, name, fields[name])

    def __getattribute__(self, name: str) -> Any:
        if name not in _FIELDS:
            return super().__getattribute__(name)
        if name == "minimize" and name not in self._given:
            return self._real.minimize
        if name == "y_hat" and name not in self._given and "y_hats" in self._given:
            return first_output(self._given["y_hats"])
        if name not in self._given:
            raise AttributeError  # __getattr__ explains it
        return self._given[name]

    def __getattr__(self, name: str) -> Any:
        if name in _FIELDS:
            raise AttributeError(f"ctx.{name} is read but was not given. Give it: make_context({name}=...).")
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIELDS:
            setattr(self._real, name, value)
            self._given[name] = getattr(self._real, name)
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"make_context({', '.join(f'{name}={value!r}' for name, value in self._given.items())})"
