"""What must happen when a checkpoint is put together, and the weights that one on an exception must hold."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacksets.fit.lightning import WEIGHTS, Taps, callbacks_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

Weights = dict[str, Any]


class Saving:
    """Stands before the strategy's function for the weights, which come first in a checkpoint."""

    def __init__(self, trainer: "Trainer", module: "LightningModule", before: Callable[[], None]) -> None:
        self._trainer = trainer
        self._module = module
        self._before = before
        self._taps = Taps(trainer.strategy)
        self.weights: Weights | None = None
        """The weights from before `exit`, for what saves a checkpoint while an exception is handled."""

    def watch(self) -> None:
        """Look at every checkpoint from now on."""
        self._taps.put(WEIGHTS, self._tapped)

    def stop(self) -> None:
        """Leave everything as it was."""
        self._taps.remove()
        self.weights = None

    def keep_weights(self, checkpoint_class: type) -> None:
        """Keep a copy of the weights if another callback will save them on the exception, behind us."""
        trainer = self._trainer
        saves = any(
            isinstance(other, checkpoint_class) and getattr(other, "save_on_exception", True)
            for other in callbacks_of(trainer)
        )
        # of a sharded module no rank alone has them, and the others may be gone
        whole = trainer.world_size == 1 or "DDP" in type(trainer.strategy).__name__
        if saves and whole:
            try:
                weights = self._module.state_dict()  # which also carries the versions of the modules
                for name, value in weights.items():
                    weights[name] = value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
                self.weights = weights
            except Exception as error:  # the user's own error is the one to be seen
                rank_zero_warn(f"The weights from before `exit` could not be kept for a checkpoint: {error}")

    def _tapped(self, get_weights: Callable[[], Weights]) -> Callable[[], Weights]:
        def watched() -> Weights:
            if self.weights is None:
                self._before()
            elif self._trainer.interrupted:
                return copy.copy(self.weights)
            return get_weights()

        return watched
