"""The bridge: one Lightning callback that runs CallbackSets. It reads in the order in which training runs."""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from callbacksets.base import CallbackSet
from callbacksets.checks import choice
from callbacksets.describe.plan import plan_as_html, plan_as_text
from callbacksets.describe.sources import generate, sources_by_id
from callbacksets.fit.context import NOTHING, ContextTorch, Loop, check_names, may_stop
from callbacksets.fit.handover import Handover, trains_in_child
from callbacksets.fit.lightning import callbacks_of
from callbacksets.fit.run import Run
from callbacksets.fit.shards import put_together
from callbacksets.fit.states import KEY, Saved, check_saved, counts_batch, restore_loop, starts_over
from callbacksets.fit.taps import WeightsBefore
from callbacksets.scores import Scores
from callbacksets.show.outcome import Outcome, outcome_as_html, outcome_as_text

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


@dataclass(frozen=True)
class StoppedBy:
    """Who stopped training through `ctx.terminate`, and when.

    Attributes:
        callback: The id of the callback; None for what was set outside of a callback or on another rank.
        stage: The stage in which it was set, `""` where that is unknown.
        epoch: The last epoch.
    """

    callback: str | None
    stage: str
    epoch: int

    def __str__(self) -> str:
        who = f"callback {self.callback!r}" if self.callback else "something outside of this rank's callbacks"
        where = f" in {self.stage}" if self.stage else ""
        return f"{who} set ctx.terminate{where}, epoch {self.epoch} was the last"


