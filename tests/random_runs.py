"""Random runs: what a Trainer may be told, and what happens in a fit.

A run is described by a `Scenario`, whose repr makes it again. The `Witness` notes what Lightning does, without us: the
batches it trains, the optimizer's steps, the validations. It goes with Lightning's checkpoints, as a part of the
module. The loader goes on from it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from torch import nn

from callbacksets import CallbackSet, CallbackSetAdapter, t_clbk
from callbacksets.base import STAGES
from tests.helpers import Batches, StageLog, quiet

HOOKS = [
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
]
AGAIN = ("batch_begin", "after_backward", "batch_valid_begin", "batch_valid_end")
OWN = [stage for stage in STAGES if stage not in ("on_exit", "on_begin")]


@dataclass(frozen=True)
class Place:
    """Where something happens: in a callback before or behind the adapter or an own one, the n-th time."""

    who: str
    hook: str
    nth: int

    def __str__(self) -> str:
        return f"{self.who}-{self.hook}-{self.nth}"


@dataclass(frozen=True)
class Scenario:
    """A Trainer, its data, and what happens in its fit."""

    batches: int = 3
    max_epochs: int = 3
    max_steps: int = -1
    valid: int = 1  # batches of validation
    val_check_interval: float = 1.0
    check_val_every_n_epoch: int | None = 1
    accumulate: int = 1
    sanity: int = 0
    none: tuple[int, ...] = ()  # batches of every epoch that are None
    no_loss: tuple[int, ...] = ()  # those of which the module's step returns None
    cut: tuple[int, int] | None = None  # the epoch and the batch at which the module's hook returns -1
    terminate_at: str = "epoch"
    stop: tuple[str, int] | None = None  # the stage and the `global_step` at which a callback asks to stop
    saves: tuple[Place, ...] = ()
    fails: Place | None = None
    exception_first: bool = False  # the checkpoint on an exception is saved before the adapter


def scenario(random: Random) -> Scenario:
    """One at random."""
    batches = random.randint(1, 5)
    max_epochs = random.choice([2, 3, 4])
    accumulate = random.choice([1, 1, 1, 1, 2, 3])
    max_steps = random.randint(2, 9) if random.random() < 0.3 else -1
    if max_steps > 0 and random.random() < 0.5:
        max_epochs = -1
    valid = random.choice([0, 1, 1, 2])
    every = random.choice([1, 1, 1, 2, None]) if valid else 1
    interval: float = 1.0
    if valid and (every is None or random.random() < 0.4):
        interval = random.randint(1, batches + 2 if every is None else batches)
        if every is not None and random.random() < 0.4:
            interval = random.choice([0.25, 0.5, 0.75])
    some = partial(random.randint, 0, batches - 1)
    made = Scenario(
        batches=batches,
        max_epochs=max_epochs,
        max_steps=max_steps,
        valid=valid,
        val_check_interval=interval,
        check_val_every_n_epoch=every,
        accumulate=accumulate,
        sanity=random.choice([0, 0, 2]),
        none=(some(),) if random.random() < 0.12 and batches > 1 else (),
        no_loss=(some(),) if random.random() < 0.08 else (),
        cut=(random.randint(1, 3), some()) if random.random() < 0.06 and batches > 1 else None,
        terminate_at=random.choice(["epoch", "epoch", "validation"]),
        stop=(random.choice(OWN[:-1]), random.randint(1, 2 * batches)) if random.random() < 0.2 else None,
        saves=tuple(_place(random) for _ in range(random.randint(1, 3))),
        fails=_place(random) if random.random() < 0.5 else None,
        exception_first=random.random() < 0.5,
    )
    # where only steps end the run, a batch of None may keep Lightning from ever making one
    return replace(made, none=()) if max_epochs == -1 else made


def _place(random: Random) -> Place:
    who = random.choice(["before", "behind", "own"])
    return Place(who, random.choice(OWN if who == "own" else HOOKS), random.randint(1, 4))


# --- what Lightning does ---------------------------------------------------------------------------------------------


class Witness:
    """Notes what Lightning does. What a checkpoint does not have to the end, it does not keep.

    A batch under way, and the batches of a validation under way, come again when the run is resumed.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.trainer: L.Trainer
        self.untold = ""  # the end of which the adapter is to be told yet

    def note(self, *event: Any) -> None:
        if not self.trainer.sanity_checking:
            self.events.append(event)

    @property
    def epoch(self) -> int:
        return self.trainer.current_epoch + 1

    @property
    def is_in_batch(self) -> bool:
        current = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return current.ready > current.processed

    def kept(self) -> list[tuple[Any, ...]]:
        events = list(self.events)
        if self.trainer.interrupted and self.untold == "validation":
            events.pop()  # Lightning does not call a hook again that has failed
        kinds = [event[0] for event in events]
        if self.is_in_batch and "batch" in kinds:
            del events[len(kinds) - 1 - kinds[::-1].index("batch") :]
        while events and events[-1][0] == "valid batch":
            events.pop()
        return events


