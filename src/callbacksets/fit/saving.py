"""What must happen before a checkpoint is saved, and the weights for a checkpoint that is saved on an exception."""

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
    """Wraps the strategy's function that returns the weights. Lightning calls it first when it saves a checkpoint."""

    def __init__(self, trainer: "Trainer", module: "LightningModule", before: Callable[[], None]) -> None:
        self._trainer = trainer
        self._module = module
        self._before = before
        self._taps = Taps(trainer.strategy)
        self.weights: Weights | None = None
        """The weights from before `on_exit`, for a checkpoint that is saved while an exception is handled."""

    def watch(self) -> None:
        """Notice every checkpoint from now on."""
        self._taps.put(WEIGHTS, self._tapped)

    def stop(self) -> None:
        """Restore the strategy as it was."""
        self._taps.remove()
        self.weights = None

    def keep_weights(self, checkpoint_class: type) -> None:
        """Keep a copy of the weights if a later callback will save them on the exception."""
        trainer = self._trainer
        saves = any(
            isinstance(other, checkpoint_class) and getattr(other, "save_on_exception", True)
            for other in callbacks_of(trainer)
        )
        # no rank alone has all weights of a sharded module, and the other ranks may be gone
        whole = trainer.world_size == 1 or "DDP" in type(trainer.strategy).__name__
        if saves and whole:
            try:
                weights = self._module.state_dict()  # it also carries the versions of the modules
                for name, value in weights.items():
                    weights[name] = value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
                self.weights = weights
            except Exception as error:  # it must not hide the user's own error
                rank_zero_warn(f"The weights from before on_exit could not be kept for a checkpoint: {error}")

    def _tapped(self, get_weights: Callable[[], Weights]) -> Callable[[], Weights]:
        def watched() -> Weights:
            if self.weights is None:
                self._before()
            elif self._trainer.interrupted:
                return copy.copy(self.weights)
            return get_weights()

        return watched
