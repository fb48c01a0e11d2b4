"""Resuming: at the end of every epoch and validation, and inside of them."""

from callbacksets.testing.baseline import resumed_without
from callbacksets.testing.bench import EPOCHS, Bench, apart
from callbacksets.testing.checks.spies import state_methods_of
from callbacksets.testing.checks.states import begin_keeps_state, round_trip
from callbacksets.testing.moments import Moment


def resume(bench: Bench) -> None:
    """A run resumed at any moment goes on, and ends, in the state and with the weights of one never interrupted."""
    saves, loads = state_methods_of(bench.make())
    if saves != loads:
        return
    bench.require_training()
    for moment in _comparable(bench):
        try:
            differs = apart(bench.whole.outcome, bench.resumed(moment), bench.whole.rest(moment))
        except AssertionError:
            if moment.in_epoch:
                continue  # that it fails inside an epoch, `resume_inside_epoch` says
            raise
        if differs:
            round_trip(bench)  # these say more of it, where they fail
            begin_keeps_state(bench)
            raise AssertionError(
                f"A run that was resumed from a checkpoint written {moment} goes otherwise than one that was never "
                f"interrupted, {differs}. Keep in state_dict() all that later stages depend on."
            )


def resume_inside_epoch(bench: Bench) -> None:
    """It comes through a fit that is resumed inside an epoch, where `on_epoch_begin` does not run first."""
    for moment in bench.whole.moments:
        if moment.in_epoch:
            bench.resumed(moment)


def _comparable(bench: Bench) -> list[Moment]:
    """The moments at which a run without the callback goes on exactly, where the callback is no matter of chance."""
    without, moments = resumed_without(bench.training), bench.whole.moments
    if bench.differs_by_itself:
        return []  # which `fits_are_independent` says
    # what has stopped a fit is past when a checkpoint of its last epoch is resumed
    is_past = moments[-1] if moments and moments[-1].epoch < EPOCHS else None
    return [moment for moment in moments if moment != is_past and without.get(moment, "") is None]
