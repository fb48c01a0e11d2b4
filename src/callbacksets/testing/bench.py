"""The fits of the checks: tiny and quiet, under conditions in which two fits can be compared."""

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
from callbacksets.describe.sources import Source
from callbacksets.fit.states import read_states
from callbacksets.testing.compare import difference
from callbacksets.testing.conditions import comparable, seed
from callbacksets.testing.graph import held_graph
from callbacksets.testing.moments import Checkpoints, SavePoint
from callbacksets.testing.trace import Row, Trace, first_difference
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
"""The arguments of a Trainer that runs on the CPU and prints and writes nothing."""


class CannotTrain(AssertionError):
    """An ordinary fit fails, so the checks cannot run."""


class TrainingAtFault(AssertionError):
    """Fits of the user's `training` cannot be compared, regardless of the callback."""


class WrongArgument(TypeError):
    """`make` or `training` returned a value of the wrong type."""


class Interruption(Exception):
    """Ends a fit on purpose."""


@dataclass
class Trained:
    """The outcome of a fit.

    Attributes:
        callback: The callback.
        state: Its final state.
        weights: The final weights of the module.
        rows: The trace.
    """

    callback: CallbackSet
    state: Any
    weights: dict[str, Any]
    rows: list[Row]


@dataclass
class Whole:
    """An uninterrupted fit, and the checkpoints that it wrote."""

    outcome: Trained
    checkpoints: Checkpoints

    @property
    def moments(self) -> list[SavePoint]:
        """The moments at which it wrote them."""
        return list(self.checkpoints.written)

    def rest(self, moment: SavePoint) -> list[Row]:
        """The rows of the trace after a checkpoint."""
        return self.outcome.rows[self.checkpoints.written[moment] :]


