"""The parts of one fit."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

from callbacksets.base import CallbackSet
from callbacksets.fit.accumulated import Accumulated
from callbacksets.fit.capture import Capture
from callbacksets.fit.context import ContextTorch
from callbacksets.fit.data import Data
from callbacksets.fit.dispatch import Dispatch
from callbacksets.fit.loop import Loop
from callbacksets.fit.module_hooks import ModuleHooks
from callbacksets.fit.publish import Publisher
from callbacksets.fit.reader import ScoreReader
from callbacksets.fit.step import Step
from callbacksets.scores import ById

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Parts:
    """What trains, where training is, and who does what. Whoever needs several of these parts gets them all."""

    def __init__(
        self,
        trainer: "Trainer",
        module: "LightningModule",
        sets: Mapping[str, CallbackSet],
        *,
        terminate_at: Literal["epoch", "validation"] = "epoch",
        random_state: bool = True,
        **names: str | None,
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.sets = sets
        self.stops_at_validation: bool = terminate_at == "validation"
        self.loop: Loop = Loop()
        self.step: Step = Step()
        self.ctx: ContextTorch = ContextTorch(trainer, module, self.loop, self.step, ById(sets), **names)
        self.dispatch: Dispatch = Dispatch(trainer, sets, self.loop)
        self.reader: ScoreReader = ScoreReader(trainer)
        self.publisher: Publisher = Publisher(trainer, self.loop)
        self.capture: Capture = Capture(trainer, module, self.step)
        self.module_hooks: ModuleHooks = ModuleHooks(trainer, module, self.loop, self.step)
        self.data: Data = Data(trainer, random_state=random_state)
        self.taps: ExitStack = ExitStack()
        self.to_restore: Accumulated | None = None  # what had accumulated when the run was interrupted
