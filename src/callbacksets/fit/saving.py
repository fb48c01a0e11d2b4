"""What the checkpoints of a fit keep, and when: before one is saved, stages that are due run."""

import copy
from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacksets.fit import accumulated, lightning
from callbacksets.fit.accumulated import of_number
from callbacksets.fit.limits import may_stop
from callbacksets.fit.parts import Parts
from callbacksets.fit.plain import kept
from callbacksets.fit.position import KEPT, NOT_REPEATED
from callbacksets.fit.reader import Later
from callbacksets.fit.states import Saved, SavedLoop, SavedRank, SavedState, data_of, saved_now, saved_scores


class Saving:
    """Collects what a checkpoint of one fit keeps. It wraps the strategy's function that returns the weights.

    Lightning calls that function first when it saves a checkpoint. No hook announces one.
    """

    def __init__(self, fit: Parts) -> None:
        self._fit = fit
        self._warned: set[str] = set()
        self._updates: dict[str, int] = {}  # of the module's metrics, from before the validation under way
        self._stateless: set[str] = set()  # ids of callbacks whose `state_dict` has failed
        self.weights: dict[str, Any] | None = None
        """The weights from before `on_exit`, for a checkpoint that is saved while an exception is handled."""

    def watch(self, before: Callable[[], None]) -> None:
        """Notice every checkpoint from now on. Before one is saved, call the function."""

        def get(get_weights: Callable[[], dict[str, Any]]) -> dict[str, Any]:
            if self.weights is None:
                before()
            elif self._fit.trainer.interrupted:
                return copy.copy(self.weights)
            return get_weights()

        def validate(run: Callable[[], Any]) -> Any:
            self._updates = accumulated.updates(self._fit.module)
            return run()

        lightning.tap(self._fit.taps, self._fit.trainer.strategy, lightning.WEIGHTS, get)
        lightning.tap(self._fit.taps, lightning.validation_loop(self._fit.trainer), "run", validate)

    def keep_weights(self, checkpoint_class: type) -> None:
        """Keep a copy of the weights if a later callback will save them on the exception."""
        trainer = self._fit.trainer
        saves = any(
            isinstance(other, checkpoint_class) and getattr(other, "save_on_exception", True)
            for other in lightning.callbacks_of(trainer)
        )
        if saves and lightning.has_whole_weights(trainer):
            try:
                weights = self._fit.module.state_dict()  # it also carries the versions of the modules
                for name, value in weights.items():
                    weights[name] = value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
                self.weights = weights
            except Exception as error:  # it must not hide the user's own error
                rank_zero_warn(f"The weights from before on_exit could not be kept for a checkpoint: {error}")

    def save(self, given: Saved | None, failures: list[BaseException] | None = None) -> Saved:
        """What a checkpoint keeps that is saved now.

        A callback that has not begun is not asked for its state. Its loaded state is passed on.

        Args:
            given: What the fit was resumed from, until its callbacks have begun.
            failures: A list for the exceptions of states, so that a failing state does not prevent the others; None to
                raise them.
        """
        if self._has_batch_to_end():
            self._fit.step.end(self._fit.step.batch)
        saved = saved_now(begun=True)
        saved["callbacks"], saved["ids"] = self._states(given, failures), list(self._fit.sets)
        try:
            saved["loop"], saved["ranks"] = self._save_loop(), self._save_rank()
        except Exception as error:  # after a failure the device may not answer; the states are there nevertheless
            if failures is None:
                raise
            failures.append(error)
        return saved

    def _states(self, given: Saved | None, failures: list[BaseException] | None) -> dict[str, SavedState]:
        loop = self._fit.loop
        begins = loop.stage == "on_begin"
        waiting = [loop.caller, *self._fit.dispatch.to_come()] if begins and loop.caller is not None else []
        states: dict[str, SavedState] = {}
        for id, callback in self._fit.sets.items():
            if id in self._stateless:  # its state_dict() has failed before, and that was reported
                continue
            if id in waiting:  # it has not run on_begin yet
                states |= {id: given["callbacks"][id]} if given is not None and id in given["callbacks"] else {}
                continue
            try:
                state, unloadable = self._fit.dispatch.noting(lambda: kept(callback.state_dict()), id, "state_dict")  # noqa: B023
            except BaseException as error:
                self._stateless.add(id)
                if failures is None:
                    raise
                failures.append(error)
                continue
            if state is not None:
                states[id] = {"cls": type(callback).__name__, "state": state}
                self._warn_of_unloadable(id, unloadable)
        return states

    def _warn_of_unloadable(self, id: str, paths: list[str]) -> None:
        for path in paths:
            if f"{id}{path}" not in self._warned:
                self._warned.add(f"{id}{path}")
                rank_zero_warn(
                    f"The state of callback {id!r} has a value at {path} that torch.load(..., weights_only=True) "
                    "refuses, so a Trainer cannot resume from the checkpoint. Return only numbers, strings, tensors, "
                    "and lists, tuples, dicts and sets of these."
                )

    def _save_loop(self) -> SavedLoop:
        loop, ctx, trainer = self._fit.loop, self._fit.ctx, self._fit.trainer
        # a stop that was requested and has not happened yet; a stop that has happened does not concern a resumed run
        is_looked_at = not loop.in_epoch or (self._fit.stops_at_validation and loop.ran_now("on_valid_end"))
        pending = loop.terminate and loop.stopped_by is None and not (is_looked_at and may_stop(trainer, loop))
        batch = lightning.batch_progress(trainer).current
        return {
            "now": loop.now,
            "ran": {stage: loop.ran[stage] for stage in KEPT if stage in loop.ran},
            "to_come": self._to_come(),
            "validates": self._validates(),
            "rest": self._is_pending("rest")
            or batch.processed > batch.completed
            or loop.in_validation
            or bool(trainer.validating),
            "has_all": lightning.has_all_batches(trainer),
            "in_step": self._is_in_step(),
            "last_loss": ctx.last_loss,
            "terminate": pending,
            "terminated_by": loop.terminated_by,
            "scores_train": None if isinstance(loop.scores_train, Later) else saved_scores(ctx.last_scores_train),
            # nobody has read them: they are computed in the resumed run, if somebody reads them there
            "unread": sorted(loop.scores_train.keys) if isinstance(loop.scores_train, Later) else None,
            # an interrupted validation runs again, so the scores of the validation before do not count
            "scores_valid": None if loop.in_validation else saved_scores(ctx.last_scores_valid),
            # a resumed run has no sanity check from which to know the measures
            "minimize": dict(loop.minimize),
            "published": dict(self._fit.publisher.published),
            "reloads": lightning.last_reloads(trainer),
            "data": data_of(trainer, ctx.task_train, ctx.task_valid),
        }

    def _save_rank(self) -> SavedRank:
        fit, trainer, loop = self._fit, self._fit.trainer, self._fit.loop
        in_step = self._is_in_step()
        before = self._updates if trainer.validating and not loop.ran_now("on_valid_end") else None
        collected = fit.to_restore  # passed on, if the callbacks of a resumed run are still beginning
        is_inside = loop.in_epoch or collected is not None
        if collected is None:
            how: dict[str, Any] = {"in_epoch": loop.in_epoch, "in_step": in_step, "before": before}
            collected = accumulated.collect(trainer, fit.module, **how)
        return {
            "random": fit.data.save(validates=self._validates()),
            "ahead": fit.data.read_ahead(in_step=in_step) if is_inside else [],
            "accumulated": collected,
            "metrics": {name: of_number(value) for name, value in lightning.known_metrics(trainer).items()},
        }

    def _validates(self) -> bool:
        """Whether a validation is due, or under way."""
        trainer, loop = self._fit.trainer, self._fit.loop
        is_open = not lightning.is_processed(trainer)
        return not is_open and not loop.ran_now("on_valid_end") and lightning.validation_is_due(trainer)

    def _is_in_step(self) -> bool:
        """Whether the step of a batch has run, perhaps in part, and its end has not come."""
        step = self._fit.step
        if self._is_pending("step_again"):
            return True
        return (
            self._fit.loop.in_batch
            and not lightning.is_processed(self._fit.trainer)
            and (step.is_running or step.is_done)
        )

    def _is_pending(self, what: str) -> bool:
        """Whether a resumed run, which has not gone on yet, has this before it."""
        return self._fit.data.pending is not None and getattr(self._fit.data.pending, what)

    def _to_come(self) -> tuple[str, list[str]]:
        """The stage that a resumed run has to finish, and the callbacks that have not run it."""
        if self._has_batch_to_end():
            return "on_batch_end", list(self._fit.sets)
        stage = self._fit.loop.stage
        return (stage, self._fit.dispatch.to_come()) if stage in NOT_REPEATED else ("", [])

    def _has_batch_to_end(self) -> bool:
        """Whether a batch was trained but its end is missing, because another Lightning callback failed there."""
        loop = self._fit.loop
        if not loop.in_batch or loop.ran_now("on_before_valid") or loop.ran_now("on_epoch_end"):
            return False  # a module that skips the rest of an epoch leaves a batch without an end
        return loop.caller is None and lightning.is_processed(self._fit.trainer)
