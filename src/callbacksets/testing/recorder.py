"""A callback that records the stages of a fit."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from callbacksets.base import STAGES, CallbackSet
from callbacksets.checks import choice, names_of, text

_Stage = Callable[..., None]  # without `self`, so that a type checker accepts a subclass with the stage


def _recorded(stage: str) -> _Stage:
    def method(self: "StageRecorder") -> None:
        self.rows.append((stage, *(self._read(field) for field in self.fields)))

    return method


class StageRecorder(CallbackSet):
    """Records the stages of a fit, each with the values of some fields of `ctx`.

    It copies tensors, scores and other collections, so that later changes do not affect the record. If a field is not
    available yet, such as `y_hat` before the forward call, it records None.

    Example:
        >>> from callbacksets.testing import StageRecorder, make_context
        >>> recorder = StageRecorder("epoch", "last_loss", stages=["on_epoch_end", "on_end"])
        >>> recorder.ctx = make_context(epoch=1, last_loss=0.7)
        >>> recorder.on_epoch_end()
        >>> recorder.rows
        [('on_epoch_end', 1, 0.7)]
        >>> recorder.at("on_epoch_end")
        [(1, 0.7)]

    Args:
        *fields: The names of the fields.
        stages: The stages to record; by default all.

    Attributes:
        rows: A tuple for every stage that ran: its name and the values of the fields.

    Raises:
        TypeError: If a name is not a string.
        ValueError: If a stage does not exist, or if a name is empty.
        AttributeError: In a fit, if `ctx` does not have the field.
    """

    def __init__(self, *fields: str, stages: str | Iterable[str] = STAGES) -> None:
        self.fields: list[str] = [text("fields", field) for field in fields]
        self.rows: list[tuple[Any, ...]] = []
        chosen = [choice("stages", stage, STAGES) for stage in names_of("stages", stages)]
        for stage in STAGES:
            if stage not in chosen:
                setattr(self, stage, None)

    on_begin: ClassVar[_Stage] = _recorded("on_begin")
    on_epoch_begin: ClassVar[_Stage] = _recorded("on_epoch_begin")
    on_batch_begin: ClassVar[_Stage] = _recorded("on_batch_begin")
    on_after_backward: ClassVar[_Stage] = _recorded("on_after_backward")
    on_batch_end: ClassVar[_Stage] = _recorded("on_batch_end")
    on_before_valid: ClassVar[_Stage] = _recorded("on_before_valid")
    on_batch_valid_begin: ClassVar[_Stage] = _recorded("on_batch_valid_begin")
    on_batch_valid_end: ClassVar[_Stage] = _recorded("on_batch_valid_end")
    on_valid_end: ClassVar[_Stage] = _recorded("on_valid_end")
    on_epoch_end: ClassVar[_Stage] = _recorded("on_epoch_end")
    on_end: ClassVar[_Stage] = _recorded("on_end")
    on_exit: ClassVar[_Stage] = _recorded("on_exit")

    def at(self, stage: str) -> list[tuple[Any, ...]]:
        """The values of the fields for each time a stage ran.

        Args:
            stage: The name of the stage, such as `"on_epoch_end"`.

        Raises:
            ValueError: If the stage does not exist.
        """
        choice("stage", stage, STAGES)
        return [row[1:] for row in self.rows if row[0] == stage]

    def _read(self, field: str) -> Any:
        try:
            return _copied(getattr(self.ctx, field))
        except RuntimeError:  # the context raises it for values that are not available yet
            return None


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return copy.copy(value) if isinstance(value, Collection) else value
