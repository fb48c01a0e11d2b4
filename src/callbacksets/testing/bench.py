"""The fits that the checks make: tiny and quiet, under conditions in which two of them can be compared."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from callbacksets.adapter import CallbackSetAdapter
from callbacksets.base import CallbackSet, identify
from callbacksets.fit.states import read_states
from callbacksets.testing.compare import difference
from callbacksets.testing.conditions import comparable, seed
from callbacksets.testing.moments import Checkpoints, Moment
from callbacksets.testing.trace import Row, SameScores, Trace, first_difference
from callbacksets.testing.training import Training, small_classifier

Make = Callable[[], CallbackSet]

EPOCHS = 4
QUIET: Mapping[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""The arguments of a Trainer on the CPU that prints and writes nothing."""


class CannotTrain(AssertionError):
    """An ordinary fit fails, so that the checks have nothing to say."""


class TrainingAtFault(AssertionError):
    """What the user gave to train cannot be compared, whatever the callback does."""


class WrongArgument(TypeError):
    """What `make` or `training` returned is of the wrong kind."""


class Interruption(Exception):
    """Ends a fit on purpose."""


@dataclass
class Outcome:
    """What a fit has come to.

    Attributes:
        callback: The callback.
        state: Its state at last.
        weights: Those of the module at last.
        begun: What made up training when it began, if that was traced.
        rows: The trace.
    """

    callback: CallbackSet
    state: Any
    weights: dict[str, Any]
    begun: dict[str, Any]
    rows: list[Row]


@dataclass
class Whole:
    """A fit that was not interrupted, and the checkpoints that it wrote."""

    outcome: Outcome
    checkpoints: Checkpoints

    @property
    def moments(self) -> list[Moment]:
        """When it wrote them."""
        return list(self.checkpoints.written)

    def rest(self, moment: Moment) -> list[Row]:
        """What came after a checkpoint."""
        return self.outcome.rows[self.checkpoints.written[moment] :]

    def last_row(self, moment: Moment) -> Row:
        """What was traced last before a checkpoint."""
        return self.outcome.rows[self.checkpoints.written[moment] - 1]


