"""Stopping the training when a validation score no longer improves."""

import math
import textwrap
from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from callbacksets.base import CallbackSet
from callbacksets.callbacks.best_weights import Shared, Weights, copy_of_weights, owner_of, put_back
from callbacksets.callbacks.monitor import Monitor, has_validation
from callbacksets.checks import choice, flag, number, text, whole_number
from callbacksets.fit.lightning import callbacks_of, is_a
from callbacksets.fit.shards import divided


class CallbackSetEarlyStopping(CallbackSet):
    """Stops training when a validation score has not improved in several evaluations.

    Its state is `best_epochs`, `best_score`, `best_scores` (all validation scores of that epoch), `stagnation`,
    `measure` and, with `restore_best_weights`, `best_weights`. A validation without the monitored score, or with NaN,
    warns and counts for nothing. If a run that was stopped early is resumed, it warns and trains no further.

    Example:
        >>> from callbacksets import CallbackSetAdapter, CallbackSetEarlyStopping
        >>> adapter = CallbackSetAdapter([CallbackSetEarlyStopping(patience=5, monitor="loss")])

    Args:
        patience: The number of evaluations without an improvement after which training stops; at least 1.
        min_delta: An improvement must be larger than this.
        restore_best_weights: Whether `on_exit` restores the weights of the best evaluation, also after a failure. This
            restores the network; if parameters outside of the network are trained too, the whole module. The weights
            are those that were validated, also if they were exchanged for the validation. They are kept on the device:
            one copy of the parameters and buffers, without the frozen parameters outside of the network, and a second
            copy during a validation.
        monitor: The name of the score: `"loss"`, or the logged name, `"val_loss"`. By default the first score of the
            first validation.
        mode: `"min"` or `"max"`; by default the direction that `ctx.minimize()` returns for the score.

    Raises:
        TypeError, ValueError: If an argument is wrong.
        RuntimeError: If there is no validation, if the score does not exist, or if it is unknown whether lower or
            higher is better. It is raised after the first validation, or in `on_begin` if the sanity check shows the
            mistake.

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
        if not self.restore_best_weights:
            # switches the stages off
            self.on_before_valid = self.on_batch_valid_begin = None  # type: ignore[assignment, method-assign]
        self.start_over()

    def start_over(self) -> None:
        self.best_score: float | None = None
        self.best_scores: dict[str, float] | None = None
        self.best_epochs: int | None = None
        self.stagnation: int = 0
        self.best_weights: Weights | None = None
        self._validated: Weights | None = None  # the weights of the validation under way
        self._monitor = Monitor("Early stopping", self.monitor, self.mode)

    @property
    def measure(self) -> str | None:
        """The name of the monitored score; before the first validation, that which the sanity check makes probable."""
        return self._monitor.measure or self._monitor.expected

    def on_begin(self) -> None:
        self.best_weights, self._validated = map(self._divided, (self.best_weights, self._validated))
        if self.ctx.total_epochs == 0:
            return
        if not has_validation(self.ctx):
            raise RuntimeError(
                "Early stopping needs validation, but this fit has none. Give trainer.fit() a non-empty validation "
                "loader, define validation_step() in the module, and keep limit_val_batches above 0."
            )
        natives = callbacks_of(self.ctx.trainer)
        if self.restore_best_weights and any(is_a(one, "StochasticWeightAveraging") for one in natives):
            rank_zero_warn(
                "StochasticWeightAveraging and restore_best_weights both set the weights at the end. "
                "restore_best_weights comes last: the network gets the weights of the best epoch, not the average. To "
                "get the average, set restore_best_weights=False."
            )
        self._monitor = self._monitor.begin(self)
        if self.stagnation >= self.patience:
            rank_zero_warn(
                f"Early stopping had already ended the resumed run: {self.measure!r} did not improve in "
                f"{self.stagnation} evaluations, with a patience of {self.patience}. The run only completes an "
                "interrupted epoch and trains no further. Start a new run, or resume with more patience."
            )
            self.ctx.terminate = True
        elif self.restore_best_weights and self.best_score is not None and self.best_weights is None:
            rank_zero_warn(
                "The resumed run did not keep its best weights (restore_best_weights=False). Unless this run improves "
                f"on epoch {self.best_epochs}, the network keeps the weights of its last epoch."
            )

    def on_before_valid(self) -> None:
        self._validated = None

    def on_batch_valid_begin(self) -> None:
        # Copied here, because at the end of the validation others may already have put back the weights of training.
        if self._validated is None:
            self._validated = copy_of_weights(self.ctx)

    def on_valid_end(self) -> None:
        validated, self._validated = self._validated, None
        self._monitor, score, scores = self._monitor.read(self.ctx)
        if score is None:
            return
        if math.isnan(score):
            rank_zero_warn(f"{self.measure!r} is NaN in epoch {self.ctx.epoch}. Early stopping ignores it.")
        elif self._monitor.improves(score, self.best_score, by_more_than=self.min_delta):
            self.best_score, self.best_epochs, self.stagnation = score, self.ctx.epoch, 0
            self.best_scores = dict(scores)
            if self.restore_best_weights:
                self.best_weights = validated or copy_of_weights(self.ctx)
        else:
            self.stagnation += 1
            if self.stagnation >= self.patience:
                self.ctx.terminate = True

    def on_exit(self) -> None:
        if not self.restore_best_weights or self.best_weights is None:
            return
        try:
            put_back(self.best_weights, self.ctx)
        except Exception as error:  # it must not make a finished fit fail
            rank_zero_warn(
                f"The best weights (epoch {self.best_epochs}) could not all be restored: "
                f"{textwrap.shorten(str(error), 400)} They are in the state, adapter.states[...]['best_weights']."
            )
        else:
            rank_zero_info(f"The weights of the best epoch, {self.best_epochs}, are restored.")

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "best_epochs": self.best_epochs,
            "best_score": self.best_score,
            "best_scores": self.best_scores,
            "stagnation": self.stagnation,
            "measure": self.measure,
        }
        if not self.restore_best_weights:
            return state
        state["best_weights"] = None if self.best_weights is None else Shared(self.best_weights)
        return state if self._validated is None else state | {"validated_weights": Shared(self._validated)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_epochs = state_dict["best_epochs"]
        self.best_score = state_dict["best_score"]
        self.stagnation = state_dict["stagnation"]
        self.best_scores = state_dict.get("best_scores")  # checkpoints of version 0.2 have none
        # without a best epoch, the name is only what the sanity check of that run made probable
        decided = "expected" if self.best_epochs is None else "measure"
        self._monitor = replace(self._monitor, **{decided: state_dict["measure"]})
        self.best_weights = state_dict.get("best_weights")
        self._validated = state_dict.get("validated_weights")

    def _divided(self, weights: Weights | None) -> Weights | None:
        """Weights of a checkpoint, which has whole tensors, over the ranks. In `on_exit`, other ranks may be gone."""
        return None if weights is None else divided(weights, like=owner_of(weights, self.ctx).state_dict())
