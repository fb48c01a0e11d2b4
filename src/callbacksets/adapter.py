"""The bridge: it turns Lightning's hooks into the moments of a fit, in the order in which training runs."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacksets.base import CallbackSet
from callbacksets.checks import choice, flag
from callbacksets.describe.command_line import from_configuration, reason_last
from callbacksets.describe.plan import plan_as_html, plan_as_text
from callbacksets.describe.sources import Callbacks, generate, sources_by_id
from callbacksets.fit.context import ContextTorch
from callbacksets.fit.fit import Fit
from callbacksets.fit.handover import Handover, Result, trains_in_child
from callbacksets.fit.lightning import callbacks_of, check_namespace, watch_training
from callbacksets.fit.loop import StoppedBy
from callbacksets.fit.named import check_names
from callbacksets.fit.plain import copied
from callbacksets.fit.resume import gathered
from callbacksets.fit.shards import put_together
from callbacksets.fit.states import KEY, Saved
from callbacksets.scores import ById
from callbacksets.show.outcome import outcome_as_html, outcome_as_text

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


_BOUND = ("log", "log_dict")
"""Methods of the module that Lightning sets on its callbacks. They would keep the module alive, also in each copy."""


class AdapterHooks:
    """The adapter for the Trainer of either namespace, `lightning.pytorch` or `pytorch_lightning`."""

    state_key = KEY  # one name whatever the class, so that checkpoints move between them
    trainer_class: type = Trainer
    checkpoint_class: type = Checkpoint

    def __init__(
        self,
        callbacks: Callbacks,
        *,
        network: str | None = None,
        loss_fn: str | None = None,
        terminate_at: Literal["epoch", "validation"] = "epoch",
        random_state: bool = True,
    ) -> None:
        super().__init__()
        for argument, name in (("network", network), ("loss_fn", loss_fn)):
            if not (name is None or isinstance(name, str)):
                raise TypeError(f"Expected {argument} to be the name of an attribute of the module but got {name!r}.")
        with reason_last(callbacks):
            self.callbacks: Callbacks = from_configuration(callbacks)
            self._sources = sources_by_id(self.callbacks)
        self.terminate_at: Any = choice("terminate_at", terminate_at, ("epoch", "validation"))
        self.random_state: bool = flag("random_state", random_state)
        self._names = {"network": network, "loss_fn": loss_fn}
        self._fit: Fit | None = None
        self._left: Fit | None = None  # after a failure, until nobody saves its weights any more
        self._sets: dict[str, CallbackSet] = {}
        self._result = Result()
        self._handover = Handover()

    __init__.__qualname__ = "CallbackSetAdapter.__init__"  # Python names it when an argument is misspelled

    @property
    def sets(self) -> Mapping[str, Any]:
        """The CallbackSets of the current or last fit by id, in the order in which they run."""
        return self._sets

    @property
    def states(self) -> dict[str, Any]:
        """The final state of each callback that has one, by id. After a failure, the states at that moment."""
        self._take_over()
        return self._states()

    def _states(self) -> dict[str, Any]:
        saved = {} if self._result.saved is None else self._result.saved["callbacks"]
        return ById({id: one["state"] for id, one in saved.items()})

    @property
    def ctx(self) -> ContextTorch | None:
        """The context during a fit; None outside of a fit."""
        return None if self._fit is None else self._fit.ctx

    @property
    def stopped_by(self) -> StoppedBy | None:
        """Who stopped the last fit through `ctx.terminate`, and when; None if nobody did."""
        self._take_over()
        return self._result.stopped_by if self._fit is None else self._fit.loop.stopped_by

    # --- before training ---------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: "LightningModule", stage: str) -> None:
        fit = self._fit
        if fit is not None and fit.trainer is not trainer and not fit.trainer.interrupted:
            if stage != "fit":
                return  # within a fit, another Trainer with the same callbacks may validate, test or predict
            raise RuntimeError(
                "This adapter is already in the fit of another Trainer. Give the inner Trainer its own adapter and "
                "callbacks: copy.deepcopy(adapter)."
            )
        self._exit()  # a fit whose end Lightning did not report: another callback failed in its `on_exception`
        self._release()
        if stage == "fit":
            self._set_up(trainer, pl_module)

    def _set_up(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        self._handover.take()  # the result of the fit before
        self._result = Result()
        self._check_trainer(trainer)
        self._sets = generate(self._sources)
        options: dict[str, Any] = self._names | {"terminate_at": self.terminate_at, "random_state": self.random_state}
        self._fit = Fit(trainer, pl_module, self._sets, **options)
        self._fit.set_up(leave=self._leave)
        if trains_in_child(trainer):
            watch_training(self._fit.taps, trainer, self._leave)
            self._handover.at_end(self._exit, gives=trainer.is_global_zero)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        if (fit := self._fit_of(trainer)) and not fit.loop.begun:  # after that, only a learning rate finder loads
            fit.load(checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if fit := self._fit_of(trainer):
            check_names(pl_module, **self._names)
            fit.watch_network()  # before the sanity check may compile it

    def on_train_start(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if fit := self._fit_of(trainer):
            fit.begin()

    # --- an epoch of training ----------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        (self._fit or self._missed()).begin_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: "LightningModule", batch: Any, batch_idx: int) -> None:
        (self._fit or self._missed()).begin_batch(batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: "LightningModule", optimizer: Any) -> None:
        if fit := self._fit:  # no other Trainer steps: it would need its own fit
            fit.before_step(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        (self._fit or self._missed()).end_batch(batch, outputs)

    # --- validation --------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if fit := self._fit_of(trainer):
            fit.begin_validation()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: "LightningModule", batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if fit := self._fit_of(trainer):
            fit.begin_valid_batch(batch, batch_idx, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: "LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if fit := self._fit_of(trainer):
            fit.end_valid_batch(batch, batch_idx, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if fit := self._fit_of(trainer):
            fit.end_validation()

    # --- the end -----------------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if fit := self._fit_of(trainer):
            fit.end_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if fit := self._fit_of(trainer):
            fit.end()

    def on_fit_end(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if (fit := self._fit_of(trainer)) and not fit.loop.begun:  # nothing to train: max_epochs=0, or a finished run
            fit.begin()
            fit.end()

    def teardown(self, trainer: Trainer, pl_module: "LightningModule", stage: str) -> None:
        if stage == "fit":
            self._exit()

    def on_exception(self, trainer: Trainer, pl_module: "LightningModule", exception: BaseException) -> None:
        if fit := self._fit_of(trainer):
            if fit.dispatch.has("on_exit"):
                fit.saving.keep_weights(self.checkpoint_class)
            self._exit(exception)

    # A fit is left in two steps: `_exit` runs `on_exit` and takes the result, `_release` lets go of the Trainer. After
    # a failure, the latter comes when Lightning has handled it (`_leave`): until then, others may save checkpoints.

    def _exit(self, error: BaseException | None = None) -> None:
        if (fit := self._fit) is None:
            return
        self._fit, self._left = None, fit
        failed = error
        try:
            fit.exit(error)
        except BaseException as failure:
            failed = failure
            raise
        finally:
            self._result = fit.result(failed)
            for bound in _BOUND:
                vars(self).pop(bound, None)
            if error is None:
                self._release()
            if fit.trainer.is_global_zero and trains_in_child(fit.trainer):
                self._handover.give(self._result)

    def _leave(self, error: BaseException) -> None:
        self._exit(error)
        self._release()

    def _release(self) -> None:
        left, self._left = self._left, None
        if left is not None and not left.release() and self._result.saved is not None:
            self._result.saved["exact"] = False

    # --- checkpoints, and other things that Lightning does with callbacks --------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        # Not `state_dict`: Lightning refuses a second adapter with a state before `setup` can say what to do.
        self._take_over()
        if self._fit is not None:
            saved: Saved | None = self._fit.save()
            self._fit.data.pass_on(checkpoint)
        else:
            saved = copied(self._result.saved) if self._left is None else self._left.save_in_exit()
        if saved is not None:
            saved["ranks"] = gathered(trainer, saved["ranks"])
            checkpoint["callbacks"][KEY] = put_together(saved, keep=trainer.is_global_zero)

    def _missed(self) -> Fit:
        """Refuse to run in the middle of a fit whose set-up this adapter has missed."""
        raise RuntimeError(
            "This adapter was added to trainer.callbacks too late, after the set-up of the fit. Pass it when you make "
            "the Trainer: Trainer(callbacks=[adapter])."
        )

    def _fit_of(self, trainer: Trainer) -> Fit | None:
        """The fit of this Trainer. There is none in trainer.validate(), or if the fit belongs to another Trainer."""
        fit = self._fit
        return fit if fit is not None and fit.trainer is trainer else None

    def _take_over(self) -> None:
        """Take over the result of a fit that ran in a child process."""
        if (left := self._handover.take()) is not None:
            self._result = left

    def _check_trainer(self, trainer: Trainer) -> None:
        check_namespace(trainer, self.trainer_class)
        adapters = [callback for callback in callbacks_of(trainer) if isinstance(callback, AdapterHooks)]
        if len(adapters) > 1:
            raise ValueError(
                f"The Trainer has {len(adapters)} CallbackSetAdapters, but one must run all callbacks in order. "
                "Give all callbacks to one adapter: CallbackSetAdapter([...])."
            )

    def __repr__(self) -> str:
        return self._shown(plan_as_text, outcome_as_text)

    def _repr_html_(self) -> str:
        self._take_over()  # not in `__repr__`: a Trainer calls that when it is made
        return self._shown(plan_as_html, outcome_as_html)

    def _shown(self, plan: Callable[..., str], outcome: Callable[..., str]) -> str:
        """After a fit, its outcome; before and during a fit, the plan."""
        name = type(self).__name__
        if self._fit is not None or self._result.outcome is None:
            return plan(name, self._sources)
        sets = self._sets or self._sources
        return outcome(name, self._result.outcome, sets, self._states(), self._result.stopped_by)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _BOUND} | {"_fit": None, "_left": None}


class CallbackSetAdapter(AdapterHooks, Callback):
    """Runs CallbackSets in a Lightning Trainer.

    Example:
        >>> import lightning as L
        >>> from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory
        >>> class CallbackSetHello(CallbackSet):
        ...     def on_begin(self):
        ...         print("hello")
        >>> adapter = CallbackSetAdapter([CallbackSetHistory(), CallbackSetHello()])
        >>> trainer = L.Trainer(callbacks=[adapter], logger=False, enable_progress_bar=False)  # doctest: +SKIP
        >>> trainer.fit(module, train_loader, valid_loader)  # doctest: +SKIP
        >>> adapter.states["history"]  # doctest: +SKIP
        {"epoch": [1, 2, ...], "train.loss": [...], "valid.loss": [...]}

    Put the adapter last among the Trainer's callbacks: a callback behind it acts after `on_epoch_end`. The adapter can
    be used for several fits, one after the other. Every fit uses a given instance as it is, and makes a new callback
    from a class, a key or a descriptor.

    Args:
        callbacks: One callback, a list of callbacks, or a mapping of ids to callbacks. Each is a `CallbackSet`
            instance or class, a `TorchCallback`, or a key of the dictionary. Inside a list or mapping it can also be a
            key with values, as in a YAML file: `{"early_stopping": {"patience": 5}}`.
        network: The name of the submodule that becomes `ctx.network`. Its output becomes `ctx.y_hats`. By default the
            module's attribute `network`, else the module itself.
        loss_fn: The name of the module's attribute that becomes `ctx.loss_fn`; by default `loss_fn` or `criterion`.
        terminate_at: When the adapter checks `ctx.terminate`. `"epoch"`: at the end of each epoch. `"validation"`:
            also after each validation, for training that counts steps in one long epoch.
        random_state: Whether checkpoints keep the random states of Python, NumPy, torch and the devices, for every
            rank. A resumed run then draws the same data order and the same dropout as an uninterrupted one.

    Raises:
        KeyError: If a string is not a key of the dictionary.
        TypeError: If something is not a callback, or an argument has the wrong type.
        ValueError: If two callbacks have the same id, one instance is given twice, or `terminate_at` is unknown.
        AttributeError: In a fit, if the module has no attribute with the name given as `network` or `loss_fn`.

    mlr3torch: the training loop of `LearnerTorch`.
    """