class Bench:
    """Makes callbacks and lets them train.

    Every fit has a working directory of its own and starts from the same weights and random numbers; one that is
    resumed starts from others, as a new process does, until it gets those of the checkpoint back. The clock moves by a
    second with every batch. So a state with times or chances in it comes out the same when it should.
    """

    def __init__(self, make: Make, training: Training | None, folder: Path) -> None:
        self.make_itself = make
        self.training: Training = training or small_classifier
        self._folder = folder
        self._resumed: dict[Moment, Outcome | AssertionError] = {}

    def make(self) -> CallbackSet:
        """A new callback."""
        try:
            with comparable(self.new_place()):
                callback = self.make_itself()
        except Exception as error:
            raise CannotTrain(f"make() fails. {described(error)}") from error
        if isinstance(callback, CallbackSet):
            return callback
        raise WrongArgument(f"Expected make to return a new CallbackSet but it returned {callback!r}.")

    def fit(
        self,
        callback: CallbackSet | None = None,
        *spies: CallbackSet,
        before: Iterable[CallbackSet] = (),
        natives: tuple[L.Callback, ...] = (),
        validation: bool = True,
        checkpoint: Path | None = None,
        place: Path | None = None,
        **trainer_arguments: Any,
    ) -> Outcome:
        """Train with the callback, or with a new one.

        Args:
            callback: The callback.
            spies: More callbacks. Of the same weight, they run after it.
            before: More callbacks. Of the same weight, they run before it.
            natives: More callbacks of Lightning, which run after all these.
            validation: Whether there is any.
            checkpoint: The checkpoint to resume.
            place: The working directory; by default a new one.
            trainer_arguments: More arguments of the Trainer.
        """
        callback = self.make() if callback is None else callback
        id = identify(type(callback))
        earlier = {f"before {n}": spy for n, spy in enumerate(before)}
        later = {f"after {n}": spy for n, spy in enumerate(spies)}
        with comparable(place or self.new_place()) as conditions:
            adapter = CallbackSetAdapter(earlier | {id: callback} | later)
            module, train, valid = self._training_data()
            if checkpoint is not None:
                seed(1)
            arguments: dict[str, Any] = {
                "max_epochs": EPOCHS,
                "plugins": [_TrustingIO()],
                "callbacks": [conditions, adapter, *natives],
            }
            trainer = L.Trainer(**{**QUIET, **arguments, **trainer_arguments})
            trainer.fit(module, train, valid if validation else None, ckpt_path=checkpoint)
        trace = next((spy for spy in spies if isinstance(spy, Trace)), Trace(callback))
        return Outcome(callback, adapter.states.get(id), module.state_dict(), trace.begun, trace.rows)

    def plain_fit(self, callback: CallbackSet | None = None, *spies: CallbackSet, **arguments: Any) -> Outcome:
        """A fit in which nothing is unusual.

        Raises:
            CannotTrain: When it fails.
        """
        try:
            return self.fit(callback, *spies, **arguments)
        except Exception as error:
            raise CannotTrain(
                f"It fails in an ordinary fit. {described(error)}. If it needs a module of its own, give one: "
                "check_callback_set(make, training=...)."
            ) from error

    # --- fits that are not interrupted, and their checkpoints --------------------------------------------------------

    @cached_property
    def whole(self) -> Whole:
        """A fit that is not interrupted and writes the checkpoints."""
        return self.written()

    def written(self) -> Whole:
        """One more."""
        callback = self.make()
        trace = Trace(callback)
        place = self.new_place()
        checkpoints = Checkpoints(self.new_place(), place, lambda: len(trace.rows))
        outcome = self.plain_fit(callback, SameScores(), trace, natives=(checkpoints,), place=place)
        return Whole(outcome, checkpoints)

    @cached_property
    def differs_by_itself(self) -> str | None:
        """How two whole fits that should be the same differ, so that there is nothing to compare a third with."""
        callback = self.make()
        return apart(self.whole.outcome, self.plain_fit(callback, SameScores(), Trace(callback)))

    def require_training(self) -> None:
        """Raise `CannotTrain` unless an ordinary fit succeeds."""
        assert self.whole

    def resumed(self, moment: Moment, watch: Callable[[CallbackSet], None] | None = None) -> Outcome:
        """How a fit goes on that is resumed at a moment.

        Args:
            moment: The moment.
            watch: What to do with the callback before.

        Raises:
            AssertionError: When it fails.
        """
        if moment in self._resumed and watch is None:
            outcome = self._resumed[moment]
        else:
            callback = self.make()
            if watch is not None:
                watch(callback)
            outcome = self._resumed[moment] = self._try_to_resume(moment, callback)
        if isinstance(outcome, AssertionError):
            raise outcome
        return outcome

    def _try_to_resume(self, moment: Moment, callback: CallbackSet) -> Outcome | AssertionError:
        try:
            written = self.whole.checkpoints
            place = shutil.copytree(written.place_at(moment), self.new_place(), dirs_exist_ok=True)
            spies = SameScores(), Trace(callback)
            return self.fit(callback, *spies, checkpoint=written.path(moment), place=place)
        except Exception as error:
            remedy = "Keep in state_dict() what it goes on from"
            if moment.in_epoch:
                remedy += ", and do not rely on on_epoch_begin: set in __init__ what it sets"
            failure = AssertionError(
                f"It fails in a fit that resumes a checkpoint written {moment}. {described(error)}. {remedy}."
            )
            failure.__cause__ = error
            return failure

    @property
    def typical(self) -> list[Moment]:
        """The ends of a middle epoch and of the last, if it trained until then."""
        ends = [moment for moment in self.whole.moments if moment.kind == "epoch"]
        return [*ends[1:2], *ends[-1:]] if len(ends) > 1 else ends

    def checkpoint(self, moment: Moment) -> Path:
        """The checkpoint that a whole fit wrote at a moment."""
        return self.whole.checkpoints.path(moment)

    def saved(self, moment: Moment) -> Any:
        """The state in such a checkpoint."""
        states = read_states(self.checkpoint(moment), weights_only=False)
        return states.get(identify(type(self.whole.outcome.callback)))

    def new_place(self) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    def _training_data(self) -> tuple[L.LightningModule, Any, Any]:
        made = self.training()
        if isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], L.LightningModule):
            return made
        raise WrongArgument(f"Expected training to return (LightningModule, loader, loader) but it returned {made!r}.")


def apart(expected: Outcome, got: Outcome, rows: list[Row] | None = None) -> str | None:
    """When, and in what, a fit first goes otherwise than another; by default than all of it."""
    if differs := first_difference(expected.rows if rows is None else rows, got.rows):
        return f"first in {differs}"
    if differs := difference(expected.state, got.state):
        return f"at last, the state: {differs}"
    return (differs := difference(expected.weights, got.weights)) and f"at last, the weights: {differs}"


def described(error: BaseException) -> str:
    """An error with its notes, which say where it was."""
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}{f' ({notes})' if notes else ''}"


class _TrustingIO(TorchCheckpointIO):
    """Loads whatever was saved: that states need `weights_only=False` is for one check to say, not for all."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
        return loaded