class Before(L.Callback):
    """The first of the callbacks: what Lightning takes for done when any of them saves in the hook."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    def on_train_batch_end(self, *args: Any) -> None:
        self.witness.untold = "batch"

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.witness.note("validated")
            self.witness.untold = "validation"

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.witness.note("ended", self.witness.epoch)


class Beside(L.Callback):
    """Directly before the adapter: what the adapter is told."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.witness.note("epoch", self.witness.epoch)

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        self.witness.note("step", optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, *args: Any) -> None:
        self.witness.untold = ""

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.witness.note("valid", self.witness.epoch)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.witness.untold = ""


class Loader:
    """A loader that goes on after the last batch that was trained."""

    def __init__(self, witness: Witness, batches: list[Any]) -> None:
        self.witness = witness
        self.batches = batches
        self.start = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        for position in range(start, len(self.batches)):
            self.witness.note("batch", self.witness.epoch, position)
            yield self.batches[position]

    def state_dict(self) -> dict[str, int]:
        progress = self.witness.trainer.fit_loop.epoch_loop.batch_progress
        position = next((event[2] for event in reversed(self.witness.kept()) if event[0] == "batch"), -1) + 1
        is_cut = progress.is_last_batch and not self.witness.is_in_batch
        return {"start": 0 if is_cut else position % len(self.batches)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.start = state_dict["start"]


class Module(L.LightningModule):
    """A linear network in double precision, without random numbers, which keeps the witness."""

    def __init__(self, witness: Witness, scenario: Scenario) -> None:
        super().__init__()
        self.witness, self.scenario = witness, scenario
        self.network = nn.Linear(2, 1, dtype=torch.double)
        nn.init.constant_(self.network.weight, 0.5)
        nn.init.constant_(self.network.bias, 0.1)

    def setup(self, stage: str) -> None:
        self.witness.trainer = self.trainer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["witness"] = self.witness.kept()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.witness.events = [*checkpoint["witness"], ("resumed",)]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        if self.scenario.cut == (self.trainer.current_epoch + 1, round(batch[0, 0].item())):
            self.witness.note("cut")
            return -1
        return None

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor | None:
        if round(batch[0, 0].item()) in self.scenario.no_loss:
            return None
        loss = (self.network(batch) - 1).pow(2).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1)
        self.witness.note("loss", loss.item())
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        loss = (self.network(batch) - 2).pow(2).mean()
        self.log("val_loss", loss, batch_size=1)
        self.witness.note("valid batch", loss.item())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def tensor(position: int) -> torch.Tensor:
    return torch.tensor([[position, 1.0], [0.5, position / 10]], dtype=torch.double)


# --- a fit ------------------------------------------------------------------------------------------------------------


class Failure(Exception):
    pass


