"""The fits that the checks make: tiny and quiet, under conditions in which two of them can be compared."""

import contextlib
import logging
import random
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from callbacksets.adapter import CallbackSetAdapter
from callbacksets.base import CallbackSet, identify
from callbacksets.fit.states import read_states
from callbacksets.supervised import SupervisedModule

Make = Callable[[], CallbackSet]
Training = Callable[[], tuple[L.LightningModule, Any, Any]]

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
MOMENTS = {
    "middle": "in the middle of an epoch",
    "validation": "when validation had ended, before the end of its epoch",
    "epoch": "at the end of an epoch",
    "last": "at the end of the last epoch",
}
"""When a fit that is not interrupted writes checkpoints."""


class CannotTrain(AssertionError):
    """An ordinary fit fails, so that the checks have nothing to say."""


class Interruption(Exception):
    """Ends a fit on purpose."""


@dataclass
class Outcome:
    """What a fit has come to."""

    callback: CallbackSet
    state: Any
    weights: dict[str, Any]


class Bench:
    """Makes callbacks and lets them train.

    Every fit has a working directory of its own, starts from the same weights, and sees the same batches. The clock
    moves by a second with every batch and random numbers depend on the batch alone, so that a state with times or
    chances in it comes out the same when it should.
    """

    def __init__(self, make: Make, training: Training | None, folder: Path) -> None:
        self._make = make
        self._training = training or small_classifier
        self._folder = folder

    def make(self) -> CallbackSet:
        """A new callback."""
        try:
            with self._conditions():
                callback = self._make()
        except Exception as error:
            raise CannotTrain(f"make() fails. {described(error)}") from error
        if isinstance(callback, CallbackSet):
            return callback
        raise TypeError(f"Expected make to return a new CallbackSet but it returned {callback!r}.")

    def fit(
        self,
        callback: CallbackSet | None = None,
        *spies: CallbackSet,
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
            natives: More callbacks of Lightning, which run after all these.
            validation: Whether there is any.
            checkpoint: The checkpoint to resume.
            place: The working directory; by default a new one.
            trainer_arguments: More arguments of the Trainer.
        """
        callback = self.make() if callback is None else callback
        id = identify(type(callback))
        adapter = CallbackSetAdapter({id: callback} | {f"spy {n}": spy for n, spy in enumerate(spies)})
        with self._conditions(place) as conditions:
            module, train, valid = self._training_data()
            arguments: dict[str, Any] = {
                "max_epochs": EPOCHS,
                "plugins": [_TrustingIO()],
                "callbacks": [conditions, adapter, *natives],
            }
            trainer = L.Trainer(**{**QUIET, **arguments, **trainer_arguments})
            trainer.fit(module, train, valid if validation else None, ckpt_path=checkpoint)
        return Outcome(callback, adapter.states.get(id), module.state_dict())

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

    @cached_property
    def whole(self) -> Outcome:
        """A fit that is not interrupted and writes the checkpoints."""
        return self.plain_fit(natives=(_Saver(self._folder),))

    def require_training(self) -> None:
        """Raise `CannotTrain` unless an ordinary fit succeeds."""
        assert self.whole

    def checkpoint(self, moment: str) -> Path | None:
        """The checkpoint of the fit that is not interrupted, if it trained until then."""
        self.require_training()
        path = self._folder / f"{moment}.ckpt"
        return path if path.exists() else None

    def new_place(self) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    def interrupt(self, moment: str, place: Path, callback: CallbackSet, *spies: CallbackSet) -> Path | None:
        """The checkpoint of a fit that is interrupted right after it was written, if it came to that."""
        folder = self.new_place()
        with contextlib.suppress(Interruption):
            self.fit(callback, *spies, natives=(_Saver(folder, interrupts=moment),), place=place)
            return None
        return folder / f"{moment}.ckpt"

    def saved(self, moment: str) -> Any:
        """The state in such a checkpoint."""
        states = read_states(self._folder / f"{moment}.ckpt", weights_only=False)
        return states.get(identify(type(self.whole.callback)))

    def _training_data(self) -> tuple[L.LightningModule, Any, Any]:
        made = self._training()
        if isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], L.LightningModule):
            return made
        raise TypeError(f"Expected training to return (LightningModule, loader, loader) but it returned {made!r}.")

    @contextlib.contextmanager
    def _conditions(self, place: Path | None = None) -> Iterator[L.Callback]:
        clock = _Clock()
        with (
            contextlib.chdir(place or self.new_place()),
            warnings.catch_warnings(),
            clock.instead_of_times(),
            _restored(),
        ):
            warnings.simplefilter("ignore")
            logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
            torch.set_num_threads(1)  # several would spend their time on waiting for each other
            _seed(0)
            yield _EveryBatch(clock)


def small_classifier() -> tuple[L.LightningModule, Any, Any]:
    """A module, a loader of three batches and one for validation: two classes of random points."""
    _seed(355)  # with it both validation scores get worse, better and worse again, so that states have something to say
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    module = SupervisedModule(
        network,
        nn.CrossEntropyLoss(),
        partial(torch.optim.SGD, lr=0.5, momentum=0.9),
        measures_train={"acc": MulticlassAccuracy(2)},
        measures_valid={"acc": MulticlassAccuracy(2)},
    )
    x = torch.randn(40, 4)
    y = (x[:, 0] + torch.randn(40) > 0).long()
    train, valid = TensorDataset(x[:24], y[:24]), TensorDataset(x[24:], y[24:])
    return module, _Continued(train, batch_size=8), DataLoader(valid, batch_size=8)


def described(error: BaseException) -> str:
    """An error with its notes, which say where it was."""
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}{f' ({notes})' if notes else ''}"


class _Continued(DataLoader[Any]):
    """Goes on in the middle of an epoch where it was when a checkpoint was written."""

    _done = _skip = 0

    def __iter__(self) -> Any:
        skip, self._skip = self._skip, 0
        for self._done, batch in enumerate(super().__iter__(), start=1):
            if self._done > skip:
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"done": self._done % len(self)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._skip = state_dict["done"]


class _EveryBatch(L.Callback):
    """Makes time and chance a matter of the batch."""

    def __init__(self, clock: "_Clock") -> None:
        self._clock = clock

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _seed(trainer.global_step)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._clock.now += 1
        _seed(trainer.global_step)


class _Clock:
    """Stands still unless it is told to go on. Who sleeps does not wait, and finds that time has passed."""

    def __init__(self) -> None:
        self.now = 1e9
        self._thread = threading.get_ident()
        self._sleep = time.sleep

    def sleep(self, seconds: float) -> None:
        if threading.get_ident() == self._thread:
            self.now += seconds
        else:
            self._sleep(seconds)

    def instead_of_times(self) -> Any:
        replaced: dict[str, Any] = {"sleep": self.sleep}
        for name in ("time", "monotonic", "perf_counter"):
            replaced |= {name: lambda: self.now, f"{name}_ns": lambda: int(self.now * 1e9)}
        return mock.patch.multiple(time, **replaced)


class _Saver(L.Callback):
    """Writes checkpoints at the moments at which Lightning's own callbacks may, and perhaps ends the fit at one."""

    def __init__(self, folder: Path, interrupts: str | None = None) -> None:
        self._folder = folder
        self._interrupts = interrupts

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._save(trainer, "middle")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, "epoch")
        trainer.save_checkpoint(self._folder / "last.ckpt")

    def _save(self, trainer: L.Trainer, moment: str) -> None:
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self._folder / f"{moment}.ckpt")
            if moment == self._interrupts:
                raise Interruption


class _TrustingIO(TorchCheckpointIO):
    """Loads whatever was saved: that states need `weights_only=False` is for one check to say, not for all."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
        return loaded


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Leaves logging, threads and random numbers as they were."""
    logger = logging.getLogger("lightning.pytorch")
    level, threads = logger.level, torch.get_num_threads()
    of_torch, of_python, of_numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads)
        torch.set_rng_state(of_torch)
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
