"""Resuming: at the end of every epoch and validation, and inside of them."""

from contextlib import suppress

import torch

from callbacksets.testing.bench import EPOCHS, Bench, TrainingAtFault, apart
from callbacksets.testing.checks.spies import state_methods_of
from callbacksets.testing.checks.states import begin_keeps_state, round_trip
from callbacksets.testing.compare import difference
from callbacksets.testing.moments import Moment


def resume(bench: Bench) -> None:
    """A run resumed at any moment goes on, and ends, in the state and with the weights of one never interrupted."""
    saves, loads = state_methods_of(bench.make())
    if saves != loads:
        return
    bench.require_training()
    _require_that_training_goes_on(bench)
    if bench.differs_by_itself:
        return  # which `fits_are_independent` says
    for moment in _moments(bench):
        if bench.goes_on(moment):
            continue
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
    _require_weights_of_training(bench)


def resume_inside_epoch(bench: Bench) -> None:
    """It comes through a fit that is resumed inside an epoch, where `on_epoch_begin` does not run first."""
    for moment in bench.whole.moments:
        if moment.in_epoch:
            bench.resumed(moment)


def _moments(bench: Bench) -> list[Moment]:
    """Those that can be compared: what stopped a fit is past when a checkpoint of its last epoch is resumed."""
    moments = bench.whole.moments
    is_past = moments[-1] if moments and moments[-1].epoch < EPOCHS else None
    return [moment for moment in moments if moment.kind != "inside" and moment != is_past]


def _require_that_training_goes_on(bench: Bench) -> None:
    """Raise `TrainingAtFault` unless a fit without the callback resumes exactly between two epochs."""
    for moment in bench.whole_without.moments:
        if moment.kind == "epoch" and (differs := bench.goes_on(moment)):
            raise TrainingAtFault(
                f"A fit without the callback that is resumed {moment} goes otherwise than one that was never "
                f"interrupted, first in {differs}. Let training() give a loader with the same order in every epoch "
                "(shuffle=False), and a module without dropout or other random parts of its own."
            )


def _require_weights_of_training(bench: Bench) -> None:
    """Raise an `AssertionError` when a run that is resumed inside a validation trains on with weights of that."""
    for moment in bench.whole.moments:
        if moment.kind != "inside":
            continue
        trained = bench.whole.last_row(moment).values["the weights"]
        saved = torch.load(bench.checkpoint(moment), weights_only=False)["state_dict"]
        if not (differs := difference(trained, {name: saved[name] for name in trained})):
            continue
        with suppress(AssertionError):  # that it fails inside an epoch, `resume_inside_epoch` says
            resumed = bench.resumed(moment)
            found = [resumed.begun, *(row.values["the weights"] for row in resumed.rows[:1])]
            if not all(difference(trained, weights) for weights in found):
                continue
        raise AssertionError(
            f"A checkpoint written {moment} holds the weights that on_before_valid has put in the place of those that "
            f"are trained ({differs}), and a run that is resumed from it trains on with them. Keep in state_dict() "
            "those that are set aside, and put them back in on_begin."
        )
