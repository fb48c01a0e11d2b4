"""Resuming from a checkpoint: restoring the logbook, and finishing what the earlier run had left undone."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.fit import lightning
from callbacksets.fit.loop import REOPENED, RESUMED
from callbacksets.fit.states import SavedLoop, data_of, restore_scores

if TYPE_CHECKING:
    from callbacksets.fit.fit import Fit


def restore(fit: "Fit") -> None:
    """Restore the position of training from the checkpoint, before the fit begins."""
    assert fit.given is not None, "there is something to restore"
    loop, saved = fit.loop, fit.given["loop"]
    assert saved is not None, "the run that saved it had begun"
    if lightning.batch_progress(fit.trainer).total.ready == 0 < saved["now"][1]:
        rank_zero_warn(
            f"Lightning starts from the beginning, although the checkpoint was written after {saved['now'][1]} batches"
            ". A tuner among the callbacks may have undone the resuming. So the callbacks start from the beginning as "
            "well. Tune first, and resume without the tuner."
        )
        fit.given, loop.resumed = None, False
        return
    if not fit.given["exact"]:
        rank_zero_warn(
            "The checkpoint was written after its fit had ended and on_exit had changed the network, for example to "
            "the best weights. This run continues from that network, not from the weights at the end of training."
        )
    _warn_of_other_data(saved["data"], data_of(fit.ctx))
    loop.ran = {stage: (moment[0], moment[1]) for stage, moment in saved["ran"].items()}
    if "on_epoch_end" in loop.ran:  # with max_steps, Lightning may continue an epoch that had already ended
        loop.now = (max(loop.now[0], loop.ran["on_epoch_end"][0]), loop.now[1])
    fit.step.last_loss = saved["last_loss"]
    loop.terminate, loop.terminated_by = saved["terminate"], saved["terminated_by"]
    loop.scores_train = restore_scores(saved["scores_train"])
    loop.scores_valid = restore_scores(saved["scores_valid"])
    loop.minimize |= saved["minimize"]


def catch_up(fit: "Fit", saved: SavedLoop) -> bool:
    """Run the stages that the earlier run had missed and Lightning will not announce. Find the position of training.

    Returns:
        Whether Lightning continues the epoch of the checkpoint, to train the rest of it or only to end it.
    """
    loop = fit.loop
    trained = fit.trainer.current_epoch
    position = loop.now
    stage, ids = saved["to_come"]
    loop.now = (saved["now"][0], saved["now"][1])
    if loop.in_epoch:
        loop.ran[RESUMED] = loop.now
    if stage:
        fit.dispatch.finish(stage, ids)
    if loop.in_epoch and loop.now[0] <= lightning.epoch_progress(fit.trainer).current.processed:
        fit.run_epoch_end()
    goes_on_in_epoch = loop.now[0] > trained
    if goes_on_in_epoch and loop.ran_in_epoch("on_epoch_end") and not lightning.has_all_batches(fit.trainer):
        del loop.ran["on_epoch_end"]  # the epoch was interrupted, and its other batches follow now
        loop.ran[REOPENED] = (loop.now[0], position[1])
    if goes_on_in_epoch and loop.in_epoch:
        loop.now = (loop.now[0], position[1])
        loop.ran[RESUMED] = loop.now
    else:
        loop.now = position
    return goes_on_in_epoch


def _warn_of_other_data(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Warn if the numbers of samples or batches differ. mlr3torch compares the data itself; Lightning cannot."""
    changed = [
        f"{now[what]} {what}, not {before[what]}"
        for what in now
        if before.get(what) and now[what] and before[what] != now[what]
    ]
    if changed:
        rank_zero_warn(
            f"This run has other data than the run it resumes: {'; '.join(changed)}. Resume with the same data, or the "
            "results will differ from those of an uninterrupted run."
        )
