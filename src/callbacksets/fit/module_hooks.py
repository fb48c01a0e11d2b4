"""The module's own hooks at the end of a batch, a validation and an epoch.

Lightning calls them behind those of callbacks. If a callback saves a checkpoint in its hook, that of the module runs
first, and Lightning's call does nothing: in the resumed run, Lightning would not call it.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from callbacksets.fit.lightning import overrides, tap
from callbacksets.fit.position import Moment
from callbacksets.fit.step import Step

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from callbacksets.fit.loop import Loop

_BATCH_END = "on_train_batch_end"


class ModuleHooks:
    """Lets the module's hooks run ahead of Lightning's call."""

    def __init__(self, trainer: "Trainer", module: "LightningModule", loop: "Loop", step: Step) -> None:
        self._trainer, self._module, self._loop, self._step = trainer, module, loop, step
        self._hooks: dict[str, Callable[..., None]] = {}
        self._ran: dict[str, Moment] = {}
        self._ahead: set[str] = set()

    def watch(self, taps: ExitStack) -> None:
        """Notice when Lightning calls the hooks that the module has."""
        for name in (_BATCH_END, "on_validation_end", "on_train_epoch_end"):
            if overrides(self._module, name):
                self._hooks[name] = getattr(self._module, name)
                tap(taps, self._module, name, partial(self._called, name))

    def _called(self, name: str, hook: Callable[..., None], *args: Any) -> None:
        if self._loop.stage:  # within a stage, another Trainer may validate the module
            hook(*args)
        elif name in self._ahead:
            self._ahead.remove(name)
        else:
            self._ran[name] = self._loop.now
            hook(*args)

    def run_ahead(self, name: str | None) -> None:
        """Run a hook of the module, if it has one and it has not run at this moment."""
        if name is None or name not in self._hooks or self._ran.get(name) == self._loop.now:
            return
        self._ran[name] = self._loop.now
        self._ahead.add(name)
        self._hooks[name](*(self._of_batch() if name == _BATCH_END else ()))

    def _of_batch(self) -> tuple[Any, Any, int]:
        """What Lightning gives the hook of a batch."""
        step, returned = self._step, self._step.returned
        if not self._loop.ran_now("on_batch_end"):  # a batch of None
            return None, None, self._trainer.fit_loop.batch_idx
        if returned is None:  # a callback in front of the adapter saves
            outputs = apply_to_collection(step.outputs, Tensor, Tensor.detach, allow_frozen=True)
            returned = dict(outputs) if isinstance(outputs, Mapping) else {"loss": outputs}
            if self._module.automatic_optimization and returned.get("loss") is not None:
                returned["loss"] = returned["loss"] / self._trainer.accumulate_grad_batches
        return returned, step.batch, self._trainer.fit_loop.batch_idx
