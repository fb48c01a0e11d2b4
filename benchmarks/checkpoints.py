"""What states add to `trainer.save_checkpoint`.

The network has 20 MB of parameters. The same checkpoint is saved with and without the adapter in turn, inside one fit:
once to disk, and once with a plugin that writes nothing, which leaves the copy of the states and the check that they
will load. Wall time, as writing waits for the disk. At last, a history of 10,000 epochs and six scores, in a checkpoint
without weights: what it adds, in units of what `torch.save` needs for it alone.
"""

import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from benchmarks.fits import Batches, Tiny, nothings, quiet, timed
from benchmarks.report import Row, differences, milliseconds, ratio, ratios
from callbacksets import CallbackSet, CallbackSetAdapter

LARGE = 5_000_000


class Keeps(CallbackSet):
    """Has a state."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state


class WritesNothing(TorchCheckpointIO):
    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None: ...


class Saving(Tiny):
    """Saves checkpoints at the end of its epoch, with its Trainer's callbacks and without."""

    def __init__(self, folder: str, rounds: int, large: int = LARGE) -> None:
        super().__init__()
        self.network.register_parameter("large", nn.Parameter(torch.zeros(large), requires_grad=False))
        self.folder, self.rounds = folder, rounds
        self.bare: list[float] = []
        self.added: list[float] = []

    def on_train_epoch_end(self) -> None:
        own = self.trainer.callbacks
        states: list[float] = []
        for _ in range(self.rounds):
            for callbacks, seconds in (([], self.bare), (own, states)):
                self.trainer.callbacks = callbacks
                save = partial(self.trainer.save_checkpoint, f"{self.folder}/last.ckpt")
                seconds.append(timed(save, clock=time.perf_counter))
        self.added = differences(states, self.bare)


def measure(quick: bool = False) -> list[Row]:
    rounds = 2 if quick else 11
    history = {name: [0.5] * 100 for name in ("epoch", "train.loss", "valid.loss", "train.acc", "valid.acc")}
    weights = {f"layer{i}.weight": torch.zeros(LARGE // 10) for i in range(10)}
    states: Mapping[str, Callable[[], dict[str, CallbackSet]]] = {
        "1 set without a state": lambda: nothings(1),
        "a history of 100 epochs": lambda: {"history": Keeps(history)},
        "20 MB of tensors in a dict": lambda: {"weights": Keeps(weights)},
        "20 MB of tensors in an OrderedDict": lambda: {"weights": Keeps(OrderedDict(weights))},
    }
    rows = []
    for where, plugins in (("to disk", []), ("no writing", [WritesNothing()])):
        for name, callbacks in states.items():
            with tempfile.TemporaryDirectory() as folder:
                module = Saving(folder, rounds)
                adapter: L.Callback = CallbackSetAdapter(callbacks())
                quiet(max_epochs=1, callbacks=[adapter], plugins=plugins).fit(module, Batches([torch.ones(2, 2)]))
            if name == "1 set without a state":
                rows.append(Row(f"{where}: a checkpoint without the adapter", milliseconds(module.bare)))
            rows.append(Row(f"{where}: added by {name}", milliseconds(module.added)))
    return [*rows, *_long_history(rounds)]


def _long_history(rounds: int) -> list[Row]:
    """A checkpoint is saved every epoch, so that it has to stay cheap as the run grows."""
    scores = ("train.loss", "train.acc", "train.f1", "valid.loss", "valid.acc", "valid.f1")
    history = {"epoch": list(range(10_000))} | {name: [i / 7 for i in range(10_000)] for name in scores}
    with tempfile.TemporaryDirectory() as folder:
        module = Saving(folder, rounds, large=1)
        adapter: L.Callback = CallbackSetAdapter({"history": Keeps(history)})
        quiet(max_epochs=1, callbacks=[adapter]).fit(module, Batches([torch.ones(2, 2)]))
        alone = [timed(partial(torch.save, history, f"{folder}/alone"), clock=time.perf_counter) for _ in module.added]
    return [
        Row("a history of 10,000 epochs and six scores: torch.save of it alone", milliseconds(alone)),
        Row("a history of 10,000 epochs and six scores: added to a checkpoint", milliseconds(module.added)),
        Row("the same / torch.save of it alone", ratio(ratios(module.added, alone)), "at most 1.6"),
    ]