class AdapterHooks:
    """The adapter for the Trainer of either namespace, `lightning.pytorch` or `pytorch_lightning`."""

    state_key = KEY  # one name whatever the class, so that checkpoints move between them
    trainer_class: type = Trainer
    checkpoint_class: type = Checkpoint

    def __init__(
        self,
        callbacks: Any,
        *,
        network: str | None = None,
        loss_fn: str | None = None,
        terminate_at: Literal["epoch", "validation"] = "epoch",
    ) -> None:
        super().__init__()
        for argument, name in (("network", network), ("loss_fn", loss_fn)):
            if not (name is None or isinstance(name, str)):
                raise TypeError(f"Expected {argument} to be the name of an attribute of the module but got {name!r}.")
        self.callbacks = callbacks
        self.terminate_at = choice("terminate_at", terminate_at, ("epoch", "validation"))
        self._sources = sources_by_id(callbacks)
        self._names = {"network": network, "loss_fn": loss_fn}
        self._run: Run | None = None
        self._sets: dict[str, CallbackSet] = {}
        self._result: Saved | None = None
        self._weights_before: WeightsBefore | None = None
        self._stopped_by: StoppedBy | None = None
        self._outcome: Outcome | None = None
        self._handover = Handover()

    __init__.__qualname__ = "CallbackSetAdapter.__init__"  # which a misspelled argument is reported to be of

    @property
    def sets(self) -> Mapping[str, CallbackSet]:
        """The CallbackSets of this or the last fit by id, in the order in which they run."""
        return self._sets

    @property
    def states(self) -> dict[str, Any]:
        """The final state of each callback that has one, by id; what was there until then after a failure."""
        self._take_over()
        return self._states()

    def _states(self) -> dict[str, Any]:
        return {} if self._result is None else {id: saved["state"] for id, saved in self._result["callbacks"].items()}

    @property
    def ctx(self) -> ContextTorch | None:
        """The context during a fit."""
        return None if self._run is None else self._run.ctx

    @property
    def stopped_by(self) -> StoppedBy | None:
        """Who stopped the last fit through `ctx.terminate`, and when; None when it ended otherwise."""
        self._take_over()
        return self._stopped_by

    def _take_over(self) -> None:
        """Make what a fit in a child process has left our own."""
        if (left := self._handover.take()) is not None:
            self._result, self._stopped_by, self._outcome = left

    # --- before training ---------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: "LightningModule", stage: str) -> None:
        run = self._run
        if run is not None and run.trainer is not trainer and not run.trainer.interrupted:
            if stage != "fit":
                return  # within a fit, another Trainer with the same callbacks only looks
            raise RuntimeError(
                "This adapter is in the fit of another Trainer. Give the Trainer of the inner fit one of its own, with "
                "callbacks of its own: copy.deepcopy(adapter)."
            )
        self._exit()  # of a fit that was left without a word: another callback failed in its `on_exception`
        if self._weights_before is not None:
            self._weights_before.stop()
            self._weights_before = None
        if stage != "fit":
            return
        self._handover.take()  # what nobody has asked for
        self._result = self._stopped_by = self._outcome = None
        self._set_up_at = time.monotonic()
        if not isinstance(trainer, self.trainer_class):
            other = (
                "callbacksets"
                if "pytorch_lightning" in self.trainer_class.__module__
                else "callbacksets.pytorch_lightning"
            )
            raise TypeError(
                f"Expected a Trainer of {self.trainer_class.__module__.split('.trainer')[0]} but got one of "
                f"{type(trainer).__module__.split('.trainer')[0]}. For that: from {other} import CallbackSetAdapter."
            )
        adapters = [callback for callback in callbacks_of(trainer) if isinstance(callback, AdapterHooks)]
        if len(adapters) > 1:
            raise ValueError(
                f"The Trainer has {len(adapters)} adapters, each with an order and a state of its own. "
                "Give all callbacks to one: CallbackSetAdapter([...])."
            )
        self._sets = generate(self._sources)
        self._run = Run(trainer, pl_module, self._sets, **self._names)
        if trains_in_child(trainer):
            self._handover.at_end(self._exit)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        run = self._run
        if run is None or run.trainer is not trainer or run.loop.begun:
            return  # trainer.validate(ckpt_path=...), or a learning rate finder that restores what it has changed
        saved: Saved | None = checkpoint["callbacks"].get(KEY)
        if saved is not None and not saved["begun"]:
            return  # a tuner restores what it had saved before this fit began
        run.loop.resumed = True
        if saved is not None:
            check_saved(saved, run.sets)
            run.given = saved

    def on_fit_start(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        run = self._running()
        check_names(pl_module, **self._names)
        run.watch_network()  # before the sanity check may compile it

    def on_train_start(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        self._begin(self._running())

    def _begin(self, run: Run) -> None:
        loop = run.loop
        loop.epoch = run.trainer.current_epoch
        loop.global_step = run.trainer.fit_loop.total_batch_idx + 1
        loop.automatic = run.ctx.learner.automatic_optimization
        loop.epochs_processed = _epochs_processed(run.trainer)
        if run.given is not None and starts_over(loop, run.given["loop"]):
            rank_zero_warn(
                f"Lightning starts over, though the checkpoint was written after {run.given['loop']['global_step']} "
                "batches: a tuner among the callbacks, perhaps, has undone the resuming. So the callbacks start over "
                "as well. Tune before, and resume without it."
            )
            run.given, loop.resumed = None, False
        if run.given is not None:
            restore_loop(loop, run.given["loop"])
            if not run.given["exact"]:
                rank_zero_warn(
                    "The checkpoint was written after its fit had ended, when `exit` had changed the network (best "
                    "weights, perhaps). This run goes on from that network, not from where training was."
                )
        run.load_states()
        pending, loop.terminate = loop.terminate, False  # asked for before the checkpoint was written
        run.call("on_begin")
        asked, loop.terminate = loop.terminate, loop.terminate or pending
        loop.begun = True
        run.given = None  # all of it is with the callbacks now, and may be as large as the network
        run.check_stages()
        run.find_stages()
        run.watch_network()
        run.capture.watch_steps()
        run.capture.watch_saving(lambda: self._go_ahead(run))
        if loop.in_epoch:
            self._enter_epoch(run)  # the run is resumed inside of it
        elif loop.epoch_ends:
            self._leave_epoch(run)  # a callback has saved in `before_valid`, with which Lightning was done
        if not loop.in_epoch:
            self._stop_if_asked(run)
        elif self.terminate_at == "validation":
            self._stop_if_asked(run, asked)  # what is pending waits for the next validation, as it did then

    # --- an epoch of training ----------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        run = self._running()
        if run.loop.missed_epoch_begin:
            return  # the epoch had begun when the checkpoint was written, but not yet for Lightning
        if self._has_ended(run):
            return
        self._begin_epoch(run)

    def _begin_epoch(self, run: Run) -> None:
        run.reader.explain_late()
        run.loop.epochs_processed = _epochs_processed(run.trainer)
        run.loop.validated = False
        self._enter_epoch(run)
        run.find_stages()
        run.call("on_epoch_begin")

    def _enter_epoch(self, run: Run) -> None:
        loop = run.loop
        loop.epoch = run.trainer.current_epoch + 1
        loop.in_epoch = True
        loop.in_batch = False  # a module that skips the rest of an epoch leaves a batch without its end

    def on_train_batch_start(self, trainer: Trainer, pl_module: "LightningModule", batch: Any, batch_idx: int) -> None:
        run = self._running()
        loop = run.loop
        if not loop.in_epoch and batch_idx == 0:
            self._begin_epoch(run)  # a checkpoint of an epoch's last batch is resumed here, at the start of the next
        elif not loop.in_epoch:
            loop.missed_epoch_begin = True  # a checkpoint that did not know of us is resumed inside an epoch
            self._enter_epoch(run)
        loop.step = trainer.fit_loop.batch_idx + 1  # a module that takes the `dataloader_iter` gets no right batch_idx
        loop.global_step += 1
        loop.in_batch = True
        self._start_batch(run, "on_batch_begin", batch)

    def _start_batch(self, run: Run, stage: str, batch: Any) -> None:
        loop = run.loop
        loop.outputs = NOTHING
        loop.batch = batch
        loop.stepped = loop.exchanged = False
        loop.batch_open = True
        try:
            run.call(stage)
        finally:
            loop.batch_open = False

    def on_before_zero_grad(self, trainer: Trainer, pl_module: "LightningModule", optimizer: Optimizer) -> None:
        self._running().loop.backward = 0

    def on_after_backward(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        loop = self._running().loop
        loop.backward = loop.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: "LightningModule", optimizer: Optimizer) -> None:
        # Not Lightning's `on_after_backward`: there, gradients may still be incomplete or scaled.
        run = self._running()
        if run.has_stage("on_after_backward") and self._steps_on_gradients(run.loop, trainer):
            self._unscale(optimizer, trainer)
            run.loop.optimizer = optimizer
            try:
                run.call("on_after_backward")
            finally:
                run.loop.optimizer = None
        run.loop.backward = 0  # a step that comes without another backward call is not on gradients of its window

    def _steps_on_gradients(self, loop: Loop, trainer: Trainer) -> bool:
        """Lightning announces an optimizer step also when training_step() returned None."""
        if loop.backward == loop.global_step or not loop.automatic:
            return True
        # An earlier batch of the window may have left gradients. But a gradient scaler will not step on them.
        return loop.backward > 0 and _scaler(trainer) is None

    def _unscale(self, optimizer: Optimizer, trainer: Trainer) -> None:
        """What Lightning leaves to the step of a fused optimizer, which also takes gradients that are unscaled."""
        # by the same attribute, torch and Lightning tell which optimizers these are
        if (scaler := _scaler(trainer)) is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            with suppress(RuntimeError):  # the module, or another callback, has done it
                scaler.unscale_(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = self._running()
        if self._was_ahead(run, "on_train_batch_end"):
            return
        if not run.loop.in_batch:
            run.loop.global_step += 1  # a None batch counts, and has no stages
            return
        if not run.loop.exchanged:
            run.loop.batch = batch  # only now known, if the module takes the `dataloader_iter`
        self._end_batch(run)

    def _end_batch(self, run: Run) -> None:
        loop = run.loop
        loop.in_batch = False  # a run that ends from here on has done this batch
        if loop.loss_of_step is not None:
            loop.loss, loop.loss_of_step = loop.loss_of_step, None
        run.call("on_batch_end")

    # --- validation --------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if (run := self._training(trainer)) is None:
            return
        if self._has_validated(run.loop):
            run.loop.repeats_validation = True
            return
        self._enter_epoch(run)
        run.loop.validated = run.loop.in_validation = True
        self._before_valid(run, in_epoch=True)

    def _has_validated(self, loop: Loop) -> bool:
        """Lightning 2.4 validates once more what had been validated when the checkpoint was written."""
        return loop.resumed and loop.validated and loop.scores_valid is not None and loop.scored_at == loop.global_step

    def _before_valid(self, run: Run, *, in_epoch: bool = False) -> None:
        run.loop.scores_train = run.reader.train(in_epoch=in_epoch)
        run.loop.measures_train = run.reader.measures("train")
        run.loop.scored_at = run.loop.global_step
        run.call("on_before_valid")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: "LightningModule", batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if (run := self._training(trainer)) is not None:
            run.loop.step_valid = batch_idx + 1
            self._start_batch(run, "on_batch_valid_begin", batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: "LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if (run := self._training(trainer)) is not None:
            run.loop.step_valid = batch_idx + 1
            if not run.loop.exchanged:
                run.loop.batch = batch  # only now known, if the module takes the `dataloader_iter`
            run.call("on_batch_valid_end")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if (run := self._training(trainer)) is not None:
            run.loop.validation_ends = True

    def on_validation_end(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        if self._run is not None and trainer.sanity_checking:
            self._run.loop.measures_valid = self._run.reader.measures("valid")  # nothing more is known before `begin`
        if (run := self._training(trainer)) is not None:
            if not self._was_ahead(run, "on_validation_end"):
                self._end_validation(run)
            if self.terminate_at == "validation":
                self._stop_if_asked(run)
        elif self._run is not None:
            self._run.loop.repeats_validation = False

    def _end_validation(self, run: Run) -> None:
        run.loop.in_validation = run.loop.validation_ends = False
        run.loop.measures_valid = run.reader.measures("valid")
        run.loop.scores_valid = run.reader.valid()
        run.call("on_valid_end")

    # --- the end -----------------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        run = self._running()
        if self._has_ended(run):
            run.loop.in_epoch = run.loop.missed_epoch_begin = False  # Lightning may have trained one batch more
        elif not self._was_ahead(run, "on_train_epoch_end"):
            self._end_epoch(run)
        self._stop_if_asked(run)

    def _end_epoch(self, run: Run) -> None:
        loop = run.loop
        self._enter_epoch(run)
        if not loop.validated:
            loop.epoch_ends = True
            self._before_valid(run)
        elif loop.scored_at != loop.global_step:
            self._complete_train_scores(run)
        self._leave_epoch(run)

    def _leave_epoch(self, run: Run) -> None:
        loop = run.loop
        if not loop.validated:
            loop.scores_valid = None
        loop.in_epoch = loop.epoch_ends = False
        progress = run.trainer.fit_loop.epoch_loop.batch_progress
        loop.complete = progress.is_last_batch or progress.current.ready >= run.trainer.num_training_batches
        run.call("on_epoch_end")
        loop.missed_epoch_begin = False

    def _complete_train_scores(self, run: Run) -> None:
        """After a validation inside the epoch: its scores are computed anew, and what callbacks added to them stays."""
        before = run.ctx.last_scores_train or Scores()
        run.loop.scores_train = run.reader.train()
        run.loop.scored_at = run.loop.global_step
        if (scores := run.ctx.last_scores_train) is not None:
            computed = set(scores)
            scores.update({name: value for name, value in before.items() if name not in computed})

    def _stop_if_asked(self, run: Run, asked: bool | None = None) -> None:
        loop, trainer = run.loop, run.trainer
        asked = loop.terminate if asked is None else asked
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if not asked:
            return
        who = (loop.terminated_by if loop.terminate else None) or (None, "")
        loop.terminate = True
        if not may_stop(trainer, loop):
            return  # Lightning, once asked, would stop inside the epoch in which its minimum is met
        trainer.should_stop = loop.stops = True
        self._stopped_by = StoppedBy(*who, epoch=loop.epoch)

    def on_train_end(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        self._end(self._running())

    def _end(self, run: Run) -> None:
        run.reader.explain_late()
        run.call("on_end")
        run.result = run.save()
        if self._stopped_by is not None:
            rank_zero_info(f"Training stopped: {self._stopped_by}.")

    def on_fit_end(self, trainer: Trainer, pl_module: "LightningModule") -> None:
        run = self._running()
        if not run.loop.begun:
            # a fit that has nothing to train (max_epochs=0, a finished run resumed) comes here right away
            self._begin(run)
            self._end(run)

    def teardown(self, trainer: Trainer, pl_module: "LightningModule", stage: str) -> None:
        if stage == "fit":
            self._exit()

    def on_exception(self, trainer: Trainer, pl_module: "LightningModule", exception: BaseException) -> None:
        if self._run is None or self._run.trainer is not trainer:
            return
        weights = self._weights_to_save(self._run, pl_module)
        self._exit(exception)
        if weights is not None:
            self._weights_before = WeightsBefore(trainer, weights)

    def _weights_to_save(self, run: Run, pl_module: "LightningModule") -> dict[str, Any] | None:
        """A copy of the weights for what saves a checkpoint on the exception, behind us, when `exit` changed them."""
        trainer = run.trainer
        saves = any(
            isinstance(other, self.checkpoint_class) and getattr(other, "save_on_exception", True)
            for other in callbacks_of(trainer)
        )
        # of a sharded module no rank alone has them, and the others may be gone
        whole = trainer.world_size == 1 or "DDP" in type(trainer.strategy).__name__
        if not (saves and whole and run.has_stage("on_exit")):
            return None
        weights = pl_module.state_dict()
        for name, value in weights.items():
            weights[name] = value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
        return weights

    def _exit(self, error: BaseException | None = None) -> None:
        run = self._run
        if run is not None:
            try:
                run.exit(error)
            finally:
                self._run, self._result = None, run.result
                seconds = time.monotonic() - self._set_up_at
                self._outcome = Outcome(run.loop.epoch, seconds, type(error).__name__ if error else None)
                if run.trainer.is_global_zero and trains_in_child(run.trainer):
                    self._handover.give((self._result, self._stopped_by, self._outcome))

    # --- checkpoints, and other things that Lightning does with callbacks --------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        # Not `state_dict`: of two callbacks with one, Lightning refuses the second before `setup` can say what to do.
        saved = copy.deepcopy(self._result) if self._run is None else self._run.save()
        if saved is None:
            return
        if self._weights_before is not None and self._weights_before.are_saved():
            saved["exact"] = True
        checkpoint["callbacks"][KEY] = put_together(saved, keep=trainer.is_global_zero)

    def _go_ahead(self, run: Run) -> None:
        """A callback before us saves, and Lightning counts what ends as done: end it now, as a resumed run will not."""
        loop = run.loop
        if loop.caller is not None or run.trainer.interrupted:
            return  # one of ours saves, or what ends has failed
        # the epoch first: one that a module cuts short leaves its last batch open
        epoch_ends = _epochs_processed(run.trainer) > loop.epochs_processed and not self._has_ended(run)
        if loop.in_epoch and epoch_ends:
            loop.ahead, end = "on_train_epoch_end", self._end_epoch
        elif loop.validation_ends and run.reader.validation_is_over():
            loop.ahead, end = "on_validation_end", self._end_validation
        elif loop.in_batch and counts_batch(run.trainer):
            loop.ahead, end = "on_train_batch_end", self._end_batch
        else:
            return
        end(run)

    def _has_ended(self, run: Run) -> bool:
        """Whether the epoch of Lightning had ended when the checkpoint was written that this run continues."""
        return run.loop.ended_epoch == run.trainer.current_epoch + 1

    def _was_ahead(self, run: Run, hook: str) -> bool:
        """Whether what a hook is for was done before it came."""
        ahead, run.loop.ahead = run.loop.ahead, ""
        return ahead == hook

    def _running(self) -> Run:
        run = self._run
        assert run is not None, "a Trainer calls setup() first"
        return run

    def _training(self, trainer: Trainer) -> Run | None:
        """The run, unless this is the sanity check, a validation made once more, or trainer.validate()."""
        run = self._run
        if run is None or run.trainer is not trainer or not run.loop.begun or run.loop.repeats_validation:
            return None
        return run

    def __repr__(self) -> str:
        return self._shown(plan_as_text, outcome_as_text)

    def _repr_html_(self) -> str:
        self._take_over()  # not in `__repr__`: a Trainer that is made looks at that
        return self._shown(plan_as_html, outcome_as_html)

    def _shown(self, plan: Callable[..., str], outcome: Callable[..., str]) -> str:
        """After a fit what came of it, else what is going to be done."""
        name = type(self).__name__
        if self._run is not None or self._outcome is None:
            return plan(name, self._sources)
        return outcome(name, self._outcome, self._sets or self._sources, self._states(), self._stopped_by)

    def __getstate__(self) -> dict[str, Any]:
        # Lightning binds the module's `log` and `log_dict` to its callbacks: a copy would drag the module along
        state = {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")}
        return state | {"_run": None, "_weights_before": None}


def _epochs_processed(trainer: Trainer) -> int:
    """How many epochs Lightning counts as done, that of which the last hooks are still running included."""
    progress: Any = trainer.fit_loop.epoch_progress
    return int(progress.total.processed)


def _scaler(trainer: Trainer) -> Any:
    """The gradient scaler of 16-mixed precision."""
    return getattr(trainer.precision_plugin, "scaler", None)


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

    It belongs last among the Trainer's callbacks: what stands behind it acts after `epoch_end`. It can be used for
    several fits, one after the other. An instance is used as it is; of all else a callback is made anew for every fit.

    Args:
        callbacks: One of, a list of, or a mapping id -> a `CallbackSet` instance or class, a `TorchCallback`, or a key
            of the dictionary; in a list or as a mapping's value also `{key: {values}}`, as a YAML file has it.
        network: The name of the module's submodule that is `ctx.network`, and whose output is `ctx.y_hats`; by
            default its attribute `network`, else the module itself.
        loss_fn: The name of the module's attribute that is `ctx.loss_fn`; by default `loss_fn` or `criterion`.
        terminate_at: When `ctx.terminate` is looked at: `"epoch"`, when an epoch ends; `"validation"`, also after
            each validation, for training that counts steps in one long epoch.

    Raises:
        KeyError: For a string that is no key of the dictionary.
        TypeError: For what is no callback, or the wrong kind of argument.
        ValueError: When two callbacks have the same id, one instance has two, or `terminate_at` is none of the two.
        AttributeError: In a fit, when the module has no `network` or `loss_fn` of that name.

    mlr3torch: the training loop of `LearnerTorch`.
    """
