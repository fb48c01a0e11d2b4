"""What there is of Lightning in a Trainer, told by name: both namespaces have such classes, and some are private."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer


def is_a(thing: object, name: str) -> bool:
    """Whether it is of a class of this name, or of one that is derived from such a class."""
    return name in (cls.__name__ for cls in type(thing).__mro__)


def callbacks_of(trainer: "Trainer") -> "list[Callback]":
    """All callbacks of a Trainer."""
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]  # set where mypy does not look
    return callbacks  # type: ignore[no-any-return]