class Bench:
    """Makes callbacks and runs fits with them.

    Every fit has its own working directory and starts from the same weights and random numbers. A resumed fit starts
    from other random numbers, as a new process does, until it gets those of the checkpoint back. The clock moves by one
    second per batch. So a state with times or random values is the same in equal fits.
    """

    def __init__(self, make: Make, training: Training | None, beside: Mapping[str, Source], folder: Path) -> None:
        self.make_itself = make
        self.training: Training = training or small_classifier
        self.beside = beside
        self._folder = folder
        self._resumed: dict[SavePoint, Trained | AssertionError] = {}

    def make(self) -> CallbackSet:
        """A new callback."""
        try:
            with comparable(self.new_place()):
                callback = self.make_itself()
        except Exception as error:
            raise CannotTrain(f"make() fails. {described(error)}") from error
        if not isinstance(callback, CallbackSet):
            raise WrongArgument(f"Expected make to return a new CallbackSet but it returned {callback!r}.")
        if (id := identify(type(callback))) in self.beside:
            raise WrongArgument(
                f"beside has a callback with the id {id!r}, which the checked callback has. Give it another: "
                "beside={'other': ...}."
            )
        return callback

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
    ) -> Trained:
        """Train with the callback, or with a new one.

        Args:
            callback: The callback.
            spies: Further callbacks. With the same weight, they run after it.
            before: Further callbacks. With the same weight, they run before it.
            natives: Further callbacks of Lightning. They run after all others.
            validation: Whether to validate.
            checkpoint: The checkpoint to resume.
            place: The working directory; by default a new one.
            trainer_arguments: Further arguments of the Trainer.
        """
        callback = self.make() if callback is None else callback
        id = identify(type(callback))
        sets: dict[str, Source] = {
            name: one.clone(deep=True) if isinstance(one, CallbackSet) else one for name, one in self.beside.items()
        }
        sets |= {f"before {n}": spy for n, spy in enumerate(before)} | {id: callback}
        sets |= {f"after {n}": spy for n, spy in enumerate(spies)}
        with comparable(place or self.new_place()) as conditions:
            adapter = CallbackSetAdapter(sets)
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
        return Trained(callback, adapter.states.get(id), module.state_dict(), trace.rows)

    def plain_fit(self, callback: CallbackSet | None = None, *spies: CallbackSet, **arguments: Any) -> Trained:
        """An ordinary fit.

        Raises:
            CannotTrain: If it fails.
        """
        callback = self.make() if callback is None else callback
        try:
            return self.fit(callback, *spies, **arguments)
        except Exception as error:
            raise CannotTrain(
                held_graph(callback)
                or f"It fails in an ordinary fit. {described(error)}. If it needs another module, or other callbacks, "
                "give them: check_callback_set(make, training=..., beside=[...])."
            ) from error

    def traced(self, callback: CallbackSet, **arguments: Any) -> Trained:
        """An ordinary fit with a trace."""
        return self.plain_fit(callback, Trace(callback), **arguments)

    @cached_property
    def without(self) -> "Bench":
        """Fits without the callback."""
        return Bench(CallbackSet, self.training, self.beside, self._folder)

    # --- uninterrupted fits, and their checkpoints -------------------------------------------------------------------

    @cached_property
    def whole(self) -> Whole:
        """An uninterrupted fit that writes the checkpoints. It runs once."""
        callback, place = self.make(), self.new_place()
        trace = Trace(callback)
        checkpoints = Checkpoints(self.new_place(), place, lambda: len(trace.rows))
        return Whole(self.plain_fit(callback, trace, natives=(checkpoints,), place=place), checkpoints)

    @cached_property
    def differs_by_itself(self) -> str | None:
        """How two equal whole fits differ; None if they do not. If they differ, no other fit can be compared."""
        return apart(self.whole.outcome, self.traced(self.make()))

    def require_training(self) -> None:
        """Raise `CannotTrain` unless an ordinary fit succeeds."""
        assert self.whole

    def resumed(self, moment: SavePoint) -> Trained:
        """The outcome of a fit that is resumed from the checkpoint of a moment. It runs once.

        Raises:
            AssertionError: If the fit fails.
        """
        if moment not in self._resumed:
            callback = self.make()
            try:
                self._resumed[moment] = self.resume(callback, moment, Trace(callback))
            except AssertionError as error:
                self._resumed[moment] = error
        outcome = self._resumed[moment]
        if isinstance(outcome, AssertionError):
            raise outcome
        return outcome

    def resume(self, callback: CallbackSet, moment: SavePoint, *spies: CallbackSet) -> Trained:
        """Train with a callback, from the checkpoint of a moment, with the files of that moment.

        Raises:
            AssertionError: If the fit fails.
        """
        written = self.whole.checkpoints
        place = shutil.copytree(written.place_at(moment), self.new_place(), dirs_exist_ok=True)
        try:
            return self.fit(callback, *spies, checkpoint=written.path(moment), place=place)
        except Interruption:
            raise
        except Exception as error:
            remedy = "Return in state_dict() everything that it needs to continue"
            if moment.in_epoch:
                remedy += ", and do not rely on on_epoch_begin: set its attributes in __init__ as well"
            raise AssertionError(
                f"It fails in a fit that resumes a checkpoint written {moment}. {described(error)}. {remedy}."
            ) from error

    @property
    def typical(self) -> list[SavePoint]:
        """The ends of a middle epoch and of the last one, if it trained so long."""
        ends = [moment for moment in self.whole.moments if moment.hook == "on_train_epoch_end"]
        return [*ends[1:2], *ends[-1:]] if len(ends) > 1 else ends

    def checkpoint(self, moment: SavePoint) -> Path:
        """The checkpoint that a whole fit wrote at a moment."""
        return self.whole.checkpoints.path(moment)

    def saved(self, moment: SavePoint) -> Any:
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


def apart(expected: Trained, got: Trained, rows: list[Row] | None = None) -> str | None:
    """The first difference between two fits, or None.

    Args:
        expected: The outcome of the first fit.
        got: The outcome of the second fit.
        rows: The rows of the first fit to compare; by default all.
    """
    if differs := first_difference(expected.rows if rows is None else rows, got.rows):
        return f"first in {differs}"
    if differs := difference(expected.state, got.state):
        return f"at the end, the state: {differs}"
    return (differs := difference(expected.weights, got.weights)) and f"at the end, the weights: {differs}"


def described(error: BaseException) -> str:
    """An error with its notes, which say where it happened."""
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}{f' ({notes})' if notes else ''}"


class _TrustingIO(TorchCheckpointIO):
    """Loads any checkpoint. Only the check `weights_only` reports states that need `weights_only=False`."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
        return loaded
