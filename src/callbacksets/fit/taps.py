"""Taking the place of functions of a Trainer's strategy for a while, where no hook of Lightning will do."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

WEIGHTS = "lightning_module_state_dict"
"""The strategy's function with which a checkpoint begins."""


class Taps:
    """Functions in the place of a strategy's own, until they are removed."""

    def __init__(self, trainer: "Trainer") -> None:
        self._trainer = trainer
        self._before: dict[str, Any] = {}

    def put(self, name: str, tapped: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Put in the place of a method what is made of it."""
        strategy = self._trainer.strategy
        self._before[name] = vars(strategy).get(name)
        setattr(strategy, name, tapped(getattr(strategy, name)))

    def remove(self) -> None:
        """Put back what there was: a method of the class, or what somebody else had put in its place."""
        for name, before in self._before.items():
            if before is None:
                vars(self._trainer.strategy).pop(name, None)
            else:
                setattr(self._trainer.strategy, name, before)
        self._before = {}


class WeightsBefore:
    """Lets what saves a checkpoint while an exception is handled save the weights from before `exit`."""

    def __init__(self, trainer: "Trainer", weights: dict[str, Any]) -> None:
        self._trainer = trainer
        self._weights = weights
        self._taps = Taps(trainer)
        self._taps.put(WEIGHTS, self._tapped)

    def are_saved(self) -> bool:
        """Whether the hooks `on_exception` are running; behind them, Lightning leaves no stage."""
        return self._trainer.interrupted and self._trainer.state.stage is not None

    def stop(self) -> None:
        """Leave everything as it was."""
        self._taps.remove()

    def _tapped(self, get_weights: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        return lambda: copy.copy(self._weights) if self.are_saved() else get_weights()
