"""One fit: what to do at each moment of training, in the order in which training runs.

Lightning's hooks name the moments (see `callbacksets.adapter`). Each method does only what has not been done yet. So it
makes no difference whether a hook is called once, is called after its work was already done for a checkpoint, or is
called again in a resumed run. The exception is the beginning of a batch or a validation, which is repeated as a whole.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer

from callbacksets.fit import lightning, states
from callbacksets.fit.context import ContextTorch
from callbacksets.fit.fingerprint import fingerprint
from callbacksets.fit.gradients import Gradients
from callbacksets.fit.handover import Result
from callbacksets.fit.limits import may_stop
from callbacksets.fit.loop import StoppedBy
from callbacksets.fit.parts import Parts
from callbacksets.fit.plain import copied
from callbacksets.fit.position import NOT_REPEATED
from callbacksets.fit.reader import Later
from callbacksets.fit.resume import Resume
from callbacksets.fit.saving import Saving
from callbacksets.fit.states import KEY, Saved
from callbacksets.scores import Measures, Scores
from callbacksets.show.outcome import Outcome


class Fit(Parts):
    """One fit, from the set-up of the adapter to the stage `on_exit`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.saving: Saving = Saving(self)
        self.given: Saved | None = None  # our part of the checkpoint that this fit resumes, until the callbacks have it
        self.saved: Saved | None = None  # what a checkpoint after the last stage of training would keep
        self._resume: Resume | None = None
        self._gradients: Gradients | None = None  # set by `begin`
        self._weights: list[Any] | None = None  # their fingerprint from before `on_exit`
        self._is_exact = True
        self._validates_first = False
        self._set_up_at = time.monotonic()
        self._batches = lightning.batch_progress(self.trainer)
        self._epochs = lightning.epoch_progress(self.trainer)

    # --- before training ---------------------------------------------------------------------------------------------

    def set_up(self, leave: Callable[[BaseException], None]) -> None:
        """Give every callback its context.

        Args:
            leave: A function to call when Lightning has handled a failure: in the strategy's `on_exception`. This runs
                after that of the callbacks, and also if a tuner has replaced the callbacks.
        """

        def on_exception(handle: Callable[[BaseException], None], error: BaseException) -> None:
            leave(error)
            handle(error)

        def guarded(handle: Callable[..., None], trainer: Any, module: Any, error: BaseException) -> None:
            try:
                handle(trainer, module, error)
            except BaseException:
                leave(error)  # Lightning calls nothing else after this
                raise

        for id, callback in self.sets.items():
            if isinstance(callback.ctx, ContextTorch) and not callback.ctx.trainer.interrupted:
                raise RuntimeError(
                    f"Callback {id!r} is already in another fit. Two fits at the same time need different callbacks. "
                    "Give a class or a descriptor, which makes a callback for every fit, or callback.clone(deep=True)."
                )
        lightning.tap(self.taps, self.trainer.strategy, "on_exception", on_exception)
        for native in lightning.callbacks_of(self.trainer):
            lightning.tap(self.taps, native, "on_exception", guarded)
        self.taps.callback(self.capture.let_go)
        self.module_hooks.watch(self.taps)
        self.data.watch(self.taps)
        self.saving.watch(self._end_before_save)
        for id, callback in self.sets.items():
            if "ctx" in vars(callback):  # the instance was in an earlier fit
                self.dispatch.noting(callback.start_over, id, "start_over")
            callback.ctx = self.ctx

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take the checkpoint that this fit resumes. It may have been written without the adapter."""
        saved = checkpoint["callbacks"].get(KEY)
        if self.given is not None or (saved is not None and not saved["begun"]):
            return  # a tuner restores a checkpoint that it saved before this fit began
        self.loop.resumed = True
        if saved is not None:
            given = states.read(saved)
            ended = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]
            states.check_saved(given, self.sets, self.trainer.max_epochs, ended)
            self.given = given
            if given["loop"] is not None:
                self._resume = Resume(self, given, checkpoint)

    def watch_network(self) -> None:
        """Keep the outputs of the current network, if a callback may read them."""
        if any(callback.reads_y_hats for callback in self.sets.values()):
            self.capture.watch_network(self.ctx.network)

    def begin(self) -> None:
        """Training begins: load the states, run `on_begin`, and finish what the resumed run had left undone."""
        loop = self.loop
        if loop.begun:
            return
        loop.now = (self._epochs.current.completed, self._batches.total.processed)
        resume, self._resume = self._resume, None
        if resume is not None and not resume.restore():
            self.given, resume, loop.resumed = None, None, False
        self._load_states()
        lightning.forget_sanity_check(self.trainer)
        pending, loop.terminate = loop.terminate, False  # set before the checkpoint was written
        self.dispatch.run("on_begin")
        asked, loop.terminate = loop.terminate, loop.terminate or pending
        self.dispatch.check_stages()
        self.dispatch.find_stages()
        self.watch_network()
        self.capture.watch_steps(self.taps)
        self._gradients = Gradients(self.trainer, self.step)
        self.given = None  # the callbacks have it now, and it may be as large as the network
        if resume is not None:
            resume.go_on()
            self._validates_first = resume.validates
            if resume.unread is not None and loop.in_epoch and self.trainer.world_size == 1:
                loop.scores_train = self.reader.later(resume.unread)
        elif loop.resumed and self._epochs.total.started > self._epochs.total.processed:  # 2.4 has reset `current`
            self._go_on_in_epoch()
        if not loop.in_epoch:
            self._stop_if_asked()
        elif self.stops_at_validation:
            self._stop_if_asked(asked)  # a pending stop waits for the next validation, as in the resumed run

    def _go_on_in_epoch(self) -> None:
        """Lightning goes on inside an epoch. The checkpoint was written without the adapter."""
        loop = self.loop
        loop.resumed_in = self._epochs.current.completed + 1
        loop.now = loop.ran["on_epoch_begin"] = (loop.resumed_in, loop.now[1])

    def _load_states(self) -> None:
        given = self.given["callbacks"] if self.given is not None else {}
        for id, callback in self.sets.items():
            if id in given:
                load = partial(callback.load_state_dict, copied(given[id]["state"]))
                self.dispatch.noting(load, id, "load_state_dict")

    # --- an epoch of training ----------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """An epoch begins, unless it had already begun when the checkpoint was written."""
        self._update_now()
        if self.loop.ran_in_epoch("on_epoch_begin") or self.loop.ran_in_epoch("on_epoch_end"):
            return
        self.reader.explain_late()
        self.dispatch.find_stages()
        self.dispatch.run("on_epoch_begin")

    def begin_batch(self, batch: Any) -> None:
        """A training batch is on the device; the forward call comes next."""
        self.loop.now = (self._epochs.current.completed + 1, self._batches.total.processed + 1)
        self.step.start(batch)
        self.dispatch.run("on_batch_begin")

    def before_step(self, optimizer: Optimizer) -> None:
        """Gradients are complete: accumulated, synchronised, unscaled. The optimizer steps next.

        This is not Lightning's `on_after_backward`, where they may still be incomplete or scaled.
        """
        gradients = self._gradients
        if not (gradients and self.dispatch.has("on_after_backward") and self.loop.in_batch):
            return
        if gradients.are_there(optimizer):
            if gradients.scaler is not None:
                gradients.unscale(optimizer)
            self.step.optimizer = optimizer
            self.dispatch.run("on_after_backward")

    def end_batch(self, batch: Any, returned: Any = None) -> None:
        """The optimizer has stepped. A batch of None is counted here too, but has no stages."""
        if not self.loop.in_batch:
            self._update_now()
            return
        self.step.end(batch, returned)
        self.dispatch.run("on_batch_end")

    # --- validation --------------------------------------------------------------------------------------------------

    def begin_validation(self) -> None:
        """A validation begins."""
        if not self.loop.begun:  # the sanity check
            return
        self._update_now()
        modes = [(module, module.training) for module in self.ctx.learner.modules()]
        self._before_valid(in_epoch=True)
        for module, mode in modes:
            module.training = mode  # Lightning has already set the modes; a stage must not change them for validation

    def _before_valid(self, *, in_epoch: bool = False) -> None:
        self.loop.measures_train = self._measures("train")
        self.loop.scores_train = self.reader.train_scores(in_epoch=in_epoch)
        self.dispatch.run("on_before_valid")
        self.publisher.train_scores()

    def begin_valid_batch(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """A validation batch is on the device. A batch of None has no stages."""
        if self.loop.in_validation and batch is not None:
            self.step.valid, self.step.loader = batch_idx + 1, dataloader_idx
            self.step.start(batch)
            self.dispatch.run("on_batch_valid_begin")

    def end_valid_batch(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """The validation step has run."""
        if self.loop.in_validation and batch is not None:
            self.step.valid, self.step.loader = batch_idx + 1, dataloader_idx
            self.step.end(batch)
            self.dispatch.run("on_batch_valid_end")

    def end_validation(self) -> None:
        """A validation has ended. With `terminate_at="validation"`, training may stop here."""
        if not self.loop.begun:  # the sanity check, which tells the measures, but no scores
            self.loop.measures_valid = self._measures("valid")
            return
        if self.loop.in_validation:
            self.loop.measures_valid = self._measures("valid")
            self.loop.scores_valid = self.reader.valid_scores()
            self.dispatch.run("on_valid_end")
            self.publisher.valid_scores()
        if self.stops_at_validation:
            self._stop_if_asked()

    def _measures(self, loop: str) -> Measures:
        measures, minimize = self.reader.measures(loop)
        self.loop.minimize |= minimize
        return measures

    # --- the end -----------------------------------------------------------------------------------------------------

    def end_epoch(self) -> None:
        """An epoch ends, and training may stop here. With `max_steps`, Lightning may end the same epoch twice."""
        self._update_now()
        self.run_epoch_end()
        self._stop_if_asked()

    def run_epoch_end(self) -> None:
        """Run the stages at the end of an epoch that have not run yet."""
        loop = self.loop
        if loop.ran_in_epoch("on_epoch_end"):
            return
        self._explain_short_epoch()
        if not loop.ran_in_epoch("on_valid_end"):
            if not loop.ran_now("on_before_valid"):
                self._before_valid()
            loop.scores_valid = None
        elif not loop.ran_now("on_before_valid"):
            self._complete_train_scores()
        elif isinstance(loop.scores_train, Later):  # Lightning forgets the values when the epoch has ended
            loop.scores_train = self.reader.train_scores(keys=loop.scores_train.keys)
        self.dispatch.run("on_epoch_end")
        self.publisher.changed_train_scores()

    def _explain_short_epoch(self) -> None:
        """Warn if the loaders ran out before the resumed epoch was complete."""
        loop, trainer = self.loop, self.trainer
        if loop.resumed_in != loop.now[0] or lightning.has_all_batches(trainer) or trainer.should_stop:
            return
        trained, total = self._batches.current.ready, trainer.num_training_batches
        if total != float("inf") and trainer.fit_loop.epoch_loop.global_step != trainer.max_steps:
            rank_zero_warn(
                f"The epoch inside of which the run was resumed had only {trained} of {total} batches: the training "
                "loader did not go on where it was. So the results differ from those of an uninterrupted run."
            )

    def _complete_train_scores(self) -> None:
        """After a validation inside the epoch: compute the training scores again, and keep those of callbacks."""
        before, self.loop.scores_train = self.loop.scores_train, self.reader.train_scores()
        if isinstance(before, Scores) and (scores := self.ctx.last_scores_train) is not None:
            computed = set(scores)
            scores.update({name: value for name, value in before.items() if name not in computed})

    def _stop_if_asked(self, asked: bool | None = None) -> None:
        loop, trainer = self.loop, self.trainer
        asked = loop.terminate if asked is None else asked
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if not asked:
            return
        who = (loop.terminated_by if loop.terminate else None) or (None, "")
        loop.terminate = True
        if may_stop(trainer, loop):  # or Lightning would stop later, inside the epoch that reaches its minimum
            trainer.should_stop = True
            loop.stopped_by = StoppedBy(*who, epoch=loop.now[0])

    def end(self) -> None:
        """Training has ended normally."""
        if self.loop.in_epoch:  # a checkpoint of the last step was resumed, so Lightning had nothing left to train
            if self._validates_first:
                rank_zero_warn(
                    "The run had reached its last step, so Lightning trains nothing and leaves out the validation that "
                    "was due. To get it, set a higher max_steps, or call trainer.validate()."
                )
            self.run_epoch_end()
        self.reader.explain_late()
        self.dispatch.run("on_end")
        self.saved = self.save()
        if self.loop.stopped_by is not None:
            rank_zero_info(f"Training stopped: {self.loop.stopped_by}.")

    def exit(self, error: BaseException | None = None) -> None:
        """Run the last stage, even if it fails, and release the callbacks.

        Raises:
            BaseException: The first exception raised here, unless `error` is given. Its notes report the others.
        """
        failures: list[BaseException] = []
        ours = [id for id, callback in self.sets.items() if callback.ctx is self.ctx]
        try:
            if self.saved is None:
                self.saved = self.save(failures)
        except BaseException as failure:  # the callbacks must run their last stage nevertheless
            failures.append(failure)
        try:
            if self.loop.begun or error is not None or self.trainer.interrupted:  # a tuner only sets up
                self._run_exit(failures, ours)
        finally:
            for id in ours:
                self.sets[id].ctx = None  # type: ignore[assignment]
        _raise_first(error, failures)

    def _run_exit(self, failures: list[BaseException], ids: list[str]) -> None:
        self._weights = fingerprint(self.ctx.learner) if self.dispatch.has("on_exit") else None
        self.dispatch.find_stages()
        failures += self.dispatch.attempt("on_exit", ids)
        self._is_exact = self._has_weights_of_training()

    def _has_weights_of_training(self) -> bool:
        return self._weights is None or fingerprint(self.ctx.learner) == self._weights

    def result(self, error: BaseException | None) -> Result:
        """What the fit has come to."""
        seconds = time.monotonic() - self._set_up_at
        loop = self.loop
        # not ctx.minimize(), which reads scores: after a failure the device may not answer
        told = {name: loop.is_minimized(name) for name in (*loop.measures_valid, *loop.minimize)}
        minimize = {name: is_minimized for name, is_minimized in told.items() if is_minimized is not None}
        outcome = Outcome(loop.now[0], seconds, None if error is None else type(error).__name__, minimize)
        return Result(self.saved, loop.stopped_by, outcome)

    def release(self) -> bool:
        """Release the Trainer. Called when no checkpoint needs the weights from before `on_exit` any more.

        Returns:
            Whether the weights are still those from before `on_exit`.
        """
        self.taps.close()
        self.saving.weights = None
        return self._is_exact

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def save(self, failures: list[BaseException] | None = None) -> Saved:
        """What a checkpoint keeps that is written now. A run that has not begun passes on what it resumes."""
        if not self.loop.begun:
            return self.given or states.saved_now()
        return self.saving.save(self.given, failures)

    def save_in_exit(self) -> Saved | None:
        """What a checkpoint keeps that is written in `on_exit`, or later while an exception is handled."""
        saved: Saved | None = copied(self.saved)
        if saved is not None:
            saved["exact"] = self.saving.weights is not None or self._has_weights_of_training()
        return saved

    def _end_before_save(self) -> None:
        """A callback saves a checkpoint in a hook or stage that others have still to run: they and the module run it.

        In a resumed run, Lightning will not call this hook again.
        """
        if self.saved is not None:  # the fit has ended or failed: what had not run stays so
            return
        if self.loop.caller is not None:  # a CallbackSet saves the checkpoint
            if self.loop.stage == "on_valid_end" or (self.loop.stage in NOT_REPEATED and not self.trainer.validating):
                self.dispatch.finish()
                self.module_hooks.run_ahead(lightning.hook_under_way(self.trainer))
            return
        ends: dict[str | None, Callable[[], None]] = {
            "on_train_start": self.begin,
            "on_train_batch_end": partial(self.end_batch, self.step.batch),
            "on_validation_end": self.end_validation,
            "on_train_epoch_end": self.end_epoch,
        }
        hook = lightning.hook_under_way(self.trainer)
        if (end := ends.get(hook)) is not None:
            end()
            self.module_hooks.run_ahead(hook)

    def _update_now(self) -> None:
        """Set the moment from Lightning's counters."""
        total, current = self._batches.total, self._batches.current
        self.loop.now = (self._epochs.current.completed + 1, total.processed + (current.ready > current.processed))


def _raise_first(error: BaseException | None, failures: list[BaseException]) -> None:
    """Raise the first failure, unless an error is already being raised. Its notes report the other failures."""
    first = error or (failures.pop(0) if failures else None)
    if first is None:
        return
    for failure in failures:
        notes = "; ".join(getattr(failure, "__notes__", ()))
        first.add_note(f"There was also {type(failure).__name__}: {failure} ({notes})")
    if error is None:
        raise first