class Happening:
    """Saves and fails at the places of a scenario, in all the callbacks of a fit."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        self.calls: Counter[tuple[str, str]] = Counter()
        self.saved: list[str] = []

    def look(self, who: str, hook: str, trainer: L.Trainer) -> None:
        if trainer.sanity_checking:
            return
        self.calls[who, hook] += 1
        place = Place(who, hook, self.calls[who, hook])
        if place in self.scenario.saves:
            trainer.save_checkpoint(self.folder / f"{place}.ckpt", weights_only=False)
            self.saved.append(f"{place}.ckpt")
        if place == self.scenario.fails:
            raise Failure(str(place))


class Native(L.Callback):
    """A callback of Lightning before or behind the adapter."""

    def __init__(self, who: str, happening: Happening) -> None:
        def look(hook: str, trainer: L.Trainer, *args: Any) -> None:
            happening.look(who, hook, trainer)

        for place in (*happening.scenario.saves, happening.scenario.fails):
            if place is not None and place.who == who:
                setattr(self, place.hook, partial(look, place.hook))


class Own(CallbackSet):
    """A callback that saves, fails and stops in its stages."""

    reads_y_hats = False

    def __init__(self, happening: Happening, stop: tuple[str, int] | None) -> None:
        self.happening, self.stop = happening, stop
        places = [place for place in (*happening.scenario.saves, happening.scenario.fails) if place is not None]
        stages = {place.hook for place in places if place.who == "own"} | ({stop[0]} if stop else set())
        for stage in stages:
            setattr(self, stage, partial(self.look, stage))

    def look(self, stage: str) -> None:
        if self.stop == (stage, self.ctx.global_step):
            self.ctx.terminate = True
        self.happening.look("own", stage, self.ctx.trainer)


class Spy(StageLog):
    """The stages it came to are its state, and so go on in a resumed run."""

    def __init__(self) -> None:
        super().__init__("epoch", "global_step", stages=tuple(s for s in STAGES if s not in ("on_exit",)))
        self.is_loaded = False

    def state_dict(self) -> Any:
        return [list(row) for row in self.rows]

    def load_state_dict(self, state_dict: Any) -> None:
        self.rows = [tuple(row) for row in state_dict]
        self.is_loaded = True

    def record(self, stage: str) -> None:
        if self.is_loaded and stage != "on_begin":
            self.is_loaded = False
            if stage == "on_before_valid" and self.rows and self.rows[-1][0] in (*AGAIN, "before_valid"):
                while self.rows[-1][0] in AGAIN[2:]:
                    self.rows.pop()
                if self.rows[-1] == ("before_valid", self.ctx.epoch, self.ctx.global_step):
                    self.rows.pop()  # a validation that was interrupted runs all its stages again
            while stage not in ("on_batch_end", "on_valid_end") and self.rows and self.rows[-1][0] in AGAIN:
                self.rows.pop()  # of a batch or a validation that was under way, and comes again
        if stage != "on_begin":
            super().record(stage)


@dataclass
class Run:
    """What a fit, or several, came to."""

    events: list[tuple[Any, ...]]
    states: dict[str, Any]
    weights: list[torch.Tensor]
    saved: list[str] = field(default_factory=list)
    stopped: bool = False

    def rows(self, id: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.states.get(id, []) if row[0] not in ("begin", "end")]

    @property
    def history(self) -> list[tuple[Any, ...]]:
        state = self.states["history"]
        nothing = [None] * len(state["epoch"])
        return list(zip(*(state.get(name, nothing) for name in ("epoch", "train.loss", "valid.loss")), strict=True))


def fit(
    scenario: Scenario, folder: Path, ckpt: Path | None = None, *, happens: bool = True, adapter: bool = True
) -> Run:
    """A fit of a scenario: with what happens in it or undisturbed, with the adapter or without."""
    told = scenario if happens else replace(scenario, saves=(), fails=None)
    witness, happening = Witness(), Happening(told, folder)
    module = Module(witness, scenario)
    batches = [None if n in scenario.none else tensor(n) for n in range(scenario.batches)]
    callbacks = {"ahead": Spy(), "own": Own(happening, scenario.stop), "behind": Spy(), "history": "history"}
    lr = t_clbk("lr_step", step_size=1, gamma=0.5, id="lr")
    ours: Any = CallbackSetAdapter({**callbacks, "lr": lr}, terminate_at=scenario.terminate_at)
    bridge = ours if adapter else L.Callback()
    natives = [Before(witness), Native("before", happening), Beside(witness), bridge, Native("behind", happening)]
    if told.fails is not None:
        natives.insert(0 if scenario.exception_first else len(natives), OnExceptionCheckpoint(folder))
    trainer = quiet(
        callbacks=natives,
        enable_checkpointing=told.fails is not None,
        max_epochs=scenario.max_epochs,
        max_steps=scenario.max_steps,
        val_check_interval=scenario.val_check_interval,
        check_val_every_n_epoch=scenario.check_val_every_n_epoch,
        accumulate_grad_batches=scenario.accumulate,
        num_sanity_val_steps=scenario.sanity,
    )
    witness.trainer = trainer
    loaders: list[Any] = [Loader(witness, batches)]
    if scenario.valid:
        loaders.append(Batches([tensor(n) for n in range(scenario.valid)]))
    with suppress(Failure):
        trainer.fit(module, *loaders, ckpt_path=ckpt)
    saved = list(happening.saved)
    if (folder / "on_exception.ckpt").exists():
        saved.append("on_exception.ckpt")
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    return Run(witness.events, ours.states, weights, saved, ours.stopped_by is not None)
