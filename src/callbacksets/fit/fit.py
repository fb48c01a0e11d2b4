"""One fit: what is due at each moment of training, in the order in which training runs.

Lightning's hooks name the moments (see `callbacksets.adapter`). Each method does only what is due and not yet done.
So it is all the same whether a hook comes once, comes after its part was done early for a checkpoint, or comes again in
a run that was resumed.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from callbacksets.base import CallbackSet
from callbacksets.fit import lightning, resume, states
from callbacksets.fit.capture import Capture
from callbacksets.fit.context import ContextTorch
from callbacksets.fit.dispatch import Dispatch
from callbacksets.fit.fingerprint import fingerprint
from callbacksets.fit.gradients import Gradients
from callbacksets.fit.limits import may_stop
from callbacksets.fit.loop import NEVER, REOPENED, RESUMED, Loop, StoppedBy
from callbacksets.fit.plain import copied
from callbacksets.fit.publish import Publisher
from callbacksets.fit.random_state import RandomState
from callbacksets.fit.reader import ScoreReader
from callbacksets.fit.saving import Saving
from callbacksets.fit.states import Saved
from callbacksets.fit.step import Step
from callbacksets.scores import ById, Measures, Scores
from callbacksets.show.outcome import Outcome

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Fit:
    """What begins when the adapter is set up, and ends with the stage `exit`."""

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
        self.sets = sets
        self.loop: Loop = Loop()
        self.step: Step = Step()
        self.ctx: ContextTorch = ContextTorch(trainer, module, self.loop, self.step, ById(sets), **names)
        self.dispatch: Dispatch = Dispatch(trainer, sets, self.loop)
        self.reader: ScoreReader = ScoreReader(trainer)
        self.publisher: Publisher = Publisher(trainer, self.loop)
        self.capture: Capture = Capture(trainer, module, self.step)
        self.saving: Saving = Saving(trainer, module, self._end_before_save)
        self.given: Saved | None = None  # what the checkpoint that this fit continues has saved
        self.result: Saved | None = None  # what would be saved after the last stage of training
        self.warned: set[str] = set()
        self.stateless: set[str] = set()  # whose `state_dict` has failed
        self.stops_at_validation: bool = terminate_at == "validation"
        self._gradients: Gradients | None = None  # from `begin` on
        self._is_exact = True
        self._set_up_at = time.monotonic()
        self.random: RandomState | None = RandomState(self) if random_state else None
        self._taps = lightning.Taps(trainer.strategy)
        self._batches = lightning.batch_progress(trainer)
        self._epochs = lightning.epoch_progress(trainer)

    # --- before training ---------------------------------------------------------------------------------------------

    def set_up(self, leave: Callable[[BaseException], None]) -> None:
        """Give every callback its context.

        Args:
            leave: What is to be done at Lightning's last word on a failure, the strategy's `on_exception`. It follows
                those of the callbacks, and comes also where a tuner has put others in their place.
        """

        def tapped(on_exception: Callable[[BaseException], None]) -> Callable[[BaseException], None]:
            def watched(error: BaseException) -> None:
                leave(error)
                on_exception(error)

            return watched

        for id, callback in self.sets.items():
            if isinstance(callback.ctx, ContextTorch) and not callback.ctx.trainer.interrupted:
                raise RuntimeError(
                    f"Callback {id!r} is in another fit. Give each of two fits at a time a callback of its own: "
                    "a class or a descriptor makes one for every fit, and so does callback.clone(deep=True)."
                )
        self._taps.put("on_exception", tapped)  # the strategy's own, which follows those of the callbacks
        for id, callback in self.sets.items():
            if "ctx" in vars(callback):  # the instance has served a fit before
                self.dispatch.noting(callback.start_over, id, "start_over")
            callback.ctx = self.ctx

    def load(self, saved: Mapping[str, Any] | None) -> None:
        """Take what the checkpoint has of the run that this fit continues; None if it did not know of us."""
        if saved is not None and not saved["begun"]:
            return  # a tuner restores what it had saved before this fit began
        self.loop.resumed = True
        if saved is not None:
            given = states.read(saved)
            states.check_saved(given, self.sets, self.trainer.max_epochs)
            self.given = given
            if self.random is not None and given["random"] is not None:
                self.random.load(cast(list[Any], given["random"]))

    def start(self) -> None:
        """The strategy is set up, and nothing has been drawn for training."""
        if self.random is not None:
            self.random.begin_fit()
        self.watch_network()  # before the sanity check may compile it

    def watch_network(self) -> None:
        """Keep the outputs of what is the network now, if a callback may read them."""
        if any(callback.reads_y_hats for callback in self.sets.values()):
            self.capture.watch_network(self.ctx.network)

    def begin(self) -> None:
        """Training begins: states are loaded, and what the checkpoint's run has left undone is done."""
        self.loop.now = (self._epochs.current.completed, self._batches.total.processed)
        if self.random is not None:
            self.random.begin()
        if self.given is not None:
            resume.restore(self)
        self._load_states()
        pending, self.loop.terminate = self.loop.terminate, False  # asked for before the checkpoint was written
        self.dispatch.run("on_begin")
        asked, self.loop.terminate = self.loop.terminate, self.loop.terminate or pending
        self.dispatch.check_stages()
        self.dispatch.find_stages()
        self.watch_network()
        self.capture.watch_steps()
        self._gradients = Gradients(self.trainer, self.step)
        self.saving.watch()
        given, self.given = self.given, None  # all of it is with the callbacks now, and may be as large as the network
        goes_on_in_epoch = False
        if given is not None and given["loop"] is not None:
            goes_on_in_epoch = resume.catch_up(self, given["loop"])
        if self.random is not None:
            self.random.begun(goes_on_in_epoch=goes_on_in_epoch)
        if not self.loop.in_epoch:
            self._stop_if_asked()
        elif self.stops_at_validation:
            self._stop_if_asked(asked)  # what is pending waits for the next validation, as it did then

    def _load_states(self) -> None:
        given = self.given["callbacks"] if self.given is not None else {}
        for id, callback in self.sets.items():
            if id in given:
                load = partial(callback.load_state_dict, copied(given[id]["state"]))
                self.dispatch.noting(load, id, "load_state_dict")

    # --- an epoch of training ----------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """An epoch begins, unless it had begun when the checkpoint was written."""
        self._update_now()
        if self.loop.ran_in_epoch("on_epoch_begin") or self.loop.ran_in_epoch("on_epoch_end"):
            return
        self._open_epoch()

    def _open_epoch(self) -> None:
        if self.random is not None:
            self.random.begin_epoch()
        self.reader.explain_late()
        self.dispatch.find_stages()
        self.dispatch.run("on_epoch_begin")

    def begin_batch(self, batch: Any) -> None:
        """A training batch is on the device; the forward call comes next."""
        loop = self.loop
        loop.now = now = (self._epochs.current.completed + 1, self._batches.total.processed + 1)
        if loop.ran.get("on_epoch_begin", NEVER)[0] != now[0]:
            self._miss_epoch_begin()
        self._start_step("on_batch_begin", batch)

    def _miss_epoch_begin(self) -> None:
        """In a resumed run, Lightning may begin with a batch and leave out `on_train_epoch_start`."""
        loop, now = self.loop, self.loop.now
        if self._batches.current.ready > 1:
            loop.ran[RESUMED] = now  # the checkpoint did not know of us
            return
        loop.now = (now[0], now[1] - 1)
        self._open_epoch()
        loop.now = now

    def _start_step(self, stage: str, batch: Any) -> None:
        self.step.start(batch)
        try:
            self.dispatch.run(stage)
        finally:
            self.step.is_open = False

    def before_step(self, optimizer: Optimizer) -> None:
        """Gradients are complete: accumulated, synchronised, unscaled. The optimizer steps next.

        Not at Lightning's `on_after_backward`, where they may still be incomplete or scaled.
        """
        gradients = self._gradients
        if not (gradients and self.dispatch.has("on_after_backward") and self.loop.in_batch):
            return
        if not gradients.are_there(optimizer):
            return
        gradients.unscale(optimizer)
        self.step.optimizer = optimizer
        try:
            self.dispatch.run("on_after_backward")
        finally:
            self.step.optimizer = None

    def end_batch(self, batch: Any) -> None:
        """The optimizer has stepped. A batch of None comes here too: it counts, and has no stages."""
        if not self.loop.in_batch:
            self._update_now()
            return
        self.step.see(batch)
        self._end_batch()

    def _end_batch(self) -> None:
        self.step.end()
        self.dispatch.run("on_batch_end")

    # --- validation --------------------------------------------------------------------------------------------------

    def begin_validation(self) -> None:
        """A validation begins. Lightning 2.4 repeats one that the checkpoint already has: then nothing is due."""
        if not self._trains():
            return
        self._update_now()
        if self.loop.ran_now("on_before_valid"):
            return
        modes = [(module, module.training) for module in self.ctx.learner.modules()]
        self._before_valid(in_epoch=True)
        for module, mode in modes:
            module.training = mode  # Lightning has set them before; a stage's modes are not for validation

    def _before_valid(self, *, in_epoch: bool = False) -> None:
        loop = self.loop
        if not self._scores_are_restored():
            loop.measures_train = self._measures("train")
            loop.scores_train = self.reader.train(in_epoch=in_epoch)
        self.dispatch.run("on_before_valid")
        self.publisher.train()

    def _scores_are_restored(self) -> bool:
        """Whether the training scores of this epoch are those of the checkpoint, after which no batch was trained."""
        loop = self.loop
        goes_on = loop.is_resumed_inside_epoch and "on_batch_begin" not in loop.ran
        return goes_on and (loop.ran_in_epoch("on_before_valid") or lightning.has_all_batches(self.trainer))

    def begin_valid_batch(self, batch: Any, batch_idx: int) -> None:
        """A validation batch is on the device."""
        if self._validates():
            self.step.valid = batch_idx + 1
            self._start_step("on_batch_valid_begin", batch)

    def end_valid_batch(self, batch: Any, batch_idx: int) -> None:
        """The validation step has run."""
        if self._validates():
            self.step.valid = batch_idx + 1
            self.step.see(batch)
            self.dispatch.run("on_batch_valid_end")

    def end_validation(self) -> None:
        """A validation has ended; so may training, if it stops at validations."""
        if self.trainer.sanity_checking:
            self.loop.measures_valid = self._measures("valid")  # nothing more is known before `begin`
        if not self._trains():
            return
        if self.loop.in_validation:
            self.loop.measures_valid = self._measures("valid")
            self.loop.scores_valid = self.reader.valid()
            self.dispatch.run("on_valid_end")
            self.publisher.valid()
        if self.stops_at_validation:
            self._stop_if_asked()

    def _measures(self, loop: str) -> Measures:
        measures, minimize = self.reader.measures(loop)
        self.loop.minimize |= minimize
        return measures

    def _trains(self) -> bool:
        return self.loop.begun and not self.trainer.sanity_checking

    def _validates(self) -> bool:
        return self._trains() and self.loop.in_validation

    # --- the end -----------------------------------------------------------------------------------------------------

    def end_epoch(self) -> None:
        """An epoch ends; so may training. With `max_steps`, Lightning may end the same epoch twice."""
        self._update_now()
        self.run_epoch_end()
        self._stop_if_asked()

    def run_epoch_end(self) -> None:
        """Run what is due at the end of an epoch."""
        loop = self.loop
        if loop.ran_in_epoch("on_epoch_end") or loop.ran_now(REOPENED):
            return
        if not loop.ran_in_epoch("on_valid_end"):
            if not loop.ran_now("on_before_valid"):
                self._before_valid()
            loop.scores_valid = None
        elif not loop.ran_now("on_before_valid"):
            self._complete_train_scores()
        self.dispatch.run("on_epoch_end")
        self.reader.explain_own()

    def _complete_train_scores(self) -> None:
        """After a validation inside the epoch: its scores are computed anew, and what callbacks added to them stays."""
        before = self.ctx.last_scores_train or Scores()
        self.loop.scores_train = self.reader.train()
        if (scores := self.ctx.last_scores_train) is not None:
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
        if may_stop(trainer, loop):  # else Lightning would stop inside the epoch in which its minimum is met
            trainer.should_stop = True
            loop.stopped_by = StoppedBy(*who, epoch=loop.now[0])

    def end(self) -> None:
        """Training has come to its end."""
        if self.loop.in_epoch:  # a checkpoint of the last step was resumed, and Lightning had nothing left to train
            self.run_epoch_end()
        self.reader.explain_late()
        self.dispatch.run("on_end")
        self.result = self.save()
        if self.loop.stopped_by is not None:
            rank_zero_info(f"Training stopped: {self.loop.stopped_by}.")

    def exit(self, error: BaseException | None = None) -> None:
        """Run the last stage, whatever happens in it, and let go of the callbacks.

        Raises:
            BaseException: The first that is raised here, unless one is under way already. It tells of the others.
        """
        failures: list[BaseException] = []
        ours = [id for id, callback in self.sets.items() if callback.ctx is self.ctx]
        try:
            if self.result is None:
                self.result = self.save(failures)
        except BaseException as failure:  # the callbacks must have their last stage nevertheless
            failures.append(failure)
        try:
            if self.loop.begun or self.trainer.interrupted:  # a tuner only sets up
                self._run_exit(failures, ours)
        finally:
            self.capture.stop()
            for id in ours:
                self.sets[id].ctx = None  # type: ignore[assignment]
        _raise_first(error, failures)

    def _run_exit(self, failures: list[BaseException], ids: list[str]) -> None:
        before = fingerprint(self.ctx.learner) if self.dispatch.has("on_exit") else None
        self.dispatch.find_stages()
        failures += self.dispatch.attempt("on_exit", ids)
        self._is_exact = before is None or fingerprint(self.ctx.learner) == before

    def outcome(self, error: BaseException | None) -> Outcome:
        """How the fit ended."""
        seconds = time.monotonic() - self._set_up_at
        return Outcome(self.loop.now[0], seconds, None if error is None else type(error).__name__)

    def release(self) -> None:
        """Let go of the Trainer. Called when no checkpoint needs the weights as they were before `exit` any more."""
        if self.result is not None:
            self.result["exact"] &= self._is_exact
        self.saving.stop()
        self._taps.remove()
        if self.random is not None:
            self.random.stop()

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def save(self, failures: list[BaseException] | None = None) -> Saved:
        """What a checkpoint written now keeps. See `callbacksets.fit.states`."""
        return states.save(self, failures)

    def _end_before_save(self) -> None:
        """Another callback saves in a hook whose stages have not run yet.

        Lightning will not make the hook again in a resumed run. So they run now.
        """
        if self.loop.caller is not None:
            return  # one of ours saves
        ends: dict[str | None, Callable[[], None]] = {
            "on_train_batch_end": self._end_batch_before_save,
            "on_validation_end": self.end_validation,
            "on_train_epoch_end": self.end_epoch,
        }
        if (end := ends.get(lightning.hook_under_way(self.trainer))) is not None:
            end()

    def _end_batch_before_save(self) -> None:
        if self.loop.in_batch:
            self._end_batch()
        else:
            self._update_now()

    def _update_now(self) -> None:
        """Take the moment from Lightning's counts."""
        total, current = self._batches.total, self._batches.current
        self.loop.now = (self._epochs.current.completed + 1, total.processed + (current.ready > current.processed))


def _raise_first(error: BaseException | None, failures: list[BaseException]) -> None:
    """Raise the first failure, unless an error is under way, and tell of the others in its notes."""
    first = error or (failures.pop(0) if failures else None)
    if first is None:
        return
    for failure in failures:
        notes = "; ".join(getattr(failure, "__notes__", ()))
        first.add_note(f"There was also {type(failure).__name__}: {failure} ({notes})")
    if error is None:
        raise first
