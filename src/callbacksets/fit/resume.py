"""A fit that continues a checkpoint: what it restores, and in which order."""

from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.fit import accumulated, lightning
from callbacksets.fit.accumulated import number
from callbacksets.fit.parts import Parts
from callbacksets.fit.position import Point, continuation
from callbacksets.fit.states import Saved, SavedRank, data_of, restored_scores, warn_of_other_data

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Resume:
    """Continues the run of one checkpoint.

    Where it goes on is decided when the checkpoint arrives, and written into Lightning's part of it. So Lightning
    itself continues there.
    """

    def __init__(self, fit: Parts, saved: Saved, checkpoint: dict[str, Any]) -> None:
        assert saved["loop"] is not None, "the run that saved it had begun"
        self._fit = fit
        self._saved, self._loop_of = saved, saved["loop"]
        loops = checkpoint["loops"]["fit_loop"]
        has_steps = fit.trainer.max_steps > checkpoint["global_step"]
        self._to = continuation(self._loop_of, lightning.progress_in(loops), has_steps=has_steps)
        self._rank = self._part_of_rank()
        lightning.set_progress(loops, self._to)
        if self._to.inside:  # a checkpoint that is saved before the callbacks begin passes this on beside these counts
            of_counts = {"has_all": self._to.has_all, "rest": self._to.rest, "validates": self.validates}
            self._loop_of.update(of_counts)  # type: ignore[typeddict-item]
        loaders = loops["state_dict"].pop("combined_loader", [])
        random, ahead = (self._rank["random"], self._rank["ahead"]) if self._rank is not None else (None, [])
        fit.to_restore = self._rank["accumulated"] if self._rank is not None else None
        fit.data.resume(self._to, random, loaders, ahead)

    def _part_of_rank(self) -> SavedRank | None:
        trainer, ranks = self._fit.trainer, cast(list[SavedRank | None] | None, self._saved["ranks"])
        if ranks is None:
            return None
        if len(ranks) != trainer.world_size:
            rank_zero_warn(
                f"The checkpoint has the random states of {len(ranks)} ranks, but this run has {trainer.world_size} "
                "ranks. Only rank zero gets its random state back; the others draw new numbers. So this run will end "
                "with other results than an uninterrupted one."
            )
            return ranks[0] if trainer.is_global_zero else None
        if None in ranks:
            rank_zero_warn(
                "The checkpoint was saved on an exception, when other ranks could not be reached. They draw new "
                "numbers, and have lost what they had logged in the interrupted epoch. So this run will end with other "
                "results than an uninterrupted one."
            )
        return ranks[trainer.global_rank]

    def restore(self) -> bool:
        """Restore what was counted and read, before the callbacks begin.

        Returns:
            Whether the run continues. A tuner may have undone it.
        """
        fit, trainer, loop, saved = self._fit, self._fit.trainer, self._fit.loop, self._loop_of
        if lightning.batch_progress(trainer).total.ready == 0 < self._to.batches:
            rank_zero_warn(
                f"Lightning starts from the beginning, although the checkpoint was written after {self._to.batches} "
                "batches. A tuner among the callbacks may have reset the Trainer after the checkpoint was loaded. So "
                "the callbacks start from the beginning as well. Tune first, and resume without the tuner."
            )
            self._fit.data.forget()
            self._fit.to_restore = None
            return False
        if not self._saved["exact"]:
            rank_zero_warn(
                "The checkpoint was written after its fit had ended and on_exit had changed the network, for "
                "example to the best weights. This run continues from that network, not from the weights at the end "
                "of training."
            )
        warn_of_other_data(saved["data"], data_of(trainer, fit.ctx.task_train, fit.ctx.task_valid))
        loop.ran = dict(self._to.ran)
        ended = saved["ran"].get("on_epoch_end", loop.now)[0]  # it ends once more, if it had not all its batches
        loop.now = (max(loop.now[0], ended), loop.now[1])
        fit.step.last_loss = saved["last_loss"]
        loop.terminate, loop.terminated_by = saved["terminate"], saved["terminated_by"]
        loop.scores_train = restored_scores(saved["scores_train"])
        loop.scores_valid = restored_scores(saved["scores_valid"])
        loop.minimize |= saved["minimize"]
        fit.publisher.published.update(saved["published"])
        if saved["reloads"] is not None:
            lightning.set_last_reloads(trainer, saved["reloads"])
        metrics = self._rank["metrics"] if self._rank is not None else {}
        known = {name: number(one, trainer.strategy.root_device) for name, one in metrics.items()}
        trainer.callback_metrics.update({name: value for name, value in known.items() if value is not None})
        return True

    @property
    def unread(self) -> list[str] | None:
        """The keys of the training scores that nobody had read."""
        return self._loop_of["unread"]

    @property
    def validates(self) -> bool:
        """Whether a validation comes first."""
        return self._to.point is Point.VALIDATION

    def go_on(self) -> None:
        """The callbacks have begun: finish what was due, and let Lightning go on."""
        to, trainer, loop = self._to, self._fit.trainer, self._fit.loop
        lightning.go_on_as_usual(trainer)
        self._fit.data.undo_draws()
        if to.inside:
            loop.resumed_in = to.now[0]
            self._start_epoch()
        self._restore_accumulated()
        loop.now = (self._loop_of["now"][0], self._loop_of["now"][1])
        for stage, ids in to.due:
            self._fit.dispatch.run_for(stage, ids)
        loop.now = to.now
        if to.plateau:
            lightning.step_plateaus(trainer)
        self._fit.data.keep_draws()

    def _start_epoch(self) -> None:
        """Make up for `on_train_epoch_start`, which Lightning does not call again."""
        trainer, module = self._fit.trainer, self._fit.module
        if lightning.announces_epoch_again(trainer):
            return
        for native in lightning.callbacks_of(trainer):
            if lightning.is_a(native, "GradientAccumulationScheduler"):
                trainer.accumulate_grad_batches = native.get_accumulate_grad_batches(self._to.epochs)  # type: ignore[attr-defined]
        if lightning.overrides(module, "on_train_epoch_start"):
            rank_zero_warn(
                f"The run goes on inside epoch {self._to.now[0]}, so Lightning does not call on_train_epoch_start() of "
                f"{type(module).__name__} again. What it sets is missing, unless the checkpoint has it, for example "
                "as a buffer."
            )

    def _restore_accumulated(self) -> None:
        to, trainer = self._to, self._fit.trainer
        kept, self._fit.to_restore = self._fit.to_restore, None
        if kept is None:
            return
        if not to.inside:
            kept = {**kept, "logged": {}, "gradients": {}}
        missing = to.batch % trainer.accumulate_grad_batches if to.point is Point.BATCH else 0
        if missing and not kept["gradients"]:
            rank_zero_warn(
                f"The checkpoint has no gradients of the {missing} batches that were accumulated for the next step of "
                "the optimizer. So this step will differ from that of an uninterrupted run."
            )
        draws_again = to.step_again and self._fit.data.begins_again(to)
        accumulated.restore(trainer, self._fit.module, kept, to, self._fit.taps, draws_again=draws_again)


def gathered(trainer: "Trainer", own: "SavedRank | list[SavedRank | None] | None") -> "list[SavedRank | None] | None":
    """Gather what each rank keeps for itself. While an exception is handled, the other ranks may be gone."""
    if own is None or isinstance(own, list):
        return own  # passed on from a checkpoint
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return [own]
    ranks: list[SavedRank | None] = [None] * trainer.world_size
    if trainer.interrupted:
        ranks[trainer.global_rank] = own
    else:
        torch.distributed.all_gather_object(ranks, own)
    return ranks
