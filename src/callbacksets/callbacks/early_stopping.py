"""Stopping when validation no longer improves."""

import math
import textwrap
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from callbacksets.base import CallbackSet
from callbacksets.callbacks.best_weights import Shared, Weights, copy_of_weights, owner_of, put_back
from callbacksets.callbacks.monitor import (
    choose_measure,
    has_validation,
    measures_at_begin,
    monitored_score,
    scores_to_monitor,
)
from callbacksets.checks import choice, flag, number, text, whole_number
from callbacksets.fit.lightning import callbacks_of, is_a
from callbacksets.fit.shards import divided
from callbacksets.scores import ByName


class CallbackSetEarlyStopping(CallbackSet):
    """Stops training when a validation score has not improved for some evaluations.

    Its state is `best_epochs`, `best_score`, `stagnation`, `measure` and, with `restore_best_weights`, `best_weights`.
    A run that had stopped trains no further when it is resumed, and says so.

    Example:
        >>> from callbacksets import CallbackSetAdapter, CallbackSetEarlyStopping
        >>> adapter = CallbackSetAdapter([CallbackSetEarlyStopping(patience=5, monitor="loss")])

    Args:
        patience: After how many evaluations without an improvement training stops; at least 1.
        min_delta: What an improvement must exceed.
        restore_best_weights: Whether the network gets the weights of its best evaluation in `exit`, also after a
            failure; where parameters outside of it are trained, the whole module does. They are kept on the device,
            and cost one copy of the parameters and buffers, less the frozen ones outside of the network.
        monitor: The name of the score, `"loss"` or as it was logged, `"val_loss"`; by default the first.
        mode: `"min"` or `"max"`; by default what `ctx.minimize()` says of the score.

    Raises:
        TypeError, ValueError: For an argument of the wrong kind.
        RuntimeError: In `begin` where the sanity check ran, else after the first validation: when there is no
            validation, no such score, or nothing tells whether lower is better.

    mlr3torch: the parameters `patience`, `min_delta` and `restore_best_weights` of a learner.
    """

    reads_y_hats: bool = False
    weight: float = 1000

    def __init__(
        self,
        patience: int,
        min_delta: float = 0.0,
        restore_best_weights: bool = False,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        self.patience: int = whole_number("patience", patience, at_least=1)
        self.min_delta: float = number("min_delta", min_delta, at_least=0, finite=False)
        self.restore_best_weights: bool = flag("restore_best_weights", restore_best_weights)
        self.monitor: str | None = None if monitor is None else text("monitor", monitor)
        self.mode: str | None = None if mode is None else choice("mode", mode, ("min", "max"))
        self.start_over()

    def start_over(self) -> None:
        self.best_score: float | None = None
        self.best_epochs: int | None = None
        self.stagnation: int = 0
        self.measure: str | None = None
        self.best_weights: Weights | None = None
        self._minimize: bool | None = None

    def on_begin(self) -> None:
        self._minimize = None
        if self.best_weights is not None:
            # A checkpoint has them whole. To be divided here, as in `exit` other ranks may be gone.
            self.best_weights = divided(self.best_weights, like=owner_of(self.best_weights, self.ctx).state_dict())
        if self.ctx.total_epochs == 0:
            return
        if not has_validation(self.ctx):
            raise RuntimeError(
                "Early stopping needs validation, but this fit has none. Give trainer.fit() a validation loader that "
                "is not empty and the module a validation_step(), and leave limit_val_batches above 0."
            )
        if self.restore_best_weights and any(is_a(n, "WeightAveraging") for n in callbacks_of(self.ctx.trainer)):
            rank_zero_warn(
                "WeightAveraging validates with averaged weights, and has put the others back when early stopping "
                "comes to keep the best: these are what restore_best_weights will restore. For the averaged ones, "
                "save them: ModelCheckpoint(monitor=...)."
            )
        if (known := measures_at_begin(self, self.monitor)) is not None:
            self._choose(known)
        if self.stagnation >= self.patience:
            rank_zero_warn(
                f"Early stopping had ended the run that is resumed: {self.measure!r} did not improve in "
                f"{self.stagnation} evaluations, with a patience of {self.patience}. It trains no further, unless it "
                "was interrupted inside an epoch, to whose end it goes. Start a new run, or resume with more patience."
            )
            self.ctx.terminate = True
        elif self.restore_best_weights and self.best_score is not None and self.best_weights is None:
            rank_zero_warn(
                "The run that is resumed did not keep its best weights (restore_best_weights=False). Unless this one "
                f"improves on epoch {self.best_epochs}, the network keeps the weights of its last epoch."
            )

    def on_valid_end(self) -> None:
        scores = scores_to_monitor(self.ctx, "Early stopping")
        if self._minimize is None or (self.best_score is None and self.measure not in scores):
            self._choose(scores)  # of the measures known in `begin`, some may be no score
        score = monitored_score(scores, self.measure, "Early stopping")
        if math.isnan(score):
            rank_zero_warn(f"{self.measure!r} is NaN in epoch {self.ctx.epoch}; early stopping does not count it.")
        elif self.best_score is None or self._improvement(score, self.best_score) > self.min_delta:
            self.best_score, self.best_epochs, self.stagnation = score, self.ctx.epoch, 0
            self._remember_weights()
        else:
            self.stagnation += 1
            if self.stagnation >= self.patience:
                self.ctx.terminate = True

    def on_exit(self) -> None:
        if not self.restore_best_weights or self.best_weights is None:
            return
        try:
            put_back(self.best_weights, self.ctx)
        except Exception as error:  # a fit that has trained is not to fail for it
            rank_zero_warn(
                f"The best weights, of epoch {self.best_epochs}, could not all be put back: "
                f"{textwrap.shorten(str(error), 400)} They are in the state, adapter.states[...]['best_weights']."
            )
        else:
            rank_zero_info(f"The weights are those of the best epoch, {self.best_epochs}.")

    def state_dict(self) -> dict[str, Any]:
        state = {
            "best_epochs": self.best_epochs,
            "best_score": self.best_score,
            "stagnation": self.stagnation,
            "measure": self.measure,
        }
        if not self.restore_best_weights:
            return state
        return state | {"best_weights": None if self.best_weights is None else Shared(self.best_weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_epochs = state_dict["best_epochs"]
        self.best_score = state_dict["best_score"]
        self.stagnation = state_dict["stagnation"]
        self.measure = state_dict["measure"]
        self.best_weights = state_dict.get("best_weights")

    def _choose(self, known: ByName[Any]) -> None:
        before = None if self.best_score is None else self.measure
        self.measure, self._minimize = choose_measure(
            self.ctx, known, user="Early stopping", monitor=self.monitor, mode=self.mode, before=before
        )

    def _improvement(self, score: float, best: float) -> float:
        return best - score if self._minimize else score - best

    def _remember_weights(self) -> None:
        if self.restore_best_weights:
            self.best_weights = None  # first, so that there is never more than one copy of them
            self.best_weights = copy_of_weights(self.ctx)
